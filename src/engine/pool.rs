//! Keeps connections to the engine that may be used again. Last in, first out, so that the rest can grow old.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;

#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    idle_max: usize,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    pub(super) const fn new(idle_max: usize, idle_timeout: Duration) -> Self {
        Self { idle: Mutex::new(Vec::new()), idle_max, idle_timeout }
    }

    /// A connection that was open and unused when last looked at. The engine may close it at this very moment.
    pub(super) fn take(&self, now: Instant) -> Option<Box<Connection>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { connection, since }) = idle.pop() {
            // The younger ones were on top: an engine that closes idle connections is about to close this one too.
            if now - since < self.idle_timeout && connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Takes back a connection whose answer was read to its end.
    pub(super) fn give(&self, connection: Box<Connection>) {
        let Some(connection) = connection.rest() else { return };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Closes what has been unused for too long, and what the engine has closed.
    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| now - kept.since < self.idle_timeout && kept.connection.is_open());
    }
}
