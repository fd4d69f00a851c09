//! Decides when a connection has been silent for too long. Time is an argument; the connection tells what happens on
//! it, a few stores a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config::Limits;

/// What happens on one connection, told by its IO and its requests, read by its [`Watchdog`].
#[derive(Debug)]
pub(super) struct Watch {
    born: Instant,
    /// Requests whose answer has not been handed over completely.
    requests: AtomicU32,
    /// Milliseconds from `born` to the end of the last request.
    idle_from: AtomicU64,
    /// Milliseconds from `born` to the first byte of a head that is not complete yet, plus one; 0 is none.
    head_from: AtomicU64,
    /// It came in this turn: most heads are complete before anybody has looked at the clock.
    head_is_new: AtomicBool,
    /// Writes that made progress.
    writes: AtomicU64,
    /// The caller's socket takes nothing now.
    blocked: AtomicBool,
}

impl Watch {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            born: now,
            requests: AtomicU32::new(0),
            idle_from: AtomicU64::new(0),
            head_from: AtomicU64::new(0),
            head_is_new: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
        }
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Whether the next byte that arrives begins a head.
    pub(super) fn expects_head(&self) -> bool {
        self.requests.load(Relaxed) == 0
            && self.head_from.load(Relaxed) == 0
            && !self.head_is_new.load(Relaxed)
    }

    /// Whether a request is being served.
    pub(super) fn is_serving(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// The first byte of a head has come.
    pub(super) fn head_began(&self) {
        self.head_is_new.store(true, Relaxed);
    }

    /// The connection's turn is over: a head that began in it and is not complete began `now`.
    pub(super) fn turned(&self, now: impl FnOnce() -> Instant) {
        if self.head_is_new.load(Relaxed) {
            self.head_is_new.store(false, Relaxed);
            self.head_from.store(self.at(now()) + 1, Relaxed);
        }
    }

    /// What arrived is a whole head, or began none.
    pub(super) fn head_ended(&self) {
        self.head_is_new.store(false, Relaxed);
        self.head_from.store(0, Relaxed);
    }

    pub(super) fn wrote(&self) {
        self.writes.fetch_add(1, Relaxed);
        self.blocked.store(false, Relaxed);
    }

    pub(super) fn write_blocked(&self) {
        self.blocked.store(true, Relaxed);
    }

    /// A head is complete: its request is served until the value is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Serving {
        self.head_ended();
        self.requests.fetch_add(1, Relaxed);
        Serving(Arc::clone(self))
    }

    fn request_ended(&self, now: Instant) {
        self.idle_from.store(self.at(now), Relaxed);
        self.requests.fetch_sub(1, Relaxed);
    }
}

/// One request being served; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Serving(Arc<Watch>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.request_ended(tokio::time::Instant::now().into_std());
    }
}

/// What a look at a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Silent for too long, and why.
    Close(&'static str),
    /// Look again then.
    LookAgain(Instant),
}

/// Looks at one connection from time to time.
#[derive(Debug)]
pub(super) struct Watchdog {
    header_timeout: Duration,
    idle_timeout: Duration,
    caller_stall_timeout: Duration,
    /// Writes at the last look, and since when they have stood there with the socket blocked.
    stuck: Option<(u64, Instant)>,
}

impl Watchdog {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self {
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            caller_stall_timeout: limits.caller_stall_timeout,
            stuck: None,
        }
    }

    /// No limit is passed by more than the time between two looks.
    pub(super) fn look(&mut self, watch: &Watch, now: Instant) -> Verdict {
        if self.is_stuck(watch, now) {
            return Verdict::Close("the caller reads nothing");
        }
        let next = now + self.header_timeout.min(self.caller_stall_timeout);
        if watch.requests.load(Relaxed) > 0 {
            return Verdict::LookAgain(next);
        }
        let after = |milliseconds| watch.born + Duration::from_millis(milliseconds);
        let (end, reason) = match watch.head_from.load(Relaxed).checked_sub(1) {
            Some(head_from) => (after(head_from) + self.header_timeout, "the head did not arrive in time"),
            None => (after(watch.idle_from.load(Relaxed)) + self.idle_timeout, "idle"),
        };
        if end <= now { Verdict::Close(reason) } else { Verdict::LookAgain(end.min(next)) }
    }

    fn is_stuck(&mut self, watch: &Watch, now: Instant) -> bool {
        let writes = watch.writes.load(Relaxed);
        if !watch.blocked.load(Relaxed) {
            self.stuck = None;
            return false;
        }
        match self.stuck {
            Some((before, since)) if before == writes => now - since >= self.caller_stall_timeout,
            _ => {
                self.stuck = Some((writes, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            header_timeout: 10 * SECOND,
            idle_timeout: 330 * SECOND,
            caller_stall_timeout: 10 * SECOND,
            ..Limits::default()
        }
    }

    fn begun() -> (Arc<Watch>, Watchdog, Instant) {
        let now = tokio::time::Instant::now().into_std();
        (Arc::new(Watch::new(now)), Watchdog::new(&limits()), now)
    }

    #[test]
    fn a_head_that_trickles_in_is_cut_off_at_its_timeout() {
        let (watch, mut dog, now) = begun();
        watch.head_began();
        watch.turned(|| now + 4 * SECOND);
        assert_eq!(dog.look(&watch, now + 5 * SECOND), Verdict::LookAgain(now + 14 * SECOND));
        assert!(matches!(dog.look(&watch, now + 14 * SECOND), Verdict::Close(_)));
    }

    #[test]
    fn an_idle_connection_is_kept_for_the_idle_timeout_and_no_longer() {
        let (watch, mut dog, now) = begun();
        assert_eq!(dog.look(&watch, now + SECOND), Verdict::LookAgain(now + 11 * SECOND));
        assert_eq!(dog.look(&watch, now + 325 * SECOND), Verdict::LookAgain(now + 330 * SECOND));
        assert_eq!(dog.look(&watch, now + 330 * SECOND), Verdict::Close("idle"));
    }

    #[test]
    fn a_request_may_take_as_long_as_it_likes() {
        let (watch, mut dog, now) = begun();
        watch.head_began();
        watch.turned(|| now);
        let serving = watch.request();
        assert!(matches!(dog.look(&watch, now + 10_000 * SECOND), Verdict::LookAgain(_)));
        drop(serving);
    }

    #[test]
    fn a_caller_that_reads_nothing_is_closed_and_one_that_reads_slowly_is_not() {
        let (watch, mut dog, now) = begun();
        let _serving = watch.request();
        watch.write_blocked();
        assert!(matches!(dog.look(&watch, now), Verdict::LookAgain(_)));
        watch.wrote();
        watch.write_blocked();
        assert!(matches!(dog.look(&watch, now + 10 * SECOND), Verdict::LookAgain(_)));
        assert!(matches!(dog.look(&watch, now + 19 * SECOND), Verdict::LookAgain(_)));
        assert!(matches!(dog.look(&watch, now + 20 * SECOND), Verdict::Close(_)));
    }
}
