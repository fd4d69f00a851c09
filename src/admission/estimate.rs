//! What the recent past says about the near future: how long a slot is held, and how long the engine takes
//! to its first byte. Decides nothing; has no clock.

use std::time::{Duration, Instant};

/// Slots come free at `limit / mean holding time`, by Little's law. The mean is measured as the slot-seconds that
/// passed per release: time in which nothing ran counts for nothing, so a quiet night makes no pessimist of it.
/// Older releases weigh less and less, about [`MEMORY`](Self::MEMORY) of them count.
#[derive(Debug)]
pub(super) struct HoldingTime {
    slot_seconds: f64,
    releases: f64,
    seen: u32,
    /// Slot-seconds since the last release.
    pending: f64,
}

impl HoldingTime {
    /// How many releases the mean reaches back.
    const MEMORY: f64 = 64.0;
    /// Before this many releases there is no estimate. Right after a start the first releases are those of the
    /// shortest syntheses, and all the time that the others have run already counts.
    const ENOUGH: u32 = 20;
    /// One silence of the engine, however long, counts as at most this many mean holding times for a release. It
    /// bounds how long one stall is held against the callers who come after it.
    const OUTLIER: f64 = 8.0;

    pub(super) const fn new() -> Self {
        Self { slot_seconds: 0.0, releases: 0.0, seen: 0, pending: 0.0 }
    }

    /// For so many seconds, `running` slots were held. To be called before each change of `running`.
    pub(super) fn passed(&mut self, seconds: f64, running: u32) {
        self.pending += f64::from(running) * seconds;
    }

    /// A slot came back.
    pub(super) fn released(&mut self) {
        let mut held = std::mem::take(&mut self.pending);
        if let Some(mean) = self.mean() {
            held = held.min(mean * Self::OUTLIER);
        }
        let keep = 1.0 - 1.0 / Self::MEMORY;
        self.slot_seconds = self.slot_seconds * keep + held;
        self.releases = self.releases * keep + 1.0;
        self.seen = self.seen.saturating_add(1);
    }

    /// Releases per second when all of `limit` slots are taken; `None` until enough were seen.
    pub(super) fn rate(&self, limit: u32) -> Option<f64> {
        Some(f64::from(limit) / self.mean()?)
    }

    /// Seconds that a slot is held, never zero.
    fn mean(&self) -> Option<f64> {
        (self.seen >= Self::ENOUGH).then(|| (self.slot_seconds / self.releases).max(1e-6))
    }
}

/// The engine's TTFB of late: the p99 of the last [`SAMPLES`](Self::SAMPLES), none older than
/// [`AGE_MAX`](Self::AGE_MAX).
#[derive(Debug)]
pub(super) struct UpstreamTtfb {
    samples: Vec<(Instant, Duration)>,
    next: usize,
    cached: Option<(Instant, Option<Duration>)>,
}

impl UpstreamTtfb {
    const SAMPLES: usize = 256;
    const AGE_MAX: Duration = Duration::from_secs(60);
    /// Fewer say nothing about a p99, not even about a slow one.
    const ENOUGH: usize = 16;
    /// How long a p99 stays good when nothing new was seen: samples only grow old.
    const CACHE_MAX: Duration = Duration::from_secs(1);
    /// Samples above the p99 in a full window.
    const ABOVE_MAX: usize = Self::SAMPLES / 100;

    pub(super) const fn new() -> Self {
        Self { samples: Vec::new(), next: 0, cached: None }
    }

    pub(super) fn observe(&mut self, now: Instant, ttfb: Duration) {
        if self.samples.len() < Self::SAMPLES {
            self.samples.reserve_exact(Self::SAMPLES - self.samples.len());
            self.samples.push((now, ttfb));
        } else {
            self.samples[self.next] = (now, ttfb);
            self.next = (self.next + 1) % Self::SAMPLES;
        }
        self.cached = None;
    }

    /// The p99 (nearest rank), `None` until enough were seen of late.
    pub(super) fn p99(&mut self, now: Instant) -> Option<Duration> {
        if let Some((at, p99)) = self.cached
            && now.saturating_duration_since(at) < Self::CACHE_MAX
        {
            return p99;
        }
        let p99 = self.scan(now);
        self.cached = Some((now, p99));
        p99
    }

    /// One pass that keeps the few largest: the window is small, and so exact costs no more than a histogram.
    fn scan(&self, now: Instant) -> Option<Duration> {
        let mut largest = [Duration::ZERO; Self::ABOVE_MAX + 1];
        let mut recent = 0;
        for (at, ttfb) in &self.samples {
            if now.saturating_duration_since(*at) > Self::AGE_MAX {
                continue;
            }
            recent += 1;
            if *ttfb > largest[Self::ABOVE_MAX] {
                largest[Self::ABOVE_MAX] = *ttfb;
                largest.sort_unstable_by(|a, b| b.cmp(a));
            }
        }
        (recent >= Self::ENOUGH).then(|| largest[recent / 100])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_does_not_slow_the_measured_rate() {
        let mut holding = HoldingTime::new();
        for _ in 0..100 {
            // Ten minutes of nothing, then half a second of one synthesis.
            holding.passed(600.0, 0);
            holding.passed(0.5, 1);
            holding.released();
        }
        let rate = holding.rate(20).expect("a hundred releases are enough");
        assert!((rate - 40.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn one_stall_is_forgotten_and_a_lasting_slowness_is_learnt() {
        let mut holding = HoldingTime::new();
        let releases = |holding: &mut HoldingTime, count: u32, every: Duration| {
            for _ in 0..count {
                holding.passed(every.as_secs_f64(), 10);
                holding.released();
            }
            holding.rate(10).expect("enough")
        };
        let normal = releases(&mut holding, 100, Duration::from_millis(100));
        assert!((normal - 10.0).abs() < 0.1, "{normal}");
        let stalled = releases(&mut holding, 1, Duration::from_secs(600));
        assert!(stalled > 8.0, "{stalled}");
        let slow = releases(&mut holding, 300, Duration::from_secs(5));
        assert!((slow - 0.2).abs() < 0.01, "{slow}");
        let again = releases(&mut holding, 500, Duration::from_millis(100));
        assert!(again > 9.0, "{again}");
    }

    #[test]
    fn the_p99_is_of_the_recent_and_unknown_until_enough_were_seen() {
        let start = tokio::time::Instant::now().into_std();
        let mut upstream = UpstreamTtfb::new();
        for n in 0..15 {
            upstream.observe(start, Duration::from_millis(n));
        }
        assert_eq!(upstream.p99(start), None);
        upstream.observe(start, Duration::from_millis(15));
        assert_eq!(upstream.p99(start), Some(Duration::from_millis(15)));
        for n in 0..256 {
            upstream.observe(start, Duration::from_millis(n));
        }
        // 256 samples 0..=255: two lie above the p99.
        assert_eq!(upstream.p99(start), Some(Duration::from_millis(253)));
        assert_eq!(upstream.p99(start + Duration::from_secs(61)), None);
    }
}
