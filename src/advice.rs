//! Decides what production says about the limit: whether the target is kept, whether the engine is still the one that was
//! measured, and which limit its speed at each level of load would bear. Changes nothing; has no clock.
//!
//! # What counts
//!
//! Every synthesis that was let in, once, as it ends, with TTFB *from dispatch*: the limit is judged, not the queue. Its
//! level is the time-weighted mean number in flight during its life, itself included: RTF is a mean over that life too, so
//! the two speak of the same time. What could not be measured (streamed input that left too little to tell, formats
//! that cannot be read) counts for no clause.
//!
//! # How sure
//!
//! A share is called missed only beyond what chance does: of `n` syntheses, `k` bad ones at a true share of `p` come about
//! with a chance of at most `exp(-n D(k/n || p))` (Chernoff 1952), D being the relative entropy. The bound needs no tables and errs on the
//! calm side. A clause that allows no bad one at all (`success:1.00`) is taken to allow one in a thousand: production
//! is millions of syntheses, and one that fails says nothing about the limit.

mod drift;
mod evidence;
mod opinion;
mod windows;

use std::time::{Duration, Instant};

pub use drift::Slower;
pub use opinion::{Advice, ENOUGH, Live, Proof, Provenance};
pub use windows::{Standing, Verdict, WINDOWS};

use crate::meter::Measured;
use crate::slo;
use crate::target::Target;
use drift::{Change, Drift};
use evidence::Evidence;
use windows::Windows;

/// The share of bad ones that a clause which allows none is taken to allow.
pub const BUDGET_MIN: f64 = 0.001;

/// A verdict that is shown and logged: at most one in a million is by chance. As nepers.
const CERTAIN: f64 = 13.8;
/// A verdict on one level: at most one in a thousand is by chance. As nepers.
const LIKELY: f64 = 6.9;

/// Whether `bad` of `events` are more than a share of `allowed` brings about by chance, of which the chance is below
/// `exp(-nepers)`.
fn objects(bad: u64, events: u64, allowed: f64, nepers: f64) -> bool {
    let share = bad as f64 / events.max(1) as f64;
    if share <= allowed {
        return false;
    }
    let rest = if share < 1.0 { (1.0 - share) * ((1.0 - share) / (1.0 - allowed)).ln() } else { 0.0 };
    events as f64 * (share * (share / allowed).ln() + rest) > nepers
}

/// One synthesis, as far as advice asks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    /// In the order of the target's clauses.
    judged: [Option<bool>; 4],
    ttfb: Option<Duration>,
    rtf: Option<f64>,
}

/// What is known of one engine under one target.
#[derive(Debug)]
pub struct Advisor {
    target: Target,
    windows: Windows,
    evidence: Evidence,
    drift: Drift,
}

impl Advisor {
    /// An advisor who has seen nothing.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, windows: Windows::new(), evidence: Evidence::new(), drift: Drift::new() }
    }

    /// A synthesis that was let in has ended at `now`, and its caller was answered with `code`. `level` is the
    /// time-weighted mean number in flight during its life, where it is known.
    pub fn record(&mut self, now: Instant, code: u16, measured: &Measured, level: Option<f64>) {
        let upstream = Measured { ttfb: measured.upstream_ttfb, ..*measured };
        let mut judged = [None; 4];
        for (judged, clause) in judged.iter_mut().zip(self.target.clauses()) {
            *judged = slo::judge(clause, code, &upstream);
        }
        self.windows.record(now, &judged);
        let Some(level) = level.filter(|_| judged.iter().any(Option::is_some)) else { return };
        let ttfb = upstream.ttfb.filter(|_| slo::is_2xx(code));
        let sample = Sample { judged, ttfb, rtf: measured.rtf.ok() };
        self.evidence.record(now, level, &sample);
        if let Some(rtf) = sample.rtf {
            self.drift.record(now, level, rtf);
        }
    }

    /// Whether `limit` is proved as of `now`, and how every clause stands. To be asked every ten seconds or so: a slower
    /// engine is noticed by asking.
    pub fn verdict(&mut self, now: Instant, limit: u32, provenance: &Provenance) -> Live {
        if self.drift.look(now) == Change::Engine {
            self.evidence.forget();
        }
        let standings = self.windows.view(now, &self.target);
        let slower = self.drift.slower();
        let proof = Proof::of(limit, &self.target, provenance, slower, &standings);
        Live { limit, standings, slower, proof }
    }

    /// What the speed at each level of load says about `limit`.
    pub fn advice(&mut self, now: Instant, limit: u32) -> Advice {
        self.evidence.age(now);
        Advice::of(limit, &self.target, &self.evidence)
    }
}
