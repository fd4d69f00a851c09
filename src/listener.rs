//! Accepts callers: how many, which HTTP they speak, how long they may be silent, and when no more are let in. Knows
//! no synthesis: what a request means is the service's business.

mod caller_io;
mod connection;
mod heads;
mod turn;
mod watch;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, warn};

use crate::config::Limits;
use crate::metrics::{Metrics, Protocol};
use crate::protocol::arriving::Arriving;
use crate::refusal::Reason;

/// Connections that the kernel holds while the gate is busy accepting.
const BACKLOG: i32 = 4096;

/// After this silence the kernel asks whether a caller is still there: a half-open connection is found in minutes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);

/// How long accepting rests when the process has no file descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The whole answer to a connection too many.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 1\r\n\
    x-rime-gate-reason: too_many_connections\r\ncontent-length: 21\r\nconnection: close\r\n\r\nToo many connections\n";

/// What the listeners of one gate share.
#[derive(Clone, Debug)]
pub struct Doorway {
    /// The limits on connections.
    pub limits: Arc<Limits>,
    /// Connections open now, on every listener and worker together.
    pub open: Arc<AtomicUsize>,
    /// Connections turned away because `connections_max` were open.
    pub turned_away: Arc<AtomicUsize>,
    /// Where they are counted for good: callers', not operators'.
    pub metrics: Option<Arc<Metrics>>,
    /// Cancelled when the gate drains: no more callers, no more requests on open connections.
    pub drain: CancellationToken,
    /// Every connection's task.
    pub tasks: TaskTracker,
}

impl Doorway {
    /// An open doorway with nobody in it.
    #[must_use]
    pub fn new(limits: Limits, metrics: Option<Arc<Metrics>>) -> Self {
        Self {
            limits: Arc::new(limits),
            open: Arc::default(),
            turned_away: Arc::default(),
            metrics,
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }
}

/// Binds `address`. Each worker accepts on a clone of the socket.
///
/// # Errors
///
/// As the system says: the address is in use, not on this machine, or not permitted.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit both on Linux, which saves two system calls for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts callers on the current runtime until the doorway drains. Each connection is a task. The service must be ready
/// whenever it is called: what a request has to wait for, it waits for in its own future.
///
/// # Cancel safety
///
/// Dropping it stops accepting; connections that were accepted go on.
pub async fn accept<S, B>(listener: TcpListener, service: S, doorway: Doorway)
where
    S: Service<Request<Arriving<Incoming>>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = doorway.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &service, &doorway),
            Err(error) if is_of_the_connection(&error) => {
                debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn admit<S, B>(stream: TcpStream, peer: SocketAddr, service: &S, doorway: &Doorway)
where
    S: Service<Request<Arriving<Incoming>>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(place) = Place::take(doorway) else {
        // One try without waiting: whoever comes in a flood is not worth a task.
        let _ = stream.try_write(TOO_MANY);
        return;
    };
    let (limits, drain) = (Arc::clone(&doorway.limits), doorway.drain.clone());
    doorway.tasks.spawn(connection::serve(place, stream, peer, service.clone(), limits, drain));
}

/// Whether an accept failed for the connection's own sake, so that the next one may succeed at once (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// One connection's place among `connections_max`; given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(doorway: &Doorway) -> Option<Self> {
        if doorway.open.fetch_add(1, Ordering::Relaxed) < doorway.limits.connections_max {
            return Some(Self(Arc::clone(&doorway.open)));
        }
        doorway.open.fetch_sub(1, Ordering::Relaxed);
        doorway.turned_away.fetch_add(1, Ordering::Relaxed);
        if let Some(metrics) = &doorway.metrics {
            metrics.turned_away(Protocol::Http, Reason::TooManyConnections);
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
