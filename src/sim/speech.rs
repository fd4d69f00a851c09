//! One synthesis as its surface sees it: a stream of bytes that comes as fast as the GPU makes it, and ends
//! as fate has it. Counted as running until its last bytes leave, or until it is dropped.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::audio::Encoder;
use super::counts::Ending;
use super::faults::Fate;
use super::request::Order;
use super::worker::Production;

/// The connection is to be broken off here.
#[derive(Clone, Copy, Debug, Error)]
#[error("the synthesis was cut off, as asked for by --cut-rate")]
pub(super) struct Cut;

/// A synthesis on its way out.
#[derive(Debug)]
pub(super) struct Speech {
    production: Option<Production>,
    encoder: Encoder,
    produced: Duration,
    fate: Fate,
    /// Audio after which the fate strikes.
    strikes: Duration,
    ahead: Option<Bytes>,
}

impl Speech {
    pub(super) fn new(order: &Order, production: Production, fate: Fate) -> Self {
        let strikes = match fate {
            Fate::Stall(share) | Fate::Cut(share) => order.audio.mul_f64(share),
            Fate::Fine | Fate::Error => Duration::MAX,
        };
        Self {
            production: Some(production),
            encoder: Encoder::new(order.format, order.rate, order.audio),
            produced: Duration::ZERO,
            fate,
            strikes,
            ahead: None,
        }
    }

    /// Waits until there is something to send. Fails if the engine is fated to.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn begins(&mut self) -> Result<(), Failed> {
        if self.ahead.is_none() {
            self.ahead =
                poll_fn(|context| self.poll_piece(context)).await.transpose().map_err(|Cut| Failed)?;
        }
        if self.fate == Fate::Error {
            self.end(Ending::Failed);
            return Err(Failed);
        }
        Ok(())
    }

    /// The next bytes; `None` after the last.
    pub(super) fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match self.ahead.take() {
            Some(bytes) => Poll::Ready(Some(Ok(bytes))),
            None => self.poll_piece(context),
        }
    }

    /// Whether every byte was handed out.
    pub(super) fn is_finished(&self) -> bool {
        self.encoder.is_finished() && self.ahead.is_none()
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if self.encoder.is_finished() {
                return Poll::Ready(None);
            }
            if let Some(bytes) = self.encoder.next(self.produced.min(self.strikes)) {
                if self.encoder.is_finished() && self.fate != Fate::Error {
                    // Counted out before the last bytes can be seen: whoever reads them may start the next
                    // synthesis at once.
                    self.end(Ending::Completed);
                }
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.produced >= self.strikes {
                if let Fate::Stall(_) = self.fate {
                    // Nobody will wake the caller: it has to give up.
                    return Poll::Pending;
                }
                self.end(Ending::Failed);
                return Poll::Ready(Some(Err(Cut)));
            }
            let Some(production) = &self.production else { return Poll::Ready(None) };
            match production.poll_produced(context, self.produced) {
                Poll::Ready(produced) => self.produced = produced,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        if let Some(production) = self.production.take() {
            production.end(ending);
        }
    }
}

/// The engine failed before it had sent anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed;
