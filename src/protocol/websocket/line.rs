//! Decides when a legacy socket starts and ends syntheses: one at a time, recognised from its text. JSON (`ws3`,
//! `ws2`) and bare text (`ws`) differ in their [`wire`] and in how a run ends.
//!
//! Text that starts nothing yet is held here, so that the engine sees a run only when it has a slot. What starts one
//! is the socket's [`Segment`]. While a run is running, its text and operations join it at once, except that under
//! `segment=never` every flush is a run of its own, and that after a `clear` the next run waits for the end of the
//! cleared one.
//!
//! # The end of a run
//!
//! - JSON: `done`. If text had joined so shortly before that the two may have crossed, the slot is kept for as long
//!   as `quiet`: the engine may be about to speak that text.
//! - After `clear`, or after an `error` (which names no run): `done`, or silence for as long as `clear_release`.
//!   Audio that goes on keeps the slot. A `done` that comes later still does not end the next run, as long as that
//!   has not sounded. An engine that has not sounded yet since the last text says nothing by its silence: it may
//!   play on all the same, and after a `clear` it is waited for until it would have sounded.
//! - Bare text: nothing tells the end but the close of the socket. It is silence for as long as `quiet`, or a
//!   quarter of that once more was heard than its text takes at the slowest.
//!
//! A refused run is told by `error` and `done`. What still comes of its turn, under the same label and up to its
//! flush, is swallowed: the rest of a turn without its beginning is of no use. A caller that never flushes speaks
//! again once it was silent for `quiet`.

mod dialect;
mod intake;
mod run;
mod wire;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, CROSSING_MAX, Close, Message, Phase, Run, Settings, refused_outcome, unanswered};
use crate::meter::Outcome;
use crate::refusal::Reason;
pub use dialect::{Dialect, Segment};
use run::{Held, Running, State, Waiting};
use wire::{Event, Operation, Said, Wire};

/// In order: the caller was told all there was.
const CLOSE_NORMAL: Close = Close { code: 1000, reason: "" };
/// Try again later (RFC 6455 registry, 1013).
const CLOSE_FULL: u16 = 1013;

/// The runs of one legacy socket.
#[derive(Debug)]
pub(super) struct Session {
    settings: Arc<Settings>,
    dialect: Dialect,
    wire: Wire,
    /// The last label: it holds until another comes.
    label: Option<Box<str>>,
    /// Text that starts nothing yet.
    held: Held,
    /// In order. Only the first has asked.
    waiting: VecDeque<Waiting>,
    running: Option<Box<Running>>,
    /// The engine may hold text that starts nothing yet.
    unfinished: bool,
    refused: Option<RefusedTurn>,
    /// The caller will say nothing more.
    eos: bool,
    /// Its `eos` was refused, so that the gate must close in order when all before it is over.
    closes: bool,
    /// The last run was given up without a `done`, which may still come: how many such, and its label.
    late_dones: u32,
    /// When a `done` last ended a run: an engine may say it twice.
    last_done: Option<Instant>,
    late_label: Option<Box<str>>,
    /// The audio of the last run is not for the caller.
    mute: bool,
    /// Neither is its `done`: the gate has told it.
    hushed: bool,
    runs: u64,
}

/// A turn whose run was refused.
#[derive(Debug)]
struct RefusedTurn {
    label: Option<Box<str>>,
    until: Instant,
}

impl Session {
    pub(super) fn json(dialect: Dialect, settings: Arc<Settings>) -> Self {
        Self::new(Wire::Json { done_flag: dialect.done_flag }, dialect, settings)
    }

    pub(super) fn binary(dialect: Dialect, settings: Arc<Settings>) -> Self {
        Self::new(Wire::Binary, dialect, settings)
    }

    fn new(wire: Wire, dialect: Dialect, settings: Arc<Settings>) -> Self {
        Self {
            settings,
            dialect,
            wire,
            label: None,
            held: Held::default(),
            waiting: VecDeque::new(),
            running: None,
            unfinished: false,
            refused: None,
            eos: false,
            late_dones: 0,
            last_done: None,
            late_label: None,
            closes: false,
            mute: false,
            hushed: false,
            runs: 0,
        }
    }

    /// Whether text joins a run that is there, instead of waiting for its own flush.
    fn joins(&self) -> bool {
        self.dialect.segment != Segment::Never
    }

    /// Lets the next run ask, if it is its turn.
    fn go_on(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.running.is_none()
            && let Some(next) = self.waiting.front_mut().filter(|next| next.asked.is_none())
        {
            next.asked = Some(now);
            out.push(Action::Ask(next.run));
        }
        if self.closes && self.running.is_none() && self.waiting.is_empty() {
            self.closes = false;
            out.push(Action::CloseCaller(CLOSE_NORMAL));
            out.push(Action::CloseEngine(CLOSE_NORMAL));
        }
    }

    fn clear(&mut self, now: Instant, message: Message, out: &mut Vec<Action>) {
        self.refused = None;
        self.unfinished = false;
        self.held = Held::default();
        self.withdraw(now, Outcome::CallerGone, out);
        self.stop(now, Outcome::CallerGone);
        out.push(Action::ToEngine(message));
    }

    fn withdraw(&mut self, now: Instant, outcome: Outcome, out: &mut Vec<Action>) {
        for of in self.waiting.drain(..) {
            out.push(unanswered(now, of.run, of.asked, Phase::Queued, outcome));
        }
    }

    /// The engine was told to stop, or has failed. Returns whether there was anything to stop.
    fn stop(&mut self, now: Instant, outcome: Outcome) -> bool {
        let running = self.running.as_mut().filter(|running| !running.is_closing());
        let Some(running) = running else { return false };
        let until = match outcome {
            // It has spoken of it.
            Outcome::EngineError => now + self.settings.clear_release,
            _ => running.silent_until(now, &self.settings),
        };
        running.state = State::Closing { outcome, until };
        true
    }

    pub(super) fn engine_said(&mut self, now: Instant, message: Message, out: &mut Vec<Action>) {
        let (label, event) = self.wire.heard(&message);
        let late = self.is_late(label.as_deref());
        let passes = match event {
            Event::Audio(_) if late => !self.mute,
            Event::Done if late => !self.hushed,
            Event::Audio(sound) => {
                if let Some(running) = &mut self.running {
                    running.audio(now, &sound, &self.settings, out);
                }
                !self.mute
            }
            Event::Done => self.done(now, out),
            Event::Error => {
                self.stop(now, Outcome::EngineError);
                !self.hushed
            }
            Event::Other => !self.mute,
        };
        if passes {
            out.push(Action::ToCaller(message));
        }
    }

    pub(super) fn held_up(&mut self, held: Duration) {
        if let Some(running) = &mut self.running {
            running.held_up(held);
        }
    }

    /// Whether a message under this label belongs to the run that was given up, not to the one that runs.
    fn is_late(&self, label: Option<&[u8]>) -> bool {
        let (Some(label), Some(late), Some(running)) = (label, &self.late_label, &self.running) else {
            return false;
        };
        let own = running.label.as_deref().map(str::as_bytes);
        label == late.as_bytes() && own != Some(label)
    }

    /// Returns whether it is for the caller.
    fn done(&mut self, now: Instant, out: &mut Vec<Action>) -> bool {
        let passes = !self.hushed;
        let Some(running) = &mut self.running else {
            self.late_dones = self.late_dones.saturating_sub(1);
            return passes;
        };
        if self.late_dones > 0 && !running.has_sounded() {
            self.late_dones -= 1;
            return passes;
        }
        self.late_dones = 0;
        let twice = self.last_done.is_some_and(|last| now.saturating_duration_since(last) < CROSSING_MAX);
        let crossed = running.may_have_crossed(now) || twice && !running.has_sounded();
        match &mut running.state {
            state @ State::Speaking if crossed => {
                *state = State::Settling { done: now, until: now + self.settings.quiet };
                return passes;
            }
            State::Closing { until, .. } if crossed => {
                *until = now + self.settings.clear_release;
                return passes;
            }
            _ => {}
        }
        out.extend(self.running.take().map(|running| running.ended(now, Outcome::Ok, true)));
        self.last_done = Some(now);
        self.go_on(now, out);
        passes
    }

    pub(super) fn granted(&mut self, now: Instant, run: Run, out: &mut Vec<Action>) {
        if !self.asks(run) {
            return;
        }
        let Some(waiting) = self.waiting.pop_front() else { return };
        let client_buffer = self.settings.client_buffer;
        let (hint, joins) = (self.dialect.hint, self.joins());
        self.running = Some(Box::new(Running::new(now, &waiting, hint, client_buffer, joins)));
        self.unfinished = waiting.held.tail.unfinished;
        (self.mute, self.hushed) = (false, false);
        out.extend(waiting.held.messages.into_iter().map(Action::ToEngine));
    }

    fn asks(&self, run: Run) -> bool {
        self.waiting.front().is_some_and(|first| first.run == run && first.asked.is_some())
    }

    pub(super) fn refused(&mut self, now: Instant, run: Run, reason: Reason, out: &mut Vec<Action>) {
        if self.asks(run) {
            self.refuse(now, run, reason, out);
        }
    }

    fn refuse(&mut self, now: Instant, run: Run, reason: Reason, out: &mut Vec<Action>) {
        let Some(at) = self.waiting.iter().position(|of| of.run == run) else { return };
        let Some(of) = self.waiting.remove(at) else { return };
        out.push(unanswered(now, run, of.asked, Phase::Refused(reason), refused_outcome(reason)));
        self.closes |= of.held.tail.eos;
        self.tell_refused(now, of.held.label, of.held.tail.flushed, reason, out);
    }

    /// Refuses what is said for want of room.
    fn refuse_unasked(&mut self, now: Instant, reason: Reason, said: &Said, out: &mut Vec<Action>) {
        self.runs += 1;
        let flushed = matches!(said.operation, Some(Operation::Flush | Operation::Eos));
        out.push(unanswered(now, Run(self.runs), None, Phase::Refused(reason), Outcome::Refused));
        self.closes |= said.operation == Some(Operation::Eos);
        self.tell_refused(now, self.label.clone(), flushed, reason, out);
    }

    /// `flushed`: nothing more comes of the turn.
    fn tell_refused(
        &mut self,
        now: Instant,
        label: Option<Box<str>>,
        flushed: bool,
        reason: Reason,
        out: &mut Vec<Action>,
    ) {
        let text = reason.answer().text;
        out.extend(self.wire.failure(label.as_deref(), text).into_iter().map(Action::ToCaller));
        if self.wire == Wire::Binary {
            self.eos = true;
            self.withdraw(now, Outcome::CallerGone, out);
            out.push(Action::CloseCaller(Close { code: CLOSE_FULL, reason: text }));
            return out.push(Action::CloseEngine(CLOSE_NORMAL));
        }
        if !flushed {
            self.refused = Some(RefusedTurn { label, until: now + self.settings.quiet });
        }
        self.go_on(now, out);
    }

    pub(super) fn caller_closed(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.close(now, Outcome::CallerGone, Outcome::CallerGone, false, out);
    }

    pub(super) fn caller_broke(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.withdraw(now, Outcome::CallerGone, out);
        self.held = Held::default();
    }

    pub(super) fn engine_closed(&mut self, now: Instant, let_go: bool, out: &mut Vec<Action>) {
        // Without any `done`, the close after `eos` is the protocol's own end of a run.
        let in_order = self.eos && !self.wire.tells_done();
        let running = if in_order { Outcome::Ok } else { Outcome::Truncated };
        // What waited never reached the engine, and may be said again elsewhere.
        let text = Reason::EngineUnavailable.answer().text;
        for of in &self.waiting {
            out.extend(self.wire.failure(of.held.label.as_deref(), text).into_iter().map(Action::ToCaller));
        }
        self.close(now, Outcome::EngineError, running, let_go, out);
    }

    fn close(
        &mut self,
        now: Instant,
        queued: Outcome,
        running: Outcome,
        engine_let_go: bool,
        out: &mut Vec<Action>,
    ) {
        out.extend(self.running.take().map(|of| of.ended(now, running, engine_let_go)));
        self.withdraw(now, queued, out);
        self.held = Held::default();
        self.eos = true;
    }

    pub(super) fn caller_stalled(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.withdraw(now, Outcome::CallerGone, out);
        self.held = Held::default();
        self.mute = true;
        if self.stop(now, Outcome::CallerGone) {
            self.unfinished = false;
            out.push(Action::ToEngine(self.wire.clear()));
        }
    }

    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        let tells_done = self.wire.tells_done();
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let Some(running) = self.running.take() else { return };
        let outcome = running.late_outcome(tells_done);
        if running.state != State::Speaking || outcome == Outcome::Ok {
            let settled = matches!(running.state, State::Settling { .. });
            self.late_dones += u32::from(tells_done && !settled);
            self.late_label.clone_from(&running.label);
            out.push(running.ended(now, outcome, settled));
            return self.go_on(now, out);
        }
        let text = match outcome {
            Outcome::EngineTimeout => Reason::EngineTimeout.answer().text,
            _ => "Text did not arrive in time",
        };
        let failure = self.wire.failure(running.label.as_deref(), text);
        self.running = Some(running);
        self.stop(now, outcome);
        (self.mute, self.hushed, self.unfinished) = (true, true, false);
        out.push(Action::ToEngine(self.wire.clear()));
        if failure.is_empty() {
            out.push(Action::CloseCaller(Close { code: CLOSE_FULL, reason: text }));
        }
        out.extend(failure.into_iter().map(Action::ToCaller));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        Some(running.deadline(&self.settings, self.wire.tells_done()))
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held.bytes + self.waiting.iter().map(|of| of.held.bytes).sum::<usize>()
    }

    pub(super) fn running(&self) -> usize {
        usize::from(self.running.is_some())
    }

    pub(super) fn queued(&self) -> usize {
        self.waiting.len()
    }
}
