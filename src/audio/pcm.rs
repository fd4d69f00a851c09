//! Counts headerless samples of a known size and rate. Ignores their values, so never looks at a byte.

use super::{RATES, Unknown, time};
use std::time::Duration;

/// Samples without a header: `audio/L16` (little-endian at Rime, despite the name), `audio/pcm`, µ-law.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pcm {
    bytes: u64,
    /// Samples per second and channel. 0: nobody told one that can be.
    rate: u32,
    /// Bytes of one sample over all channels, at least 1.
    frame: u32,
}

impl Pcm {
    pub(super) fn new(rate: Option<u32>, frame: u32) -> Self {
        let rate = rate.filter(|rate| RATES.contains(rate)).unwrap_or(0);
        Self { bytes: 0, rate, frame: frame.max(1) }
    }

    pub(super) fn feed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn audio(&self) -> Duration {
        time(self.bytes / u64::from(self.frame), self.rate)
    }

    pub(super) fn started(&self) -> bool {
        self.bytes > 0
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        (self.rate == 0).then_some(Unknown::Rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_split_over_two_chunks_is_counted_once() {
        let mut pcm = Pcm::new(Some(24_000), 2);
        pcm.feed(1);
        assert!(pcm.started());
        assert_eq!(pcm.audio(), Duration::ZERO);
        pcm.feed(47_999);
        assert_eq!(pcm.audio(), Duration::from_secs(1));
    }

    #[test]
    fn samples_without_a_rate_have_no_time() {
        let mut pcm = Pcm::new(None, 2);
        pcm.feed(4_800);
        assert_eq!((pcm.audio(), pcm.unknown()), (Duration::ZERO, Some(Unknown::Rate)));
    }
}
