//! Keeps the simulated GPU in step with the clock and wakes whoever waits for audio. Decides nothing itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::counts::{Ending, Running};
use super::gpu::{Gpu, Id, Output};

/// The GPU and those who wait for it; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Worker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    cancel_delay: Duration,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    gpu: Gpu,
    listeners: HashMap<Id, Arc<Listener>>,
    /// Cancelled, but not noticed yet: until when, and what counts it as running. In order of time.
    unnoticed: VecDeque<(Duration, Id, Running)>,
    outputs: Vec<Output>,
}

/// Who waits for one synthesis's audio.
#[derive(Debug, Default)]
struct Listener(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    progress: Progress,
    waker: Option<Waker>,
}

/// How far a synthesis has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// All audio so far.
    pub(super) produced: Duration,
    /// Whether that is all there will be.
    pub(super) finished: bool,
}

impl Worker {
    /// A worker whose time begins now. A cancelled synthesis goes on for `cancel_delay`.
    pub(super) fn new(gpu: Gpu, cancel_delay: Duration) -> Self {
        let state = State { gpu, listeners: HashMap::new(), unnoticed: VecDeque::new(), outputs: Vec::new() };
        Self(Arc::new(Shared {
            began: Instant::now(),
            cancel_delay,
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// Takes in a synthesis, whose text comes with [`Production::extend`] and is `late` to be prepared. Dropping
    /// the production cancels it.
    pub(super) fn open(&self, late: Duration, running: Running) -> Production {
        let listener = Arc::<Listener>::default();
        let mut state = self.0.lock();
        let id = state.gpu.open(late);
        state.listeners.insert(id, listener.clone());
        drop(state);
        Production { worker: self.clone(), id, listener, running: Some(running) }
    }

    /// Runs the GPU for ever.
    ///
    /// # Cancel safety
    /// Dropping it stops the GPU: nothing is lost, and another call goes on.
    pub(super) async fn run(&self) {
        loop {
            let next = self.0.lock().next_event();
            let changed = self.0.changed.notified();
            match next {
                Some(at) => {
                    let _ = tokio::time::timeout_at(self.0.began + at, changed).await;
                }
                None => changed.await,
            }
            self.advance();
        }
    }

    fn advance(&self) {
        let mut state = self.0.lock();
        let now = self.0.began.elapsed();
        while state.unnoticed.front().is_some_and(|(until, ..)| *until <= now) {
            let Some((_, id, running)) = state.unnoticed.pop_front() else { break };
            state.gpu.cancel(id);
            drop(running);
        }
        let mut outputs = std::mem::take(&mut state.outputs);
        state.gpu.advance(now, &mut outputs);
        for output in outputs.drain(..) {
            let listener = if output.finished {
                state.listeners.remove(&output.id)
            } else {
                state.listeners.get(&output.id).cloned()
            };
            if let Some(listener) = listener {
                listener.hears(Progress { produced: output.produced, finished: output.finished });
            }
        }
        state.outputs = outputs;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The GPU's state is sound between its calls, whatever panicked elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_event(&self) -> Option<Duration> {
        let noticed = self.unnoticed.front().map(|(until, ..)| *until);
        [self.gpu.next_event(), noticed].into_iter().flatten().min()
    }
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hears(&self, progress: Progress) {
        let mut heard = self.lock();
        heard.progress = progress;
        let waker = heard.waker.take();
        drop(heard);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A synthesis in the making.
#[derive(Debug)]
pub(super) struct Production {
    worker: Worker,
    id: Id,
    listener: Arc<Listener>,
    running: Option<Running>,
}

impl Production {
    /// More text, which will become `audio` of sound. False if the synthesis is over.
    pub(super) fn extend(&self, audio: Duration) -> bool {
        let shared = &self.worker.0;
        let mut state = shared.lock();
        let now = shared.began.elapsed();
        let extended = state.gpu.extend(now, self.id, audio);
        drop(state);
        shared.changed.notify_one();
        extended
    }

    /// Says whether more text may come.
    pub(super) fn hold(&self, open: bool) {
        let mut state = self.worker.0.lock();
        if let Some(produced) = state.gpu.hold(self.id, open) {
            state.listeners.remove(&self.id);
            drop(state);
            self.listener.hears(Progress { produced, finished: true });
        }
    }

    /// How far it is, once that is further than `seen`.
    pub(super) fn poll_progress(&self, context: &mut Context<'_>, seen: Progress) -> Poll<Progress> {
        let mut heard = self.listener.lock();
        if heard.progress != seen {
            return Poll::Ready(heard.progress);
        }
        match &mut heard.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// The synthesis is over, for the witness too.
    pub(super) fn end(mut self, ending: Ending) {
        if let Some(running) = self.running.take() {
            self.worker.0.forget(self.id);
            running.end(ending);
        }
    }
}

impl Shared {
    fn forget(&self, id: Id) {
        let mut state = self.lock();
        state.listeners.remove(&id);
        state.gpu.cancel(id);
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let shared = &self.worker.0;
        if shared.cancel_delay.is_zero() {
            shared.forget(self.id);
            return;
        }
        let mut state = shared.lock();
        state.listeners.remove(&self.id);
        let until = shared.began.elapsed() + shared.cancel_delay;
        state.unnoticed.push_back((until, self.id, running));
        drop(state);
        shared.changed.notify_one();
    }
}
