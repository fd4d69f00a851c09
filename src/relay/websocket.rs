//! Opens WebSockets: asks the engine for its end, answers the caller's upgrade, and lets a session run between the two.
//! Decides how many sockets there may be; never how many syntheses.

mod end;
mod patience;
mod session;
mod slots;
mod taken;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::answer::{self, Body};
use crate::config::{Config, WebSocket};
use crate::engine::{EngineBody, EngineClient, Opened, SendBody};
use crate::metrics::Protocol;
use crate::protocol::arriving::Arriving;
use crate::protocol::headers::{BodyLength, Settled};
use crate::protocol::websocket::{self, Encoding};
use crate::protocol::{Socket, headers};
use crate::refusal::{Reason, Refusal};
use crate::stream::Books;
use session::Session;

/// What the sockets of one gate share.
#[derive(Clone, Debug)]
pub struct Sockets {
    open: Arc<AtomicUsize>,
    settings: Arc<Settings>,
    /// Cancelled when the gate drains: no more sockets, and an open one ends with what runs on it.
    pub drain: CancellationToken,
    /// Every socket's task.
    pub tasks: TaskTracker,
}

#[derive(Debug)]
struct Settings {
    websocket: WebSocket,
    caller_stall_timeout: Duration,
    protocol: Arc<websocket::Settings>,
}

impl Sockets {
    /// None open.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let settings = Settings {
            websocket: config.websocket.clone(),
            caller_stall_timeout: config.limits.caller_stall_timeout,
            protocol: Arc::new(websocket::Settings {
                client_buffer: config.target.client_buffer,
                held_bytes_max: config.websocket.held_bytes_max,
                runs_max: config.websocket.contexts_max,
                clear_release: config.websocket.clear_release,
                quiet: config.websocket.binary_quiet,
                first_byte_timeout: config.engine.first_byte_timeout,
                stall_timeout: config.engine.stall_timeout,
                ..websocket::Settings::default()
            }),
        };
        Self {
            open: Arc::default(),
            settings: Arc::new(settings),
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// How many are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn take_place(&self) -> Result<Place, Refusal> {
        if self.drain.is_cancelled() {
            return Err(Refusal::new(Reason::Draining));
        }
        // Counted first: two who come at once for the last place do not both get it.
        let place = Place(Arc::clone(&self.open));
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.settings.websocket.sockets_max {
            return Err(Refusal::new(Reason::TooManySockets));
        }
        Ok(place)
    }
}

/// One socket's place among `sockets_max`; given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Carries a request for a WebSocket. The upgrade is accepted when the engine accepts it, also when every slot is taken:
/// a socket is no synthesis.
///
/// # Errors
///
/// [`Refusal`] where there is no place for one more socket, or the engine cannot be reached.
pub(super) async fn open(
    mut request: Request<Arriving<Incoming>>,
    settled: Settled,
    socket: Socket,
    sockets: &Sockets,
    books: &Arc<Books<EngineBody>>,
    engine: &EngineClient,
) -> Result<Response<Body>, Refusal> {
    let place = sockets.take_place()?;
    let caller = hyper::upgrade::on(&mut request);
    let (mut head, Arriving { spelling, .. }) = request.into_parts();
    to_engine(&mut head.headers);
    // An upgrade has no body: bytes that follow it are WebSocket frames.
    let settled = Settled { length: BodyLength::Unsaid, ..settled };
    let request = engine.outbound(&head, spelling.as_ref(), &settled, SendBody::Whole(None));
    let (response, upstream) = match engine.open_socket(request).await {
        Ok(Opened::Switched(response, upstream)) => (response, upstream),
        Ok(Opened::Answered(response)) => return Ok(response.map(answer::whole)),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "the engine did not open a WebSocket");
            return Err(Refusal::new(error.reason()));
        }
    };
    if response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        // It was offered none: frames would come that nobody here can read.
        warn!("the engine negotiated a WebSocket extension that it was not offered");
        return Err(Refusal::new(Reason::EngineUnavailable));
    }
    let subprotocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|name| name.to_str().ok());
    let spoken = Spoken::new(socket, &head.uri, subprotocol, &sockets.settings);
    let session = run(caller, upstream, spoken, sockets.clone(), Arc::clone(books), place);
    tokio::spawn(sockets.tasks.track_future(session));
    Ok(to_caller(response))
}

/// What is spoken on one socket, from the head of its upgrade.
struct Spoken {
    session: websocket::Session,
    protocol: Protocol,
    model: Option<String>,
}

impl Spoken {
    fn new(socket: Socket, target: &Uri, subprotocol: Option<&str>, settings: &Settings) -> Self {
        let settings = Arc::clone(&settings.protocol);
        let dialect = || websocket::Dialect::of(target.path(), target.query());
        match socket {
            Socket::V1 => {
                let binary = subprotocol == Some("rime.v1.binary");
                let encoding = if binary { Encoding::Binary } else { Encoding::Json };
                let session = websocket::Session::v1(encoding, settings);
                Self { session, protocol: Protocol::V1, model: None }
            }
            Socket::Json => {
                let dialect = dialect();
                let model = dialect.model.clone();
                Self {
                    session: websocket::Session::json(dialect, settings),
                    protocol: Protocol::WsJson,
                    model,
                }
            }
            Socket::Binary => {
                let dialect = dialect();
                let model = dialect.model.clone();
                let session = websocket::Session::binary(dialect, settings);
                Self { session, protocol: Protocol::WsBinary, model }
            }
        }
    }
}

/// Waits until the caller has switched too, then carries messages until the session is over.
async fn run(
    caller: OnUpgrade,
    engine: (TcpStream, Bytes),
    spoken: Spoken,
    sockets: Sockets,
    books: Arc<Books<EngineBody>>,
    place: Place,
) {
    let caller = match caller.await {
        Ok(caller) => caller,
        Err(error) => return debug!(error = &error as &dyn std::error::Error, "a WebSocket was not opened"),
    };
    let session = Session::new(caller, engine, spoken, &sockets, books).await;
    session.await;
    drop(place);
}

/// The fields that the engine gets: as the caller's, but for extensions, since frames are read on the way.
fn to_engine(headers: &mut HeaderMap) {
    headers::drop_fields(headers, |name| *name == SEC_WEBSOCKET_EXTENSIONS || *name == TRANSFER_ENCODING);
    upgrade(headers, HeaderValue::from_static("Upgrade"));
}

/// The head that the caller gets.
fn to_caller(response: Response<()>) -> Response<Body> {
    let mut response = response.map(|()| answer::whole(Bytes::new()));
    headers::to_caller(&mut response, Version::HTTP_11);
    // `armchair` takes no other spelling.
    upgrade(response.headers_mut(), HeaderValue::from_static("upgrade"));
    response
}

fn upgrade(headers: &mut HeaderMap, connection: HeaderValue) {
    headers.insert(CONNECTION, connection);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}
