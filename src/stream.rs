//! The body that carries the sound: the engine's bytes, the meter that times them and the permit that pays for them,
//! ended together and exactly once. Decides when a stream has stood still for too long. Alters no byte.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use slab::Slab;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::admission::{Door, Permit};
use crate::meter::{Measured, Meter, Outcome};
use crate::metrics::{Metrics, Model, Protocol};
use crate::protocol::grpc;

/// Where every synthesis is written down: the slots, the figures and the list of those that run.
#[derive(Debug)]
pub struct Books<B> {
    /// Where slots come from.
    pub door: Door,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
    /// How long a slot stays taken after a synthesis was cancelled: the engine works on until it notices.
    pub cancel_linger: Duration,
    running: Mutex<Slab<Arc<Live<B>>>>,
    /// When those arrived that no stream of the gate carries: on sockets, several share one.
    elsewhere: Mutex<Slab<Instant>>,
}

/// A synthesis that runs elsewhere than in a [`Metered`] stream, written down until this is dropped.
#[derive(Debug)]
pub struct Entry<B> {
    books: Arc<Books<B>>,
    key: usize,
}

impl<B> Drop for Entry<B> {
    fn drop(&mut self) {
        self.books.elsewhere().remove(self.key);
    }
}

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

/// When text reached the engine, told by whoever sends it, read by whoever meters the answer.
#[derive(Debug)]
pub struct Texts {
    origin: Instant,
    /// Nanoseconds from `origin` to the last text that was not taken yet; 0 is none.
    last: AtomicU64,
    /// Text has come since the last sweep.
    stirred: AtomicBool,
    /// More may come.
    open: AtomicBool,
}

impl Default for Texts {
    fn default() -> Self {
        let last = AtomicU64::new(0);
        Self { origin: Instant::now(), last, stirred: AtomicBool::new(true), open: AtomicBool::new(true) }
    }
}

impl Texts {
    /// Text that can be spoken goes to the engine now.
    pub fn came(&self) {
        let at = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.store(at.max(1), Relaxed);
        self.stirred.store(true, Relaxed);
    }

    /// No more will come.
    pub fn ended(&self) {
        self.stirred.store(true, Relaxed);
        self.open.store(false, Relaxed);
    }

    /// Whether more may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    fn take(&self) -> Option<Instant> {
        // Looked at for every chunk of audio, and mostly there is none: a plain load then.
        if self.last.load(Relaxed) == 0 {
            return None;
        }
        Some(self.origin + Duration::from_nanos(self.last.swap(0, Relaxed)))
    }

    /// Whether text came since this was last asked, and whether more may come.
    fn since_last_sweep(&self) -> (bool, bool) {
        (self.stirred.swap(false, Relaxed), self.is_open())
    }
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

impl<B> Books<B> {
    /// Empty books.
    #[must_use]
    pub fn new(door: Door, metrics: Arc<Metrics>, cancel_linger: Duration) -> Self {
        Self { door, metrics, cancel_linger, running: Mutex::default(), elsewhere: Mutex::default() }
    }

    /// Writes down a synthesis that arrived at `arrived` and now runs elsewhere.
    pub fn enter(self: &Arc<Self>, arrived: Instant) -> Entry<B> {
        Entry { books: Arc::clone(self), key: self.elsewhere().insert(arrived) }
    }

    fn elsewhere(&self) -> MutexGuard<'_, Slab<Instant>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Slab<Arc<Live<B>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The age of the synthesis that has been known for longest, from its arrival.
    #[must_use]
    pub fn oldest_age(&self, now: Instant) -> Duration {
        let running = self.running();
        let streams = running.iter().filter_map(|(_, live)| live.lock().as_ref().map(|state| state.arrived));
        let elsewhere = self.elsewhere().iter().map(|(_, arrived)| *arrived).min();
        streams.chain(elsewhere).min().map_or(Duration::ZERO, |arrived| now - arrived)
    }

    /// Ends every stream that has stood still for too long, and gives back its slot. A stream whose caller stopped
    /// reading is polled by nobody: that is why it is not left to the stream itself.
    pub fn sweep(&self, now: Instant, timeouts: StallTimeouts) {
        let all: Vec<_> = self.running().iter().map(|(_, live)| Arc::clone(live)).collect();
        for live in all {
            let mut state = live.lock();
            let Some(stalled) = state.as_mut().and_then(|state| state.stalled(now, timeouts)) else {
                continue;
            };
            let ended = state.take();
            drop(state);
            if let Some(ended) = ended {
                self.end(ended, now, stalled);
            }
        }
    }

    /// Sweeps for ever, eight times in the shorter time-out.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the sweeping and nothing else.
    pub async fn keep_sweeping(self: Arc<Self>, timeouts: StallTimeouts) {
        let period = (timeouts.engine.min(timeouts.caller) / 8).clamp(SWEEP_PERIOD_MIN, SWEEP_PERIOD_MAX);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.sweep(ticks.tick().await, timeouts);
        }
    }

    /// The one place where a synthesis that was let in ends.
    fn end(&self, state: State<B>, now: Instant, outcome: Outcome) {
        let State { body, permit, meter, labels, key, waker, .. } = state;
        drop(body);
        self.running().remove(key);
        let measured = meter.end(now.into_std(), outcome);
        let level = permit.mean_level_at(now);
        self.settle(permit, now, outcome);
        self.written(now, labels, &measured, level);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Gives a slot back: at once where the engine has ended, after the linger where it may still be at work.
    fn settle(&self, permit: Permit, now: Instant, outcome: Outcome) {
        match outcome {
            // Where an answer broke off, it may have been the gate that hung up, on bytes that it could not read.
            Outcome::CallerGone | Outcome::EngineTimeout | Outcome::Truncated => {
                permit.release_after(self.cancel_linger);
            }
            Outcome::Ok | Outcome::Refused | Outcome::EngineError => permit.release(now),
        }
    }

    /// Writes down a synthesis that has ended. `level` is the mean number in flight during its life
    /// ([`Permit::mean_level`]).
    pub fn written(&self, now: Instant, labels: Labels, measured: &Measured, level: Option<f64>) {
        self.metrics.advise(now.into_std(), labels.code, measured, level);
        self.metrics.finished(now.into_std(), labels.protocol, labels.model, labels.code, measured);
        tracing::debug!(
            protocol = labels.protocol.label(),
            code = labels.code,
            outcome = measured.outcome.label(),
            waited = ?measured.queue_wait,
            ttfb = ?measured.ttfb,
            rtf = measured.rtf.ok(),
            audio = ?measured.audio,
            "a synthesis ended"
        );
    }
}

const SWEEP_PERIOD_MIN: Duration = Duration::from_millis(10);
const SWEEP_PERIOD_MAX: Duration = Duration::from_secs(1);

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
