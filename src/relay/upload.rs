//! Reads a synthesis' body before it is admitted, so that a slow caller holds no slot. What is longer than the bound
//! streams on. Looks at no byte of it.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use crate::config::Limits;
use crate::engine::send::Streamed;
use crate::engine::{Outbound, SendBody};
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

impl<S> Service<Outbound<Incoming>> for Upload<S>
where
    S: Service<Outbound, Error = Refusal> + Clone,
{
    type Response = S::Response;
    type Error = Refusal;
    type Future = Uploading<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Outbound<Incoming>) -> Uploading<S> {
        let unready = self.inner.clone();
        self.layer.upload(std::mem::replace(&mut self.inner, unready), request)
    }
}

impl<S> Upload<S> {
    /// As [`call`](Service::call), where what is within is ready whenever it is called.
    pub fn upload(&self, request: Outbound<Incoming>) -> Uploading<S>
    where
        S: Service<Outbound, Error = Refusal> + Clone,
    {
        self.layer.upload(self.inner.clone(), request)
    }
}

impl UploadLayer {
    fn upload<S>(&self, inner: S, request: Outbound<Incoming>) -> Uploading<S>
    where
        S: Service<Outbound, Error = Refusal>,
    {
        let (unread, body) = request.split();
        let reading = Reading::new(body, self.bytes_max, self.timeout);
        Uploading { state: State::Reading { next: Some((inner, unread)), reading } }
    }
}

pin_project! {
    /// The future of a call whose body is read first.
    pub struct Uploading<S> where S: Service<Outbound> {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S> where S: Service<Outbound> {
        Reading { next: Option<(S, Outbound<()>)>, reading: Reading },
        Called { #[pin] answer: S::Future },
    }
}

impl<S: Service<Outbound>> fmt::Debug for Uploading<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reading = matches!(self.state, State::Reading { .. });
        f.debug_struct("Uploading").field("reading", &reading).finish_non_exhaustive()
    }
}

impl<S> Future for Uploading<S>
where
    S: Service<Outbound, Error = Refusal>,
{
    type Output = Result<S::Response, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let answer = match state.as_mut().project() {
                StateProjection::Called { answer } => return answer.poll(cx),
                StateProjection::Reading { next, reading } => {
                    let body = ready!(reading.poll(cx)).map_err(Refusal::new)?;
                    let (mut service, unread) =
                        next.take().expect("taken in the step that leaves this state");
                    service.call(unread.map(|()| body))
                }
            };
            state.set(State::Called { answer });
        }
    }
}

/// A body that is read to its end, or to [`READ_AHEAD_BYTES_MAX`].
struct Reading {
    /// `None` once it was handed on.
    body: Option<Incoming>,
    ahead: VecDeque<Frame<Bytes>>,
    bytes_max: usize,
    left: usize,
    timeout: Duration,
    wait: Wait,
}

/// Reads a body to its end, or to [`READ_AHEAD_BYTES_MAX`].
pub(super) async fn read_ahead(
    body: Incoming,
    bytes_max: usize,
    timeout: Duration,
) -> Result<SendBody, Reason> {
    let mut reading = Reading::new(body, bytes_max, timeout);
    poll_fn(|cx| reading.poll(cx)).await
}

impl Reading {
    fn new(body: Incoming, bytes_max: usize, timeout: Duration) -> Self {
        let (body, ahead) = (Some(body), VecDeque::new());
        Self { body, ahead, bytes_max, left: bytes_max, timeout, wait: Wait::None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendBody, Reason>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(SendBody::Whole(None))) };
        if body.is_end_stream() {
            return Poll::Ready(Ok(SendBody::Whole(None)));
        }
        if body.size_hint().lower() > self.left as u64 {
            return Poll::Ready(Err(Reason::BodyTooLarge));
        }
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                return self.wait.poll(self.timeout, cx).map(|()| Err(Reason::BodyTimeout));
            };
            let frame = match frame {
                None => return Poll::Ready(Ok(whole(std::mem::take(&mut self.ahead)))),
                Some(Err(_)) => return Poll::Ready(Err(Reason::BadRequest)),
                Some(Ok(frame)) => frame,
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.left = self.left.checked_sub(bytes).ok_or(Reason::BodyTooLarge)?;
            let ended = body.is_end_stream();
            if bytes == 0 && frame.is_data() && !ended {
                continue;
            }
            if ended && self.ahead.is_empty() && frame.is_data() {
                return Poll::Ready(Ok(SendBody::Whole(frame.into_data().ok())));
            }
            self.ahead.push_back(frame);
            if ended {
                return Poll::Ready(Ok(whole(std::mem::take(&mut self.ahead))));
            }
            if self.bytes_max - self.left > READ_AHEAD_BYTES_MAX {
                return Poll::Ready(Ok(self.streamed()));
            }
        }
    }

    /// What was read, and the rest as it comes.
    fn streamed(&mut self) -> SendBody {
        SendBody::Streamed(Box::new(Streamed {
            ahead: std::mem::take(&mut self.ahead),
            rest: self.body.take(),
            left: self.left,
            deadline: self.wait.take(self.timeout),
        }))
    }
}

/// A body that was read to its end, in one piece unless it has trailers.
fn whole(mut frames: VecDeque<Frame<Bytes>>) -> SendBody {
    if frames.iter().any(Frame::is_trailers) {
        return SendBody::Streamed(Box::new(Streamed {
            ahead: frames,
            rest: None,
            left: 0,
            deadline: Box::pin(sleep_until(Instant::now())),
        }));
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

/// The wait for a body. Its timer is made at the second time of asking: the rest of a request that arrived in one piece
/// is there by then, and most requests need no timer at all.
enum Wait {
    None,
    Once(Instant),
    Timed(Pin<Box<Sleep>>),
}

impl Wait {
    fn poll(&mut self, timeout: Duration, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::None => {
                *self = Self::Once(Instant::now() + timeout);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Once(deadline) => {
                *self = Self::Timed(Box::pin(sleep_until(*deadline)));
                self.poll(timeout, cx)
            }
            Self::Timed(timer) => timer.as_mut().poll(cx),
        }
    }

    fn take(&mut self, timeout: Duration) -> Pin<Box<Sleep>> {
        match std::mem::replace(self, Self::None) {
            Self::None => Box::pin(sleep_until(Instant::now() + timeout)),
            Self::Once(deadline) => Box::pin(sleep_until(deadline)),
            Self::Timed(timer) => timer,
        }
    }
}
