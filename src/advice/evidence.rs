//! What syntheses came to at each level of load, over the last half to whole hour. Bounded: levels above 64 share bands of an
//! eighth, and a band takes its 10 KB when it is first seen.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Sample;
use super::windows::Count;

/// How long one of the two generations is filled.
const GENERATION: Duration = Duration::from_secs(1800);

/// Levels told apart one by one.
const EXACT: u32 = 64;

/// The greatest TTFB (milliseconds) and RTF (thousandths) told apart.
const VALUE_MAX: u64 = 20_000;

/// The band of a mean level: from 1 on, the nearest whole level up to [`EXACT`].
pub(super) fn band(level: f64) -> u16 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what there is")]
    let level = level.round().clamp(1.0, 65_535.0) as u32;
    if level <= EXACT {
        return u16::try_from(level).unwrap_or(u16::MAX);
    }
    let octave = ((level - 1) / EXACT).ilog2();
    let eighth = (level - 1 - (EXACT << octave)) / ((EXACT / 8) << octave);
    u16::try_from(EXACT + octave * 8 + eighth + 1).unwrap_or(u16::MAX)
}

/// The highest level of a band.
fn top(band: u16) -> u32 {
    let band = u32::from(band);
    if band <= EXACT {
        return band;
    }
    let (octave, eighth) = ((band - EXACT - 1) / 8, (band - EXACT - 1) % 8);
    (EXACT << octave) + (eighth + 1) * ((EXACT / 8) << octave)
}

/// What was seen at one band, or at several.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) samples: u64,
    pub(super) counts: [Count; 4],
    ttfb: Histogram<u32>,
    rtf: Histogram<u32>,
}

impl Cell {
    pub(super) fn new() -> Self {
        Self { samples: 0, counts: [Count::default(); 4], ttfb: histogram(), rtf: histogram() }
    }

    fn take(&mut self, sample: &Sample) {
        self.samples += 1;
        for (count, good) in self.counts.iter_mut().zip(&sample.judged) {
            count.add(*good);
        }
        if let Some(ttfb) = sample.ttfb {
            self.ttfb.saturating_record(u64::try_from(ttfb.as_millis()).unwrap_or(VALUE_MAX));
        }
        if let Some(rtf) = sample.rtf {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            self.rtf.saturating_record((rtf * 1000.0).round().clamp(0.0, VALUE_MAX as f64) as u64);
        }
    }

    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            count.events += more.events;
            count.bad += more.bad;
        }
        // Equal shape: the one error there is cannot occur.
        let _ = self.ttfb.add(&other.ttfb);
        let _ = self.rtf.add(&other.rtf);
    }

    /// TTFB in seconds at a percentile.
    pub(super) fn ttfb_seconds(&self, percentile: f64) -> Option<f64> {
        value(&self.ttfb, percentile)
    }

    /// RTF at a percentile.
    pub(super) fn rtf(&self, percentile: f64) -> Option<f64> {
        value(&self.rtf, percentile)
    }
}

fn value(histogram: &Histogram<u32>, percentile: f64) -> Option<f64> {
    (!histogram.is_empty())
        .then(|| histogram.lowest_equivalent(histogram.value_at_percentile(percentile)) as f64 / 1000.0)
}

fn histogram() -> Histogram<u32> {
    // Provable: 1 is at least 1, VALUE_MAX at least twice that, and 2 digits are within 0 to 5.
    Histogram::new_with_bounds(1, VALUE_MAX, 2).expect("bounds are constants")
}

/// Two generations of bands; the older is forgotten when the younger is full.
#[derive(Debug)]
pub(super) struct Evidence {
    begun: Option<Instant>,
    young: Vec<Option<Box<Cell>>>,
    old: Vec<Option<Box<Cell>>>,
}

impl Evidence {
    pub(super) const fn new() -> Self {
        Self { begun: None, young: Vec::new(), old: Vec::new() }
    }

    pub(super) fn record(&mut self, now: Instant, level: f64, sample: &Sample) {
        self.age(now);
        let band = usize::from(band(level));
        if self.young.len() <= band {
            self.young.resize_with(band + 1, || None);
        }
        self.young[band].get_or_insert_with(|| Box::new(Cell::new())).take(sample);
    }

    /// The engine is another one: what was seen says nothing of it.
    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// The highest level that was seen.
    pub(super) fn highest(&self) -> Option<u32> {
        let seen = |cells: &[Option<Box<Cell>>]| cells.iter().rposition(Option::is_some);
        let band = seen(&self.young).max(seen(&self.old))?;
        u16::try_from(band).ok().map(top)
    }

    /// What was seen from one level to another, both included.
    pub(super) fn between(&self, from: u32, to: u32) -> Cell {
        let mut sum = Cell::new();
        for cells in [&self.young, &self.old] {
            for (band, cell) in cells.iter().enumerate() {
                let level = u16::try_from(band).map_or(u32::MAX, top);
                if let Some(cell) = cell.as_ref().filter(|_| (from..=to).contains(&level)) {
                    sum.add(cell);
                }
            }
        }
        sum
    }

    pub(super) fn age(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        if now < begun + GENERATION {
            return;
        }
        let younger = now < begun + 2 * GENERATION;
        self.old = if younger { std::mem::take(&mut self.young) } else { Vec::new() };
        self.young.clear();
        self.begun = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_cover_every_level_once_and_none_is_wider_than_an_eighth() {
        let mut last = 0;
        for level in 1..=65_535_u32 {
            let band = band(f64::from(level));
            assert!(band == last || band == last + 1, "{level}");
            assert!(top(band) >= level && top(band) - level <= level / 8, "{level}");
            last = band;
        }
        assert!(last <= 144);
    }
}
