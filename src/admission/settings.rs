//! What an operator decides about admission.

use std::num::NonZeroU32;
use std::time::Duration;

/// What to do with a caller who finds every slot taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for a slot, bounded by [`Settings::queue_max`] and [`Settings::queue_wait_max`].
    Queue,
    /// Refuse at once.
    Reject,
    /// Let in, however many run: the limit is only looked at, to learn what load there is.
    Observe,
}

/// How long a caller may wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueWaitMax {
    /// This long.
    Fixed(Duration),
    /// What the target leaves: `target_ttfb` less the p99 of the upstream TTFB of late, and less a margin of a
    /// twenty-fifth for the caller's own way; half of `target_ttfb` until enough were seen; never negative. A caller
    /// who waited longer would be late even with a slot.
    Auto {
        /// The TTFB that the caller was promised, wait included.
        target_ttfb: Duration,
    },
}

/// What an operator decides about admission. Every field may be changed while the gate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many syntheses may run at once (`concurrency_max`).
    pub limit: NonZeroU32,
    /// What to do when they do.
    pub when_full: WhenFull,
    /// How many may wait. Zero means that nobody waits.
    pub queue_max: u32,
    /// How long each may wait.
    pub queue_wait_max: QueueWaitMax,
}

impl Settings {
    /// The defaults of `proxy.toml` for this limit: a queue of 64, and a wait that fits a TTFB of one second.
    #[must_use]
    pub const fn new(limit: NonZeroU32) -> Self {
        Self {
            limit,
            when_full: WhenFull::Queue,
            queue_max: 64,
            queue_wait_max: QueueWaitMax::Auto { target_ttfb: Duration::from_secs(1) },
        }
    }
}
