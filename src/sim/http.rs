//! The engine's HTTP surface: the standalone engine's paths and the API container's, which share `POST /`.
//! Decides nothing about audio or load.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use super::counts::Witness;
use super::faults::{Dice, Fate};
use super::request::{Order, Style};
use super::speech::{Cut, Speech};
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
}

/// Answers one request.
///
/// # Cancel safety
/// Dropping it before the answer cancels the synthesis.
pub(super) async fn answer<B>(
    surface: Arc<Surface>,
    request: Request<B>,
) -> Result<Response<Reply>, Infallible>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let id = request.headers().get(&X_REQUEST_ID).cloned();
    let mut response = surface.route(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    Ok(response)
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
        }))
    }

    async fn synthesise<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if let Err(complaint) = self.authenticate(&head.headers) {
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
        let fate = self.dice.lock().unwrap_or_else(PoisonError::into_inner).throw();
        let production = self.worker.start(order.audio, self.witness.synthesis());
        let load = load_metrics(self.witness.counts().syntheses.running, self.capacity);
        let mut speech = Box::new(Speech::new(order, production, fate));
        if (!self.early_head || fate == Fate::Error) && speech.begins().await.is_err() {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "inference failed");
        }
        let exact = order.format == super::audio::Format::Wav { exact: true };
        let length = exact.then(|| super::audio::wav_bytes(order.rate, order.audio));
        let mut response = Response::new(Reply::Speech { speech, length });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(order.format.content_type()));
        if let Ok(load) = HeaderValue::from_str(&load) {
            headers.insert(ENDPOINT_LOAD_METRICS, load);
        }
        response
    }

    /// `Authorization: Bearer KEY` or `Api-Key KEY`, when the engine was given a key.
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let Some(key) = &self.api_key else { return Ok(()) };
        let Some(value) = headers.get(AUTHORIZATION) else { return Err("missing headers") };
        let given = value.to_str().unwrap_or("");
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

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
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
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Speech { speech, .. } => {
                speech.poll_bytes(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Speech { speech, .. } => speech.is_finished(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Speech { length: Some(length), .. } => SizeHint::with_exact(*length),
            Self::Speech { length: None, .. } => SizeHint::default(),
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
