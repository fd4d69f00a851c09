//! What was heard of one synthesis, and what many come to: counts and percentiles, computed as `armchair` computes them.
//! Judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::callers::Heard;
use crate::meter::Outcome;
use crate::target::{Clause, Measured, Target};

/// One synthesis as the benchmark keeps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Whether an answer came, with audio, to its end.
    pub success: bool,
    /// To the first audio byte.
    pub ttfb: Option<Duration>,
    /// First audio byte to last byte, divided by the audio's duration.
    pub rtf: Option<f64>,
    /// Whether playback ran dry.
    pub underrun: Option<bool>,
    /// Start to end.
    pub elapsed: Duration,
    /// What was heard.
    pub audio: Duration,
    /// What it was refused for.
    pub refused: Option<String>,
    /// What went wrong.
    pub failed: Option<String>,
}

impl Sample {
    /// What was heard in `elapsed`.
    #[must_use]
    pub fn of(heard: Heard, elapsed: Duration) -> Self {
        let sample = Self { elapsed, ..Self::default() };
        match heard {
            Heard::Answer(measured) => {
                let success = measured.outcome == Outcome::Ok && measured.bytes > 0;
                Self {
                    success,
                    ttfb: measured.ttfb,
                    rtf: measured.rtf.ok(),
                    underrun: measured.underrun,
                    audio: measured.audio,
                    failed: (!success).then(|| "the answer broke off, or was empty".to_owned()),
                    ..sample
                }
            }
            Heard::Refusal(why) => Self { refused: Some(why), ..sample },
            Heard::Failure(why) => Self { failed: Some(why), ..sample },
        }
    }

    /// As a target sees it.
    #[must_use]
    pub const fn measured(&self) -> Measured {
        Measured { success: self.success, ttfb: self.ttfb, rtf: self.rtf, underrun: self.underrun }
    }
}

/// Mean and percentiles; `None` where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each says it in its name")]
pub struct Figures {
    pub mean: Option<f64>,
    pub p1: Option<f64>,
    pub p25: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
}

impl Figures {
    fn of(values: &[f64]) -> Self {
        let at = |percent| percentile(values, percent);
        #[expect(clippy::cast_precision_loss, reason = "counts of syntheses")]
        let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        Self { mean, p1: at(1.0), p25: at(25.0), p50: at(50.0), p90: at(90.0), p99: at(99.0) }
    }
}

/// The percentile (0 to 100) of values in order: between two of them, the line that joins them, as `armchair` does.
#[must_use]
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "counts of syntheses")]
    let rank = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to `last`")]
    let (below, above) = (rank.floor() as usize, rank.ceil() as usize);
    let weight = rank.fract();
    Some(sorted[below] * (1.0 - weight) + sorted[above] * weight)
}

/// What many syntheses came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// All of them, in the order in which they were begun.
    pub all: Vec<Sample>,
}

impl Samples {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// The share that succeeded; 1 where there are none.
    #[must_use]
    pub fn success(&self) -> f64 {
        1.0 - self.share(|sample| !sample.success)
    }

    /// The share that ran dry, of all, as `armchair` counts.
    #[must_use]
    pub fn underrun(&self) -> f64 {
        self.share(|sample| sample.underrun == Some(true))
    }

    /// TTFB in seconds.
    #[must_use]
    pub fn ttfb(&self) -> Figures {
        Figures::of(&self.sorted(|sample| sample.ttfb.map(|ttfb| ttfb.as_secs_f64())))
    }

    /// RTF.
    #[must_use]
    pub fn rtf(&self) -> Figures {
        Figures::of(&self.sorted(|sample| sample.rtf))
    }

    /// Start to end, in seconds.
    #[must_use]
    pub fn elapsed(&self) -> Figures {
        Figures::of(&self.sorted(|sample| Some(sample.elapsed.as_secs_f64())))
    }

    /// How many were refused, by reason.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        count(self.all.iter().filter_map(|sample| sample.refused.as_deref()))
    }

    /// How many failed, by what went wrong.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, u64> {
        count(self.all.iter().filter_map(|sample| sample.failed.as_deref()))
    }

    /// What was observed of a clause: a share, seconds or a factor. `None` where nothing was measured.
    #[must_use]
    pub fn observed(&self, clause: &Clause) -> Option<f64> {
        match clause {
            Clause::Success { .. } => Some(self.success()),
            Clause::Underrun { .. } => Some(self.underrun()),
            Clause::Ttfb { percentile: percent, .. } => {
                percentile(&self.sorted(|sample| sample.ttfb.map(|ttfb| ttfb.as_secs_f64())), percent.get())
            }
            Clause::Rtf { percentile: percent, .. } => {
                percentile(&self.sorted(|sample| sample.rtf), percent.get())
            }
        }
    }

    /// Whether what was observed is within the target, whatever it proves: `armchair`'s own verdict.
    #[must_use]
    pub fn within(&self, target: &Target) -> bool {
        target.clauses().all(|clause| is_within(clause, self.observed(clause)))
    }

    fn share(&self, is: impl Fn(&Sample) -> bool) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of syntheses")]
        let share = self.all.iter().filter(|sample| is(sample)).count() as f64 / self.all.len().max(1) as f64;
        share
    }

    fn sorted(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        let mut values: Vec<f64> = self.all.iter().filter_map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}

/// Whether what was observed keeps a clause.
#[must_use]
pub fn is_within(clause: &Clause, observed: Option<f64>) -> bool {
    let Some(observed) = observed else { return false };
    match clause {
        Clause::Success { at_least } => observed >= at_least.get(),
        Clause::Ttfb { at_most, .. } => observed <= at_most.as_secs_f64(),
        Clause::Rtf { at_most, .. } => observed <= *at_most,
        Clause::Underrun { at_most } => observed <= at_most.get(),
    }
}

fn count<'a>(reasons: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_armchair() {
        // Its README's example: 147 and 293 ms with p1=154.3 p25=186.5 p50=220.0.
        let values = [0.153, 0.287];
        let close = |percent: f64, expected: f64| {
            let value = percentile(&values, percent).unwrap();
            assert!((value - expected).abs() < 1e-4, "p{percent}: {value}");
        };
        close(1.0, 0.15434);
        close(25.0, 0.1865);
        close(50.0, 0.22);
        close(90.0, 0.2736);
        close(99.0, 0.28566);
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
    }

    #[test]
    fn a_refusal_and_a_failure_are_told_apart_and_neither_has_figures() {
        let second = Duration::from_secs(1);
        let samples = Samples {
            all: vec![
                Sample::of(Heard::Refusal("deadline".to_owned()), second),
                Sample::of(Heard::Refusal("deadline".to_owned()), second),
                Sample::of(Heard::Failure("gone".to_owned()), second),
            ],
        };
        assert_eq!(samples.refusals(), BTreeMap::from([("deadline".to_owned(), 2)]));
        assert_eq!(samples.failures(), BTreeMap::from([("gone".to_owned(), 1)]));
        assert_eq!((samples.success(), samples.ttfb()), (0.0, Figures::default()));
        assert!(!samples.within(&Target::default()));
        assert!(samples.within(&"underrun:0".parse().unwrap()));
    }
}
