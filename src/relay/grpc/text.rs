//! The request of `SynthesizeStreaming`: held until there is something to speak, then passed on as it comes, and each
//! text noted.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::protocol::grpc::{Asked, Opening, Scan, TEXT_CHUNK};
use crate::refusal::Reason;
use crate::stream::Texts;

/// What is held of a streamed request that has brought nothing to speak yet: a header, and no more than a few words. With
/// more than this it waits for its slot like any other.
pub const OPENING_BYTES_MAX: usize = 16_384;

/// How long a caller may take to stop writing once its call has ended.
const LINGER: Duration = Duration::from_secs(1);

/// A streamed request: what was held, then the rest as it comes.
#[derive(Debug)]
pub struct Text {
    held: VecDeque<Bytes>,
    rest: Option<Incoming>,
    scan: Scan,
    texts: Arc<Texts>,
}

impl Text {
    /// Reads a request to the first text that can be spoken, or to its end, or to [`OPENING_BYTES_MAX`]. Holds no slot
    /// meanwhile, so that the only bound on a slow writer's pauses is `idle_timeout`.
    ///
    /// # Errors
    ///
    /// The reason for a refusal: the caller was silent for too long, or its request broke off.
    pub(super) async fn read(
        mut body: Incoming,
        idle_timeout: Duration,
        texts: Arc<Texts>,
    ) -> Result<(Asked, Self), Reason> {
        let mut opening = Opening::default();
        let mut scan = Scan::new(TEXT_CHUNK);
        let (mut held, mut length) = (VecDeque::new(), 0);
        while !opening.speaks() && length <= OPENING_BYTES_MAX && !body.is_end_stream() {
            let Ok(frame) = timeout(idle_timeout, body.frame()).await else {
                return Err(Reason::BodyTimeout);
            };
            let Some(frame) = frame else { break };
            let Ok(bytes) = frame.map_err(|_| Reason::BadRequest)?.into_data() else { break };
            if bytes.is_empty() {
                continue;
            }
            opening.feed(&bytes);
            scan.feed(&bytes, |_| {});
            length += bytes.len();
            held.push_back(bytes);
        }
        let rest = if body.is_end_stream() { None } else { Some(body) };
        if rest.is_none() {
            texts.ended();
        }
        Ok((opening.asked(), Self { held, rest, scan, texts }))
    }
}

impl Drop for Text {
    /// A call may end before its request does. The rest is read for a moment and thrown away: to reset the stream behind
    /// an answer makes some proxies and callers lose the answer.
    fn drop(&mut self) {
        let Some(mut rest) = self.rest.take().filter(|rest| !rest.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(timeout(LINGER, async move { while let Some(Ok(_)) = rest.frame().await {} }));
        }
    }
}

impl Body for Text {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(bytes) = this.held.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *rest).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            let mut spoken = false;
            this.scan.feed(bytes, |piece| spoken |= piece.iter().any(|byte| !byte.is_ascii_whitespace()));
            if spoken {
                this.texts.came();
            }
        }
        if frame.is_none() || rest.is_end_stream() {
            this.texts.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }
}
