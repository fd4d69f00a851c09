//! What became of many calls, in a few numbers. Decides which are good.

use hdrhistogram::Histogram;

use super::call::Heard;
use crate::meter::{Measured, Outcome};
use crate::target::{self, Target};

/// The longest TTFB that is told apart, in microseconds: ten minutes.
const TTFB_MAX_MICROS: u64 = 600_000_000;
/// The greatest RTF that is told apart, in thousandths.
const RTF_MAX_THOUSANDTHS: u64 = 1_000_000;

/// What became of the calls of one load.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Calls made.
    pub offered: u64,
    /// Served within the target: all audio came, and every clause held.
    pub good: u64,
    /// All audio came, but a clause did not hold.
    pub missed: u64,
    /// Answered with 429 or 503.
    pub refused: u64,
    /// No connection, another status, or an answer that broke off.
    pub failed: u64,
    /// Ran dry while they played, of whichever end.
    pub underrun: u64,
    /// TTFB in microseconds, of whoever heard anything.
    ttfb: Histogram<u64>,
    /// RTF in thousandths, of whoever heard everything.
    rtf: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram =
            |max| Histogram::new_with_max(max, 3).expect("the bounds are constants, and a test makes them");
        Self {
            offered: 0,
            good: 0,
            missed: 0,
            refused: 0,
            failed: 0,
            underrun: 0,
            ttfb: histogram(TTFB_MAX_MICROS),
            rtf: histogram(RTF_MAX_THOUSANDTHS),
        }
    }
}

impl Tally {
    pub(super) fn record(&mut self, heard: &Heard, target: &Target) {
        match heard {
            Heard::Answer(measured) => self.record_answer(measured, target),
            Heard::Refusal(_) => self.refused += 1,
            Heard::Failure(_) => self.failed += 1,
        }
    }

    fn record_answer(&mut self, measured: &Measured, target: &Target) {
        if let Some(ttfb) = measured.ttfb {
            self.ttfb.saturating_record(u64::try_from(ttfb.as_micros()).unwrap_or(u64::MAX));
        }
        if let Ok(rtf) = measured.rtf {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            self.rtf.saturating_record((rtf * 1_000.0).round() as u64);
        }
        self.underrun += u64::from(measured.underrun == Some(true));
        let success = measured.outcome == Outcome::Ok && !measured.audio.is_zero();
        let judged = target::Measured {
            success,
            ttfb: measured.ttfb,
            rtf: measured.rtf.ok(),
            underrun: measured.underrun,
        };
        match (success, target.is_good(&judged)) {
            (false, _) => self.failed += 1,
            (true, true) => self.good += 1,
            (true, false) => self.missed += 1,
        }
    }

    /// Calls that have not ended; after the end of a load, those that were hung up on.
    #[must_use]
    pub const fn unfinished(&self) -> u64 {
        self.offered.saturating_sub(self.good + self.missed + self.refused + self.failed)
    }

    /// A percentile (0 to 100) of TTFB, from the moment a call was due, of whoever heard anything, in seconds.
    #[must_use]
    pub fn ttfb_seconds(&self, percentile: f64) -> Option<f64> {
        at(&self.ttfb, percentile, 1e6)
    }

    /// A percentile (0 to 100) of RTF, of whoever heard everything.
    #[must_use]
    pub fn rtf(&self, percentile: f64) -> Option<f64> {
        at(&self.rtf, percentile, 1e3)
    }
}

fn at(histogram: &Histogram<u64>, percentile: f64, unit: f64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "bounded by the histogram's maximum")]
    let value = histogram.value_at_percentile(percentile) as f64;
    (!histogram.is_empty()).then_some(value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{Format, Unknown};
    use std::time::Duration;

    fn answer(ttfb_ms: u64, rtf: f64, underrun: bool, outcome: Outcome) -> Heard {
        Heard::Answer(Measured {
            outcome,
            format: Format::Wav,
            queue_wait: Duration::ZERO,
            ttfb: Some(Duration::from_millis(ttfb_ms)),
            upstream_ttfb: None,
            rtf: if outcome == Outcome::Ok { Ok(rtf) } else { Err(Unknown::Incomplete) },
            rtf_between: None,
            audio: Duration::from_secs(2),
            bytes: 96_000,
            underrun: Some(underrun),
            duration: Duration::from_secs(3),
        })
    }

    #[test]
    fn only_a_call_that_heard_everything_in_time_is_good() {
        let mut tally = Tally { offered: 8, ..Tally::default() };
        for heard in [
            answer(1_000, 1.0, false, Outcome::Ok),
            answer(1_001, 0.9, false, Outcome::Ok),
            answer(300, 1.01, false, Outcome::Ok),
            answer(300, 0.9, true, Outcome::Ok),
            answer(300, 0.9, false, Outcome::Truncated),
            Heard::Refusal("queue_full".to_owned()),
            Heard::Failure("gone".to_owned()),
        ] {
            tally.record(&heard, &Target::default());
        }
        let counts = (tally.good, tally.missed, tally.refused, tally.failed, tally.unfinished());
        assert_eq!(counts, (1, 3, 1, 2, 1));
        assert_eq!(tally.underrun, 1);
    }

    #[test]
    fn percentiles_are_in_seconds_and_of_nothing_there_is_none() {
        let mut tally = Tally::default();
        assert_eq!((tally.ttfb_seconds(50.0), tally.rtf(99.0)), (None, None));
        tally.record(&answer(250, 0.75, false, Outcome::Ok), &Target::default());
        let ttfb = tally.ttfb_seconds(50.0).unwrap();
        assert!((ttfb - 0.25).abs() < 0.001, "{ttfb}");
        assert!((tally.rtf(99.0).unwrap() - 0.75).abs() < 0.001);
    }
}
