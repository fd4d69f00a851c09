//! How many syntheses were in flight of late, and for how long each number held. Decides nothing; has no clock.
//!
//! Shares are of the time in which at least one was: an idle night says nothing about a load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// What was in flight over one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Levels {
    /// The most at once.
    pub peak: u32,
    /// Half of the time, so many or fewer.
    pub p50: u32,
    /// Nine tenths of the time, so many or fewer.
    pub p90: u32,
    /// All but a hundredth of the time, so many or fewer: what `concurrency_max` is set to, to let the same load pass.
    pub p99: u32,
    /// The time-weighted mean.
    pub mean: f64,
    /// How long at least one was in flight.
    pub busy: Duration,
}

/// The levels of the last minute, five minutes and hour. About 320 KB, taken at the start.
#[derive(Debug)]
pub(super) struct Record {
    fine: Ring,
    coarse: Ring,
    filling: Filling,
    /// The first instant ever told; nanoseconds are counted from it.
    origin: Option<Instant>,
    /// The last one: until then the level is written down.
    told: Option<Instant>,
    /// The same, in nanoseconds.
    since: u64,
    /// Slot-seconds since the start.
    integral: f64,
}

/// Windows that the record of levels answers for.
pub const WINDOWS: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(3600)];

/// Whole slices of a ring, and the one being filled.
const SLICES: u64 = 31;
const FINE: Duration = Duration::from_secs(10);
/// How many fine slices make a coarse one.
const COARSE: u64 = 12;
const _: () =
    assert!(FINE.as_secs() * (SLICES - 1) == WINDOWS[1].as_secs(), "the fine ring holds five minutes");
const _: () =
    assert!(FINE.as_secs() * COARSE * (SLICES - 1) == WINDOWS[2].as_secs(), "the coarse one an hour");
const _: () =
    assert!(FINE.as_secs() * COARSE * SLICES * 1_000_000 < u32::MAX as u64, "counted in microseconds");

/// A fine slice, in nanoseconds.
const FINE_NANOS: u64 = FINE.as_secs() * 1_000_000_000;

/// The greatest level told apart. Levels are exact up to 255, and within 0.8 % above.
const LEVEL_MAX: u64 = 65_535;
const EXACT_MAX: usize = 255;

impl Record {
    pub(super) fn new() -> Self {
        let (fine, coarse) = (Ring::new(1), Ring::new(COARSE));
        Self { fine, coarse, filling: Filling::new(), origin: None, told: None, since: 0, integral: 0.0 }
    }

    /// Until `now`, `running` were in flight. To be called before each change of `running`. Returns the seconds since it
    /// was last called.
    pub(super) fn passed(&mut self, now: Instant, running: u32) -> f64 {
        // Several steps of one moment, or another thread's later clock: all is written down.
        if self.told.is_some_and(|told| now <= told) {
            return 0.0;
        }
        self.told = Some(now);
        let until = self.nanos(now);
        let since = std::mem::replace(&mut self.since, until);
        let seconds = (until - since) as f64 / 1e9;
        self.integral += f64::from(running) * seconds;
        if running > 0 {
            self.held(since, until, running);
        }
        seconds
    }

    /// From then on, `running` are in flight.
    pub(super) fn reached(&mut self, running: u32) {
        if self.since >= self.filling.end {
            self.turn(self.since);
        }
        self.filling.peak = self.filling.peak.max(running);
    }

    /// Slot-seconds up to the last change told: the difference of two, by the time between them, is the mean level.
    pub(super) const fn integral(&self) -> f64 {
        self.integral
    }

    /// What was in flight over each of [`WINDOWS`], while `running` are now.
    pub(super) fn view(&mut self, now: Instant, running: u32) -> [Levels; WINDOWS.len()] {
        self.passed(now, running);
        if running > 0 {
            self.reached(running);
        }
        self.settle();
        let newest = self.nanos(now) / FINE_NANOS;
        let [minute, minutes, hour] = WINDOWS;
        [self.fine.view(newest, minute), self.fine.view(newest, minutes), self.coarse.view(newest, hour)]
    }

    /// Nanoseconds from the origin: 584 years of them.
    fn nanos(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(*self.origin.get_or_insert(now));
        passed.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(passed.subsec_nanos()))
    }

    fn held(&mut self, since: u64, until: u64, running: u32) {
        // What is older than the rings is forgotten before it is written.
        let mut at = since.max(until.saturating_sub(FINE_NANOS * COARSE * SLICES));
        while at < until {
            if at >= self.filling.end {
                self.turn(at);
            }
            let next = until.min(self.filling.end);
            // Rounded at both ends, so that many short stretches add up to the long one that they are.
            let micros = u32::try_from(next / 1_000 - at / 1_000).unwrap_or(u32::MAX);
            self.filling.peak = self.filling.peak.max(running);
            match self.filling.micros.get_mut(running as usize) {
                Some(so_far) => *so_far += micros,
                None => self.write(running, micros),
            }
            at = next;
        }
    }

    /// From now on the slice is filled that `at` lies in.
    fn turn(&mut self, at: u64) {
        self.settle();
        self.filling.number = at / FINE_NANOS;
        self.filling.end = (self.filling.number + 1) * FINE_NANOS;
        self.filling.peak = 0;
    }

    /// Brings the rings up to date.
    fn settle(&mut self) {
        let Filling { number, peak, .. } = self.filling;
        self.fine.slice(number).peak = peak;
        let coarse = self.coarse.slice(number);
        coarse.peak = coarse.peak.max(peak);
        let levels = self.filling.micros.len().min(peak as usize + 1);
        for level in 0..levels {
            let micros = std::mem::take(&mut self.filling.micros[level]);
            self.write(u32::try_from(level).unwrap_or(u32::MAX), micros);
        }
    }

    fn write(&mut self, level: u32, micros: u32) {
        if micros > 0 {
            self.fine.slice(self.filling.number).note(level, micros);
            self.coarse.slice(self.filling.number).note(level, micros);
        }
    }
}

/// The fine slice being filled. It is written to twice a synthesis: in plain counts, that go to the rings' histograms
/// when it is full or looked at.
#[derive(Debug)]
struct Filling {
    /// Which fine slice since the origin it is.
    number: u64,
    /// When it is full, in nanoseconds since the origin.
    end: u64,
    peak: u32,
    /// At each level up to [`EXACT_MAX`].
    micros: Vec<u32>,
}

impl Filling {
    fn new() -> Self {
        Self { number: 0, end: FINE_NANOS, peak: 0, micros: vec![0; EXACT_MAX + 1] }
    }
}

/// Time slices of one length, each a histogram of levels in microseconds.
#[derive(Debug)]
struct Ring {
    /// In fine slices.
    length: u64,
    slices: Vec<Slice>,
}

#[derive(Debug)]
struct Slice {
    /// Which slice since the origin is in this place of the ring.
    number: u64,
    peak: u32,
    time: Histogram<u32>,
}

impl Ring {
    fn new(length: u64) -> Self {
        let slice = |_| Slice { number: 0, peak: 0, time: histogram() };
        Self { length, slices: (0..SLICES).map(slice).collect() }
    }

    /// The slice that the fine slice `fine` is in.
    fn slice(&mut self, fine: u64) -> &mut Slice {
        let number = fine / self.length;
        // The remainder is below SLICES.
        let slice = &mut self.slices[usize::try_from(number % SLICES).unwrap_or_default()];
        if slice.number < number {
            slice.number = number;
            slice.peak = 0;
            slice.time.reset();
        }
        slice
    }

    /// The window that ends in the fine slice `newest`.
    fn view(&self, newest: u64, window: Duration) -> Levels {
        let newest = newest / self.length;
        let reach = window.as_secs() / FINE.as_secs() / self.length;
        let (mut time, mut peak) = (histogram(), 0);
        let inside = self.slices.iter().filter(|slice| slice.number + reach >= newest);
        for slice in inside.filter(|slice| slice.peak > 0) {
            peak = peak.max(slice.peak);
            // Equal shape: the one error there is cannot occur.
            let _ = time.add(&slice.time);
        }
        // A level is at most LEVEL_MAX, and at most the peak.
        let at = |share| u32::try_from(time.value_at_quantile(share)).unwrap_or(u32::MAX).min(peak);
        let busy = Duration::from_micros(time.len());
        let mean = if time.is_empty() { 0.0 } else { time.mean() };
        Levels { peak, p50: at(0.5), p90: at(0.9), p99: at(0.99), mean, busy }
    }
}

impl Slice {
    fn note(&mut self, level: u32, micros: u32) {
        // A level that is off the scale counts as its end.
        let _ = self.time.record_n(u64::from(level).clamp(1, LEVEL_MAX), micros);
    }
}

fn histogram() -> Histogram<u32> {
    // Provable: 1 is at least 1, LEVEL_MAX at least twice that, and 2 digits are within 0 to 5.
    Histogram::new_with_bounds(1, LEVEL_MAX, 2).expect("bounds are constants")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> Instant {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        Instant::now()
    }

    /// Plays stretches of so many milliseconds at a level, and looks at the end.
    fn played(stretches: &[(u64, u32)]) -> [Levels; 3] {
        let (mut record, mut now) = (Record::new(), start());
        for (millis, level) in stretches {
            record.passed(now, 0);
            record.reached(*level);
            now += Duration::from_millis(*millis);
            record.passed(now, *level);
        }
        record.view(now, 0)
    }

    #[test]
    fn a_level_weighs_as_long_as_it_held() {
        // 200 sessions may start at once for a moment; what they mostly are is what counts.
        let [minute, ..] = played(&[(10, 14), (30_000, 12), (20_000, 3)]);
        assert_eq!((minute.peak, minute.p99, minute.p90, minute.p50), (14, 12, 12, 12));
        assert_eq!(minute.busy, Duration::from_millis(50_010));
        assert!((minute.mean - 8.4).abs() < 0.01, "{}", minute.mean);
    }

    #[test]
    fn idle_time_weighs_nothing() {
        let [_, minutes, _] = played(&[(5_000, 7), (200_000, 0), (5_000, 7)]);
        assert_eq!((minutes.p50, minutes.busy), (7, Duration::from_secs(10)));
    }

    #[test]
    fn each_window_forgets_what_is_older_than_itself() {
        let [minute, minutes, hour] = played(&[(5_000, 30), (200_000, 2)]);
        assert_eq!((minute.peak, minutes.peak, hour.peak), (2, 30, 30));
        let [_, minutes, hour] = played(&[(5_000, 30), (400_000, 2)]);
        assert_eq!((minutes.peak, hour.peak), (2, 30));
        let [_, _, hour] = played(&[(5_000, 30), (4_000_000, 2)]);
        assert_eq!((hour.peak, hour.p99), (2, 2));
    }

    proptest! {
        #[test]
        fn shares_are_those_of_the_time_at_each_level(
            stretches in prop::collection::vec((1_u64..4_000, 0_u32..200), 1..60),
        ) {
            let [_, minutes, _] = played(&stretches);
            let busy: u64 = stretches.iter().filter(|(_, level)| *level > 0).map(|(millis, _)| millis).sum();
            prop_assert_eq!(minutes.busy, Duration::from_millis(busy));
            prop_assert_eq!(minutes.peak, stretches.iter().map(|(_, level)| *level).max().unwrap());
            for (share, read) in [(0.5, minutes.p50), (0.9, minutes.p90), (0.99, minutes.p99)] {
                let at_most = |level: u32| -> u64 {
                    stretches.iter().filter(|(_, of)| *of > 0 && *of <= level).map(|(millis, _)| millis).sum()
                };
                // The least level that holds for the share of the time.
                let needed = (share * busy as f64 - 1.0).max(0.0);
                prop_assert!(at_most(read) as f64 >= needed, "{} at {}", read, share);
                if read > 1 {
                    prop_assert!((at_most(read - 1) as f64) < share * busy as f64 + 1.0, "{} at {}", read, share);
                }
            }
        }
    }
}
