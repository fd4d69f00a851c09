//! What callers get at the limit that `bench` and `tune` find, in pure time: the gate's own scheduler before the reference
//! engine's GPU, at 1.5 and 3 times what it can serve at 32 in flight. Open loop, seeded, no clock and no machine that could be
//! busy; `tests/callers_found.rs` is the same over HTTP.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::admission::Settings;
use rime_gate::admission::scheduler::{Decision, Outcome, Scheduler, Ticket};
use rime_gate::bench::texts;
use rime_gate::callers::SENTENCES;
use rime_gate::demo::capacity_per_second;
use rime_gate::sim::Profile;
use rime_gate::sim::gpu::{Gpu, Id};
use rime_gate::sim::request::length;

/// What `bench` finds of the reference, and where `tune` ends.
const LIMIT: NonZeroU32 = NonZeroU32::new(32).unwrap();
const WARM_UP: Duration = Duration::from_secs(30);
const MEASURED: Duration = Duration::from_secs(300);
/// The target's: wait and TTFB together.
const TTFB_MAX: Duration = Duration::from_secs(1);

/// A synthesis on the GPU.
struct Running {
    caller: usize,
    began: Duration,
    /// When how much of the sound was there.
    heard: Vec<(Duration, Duration)>,
}

/// What came of those who were let in after the warm-up.
#[derive(Debug, Default)]
struct Tally {
    offered: u32,
    served: u32,
    late: u32,
    slow: u32,
    dry: u32,
    ttfb_max: Duration,
    rtf_max: f64,
    peak: usize,
}

struct World {
    /// Arrival and length of the sound.
    callers: Vec<(Duration, Duration)>,
    gpu: Gpu,
    /// Nobody holds anybody up where there is none.
    gate: Option<Scheduler<usize>>,
    origin: Instant,
    waiting: BTreeMap<(Duration, usize), Ticket>,
    running: HashMap<Id, Running>,
    tally: Tally,
}

impl World {
    fn run(texts: &[&str], load: f64, gate: bool, seed: u64) -> Tally {
        let profile = Profile::default();
        let limits = profile.variables;
        let rate = load * capacity_per_second(&profile, limits, LIMIT.get(), texts, seed);
        let mut random = StdRng::seed_from_u64(seed);
        let (mut arrives, mut callers) = (Duration::ZERO, Vec::new());
        while arrives < WARM_UP + MEASURED {
            let sound = length(texts[random.random_range(0..texts.len())].chars().count(), 1.0);
            callers.push((arrives, sound));
            arrives += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / rate);
        }
        let mut world = World {
            callers,
            gpu: Gpu::new(profile, limits, seed),
            gate: gate.then(|| Scheduler::new(Settings::new(LIMIT))),
            origin: tokio::time::Instant::now().into_std(),
            waiting: BTreeMap::new(),
            running: HashMap::new(),
            tally: Tally::default(),
        };
        world.play();
        world.tally
    }

    fn play(&mut self) {
        let mut next = 0;
        loop {
            let arrival = self.callers.get(next).map(|(arrives, _)| *arrives);
            let time_up = self.waiting.keys().next().copied();
            let event = self.gpu.next_event();
            let Some(now) = [arrival, time_up.map(|(until, _)| until), event].into_iter().flatten().min()
            else {
                break;
            };
            if event == Some(now) {
                self.hear(now);
            } else if let Some(key) = time_up.filter(|(until, _)| *until == now) {
                self.collect(now, key);
            } else {
                self.arrive(now, next);
                next += 1;
            }
            // Those who pile up behind nobody would take hours to end.
            if arrival.is_none() && self.gate.is_none() {
                break;
            }
        }
    }

    fn arrive(&mut self, now: Duration, caller: usize) {
        self.tally.offered += u32::from(now >= WARM_UP);
        let Some(gate) = &mut self.gate else { return self.serve(now, caller) };
        match gate.arrive(self.origin + now, None, || caller) {
            Decision::Admitted => self.serve(now, caller),
            Decision::Queued { ticket, until } => {
                self.waiting.insert((until - self.origin, caller), ticket);
            }
            Decision::Refused(_) => {}
        }
    }

    fn collect(&mut self, now: Duration, key: (Duration, usize)) {
        let (Some(ticket), Some(gate)) = (self.waiting.remove(&key), &mut self.gate) else { return };
        if let Outcome::Admitted { .. } = gate.collect(self.origin + now, ticket) {
            self.serve(now, key.1);
        }
    }

    fn serve(&mut self, now: Duration, caller: usize) {
        let id = self.gpu.start(now, self.callers[caller].1);
        self.running.insert(id, Running { caller, began: now, heard: Vec::new() });
        self.tally.peak = self.tally.peak.max(self.running.len());
    }

    fn hear(&mut self, now: Duration) {
        let mut outputs = Vec::new();
        self.gpu.advance(now, &mut outputs);
        for output in outputs {
            let running = self.running.get_mut(&output.id).unwrap();
            running.heard.push((output.at, output.produced));
            if let (1, Some(gate)) = (running.heard.len(), &mut self.gate) {
                gate.observe_upstream_ttfb(self.origin + output.at, output.at - running.began);
            }
            if output.finished {
                let ended = self.running.remove(&output.id).unwrap();
                self.judge(&ended);
                let next = self.gate.as_mut().and_then(|gate| gate.release(self.origin + output.at));
                let key = next.and_then(|next| self.waiting.keys().find(|key| key.1 == next).copied());
                if let Some(key) = key {
                    self.collect(output.at, key);
                }
            }
        }
    }

    fn judge(&mut self, ended: &Running) {
        let (arrived, sound) = self.callers[ended.caller];
        if arrived < WARM_UP {
            return;
        }
        let (first, last) = (ended.heard[0].0, ended.heard[ended.heard.len() - 1].0);
        let (ttfb, rtf) = (first - arrived, (last - first).div_duration_f64(sound));
        let dry = ended.heard.windows(2).any(|pair| pair[1].0 - first > pair[0].1);
        let tally = &mut self.tally;
        tally.served += 1;
        tally.late += u32::from(ttfb > TTFB_MAX);
        tally.slow += u32::from(rtf > 1.0);
        tally.dry += u32::from(dry);
        tally.ttfb_max = tally.ttfb_max.max(ttfb);
        tally.rtf_max = tally.rtf_max.max(rtf);
    }
}

fn served_within_the_target(texts: &[&str]) {
    for load in [1.5, 3.0] {
        for seed in 1..=3 {
            let tally = World::run(texts, load, true, seed);
            println!("{load} times, seed {seed}: {tally:?}");
            assert_eq!(
                (tally.late, tally.slow, tally.dry),
                (0, 0, 0),
                "{load} times, seed {seed}: {tally:?}"
            );
            assert_eq!(tally.peak, LIMIT.get() as usize);
            // And they are as many as the engine can serve; what is said, by chance, makes some hundredths.
            let share = f64::from(tally.served) / f64::from(tally.offered) * load;
            assert!(share >= 0.9, "{load} times, seed {seed}: {share:.3} of capacity");
        }
    }
    let bare = World::run(texts, 1.5, false, 1);
    println!("no gate: {bare:?}");
    assert!(bare.served > 0 && bare.slow == bare.served, "{bare:?}");
}

#[test]
fn whoever_is_let_in_at_the_limit_that_was_found_is_served_within_the_target() {
    served_within_the_target(&SENTENCES);
}

#[test]
fn paragraphs_too_are_served_within_the_target() {
    let english = texts::built_in("eng").unwrap();
    let english: Vec<_> = english.iter().map(|words| words.text.as_str()).collect();
    served_within_the_target(&english);
}
