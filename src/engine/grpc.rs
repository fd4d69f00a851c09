//! Carries gRPC calls to the engine over HTTP/2 by prior knowledge: connections, how many calls each may carry, and when
//! one is not used any more. Looks into no message.
//!
//! # Settings
//!
//! Audio comes as many small messages on many streams, and callers read at their own pace:
//!
//! - A stream's window is 256 KiB, five seconds of 24 kHz PCM: so much is held for a caller who does not read, no more.
//!   Window updates stay rare.
//! - A connection's window is as large as HTTP/2 allows. The streams' own windows bound what is held, so that one stream
//!   that nobody reads never takes its neighbours' share.
//! - Frames stay at 16 KiB: a larger one would make the others wait for it. Windows do not adapt.
//! - While calls are under way the engine is pinged; one that does not answer has its calls ended.
//!
//! A connection carries as many calls as the engine's `SETTINGS_MAX_CONCURRENT_STREAMS` says; for the next one another
//! connection is made. Each worker has its own, so that no call changes threads.

mod connection;
mod send;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::CONTENT_TYPE;
use http::uri::Authority;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::config;
use crate::refusal::Reason;
use connection::{Connection, Lease};

/// Kept connections that may turn out to be ending before a call is given up.
const CONNECTIONS_TRIED_MAX: usize = 8;

/// Why the engine gave no answer to a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection within `connect_timeout`.
    #[error("cannot connect to the engine in time")]
    ConnectTimeout,
    /// The connection was refused, or its name has no address.
    #[error("cannot connect to the engine")]
    Connect(#[source] io::Error),
    /// Whoever listens there does not speak HTTP/2.
    #[error("the engine does not speak HTTP/2")]
    Handshake(#[source] h2::Error),
    /// The stream or its connection ended before a head came. The call may have reached the engine: it is not sent again.
    #[error("the engine ended the call before it answered")]
    Lost(#[source] h2::Error),
    /// No head within `first_byte_timeout`.
    #[error("the engine did not begin to answer in time")]
    FirstByteTimeout,
}

impl CallError {
    /// The reason that the caller is told.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::FirstByteTimeout => Reason::EngineTimeout,
            _ => Reason::EngineUnavailable,
        }
    }

    /// Whether the engine certainly saw nothing of the call.
    #[must_use]
    pub const fn is_unsent(&self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::Connect(_) | Self::Handshake(_))
    }
}

/// A client of one engine's gRPC surface. A clone shares the connections.
#[derive(Clone, Debug)]
pub struct GrpcClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: String,
    port: u16,
    authority: Authority,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
    idle_timeout: Duration,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// One connects at a time: whoever waits may find room on the new connection.
    connecting: tokio::sync::Mutex<()>,
}

impl GrpcClient {
    /// A client of the engine that `settings` describe.
    #[must_use]
    pub fn new(settings: &config::Engine) -> Self {
        let inner = Inner {
            host: settings.grpc.host().to_owned(),
            port: settings.grpc.port(),
            authority: settings.grpc.authority().clone(),
            connect_timeout: settings.connect_timeout,
            first_byte_timeout: settings.first_byte_timeout,
            idle_timeout: settings.pool_idle_timeout,
            connections: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The engine's authority, for a caller that names none.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// Closes connections that were unused for `pool_idle_timeout`. Called from time to time.
    pub fn close_idle(&self) {
        let now = Instant::now();
        let mut connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| {
            let keep = connection.is_open() && !connection.is_idle_since(now, self.inner.idle_timeout);
            if !keep {
                connection.retire();
            }
            keep
        });
    }

    /// Sends a call and waits for the head of its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream: the engine sees a cancelled call.
    ///
    /// # Errors
    ///
    /// [`CallError`] where no head came.
    pub async fn call<B>(&self, request: Request<B>) -> Result<Response<Answer>, CallError>
    where
        B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        let (head, body) = request.into_parts();
        let began = Instant::now();
        let (lease, response, sending) = self.begin(Request::from_parts(head, ()), body).await?;
        let left = self.inner.first_byte_timeout.saturating_sub(began.elapsed());
        match timeout(left, response).await {
            Ok(Ok(response)) => Ok(answer(response, sending, lease)),
            Ok(Err(error)) => Err(CallError::Lost(error)),
            Err(_) => {
                // Perhaps nobody is there any more: the next call asks anew.
                lease.retire();
                Err(CallError::FirstByteTimeout)
            }
        }
    }

    async fn begin<B>(&self, head: Request<()>, body: B) -> Result<Begun, CallError>
    where
        B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        let ends = body.is_end_stream();
        let mut error = h2::Error::from(h2::Reason::REFUSED_STREAM);
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let lease = self.lease().await?;
            let sent = match lease.sender().ready().await {
                Ok(mut sender) => sender.send_request(copy(&head), ends),
                Err(error) => Err(error),
            };
            match sent {
                Ok((response, stream)) => {
                    let sending = if ends { None } else { send::start(body, stream).await };
                    return Ok((lease, response, sending));
                }
                // The connection was ending, or its stream numbers are used up. Nothing was sent on it.
                Err(why) => {
                    lease.retire();
                    error = why;
                }
            }
        }
        Err(CallError::Lost(error))
    }

    /// Room for one call, on a connection that there is or on a new one.
    async fn lease(&self) -> Result<Lease, CallError> {
        if let Some(lease) = self.room() {
            return Ok(lease);
        }
        let connecting = async {
            let _one = self.inner.connecting.lock().await;
            if let Some(lease) = self.room() {
                return Ok(lease);
            }
            let stream = TcpStream::connect((self.inner.host.as_str(), self.inner.port));
            let stream = stream.await.map_err(CallError::Connect)?;
            stream.set_nodelay(true).map_err(CallError::Connect)?;
            let connection = connection::open(stream).await.map_err(CallError::Handshake)?;
            let lease = Lease::of(&connection).ok_or(CallError::ConnectTimeout)?;
            self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(lease)
        };
        // Boxed: connecting is rare, and its state would make every call's future larger.
        timeout(self.inner.connect_timeout, Box::pin(connecting))
            .await
            .unwrap_or(Err(CallError::ConnectTimeout))
    }

    fn room(&self) -> Option<Lease> {
        let mut connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.is_open());
        connections.iter().find_map(Lease::of)
    }
}

type Begun = (Lease, ResponseFuture, Option<AbortOnDropHandle<()>>);

/// The head once more: a connection that cannot take a request does not give it back.
fn copy(head: &Request<()>) -> Request<()> {
    let mut copy = Request::new(());
    head.method().clone_into(copy.method_mut());
    head.uri().clone_into(copy.uri_mut());
    *copy.version_mut() = http::Version::HTTP_2;
    head.headers().clone_into(copy.headers_mut());
    copy
}

/// The engine's answer to a call. Dropped before its end, it resets the stream: the engine sees a cancelled call.
#[derive(Debug)]
pub struct Answer {
    recv: RecvStream,
    /// What is still being sent of the request.
    #[allow(dead_code, reason = "held to be dropped")]
    sending: Option<AbortOnDropHandle<()>>,
    #[allow(dead_code, reason = "held to be dropped")]
    lease: Lease,
    /// It is one of gRPC's, whose status comes last.
    ends_in_status: bool,
    ended: bool,
}

fn answer(
    response: Response<RecvStream>,
    sending: Option<AbortOnDropHandle<()>>,
    lease: Lease,
) -> Response<Answer> {
    let content_type = response.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let ends_in_status = content_type.is_some_and(|name| name.starts_with(b"application/grpc"));
    response.map(|recv| Answer { ended: recv.is_end_stream(), recv, sending, lease, ends_in_status })
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        match this.recv.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(bytes))) => {
                // Taken over by the caller's side, which asks for more only when it has room.
                let _ = this.recv.flow_control().release_capacity(bytes.len());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Poll::Ready(Some(Err(error))) => {
                this.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            Poll::Ready(None) => {}
        }
        let trailers = std::task::ready!(this.recv.poll_trailers(cx));
        this.ended = true;
        Poll::Ready(match trailers {
            Ok(None) if this.ends_in_status => Some(Err(h2::Reason::NO_ERROR.into())),
            trailers => trailers.transpose().map(|trailers| trailers.map(Frame::trailers)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
