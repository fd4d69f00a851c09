//! Decides what becomes of a caller's message: held, joined to the run that is there, passed on, or a run of its own.

use std::time::Instant;

use super::super::sentence::Piece;
use super::super::{Action, Message, Run};
use super::run::{Held, Waiting};
use super::wire::{Operation, Said};
use super::{Segment, Session};
use crate::refusal::Reason;

impl Session {
    pub(in crate::protocol::websocket) fn caller_said(
        &mut self,
        now: Instant,
        message: Message,
        out: &mut Vec<Action>,
    ) {
        if self.eos {
            return;
        }
        let mut said = self.wire.said(&message);
        if let (Segment::Immediate, Some(piece)) = (self.dialect.segment, &mut said.text) {
            (piece.completes, piece.ends) = (!piece.blank, true);
        }
        if said.label.is_some() {
            self.label.clone_from(&said.label);
        }
        self.eos = said.operation == Some(Operation::Eos);
        match (said.text, said.operation) {
            (None | Some(Piece { blank: true, .. }), Some(Operation::Clear)) => self.clear(now, message, out),
            _ if self.is_swallowed(now, &said) => {}
            _ => self.take(now, &said, message, out),
        }
    }

    /// Whether the message belongs to a turn that was refused.
    fn is_swallowed(&mut self, now: Instant, said: &Said) -> bool {
        let Some(refused) = &mut self.refused else { return false };
        let same = refused.label == self.label && now < refused.until;
        let goes_on = same && said.operation.is_none() && self.label.is_some();
        if goes_on {
            refused.until = now + self.settings.quiet;
            return true;
        }
        self.refused = None;
        same && said.operation == Some(Operation::Flush) && (said.text.is_none() || self.label.is_some())
    }

    fn take(&mut self, now: Instant, said: &Said, message: Message, out: &mut Vec<Action>) {
        let flushes = matches!(said.operation, Some(Operation::Flush | Operation::Eos));
        let joins = self.joins();
        let starts = flushes || (joins && said.text.is_some_and(|piece| piece.completes));
        if joins && !self.waiting.is_empty() {
            return self.hold_with_last(now, said, message, out);
        }
        let nothing_to_flush = flushes && !self.held.tail.text && said.text.is_none_or(|piece| piece.blank);
        if nothing_to_flush && !joins && (!self.waiting.is_empty() || self.running.is_some()) {
            // An engine may answer a flush of nothing with a `done` too many. It would end the wrong run.
            if said.operation == Some(Operation::Eos) {
                self.pass_in_order(now, said, message, out);
            }
            return;
        }
        let passes_on = starts && joins && self.running.as_ref().is_some_and(|running| !running.is_closing());
        if !passes_on && self.held_bytes() + message.cost() > self.settings.held_bytes_max {
            self.held = Held::default();
            return self.refuse_unasked(now, Reason::BodyTooLarge, said, out);
        }
        self.held.hold(said, self.label.as_deref(), message);
        match &mut self.running {
            _ if !starts => {
                if said.text.is_none() {
                    self.send_what_starts_nothing(out);
                }
            }
            Some(running) if passes_on => {
                let held = std::mem::take(&mut self.held);
                self.unfinished = held.tail.unfinished || (self.unfinished && !held.tail.flushed);
                running.joined(now, held.tail);
                out.extend(held.messages.into_iter().map(Action::ToEngine));
            }
            _ if nothing_to_flush && !self.unfinished => {
                let held = std::mem::take(&mut self.held);
                out.extend(held.messages.into_iter().map(Action::ToEngine));
            }
            _ => self.enqueue(now, said, out),
        }
    }

    /// A message that is neither text nor operation waits only for what came before it.
    fn send_what_starts_nothing(&mut self, out: &mut Vec<Action>) {
        if !self.held.tail.text && self.waiting.is_empty() {
            let held = std::mem::take(&mut self.held);
            out.extend(held.messages.into_iter().map(Action::ToEngine));
        }
    }

    /// What joins a run that waits, waits with it.
    fn hold_with_last(&mut self, now: Instant, said: &Said, message: Message, out: &mut Vec<Action>) {
        let full = self.held_bytes() + message.cost() > self.settings.held_bytes_max;
        let Some(last) = self.waiting.back_mut() else { return };
        if full {
            let run = last.run;
            last.held.tail.add(said);
            return self.refuse(now, run, Reason::BodyTooLarge, out);
        }
        let label = last.held.label.take();
        last.held.hold(said, label.as_deref(), message);
    }

    /// An `eos` with nothing to flush goes behind whatever is there.
    fn pass_in_order(&mut self, now: Instant, said: &Said, message: Message, out: &mut Vec<Action>) {
        match self.waiting.is_empty() {
            true => out.push(Action::ToEngine(message)),
            false => self.hold_with_last(now, said, message, out),
        }
    }

    /// What is held becomes a run.
    fn enqueue(&mut self, now: Instant, said: &Said, out: &mut Vec<Action>) {
        if self.running() + self.queued() >= self.settings.runs_max {
            self.held = Held::default();
            return self.refuse_unasked(now, Reason::QueueFull, said, out);
        }
        let held = std::mem::take(&mut self.held);
        self.runs += 1;
        self.waiting.push_back(Waiting { run: Run(self.runs), asked: None, held });
        self.go_on(now, out);
    }
}
