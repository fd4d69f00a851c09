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
    /// The same, apart for each protocol.
    pub protocols: PerProtocol<Syntheses>,
    /// WebSockets, by the protocol they speak.
    pub sockets: Sockets,
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

/// What a synthesis can be asked for with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A `POST`.
    Http,
    /// WebSocket v1.
    V1,
    /// The legacy JSON WebSocket.
    WsJson,
    /// The legacy binary WebSocket.
    WsBinary,
    /// `rime.TextToSpeech`.
    Grpc,
}

/// A count for each protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is its protocol's")]
pub struct PerProtocol<T> {
    pub http: T,
    pub v1: T,
    pub ws_json: T,
    pub ws_binary: T,
    pub grpc: T,
}

impl<T> PerProtocol<T> {
    fn of(&mut self, protocol: Protocol) -> &mut T {
        match protocol {
            Protocol::Http => &mut self.http,
            Protocol::V1 => &mut self.v1,
            Protocol::WsJson => &mut self.ws_json,
            Protocol::WsBinary => &mut self.ws_binary,
            Protocol::Grpc => &mut self.grpc,
        }
    }
}

/// Open WebSockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is its protocol's")]
pub struct Sockets {
    pub v1: Connections,
    pub ws_json: Connections,
    pub ws_binary: Connections,
}

/// A kind of WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// WebSocket v1.
    V1,
    /// Legacy JSON.
    WsJson,
    /// Legacy binary.
    WsBinary,
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
        counts.syntheses.reset();
        let PerProtocol { http, v1, ws_json, ws_binary, grpc } = &mut counts.protocols;
        for syntheses in [http, v1, ws_json, ws_binary, grpc] {
            syntheses.reset();
        }
        counts.connections.reset();
        let Sockets { v1, ws_json, ws_binary } = &mut counts.sockets;
        for connections in [v1, ws_json, ws_binary] {
            connections.reset();
        }
        counts.requests.clear();
    }

    /// A synthesis begins; it runs until the value is dropped.
    #[must_use]
    pub fn synthesis(&self, protocol: Protocol) -> Running {
        let mut counts = self.lock();
        counts.syntheses.begin();
        counts.protocols.of(protocol).begin();
        drop(counts);
        Running { witness: self.clone(), protocol, ending: Ending::Cancelled }
    }

    /// A connection was accepted; it is open until the value is dropped.
    #[must_use]
    pub fn connection(&self) -> Open {
        self.lock().connections.begin();
        Open { witness: self.clone(), socket: None }
    }

    /// A WebSocket was opened; it is open until the value is dropped.
    #[must_use]
    pub fn socket(&self, socket: Socket) -> Open {
        self.lock().sockets.of(socket).begin();
        Open { witness: self.clone(), socket: Some(socket) }
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
    protocol: Protocol,
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
        counts.syntheses.end(self.ending);
        counts.protocols.of(self.protocol).end(self.ending);
    }
}

impl Syntheses {
    fn begin(&mut self) {
        self.total += 1;
        self.running += 1;
        self.peak = self.peak.max(self.running);
    }

    fn end(&mut self, ending: Ending) {
        self.running -= 1;
        match ending {
            Ending::Completed => self.completed += 1,
            Ending::Cancelled => self.cancelled += 1,
            Ending::Failed => self.failed += 1,
        }
    }

    fn reset(&mut self) {
        *self = Self { running: self.running, peak: self.running, ..Self::default() };
    }
}

impl Connections {
    fn begin(&mut self) {
        self.total += 1;
        self.open += 1;
        self.peak = self.peak.max(self.open);
    }

    fn reset(&mut self) {
        *self = Self { open: self.open, peak: self.open, total: 0 };
    }
}

impl Sockets {
    fn of(&mut self, socket: Socket) -> &mut Connections {
        match socket {
            Socket::V1 => &mut self.v1,
            Socket::WsJson => &mut self.ws_json,
            Socket::WsBinary => &mut self.ws_binary,
        }
    }
}

/// An open connection or WebSocket.
#[derive(Debug)]
pub struct Open {
    witness: Witness,
    socket: Option<Socket>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.witness.lock();
        match self.socket {
            Some(socket) => counts.sockets.of(socket).open -= 1,
            None => counts.connections.open -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_forgets_what_was_and_keeps_what_runs() {
        let witness = Witness::default();
        let first = witness.synthesis(Protocol::Http);
        let second = witness.synthesis(Protocol::V1);
        second.end(Ending::Completed);
        witness.reset();
        let syntheses = witness.counts().syntheses;
        assert_eq!(syntheses, Syntheses { running: 1, peak: 1, ..Syntheses::default() });
        assert_eq!(witness.counts().protocols.http, syntheses);
        assert_eq!(witness.counts().protocols.v1, Syntheses::default());
        drop(first);
        assert_eq!(witness.counts().syntheses.cancelled, 1);
        assert_eq!(witness.counts().syntheses.running, 0);
    }
}
