//! Reads a synthesis' body before it is admitted, so that a slow caller holds no slot. What is longer than the bound
//! streams on. Looks at no byte of it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service};

use crate::config::Limits;
use crate::engine::SendBody;
use crate::engine::body::Streamed;
use crate::refusal::{Reason, Refusal};

/// What is read of a body before its synthesis is admitted. Rime's texts have at most 1,000 characters, Arcana's any
/// number.
pub const READ_AHEAD_BYTES_MAX: usize = 65_536;

/// Puts [`Upload`] over a service.
#[derive(Clone, Debug)]
pub struct UploadLayer {
    bytes_max: usize,
    timeout: Duration,
}

impl UploadLayer {
    /// With the body limits of `limits`.
    #[must_use]
    pub const fn new(limits: &Limits) -> Self {
        Self { bytes_max: limits.body_bytes_max, timeout: limits.body_timeout }
    }
}

impl<S> Layer<S> for UploadLayer {
    type Service = Upload<S>;

    fn layer(&self, inner: S) -> Upload<S> {
        Upload { inner, layer: self.clone() }
    }
}

/// Calls the inner service once a request's body is read.
#[derive(Clone, Debug)]
pub struct Upload<S> {
    inner: S,
    layer: UploadLayer,
}

impl<S> Service<Request<Incoming>> for Upload<S>
where
    S: Service<Request<SendBody>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let unready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, unready);
        let UploadLayer { bytes_max, timeout } = self.layer;
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = read_ahead(body, bytes_max, timeout).await.map_err(Refusal::new)?;
            inner.call(Request::from_parts(head, body)).await
        })
    }
}

/// Reads a body to its end, or to [`READ_AHEAD_BYTES_MAX`].
pub(super) async fn read_ahead(
    mut body: Incoming,
    bytes_max: usize,
    timeout: Duration,
) -> Result<SendBody, Reason> {
    if body.is_end_stream() {
        return Ok(SendBody::Whole(None));
    }
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Reason::BodyTooLarge);
    }
    let deadline = Instant::now() + timeout;
    let mut ahead = VecDeque::new();
    let mut left = bytes_max;
    loop {
        let frame = match before(deadline, poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))).await {
            None => return Err(Reason::BodyTimeout),
            Some(None) => return Ok(whole(ahead)),
            Some(Some(Err(_))) => return Err(Reason::BadRequest),
            Some(Some(Ok(frame))) => frame,
        };
        left = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)).ok_or(Reason::BodyTooLarge)?;
        if body.is_end_stream() {
            ahead.push_back(frame);
            return Ok(whole(ahead));
        }
        ahead.push_back(frame);
        if bytes_max - left > READ_AHEAD_BYTES_MAX {
            let deadline = Box::pin(sleep_until(deadline));
            return Ok(SendBody::Streamed(Streamed { ahead, rest: Some(body), left, deadline }));
        }
    }
}

/// A body that was read to its end, in one piece unless it has trailers.
fn whole(mut frames: VecDeque<Frame<Bytes>>) -> SendBody {
    if frames.iter().any(Frame::is_trailers) {
        return SendBody::Streamed(Streamed {
            ahead: frames,
            rest: None,
            left: 0,
            deadline: Box::pin(sleep_until(Instant::now())),
        });
    }
    if frames.len() <= 1 {
        return SendBody::Whole(frames.pop_front().and_then(|frame| frame.into_data().ok()));
    }
    let mut joined = BytesMut::new();
    for bytes in frames.iter().filter_map(Frame::data_ref) {
        joined.extend_from_slice(bytes);
    }
    SendBody::Whole(Some(joined.freeze()))
}

/// Awaits a future until `deadline`. The timer is made at the second time of asking: the rest of a request that
/// arrived in one piece is there by then, and most requests need no timer at all.
async fn before<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut asked = false;
    let at_hand = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if asked => Poll::Ready(None),
        Poll::Pending => {
            asked = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    });
    match at_hand.await {
        Some(output) => Some(output),
        None => tokio::time::timeout_at(deadline, future).await.ok(),
    }
}
