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
/// - `rtf`: of every synthesis that has one.
/// - `underrun`: of every 2xx answer that sounded and could be read.
#[must_use]
pub fn judge(clause: &Clause, code: u16, measured: &Measured) -> Option<bool> {
    let sounded = is_2xx(code) && measured.ttfb.is_some();
    let success = match clause {
        Clause::Success { .. } => succeeded(code, measured)?,
        Clause::Ttfb { .. } | Clause::Rtf { .. } | Clause::Underrun { .. } => false,
    };
    clause.is_good(&target::Measured {
        success,
        ttfb: measured.ttfb.filter(|_| sounded),
        rtf: measured.rtf.ok(),
        underrun: measured.underrun.filter(|_| sounded),
    })
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
    /// The first instant ever told; slices are counted from it.
    origin: Option<Instant>,
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
        Self { origin: None, slices: (0..SLICES).map(slice).collect() }
    }
}

impl Windows {
    /// Takes what one synthesis came to at `now`; TTFB with the wait.
    pub fn record(&mut self, now: Instant, ttfb: Option<Duration>, rtf: Option<f64>) {
        let number = self.number(now);
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
        let number = self.number(now);
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

    fn number(&mut self, now: Instant) -> u64 {
        let origin = *self.origin.get_or_insert(now);
        now.saturating_duration_since(origin).as_secs() / SLICE.as_secs()
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
