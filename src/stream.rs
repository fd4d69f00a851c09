//! The body that carries the sound: the engine's bytes, the meter that times them and the permit that pays for them,
//! ended together and exactly once. Decides when a stream has stood still for too long. Alters no byte.

mod books;
#[cfg(test)]
mod tests;
mod texts;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::admission::Permit;
use crate::meter::{Meter, Outcome};
use crate::metrics::{Model, Protocol};
use crate::protocol::grpc;
pub use books::{Books, Entry};
pub use texts::Texts;

/// Whose synthesis it is, as far as the figures tell.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// What the caller speaks.
    pub protocol: Protocol,
    /// The model asked for.
    pub model: Model,
    /// The status code that the caller was answered with.
    pub code: u16,
}

/// How long a stream may stand still.
#[derive(Clone, Copy, Debug)]
pub struct StallTimeouts {
    /// The engine sends nothing.
    pub engine: Duration,
    /// The caller takes nothing.
    pub caller: Duration,
}

/// Why a metered stream ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError<E> {
    /// The engine's answer broke off.
    #[error("the engine's answer broke off")]
    Engine(#[source] E),
    /// Nobody sent or took anything for too long.
    #[error("the stream stood still for too long")]
    Stalled,
}

/// One running synthesis, reached by its stream and by the sweep over all of them.
#[derive(Debug)]
struct Live<B> {
    state: Mutex<Option<State<B>>>,
}

#[derive(Debug)]
struct State<B> {
    /// Before the permit: the cancel goes out before the slot comes back.
    body: B,
    permit: Permit,
    meter: Meter,
    labels: Labels,
    arrived: Instant,
    key: usize,
    /// Of a request whose text is still being written.
    texts: Option<Arc<Texts>>,
    waits_for: Side,
    /// Since which sweep nothing has moved.
    still_since: Option<Instant>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Engine,
    Caller,
}

impl<B> Live<B> {
    fn lock(&self) -> MutexGuard<'_, Option<State<B>>> {
        // A panic while a chunk was metered leaves figures, not the slot, in doubt.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> State<B> {
    fn stalled(&mut self, now: Instant, timeouts: StallTimeouts) -> Option<Outcome> {
        let written = self.texts.as_ref().map_or((false, false), |texts| texts.since_last_sweep());
        if written.0 {
            self.still_since = None;
        }
        let (timeout, outcome) = match self.waits_for {
            // While text may still come, the engine may be waiting for it.
            Side::Engine if written.1 => (timeouts.engine, Outcome::CallerGone),
            Side::Engine => (timeouts.engine, Outcome::EngineTimeout),
            Side::Caller => (timeouts.caller, Outcome::CallerGone),
        };
        let since = *self.still_since.get_or_insert(now);
        (now - since >= timeout).then_some(outcome)
    }

    fn moved(&mut self, waits_for: Side) {
        self.waits_for = waits_for;
        self.still_since = None;
    }
}

/// An engine's answer on its way to the caller.
#[derive(Debug)]
pub struct Metered<B> {
    books: Arc<Books<B>>,
    live: Arc<Live<B>>,
    ended: bool,
}

impl<B> Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Takes charge of an answer that began: from here on the permit lasts as long as the sound. `arrived` is when
    /// the synthesis arrived.
    #[must_use]
    pub fn new(
        books: &Arc<Books<B>>,
        body: B,
        permit: Permit,
        meter: Meter,
        labels: Labels,
        arrived: Instant,
    ) -> Self {
        let at_its_end = body.is_end_stream();
        let mut running = books.running();
        let entry = running.vacant_entry();
        let state = State {
            body,
            permit,
            meter,
            labels,
            arrived,
            key: entry.key(),
            texts: None,
            waits_for: Side::Engine,
            still_since: None,
            waker: None,
        };
        let live = Arc::new(Live { state: Mutex::new(Some(state)) });
        entry.insert(Arc::clone(&live));
        drop(running);
        let mut metered = Self { books: Arc::clone(books), live, ended: false };
        if at_its_end {
            metered.end(Instant::now(), labels.outcome());
        }
        metered
    }

    /// As [`new`](Self::new), of a request whose text is still being written.
    #[must_use]
    pub fn fed_by(self, texts: Option<Arc<Texts>>) -> Self {
        if let Some(state) = self.live.lock().as_mut() {
            state.texts = texts;
        }
        self
    }

    /// Ends the synthesis, unless the sweep has.
    fn end(&mut self, now: Instant, outcome: Outcome) {
        self.ended = true;
        let state = self.live.lock().take();
        if let Some(state) = state {
            // Whoever polls the stream is here already.
            self.books.end(State { waker: None, ..state }, now, outcome);
        }
    }
}

impl Labels {
    /// What an answer comes to that the engine ended in its own way.
    const fn outcome(&self) -> Outcome {
        if self.code < 400 { Outcome::Ok } else { Outcome::EngineError }
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Takes what the engine has sent. The second value says when and how the synthesis ended, where it has.
    #[allow(clippy::type_complexity)]
    fn poll(
        &mut self,
        books: &Books<B>,
        cx: &mut Context<'_>,
    ) -> (Poll<Option<Result<Frame<Bytes>, B::Error>>>, Option<(Instant, Outcome)>) {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Poll::Ready(taken) = &polled else {
            self.moved(Side::Engine);
            if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                self.waker = Some(cx.waker().clone());
            }
            return (polled, None);
        };
        let now = Instant::now();
        if self.waits_for == Side::Caller {
            // It was there at once, and perhaps long before somebody came for it.
            self.meter.held_up(Duration::MAX);
        }
        let outcome = match taken {
            Some(Ok(frame)) => {
                self.moved(Side::Caller);
                if let Some(bytes) = frame.data_ref() {
                    self.heard(books, now, bytes);
                }
                if self.labels.protocol == Protocol::Grpc
                    && let Some(trailers) = frame.trailers_ref()
                {
                    self.labels.code = grpc::code_of(trailers).map_or(self.labels.code, grpc::http_code);
                }
                self.body.is_end_stream().then(|| self.labels.outcome())
            }
            Some(Err(_)) => Some(Outcome::Truncated),
            None => Some(self.labels.outcome()),
        };
        (polled, outcome.map(|outcome| (now, outcome)))
    }

    fn heard(&mut self, books: &Books<B>, now: Instant, bytes: &[u8]) {
        if let Some(text) = self.texts.as_ref().and_then(|texts| texts.take()) {
            self.meter.text(text.into_std());
        }
        let silent = self.meter.upstream_ttfb().is_none();
        if let Some(gap) = self.meter.heard(now.into_std(), bytes) {
            books.metrics.chunk_gap(self.labels.protocol, gap);
        }
        if silent
            && self.labels.code < 400
            && let Some(ttfb) = self.meter.upstream_ttfb()
        {
            books.door.observe_upstream_ttfb_at(now, ttfb);
        }
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = StreamError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut state = this.live.lock();
        let Some(live) = state.as_mut() else {
            drop(state);
            this.ended = true;
            return Poll::Ready(Some(Err(StreamError::Stalled)));
        };
        let (polled, ended) = live.poll(&this.books, cx);
        drop(state);
        if let Some((now, outcome)) = ended {
            this.end(now, outcome);
        }
        polled.map_err(StreamError::Engine)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.live.lock().as_ref().map_or_else(|| SizeHint::with_exact(0), |state| state.body.size_hint())
    }
}

impl<B> Drop for Metered<B> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let state = self.live.lock().take();
        if let Some(state) = state {
            self.books.end(State { waker: None, ..state }, Instant::now(), Outcome::CallerGone);
        }
    }
}
