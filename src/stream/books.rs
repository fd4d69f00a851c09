//! The list of all that runs: where a synthesis is written down at its end, and where one that has stood still for too long
//! is ended though nobody polls it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Labels, Live, StallTimeouts, State};
use crate::admission::{Door, Permit};
use crate::meter::{Measured, Outcome};
use crate::metrics::Metrics;

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

/// A synthesis that runs elsewhere than in a [`Metered`](super::Metered) stream, written down until this is dropped.
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

    pub(super) fn running(&self) -> MutexGuard<'_, Slab<Arc<Live<B>>>> {
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
    pub(super) fn end(&self, state: State<B>, now: Instant, outcome: Outcome) {
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
