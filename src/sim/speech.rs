//! One synthesis as its surface sees it: a stream of bytes that comes as fast as the GPU makes it, and ends
//! as fate has it. Counted as running until its last bytes leave, or until it is dropped.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::audio::Encoder;
use super::counts::{Ending, Running};
use super::faults::{Blow, Fate};
use super::request::{Order, Voice};
use super::worker::{Production, Progress, Worker};

/// What fate does to a synthesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Struck {
    /// The connection is to be broken off here.
    #[error("the synthesis was cut off, as asked for by --cut-rate")]
    Cut,
    /// The caller is to hear of an error.
    #[error("inference failed")]
    Error,
}

/// A synthesis on its way out.
#[derive(Debug)]
pub(super) struct Speech {
    production: Option<Production>,
    voice: Voice,
    encoder: Encoder,
    /// Sound of all text so far.
    audio: Duration,
    progress: Progress,
    blow: Blow,
    /// Audio after which the fate strikes.
    strikes: Duration,
    ahead: Option<Bytes>,
    /// What was sent before a blow has had its chance to leave.
    flushed: bool,
}

impl Speech {
    /// One whose text is complete.
    pub(super) fn whole(order: &Order, worker: &Worker, running: Running, fate: Fate) -> Self {
        let mut speech = Self::open(order.voice, worker, running, fate);
        speech.encoder = Encoder::new(order.voice.format, order.voice.rate, order.audio);
        speech.extend(order.audio);
        speech.hold(false);
        speech
    }

    /// One whose text is still to come.
    pub(super) fn open(voice: Voice, worker: &Worker, running: Running, fate: Fate) -> Self {
        Self {
            production: Some(worker.open(fate.late, running)),
            voice,
            encoder: Encoder::open(voice.format, voice.rate),
            audio: Duration::ZERO,
            progress: Progress::default(),
            blow: fate.blow,
            strikes: Duration::MAX,
            ahead: None,
            flushed: false,
        }
    }

    /// More to say. Returns the length of its sound, or nothing if the synthesis is over already.
    pub(super) fn say(&mut self, text: &str) -> Option<Duration> {
        let audio = self.voice.length(text);
        self.extend(audio).then_some(audio)
    }

    fn extend(&mut self, audio: Duration) -> bool {
        let Some(production) = &self.production else { return false };
        if self.audio.is_zero() {
            self.strikes = match self.blow {
                Blow::Error => Duration::ZERO,
                Blow::Stall(share) | Blow::Cut(share) | Blow::MidError(share) => audio.mul_f64(share),
                Blow::None | Blow::NoDone | Blow::DoubleDone => Duration::MAX,
            };
        }
        let extended = production.extend(audio);
        if extended {
            self.audio += audio;
        }
        extended
    }

    /// Says whether more text may come.
    pub(super) fn hold(&mut self, open: bool) {
        if let Some(production) = &self.production {
            production.hold(open);
        }
    }

    /// Ends it now: nothing lingers, whatever `--cancel-delay` says of callers that just go away.
    pub(super) fn cancel(mut self) {
        self.end(Ending::Cancelled);
    }

    /// Waits until there is something to send. Fails if the engine is fated to.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn begins(&mut self) -> Result<(), Struck> {
        if self.ahead.is_none() {
            self.ahead = poll_fn(|context| self.poll_piece(context)).await.transpose()?;
        }
        Ok(())
    }

    /// The next bytes; `None` after the last.
    pub(super) fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Struck>>> {
        match self.ahead.take() {
            Some(bytes) => Poll::Ready(Some(Ok(bytes))),
            None => self.poll_piece(context),
        }
    }

    /// Whether every byte was handed out, and the end may be told.
    pub(super) fn is_finished(&self) -> bool {
        self.is_spoken() && self.ahead.is_none() && self.blow != Blow::NoDone
    }

    /// All audio that was made so far.
    pub(super) fn produced(&self) -> Duration {
        self.progress.produced
    }

    /// Whether its end is fated to be told twice.
    pub(super) fn ends_twice(&self) -> bool {
        self.blow == Blow::DoubleDone
    }

    /// A text that was opened and never came has no sound at all, not even a header.
    fn is_spoken(&self) -> bool {
        self.encoder.is_finished() || (self.progress.finished && self.audio.is_zero())
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Struck>>> {
        loop {
            if self.is_spoken() {
                self.end(Ending::Completed);
                if self.blow == Blow::NoDone {
                    return Poll::Pending;
                }
                return Poll::Ready(None);
            }
            // A failure comes when the first audio would have come.
            let strikes = self.progress.produced >= self.strikes && !self.progress.produced.is_zero();
            if self.blow == Blow::Error && strikes {
                self.end(Ending::Failed);
                return Poll::Ready(Some(Err(Struck::Error)));
            }
            if let Some(bytes) = self.encoder.next(self.progress.produced.min(self.strikes)) {
                if self.encoder.is_finished() {
                    // Counted out before the last bytes can be seen: whoever reads them may start the next
                    // synthesis at once.
                    self.end(Ending::Completed);
                }
                return Poll::Ready(Some(Ok(bytes)));
            }
            if strikes {
                return self.strike(context);
            }
            let Some(production) = &self.production else { return Poll::Ready(None) };
            match production.poll_progress(context, self.progress) {
                Poll::Ready(progress) => {
                    self.progress = progress;
                    if progress.finished && !self.audio.is_zero() {
                        self.encoder.end(progress.produced);
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn strike(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Struck>>> {
        let struck = match self.blow {
            // Nobody will wake the caller: it has to give up.
            Blow::Stall(_) => return Poll::Pending,
            Blow::MidError(_) | Blow::Error => Struck::Error,
            _ => Struck::Cut,
        };
        if !std::mem::replace(&mut self.flushed, true) {
            // An HTTP/1 connection that breaks throws away what it has not flushed, and it flushes while it waits.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.end(Ending::Failed);
        Poll::Ready(Some(Err(struck)))
    }

    fn end(&mut self, ending: Ending) {
        if let Some(production) = self.production.take() {
            production.end(ending);
        }
    }
}
