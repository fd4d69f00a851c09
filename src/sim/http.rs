//! The engine's HTTP surface: the standalone engine's paths and the API container's, which share `POST /`. Decides
//! which request becomes a WebSocket; decides nothing about audio or load.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use super::counts::{Open, Protocol, Socket};
use super::faults::Blow;
use super::grpc;
use super::legacy::{Legacy, Wire};
use super::reply::{Reply, json, plain};
use super::request::Order;
use super::socket::{self, Session};
use super::speech::Speech;
use super::surface::Surface;
use super::v1::{Encoding, V1};

/// Longest request body: Arcana's texts have no limit, the engine's memory has.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

const ENDPOINT_LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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
}

/// The ORCA text form of the load report: syntheses in the engine over `INFERENCE_CONCURRENCY_CAPACITY`.
fn load_metrics(running: u64, capacity: u32) -> String {
    let running = u32::try_from(running).unwrap_or(u32::MAX);
    format!("TEXT application_utilization={:.4}", f64::from(running) / f64::from(capacity))
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
