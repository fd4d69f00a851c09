//! Voice agents that keep a line open and take turns on it, as LiveKit and pipecat do: decides which agent speaks
//! next. Whoever calls when all are busy is an agent more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::call::{self, Heard, Trouble};
use super::{Protocol, grpc, v1, ws_json};

/// All agents of one load.
#[derive(Debug)]
pub(super) struct Agents {
    address: SocketAddr,
    protocol: Protocol,
    /// Those who listen for their turn, the longest idle first.
    idle: Mutex<VecDeque<Agent>>,
}

/// One agent with its line.
#[derive(Debug)]
enum Agent {
    V1(v1::Line),
    WsJson(ws_json::Line),
    Grpc(grpc::Line),
}

/// What came of a turn, and whether the line can carry another.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) heard: Heard,
    pub(super) reusable: bool,
}

impl Turn {
    /// The line is not to be trusted any more.
    pub(super) fn broken(heard: Heard) -> Self {
        Self { heard, reusable: false }
    }

    pub(super) fn ended(heard: Heard) -> Self {
        Self { heard, reusable: true }
    }
}

impl Agents {
    pub(super) fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self { address, protocol, idle: Mutex::default() }
    }

    /// Opens the lines of the first `count` agents. Who cannot be connected now tries again at its turn.
    pub(super) async fn gather(&self, count: usize) {
        for _ in 0..count {
            if let Ok(Some(agent)) = self.connect().await {
                self.rest(agent);
            }
        }
    }

    /// One turn. Its clock started at `scheduled`.
    pub(super) async fn turn(&self, scheduled: Instant, text: &str) -> Heard {
        let agent = match self.wake() {
            Some(agent) => Ok(Some(agent)),
            None => self.connect().await,
        };
        let mut agent = match agent {
            Ok(Some(agent)) => agent,
            Ok(None) => return call::call(self.address, scheduled, call::body(text)).await,
            Err(_) => return Heard::Failure,
        };
        let turn = match &mut agent {
            Agent::V1(line) => line.turn(scheduled, text).await,
            Agent::WsJson(line) => line.turn(scheduled, text).await,
            Agent::Grpc(line) => line.turn(scheduled, text).await,
        };
        if turn.reusable {
            self.rest(agent);
        }
        turn.heard
    }

    /// A new agent, or none if the protocol keeps no line.
    async fn connect(&self) -> Result<Option<Agent>, Trouble> {
        Ok(match self.protocol {
            Protocol::Http => None,
            Protocol::V1 => Some(Agent::V1(v1::Line::open(self.address).await?)),
            Protocol::WsJson => Some(Agent::WsJson(ws_json::Line::open(self.address).await?)),
            Protocol::Grpc => Some(Agent::Grpc(grpc::Line::open(self.address).await?)),
        })
    }

    /// The agent that has rested longest, if its line is still open.
    fn wake(&self) -> Option<Agent> {
        loop {
            let mut agent = self.lock().pop_front()?;
            let open = match &mut agent {
                Agent::V1(line) => line.is_open(),
                Agent::WsJson(line) => line.is_open(),
                Agent::Grpc(_) => true,
            };
            if open {
                return Some(agent);
            }
        }
    }

    fn rest(&self, agent: Agent) {
        self.lock().push_back(agent);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Agent>> {
        // Agents are whole, whatever panicked elsewhere.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
