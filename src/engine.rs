//! Carries a request to the engine and its answer back: connections, their reuse, time-outs, and whether the engine
//! is up. Knows nothing of admission, audio or metrics.

pub mod body;
mod connection;
pub mod grpc;
mod health;
mod orca;
mod pool;
mod socket;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower::Service;

use crate::config;
use crate::refusal::Reason;
use body::SendError;
pub use body::{EngineBody, SendBody};
use connection::{Connection, Unanswered};
pub use health::Health;
use pool::Pool;
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
    Lost(#[source] hyper::Error),
    /// No response head within `first_byte_timeout`.
    #[error("the engine did not begin to answer in time")]
    FirstByteTimeout,
    /// The caller's request body broke off on its way to the engine.
    #[error("the request body broke off")]
    RequestBody(#[source] hyper::Error),
}

impl EngineError {
    /// The reason that the caller is told.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::ConnectTimeout | Self::Connect(_) | Self::Lost(_) => Reason::EngineUnavailable,
            Self::FirstByteTimeout => Reason::EngineTimeout,
            Self::RequestBody(error) => {
                match std::error::Error::source(error).and_then(|source| source.downcast_ref()) {
                    Some(SendError::TooLarge) => Reason::BodyTooLarge,
                    Some(SendError::Timeout) => Reason::BodyTimeout,
                    Some(SendError::Read(_)) | None => Reason::BadRequest,
                }
            }
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

    /// Sends `request` and waits for the response head.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that the request went out on: the engine sees the caller go.
    ///
    /// # Errors
    ///
    /// [`EngineError`] where no response head came.
    pub async fn send(&self, mut request: Request<SendBody>) -> Result<Response<EngineBody>, EngineError> {
        let inner = &*self.inner;
        // HTTP/1.0 callers need not name a host; HTTP/1.1 engines want one (RFC 9112 section 3.2).
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, inner.authority.clone());
        }
        let result = inner.attempt(request).await;
        match &result {
            Ok(response) => inner.health.answered(response.headers()),
            Err(EngineError::Connect(_) | EngineError::ConnectTimeout) => inner.health.unreachable(),
            Err(_) => {}
        }
        result
    }
}

impl Inner {
    /// Tries kept connections until one takes the request, then a new one. A request is tried again only while no
    /// byte of it was written.
    async fn attempt(&self, mut request: Request<SendBody>) -> Result<Response<EngineBody>, EngineError> {
        let deadline = Instant::now() + self.first_byte_timeout;
        while let Some(mut connection) = self.pool.take() {
            match connection.send(request, deadline).await {
                Ok(response) => return Ok(self.leased(response, connection)),
                Err(Unanswered::Unsent(unsent, _)) => request = *unsent,
                Err(Unanswered::Lost(error)) => return Err(lost(error)),
                Err(Unanswered::TimedOut) => return Err(EngineError::FirstByteTimeout),
            }
        }
        // Boxed: connecting is rare, and its state would make every request's future larger.
        Box::pin(self.attempt_anew(request, deadline)).await
    }

    async fn attempt_anew(
        &self,
        request: Request<SendBody>,
        deadline: Instant,
    ) -> Result<Response<EngineBody>, EngineError> {
        let mut connection = Box::new(self.connect().await?);
        match connection.send(request, deadline).await {
            Ok(response) => Ok(self.leased(response, connection)),
            Err(Unanswered::Unsent(_, error) | Unanswered::Lost(error)) => Err(lost(error)),
            Err(Unanswered::TimedOut) => Err(EngineError::FirstByteTimeout),
        }
    }

    fn leased(&self, response: Response<Incoming>, connection: Box<Connection>) -> Response<EngineBody> {
        response.map(|body| EngineBody::new(body, connection, Arc::clone(&self.pool)))
    }

    async fn connect(&self) -> Result<Connection, EngineError> {
        Connection::open(self.dial().await?).await.map_err(lost)
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

fn lost(error: hyper::Error) -> EngineError {
    if error.is_user() { EngineError::RequestBody(error) } else { EngineError::Lost(error) }
}

impl Service<Request<SendBody>> for EngineClient {
    type Response = Response<EngineBody>;
    type Error = EngineError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, EngineError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EngineError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<SendBody>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { client.send(request).await })
    }
}
