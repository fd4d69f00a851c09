//! One caller's connection: which HTTP it speaks, serving it, and closing it when silence on it has lasted too long.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioTimer;
use pin_project_lite::pin_project;
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::debug;

use super::Place;
use super::caller_io::{CallerIo, read_some};
use super::heads::Heads;
use super::turn::{Streams, Turn};
use super::watch::{Serving, Verdict, Watch, Watchdog};
use crate::config::Limits;
use crate::protocol::arriving::Arriving;
use crate::protocol::headers::Peer;

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The header limit that the HTTP/1 parser holds on its stack; any other is allocated for each request.
const HEADERS_MAX_INLINE: usize = 100;

/// Requests that one HTTP/2 connection may have under way.
const HTTP2_STREAMS_MAX: u32 = 256;

/// Bytes of one request that may arrive before they are read: HTTP/2's default, and as much as is read ahead.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 65_535;

/// Room for all streams' windows together, so that requests which wait for their slot never stop a neighbour's.
const HTTP2_WINDOW_BYTES: u32 = HTTP2_STREAMS_MAX * HTTP2_STREAM_WINDOW_BYTES;

/// Bytes of an answer that wait for an HTTP/2 caller's window before the engine is no longer read.
const HTTP2_SEND_BYTES_MAX: usize = 65_536;

/// How often an HTTP/2 caller is asked whether it is still there.
const HTTP2_PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);

/// How long a connection that has been silent for too long may take to say goodbye.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(500);

/// Serves one connection to its end, and keeps its place for as long.
///
/// # Cancel safety
///
/// Dropping it closes the connection; requests on it are dropped, and give back what they hold.
pub(super) async fn serve<S, B>(
    _place: Place,
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    limits: Arc<Limits>,
    drain: CancellationToken,
) where
    S: Service<Request<Arriving<Incoming>>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let watch = Arc::new(Watch::new(Instant::now().into_std()));
    let Some((version, io)) = sniff(stream, &watch, &limits, &drain).await else { return };
    let serving = Arc::clone(&watch);
    let caller = Arc::new(Peer::new(peer));
    let streams = (version == Version::Http2).then(|| Streams::new(limits.caller_stall_timeout));
    let begun = streams.clone();
    let heads = io.heads();
    let service = service_fn(move |request: Request<Incoming>| {
        let spelling = heads.as_ref().and_then(|heads| heads.take(request.headers()));
        let request = request.map(|body| Arriving { body, peer: Arc::clone(&caller), spelling });
        let serving = serving.request();
        let turn = begun.as_ref().map(Streams::begin);
        let answer = service.clone().call(request);
        let heads = heads.clone();
        async move {
            let response = answer.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                && let Some(heads) = heads
            {
                heads.end();
            }
            Ok(response.map(|body| Served { body, turn, _serving: serving }))
        }
    });
    let result = match streams {
        None => http1(io, service, &watch, &limits, &drain).await,
        // Boxed: its state is several times larger, and every connection would carry the room for it.
        Some(streams) => Box::pin(http2(io, streams, service, &watch, &limits, &drain)).await,
    };
    if let Err(error) = result {
        debug!(%peer, error = &error as &dyn std::error::Error, "a connection failed");
    }
}

async fn http1<S, B>(
    io: CallerIo,
    service: S,
    watch: &Watch,
    limits: &Limits,
    drain: &CancellationToken,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_header_size(limits.head_bytes_max);
    if limits.headers_max != HEADERS_MAX_INLINE {
        builder.max_headers(limits.headers_max);
    }
    let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
    attend(connection.as_mut(), http1::UpgradeableConnection::graceful_shutdown, watch, limits, drain).await
}

async fn http2<S, B>(
    io: CallerIo,
    streams: Streams,
    service: S,
    watch: &Watch,
    limits: &Limits,
    drain: &CancellationToken,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible, Future: Send + 'static>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .max_header_list_size(limits.head_bytes_max.try_into().unwrap_or(u32::MAX))
        .keep_alive_interval(HTTP2_PING_INTERVAL);
    let mut connection = pin!(builder.serve_connection(io, service));
    attend(connection.as_mut(), http2::Connection::graceful_shutdown, watch, limits, drain).await
}

/// Runs a connection until it ends or has been silent for too long; asks it to end when the gate drains.
async fn attend<C>(
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    watch: &Watch,
    limits: &Limits,
    drain: &CancellationToken,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut dog = Watchdog::new(limits);
    let mut alarm = pin!(sleep_until(Instant::now() + limits.header_timeout));
    let mut draining = pin!(drain.cancelled());
    let mut asked = false;
    // Whom the alarm and the drain wake already: they need not be told again on every turn.
    let mut woken: Option<Waker> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            watch.turned(|| Instant::now().into_std());
            let known = woken.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if known && !alarm.is_elapsed() && !drain.is_cancelled() {
                return Poll::Pending;
            }
            woken = Some(cx.waker().clone());
            if !asked && draining.as_mut().poll(cx).is_ready() {
                asked = true;
                shut_down(connection.as_mut());
                continue;
            }
            // Where this task's budget is spent, a timer would not even note whom to wake.
            ready!(pin!(unconstrained(alarm.as_mut())).poll(cx));
            match dog.look(watch, Instant::now().into_std()) {
                Verdict::LookAgain(at) => alarm.as_mut().reset(at.into()),
                Verdict::Close(reason) if asked => {
                    debug!(reason, "closing a connection");
                    return Poll::Ready(Ok(()));
                }
                Verdict::Close(_) => {
                    // In HTTP/2 this says goodbye, so that a request on its way is known to be lost.
                    asked = true;
                    shut_down(connection.as_mut());
                    alarm.as_mut().reset(Instant::now() + GOODBYE);
                }
            }
            woken = None;
        }
    })
    .await
}

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    /// By prior knowledge (RFC 9113 section 3.3).
    Http2,
}

/// Reads a connection's first bytes and tells which HTTP they begin. `None` where there is nothing to serve: the
/// caller closed, sent nothing within the idle timeout or half a preface within the header timeout, or the gate drains.
async fn sniff(
    mut stream: TcpStream,
    watch: &Arc<Watch>,
    limits: &Limits,
    drain: &CancellationToken,
) -> Option<(Version, CallerIo)> {
    let mut seen = BytesMut::new();
    let reading = async {
        loop {
            let read = poll_fn(|cx| read_some(&mut stream, &mut seen, cx)).await.ok()?;
            if watch.expects_head() {
                watch.head_began();
                watch.turned(|| Instant::now().into_std());
            }
            if read == 0 && seen.is_empty() {
                return None;
            }
            let undecided = seen.len() < PREFACE.len() && PREFACE.starts_with(&seen);
            if read == 0 || !undecided {
                return Some(if seen.starts_with(PREFACE) { Version::Http2 } else { Version::Http1 });
            }
        }
    };
    let waiting = async {
        let mut dog = Watchdog::new(limits);
        while let Verdict::LookAgain(at) = dog.look(watch, Instant::now().into_std()) {
            sleep_until(at.into()).await;
        }
    };
    let version = tokio::select! {
        biased;
        version = reading => version?,
        () = waiting => return None,
        () = drain.cancelled() => return None,
    };
    let heads = match version {
        Version::Http1 => {
            let heads = Heads::new();
            heads.read(&seen, true);
            Some(Arc::new(heads))
        }
        Version::Http2 => {
            watch.head_ended();
            None
        }
    };
    let watch = Arc::clone(watch);
    Some((version, CallerIo::new(stream, seen, watch, heads)))
}

pin_project! {
    /// An answer's body; its request counts as being served until this is dropped.
    struct Served<B> {
        #[pin]
        body: B,
        // Of an HTTP/2 stream.
        turn: Option<Arc<Turn>>,
        _serving: Serving,
    }
}

impl<B: Body> Body for Served<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(turn) = this.turn else { return this.body.poll_frame(cx) };
        turn.asked();
        let polled = this.body.poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            turn.gave();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
