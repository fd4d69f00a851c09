//! One HTTP/2 connection to the engine: how many calls it carries, whether the engine is still there, and its end.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong, Reason};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Bytes of a stream that are held for a caller who does not read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// The greatest that there is (RFC 9113 section 6.9.1): the streams' windows are the bound.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// HTTP/2's default and least.
const FRAME_BYTES_MAX: u32 = 16_384;

/// Of an answer's head, and of its trailers.
const HEAD_BYTES_MAX: u32 = 65_536;

/// What is sent of one call before the engine has made room for it.
const SEND_BYTES_MAX: usize = 65_536;

/// Cancelled calls that are remembered for a second, so that what the engine still sends of them is passed over quietly.
const CANCELLED_KEPT_MAX: usize = 1_024;

/// While calls are under way, how often the engine is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long its answer may take.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, shared by the calls on it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    calls: Arc<Calls>,
}

/// What a connection's task and its calls tell each other.
#[derive(Debug)]
struct Calls {
    under_way: AtomicUsize,
    /// Carries no further call.
    retired: AtomicBool,
    /// Milliseconds from `origin` to the end of the last call.
    idle_from: AtomicU64,
    origin: Instant,
    stop: CancellationToken,
}

impl Calls {
    fn milliseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis().try_into().unwrap_or(u64::MAX)
    }

    fn retire(&self) {
        self.retired.store(true, Relaxed);
        if self.under_way.load(Relaxed) == 0 {
            self.stop.cancel();
        }
    }
}

/// Shakes hands, and waits until the engine has said what it allows: a call sent before might be one too many.
pub(super) async fn open(stream: TcpStream) -> Result<Arc<Connection>, h2::Error> {
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_send_buffer_size(SEND_BYTES_MAX)
        // What the engine had under way when a call was cancelled is no offence, and it is never forgiven: with the
        // default, a thousand interruptions would end the connection and every call on it.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(CANCELLED_KEPT_MAX)
        .handshake::<_, Bytes>(stream)
        .await?;
    let calls = Arc::new(Calls {
        under_way: AtomicUsize::new(0),
        retired: AtomicBool::new(false),
        idle_from: AtomicU64::new(0),
        origin: Instant::now(),
        stop: CancellationToken::new(),
    });
    let pings = connection.ping_pong();
    let (greeted, greeting) = oneshot::channel();
    let kept = Arc::clone(&calls);
    tokio::spawn(async move {
        let result = tokio::select! {
            biased;
            () = kept.stop.cancelled() => Ok(()),
            result = &mut connection => result,
            () = watch(pings, &kept, greeted) => Err(Reason::NO_ERROR.into()),
        };
        kept.retired.store(true, Relaxed);
        if let Err(error) = result {
            tracing::debug!(%error, "a connection to the engine ended");
        }
    });
    match greeting.await {
        Ok(()) => Ok(Arc::new(Connection { sender, calls })),
        // Its task has ended, and with it the connection: no HTTP/2 spoken there, or closed at once.
        Err(_) => Err(Reason::PROTOCOL_ERROR.into()),
    }
}

/// Ends when the engine does not answer a ping. The first answer comes after the engine's settings.
async fn watch(pings: Option<PingPong>, calls: &Calls, greeted: oneshot::Sender<()>) {
    let Some(mut pings) = pings else { return pending().await };
    if ask(&mut pings).await.is_err() {
        return;
    }
    let _ = greeted.send(());
    loop {
        sleep(PING_INTERVAL).await;
        if calls.under_way.load(Relaxed) > 0
            && !matches!(timeout(PONG_TIMEOUT, ask(&mut pings)).await, Ok(Ok(())))
        {
            return;
        }
    }
}

async fn ask(pings: &mut PingPong) -> Result<(), h2::Error> {
    pings.send_ping(Ping::opaque())?;
    let mut pong = pin!(poll_fn(|cx| pings.poll_pong(cx)));
    pong.as_mut().await.map(drop)
}

impl Connection {
    /// Whether it may carry another call, room or not.
    pub(super) fn is_open(&self) -> bool {
        !self.calls.retired.load(Relaxed)
    }

    pub(super) fn is_idle_since(&self, now: Instant, timeout: Duration) -> bool {
        let idle = self.calls.milliseconds(now).saturating_sub(self.calls.idle_from.load(Relaxed));
        self.calls.under_way.load(Relaxed) == 0 && u128::from(idle) >= timeout.as_millis()
    }

    /// Gives it no further call; it closes when the last one has ended.
    pub(super) fn retire(&self) {
        self.calls.retire();
    }
}

/// Room for one call on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Arc<Connection>,
}

impl Lease {
    /// `None` where the engine allows no further stream now.
    pub(super) fn of(connection: &Arc<Connection>) -> Option<Self> {
        if !connection.is_open() {
            return None;
        }
        let lease = Self { connection: Arc::clone(connection) };
        let before = connection.calls.under_way.fetch_add(1, Relaxed);
        // One too many gives itself back when it is dropped here.
        (before < connection.sender.current_max_send_streams()).then_some(lease)
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// No further call is to go this way.
    pub(super) fn retire(&self) {
        self.connection.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let calls = &self.connection.calls;
        calls.idle_from.store(calls.milliseconds(Instant::now()), Relaxed);
        if calls.under_way.fetch_sub(1, Relaxed) == 1 && calls.retired.load(Relaxed) {
            calls.stop.cancel();
        }
    }
}
