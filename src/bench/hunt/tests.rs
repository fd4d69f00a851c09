//! Hunts in pure time: on the simulated GPU alone, and on engines whose truth is known to the last digit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::bench::load::{Sessions, exponential, still_playing, think};
use crate::bench::texts;
use crate::sim::Profile;
use crate::sim::gpu::Gpu;
use crate::sim::request::length;

fn quest(confidence: f64) -> Quest {
    Quest {
        target: Target::default(),
        confidence: Confidence::new(confidence).unwrap(),
        level_max: 1_024,
        samples_max: 3_000,
        glance: 2,
    }
}

/// Keeps `look.level` syntheses on the GPU, as [`crate::bench::load`] keeps them on an engine, and tells them in the
/// order in which they began.
fn look_at(gpu: &mut Gpu, random: &mut StdRng, look: Look, hunt: &mut Hunt) {
    let sounds: Vec<Duration> =
        texts::built_in("eng").unwrap().iter().map(|words| length(words.text.chars().count(), 1.0)).collect();
    let mut now = gpu.next_event().unwrap_or_default();
    let (mut running, mut begun, mut told) = (HashMap::new(), 0_u64, 0_u64);
    let mut ahead = BTreeMap::new();
    let mut begin = |gpu: &mut Gpu, at: Duration, running: &mut HashMap<_, _>| {
        let sound = sounds[random.random_range(0..sounds.len())];
        running
            .insert(gpu.start(at, sound), Synthesis { number: begun, began: at, sound, heard: Vec::new() });
        begun += 1;
    };
    for _ in 0..look.level {
        begin(gpu, now, &mut running);
    }
    let mut outputs = Vec::new();
    'look: loop {
        now = gpu.next_event().expect("syntheses run");
        gpu.advance(now, &mut outputs);
        for output in outputs.drain(..) {
            let Some(synthesis) = running.get_mut(&output.id) else { continue };
            synthesis.heard.push((output.at, output.produced));
            if output.finished {
                let ended = running.remove(&output.id).unwrap();
                ahead.insert(ended.number, ended.sample());
                begin(gpu, output.at, &mut running);
            }
        }
        while let Some(sample) = ahead.remove(&told) {
            told += 1;
            if told > u64::from(look.level) {
                hunt.level(look).record(sample);
                if hunt.is_enough(look) {
                    break 'look;
                }
            }
        }
    }
    for id in running.into_keys() {
        gpu.cancel(id);
    }
}

/// Lets `look.level` of `armchair`'s sessions take their turns on the GPU, and tells their syntheses in the order in which
/// they began. The time-weighted mean number in flight.
fn listen_at(gpu: &mut Gpu, random: &mut StdRng, look: Look, hunt: &mut Hunt) -> f64 {
    let like = Sessions::default();
    let sounds: Vec<Duration> =
        texts::built_in("eng").unwrap().iter().map(|words| length(words.text.chars().count(), 1.0)).collect();
    let start = gpu.next_event().unwrap_or_default();
    let (mut turns, mut due) = (BTreeSet::new(), start);
    for session in 0..look.level {
        due += exponential(like.starts_per_second, random);
        turns.insert((due, session));
    }
    let (mut running, mut begun, mut told) = (HashMap::new(), 0_u64, 0_u64);
    let (mut ahead, mut outputs, mut busy) = (BTreeMap::new(), Vec::new(), Duration::ZERO);
    let now = 'look: loop {
        let turn = turns.first().copied();
        let event = gpu.next_event();
        let now = [turn.map(|(due, _)| due), event].into_iter().flatten().min().expect("sessions go on");
        if event != Some(now) {
            let (began, session) = turns.pop_first().expect("it is the next");
            let sound = sounds[random.random_range(0..sounds.len())];
            let synthesis = Synthesis { number: begun, began, sound, heard: Vec::new() };
            running.insert(gpu.start(began, sound), (session, synthesis));
            begun += 1;
            continue;
        }
        gpu.advance(now, &mut outputs);
        for output in outputs.drain(..) {
            let Some((_, synthesis)) = running.get_mut(&output.id) else { continue };
            synthesis.heard.push((output.at, output.produced));
            if output.finished {
                let (session, ended) = running.remove(&output.id).expect("it is the one");
                let sample = ended.sample();
                busy += sample.elapsed;
                turns.insert((output.at + still_playing(&sample) + think(&like, random), session));
                ahead.insert(ended.number, sample);
            }
        }
        while let Some(sample) = ahead.remove(&told) {
            told += 1;
            hunt.level(look).record(sample);
            if hunt.is_enough(look) {
                break 'look now;
            }
        }
    };
    for id in running.into_keys() {
        gpu.cancel(id);
    }
    busy.div_duration_f64(now - start)
}

struct Synthesis {
    number: u64,
    began: Duration,
    sound: Duration,
    /// When how much of the sound was there.
    heard: Vec<(Duration, Duration)>,
}

impl Synthesis {
    fn sample(&self) -> Sample {
        let (first, last) = (self.heard[0].0, self.heard[self.heard.len() - 1].0);
        let dry = self.heard.windows(2).any(|pair| pair[1].0 - first > pair[0].1);
        Sample {
            success: true,
            ttfb: Some(first - self.began),
            rtf: (last > first).then(|| (last - first).div_duration_f64(self.sound)),
            underrun: Some(dry),
            elapsed: last - self.began,
            audio: self.sound,
            ..Sample::default()
        }
    }
}

fn hunt_on(profile: &str, seed: u64) -> Hunt {
    let profile = Profile::named(profile).unwrap();
    let limits = profile.variables;
    let mut gpu = Gpu::new(profile, limits, seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut hunt = Hunt::new(quest(0.95));
    while let Some(look) = hunt.next() {
        look_at(&mut gpu, &mut random, look, &mut hunt);
        let level = hunt.level(look);
        println!(
            "seed {seed} {look:?}: {:?} {:?} after {}; ttfb p99 {:.3?}, rtf p99 {:.3?}, underrun {}",
            level.judge.verdict(),
            level.judge.bound_by().map(|clause| clause.label()),
            level.samples.count(),
            level.samples.ttfb().p99.unwrap(),
            level.samples.rtf().p99.unwrap(),
            level.samples.underrun()
        );
        hunt.close(look);
    }
    hunt
}

#[test]
fn on_the_reference_it_finds_32_bound_by_rtf_and_a_latency_of_400_ms_whatever_the_seed() {
    for seed in 1..=5 {
        let hunt = hunt_on("h100-arcana-v2", seed);
        assert!((31..=33).contains(&hunt.found().unwrap()), "seed {seed}: {:?}", hunt.found());
        let (clause, certain) = hunt.bound_by().unwrap();
        assert_eq!((clause.label(), certain), ("rtf", Verdict::Missed), "seed {seed}");
        let latency = hunt.initial_latency().unwrap().as_secs_f64();
        assert!((0.38..=0.42).contains(&latency), "seed {seed}: {latency}");
    }
}

#[test]
fn on_the_small_gpu_it_finds_20() {
    for seed in 1..=5 {
        assert_eq!(hunt_on("edge-20", seed).found(), Some(20), "seed {seed}");
    }
}

#[test]
fn on_the_reference_it_finds_more_of_armchairs_sessions_than_syntheses_in_flight() {
    for seed in 1..=3 {
        let profile = Profile::default();
        let limits = profile.variables;
        let mut gpu = Gpu::new(profile, limits, seed);
        let mut random = StdRng::seed_from_u64(seed);
        let mut hunt = Hunt::new(Quest { glance: 5, ..quest(0.95) });
        let mut in_flight = BTreeMap::new();
        while let Some(look) = hunt.next() {
            let mean = listen_at(&mut gpu, &mut random, look, &mut hunt);
            let level = hunt.level(look);
            println!(
                "seed {seed} {look:?}: {:?} after {}, {mean:.1} in flight",
                level.judge.verdict(),
                level.samples.count()
            );
            in_flight.insert(look.level, mean);
            hunt.close(look);
        }
        let found = hunt.found().unwrap();
        // It is their peaks that are too much; how closely the first turns follow each other is chance.
        assert!((33..=64).contains(&found), "seed {seed}: {found} sessions");
        assert!((8.0..24.0).contains(&in_flight[&found]), "seed {seed}: {in_flight:?}");
        assert_eq!(hunt.bound_by().unwrap().1, Verdict::Missed, "seed {seed}");
    }
}

/// How often, of 1,000 levels whose share of good RTFs is `good`, each verdict was given.
fn verdicts(good: f64, confidence: f64, samples_max: u64) -> BTreeMap<&'static str, u32> {
    let quest = Quest { samples_max, ..quest(confidence) };
    let mut counts = BTreeMap::new();
    for repetition in 0..1_000 {
        let mut random = StdRng::seed_from_u64(repetition);
        let mut level = Level::new(32, &quest);
        while !level.is_enough(Effort::Proof, &quest) {
            let rtf = if random.random_bool(good) { 0.95 } else { 1.05 };
            level.record(Sample {
                success: true,
                ttfb: Some(Duration::from_millis(400)),
                rtf: Some(rtf),
                underrun: Some(false),
                ..Sample::default()
            });
        }
        let verdict = match level.judge.verdict() {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::Undecided => "undecided",
        };
        *counts.entry(verdict).or_default() += 1;
    }
    counts
}

#[test]
fn just_above_and_below_the_edge_a_verdict_is_wrong_no_more_often_than_the_confidence_says() {
    for confidence in [0.90, 0.95] {
        let allowed = f64::round(1_000.0 * (1.0 - confidence));
        let mut decided = 0;
        for (good, wrong, right) in [
            (0.991, "missed", "met"),
            (0.996, "missed", "met"),
            (0.989, "met", "missed"),
            (0.980, "met", "missed"),
        ] {
            let counts = verdicts(good, confidence, 3_000);
            println!("confidence {confidence}, {good} good: {counts:?}");
            let count = |verdict| counts.get(verdict).copied().unwrap_or_default();
            assert!(f64::from(count(wrong)) <= allowed, "{good} good: {counts:?}");
            decided += count(right);
        }
        // Whoever never decides is never wrong.
        assert!(decided > 1_000, "confidence {confidence}: only {decided} of 4,000 were decided");
    }
}
