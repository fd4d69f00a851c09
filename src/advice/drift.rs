//! Notices that the engine has become slower than it was at the same load, long before the target is missed: its limit was
//! proved on an engine that no longer exists. Ignores the target.
//!
//! What is usual is learned for each level apart: mean and variance of the logarithm of RTF, from syntheses at least two
//! minutes old. What is recent (30 s, 1 min, 2 min) is laid beside it. The engine is slower where the mean difference is
//! a tenth or more and six standard errors above a twentieth. RTF of one level differs by the length of texts and by chance;
//! six standard errors are far out, and syntheses that run together are not independent, hence the tenth.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::evidence::band;
use crate::slo;

/// Recent syntheses, in slices; beyond it they are usual.
const RECENT: u64 = 12;
/// Reaches of a look, in slices.
const REACHES: [u64; 3] = [3, 6, RECENT];
/// A level with fewer has no usual speed.
const USUAL_MIN: f64 = 30.0;
/// So many count at most, so that what is usual follows what changes over days.
const USUAL_MAX: f64 = 5_000.0;
/// Fewer recent ones are no sign.
const RECENT_MIN: f64 = 10.0;
/// Standard errors.
const Z: f64 = 6.0;
/// A difference of logarithms that is no fault.
const TOLERATED: f64 = 0.05;
/// The smallest that is one.
const SLOWER: f64 = 0.095_31;
/// After so long, what the engine does now is taken for usual.
const RELEARN: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn variance(&self) -> f64 {
        // Never none: a level whose few usual syntheses were all alike is no proof that all are.
        (self.squares / self.count - self.mean().powi(2)).max(1e-4)
    }
}

#[derive(Debug)]
struct Slice {
    number: u64,
    bands: BTreeMap<u16, Sums>,
}

/// What is usual, what is recent, and whether they differ.
#[derive(Debug)]
pub(super) struct Drift {
    count: slo::Slices,
    usual: BTreeMap<u16, Sums>,
    recent: VecDeque<Slice>,
    slower: Option<Slower>,
}

/// The engine is slower than it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slower {
    /// When it was noticed.
    pub since: Instant,
    /// RTF as a multiple of what it was at the same level.
    pub ratio: f64,
}

/// What a look changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The engine is another one now: what was known of levels is no longer true.
    Engine,
}

impl Drift {
    pub(super) fn new() -> Self {
        Self { count: slo::Slices::default(), usual: BTreeMap::new(), recent: VecDeque::new(), slower: None }
    }

    pub(super) const fn slower(&self) -> Option<Slower> {
        self.slower
    }

    /// A synthesis with this RTF at this level ended.
    pub(super) fn record(&mut self, now: Instant, level: f64, rtf: f64) {
        let logarithm = rtf.max(1e-3).ln();
        let number = self.count.number(now);
        if self.recent.back().is_none_or(|slice| slice.number < number) {
            self.recent.push_back(Slice { number, bands: BTreeMap::new() });
        }
        let Some(slice) = self.recent.back_mut() else { return };
        let one = Sums { count: 1.0, sum: logarithm, squares: logarithm * logarithm };
        slice.bands.entry(band(level)).or_default().add(&one);
    }

    /// Lays what is recent beside what is usual. To be called every few seconds.
    pub(super) fn look(&mut self, now: Instant) -> Change {
        let newest = self.count.number(now);
        self.age(newest);
        if let Some(slower) = self.slower {
            return self.look_again(now, newest, slower);
        }
        let ratio = REACHES.into_iter().find_map(|reach| {
            let (shift, error) = self.shift(newest, reach)?;
            (shift > SLOWER && shift - Z * error > TOLERATED).then(|| shift.exp())
        });
        match ratio {
            Some(ratio) => {
                self.slower = Some(Slower { since: now, ratio });
                Change::Engine
            }
            None => Change::None,
        }
    }

    fn look_again(&mut self, now: Instant, newest: u64, slower: Slower) -> Change {
        if now.saturating_duration_since(slower.since) > RELEARN {
            (self.slower, self.usual) = (None, BTreeMap::new());
            return Change::Engine;
        }
        match self.shift(newest, RECENT) {
            Some((shift, _)) if shift < TOLERATED => {
                self.slower = None;
                Change::Engine
            }
            Some((shift, _)) => {
                self.slower = Some(Slower { ratio: shift.exp(), ..slower });
                Change::None
            }
            None => Change::None,
        }
    }

    /// Mean difference of logarithms over the last `reach` slices, and its standard error.
    fn shift(&self, newest: u64, reach: u64) -> Option<(f64, f64)> {
        let (mut count, mut difference, mut variance) = (0.0, 0.0, 0.0);
        for slice in self.recent.iter().filter(|slice| slice.number + reach > newest) {
            for (band, sums) in &slice.bands {
                let Some(usual) = self.usual.get(band).filter(|usual| usual.count >= USUAL_MIN) else {
                    continue;
                };
                count += sums.count;
                difference += sums.sum - sums.count * usual.mean();
                variance += usual.variance() * (sums.count + sums.count.powi(2) / usual.count);
            }
        }
        (count >= RECENT_MIN).then(|| (difference / count, variance.sqrt() / count))
    }

    /// What is no longer recent becomes usual, unless the engine is slower than usual.
    fn age(&mut self, newest: u64) {
        while self.recent.front().is_some_and(|slice| slice.number + RECENT < newest) {
            let Some(slice) = self.recent.pop_front() else { return };
            if self.slower.is_some() {
                continue;
            }
            for (band, sums) in slice.bands {
                let usual = self.usual.entry(band).or_default();
                let keep = (USUAL_MAX / (usual.count + sums.count)).min(1.0);
                usual.add(&sums);
                *usual =
                    Sums { count: usual.count * keep, sum: usual.sum * keep, squares: usual.squares * keep };
            }
        }
    }
}
