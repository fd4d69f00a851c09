//! Decides when a WebSocket's messages start, hold and end syntheses. Knows no socket, no frame, no timer and no
//! door: whoever has them tells it what was said and when, and does what it answers.
//!
//! A [`Session`] is one caller's socket and the engine's socket behind it. Messages go in, [`Action`]s come out, in
//! the order in which they are to be done. Messages are relayed as they came, byte for byte; the few that the gate
//! writes itself are refusals and confirmations. Nothing that an engine could take for the start of a synthesis
//! leaves a session before that synthesis was [`granted`](Session::granted).

mod line;
mod reading;
mod sentence;
#[cfg(test)]
mod testing;
pub mod v1;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::meter::{Measured, Outcome};
use crate::refusal::Reason;

pub use line::{Dialect, Segment};
pub use v1::Encoding;

/// A WebSocket data message (RFC 6455 section 5.6), whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message. Its bytes are valid UTF-8: what frames it has checked.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
}

impl Message {
    /// The payload.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }

    /// What holding it costs: many small messages are not free.
    fn cost(&self) -> usize {
        self.bytes().len() + size_of::<Self>()
    }
}

/// One synthesis on one socket. Never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run(u64);

/// What a session wants done, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this to the engine.
    ToEngine(Message),
    /// Send this to the caller.
    ToCaller(Message),
    /// This run wants a slot. Answer once, with [`Session::granted`] or [`Session::refused`]; its messages wait
    /// until then. An answer that comes after the run has ended does nothing: drop the permit.
    Ask(Run),
    /// This run needs its slot, or its place in the queue, no more. Every run that asked ends in exactly one of
    /// these; a run that the session itself refused ends without having asked.
    Ended(Box<Ended>),
    /// The upstream TTFB of a run, as soon as it is known.
    Ttfb(Duration),
    /// The time between two chunks of one run's audio.
    ChunkGap(Duration),
    /// Close the caller's socket, after everything before.
    CloseCaller(Close),
    /// Close the engine's socket, after everything before.
    CloseEngine(Close),
}

/// A close frame (RFC 6455 section 5.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The status code (RFC 6455 section 7.4).
    pub code: u16,
    /// At most 123 bytes.
    pub reason: &'static str,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Which.
    pub run: Run,
    /// What it came to.
    pub measured: Measured,
    /// How far it had come.
    pub phase: Phase,
    /// Whether the engine works on it no more. If not, the slot is due after `cancel_linger`.
    pub engine_let_go: bool,
}

/// How far a run had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It had no slot yet, and was withdrawn.
    Queued,
    /// It was refused: by the door, or by the session itself for want of room.
    Refused(Reason),
    /// It had a slot.
    Running,
}

/// What a session needs to know from the configuration. Shared by all.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Playback is taken to start this long after the first audio byte.
    pub client_buffer: Duration,
    /// How many bytes may be held for one run without a slot; on legacy sockets, for all of the socket's.
    pub held_bytes_max: usize,
    /// How many runs of one socket may be queued and running together.
    pub runs_max: usize,
    /// How long an engine may take to confirm a `cancel` or `clear`. After so long in silence the run has ended, but for
    /// a legacy one that was not heard yet: an engine that plays on is waited for until it would have sounded.
    pub clear_release: Duration,
    /// How long a socket that tells no end is silent when its run is over.
    pub quiet: Duration,
    /// How fast speech is at the slowest, in characters per second: when more than a text's worth was heard, a
    /// quarter of `quiet` is enough.
    pub speech_rate_min: u32,
    /// How long an engine may take to the first audio byte.
    pub first_byte_timeout: Duration,
    /// How long an engine may be silent after that, while all text is there.
    pub stall_timeout: Duration,
    /// How long a caller may leave a run open without writing, while the engine is silent as well.
    pub writer_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_buffer: Duration::ZERO,
            held_bytes_max: 64 * 1024,
            runs_max: 64,
            clear_release: Duration::from_millis(500),
            quiet: Duration::from_secs(2),
            speech_rate_min: 8,
            first_byte_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            writer_timeout: Duration::from_secs(60),
        }
    }
}

/// One caller's socket and the engine's behind it.
#[derive(Debug)]
pub struct Session(Kind);

#[derive(Debug)]
enum Kind {
    V1(v1::Session),
    Line(line::Session),
}

/// Calls the same method of whichever session this is.
macro_rules! each {
    ($session:expr, $it:ident => $call:expr) => {
        match $session {
            Kind::V1($it) => $call,
            Kind::Line($it) => $call,
        }
    };
}

impl Session {
    /// A v1 socket (`rime.v1.json`, `rime.v1.binary`), whose subprotocol set the engine's encoding.
    #[must_use]
    pub fn v1(encoding: Encoding, settings: impl Into<Arc<Settings>>) -> Self {
        Self(Kind::V1(v1::Session::new(encoding, settings.into())))
    }

    /// A legacy JSON socket (`ws3`, `ws2`).
    #[must_use]
    pub fn json(dialect: Dialect, settings: impl Into<Arc<Settings>>) -> Self {
        Self(Kind::Line(line::Session::json(dialect, settings.into())))
    }

    /// A legacy binary socket (`ws`).
    #[must_use]
    pub fn binary(dialect: Dialect, settings: impl Into<Arc<Settings>>) -> Self {
        Self(Kind::Line(line::Session::binary(dialect, settings.into())))
    }

    /// The caller sent a data message.
    pub fn caller_said(&mut self, now: Instant, message: Message, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.caller_said(now, message, out));
    }

    /// The engine sent a data message.
    pub fn engine_said(&mut self, now: Instant, message: Message, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.engine_said(now, message, out));
    }

    /// For so long the engine has not been read, since the caller is behind: what it says next may have been there
    /// meanwhile. Zero once all was read.
    pub fn held_up(&mut self, held: Duration) {
        each!(&mut self.0, it => it.held_up(held));
    }

    /// The run that asked has a slot.
    pub fn granted(&mut self, now: Instant, run: Run, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.granted(now, run, out));
    }

    /// The run that asked gets no slot.
    pub fn refused(&mut self, now: Instant, run: Run, reason: Reason, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.refused(now, run, reason, out));
    }

    /// The caller's socket is gone, or closing. Ends every run.
    pub fn caller_closed(&mut self, now: Instant, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.caller_closed(now, out));
    }

    /// The caller has broken the rules of its socket, which will be closed: it says nothing more. What waits is withdrawn;
    /// what runs goes on until [`caller_closed`](Self::caller_closed).
    pub fn caller_broke(&mut self, now: Instant, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.caller_broke(now, out));
    }

    /// The engine's socket is gone, or closing. Ends every run. `let_go` says whether the engine knows it: where the
    /// gate broke it off, the engine may work on until it notices.
    pub fn engine_closed(&mut self, now: Instant, let_go: bool, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.engine_closed(now, let_go, out));
    }

    /// The caller has not read for so long that its syntheses are given up: those running are cancelled where the
    /// protocol can, and their audio is dropped; those queued are withdrawn. The socket lives on.
    pub fn caller_stalled(&mut self, now: Instant, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.caller_stalled(now, out));
    }

    /// Does what is due at `now`. Calls before the [`deadline`](Self::deadline) do nothing.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        each!(&mut self.0, it => it.tick(now, out));
    }

    /// When [`tick`](Self::tick) is due next. Every call may change it.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        each!(&self.0, it => it.deadline())
    }

    /// Bytes of messages that wait for a slot.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        each!(&self.0, it => it.held_bytes())
    }

    /// How many runs have a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        each!(&self.0, it => it.running())
    }

    /// How many runs wait: for a slot, or for the run before them.
    #[must_use]
    pub fn queued(&self) -> usize {
        each!(&self.0, it => it.queued())
    }
}

/// What was sent so shortly before the other side's word came may not have been known to it. Far longer than a
/// message to an engine nearby takes.
const CROSSING_MAX: Duration = Duration::from_millis(250);

/// How a run that was refused ended.
const fn refused_outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::EngineUnavailable => Outcome::EngineError,
        Reason::EngineTimeout => Outcome::EngineTimeout,
        _ => Outcome::Refused,
    }
}

/// The end of a run that never had a slot; `asked` is when it asked for one, if it did.
fn unanswered(now: Instant, run: Run, asked: Option<Instant>, phase: Phase, outcome: Outcome) -> Action {
    let asked = asked.unwrap_or(now);
    let measured = Measured::unanswered(asked, now, now.saturating_duration_since(asked), outcome);
    Action::Ended(Box::new(Ended { run, measured, phase, engine_let_go: true }))
}
