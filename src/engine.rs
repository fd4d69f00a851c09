//! Carries a request to the engine and its answer back: connections, their reuse, time-outs, and whether the engine
//! is up. Knows nothing of admission, audio or metrics.

mod body;
mod connection;
pub mod grpc;
mod health;
mod http1;
pub(crate) mod orca;
mod pool;
pub mod send;
mod socket;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower::Service;

use crate::config;
use crate::protocol::headers::Settled;
use crate::protocol::spelling::Spelling;
use crate::refusal::Reason;
pub use body::EngineBody;
use connection::{Connection, Unanswered};
pub use health::Health;
pub use http1::AnswerError;
use http1::{Head, Outgoing};
use pool::Pool;
use send::SendError;
pub use send::{Outbound, SendBody};
pub use socket::Opened;

/// Why the engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No connection within `connect_timeout`.
    #[error("cannot connect to the engine in time")]
    ConnectTimeout,
    /// The connection was refused, or its name has no address.
    #[error("cannot connect to the engine")]
    Connect(#[source] std::io::Error),
    /// The connection ended before a response head came. The request may have reached the engine, so that it is not
    /// sent again: Rime bills a retry as a new synthesis.
    #[error("the engine closed the connection before it answered")]
    Lost(#[source] AnswerError),
    /// No response head within `first_byte_timeout`.
    #[error("the engine did not begin to answer in time")]
    FirstByteTimeout,
    /// The caller's request body broke off on its way to the engine.
    #[error("the request body broke off")]
    RequestBody(#[source] SendError),
}

impl EngineError {
    /// The reason that the caller is told.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::ConnectTimeout | Self::Connect(_) | Self::Lost(_) => Reason::EngineUnavailable,
            Self::FirstByteTimeout => Reason::EngineTimeout,
            Self::RequestBody(SendError::TooLarge) => Reason::BodyTooLarge,
            Self::RequestBody(SendError::Timeout) => Reason::BodyTimeout,
            Self::RequestBody(SendError::Read(_)) => Reason::BadRequest,
        }
    }
}

/// A tower service that sends requests to one engine over HTTP/1.1, reusing its connections.
///
/// A clone shares the pool. Each worker thread has a client of its own, so that a connection never changes threads.
#[derive(Clone, Debug)]
pub struct EngineClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: String,
    port: u16,
    authority: HeaderValue,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
    pool: Arc<Pool>,
    health: Arc<Health>,
}

impl EngineClient {
    /// A client of the engine's surface at `url`; what it learns of the engine's state goes to `health`.
    #[must_use]
    pub fn new(url: &config::EngineUrl, settings: &config::Engine, health: Arc<Health>) -> Self {
        let pool = Arc::new(Pool::new(settings.pool_idle_max, settings.pool_idle_timeout));
        let inner = Inner {
            host: url.host().to_owned(),
            port: url.port(),
            // An authority is made of the characters of a header value.
            authority: HeaderValue::from_str(url.authority().as_str())
                .unwrap_or(HeaderValue::from_static("engine")),
            connect_timeout: settings.connect_timeout,
            first_byte_timeout: settings.first_byte_timeout,
            pool,
            health,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Closes connections that were unused for `pool_idle_timeout`. Called from time to time.
    pub fn close_idle(&self) {
        self.inner.pool.close_idle();
    }

    /// Writes the head of a request to this engine.
    #[must_use]
    pub fn outbound<B>(
        &self,
        head: &Parts,
        spelling: Option<&Spelling>,
        settled: &Settled,
        body: B,
    ) -> Outbound<B> {
        Outbound { head: Head::new(head, spelling, settled, &self.inner.authority), body }
    }

    /// Sends `request` and waits for the response head.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that the request went out on: the engine sees the caller go.
    ///
    /// # Errors
    ///
    /// The future yields an [`EngineError`] where no response head came.
    pub fn send(&self, request: Outbound) -> Sending {
        let inner = Arc::clone(&self.inner);
        let now = Instant::now();
        let deadline = now + inner.first_byte_timeout;
        let way = Inner::way(&inner, Outgoing::new(request), now, deadline);
        Sending { inner, deadline, way }
    }
}

/// A request on its way to the engine: the future of [`EngineClient`].
#[derive(Debug)]
#[must_use = "nobody waits for the answer"]
pub struct Sending {
    inner: Arc<Inner>,
    deadline: Instant,
    way: Way,
}

/// Which connection a request goes out on.
enum Way {
    Kept(Box<Connection>),
    New(Pin<Box<dyn Future<Output = Result<Response<EngineBody>, EngineError>> + Send>>),
    Answered,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept(_) => "Kept",
            Self::New(_) => "New",
            Self::Answered => "Answered",
        })
    }
}

impl Future for Sending {
    type Output = Result<Response<EngineBody>, EngineError>;

    /// A request is tried again, on the next kept connection or on a new one, only while no byte of it was written.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let result = loop {
            let answered = match &mut this.way {
                Way::Kept(connection) => ready!(connection.poll_answer(cx)),
                Way::New(answer) => break ready!(answer.as_mut().poll(cx)),
                Way::Answered => panic!("a future is not polled after it was ready"),
            };
            break match (answered, std::mem::replace(&mut this.way, Way::Answered)) {
                (Err(Unanswered::Unsent(request, _)), _) => {
                    this.way = Inner::way(&this.inner, request, Instant::now(), this.deadline);
                    continue;
                }
                (Err(error), _) => Err(error.into()),
                (Ok(response), Way::Kept(connection)) => this.inner.leased(response, connection),
                (Ok(_), _) => unreachable!("it was a kept connection that answered"),
            };
        };
        this.way = Way::Answered;
        this.inner.health.learn(result.as_ref());
        Poll::Ready(result)
    }
}

impl Inner {
    /// Sends a request out on a kept connection, else on a new one.
    fn way(this: &Arc<Self>, request: Outgoing, now: Instant, deadline: Instant) -> Way {
        match this.pool.take(now) {
            Some(mut connection) => {
                connection.send(request, deadline);
                Way::Kept(connection)
            }
            None => Way::New(Box::pin(Arc::clone(this).send_anew(request, deadline))),
        }
    }

    async fn send_anew(
        self: Arc<Self>,
        request: Outgoing,
        deadline: Instant,
    ) -> Result<Response<EngineBody>, EngineError> {
        let mut connection = Box::new(Connection::new(self.dial().await?));
        connection.send(request, deadline);
        let response = poll_fn(|cx| connection.poll_answer(cx)).await?;
        self.leased(response, connection)
    }

    fn leased(
        &self,
        response: Response<()>,
        connection: Box<Connection>,
    ) -> Result<Response<EngineBody>, EngineError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(EngineError::Lost(AnswerError::Switched));
        }
        Ok(response.map(|()| EngineBody::new(connection, Arc::clone(&self.pool))))
    }

    async fn dial(&self) -> Result<TcpStream, EngineError> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match timeout(self.connect_timeout, connecting).await {
            Ok(stream) => stream.map_err(EngineError::Connect)?,
            Err(_) => return Err(EngineError::ConnectTimeout),
        };
        stream.set_nodelay(true).map_err(EngineError::Connect)?;
        Ok(stream)
    }
}

impl From<Unanswered> for EngineError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Unsent(_, error) => Self::Lost(error.into()),
            Unanswered::Lost(error) => Self::Lost(error),
            Unanswered::Body(error) => Self::RequestBody(error),
            Unanswered::TimedOut => Self::FirstByteTimeout,
        }
    }
}

impl Service<Outbound> for EngineClient {
    type Response = Response<EngineBody>;
    type Error = EngineError;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EngineError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Outbound) -> Sending {
        self.send(request)
    }
}
