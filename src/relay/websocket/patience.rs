//! How long a caller may be silent or take nothing, and how long a goodbye may take. Time is an argument.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::Settings;

/// How long both ends may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// An engine that has said nothing for so long has answered all that came before its caller broke the protocol. Far
/// longer than a message to an engine nearby and back takes.
const ANSWERS_QUIET: Duration = Duration::from_millis(250);

/// For so long its answers are passed on at most: a synthesis may go on for minutes, and its caller cannot stop it any more.
const ANSWERS_MAX: Duration = Duration::from_millis(500);

/// A caller that broke the protocol: what it is to be told, once what came before has been answered.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) frame: CloseFrame,
    since: Instant,
}

impl Fault {
    pub(super) const fn new(now: Instant, frame: CloseFrame) -> Self {
        Self { frame, since: now }
    }

    /// When it is told at the latest; `said` is when either end last said something.
    pub(super) fn due(&self, said: Instant) -> Instant {
        (said + ANSWERS_QUIET).min(self.since + ANSWERS_MAX)
    }
}

/// The clocks of one socket.
#[derive(Debug)]
pub(super) struct Patience {
    settings: Arc<Settings>,
    /// When the caller last gave a sign of life.
    heard: Instant,
    /// When it was asked for one.
    pinged: Option<Instant>,
    /// Since when it takes nothing of what was sent.
    blocked: Option<Instant>,
    /// It was given up as a listener: its syntheses are cancelled, and what they still say is dropped.
    deaf: bool,
    /// When a goodbye has taken too long.
    goodbye: Option<Instant>,
}

impl Patience {
    pub(super) fn new(now: Instant, settings: &Arc<Settings>) -> Self {
        let settings = Arc::clone(settings);
        Self { settings, heard: now, pinged: None, blocked: None, deaf: false, goodbye: None }
    }

    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    pub(super) const fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Whether the caller has just been found to take nothing for too long while it has syntheses. Once for each time.
    pub(super) fn is_stalled(&mut self, now: Instant, clear: bool, busy: bool) -> bool {
        if clear {
            self.blocked = None;
            self.deaf = false;
            return false;
        }
        let since = *self.blocked.get_or_insert(now);
        let stalled = busy && !self.deaf && now - since >= self.settings.caller_stall_timeout;
        self.deaf |= stalled;
        stalled
    }

    /// Whether it is time to ask the caller for a sign of life.
    pub(super) fn wants_ping(&mut self, now: Instant) -> bool {
        let wants = self.pinged.is_none() && now - self.heard >= self.settings.websocket.ping_interval;
        if wants {
            self.pinged = Some(now);
        }
        wants
    }

    /// An end is closing.
    pub(super) fn goodbye(&mut self, now: Instant) {
        self.goodbye.get_or_insert(now + GOODBYE);
    }

    /// Whether the caller is given up: no sign of life, or no goodbye.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let silent = self.pinged.is_some_and(|at| now - at >= self.settings.websocket.pong_timeout);
        silent || self.goodbye.is_some_and(|at| now >= at)
    }

    /// When to look again.
    pub(super) fn due(&self, busy: bool) -> Instant {
        let websocket = &self.settings.websocket;
        let life = self.pinged.map_or(self.heard + websocket.ping_interval, |at| at + websocket.pong_timeout);
        let blocked = self.blocked.filter(|_| busy && !self.deaf);
        let stall = blocked.map(|at| at + self.settings.caller_stall_timeout);
        [stall, self.goodbye].into_iter().flatten().fold(life, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_waited_for_until_the_engine_is_quiet_and_not_for_ever() {
        let broke = Instant::now();
        let frame = CloseFrame { code: 1002.into(), reason: "".into() };
        let fault = Fault::new(broke, frame);
        let after = |millis| broke + Duration::from_millis(millis);
        assert!(fault.due(broke - ANSWERS_QUIET) <= broke, "nothing is owed");
        assert_eq!(fault.due(after(0)), after(250));
        assert_eq!(fault.due(after(100)), after(350));
        assert_eq!(fault.due(after(499)), after(500));
    }
}
