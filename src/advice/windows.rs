//! How each clause of the target fares over the last minute, five minutes and hour. Counts; knows no level.

use std::time::{Duration, Instant};

use super::{BUDGET_MIN, CERTAIN, objects};
use crate::slo::{self, SLICE};
use crate::target::{Clause, Target};

/// Windows that a verdict is given for.
pub const WINDOWS: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(3600)];

/// The whole slices of the longest window, and the one being filled.
const SLICES: usize = 361;
const _: () =
    assert!(SLICE.as_secs() * (SLICES as u64 - 1) == WINDOWS[2].as_secs(), "the ring holds an hour");

/// What is known of one clause over one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing counted for it.
    Idle,
    /// The share of good ones is at least what is asked.
    Met,
    /// It is less, by what chance may do.
    Unsure,
    /// It is less, beyond what chance does once in a million.
    Missed,
}

impl Verdict {
    /// One word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Met => "met",
            Self::Unsure => "unsure",
            Self::Missed => "missed",
        }
    }
}

/// One clause over one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The clause.
    pub clause: Clause,
    /// How far the window reaches back.
    pub window: Duration,
    /// Syntheses that count.
    pub events: u64,
    /// Those of them that were not good.
    pub bad: u64,
    /// What it comes to.
    pub verdict: Verdict,
}

impl Standing {
    /// How many times faster than the clause allows bad ones come, 1.0 being just as fast; `None` where nothing counted. A
    /// clause that allows none is taken to allow one in a thousand.
    #[must_use]
    pub fn burn_rate(&self) -> Option<f64> {
        (self.events > 0).then(|| self.bad as f64 / self.events as f64 / allowed(&self.clause))
    }
}

/// The share of bad ones that a clause allows.
pub(super) fn allowed(clause: &Clause) -> f64 {
    (1.0 - clause.objective()).max(BUDGET_MIN)
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) events: u64,
    pub(super) bad: u64,
}

impl Count {
    pub(super) fn add(&mut self, good: Option<bool>) {
        self.events += u64::from(good.is_some());
        self.bad += u64::from(good == Some(false));
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    number: u64,
    counts: [Count; 4],
}

/// A ring of counts, 26 KB.
#[derive(Debug)]
pub(super) struct Windows {
    count: slo::Slices,
    slices: Vec<Slice>,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self { count: slo::Slices::default(), slices: vec![Slice::default(); SLICES] }
    }

    /// `judged` is in the order of the target's clauses.
    pub(super) fn record(&mut self, now: Instant, judged: &[Option<bool>; 4]) {
        let number = self.count.number(now);
        let slice = &mut self.slices[place(number)];
        if slice.number < number {
            *slice = Slice { number, ..Slice::default() };
        }
        for (count, good) in slice.counts.iter_mut().zip(judged) {
            count.add(*good);
        }
    }

    /// Every clause over every window.
    pub(super) fn view(&mut self, now: Instant, target: &Target) -> Vec<Standing> {
        let newest = self.count.number(now);
        let mut sums = [[Count::default(); 4]; WINDOWS.len()];
        for slice in &self.slices {
            for (sums, window) in sums.iter_mut().zip(WINDOWS) {
                if slice.number + window.as_secs() / SLICE.as_secs() >= newest {
                    for (sum, count) in sums.iter_mut().zip(&slice.counts) {
                        sum.events += count.events;
                        sum.bad += count.bad;
                    }
                }
            }
        }
        let mut all = Vec::with_capacity(WINDOWS.len() * 4);
        for (index, clause) in target.clauses().enumerate() {
            for (sums, window) in sums.iter().zip(WINDOWS) {
                let Count { events, bad } = sums[index];
                let verdict = verdict(clause, sums[index]);
                all.push(Standing { clause: *clause, window, events, bad, verdict });
            }
        }
        all
    }
}

fn verdict(clause: &Clause, count: Count) -> Verdict {
    let allowed = allowed(clause);
    if count.events == 0 {
        Verdict::Idle
    } else if objects(count.bad, count.events, allowed, CERTAIN) {
        Verdict::Missed
    } else if count.bad as f64 <= (1.0 - clause.objective()) * count.events as f64 {
        Verdict::Met
    } else {
        Verdict::Unsure
    }
}

fn place(number: u64) -> usize {
    // The remainder is below SLICES.
    usize::try_from(number % SLICES as u64).unwrap_or_default()
}
