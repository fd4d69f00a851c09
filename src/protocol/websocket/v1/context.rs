//! Decides when one context's run has ended, and whether the next may ask. Knows no encoding.

use std::time::{Duration, Instant};

use rimelabs_api::AudioParameters;

use super::super::reading::Sound;
use super::super::{Action, CROSSING_MAX, Ended, Message, Phase, Run, Settings, unanswered};
use super::wire::Event;
use crate::audio::{AudioClock, Hint};
use crate::meter::{Meter, Outcome};

/// What is known of one context id. Lives as long as any of it does.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) running: Option<Running>,
    /// The next run: it waits for a slot, or for the run before it.
    pub(super) waiting: Option<Waiting>,
    /// `cancel`s that the engine has not confirmed.
    unconfirmed: u32,
    /// When they are no longer waited for.
    unconfirmed_until: Option<Instant>,
    /// Text may have reached the engine after it had ended the run: until then its complaint may come.
    unsettled_until: Option<Instant>,
    /// The caller has had its last word, and the engine's is not for it.
    hushed: bool,
    /// Audio of a run that the gate has cancelled may still come, and is not for the caller.
    muted: bool,
}

/// A run without a slot.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) run: Run,
    /// When it asked; `None` while the run before it is not over.
    pub(super) asked: Option<Instant>,
    /// More text may come.
    pub(super) open: bool,
    audio: Option<AudioParameters>,
    held: Vec<Message>,
    pub(super) held_bytes: usize,
    /// When the first text that can be spoken came, where it was not in the `start`.
    pub(super) spoken: Option<Instant>,
}

impl Waiting {
    pub(super) fn new(
        run: Run,
        asked: Option<Instant>,
        one_shot: bool,
        audio: Option<AudioParameters>,
        start: Message,
    ) -> Self {
        let held_bytes = start.cost();
        Self { run, asked, open: !one_shot, audio, held: vec![start], held_bytes, spoken: None }
    }

    pub(super) fn hold(&mut self, message: Message) {
        self.held_bytes += message.cost();
        self.held.push(message);
    }

    /// It ends without a slot.
    pub(super) fn withdrawn(&self, now: Instant, outcome: Outcome) -> Action {
        unanswered(now, self.run, self.asked, Phase::Queued, outcome)
    }

    fn clock(&self) -> AudioClock {
        let audio = self.audio.as_ref();
        let rate = audio.and_then(|audio| audio.sampling_rate).and_then(|rate| u32::try_from(rate).ok());
        let hint = Hint { rate: rate.filter(|rate| *rate > 0), ..Hint::default() };
        AudioClock::for_answer(audio.and_then(|audio| audio.audio_format.as_deref()), None, hint)
    }
}

/// A run with a slot.
#[derive(Debug)]
pub(super) struct Running {
    run: Run,
    meter: Meter,
    started: bool,
    /// More text may come.
    pub(super) open: bool,
    /// The last text that went to the engine.
    wrote: Instant,
    /// Since when the engine, or the caller, owes the next word.
    pub(super) since: Instant,
    pub(super) closing: Option<Closing>,
}

/// The run that takes a context's text.
#[derive(Debug)]
pub(super) enum Open<'a> {
    Waiting(&'a mut Waiting),
    Running(&'a mut Running),
}

/// The gate has cancelled it, and waits for the engine's word.
#[derive(Debug)]
pub(super) struct Closing {
    outcome: Outcome,
    until: Instant,
}

impl Running {
    /// Also returns the messages that were held, in order.
    pub(super) fn new(now: Instant, waiting: Waiting, client_buffer: Duration) -> (Self, Vec<Message>) {
        let asked = waiting.asked.unwrap_or(now);
        let wait = now.saturating_duration_since(asked);
        let mut meter = Meter::new(asked, wait, waiting.clock(), client_buffer);
        if let Some(spoken) = waiting.spoken {
            meter.text(spoken);
        }
        let (run, open) = (waiting.run, waiting.open);
        (Self { run, meter, started: false, open, wrote: now, since: now, closing: None }, waiting.held)
    }

    /// The caller wrote, and it was passed on.
    pub(super) fn wrote(&mut self, now: Instant, blank: bool) {
        (self.wrote, self.since) = (now, now);
        if !blank {
            self.meter.text(now);
        }
    }

    pub(super) fn close(&mut self, outcome: Outcome, until: Instant) {
        self.open = false;
        self.closing = Some(Closing { outcome, until });
    }

    pub(super) fn held_up(&mut self, held: Duration) {
        self.meter.held_up(held);
    }

    /// Whose silence it is.
    pub(super) fn why_late(&self) -> Outcome {
        if self.started && self.open { Outcome::CallerGone } else { Outcome::EngineTimeout }
    }

    fn deadline(&self, settings: &Settings) -> Instant {
        let patience = match &self.closing {
            Some(closing) => return closing.until,
            // Whoever still writes may be what the engine waits for.
            None if self.started && self.open => settings.writer_timeout,
            None if self.meter.clock().started() => settings.stall_timeout,
            None => settings.first_byte_timeout,
        };
        self.since + patience
    }

    pub(super) fn ended(self, now: Instant, outcome: Outcome, engine_let_go: bool) -> Action {
        let outcome = self.closing.map_or(outcome, |closing| closing.outcome);
        let measured = self.meter.end(now, outcome);
        Action::Ended(Box::new(Ended { run: self.run, measured, phase: Phase::Running, engine_let_go }))
    }

    /// The engine did not confirm the gate's `cancel` in time.
    pub(super) fn given_up(self, now: Instant) -> Action {
        self.ended(now, Outcome::EngineTimeout, false)
    }
}

impl Context {
    /// Whether another `start` can only mean the next run.
    pub(super) fn takes_start(&self) -> bool {
        self.waiting.is_none() && self.running.as_ref().is_none_or(|running| !running.open)
    }

    /// Whether a run may go to the engine: none is there, and nothing is on its way that could end a new one.
    pub(super) const fn is_free(&self) -> bool {
        self.running.is_none() && self.unconfirmed == 0 && self.unsettled_until.is_none()
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.is_free() && self.waiting.is_none()
    }

    /// The run that takes text, if one does.
    pub(super) fn open(&mut self) -> Option<Open<'_>> {
        match (&mut self.waiting, &mut self.running) {
            (Some(waiting), _) => waiting.open.then_some(Open::Waiting(waiting)),
            (None, Some(running)) => running.open.then_some(Open::Running(running)),
            (None, None) => None,
        }
    }

    pub(super) fn asks(&self, run: Run) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.run == run && waiting.asked.is_some())
    }

    /// A `cancel` of the caller's goes to the engine, which should confirm it by `until`.
    pub(super) fn cancel_sent(&mut self, until: Instant) {
        self.unconfirmed += 1;
        self.unconfirmed_until = Some(until);
        self.hushed = false;
    }

    /// A `cancel` of the gate's own does; `hushed`: its confirmation is not for the caller.
    pub(super) fn gate_cancel_sent(&mut self, until: Instant, hushed: bool) {
        self.cancel_sent(until);
        (self.hushed, self.muted) = (hushed, true);
    }

    /// What the engine has not answered by now, it will not.
    pub(super) fn give_up_on_answers(&mut self, now: Instant) {
        self.unsettled_until = self.unsettled_until.filter(|until| *until > now);
        if self.unconfirmed_until.is_none_or(|until| until <= now) {
            self.unconfirmed = 0;
            (self.hushed, self.muted) = (false, false);
        }
    }

    pub(super) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        match &self.running {
            Some(running) => Some(running.deadline(settings)),
            None => {
                let unconfirmed = self.unconfirmed_until.filter(|_| self.unconfirmed > 0);
                unconfirmed.into_iter().chain(self.unsettled_until).min()
            }
        }
    }

    /// Returns whether it is for the caller.
    pub(super) fn started(&mut self, now: Instant) -> bool {
        if let Some(running) = &mut self.running {
            running.started = true;
            running.since = now;
        }
        !self.hushed
    }

    /// Returns whether it is for the caller.
    pub(super) fn audio(
        &mut self,
        now: Instant,
        sound: &Sound<'_>,
        settings: &Settings,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(running) = &mut self.running else { return !self.muted };
        if let Some(closing) = &mut running.closing {
            // It was told to stop, and has not: it lets go when it says so, or falls silent.
            closing.until = now + settings.clear_release;
            return false;
        }
        running.since = now;
        running.started = true;
        let silent = !running.meter.clock().started();
        out.extend(sound.heard_by(&mut running.meter, now).map(Action::ChunkGap));
        if silent {
            out.extend(running.meter.upstream_ttfb().map(Action::Ttfb));
        }
        true
    }

    /// A terminal event; `settle` is how long a complaint about text that crossed with it may take. Returns whether it is for the caller.
    pub(super) fn ended_by(
        &mut self,
        now: Instant,
        event: &Event<'_>,
        settle: Duration,
        out: &mut Vec<Action>,
    ) -> bool {
        let confirms = *event == Event::Cancelled && self.unconfirmed > 0;
        let passes = !self.hushed;
        if confirms {
            self.unconfirmed -= 1;
        }
        if self.unconfirmed == 0 {
            (self.hushed, self.muted) = (false, false);
        }
        let outcome = match event {
            Event::Done => Outcome::Ok,
            Event::Cancelled => Outcome::CallerGone,
            _ => Outcome::EngineError,
        };
        // Before `started` only a refusal can end a run: anything else is the echo of a run before it.
        let ends = |running: &Running| running.started || confirms || *event == Event::Error;
        if let Some(running) = self.running.as_ref().filter(|running| ends(running)) {
            let crossed = now.saturating_duration_since(running.wrote) < CROSSING_MAX;
            if crossed && !confirms && (running.open || *event == Event::Error) {
                self.unsettled_until = Some(now + settle);
            }
            // What the gate cancelled needs one terminal toward the caller, not two.
            self.hushed |= running.closing.is_some() && self.unconfirmed > 0;
            out.extend(self.running.take().map(|running| running.ended(now, outcome, true)));
        }
        passes
    }
}
