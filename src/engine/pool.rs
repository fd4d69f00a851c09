//! Keeps connections to the engine that may be used again. Last in, first out, so that the rest can grow old.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::body::SendBody;

/// The handle that sends one request after another on a connection.
pub(super) type Sender = SendRequest<SendBody>;

#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    idle_max: usize,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Pool {
    pub(super) const fn new(idle_max: usize, idle_timeout: Duration) -> Self {
        Self { idle: Mutex::new(Vec::new()), idle_max, idle_timeout }
    }

    /// A connection that was open and unused when last looked at. The engine may close it at this very moment.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some(Idle { sender, since }) = idle.pop() {
            // The younger ones were on top: an engine that closes idle connections is about to close this one too.
            if now - since >= self.idle_timeout {
                continue;
            }
            // One that is neither closed nor ready still sends a request that was answered early: not reusable.
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Takes back a connection whose answer was read to its end.
    pub(super) fn give(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| !kept.sender.is_closed() && now - kept.since < self.idle_timeout);
    }
}
