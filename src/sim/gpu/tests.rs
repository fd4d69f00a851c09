//! Load on the GPU in pure time: what the published reference says, and what the variables do.

use super::super::profile::{OutOfMemory, Variables};
use super::*;

/// One synthesis as a caller sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Heard {
    ttfb: f64,
    rtf: f64,
}

/// How many syntheses run, and which.
enum Load {
    /// Always this many: whoever ends is followed by the next.
    Always(usize),
    /// This many at the very same moment, and no more.
    Together(usize),
}

fn gpu(profile: &str, variables: &Variables, seed: u64) -> Gpu {
    let profile = Profile::named(profile).unwrap();
    let limits = profile.limits(variables).unwrap();
    Gpu::new(profile, limits, seed)
}

/// Texts of 6 to 16 seconds.
fn text(index: usize) -> Duration {
    Duration::from_millis(6_000 + (index as u64 * 3_777) % 10_000)
}

fn run(gpu: &mut Gpu, load: &Load, samples: usize) -> Vec<Heard> {
    let (mut begun, mut heard) = (HashMap::new(), Vec::new());
    let (at_once, total) = match *load {
        Load::Always(count) => (count, samples),
        Load::Together(count) => (count, count),
    };
    let mut index = 0;
    let mut start = |gpu: &mut Gpu, now: Duration, begun: &mut HashMap<_, _>| {
        if index < total {
            begun.insert(gpu.start(now, text(index)), (now, None, text(index)));
            index += 1;
        }
    };
    for _ in 0..at_once {
        start(gpu, Duration::ZERO, &mut begun);
    }
    let mut outputs = Vec::new();
    while let Some(now) = gpu.next_event() {
        gpu.advance(now, &mut outputs);
        for output in outputs.drain(..) {
            let (started, first, audio) = begun.get_mut(&output.id).unwrap();
            let first = *first.get_or_insert(output.at);
            if output.finished {
                assert_eq!(output.produced, *audio);
                let ttfb = (first - *started).as_secs_f64();
                let rtf = (output.at - first).as_secs_f64() / audio.as_secs_f64();
                heard.push(Heard { ttfb, rtf });
                start(gpu, output.at, &mut begun);
            }
        }
    }
    assert_eq!(heard.len(), total);
    heard
}

fn p99(heard: &[Heard], what: fn(&Heard) -> f64) -> f64 {
    let mut values: Vec<f64> = heard.iter().map(what).collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() * 99).div_ceil(100) - 1]
}

fn mean(heard: &[Heard], what: fn(&Heard) -> f64) -> f64 {
    heard.iter().map(what).sum::<f64>() / heard.len() as f64
}

const REFERENCE: &str = "h100-arcana-v2";
const SEEDS: std::ops::Range<u64> = 0..10;

#[test]
fn one_request_at_a_time_hears_the_first_byte_after_400_ms() {
    for seed in SEEDS {
        let heard = run(&mut gpu(REFERENCE, &Variables::default(), seed), &Load::Always(1), 40);
        let ttfb = mean(&heard, |heard| heard.ttfb);
        assert!((0.38..=0.42).contains(&ttfb), "seed {seed}: {ttfb}");
        assert!(mean(&heard, |heard| heard.rtf) < 0.4);
    }
}

#[test]
fn thirty_two_at_once_meet_the_target_with_room_and_thirty_three_clearly_miss_it() {
    for seed in SEEDS {
        for (count, load) in [
            (32, Load::Always(32)),
            (32, Load::Together(32)),
            (33, Load::Always(33)),
            (33, Load::Together(33)),
        ] {
            let heard = run(&mut gpu(REFERENCE, &Variables::default(), seed), &load, 300);
            let (ttfb, rtf) = (p99(&heard, |heard| heard.ttfb), p99(&heard, |heard| heard.rtf));
            println!("seed {seed} count {count}: ttfb p99 {ttfb:.3}, rtf p99 {rtf:.3}");
            if count == 32 {
                assert!(ttfb < 0.85 && (0.93..0.98).contains(&rtf), "seed {seed}: {ttfb} {rtf}");
            } else {
                assert!(rtf > 1.03, "seed {seed}: {rtf}");
            }
        }
    }
}

#[test]
fn more_load_is_never_faster() {
    for profile in [REFERENCE, "edge-20"] {
        let profile = Profile::named(profile).unwrap();
        let limits = profile.limits(&Variables::default()).unwrap();
        let settled: Vec<f64> = (1..200).map(|count| profile.settled_rtf(&limits, count)).collect();
        assert!(settled.is_sorted(), "{}: {settled:?}", profile.name);
    }
    let rtf = |count| {
        let heard = run(&mut gpu(REFERENCE, &Variables::default(), 1), &Load::Always(count), 200);
        (mean(&heard, |heard| heard.ttfb), mean(&heard, |heard| heard.rtf))
    };
    let levels: Vec<_> = [1, 4, 8, 16, 24, 32, 40, 64].map(rtf).to_vec();
    assert!(levels.is_sorted_by(|one, more| one.0 < more.0 && one.1 < more.1), "{levels:?}");
}

#[test]
fn the_small_gpu_serves_twenty_well_and_falls_behind_from_twenty_one_on() {
    for seed in SEEDS {
        let heard = |count| run(&mut gpu("edge-20", &Variables::default(), seed), &Load::Always(count), 300);
        let good = heard(20);
        assert!((0.2..0.3).contains(&mean(&good, |heard| heard.ttfb)));
        assert!(p99(&good, |heard| heard.rtf) < 0.95);
        let rtf = |count| mean(&heard(count), |heard| heard.rtf);
        let (just_above, double) = (rtf(21), rtf(40));
        assert!(just_above > 1.02 && double > 1.9, "seed {seed}: {just_above} {double}");
    }
}

/// The greatest number in flight that stays within real time, by the profile's own formula.
fn capacity(profile: &str, variables: &Variables) -> u32 {
    let profile = Profile::named(profile).unwrap();
    let limits = profile.limits(variables).unwrap();
    (1..1_000).take_while(|count| profile.settled_rtf(&limits, *count) <= 1.0).last().unwrap_or(0)
}

#[test]
fn larger_batches_serve_more_until_the_optimum() {
    let generator = |batch| Variables { generator_max_batch: Some(batch), ..Variables::default() };
    let capacities: Vec<u32> =
        [4, 8, 16, 24, 32].map(|batch| capacity(REFERENCE, &generator(batch))).to_vec();
    assert!(capacities.is_sorted_by(|small, large| small < large), "{capacities:?}");
    assert_eq!(capacities.last(), Some(&32));
    assert_eq!(capacity(REFERENCE, &generator(64)), 32, "the default is the optimum");

    let decoder = |batch, sessions| Variables {
        decoder_max_batch: Some(batch),
        decoder_num_sessions: Some(sessions),
        ..Variables::default()
    };
    let batches: Vec<u32> = [1, 2, 8, 32].map(|batch| capacity(REFERENCE, &decoder(batch, 6))).to_vec();
    assert!(batches.is_sorted() && batches[0] < batches[3], "{batches:?}");
    let sessions: Vec<u32> =
        [1, 2, 4, 6].map(|sessions| capacity(REFERENCE, &decoder(32, sessions))).to_vec();
    assert!(sessions.is_sorted() && sessions[0] < sessions[3], "{sessions:?}");
}

#[test]
fn the_formula_and_the_run_agree() {
    for (count, batch) in [(8, 32), (32, 32), (48, 32), (24, 16)] {
        let variables = Variables { generator_max_batch: Some(batch), ..Variables::default() };
        let heard = run(&mut gpu(REFERENCE, &variables, 3), &Load::Always(count), 300);
        let profile = Profile::named(REFERENCE).unwrap();
        let limits = profile.limits(&variables).unwrap();
        let settled = profile.settled_rtf(&limits, u32::try_from(count).unwrap());
        let ratio = mean(&heard, |heard| heard.rtf) / settled;
        assert!((0.90..=1.0).contains(&ratio), "{count} on {batch}: {ratio}");
    }
}

#[test]
fn what_does_not_fit_into_memory_does_not_start_and_a_smaller_share_for_the_generator_helps() {
    let profile = Profile::named(REFERENCE).unwrap();
    let fit = |variables: Variables| profile.fit(&profile.limits(&variables).unwrap());
    assert_eq!(fit(Variables::default()), Ok(()));

    let large = Variables { decoder_max_batch: Some(64), ..Variables::default() };
    let error = fit(large).unwrap_err();
    assert!(matches!(error, OutOfMemory::Decoder { .. }));
    assert!(error.to_string().contains("CUDA out of memory"), "{error}");
    let share = |share| Variables { generator_gpu_memory_utilization: Some(share), ..large };
    assert_eq!(fit(share(0.7)), Ok(()));

    let error = fit(share(0.2)).unwrap_err();
    assert!(matches!(error, OutOfMemory::Generator { .. }));
    let huge = Variables { generator_max_batch: Some(512), ..Variables::default() };
    assert!(matches!(fit(huge), Err(OutOfMemory::Generator { .. })));
}

#[test]
fn a_seed_repeats_a_run_and_another_does_not() {
    let heard = |seed| run(&mut gpu(REFERENCE, &Variables::default(), seed), &Load::Always(12), 50);
    assert_eq!(heard(5), heard(5));
    assert_ne!(heard(5), heard(6));
}

#[test]
fn whoever_is_cancelled_makes_room_at_once() {
    let mut gpu = gpu(REFERENCE, &Variables::default(), 1);
    let audio = Duration::from_secs(60);
    let ids: Vec<Id> = (0..64).map(|_| gpu.start(Duration::ZERO, audio)).collect();
    let mut outputs = Vec::new();
    gpu.advance(Duration::from_secs(10), &mut outputs);
    for id in &ids[1..] {
        gpu.cancel(*id);
        gpu.cancel(*id);
    }
    assert_eq!(gpu.in_flight(), 1);
    outputs.clear();
    let left = |outputs: &[Output]| outputs.last().map(|output| output.produced).unwrap();
    gpu.advance(Duration::from_secs(11), &mut outputs);
    assert!(outputs.iter().all(|output| output.id == ids[0]), "the cancelled are silent");
    let before = left(&outputs);
    gpu.advance(Duration::from_secs(14), &mut outputs);
    assert!(left(&outputs) - before > Duration::from_secs(8), "one alone is far faster than real time");
    gpu.cancel(ids[0]);
    gpu.advance(Duration::from_secs(20), &mut outputs);
    assert_eq!((gpu.in_flight(), gpu.next_event()), (0, None));
}

/// A caller of an overloaded engine.
struct Call {
    start: Duration,
    audio: Duration,
    first: Option<Duration>,
    heard: Duration,
    good: bool,
}

impl Call {
    /// Good: first byte within a second, never out of audio from then on, all of it in real time.
    fn hear(&mut self, output: &Output) {
        let first = *self.first.get_or_insert(output.at);
        let elapsed = output.at - first;
        let dry = elapsed > self.heard;
        self.good &= first - self.start <= Duration::from_secs(1) && !dry && elapsed <= self.audio;
        self.heard = output.produced;
    }
}

/// The share of good calls when `rate` callers a second arrive by chance for a minute, and all are let in.
fn good_share(profile: &str, rate: f64, seed: u64) -> f64 {
    let mut gpu = gpu(profile, &Variables::default(), seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    while at < 60.0 {
        at -= random.random_range(f64::MIN_POSITIVE..1.0).ln() / rate;
        arrivals.push(Duration::from_secs_f64(at));
    }
    let (mut calls, mut outputs) = (HashMap::new(), Vec::new());
    for (index, now) in arrivals.iter().enumerate() {
        gpu.advance(*now, &mut outputs);
        let (start, audio) = (*now, text(index));
        let call = Call { start, audio, first: None, heard: Duration::ZERO, good: true };
        calls.insert(gpu.start(start, audio), call);
    }
    gpu.advance(Duration::from_secs(3_600), &mut outputs);
    assert_eq!(gpu.in_flight(), 0);
    for output in &outputs {
        calls.get_mut(&output.id).unwrap().hear(output);
    }
    calls.values().filter(|call| call.good).count() as f64 / calls.len() as f64
}

#[test]
fn without_a_limit_an_overload_ruins_nearly_everyone() {
    let always_20 = run(&mut gpu("edge-20", &Variables::default(), 1), &Load::Always(20), 400);
    let lengths = (0..400).map(|index| text(index).as_secs_f64());
    let held: f64 = always_20.iter().zip(lengths).map(|(heard, audio)| heard.ttfb + heard.rtf * audio).sum();
    let capacity = 20.0 * 400.0 / held;
    let share = |load: f64| {
        let shares = SEEDS.map(|seed| load * good_share("edge-20", capacity * load, seed));
        shares.sum::<f64>() / 10.0
    };
    let [half, full, more, far_more] = [0.5, 1.0, 1.5, 3.0].map(share);
    println!("shares of capacity: {half:.2} {full:.2} {more:.2} {far_more:.2}");
    assert!(half > 0.49 && full < 0.75 && more < 0.2 && far_more < 0.05);
}

/// Runs until nothing is left to do. What came out last.
fn settle(gpu: &mut Gpu, now: &mut Duration) -> Option<Output> {
    let mut outputs = Vec::new();
    while let Some(at) = gpu.next_event() {
        *now = at;
        gpu.advance(at, &mut outputs);
    }
    outputs.last().copied()
}

#[test]
fn a_synthesis_that_waits_for_words_keeps_its_place_and_goes_on_with_the_next() {
    let mut gpu = gpu(REFERENCE, &Variables::default(), 1);
    let mut now = Duration::ZERO;
    let id = gpu.open(Duration::ZERO);
    assert_eq!((settle(&mut gpu, &mut now), gpu.in_flight()), (None, 1));
    for spoken in [1, 2] {
        assert!(gpu.extend(now, id, Duration::from_millis(1_010)));
        let output = settle(&mut gpu, &mut now).unwrap();
        assert_eq!((output.produced, output.finished), (Duration::from_millis(1_010) * spoken, false));
        assert_eq!(gpu.in_flight(), 1);
    }
    assert_eq!(gpu.hold(id, false), Some(Duration::from_millis(2_020)));
    assert_eq!(gpu.in_flight(), 0);
    assert!(!gpu.extend(now, id, Duration::from_secs(1)));
}

#[test]
fn text_that_comes_in_time_leaves_no_gap() {
    let alone = run(&mut gpu(REFERENCE, &Variables::default(), 1), &Load::Together(1), 1)[0];
    let mut gpu = gpu(REFERENCE, &Variables::default(), 1);
    let mut now = Duration::ZERO;
    let id = gpu.open(Duration::ZERO);
    for _ in 0..2 {
        gpu.extend(now, id, text(0) / 2);
    }
    assert_eq!(gpu.hold(id, false), None);
    let output = settle(&mut gpu, &mut now).unwrap();
    assert!(output.finished);
    assert_eq!(output.at.as_secs_f64(), alone.ttfb + alone.rtf * text(0).as_secs_f64());
}

#[test]
fn a_late_synthesis_is_prepared_later_by_just_that() {
    let first = |late| {
        let mut gpu = gpu(REFERENCE, &Variables::default(), 1);
        let id = gpu.open(late);
        gpu.extend(Duration::ZERO, id, Duration::from_secs(1));
        gpu.next_event().unwrap()
    };
    assert_eq!(first(Duration::from_secs(2)), first(Duration::ZERO) + Duration::from_secs(2));
}
