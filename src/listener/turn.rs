//! Ends an HTTP/2 stream whose caller takes nothing of its answer. A full window stops one stream and leaves the
//! connection to the others, so that closing the connection would be too much, and waiting for ever too little.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

/// Whose turn it is on one stream, told by the answer's body: odd while the caller has a frame to take.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU32);

impl Turn {
    /// The body is asked for more.
    pub(super) fn asked(&self) {
        if self.is_callers() {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// The body has given a frame.
    pub(super) fn gave(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn is_callers(&self) -> bool {
        self.0.load(Relaxed) % 2 == 1
    }
}

/// Runs the streams of one connection, each a task that ends when its caller takes nothing for too long.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    caller_stall_timeout: Duration,
    /// The turn of the request that was just taken in: its stream is the next task.
    next: Arc<Mutex<Option<Arc<Turn>>>>,
}

impl Streams {
    pub(super) fn new(caller_stall_timeout: Duration) -> Self {
        Self { caller_stall_timeout, next: Arc::default() }
    }

    /// A request comes in; the next task is its stream.
    pub(super) fn begin(&self) -> Arc<Turn> {
        let turn = Arc::<Turn>::default();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&turn));
        turn
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let turn = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        match turn {
            Some(turn) => drop(tokio::spawn(Watched {
                stream,
                turn,
                timeout: self.caller_stall_timeout,
                seen: 0,
                timer: None,
            })),
            None => drop(tokio::spawn(stream)),
        }
    }
}

pin_project! {
    /// One stream. It is reset when it is dropped before its end.
    struct Watched<F> {
        #[pin]
        stream: F,
        turn: Arc<Turn>,
        timeout: Duration,
        // The turn for which the timer runs.
        seen: u32,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.turn.is_callers() {
            return Poll::Pending;
        }
        // A timer only for who had to wait for a window, and one for all its turns.
        let now = this.turn.0.load(Relaxed);
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(*this.timeout)));
        if now != *this.seen {
            *this.seen = now;
            timer.as_mut().reset(Instant::now() + *this.timeout);
        }
        timer.as_mut().poll(cx)
    }
}
