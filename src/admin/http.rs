//! The admin address and the metrics address: which paths each serves.

use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;
use tower::Service;

use super::Control;
use crate::protocol::arriving::Arriving;

/// What is read of a request's body.
const BODY_BYTES_MAX: usize = 4096;

/// How long that may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// What an address serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `/metrics`, `/livez`, `/readyz`.
    ReadOnly,
    /// The same, and `/status` and `/limit`.
    Admin,
}

/// The tower service of one address.
pub fn service(
    control: Arc<Control>,
    access: Access,
) -> impl Service<Request<Arriving<Incoming>>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request: Request<Arriving<Incoming>>| {
        let control = Arc::clone(&control);
        async move { Ok(answer(&control, access, request.map(|arriving| arriving.body)).await) }
    })
}

async fn answer(control: &Control, access: Access, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if access == Access::Admin && !names_this_machine(&request) {
        return text(StatusCode::FORBIDDEN, "Ask by an IP address, or as localhost");
    }
    let path = request.uri().path().to_owned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (path.as_str(), access) {
        ("/metrics" | "/livez" | "/readyz", _) | ("/status", Access::Admin) if !reads => {
            not_allowed("GET, HEAD")
        }
        ("/metrics", _) => with_type("text/plain; version=0.0.4; charset=utf-8", control.metrics()),
        ("/livez", _) => text(StatusCode::OK, "ok"),
        ("/readyz", _) => ready(control),
        ("/status", Access::Admin) => json(&control.status()),
        ("/limit", Access::Admin) if reads => json(&serde_json::json!({ "limit": control.status().limit })),
        ("/limit", Access::Admin) if *request.method() == Method::PUT => put_limit(control, request).await,
        ("/limit", Access::Admin) => not_allowed("GET, HEAD, PUT"),
        _ => text(StatusCode::NOT_FOUND, "Not found"),
    }
}

/// Whether the request's `Host` is an IP address or `localhost`. A web page whose name was made to resolve to the
/// loopback address (DNS rebinding) sends that name.
fn names_this_machine(request: &Request<Incoming>) -> bool {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let named = named.or_else(|| request.uri().authority().map(ToString::to_string));
    let Some(authority) = named.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

fn ready(control: &Control) -> Response<Full<Bytes>> {
    let unready = |why| text(StatusCode::SERVICE_UNAVAILABLE, why);
    match (control.books.door.snapshot().draining, control.health.is_up()) {
        (true, _) => unready("draining"),
        (false, false) => unready("engine down"),
        (false, true) => text(StatusCode::OK, "ok"),
    }
}

/// `24`, or `{"limit": 24}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum NewLimit {
    Plain(NonZeroU32),
    Named { limit: NonZeroU32 },
}

/// The greatest limit, the same as in the configuration.
const LIMIT_MAX: u32 = 65_535;

async fn put_limit(control: &Control, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let reading = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return text(StatusCode::BAD_REQUEST, "The body could not be read"),
    };
    let limit = match serde_json::from_slice(&body) {
        Ok(NewLimit::Plain(limit) | NewLimit::Named { limit }) if limit.get() <= LIMIT_MAX => limit,
        _ => {
            return text(
                StatusCode::BAD_REQUEST,
                "Expected a limit from 1 to 65535, such as 24 or {\"limit\": 24}",
            );
        }
    };
    let before = control.set_limit(limit);
    json(&serde_json::json!({ "limit": limit, "before": before }))
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(body) => with_type("application/json", body + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be written"),
    }
}

fn with_type(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = with_type("text/plain; charset=utf-8", format!("{line}\n"));
    *response.status_mut() = status;
    response
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
