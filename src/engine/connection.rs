//! One connection to the engine. Whoever waits for its answer drives it, in the task that carries the answer on: a chunk
//! changes no task on its way, and a connection that is dropped is closed at that moment.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::SendBody;

type Exchange = http1::Connection<TokioIo<TcpStream>, SendBody>;

type Answered = Result<Response<Incoming>, TrySendError<Request<SendBody>>>;

/// Why a request brought no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// No byte of it was written: it may go out on another connection.
    Unsent(Box<Request<SendBody>>, hyper::Error),
    /// It may have reached the engine.
    Lost(hyper::Error),
    /// The deadline passed.
    TimedOut,
}

/// A connection, busy with one exchange or kept for the next.
pub(super) struct Connection {
    sender: SendRequest<SendBody>,
    driver: Driver,
    /// Kept from exchange to exchange: to move a timer on is cheap, to make one is not.
    alarm: Pin<Box<Sleep>>,
    /// What the request that was sent is answered.
    answer: Option<Pin<Box<dyn Future<Output = Answered> + Send>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Connection {
    /// Speaks HTTP/1.1 on `stream`.
    pub(super) async fn open(stream: TcpStream) -> hyper::Result<Self> {
        // The case of the caller's headers is written as it came; the engine's is not kept: no caller may depend on it.
        // Requests are small: head and body leave in one plain write.
        let (sender, exchange) = http1::Builder::new().writev(false).handshake(TokioIo::new(stream)).await?;
        let alarm = Box::pin(sleep_until(Instant::now()));
        Ok(Self { sender, driver: Driver::new(exchange), alarm, answer: None })
    }

    /// Sends `request`; its answer is to be [polled](Self::poll_answer) for, and must begin before `deadline`.
    pub(super) fn send(&mut self, request: Request<SendBody>, deadline: Instant) {
        if !request.body().is_at_hand() {
            // A body that is still arriving must go on arriving while the answer waits for its caller.
            self.driver.employ();
        }
        self.alarm.as_mut().reset(deadline);
        self.answer = Some(Box::pin(self.sender.try_send_request(request)));
    }

    /// Waits for the head of the answer to what was sent. Not to be polled again after it was ready.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Incoming>, Unanswered>> {
        let answer = self.answer.as_mut().expect("polled for an answer only after a request was sent");
        let Poll::Ready(answered) = self.driver.poll(cx, |cx| answer.as_mut().poll(cx)) else {
            return self.alarm.as_mut().poll(cx).map(|()| Err(Unanswered::TimedOut));
        };
        self.answer = None;
        Poll::Ready(answered.map_err(|mut error| match error.take_message() {
            Some(unsent) => Unanswered::Unsent(Box::new(unsent), error.into_error()),
            None => Unanswered::Lost(error.into_error()),
        }))
    }

    /// Takes what has come of an answer's body.
    pub(super) fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, hyper::Error>>> {
        self.driver.poll(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx))
    }

    /// Whether it is open and could take a request, as far as is known without asking the engine.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Looks whether the engine has closed it.
    pub(super) fn is_closed(&mut self) -> bool {
        self.driver.look();
        self.sender.is_closed()
    }

    /// Ends an exchange whose answer was read to its end. `None` where the request is still being sent, or the engine
    /// has closed: not to be used again.
    pub(super) fn rest(mut self: Box<Self>) -> Option<Box<Self>> {
        if self.sender.is_closed() {
            return None;
        }
        if self.sender.is_ready() {
            self.driver.rest();
            return Some(self);
        }
        // Answered early: the rest of the request is sent all the same, as its caller expects.
        self.driver.employ();
        None
    }
}

/// Who makes a connection's bytes move.
enum Driver {
    /// Whoever polls for what it brings.
    Own { exchange: Box<Exchange>, bell: Arc<Bell>, waker: Waker },
    /// A task of its own; or nobody any more, since it has ended.
    Other,
}

impl Driver {
    fn new(exchange: Exchange) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        Self::Own { exchange: Box::new(exchange), bell, waker }
    }

    /// Asks for something that the connection brings, moving the connection on where it has not come yet.
    fn poll<T>(&mut self, cx: &mut Context<'_>, mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Self::Own { exchange, bell, waker } = self else { return ask(cx) };
        bell.begin(cx.waker());
        let mut inner = Context::from_waker(waker);
        let mut asked = ask(&mut inner);
        let mut ended = false;
        if asked.is_pending() {
            bell.heed();
            ended = Pin::new(&mut **exchange).poll(&mut inner).is_ready();
            if !ended {
                asked = ask(&mut inner);
            }
        }
        let rang = bell.end();
        if ended {
            // How a connection ends is told to whoever waits for its answer.
            *self = Self::Other;
            return ask(cx);
        }
        if asked.is_pending() && rang {
            cx.waker().wake_by_ref();
        }
        asked
    }

    /// Moves a connection on that nobody waits for.
    fn look(&mut self) {
        let _ = self.poll(&mut Context::from_waker(Waker::noop()), |_| Poll::<()>::Pending);
    }

    /// Whoever waited does so no more.
    fn rest(&self) {
        if let Self::Own { bell, .. } = self {
            bell.task.take();
        }
    }

    /// Lets a task of its own see to it from now on.
    fn employ(&mut self) {
        if let Self::Own { exchange, .. } = std::mem::replace(self, Self::Other) {
            tokio::spawn(async move {
                let _ = exchange.await;
            });
        }
    }
}

/// Wakes the task that drives a connection, unless it is at it: what a connection brings passes through channels whose
/// other end is the same task.
#[derive(Debug, Default)]
struct Bell {
    task: AtomicWaker,
    state: AtomicU8,
}

const IDLE: u8 = 0;
const DRIVING: u8 = 1;
const RANG: u8 = 2;

impl Bell {
    fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.heed();
    }

    /// What rang until now is about to be seen to.
    fn heed(&self) {
        self.state.store(DRIVING, Ordering::Release);
    }

    /// Whether it rang since it was last heeded.
    fn end(&self) -> bool {
        self.state.swap(IDLE, Ordering::AcqRel) == RANG
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.compare_exchange(DRIVING, RANG, Ordering::AcqRel, Ordering::Acquire) == Err(IDLE) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (engine, _) = listener.accept().await.unwrap();
        (Connection::open(stream).await.unwrap(), engine)
    }

    fn request() -> Request<SendBody> {
        Request::get("/").header("host", "engine").body(SendBody::Whole(None)).unwrap()
    }

    #[test]
    fn a_bell_wakes_its_task_unless_the_task_is_at_it() {
        let woken = Arc::new(Woken::default());
        let bell = Arc::new(Bell::default());
        bell.begin(&Waker::from(Arc::clone(&woken)));
        bell.wake_by_ref();
        bell.heed();
        assert!(!bell.end(), "what rang before it was heeded is seen to");
        bell.begin(&Waker::from(Arc::clone(&woken)));
        bell.wake_by_ref();
        assert!(bell.end(), "what rang after it was heeded is told");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        bell.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_kept_connection_is_found_closed_when_it_is_looked_at() {
        let (mut connection, engine) = pair().await;
        assert!(!connection.is_closed());
        drop(engine);
        while !connection.is_closed() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_exchange_that_is_dropped_closes_its_connection_at_that_moment() {
        let (mut connection, mut engine) = pair().await;
        connection.send(request(), Instant::now() + std::time::Duration::from_secs(10));
        assert!(connection.poll_answer(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(connection);
        let mut seen = Vec::new();
        engine.read_to_end(&mut seen).await.unwrap();
        assert!(seen.starts_with(b"GET / HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn a_request_that_met_a_closed_connection_comes_back_unsent() {
        let (mut connection, mut engine) = pair().await;
        engine.shutdown().await.unwrap();
        while !connection.is_closed() {
            tokio::task::yield_now().await;
        }
        connection.send(request(), Instant::now() + std::time::Duration::from_secs(10));
        let answered = std::future::poll_fn(|cx| connection.poll_answer(cx)).await;
        assert!(matches!(answered, Err(Unanswered::Unsent(..))));
    }
}
