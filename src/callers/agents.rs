//! Voice agents that keep a line open and take turns on it, as LiveKit and pipecat do: decides which agent speaks
//! next. A turn is its agent's own: one without a line has to get one, however many lines of others are idle. When all
//! are busy, whoever calls is an agent more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::call::{self, Heard, Trouble};
use super::manner::{Manner, Words};
use super::turn::Turn;
use super::{Protocol, grpc, v1, ws_json};

/// All agents of one load.
#[derive(Debug)]
pub struct Agents {
    address: SocketAddr,
    protocol: Protocol,
    manner: Manner,
    /// Those who wait for their turn, the longest idle first, with their lines as far as they have one.
    idle: Mutex<VecDeque<Option<Line>>>,
}

/// An agent's line.
#[derive(Debug)]
enum Line {
    V1(v1::Line),
    WsJson(ws_json::Line),
    Grpc(grpc::Line),
}

impl Agents {
    /// Agents without lines.
    #[must_use]
    pub fn new(address: SocketAddr, protocol: Protocol, manner: Manner) -> Self {
        Self { address, protocol, manner, idle: Mutex::default() }
    }

    /// Opens the lines of the first `count` agents. Who cannot be connected now tries again at its turn.
    ///
    /// # Cancel safety
    /// Lines that were opened are closed.
    pub async fn gather(&self, count: usize) {
        let lines = join_all((0..count).map(|_| self.connect())).await;
        self.lock().extend(lines.into_iter().map(Result::ok));
    }

    /// One turn, which was due at `due`.
    ///
    /// # Cancel safety
    /// Dropping it hangs up.
    pub async fn turn(&self, due: Instant, words: &Words) -> Heard {
        if self.protocol == Protocol::Http {
            return call::call(self.address, &self.manner, due, words).await;
        }
        let line = self.lock().pop_front().flatten().and_then(Line::if_open);
        let line = match line {
            Some(line) => Ok(line),
            None => self.connect().await,
        };
        let (heard, line) = match line {
            Ok(mut line) => {
                let Turn { heard, reusable } = line.turn(&self.manner, due, words).await;
                (heard, reusable.then_some(line))
            }
            Err(trouble) => (Heard::failure(trouble), None),
        };
        self.lock().push_back(line);
        heard
    }

    async fn connect(&self) -> Result<Line, Trouble> {
        Ok(match self.protocol {
            Protocol::Http => return Err("calls have connections of their own".into()),
            Protocol::V1 => Line::V1(v1::Line::open(self.address, &self.manner).await?),
            Protocol::WsJson => Line::WsJson(ws_json::Line::open(self.address, &self.manner).await?),
            Protocol::Grpc => Line::Grpc(grpc::Line::open(self.address).await?),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Option<Line>>> {
        // Lines are whole, whatever panicked elsewhere.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    async fn turn(&mut self, manner: &Manner, due: Instant, words: &Words) -> Turn {
        let started = manner.start(due);
        match self {
            Self::V1(line) => line.turn(manner, started, words).await,
            Self::WsJson(line) => line.turn(manner, started, words).await,
            Self::Grpc(line) => line.turn(manner, started, words).await,
        }
    }

    /// A line that was closed while its agent was silent is none.
    fn if_open(mut self) -> Option<Self> {
        let open = match &mut self {
            Self::V1(line) => line.is_open(),
            Self::WsJson(line) => line.is_open(),
            // The channel connects anew by itself.
            Self::Grpc(_) => true,
        };
        open.then_some(self)
    }
}
