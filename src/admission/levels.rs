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
    /// Until when the level is written down.
    since: Option<Instant>,
    /// Slot-seconds since the start.
    integral: f64,
}

/// Windows that the record of levels answers for.
pub const WINDOWS: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(3600)];

/// Whole slices of a ring, and the one being filled.
const SLICES: u64 = 31;
const FINE: Duration = Duration::from_secs(10);
const COARSE: Duration = Duration::from_secs(120);
const _: () =
    assert!(FINE.as_secs() * (SLICES - 1) == WINDOWS[1].as_secs(), "the fine ring holds five minutes");
const _: () = assert!(COARSE.as_secs() * (SLICES - 1) == WINDOWS[2].as_secs(), "the coarse one an hour");
const _: () = assert!(COARSE.as_micros() * (SLICES as u128) < u32::MAX as u128, "counted in microseconds");

/// The greatest level told apart. Levels are exact up to 255, and within 0.8 % above.
const LEVEL_MAX: u64 = 65_535;

impl Record {
    pub(super) fn new() -> Self {
        Self { fine: Ring::new(FINE), coarse: Ring::new(COARSE), since: None, integral: 0.0 }
    }

    /// Until `now`, `running` were in flight. To be called before each change of `running`.
    pub(super) fn passed(&mut self, now: Instant, running: u32) {
        let since = *self.since.get_or_insert(now);
        let held = now.saturating_duration_since(since);
        if held.is_zero() {
            return;
        }
        self.since = Some(now);
        self.integral += f64::from(running) * held.as_secs_f64();
        if running > 0 {
            self.fine.held(since, held, running);
            self.coarse.held(since, held, running);
        }
    }

    /// From `now` on, `running` are in flight.
    pub(super) fn reached(&mut self, now: Instant, running: u32) {
        self.fine.reached(now, running);
        self.coarse.reached(now, running);
    }

    /// Slot-seconds up to the last change told: the difference of two, by the time between them, is the mean level.
    pub(super) const fn integral(&self) -> f64 {
        self.integral
    }

    /// What was in flight over each of [`WINDOWS`], while `running` are now.
    pub(super) fn view(&mut self, now: Instant, running: u32) -> [Levels; WINDOWS.len()] {
        self.passed(now, running);
        if running > 0 {
            self.reached(now, running);
        }
        let [minute, minutes, _] = WINDOWS;
        [self.fine.view(now, minute), self.fine.view(now, minutes), self.coarse.view(now, WINDOWS[2])]
    }
}

/// Time slices of one length, each a histogram of levels in microseconds.
#[derive(Debug)]
struct Ring {
    length: Duration,
    origin: Option<Instant>,
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
    fn new(length: Duration) -> Self {
        let slice = |_| Slice { number: 0, peak: 0, time: histogram() };
        Self { length, origin: None, slices: (0..SLICES).map(slice).collect() }
    }

    fn held(&mut self, since: Instant, held: Duration, running: u32) {
        let origin = *self.origin.get_or_insert(since);
        let end = since.saturating_duration_since(origin) + held;
        // What is older than the ring is forgotten before it is written.
        let span = self.length * u32::try_from(SLICES).unwrap_or(u32::MAX);
        let mut at = (end - held).max(end.saturating_sub(span));
        while at < end {
            let number = self.number(at);
            let next = self.length.saturating_mul(u32::try_from(number + 1).unwrap_or(u32::MAX));
            let until = end.min(next.max(at + Duration::from_nanos(1)));
            // Rounded at both ends, so that many short stretches add up to the long one that they are.
            let micros = until.as_micros() - at.as_micros();
            self.slice(number).note(running, u32::try_from(micros).unwrap_or(u32::MAX));
            at = until;
        }
    }

    fn reached(&mut self, now: Instant, running: u32) {
        let origin = *self.origin.get_or_insert(now);
        let number = self.number(now.saturating_duration_since(origin));
        self.slice(number).note(running, 0);
    }

    fn number(&self, at: Duration) -> u64 {
        u64::try_from(at.as_nanos() / self.length.as_nanos()).unwrap_or(u64::MAX)
    }

    fn slice(&mut self, number: u64) -> &mut Slice {
        // The remainder is below SLICES.
        let slice = &mut self.slices[usize::try_from(number % SLICES).unwrap_or_default()];
        if slice.number < number {
            slice.number = number;
            slice.peak = 0;
            slice.time.reset();
        }
        slice
    }

    fn view(&self, now: Instant, window: Duration) -> Levels {
        let Some(origin) = self.origin else { return Levels::default() };
        let newest = self.number(now.saturating_duration_since(origin));
        let reach = self.number(window);
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
    fn note(&mut self, running: u32, micros: u32) {
        self.peak = self.peak.max(running);
        if micros > 0 {
            // A level that is off the scale counts as its end.
            let level = u64::from(running).clamp(1, LEVEL_MAX);
            let _ = self.time.record_n(level, micros);
        }
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
            record.reached(now, *level);
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
