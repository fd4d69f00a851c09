//! When text of a synthesis reached its engine, told from one task to another. Looks at no text.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// When text reached the engine, told by whoever sends it, read by whoever meters the answer.
#[derive(Debug)]
pub struct Texts {
    origin: Instant,
    /// Nanoseconds from `origin` to the last text that was not taken yet; 0 is none.
    last: AtomicU64,
    /// Text has come since the last sweep.
    stirred: AtomicBool,
    /// More may come.
    open: AtomicBool,
}

impl Default for Texts {
    fn default() -> Self {
        let last = AtomicU64::new(0);
        Self { origin: Instant::now(), last, stirred: AtomicBool::new(true), open: AtomicBool::new(true) }
    }
}

impl Texts {
    /// Text that can be spoken goes to the engine now.
    pub fn came(&self) {
        let at = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.store(at.max(1), Relaxed);
        self.stirred.store(true, Relaxed);
    }

    /// No more will come.
    pub fn ended(&self) {
        self.stirred.store(true, Relaxed);
        self.open.store(false, Relaxed);
    }

    /// Whether more may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    pub(super) fn take(&self) -> Option<Instant> {
        // Looked at for every chunk of audio, and mostly there is none: a plain load then.
        if self.last.load(Relaxed) == 0 {
            return None;
        }
        Some(self.origin + Duration::from_nanos(self.last.swap(0, Relaxed)))
    }

    /// Whether text came since this was last asked, and whether more may come.
    pub(super) fn since_last_sweep(&self) -> (bool, bool) {
        (self.stirred.swap(false, Relaxed), self.is_open())
    }
}
