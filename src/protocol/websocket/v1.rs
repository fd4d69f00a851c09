//! Decides what `rime.v1` contexts do: every `start` is a synthesis of its own, held until it has a slot, and ended
//! by its terminal event. Neighbours on the same socket never wait for each other.
//!
//! A context is in at most one synthesis at the engine, and its end is told by `done`, `cancelled` or an `error`
//! that names it. For that to be sure, three things that the protocol leaves open are settled here:
//!
//! - A `start` for a context that is still open for text never reaches the engine, which might run both; it is
//!   answered with a connection-scoped `invalid_input`, so that the open context goes on. After `end`, `cancel` or a
//!   one-shot `start` it waits for the terminal of the one before, and only then asks for a slot.
//! - `text` for a context that is not open is answered here as the engine would (`invalid_input`), and an `end` for
//!   one that is not known goes nowhere. Otherwise the engine's complaint could be taken for the end of a `start`
//!   that follows.
//!   One that crossed with the engine's own end of a context may still be complained about: the next `start` of that
//!   context waits a little.
//! - Every `cancel` that reached the engine is answered by one `cancelled`. Until it has come, the next `start` of
//!   that context waits, so that a late one ends nothing twice.

mod context;
mod wire;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rimelabs_api::AudioParameters;

use super::{Action, Message, Phase, Run, Settings, refused_outcome, unanswered};
use crate::meter::Outcome;
use crate::refusal::Reason;
use context::{Context, Open, Running, Waiting};
use wire::{Event, Said};

/// How the engine and the gate write to the caller: the negotiated subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `rime.v1.json`: protobuf JSON in text messages.
    Json,
    /// `rime.v1.binary`: protobuf in binary messages.
    Binary,
}

/// Refused contexts that are remembered, so that what still comes for them is swallowed. The oldest goes first: its
/// text is then answered with `invalid_input`.
const REFUSED_MAX: usize = 256;
/// No longer context id is remembered (the protocol allows no longer one).
const CONTEXT_BYTES_MAX: usize = 128;

/// The sessions of one v1 socket.
#[derive(Debug)]
pub(super) struct Session {
    settings: Arc<Settings>,
    encoding: Encoding,
    defaults: Option<AudioParameters>,
    contexts: BTreeMap<Box<str>, Context>,
    refused: VecDeque<Box<str>>,
    runs: u64,
}

impl Session {
    pub(super) fn new(encoding: Encoding, settings: Arc<Settings>) -> Self {
        Self {
            settings,
            encoding,
            defaults: None,
            contexts: BTreeMap::new(),
            refused: VecDeque::new(),
            runs: 0,
        }
    }

    pub(super) fn caller_said(&mut self, now: Instant, message: Message, out: &mut Vec<Action>) {
        match wire::said(&message) {
            Said::Start { context, one_shot, audio } => {
                let audio = audio.or_else(|| self.defaults.clone());
                self.start(now, context, one_shot, audio, message, out);
            }
            Said::Text { context, blank } => self.text(now, &context, blank, message, out),
            Said::End(context) => self.end(now, &context, message, out),
            Said::Cancel(context) => self.cancel(now, context, message, out),
            Said::Unclear => self.invalid(out, "", "Message can be read in more than one way"),
            Said::Config(defaults) => {
                self.defaults = defaults.or(self.defaults.take());
                out.push(Action::ToEngine(message));
            }
            Said::Other => out.push(Action::ToEngine(message)),
        }
    }

    fn start(
        &mut self,
        now: Instant,
        name: Box<str>,
        one_shot: bool,
        audio: Option<AudioParameters>,
        message: Message,
        out: &mut Vec<Action>,
    ) {
        self.refused.retain(|refused| *refused != name);
        self.runs += 1;
        let run = Run(self.runs);
        if self.contexts.get(&name).is_some_and(|context| !context.takes_start()) {
            return self.invalid(out, "", "Context is already open");
        }
        let full = self.running() + self.queued() >= self.settings.runs_max;
        let too_long = message.cost() + name.len() > self.settings.held_bytes_max;
        if full || too_long {
            let reason = if full { Reason::QueueFull } else { Reason::BodyTooLarge };
            out.push(unanswered(now, run, None, Phase::Refused(reason), Outcome::Refused));
            return self.refuse(&name, reason, out);
        }
        let context = self.contexts.entry(name).or_default();
        let asked = context.is_free().then_some(now);
        context.waiting = Some(Waiting::new(run, asked, one_shot, audio, message));
        if asked.is_some() {
            out.push(Action::Ask(run));
        }
    }

    fn text(&mut self, now: Instant, name: &str, blank: bool, message: Message, out: &mut Vec<Action>) {
        if self.is_refused(name) {
            return;
        }
        let held_bytes_max = self.settings.held_bytes_max;
        let context = self.contexts.get_mut(name);
        match context.and_then(Context::open) {
            None => self.invalid(out, name, "Context is not open for text"),
            Some(Open::Waiting(waiting)) => {
                if waiting.held_bytes + message.cost() > held_bytes_max {
                    return self.refuse_waiting(now, name, Reason::BodyTooLarge, out);
                }
                waiting.hold(message);
                if !blank {
                    waiting.spoken.get_or_insert(now);
                }
            }
            Some(Open::Running(running)) => {
                running.wrote(now, blank);
                out.push(Action::ToEngine(message));
            }
        }
    }

    fn end(&mut self, now: Instant, name: &str, message: Message, out: &mut Vec<Action>) {
        if self.is_refused(name) {
            return;
        }
        let Some(context) = self.contexts.get_mut(name) else { return };
        match (&mut context.waiting, &mut context.running) {
            (Some(waiting), _) if waiting.open => {
                waiting.open = false;
                waiting.hold(message);
            }
            // A second `end` does nothing, and would only be held.
            (Some(_), _) => {}
            (None, Some(running)) if running.closing.is_none() => {
                running.open = false;
                running.since = now;
                out.push(Action::ToEngine(message));
            }
            (None, _) => {}
        }
    }

    fn cancel(&mut self, now: Instant, name: Box<str>, message: Message, out: &mut Vec<Action>) {
        if name.len() > CONTEXT_BYTES_MAX {
            return self.invalid(out, "", "Context id is too long");
        }
        let was_refused = self.is_refused(&name);
        self.refused.retain(|refused| *refused != name);
        let known = self.contexts.contains_key(&name);
        let withdrawn = self.contexts.get_mut(&name).and_then(|context| context.waiting.take());
        if let Some(waiting) = withdrawn {
            out.push(waiting.withdrawn(now, Outcome::CallerGone));
            out.push(Action::ToCaller(wire::cancelled(self.encoding, &name)));
            return self.forget_if_idle(&name);
        }
        // The engine never saw a refused context. Nor need it see more strange ones than it answers.
        if !known && (was_refused || self.contexts.len() >= 4 * self.settings.runs_max) {
            return out.push(Action::ToCaller(wire::cancelled(self.encoding, &name)));
        }
        let context = self.contexts.entry(name).or_default();
        context.cancel_sent(now + self.settings.stall_timeout);
        if let Some(running) = &mut context.running {
            running.open = false;
            running.since = now;
        }
        out.push(Action::ToEngine(message));
    }

    pub(super) fn engine_said(&mut self, now: Instant, message: Message, out: &mut Vec<Action>) {
        let Some(mut heard) = wire::heard(&message) else { return out.push(Action::ToCaller(message)) };
        // Only an error without a context is the connection's own.
        if heard.context.is_empty() && heard.event != Event::Error {
            heard.context = wire::DEFAULT_CONTEXT.into();
        }
        let Some(context) = self.contexts.get_mut(&*heard.context) else {
            return out.push(Action::ToCaller(message));
        };
        let passes = match heard.event {
            Event::Audio(sound) => context.audio(now, &sound, &self.settings, out),
            Event::Started => context.started(now),
            Event::Done | Event::Cancelled | Event::Error => {
                let name = heard.context.into_owned();
                let event = heard.event;
                let passes = context.ended_by(now, &event, self.settings.clear_release, out);
                self.go_on(now, &name, out);
                passes
            }
            Event::Other => true,
        };
        if passes {
            // A terminal must reach the caller before the next run's messages do, and an end is told first.
            out.push(Action::ToCaller(message));
        }
    }

    /// Lets the context's next run ask, if it is its turn.
    fn go_on(&mut self, now: Instant, name: &str, out: &mut Vec<Action>) {
        let Some(context) = self.contexts.get_mut(name) else { return };
        if context.is_free()
            && let Some(waiting) = context.waiting.as_mut().filter(|waiting| waiting.asked.is_none())
        {
            waiting.asked = Some(now);
            out.push(Action::Ask(waiting.run));
        }
        self.forget_if_idle(name);
    }

    fn forget_if_idle(&mut self, name: &str) {
        if self.contexts.get(name).is_some_and(Context::is_idle) {
            self.contexts.remove(name);
        }
    }

    pub(super) fn granted(&mut self, now: Instant, run: Run, out: &mut Vec<Action>) {
        let Some(context) = self.contexts.values_mut().find(|context| context.asks(run)) else { return };
        let Some(waiting) = context.waiting.take() else { return };
        let (running, held) = Running::new(now, waiting, self.settings.client_buffer);
        context.running = Some(running);
        out.extend(held.into_iter().map(Action::ToEngine));
    }

    pub(super) fn refused(&mut self, now: Instant, run: Run, reason: Reason, out: &mut Vec<Action>) {
        let found = self.contexts.iter().find(|(_, context)| context.asks(run));
        let Some(name) = found.map(|(name, _)| name.clone()) else { return };
        self.refuse_waiting(now, &name, reason, out);
    }

    fn refuse_waiting(&mut self, now: Instant, name: &str, reason: Reason, out: &mut Vec<Action>) {
        let waiting = self.contexts.get_mut(name).and_then(|context| context.waiting.take());
        let Some(waiting) = waiting else { return };
        let phase = Phase::Refused(reason);
        out.push(unanswered(now, waiting.run, waiting.asked, phase, refused_outcome(reason)));
        self.refuse(name, reason, out);
        self.forget_if_idle(name);
    }

    /// Tells the caller, and remembers the context: what still comes for it is swallowed.
    fn refuse(&mut self, name: &str, reason: Reason, out: &mut Vec<Action>) {
        out.push(Action::ToCaller(wire::refused(self.encoding, name, reason)));
        self.swallow(name);
    }

    fn swallow(&mut self, name: &str) {
        if name.len() <= CONTEXT_BYTES_MAX {
            if self.refused.len() >= REFUSED_MAX {
                self.refused.pop_front();
            }
            self.refused.push_back(name.into());
        }
    }

    fn is_refused(&self, name: &str) -> bool {
        self.refused.iter().any(|refused| **refused == *name)
    }

    fn invalid(&self, out: &mut Vec<Action>, context: &str, text: &str) {
        out.push(Action::ToCaller(wire::error(self.encoding, context, "invalid_input", text)));
    }

    pub(super) fn caller_closed(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.close(now, Outcome::CallerGone, Outcome::CallerGone, false, out);
    }

    pub(super) fn caller_broke(&mut self, now: Instant, out: &mut Vec<Action>) {
        for context in self.contexts.values_mut() {
            out.extend(context.waiting.take().map(|of| of.withdrawn(now, Outcome::CallerGone)));
        }
        self.contexts.retain(|_, context| !context.is_idle());
    }

    pub(super) fn engine_closed(&mut self, now: Instant, let_go: bool, out: &mut Vec<Action>) {
        // What waited never reached the engine, and may be said again elsewhere; what ran is cut off.
        let open = self.contexts.iter().filter(|(_, of)| of.waiting.is_some() || of.running.is_some());
        let lost = |name: &str| wire::refused(self.encoding, name, Reason::EngineUnavailable);
        out.extend(open.map(|(name, _)| Action::ToCaller(lost(name))));
        self.close(now, Outcome::EngineError, Outcome::Truncated, let_go, out);
    }

    fn close(
        &mut self,
        now: Instant,
        queued: Outcome,
        running: Outcome,
        engine_let_go: bool,
        out: &mut Vec<Action>,
    ) {
        for context in std::mem::take(&mut self.contexts).into_values() {
            if let Some(of) = context.running {
                out.push(of.ended(now, running, engine_let_go));
            }
            out.extend(context.waiting.map(|of| of.withdrawn(now, queued)));
        }
        self.refused.clear();
    }

    pub(super) fn caller_stalled(&mut self, now: Instant, out: &mut Vec<Action>) {
        let (release, answer) = (now + self.settings.clear_release, now + self.settings.stall_timeout);
        for (name, context) in &mut self.contexts {
            if let Some(running) = context.running.as_mut().filter(|running| running.closing.is_none()) {
                running.close(Outcome::CallerGone, release);
                context.gate_cancel_sent(answer, false);
                out.push(Action::ToEngine(wire::cancel(self.encoding, name)));
            }
            if let Some(waiting) = context.waiting.take() {
                out.push(waiting.withdrawn(now, Outcome::CallerGone));
                out.push(Action::ToCaller(wire::cancelled(self.encoding, name)));
            }
        }
        self.contexts.retain(|_, context| !context.is_idle());
    }

    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        // What is done may leave something else due; each step takes a context further towards its end.
        while let Some(name) = self.due(now) {
            self.late(now, &name, out);
            self.go_on(now, &name, out);
        }
    }

    fn due(&self, now: Instant) -> Option<Box<str>> {
        let due =
            |context: &Context| context.deadline(&self.settings).is_some_and(|deadline| deadline <= now);
        self.contexts.iter().find(|(_, context)| due(context)).map(|(name, _)| name.clone())
    }

    /// Nobody has said in time what was due of this context.
    fn late(&mut self, now: Instant, name: &str, out: &mut Vec<Action>) {
        let Some(context) = self.contexts.get_mut(name) else { return };
        match &mut context.running {
            None => context.give_up_on_answers(now),
            Some(running) if running.closing.is_some() => {
                out.extend(context.running.take().map(|running| running.given_up(now)));
            }
            Some(running) => {
                let outcome = running.why_late();
                running.close(outcome, now + self.settings.clear_release);
                context.gate_cancel_sent(now + self.settings.stall_timeout, true);
                let (kind, text) = match outcome {
                    Outcome::EngineTimeout => ("unavailable", Reason::EngineTimeout.answer().text),
                    _ => ("timeout", "Text did not arrive in time"),
                };
                out.push(Action::ToEngine(wire::cancel(self.encoding, name)));
                out.push(Action::ToCaller(wire::error(self.encoding, name, kind, text)));
                self.swallow(name);
            }
        }
    }

    pub(super) fn held_up(&mut self, held: Duration) {
        let running = self.contexts.values_mut().filter_map(|context| context.running.as_mut());
        running.for_each(|running| running.held_up(held));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.contexts.values().filter_map(|context| context.deadline(&self.settings)).min()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.contexts.values().filter_map(|context| context.waiting.as_ref()).map(|of| of.held_bytes).sum()
    }

    pub(super) fn running(&self) -> usize {
        self.contexts.values().filter(|context| context.running.is_some()).count()
    }

    pub(super) fn queued(&self) -> usize {
        self.contexts.values().filter(|context| context.waiting.is_some()).count()
    }
}
