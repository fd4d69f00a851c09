//! What a caller is answered: the engine's body, metered or passed through, or the gate's own line.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use tower_http::timeout::TimeoutBody;

use crate::engine::EngineBody;
use crate::protocol::headers::BadHead;
use crate::refusal::{REASON_HEADER, Reason, Refusal};
use crate::stream::Metered;

/// `Retry-After` of a refusal by a door that has not seen enough releases to know better.
const RETRY_AFTER_UNKNOWN: Option<u64> = Some(1);

/// Any error that ends a body early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of any answer.
pub enum Body {
    /// A synthesis.
    Metered(Metered<EngineBody>),
    /// Any other answer of the engine.
    PassThrough(Pin<Box<TimeoutBody<EngineBody>>>),
    /// The gate's own.
    Text(Full<Bytes>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metered(body) => f.debug_tuple("Metered").field(body).finish(),
            Self::PassThrough(_) => f.write_str("PassThrough"),
            Self::Text(body) => f.debug_tuple("Text").field(body).finish(),
        }
    }
}

impl Body {
    /// An answer that is not metered; it breaks off when the engine is silent for `stall_timeout`.
    #[must_use]
    pub fn pass_through(body: EngineBody, stall_timeout: Duration) -> Self {
        Self::PassThrough(Box::pin(TimeoutBody::new(stall_timeout, body)))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Metered(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::PassThrough(body) => body.as_mut().poll_frame(cx),
            Self::Text(body) => Pin::new(body).poll_frame(cx).map_err(|never: Infallible| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Metered(body) => body.is_end_stream(),
            Self::PassThrough(body) => body.is_end_stream(),
            Self::Text(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Metered(body) => body.size_hint(),
            Self::PassThrough(body) => body.size_hint(),
            Self::Text(body) => body.size_hint(),
        }
    }
}

/// A refusal in HTTP: status, `Retry-After`, the reason's label and one plain line, as Rime's own errors are.
/// `status_when_full` is the status of the reasons that say "taken".
#[must_use]
pub fn refusal(refusal: &Refusal, status_when_full: u16) -> Response<Body> {
    let answer = refusal.reason.answer();
    let code = if refusal.reason.is_full() { status_when_full } else { answer.http };
    let mut response = line(code, refusal.reason, answer.text);
    let seconds = match refusal.retry_after_seconds() {
        None if refusal.reason.is_of_the_door() => RETRY_AFTER_UNKNOWN,
        seconds => seconds,
    };
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// The answer to a head that cannot be passed on: what is wrong with it. On HTTP/1 nothing that follows it on the
/// connection is read.
#[must_use]
pub fn bad_request(bad: &BadHead, caller: Version) -> Response<Body> {
    let mut response = line(Reason::BadRequest.answer().http, Reason::BadRequest, &bad.to_string());
    if caller != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A body that is there already.
#[must_use]
pub fn whole(body: Bytes) -> Body {
    Body::Text(Full::new(body))
}

fn line(code: u16, reason: Reason, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Text(Full::from(format!("{text}\n"))));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(REASON_HEADER, HeaderValue::from_static(reason.answer().label));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_refusal_says_why_when_to_come_again_and_one_plain_line() {
        let full = Refusal { reason: Reason::QueueFull, retry_after: Some(Duration::from_millis(1200)) };
        let response = refusal(&full, 429);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["x-rime-gate-reason"], "queue_full");
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"Currently at synthesis limit, queue full\n");
    }

    #[test]
    fn status_when_full_replaces_429_and_nothing_else() {
        assert_eq!(refusal(&Refusal::new(Reason::QueueTimeout), 503).status(), 503);
        assert_eq!(refusal(&Refusal::new(Reason::EngineUnavailable), 503).status(), 502);
        assert_eq!(refusal(&Refusal::new(Reason::BodyTooLarge), 503).status(), 413);
    }
}
