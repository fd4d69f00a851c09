//! The live verdict and the advice, on the simulated GPU in simulated time: what they notice, how soon, and what they
//! leave alone.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::advice::{Advice, Advisor, Live, Proof, Provenance};
use rime_gate::audio::Format;
use rime_gate::meter::{Measured, Outcome};
use rime_gate::sim::Profile;
use rime_gate::sim::gpu::{Gpu, Id, Output};
use rime_gate::target::Target;

/// How syntheses come.
#[derive(Clone, Copy)]
enum Load {
    /// Always so many in flight.
    InFlight(usize),
    /// At random, so many a second on average, and by so much more and less over a day.
    Poisson { rate: f64, swing: f64 },
}

struct Running {
    begun: f64,
    slot_seconds: f64,
    first: Option<f64>,
    last: f64,
    produced: f64,
    dry: bool,
}

/// An engine, its callers, and the advisor who hears of every synthesis. Seconds from the start.
struct World {
    gpu: Gpu,
    /// From when on, by the wall's and the engine's own time, the engine takes so many times as long for everything.
    paces: Vec<(f64, f64, f64)>,
    random: StdRng,
    load: Load,
    audio: (f64, f64),
    advisor: Advisor,
    provenance: Provenance,
    limit: u32,
    running: HashMap<Id, Running>,
    slot_seconds: f64,
    now: f64,
    arrival: f64,
    looked: f64,
    /// Every verdict that differs from the one before, and when.
    changes: Vec<(f64, Live)>,
    syntheses: u64,
    start: Instant,
}

const LOOK: f64 = 10.0;

impl World {
    fn new(profile: Profile, load: Load, limit: u32) -> Self {
        Self::under(Target::default(), profile, load, limit)
    }

    fn under(target: Target, profile: Profile, load: Load, limit: u32) -> Self {
        let limits = profile.variables;
        let provenance = Provenance { level: Some(limit), target: Some(target) };
        Self {
            gpu: Gpu::new(profile, limits, 7),
            paces: vec![(0.0, 0.0, 1.0)],
            random: StdRng::seed_from_u64(11),
            load,
            audio: (6.0, 14.0),
            advisor: Advisor::new(target),
            provenance,
            limit,
            running: HashMap::new(),
            slot_seconds: 0.0,
            now: 0.0,
            arrival: 0.0,
            looked: 0.0,
            changes: Vec::new(),
            syntheses: 0,
            start: tokio::time::Instant::now().into_std(),
        }
    }

    /// From `at` on the engine takes `factor` times as long as at the start.
    fn pace(&mut self, at: f64, factor: f64) {
        let own = self.engine_time(at).as_secs_f64();
        self.paces.push((at, own, factor));
    }

    fn engine_time(&self, at: f64) -> Duration {
        let (wall, own, factor) = *self.paces.iter().rev().find(|(wall, ..)| *wall <= at).unwrap();
        Duration::from_secs_f64(own + (at - wall) / factor)
    }

    fn wall_time(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        let (wall, own, factor) = *self.paces.iter().rev().find(|(_, own, _)| *own <= at).unwrap();
        wall + (at - own) * factor
    }

    fn pass(&mut self, at: f64) {
        self.slot_seconds += self.running.len() as f64 * (at - self.now).max(0.0);
        self.now = self.now.max(at);
    }

    fn begin(&mut self, at: f64) {
        self.pass(at);
        let audio = Duration::from_secs_f64(self.random.random_range(self.audio.0..self.audio.1));
        let id = self.gpu.start(self.engine_time(at), audio);
        let slot_seconds = self.slot_seconds;
        let running = Running { begun: at, slot_seconds, first: None, last: at, produced: 0.0, dry: false };
        self.running.insert(id, running);
    }

    fn heard(&mut self, output: Output) {
        let at = self.wall_time(output.at);
        self.pass(at);
        let one = self.running.get_mut(&output.id).unwrap();
        let first = *one.first.get_or_insert(at);
        one.dry |= at - first > one.produced + 1e-9 && one.produced > 0.0;
        (one.produced, one.last) = (output.produced.as_secs_f64(), at);
        if output.finished {
            let one = self.running.remove(&output.id).unwrap();
            self.ended(at, first, &one);
        }
    }

    fn ended(&mut self, at: f64, first: f64, one: &Running) {
        let ttfb = Some(Duration::from_secs_f64(first - one.begun));
        // The wait before the door is no fault of the limit: it must not count.
        let measured = Measured {
            outcome: Outcome::Ok,
            format: Format::Wav,
            queue_wait: Duration::from_secs(5),
            ttfb: ttfb.map(|ttfb| ttfb + Duration::from_secs(5)),
            upstream_ttfb: ttfb,
            rtf: Ok((at - first) / one.produced),
            rtf_between: None,
            audio: Duration::from_secs_f64(one.produced),
            bytes: 1,
            underrun: Some(one.dry),
            duration: Duration::from_secs_f64(at - one.begun),
        };
        let level = (self.slot_seconds - one.slot_seconds) / (at - one.begun);
        self.advisor.record(self.instant(at), 200, &measured, Some(level));
        self.syntheses += 1;
    }

    fn instant(&self, at: f64) -> Instant {
        self.start + Duration::from_secs_f64(at)
    }

    fn next_arrival(&mut self) -> Option<f64> {
        match self.load {
            Load::InFlight(level) => (self.running.len() < level).then_some(self.now),
            Load::Poisson { .. } => Some(self.arrival),
        }
    }

    /// Lets time pass up to `end`.
    fn run(&mut self, end: f64) {
        let mut outputs = Vec::new();
        loop {
            let arrival = self.next_arrival();
            let event = self.gpu.next_event().map(|at| self.wall_time(at));
            let next = arrival.into_iter().chain(event).fold(end, f64::min);
            while self.looked + LOOK <= next {
                self.looked += LOOK;
                self.look();
            }
            if next >= end {
                return;
            }
            if arrival.is_some_and(|at| at <= next) {
                self.begin(next);
                if let Load::Poisson { rate, swing } = self.load {
                    let day = (next / 86_400.0 * std::f64::consts::TAU).sin();
                    let unit: f64 = self.random.random_range(f64::EPSILON..1.0);
                    self.arrival = next - unit.ln() / (rate * (1.0 + swing * day));
                }
                continue;
            }
            // Rounded up, so that the event is there when it is looked for.
            let at = self.engine_time(next) + Duration::from_nanos(2);
            self.gpu.advance(at, &mut outputs);
            for output in outputs.drain(..) {
                self.heard(output);
            }
        }
    }

    fn look(&mut self) {
        let live = self.advisor.verdict(self.instant(self.looked), self.limit, &self.provenance);
        if self.changes.last().is_none_or(|(_, last)| last.verdict() != live.verdict()) {
            self.changes.push((self.looked, live));
        }
    }

    fn advice(&mut self) -> Advice {
        self.advisor.advice(self.instant(self.looked), self.limit)
    }
}

fn h100() -> Profile {
    Profile::named("h100-arcana-v2").unwrap()
}

/// The same speed in rounds of a second, so that a week takes seconds.
fn coarse() -> Profile {
    let mut profile = h100();
    let times = 1000.0 / profile.round.audio_ms;
    profile.round.audio_ms *= times;
    profile.round.first_rounds = 1;
    let Profile { generator, decoder, .. } = &mut profile;
    let costs =
        [&mut generator.fixed_ms, &mut generator.per_row_ms, &mut decoder.fixed_ms, &mut decoder.per_row_ms];
    for cost in costs {
        *cost *= times;
    }
    profile
}

#[test]
fn an_engine_that_slows_down_at_its_limit_is_noticed_within_two_minutes() {
    let mut world = World::new(h100(), Load::InFlight(32), 32);
    world.pace(900.0, 1.2);
    world.run(900.0);
    assert_eq!(world.changes.iter().map(|(_, live)| live.proof).collect::<Vec<_>>(), [Proof::Proved]);
    world.run(900.0 + 120.0);
    let (at, live) = world.changes.last().unwrap();
    assert!(*at <= 1020.0, "{live:?}");
    assert!(matches!(live.proof, Proof::Missed { .. }), "{live:?}");
}

#[test]
fn an_engine_that_slows_down_under_a_light_load_is_noticed_within_two_minutes_though_the_target_is_kept() {
    for seed in 0..4 {
        let mut world = World::new(h100(), Load::Poisson { rate: 0.8, swing: 0.0 }, 32);
        world.random = StdRng::seed_from_u64(seed);
        world.pace(1800.0, 1.25);
        world.run(1800.0);
        assert_eq!(world.changes.len(), 1, "{:?}", world.changes);
        world.run(1920.0);
        let (at, live) = world.changes.last().unwrap();
        assert!(*at > 1800.0 && live.standings.iter().all(|one| one.burn_rate() <= Some(1.0)), "{live:?}");
        let Proof::Slower { ratio } = live.proof else { panic!("{live:?}") };
        assert!((1.1..1.45).contains(&ratio), "{ratio}");
    }
}

#[test]
fn an_engine_that_recovers_is_trusted_again() {
    let mut world = World::new(h100(), Load::Poisson { rate: 0.8, swing: 0.0 }, 32);
    world.pace(1800.0, 1.3);
    world.pace(2100.0, 1.0);
    world.run(2100.0);
    assert_eq!(world.changes.last().unwrap().1.proof.label(), "engine_slower");
    world.run(2500.0);
    let said: Vec<_> = world.changes.iter().map(|(_, live)| live.proof.label()).collect();
    assert_eq!(said, ["proved", "engine_slower", "proved"]);
}

#[test]
fn a_week_of_steady_traffic_raises_no_false_alarm() {
    let load = Load::Poisson { rate: 0.8, swing: 0.6 };
    // The first second of sound takes a whole round, or two.
    let target = "success:1.00,ttfb:p99@3s,rtf:p99@1.00,underrun:0.00".parse().unwrap();
    let mut world = World::under(target, coarse(), load, 32);
    world.run(7.0 * 86_400.0);
    assert!(world.syntheses > 450_000, "{}", world.syntheses);
    let said: Vec<_> = world.changes.iter().map(|(at, live)| (*at, live.proof)).collect();
    assert_eq!(said.len(), 1, "{} {:?}", said.len(), &said[..said.len().min(9)]);
    assert_eq!(said[0].1, Proof::Proved);
}

#[test]
fn a_limit_that_was_set_too_high_is_answered_with_the_highest_that_meets_the_target() {
    let mut world = World::new(h100(), Load::InFlight(40), 40);
    // The load has been at every level on its way up.
    for level in 20..=40 {
        world.load = Load::InFlight(level);
        let until = world.now + 90.0;
        world.run(until);
    }
    let advice = world.advice();
    let Advice::Lower { at, ref missed, best: Some((best, samples)) } = advice else { panic!("{advice:?}") };
    assert!((36..=40).contains(&at.1) && at.0 > 30, "{advice:?}");
    assert!(missed.starts_with("RTF p99 1.") || missed.starts_with("underrun"), "{missed}");
    assert!((28..=33).contains(&best) && samples >= 100, "{advice:?}");
    assert!(advice.to_string().contains("the highest level that meets the target is"), "{advice}");
}

#[test]
fn a_limit_with_room_above_it_is_told_so_and_one_at_the_edge_is_not() {
    let mut world = World::new(h100(), Load::InFlight(8), 24);
    for level in [8, 12, 16, 20, 24, 24] {
        world.load = Load::InFlight(level);
        let until = world.now + 150.0;
        world.run(until);
    }
    let advice = world.advice();
    assert!(matches!(advice, Advice::Holds { near: (22, 24), room: Some(27), .. }), "{advice}");
    let mut world = World::new(h100(), Load::InFlight(8), 32);
    for level in [8, 12, 16, 20, 24, 28, 32, 32] {
        world.load = Load::InFlight(level);
        let until = world.now + 150.0;
        world.run(until);
    }
    let advice = world.advice();
    assert!(matches!(advice, Advice::Holds { near: (29, 32), room: None | Some(33), .. }), "{advice}");
}

#[test]
fn a_quiet_engine_says_nothing_about_its_limit() {
    let mut world = World::new(h100(), Load::Poisson { rate: 0.3, swing: 0.0 }, 32);
    world.run(1800.0);
    let advice = world.advice();
    assert!(matches!(advice, Advice::NotEnough { near: (29, 32), samples: 0 }), "{advice}");
    assert_eq!(advice.limit(32), None);
}

#[test]
fn a_limit_is_proved_only_by_a_benchmark_that_reached_it_for_the_same_target() {
    let target = Target::default();
    let other = "ttfb:p99@2s".parse().unwrap();
    let now = tokio::time::Instant::now().into_std();
    for (level, of, expected) in [
        (Some(32), Some(target), Proof::Proved),
        (Some(40), None, Proof::Proved),
        (None, Some(target), Proof::NoProvenance),
        (Some(31), Some(target), Proof::Above { proved: 31 }),
        (Some(32), Some(other), Proof::OtherTarget),
    ] {
        let live = Advisor::new(target).verdict(now, 32, &Provenance { level, target: of });
        assert_eq!(live.proof, expected);
    }
}
