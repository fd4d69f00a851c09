//! Counts what the engine does. The one witness of how many syntheses ran at once: every synthesis holds a
//! [`Running`], however it was asked for and however it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// What `/statusz` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Syntheses: from the moment the engine accepted one until it handed over the last byte, or let it go.
    pub syntheses: Syntheses,
    /// TCP connections.
    pub connections: Connections,
    /// Requests by path; paths that the engine does not know are `other`.
    pub requests: BTreeMap<&'static str, u64>,
}

/// Syntheses by state and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Syntheses {
    /// Now.
    pub running: u64,
    /// Most at once since the start or the last reset.
    pub peak: u64,
    /// Begun since the start or the last reset.
    pub total: u64,
    /// Ended with their last byte.
    pub completed: u64,
    /// Let go because the caller went away.
    pub cancelled: u64,
    /// Ended by a fault of the engine (`--error-rate`, `--cut-rate`).
    pub failed: u64,
}

/// Connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Now.
    pub open: u64,
    /// Most at once since the start or the last reset.
    pub peak: u64,
    /// Accepted since the start or the last reset.
    pub total: u64,
}

/// How a synthesis ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its last byte was handed over.
    Completed,
    /// The caller went away.
    Cancelled,
    /// A fault of the engine.
    Failed,
}

/// The counting itself; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Counts>>);

impl Witness {
    /// All counts of this moment, taken together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// Zeroes what was, and keeps what is: the peaks begin at what runs now.
    pub fn reset(&self) {
        let mut counts = self.lock();
        let (running, open) = (counts.syntheses.running, counts.connections.open);
        *counts = Counts::default();
        counts.syntheses.running = running;
        counts.syntheses.peak = running;
        counts.connections.open = open;
        counts.connections.peak = open;
    }

    /// A synthesis begins; it runs until the value is dropped.
    #[must_use]
    pub fn synthesis(&self) -> Running {
        let mut counts = self.lock();
        let syntheses = &mut counts.syntheses;
        syntheses.total += 1;
        syntheses.running += 1;
        syntheses.peak = syntheses.peak.max(syntheses.running);
        drop(counts);
        Running { witness: self.clone(), ending: Ending::Cancelled }
    }

    /// A connection was accepted; it is open until the value is dropped.
    #[must_use]
    pub fn connection(&self) -> Open {
        let mut counts = self.lock();
        let connections = &mut counts.connections;
        connections.total += 1;
        connections.open += 1;
        connections.peak = connections.peak.max(connections.open);
        drop(counts);
        Open(self.clone())
    }

    /// A request for `path`, which is one of a closed set.
    pub fn request(&self, path: &'static str) {
        *self.lock().requests.entry(path).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after every statement, also after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running synthesis. Dropped without more, it was cancelled.
#[derive(Debug)]
pub struct Running {
    witness: Witness,
    ending: Ending,
}

impl Running {
    /// The synthesis is over.
    pub fn end(mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut counts = self.witness.lock();
        let syntheses = &mut counts.syntheses;
        syntheses.running -= 1;
        match self.ending {
            Ending::Completed => syntheses.completed += 1,
            Ending::Cancelled => syntheses.cancelled += 1,
            Ending::Failed => syntheses.failed += 1,
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Open(Witness);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().connections.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_forgets_what_was_and_keeps_what_runs() {
        let witness = Witness::default();
        let first = witness.synthesis();
        let second = witness.synthesis();
        second.end(Ending::Completed);
        witness.reset();
        let syntheses = witness.counts().syntheses;
        assert_eq!(syntheses, Syntheses { running: 1, peak: 1, ..Syntheses::default() });
        drop(first);
        assert_eq!(witness.counts().syntheses.cancelled, 1);
        assert_eq!(witness.counts().syntheses.running, 0);
    }
}
