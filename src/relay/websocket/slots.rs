//! The slots of one socket: asks the door for its runs, keeps their permits, gives them back, and writes down what each
//! came to. Knows no message.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::admission::{Admit, Door, Permit};
use crate::engine::EngineBody;
use crate::meter::{Measured, Outcome};
use crate::metrics::{Metrics, Model, Protocol};
use crate::protocol::websocket::{Ended, Phase, Run};
use crate::refusal::{Reason, Refusal};
use crate::stream::{Books, Entry, Labels};

/// What the door says to a run: how long it waited for its slot, or why it gets none.
pub(super) type Answer = (Run, Result<Duration, Refusal>);

/// The slots of one socket.
#[derive(Debug)]
pub(super) struct Slots {
    books: Arc<Books<EngineBody>>,
    door: Door,
    protocol: Protocol,
    model: Model,
    /// Asked for and not answered.
    asked: Vec<(Run, AbortHandle)>,
    /// Those of `asked`, woken one by one.
    waiting: FuturesUnordered<Abortable<Waiting>>,
    taken: Vec<Taken>,
}

#[derive(Debug)]
struct Waiting {
    run: Run,
    admit: Admit,
}

#[derive(Debug)]
struct Taken {
    run: Run,
    permit: Permit,
    _entry: Entry<EngineBody>,
}

impl Future for Waiting {
    type Output = (Run, Result<Permit, Refusal>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let run = self.run;
        Pin::new(&mut self.admit).poll(cx).map(|answer| (run, answer))
    }
}

impl Slots {
    pub(super) fn new(books: Arc<Books<EngineBody>>, protocol: Protocol, model: Option<&str>) -> Self {
        let door = books.door.class(protocol as usize);
        let model = books.metrics.model(model);
        Self {
            books,
            door,
            protocol,
            model,
            asked: Vec::new(),
            waiting: FuturesUnordered::new(),
            taken: Vec::new(),
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.books.metrics
    }

    pub(super) const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Asks for a slot. The door's answer, where it has one at once.
    pub(super) fn ask(&mut self, now: Instant, run: Run, cx: &mut Context<'_>) -> Option<Answer> {
        let mut waiting = Waiting { run, admit: self.door.admit() };
        if let Poll::Ready((run, answer)) = Pin::new(&mut waiting).poll(cx) {
            return Some((run, self.take(now, run, answer)));
        }
        let (handle, registration) = AbortHandle::new_pair();
        self.asked.push((run, handle));
        self.waiting.push(Abortable::new(waiting, registration));
        None
    }

    /// The door's next answer to a run that waits.
    pub(super) fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Answer> {
        while let Poll::Ready(Some(answered)) = Pin::new(&mut self.waiting).poll_next(cx) {
            // A run that was withdrawn has left the queue by this very poll.
            let Ok((run, answer)) = answered else { continue };
            self.asked.retain(|(asked, _)| *asked != run);
            return Poll::Ready((run, self.take(now, run, answer)));
        }
        Poll::Pending
    }

    fn take(&mut self, now: Instant, run: Run, answer: Result<Permit, Refusal>) -> Result<Duration, Refusal> {
        let permit = answer?;
        let waited = permit.waited();
        let entry = self.books.enter(now - waited);
        self.taken.push(Taken { run, permit, _entry: entry });
        Ok(waited)
    }

    /// A run needs its slot, or its place in the queue, no more.
    pub(super) fn ended(&mut self, now: Instant, ended: &Ended) {
        let Ended { run, measured, phase, engine_let_go } = ended;
        if let Some(index) = self.asked.iter().position(|(asked, _)| asked == run) {
            self.asked.swap_remove(index).1.abort();
        }
        let mut level = None;
        if let Some(index) = self.taken.iter().position(|taken| taken.run == *run) {
            let permit = self.taken.swap_remove(index).permit;
            let linger = if *engine_let_go { Duration::ZERO } else { self.books.cancel_linger };
            level = permit.mean_level();
            permit.release_after(linger);
        }
        let metrics = &self.books.metrics;
        match *phase {
            Phase::Queued => metrics.caller_left_queue(self.protocol, self.model, measured.queue_wait),
            Phase::Refused(reason) => {
                metrics.refused(self.protocol, self.model, reason, measured.queue_wait);
            }
            Phase::Running => self.books.written(now, self.labels(measured), measured, level),
        }
    }

    pub(super) fn observe_upstream_ttfb(&self, ttfb: Duration) {
        self.door.observe_upstream_ttfb(ttfb);
    }

    fn labels(&self, measured: &Measured) -> Labels {
        let code = match measured.outcome {
            Outcome::EngineError => Reason::EngineUnavailable.answer().http,
            Outcome::EngineTimeout => Reason::EngineTimeout.answer().http,
            Outcome::Ok | Outcome::Refused | Outcome::CallerGone | Outcome::Truncated => 200,
        };
        Labels { protocol: self.protocol, model: self.model, code }
    }
}
