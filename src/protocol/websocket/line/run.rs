//! Keeps what belongs to one run of a line: the messages held for it, then its clock and what it waits for.

use std::time::{Duration, Instant};

use super::super::reading::Sound;
use super::super::sentence::Piece;
use super::super::{Action, CROSSING_MAX, Ended, Message, Phase, Run, Settings};
use super::wire::{Operation, Said};
use crate::audio::{AudioClock, Hint};
use crate::meter::{Meter, Outcome};

/// After so long from its text, an engine that was told to stop and says nothing has stopped. Three times the target that
/// limits are tuned for unless it is set otherwise: at such a limit hardly any sound comes later. It is no longer because
/// the next run of the socket waits for it, and pipecat takes 3 s of silence for a failed turn. An engine that is slower
/// and plays on after a `clear` needs a longer `clear_release`.
const FIRST_SOUND_MAX: Duration = Duration::from_secs(3);

/// Messages that wait together: text that starts nothing yet, or a run without a slot.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) messages: Vec<Message>,
    pub(super) bytes: usize,
    pub(super) label: Option<Box<str>>,
    pub(super) tail: Tail,
}

/// What was said last, and how much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// There is text that can be spoken.
    pub(super) text: bool,
    /// Its last sentence has not ended, so that an engine may wait for words.
    pub(super) unfinished: bool,
    /// The last operation ended the text.
    pub(super) flushed: bool,
    pub(super) eos: bool,
    chars: u32,
    /// How many of its messages may have made the engine speak.
    starts: u32,
}

impl Tail {
    pub(super) fn add(&mut self, said: &Said) {
        if let Some(Piece { blank: false, completes, ends, chars }) = said.text {
            self.starts += u32::from(completes);
            (self.text, self.unfinished, self.flushed) = (true, !ends, false);
            self.chars = self.chars.saturating_add(chars);
        }
        if matches!(said.operation, Some(Operation::Flush | Operation::Eos)) {
            self.starts += u32::from(self.unfinished);
            (self.unfinished, self.flushed) = (false, true);
        }
        self.eos |= said.operation == Some(Operation::Eos);
    }
}

impl Held {
    pub(super) fn hold(&mut self, said: &Said, label: Option<&str>, message: Message) {
        self.bytes += message.cost();
        self.messages.push(message);
        self.label = label.map(Into::into);
        self.tail.add(said);
    }
}

/// A run without a slot.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) run: Run,
    /// When it asked; `None` while the run before it is not over.
    pub(super) asked: Option<Instant>,
    pub(super) held: Held,
}

/// A run with a slot.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) run: Run,
    pub(super) label: Option<Box<str>>,
    meter: Meter,
    tail: Tail,
    /// The last message to the engine.
    wrote: Instant,
    /// The last audio from it.
    heard: Option<Instant>,
    /// Something was heard since the last text.
    sounds: bool,
    /// The last text that went to the engine behind the one that began the run.
    joined: Option<Instant>,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Speaking,
    /// Told to stop, or failed. Over at `done`, or at `until` in silence.
    Closing {
        outcome: Outcome,
        until: Instant,
    },
    /// Its `done` may have been on its way when the last text was: it is over only if the engine stays silent.
    Settling {
        done: Instant,
        until: Instant,
    },
}

impl Running {
    /// `joins`: the engine may be done with one of the messages before it has the next.
    pub(super) fn new(
        now: Instant,
        waiting: &Waiting,
        hint: Hint,
        client_buffer: Duration,
        joins: bool,
    ) -> Self {
        let asked = waiting.asked.unwrap_or(now);
        let clock = AudioClock::for_answer(None, None, hint);
        Self {
            run: waiting.run,
            label: waiting.held.label.clone(),
            meter: Meter::new(asked, now.saturating_duration_since(asked), clock, client_buffer),
            tail: waiting.held.tail,
            wrote: now,
            heard: None,
            sounds: false,
            joined: (joins && waiting.held.tail.starts > 1).then_some(now),
            state: State::Speaking,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// Messages with this tail went to the engine while it ran.
    pub(super) fn joined(&mut self, now: Instant, tail: Tail) {
        if tail.text {
            self.meter.text(now);
        }
        // A flush of nothing changes nothing.
        if tail.text || self.tail.unfinished {
            (self.wrote, self.joined, self.state) = (now, Some(now), State::Speaking);
            self.sounds = false;
        }
        let chars = self.tail.chars.saturating_add(tail.chars);
        let unfinished = if tail.text || tail.flushed { tail.unfinished } else { self.tail.unfinished };
        self.tail = Tail { text: self.tail.text || tail.text, chars, unfinished, ..tail };
    }

    pub(super) fn audio(
        &mut self,
        now: Instant,
        sound: &Sound<'_>,
        settings: &Settings,
        out: &mut Vec<Action>,
    ) {
        self.heard = Some(now);
        // What was on its way when text joined is no sound of that text.
        self.sounds |= !self.may_have_crossed(now);
        self.state = match self.state {
            State::Speaking | State::Settling { .. } => State::Speaking,
            State::Closing { outcome, until } => {
                let release = now + settings.clear_release;
                let until = if self.sounds { release } else { release.max(until) };
                State::Closing { outcome, until }
            }
        };
        let silent = !self.has_sounded();
        let gap = sound.heard_by(&mut self.meter, now);
        if self.is_closing() {
            return;
        }
        out.extend(gap.map(Action::ChunkGap));
        if silent {
            out.extend(self.meter.upstream_ttfb().map(Action::Ttfb));
        }
    }

    pub(super) fn held_up(&mut self, held: Duration) {
        self.meter.held_up(held);
    }

    pub(super) fn has_sounded(&self) -> bool {
        self.meter.clock().started()
    }

    /// Whether a `done` at `now` may have been said before the engine had all text.
    pub(super) fn may_have_crossed(&self, now: Instant) -> bool {
        self.joined.is_some_and(|joined| now.saturating_duration_since(joined) < CROSSING_MAX)
    }

    /// Until when nothing must be heard of it for it to be over, once it was told to stop at `now`.
    pub(super) fn silent_until(&self, now: Instant, settings: &Settings) -> Instant {
        let release = now + settings.clear_release;
        let first_sound = self.wrote + FIRST_SOUND_MAX.min(settings.first_byte_timeout);
        if self.sounds { release } else { release.max(first_sound) }
    }

    /// When it is late; `tells_done`: the engine tells the end.
    pub(super) fn deadline(&self, settings: &Settings, tells_done: bool) -> Instant {
        match self.state {
            State::Closing { until, .. } | State::Settling { until, .. } => until,
            State::Speaking => {
                let last = self.heard.map_or(self.wrote, |heard| heard.max(self.wrote));
                last + self.patience(settings, tells_done)
            }
        }
    }

    fn patience(&self, settings: &Settings, tells_done: bool) -> Duration {
        let answered = self.heard.is_some_and(|heard| heard >= self.wrote);
        if !tells_done && answered {
            let spoken = self.meter.clock().audio().as_secs_f64();
            let text = f64::from(self.tail.chars) / f64::from(settings.speech_rate_min.max(1));
            return if spoken >= text { settings.quiet / 4 } else { settings.quiet };
        }
        match self.heard {
            _ if self.tail.unfinished => settings.writer_timeout,
            Some(_) if tells_done => settings.stall_timeout,
            // A flush of what the engine was thought to hold: it may find nothing, and say nothing.
            None if !self.tail.text => settings.quiet,
            _ => settings.first_byte_timeout,
        }
    }

    /// What it comes to when nobody says more.
    pub(super) fn late_outcome(&self, tells_done: bool) -> Outcome {
        match self.state {
            State::Closing { outcome, .. } => outcome,
            State::Settling { .. } => Outcome::Ok,
            State::Speaking if !tells_done && self.heard.is_some() => Outcome::Ok,
            State::Speaking if !self.tail.text && self.heard.is_none() => Outcome::Ok,
            State::Speaking if self.tail.unfinished => Outcome::CallerGone,
            State::Speaking => Outcome::EngineTimeout,
        }
    }

    pub(super) fn ended(self, now: Instant, outcome: Outcome, engine_let_go: bool) -> Action {
        let (now, outcome) = match self.state {
            State::Speaking => (now, outcome),
            State::Closing { outcome, .. } => (now, outcome),
            State::Settling { done, .. } => (done, Outcome::Ok),
        };
        let measured = self.meter.end(now, outcome);
        Action::Ended(Box::new(Ended { run: self.run, measured, phase: Phase::Running, engine_let_go }))
    }
}
