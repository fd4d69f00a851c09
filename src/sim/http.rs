//! The engine's HTTP surface: the standalone engine's paths and the API container's, which share `POST /`. Decides
//! which request becomes a WebSocket; decides nothing about audio or load.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counts::{Open, Protocol, Socket, Witness};
use super::faults::{Blow, Dice, Fate};
use super::grpc;
use super::legacy::{Legacy, OnClear, Wire};
use super::request::{Order, Style, Voice};
use super::socket::{self, Session};
use super::speech::{Speech, Struck};
use super::v1::{Encoding, OnDuplicateStart, V1};
use super::worker::Worker;

/// Longest request body: Arcana's texts have no limit, the engine's memory has.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

const ENDPOINT_LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every request shares.
#[derive(Debug)]
pub(super) struct Surface {
    pub(super) profile: String,
    pub(super) worker: Worker,
    pub(super) witness: Witness,
    pub(super) dice: Mutex<Dice>,
    pub(super) refuse: Option<StatusCode>,
    pub(super) style: Style,
    pub(super) early_head: bool,
    pub(super) api_key: Option<String>,
    pub(super) capacity: u32,
    pub(super) on_clear: OnClear,
    pub(super) on_duplicate_start: OnDuplicateStart,
    pub(super) done_after_error: bool,
    /// Requests that the engine has given a name.
    pub(super) requests: AtomicU64,
    /// Sockets live apart from the connection that they were asked for on.
    pub(super) tasks: TaskTracker,
    pub(super) graceful: CancellationToken,
    pub(super) kill: CancellationToken,
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP, WebSocket v1 at `/ws`, legacy JSON at `/ws3` and `/ws2`.
    Http,
    /// Legacy JSON at any path.
    WsJson,
    /// Legacy binary at any path.
    WsBinary,
    /// `rime.TextToSpeech`.
    Grpc,
}

/// Answers one request.
///
/// # Cancel safety
/// Dropping it before the answer cancels the synthesis.
pub(super) async fn answer<B>(
    surface: Arc<Surface>,
    kind: Kind,
    open: Arc<Open>,
    mut request: Request<B>,
) -> Result<Response<Reply>, Infallible>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    if kind == Kind::Grpc {
        return Ok(grpc::answer(surface, request).await);
    }
    let id = request.headers().get(&X_REQUEST_ID).cloned();
    let mut response = match socket_at(kind, request.uri().path()) {
        Some(door) => surface.open_socket(door, &mut request, open),
        None => surface.route(request).await,
    };
    if let Some(id) = id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    Ok(response)
}

/// A WebSocket that is asked for.
#[derive(Clone, Copy, Debug)]
enum Door {
    V1,
    Legacy(Wire),
}

fn socket_at(kind: Kind, path: &str) -> Option<Door> {
    match (kind, path) {
        (Kind::WsBinary, _) => Some(Door::Legacy(Wire::Binary)),
        (Kind::WsJson | Kind::Http, "/ws2") => Some(Door::Legacy(Wire::Json2)),
        (Kind::WsJson, _) | (Kind::Http, "/ws3") => Some(Door::Legacy(Wire::Json3)),
        (Kind::Http, "/ws") => Some(Door::V1),
        (Kind::Http | Kind::Grpc, _) => None,
    }
}

/// The paths that the engine knows, and what may be done there.
const PATHS: [(&str, Method); 8] = [
    ("/", Method::POST),
    ("/invocations", Method::POST),
    ("/v1/rime-tts", Method::POST),
    ("/livez", Method::GET),
    ("/readyz", Method::GET),
    ("/health", Method::GET),
    ("/statusz", Method::GET),
    ("/statusz/reset", Method::POST),
];

impl Surface {
    /// Answers the handshake and leaves the socket to a task of its own.
    fn open_socket<B>(
        self: &Arc<Self>,
        door: Door,
        request: &mut Request<B>,
        open: Arc<Open>,
    ) -> Response<Reply> {
        self.witness.request(match door {
            Door::V1 => "/ws",
            Door::Legacy(Wire::Json3) => "/ws3",
            Door::Legacy(Wire::Json2) => "/ws2",
            Door::Legacy(Wire::Binary) => "ws-binary",
        });
        // A v1 socket authenticates after the upgrade.
        let key = request.headers().get(AUTHORIZATION);
        if let (Door::Legacy(_), Err(complaint)) = (door, self.authenticate(key)) {
            return plain(StatusCode::UNAUTHORIZED, complaint);
        }
        let (encoding, subprotocol) = match door {
            Door::V1 => Encoding::choose(request.headers()),
            Door::Legacy(_) => (Encoding::Json, None),
        };
        let (response, upgrade) = match socket::accept(request, subprotocol) {
            Ok(accepted) => accepted,
            Err(refusal) => return *refusal,
        };
        match door {
            Door::V1 => {
                let session = V1::new(self.clone(), encoding, request.headers());
                self.run_socket(upgrade, session, Socket::V1, open);
            }
            Door::Legacy(wire) => {
                let session = Legacy::new(self.clone(), wire, request.uri().query().unwrap_or(""));
                self.run_socket(upgrade, session, wire.socket(), open);
            }
        }
        response
    }

    fn run_socket(
        &self,
        upgrade: hyper::upgrade::OnUpgrade,
        session: impl Session,
        socket: Socket,
        open: Arc<Open>,
    ) {
        let guards = (open, self.witness.socket(socket));
        let serve = socket::serve(upgrade, session, self.graceful.clone());
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            kill.run_until_cancelled(serve).await;
            drop(guards);
        });
    }

    /// Takes in a synthesis whose text is still to come. It occupies the engine from now on.
    pub(super) fn open(&self, voice: Voice, protocol: Protocol) -> Speech {
        let fate = self.throw();
        Speech::open(voice, &self.worker, self.witness.synthesis(protocol), fate)
    }

    pub(super) fn throw(&self) -> Fate {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).throw()
    }

    /// Names a request.
    pub(super) fn next_request_id(&self) -> String {
        format!("sim-{:08x}", self.requests.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn route<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some((path, method)) = PATHS.iter().find(|(path, _)| *path == request.uri().path()) else {
            self.witness.request("other");
            return plain(StatusCode::NOT_FOUND, "404 page not found");
        };
        self.witness.request(path);
        let reads_head = *method == Method::GET && *request.method() == Method::HEAD;
        if *request.method() != *method && !reads_head {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
                response.headers_mut().insert(ALLOW, allowed);
            }
            return response;
        }
        match *path {
            "/livez" | "/readyz" => plain(StatusCode::OK, "ok"),
            "/health" => json(&serde_json::json!({
                "apiStatus": "ok", "licenseStatus": "valid", "modelReachable": true,
            })),
            "/statusz" => self.status(),
            "/statusz/reset" => {
                self.witness.reset();
                self.status()
            }
            _ => self.synthesise(request).await,
        }
    }

    fn status(&self) -> Response<Reply> {
        let counts = self.witness.counts();
        json(&serde_json::json!({
            "profile": self.profile,
            "syntheses": counts.syntheses,
            "connections": counts.connections,
            "requests": counts.requests,
            "protocols": counts.protocols,
            "sockets": counts.sockets,
        }))
    }

    async fn synthesise<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if let Err(complaint) = self.authenticate(head.headers.get(AUTHORIZATION)) {
            return plain(StatusCode::UNAUTHORIZED, complaint);
        }
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return plain(StatusCode::BAD_REQUEST, "cannot read the body"),
        };
        let accept = head.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let order = match Order::read(&body, &accept.collect::<Vec<_>>().join(","), self.style) {
            Ok(order) => order,
            Err(complaint) => return plain(StatusCode::BAD_REQUEST, complaint.to_string()),
        };
        if let Some(status) = self.refuse {
            return plain(status, "no capacity");
        }
        self.speak(&order).await
    }

    async fn speak(&self, order: &Order) -> Response<Reply> {
        let fate = self.throw();
        let running = self.witness.synthesis(Protocol::Http);
        let load = load_metrics(self.witness.counts().syntheses.running, self.capacity);
        let mut speech = Box::new(Speech::whole(order, &self.worker, running, fate));
        if (!self.early_head || fate.blow == Blow::Error) && speech.begins().await.is_err() {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "inference failed");
        }
        let exact = order.voice.format == super::audio::Format::Wav { exact: true };
        let length = exact.then(|| super::audio::wav_bytes(order.voice.rate, order.audio));
        let mut response = Response::new(Reply::Speech { speech, length });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(order.voice.format.content_type()));
        if let Ok(load) = HeaderValue::from_str(&load) {
            headers.insert(ENDPOINT_LOAD_METRICS, load);
        }
        response
    }

    /// `Authorization: Bearer KEY` or `Api-Key KEY`, when the engine was given a key.
    pub(super) fn authenticate(&self, header: Option<&HeaderValue>) -> Result<(), &'static str> {
        match header {
            Some(value) => self.check_key(value.to_str().unwrap_or("")),
            None if self.api_key.is_none() => Ok(()),
            None => Err("missing headers"),
        }
    }

    /// The same, of the value alone.
    pub(super) fn check_key(&self, given: &str) -> Result<(), &'static str> {
        let Some(key) = &self.api_key else { return Ok(()) };
        let given = given.strip_prefix("Bearer ").or_else(|| given.strip_prefix("Api-Key "));
        match given.map(str::trim) {
            Some("") => Err("empty apikey"),
            Some(given) if given == key => Ok(()),
            _ => Err("invalid api key"),
        }
    }
}

/// The ORCA text form of the load report: syntheses in the engine over `INFERENCE_CONCURRENCY_CAPACITY`.
fn load_metrics(running: u64, capacity: u32) -> String {
    let running = u32::try_from(running).unwrap_or(u32::MAX);
    format!("TEXT application_utilization={:.4}", f64::from(running) / f64::from(capacity))
}

pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(value.to_string().into())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response's body.
#[derive(Debug)]
pub(super) enum Reply {
    Whole(Option<Bytes>),
    Speech { speech: Box<Speech>, length: Option<u64> },
    Grpc(Box<grpc::Answer>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Struck;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Struck>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Grpc(answer) => answer.poll_frame(context),
            Self::Speech { speech, .. } => {
                speech.poll_bytes(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Speech { speech, .. } => speech.is_finished(),
            Self::Grpc(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Speech { length: Some(length), .. } => SizeHint::with_exact(*length),
            Self::Speech { length: None, .. } | Self::Grpc(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_report_is_orca_text() {
        assert_eq!(load_metrics(16, 32), "TEXT application_utilization=0.5000");
        assert_eq!(load_metrics(48, 32), "TEXT application_utilization=1.5000");
    }
}
