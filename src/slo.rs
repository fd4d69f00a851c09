//! What production came to of late, against the target: which syntheses a clause counts, and percentiles over a
//! sliding window. Ignores who asks and where it is shown; time is an argument.
//!
//! Two answers for two questions. *Is the target kept?* is answered from exact counts of good events, one pair a
//! clause ([`judge`]), for windows as long as whoever scrapes them likes. *How fast is it now?* is answered from a
//! [`Windows`] of histograms, in at most 0.8 % steps, for people and for the live page.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::audio::Unknown;
use crate::meter::{Measured, Outcome};
use crate::target::{self, Clause};

/// How far back a [`Windows`] looks: at one synthesis in three seconds its p99 rests on 100 samples, and an engine
/// that slowed down shows within minutes.
pub const WINDOW: Duration = Duration::from_secs(300);

/// The window forgets in steps of this.
pub const SLICE: Duration = Duration::from_secs(10);

/// The whole slices of a window, and the one being filled.
const SLICES: usize = 31;
const _: () = assert!(SLICE.as_secs() * (SLICES as u64 - 1) == WINDOW.as_secs(), "the ring holds one window");

/// The greatest TTFB told apart, in milliseconds, and the greatest RTF, in thousandths.
const VALUE_MAX: u64 = 120_000;

/// Whether a synthesis that was let in is good in the sense of `clause`; `None` where it does not count.
///
/// The target is the one the limit was tuned for, so it judges what was let in: a refusal is no event (it has
/// counters of its own), where `armchair` takes any answer that is not 2xx for a failure.
///
/// - `success`: good is a 2xx answer with audio, to its end. A caller who went away is no event, and neither is one
///   whom the engine told that the request is at fault (4xx, but for 408 and 429, which speak of load).
/// - `ttfb`: as the caller heard it, the wait included; of every 2xx answer that sounded.
/// - `rtf`: of every synthesis that has one, or whose bounds are on one side.
/// - `underrun`: of every 2xx answer that sounded and could be read.
#[must_use]
pub fn judge(clause: &Clause, code: u16, measured: &Measured) -> Option<bool> {
    let sounded = is_2xx(code) && measured.ttfb.is_some();
    let success = match clause {
        Clause::Success { .. } => succeeded(code, measured)?,
        Clause::Ttfb { .. } | Clause::Rtf { .. } | Clause::Underrun { .. } => false,
    };
    let good = |rtf| {
        clause.is_good(&target::Measured {
            success,
            ttfb: measured.ttfb.filter(|_| sounded),
            rtf,
            underrun: measured.underrun.filter(|_| sounded),
        })
    };
    match measured.rtf_between {
        None => good(measured.rtf.ok()),
        // Unknown, and yet it may be clear on which side it is.
        Some((least, most)) => good(Some(least)).filter(|verdict| good(Some(most)) == Some(*verdict)),
    }
}

fn succeeded(code: u16, measured: &Measured) -> Option<bool> {
    let callers_fault = matches!(code, 400..=499) && !matches!(code, 408 | 429);
    match measured.outcome {
        Outcome::CallerGone | Outcome::Refused => None,
        _ if callers_fault => None,
        Outcome::Ok => Some(is_2xx(code) && measured.bytes > 0 && measured.rtf != Err(Unknown::NoAudio)),
        Outcome::EngineError | Outcome::EngineTimeout | Outcome::Truncated => Some(false),
    }
}

/// Whether an answer with this status carries the sound that was asked for.
#[must_use]
pub const fn is_2xx(code: u16) -> bool {
    matches!(code, 200..=299)
}

/// TTFB and RTF of the last five minutes: a ring of time slices. All memory, about 350 KB, is taken at the start.
#[derive(Debug)]
pub struct Windows {
    count: Slices,
    slices: Vec<Slice>,
}

#[derive(Debug)]
struct Slice {
    /// Which slice since the origin is in this place of the ring.
    number: u64,
    ttfb: Histogram<u32>,
    rtf: Histogram<u32>,
}

impl Default for Windows {
    fn default() -> Self {
        let slice = |_| Slice { number: 0, ttfb: histogram(), rtf: histogram() };
        Self { count: Slices::default(), slices: (0..SLICES).map(slice).collect() }
    }
}

impl Windows {
    /// Takes what one synthesis came to at `now`; TTFB with the wait.
    pub fn record(&mut self, now: Instant, ttfb: Option<Duration>, rtf: Option<f64>) {
        let number = self.count.number(now);
        let slice = &mut self.slices[place(number)];
        // Another thread's later clock may have moved the ring on already: then what is old counts as new.
        if slice.number < number {
            slice.number = number;
            slice.ttfb.reset();
            slice.rtf.reset();
        }
        if let Some(ttfb) = ttfb {
            slice.ttfb.saturating_record(u64::try_from(ttfb.as_millis()).unwrap_or(VALUE_MAX));
        }
        if let Some(rtf) = rtf {
            slice.rtf.saturating_record(thousandths(rtf));
        }
    }

    /// The window that ends at `now`.
    #[must_use]
    pub fn view(&mut self, now: Instant) -> Window {
        let number = self.count.number(now);
        let mut window = Window { ttfb: histogram(), rtf: histogram() };
        for slice in &self.slices {
            if slice.number + SLICES as u64 > number {
                // Equal shape: the one error there is cannot occur.
                let _ = window.ttfb.add(&slice.ttfb);
                let _ = window.rtf.add(&slice.rtf);
            }
        }
        window
    }
}

/// Counts slices of time of [`SLICE`] each, from the first instant ever told. It is asked for every synthesis: within one
/// slice it compares and does not divide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slices {
    number: u64,
    /// Where the slice begins and ends.
    bounds: Option<(Instant, Instant)>,
}

impl Slices {
    /// The slice that `now` lies in. Never one before the last told: another thread's clock may be late.
    pub(crate) fn number(&mut self, now: Instant) -> u64 {
        let (begin, end) = *self.bounds.get_or_insert_with(|| (now, now + SLICE));
        if now >= end {
            let passed = now.saturating_duration_since(begin);
            let within = Duration::new(passed.as_secs() % SLICE.as_secs(), passed.subsec_nanos());
            self.number += passed.as_secs() / SLICE.as_secs();
            self.bounds = Some((now - within, now - within + SLICE));
        }
        self.number
    }
}

/// What a [`Windows`] held at one instant.
#[derive(Clone, Debug)]
pub struct Window {
    ttfb: Histogram<u32>,
    rtf: Histogram<u32>,
}

impl Window {
    /// TTFB in seconds at `percentile` (0 to 100), the wait included; `None` without a sample.
    #[must_use]
    pub fn ttfb_seconds(&self, percentile: f64) -> Option<f64> {
        value(&self.ttfb, percentile)
    }

    /// RTF at `percentile` (0 to 100); `None` without a sample.
    #[must_use]
    pub fn rtf(&self, percentile: f64) -> Option<f64> {
        value(&self.rtf, percentile)
    }

    /// How many syntheses the TTFB rests on.
    #[must_use]
    pub fn ttfb_samples(&self) -> u64 {
        self.ttfb.len()
    }

    /// How many syntheses the RTF rests on.
    #[must_use]
    pub fn rtf_samples(&self) -> u64 {
        self.rtf.len()
    }
}

fn histogram() -> Histogram<u32> {
    // Provable: 1 is at least 1, VALUE_MAX at least twice that, and 2 digits are within 0 to 5.
    Histogram::new_with_bounds(1, VALUE_MAX, 2).expect("bounds are constants")
}

fn place(number: u64) -> usize {
    // The remainder is below SLICES.
    usize::try_from(number % SLICES as u64).unwrap_or_default()
}

/// Rounded to the nearest, so that 1.0004 reads 1.000 as it does in `armchair`'s summary.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped; a NaN becomes 0")]
fn thousandths(rtf: f64) -> u64 {
    (rtf * 1000.0).round().clamp(0.0, VALUE_MAX as f64) as u64
}

fn value(histogram: &Histogram<u32>, percentile: f64) -> Option<f64> {
    // The lower edge of the step: exactly 1 s reads 1.000 and not 1.003.
    (!histogram.is_empty())
        .then(|| histogram.lowest_equivalent(histogram.value_at_percentile(percentile)) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Format;
    use crate::target::Target;
    use proptest::prelude::*;

    fn start() -> Instant {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        Instant::now()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A synthesis within the guide's target.
    fn good() -> Measured {
        Measured {
            outcome: Outcome::Ok,
            format: Format::Wav,
            queue_wait: Duration::ZERO,
            ttfb: Some(Duration::from_millis(400)),
            upstream_ttfb: Some(Duration::from_millis(400)),
            rtf: Ok(0.5),
            rtf_between: None,
            audio: seconds(4),
            bytes: 192_044,
            underrun: Some(false),
            duration: seconds(2),
        }
    }

    /// By the clauses of the guide's target: success, ttfb, rtf, underrun.
    fn judged(code: u16, measured: &Measured) -> [Option<bool>; 4] {
        let target = Target::default();
        let judged: Vec<_> = target.clauses().map(|clause| judge(clause, code, measured)).collect();
        judged.try_into().unwrap()
    }

    #[test]
    fn a_synthesis_within_the_target_is_good_in_every_clause_up_to_the_edge() {
        assert_eq!(judged(200, &good()), [Some(true); 4]);
        let edge = Measured { ttfb: Some(seconds(1)), rtf: Ok(1.0), ..good() };
        assert_eq!(judged(200, &edge), [Some(true); 4]);
        let over = Measured {
            ttfb: Some(seconds(1) + Duration::from_nanos(1)),
            rtf: Ok(1.000_001),
            underrun: Some(true),
            ..good()
        };
        assert_eq!(judged(200, &over), [Some(true), Some(false), Some(false), Some(false)]);
    }

    #[test]
    fn the_wait_for_a_slot_counts_against_ttfb() {
        let waited = Measured { ttfb: Some(Duration::from_millis(1100)), ..good() };
        assert_eq!(judged(200, &waited)[1], Some(false));
    }

    #[test]
    fn the_engines_failures_are_bad_and_the_callers_own_are_no_event() {
        let ended = |outcome| Measured { outcome, rtf: Err(Unknown::Incomplete), ..good() };
        for outcome in [Outcome::EngineError, Outcome::EngineTimeout, Outcome::Truncated] {
            assert_eq!(judged(200, &ended(outcome))[0], Some(false), "{outcome:?}");
        }
        for outcome in [Outcome::CallerGone, Outcome::Refused] {
            assert_eq!(judged(200, &ended(outcome))[0], None, "{outcome:?}");
        }
        for (code, success) in [(400, None), (401, None), (422, None), (408, Some(false)), (429, Some(false))]
        {
            assert_eq!(judged(code, &ended(Outcome::EngineError))[0], success, "{code}");
        }
        for code in [500, 502, 503, 504] {
            assert_eq!(judged(code, &ended(Outcome::EngineError))[0], Some(false), "{code}");
        }
    }

    #[test]
    fn an_error_text_that_came_quickly_is_no_good_ttfb() {
        let error = Measured { outcome: Outcome::EngineError, rtf: Err(Unknown::Incomplete), ..good() };
        assert_eq!(judged(500, &error), [Some(false), None, None, None]);
    }

    #[test]
    fn an_answer_without_audio_is_no_success() {
        let silent = Measured { rtf: Err(Unknown::NoAudio), ttfb: None, audio: Duration::ZERO, ..good() };
        assert_eq!(judged(200, &silent), [Some(false), None, None, None]);
        let empty =
            Measured { rtf: Err(Unknown::ContentType), ttfb: None, bytes: 0, underrun: None, ..good() };
        assert_eq!(judged(200, &empty), [Some(false), None, None, None]);
    }

    #[test]
    fn what_cannot_be_read_counts_for_success_and_ttfb_alone() {
        let unread = Measured { rtf: Err(Unknown::ContentType), underrun: None, ..good() };
        assert_eq!(judged(200, &unread), [Some(true), Some(true), None, None]);
    }

    #[test]
    fn an_rtf_in_doubt_counts_where_its_bounds_are_on_one_side() {
        for (between, verdict) in [((0.1, 0.9), Some(true)), ((1.2, 3.0), Some(false)), ((0.9, 1.1), None)] {
            let doubtful = Measured { rtf: Err(Unknown::SlowCaller), rtf_between: Some(between), ..good() };
            assert_eq!(judged(200, &doubtful), [Some(true), Some(true), verdict, Some(true)], "{between:?}");
        }
    }

    #[test]
    fn a_window_without_samples_has_no_percentile() {
        let window = Windows::default().view(start());
        assert_eq!((window.ttfb_seconds(50.0), window.rtf(99.0)), (None, None));
    }

    #[test]
    fn a_window_forgets_what_is_older_than_itself_and_nothing_younger() {
        let start = start();
        let mut windows = Windows::default();
        windows.record(start, Some(seconds(1)), Some(0.5));
        assert_eq!(windows.view(start + WINDOW).ttfb_samples(), 1);
        assert_eq!(windows.view(start + WINDOW + SLICE).ttfb_samples(), 0);
        assert_eq!(windows.view(start + 1000 * WINDOW).rtf_samples(), 0);
    }

    #[test]
    fn edges_of_the_guides_target_read_as_they_are_written() {
        let start = start();
        let mut windows = Windows::default();
        windows.record(start, Some(seconds(1)), Some(1.0));
        let window = windows.view(start);
        assert_eq!((window.ttfb_seconds(99.0), window.rtf(99.0)), (Some(1.0), Some(1.0)));
    }

    #[test]
    fn values_beyond_the_scale_are_its_end_and_what_is_no_number_is_zero() {
        let start = start();
        let mut windows = Windows::default();
        windows.record(start, Some(Duration::MAX), Some(f64::INFINITY));
        let window = windows.view(start);
        assert!(window.ttfb_seconds(50.0).is_some_and(|ttfb| ttfb > 119.0), "{window:?}");
        assert!(window.rtf(50.0).is_some_and(|rtf| rtf > 119.0));
        windows.record(start + 2 * WINDOW, None, Some(f64::NAN));
        assert_eq!(windows.view(start + 2 * WINDOW).rtf(50.0), Some(0.0));
    }

    #[test]
    fn a_clock_that_lags_behind_another_threads_loses_no_sample() {
        let start = start();
        let mut windows = Windows::default();
        windows.record(start + WINDOW + SLICE, Some(seconds(1)), None);
        // The same place in the ring, one round earlier.
        windows.record(start, Some(seconds(1)), None);
        assert_eq!(windows.view(start + WINDOW + SLICE).ttfb_samples(), 2);
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_samples_in_the_window(
            // Time since the sample before, and TTFB, in milliseconds: some windows forget, some do not.
            samples in prop::collection::vec((0_u64..30_000, 1_u64..20_000), 1..200),
            percentile in 1.0_f64..100.0,
        ) {
            let start = start();
            let (mut windows, mut at, mut all) = (Windows::default(), 0, Vec::new());
            for (gap, ttfb) in samples {
                at += gap;
                all.push((at, ttfb));
                windows.record(start + Duration::from_millis(at), Some(Duration::from_millis(ttfb)), None);
            }
            let window = windows.view(start + Duration::from_millis(at));
            // Slices are counted from the first sample.
            let slice = |at: u64| (at - all[0].0) / 10_000;
            let mut inside: Vec<_> =
                all.iter().filter(|(then, _)| slice(at) - slice(*then) < SLICES as u64).map(|(_, ttfb)| *ttfb).collect();
            inside.sort_unstable();
            prop_assert_eq!(window.ttfb_samples(), inside.len() as u64);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let rank = ((percentile / 100.0 * inside.len() as f64).ceil() as usize).clamp(1, inside.len());
            let exact = inside[rank - 1] as f64 / 1000.0;
            let read = window.ttfb_seconds(percentile).unwrap();
            prop_assert!(read <= exact && read >= exact * (1.0 - 1.0 / 128.0), "{} for {}", read, exact);
        }
    }
}
