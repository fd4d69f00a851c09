//! What is sent to the engine: read before its synthesis was let in, or still arriving.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http1::Head;

/// A request on its way to the engine: its head is written, its body may still arrive.
#[derive(Debug)]
pub struct Outbound<B = SendBody> {
    pub(super) head: Head,
    /// What the head announces.
    pub body: B,
}

impl<B> Outbound<B> {
    /// The same head, and what becomes of the body.
    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> Outbound<C> {
        Outbound { head: self.head, body: body(self.body) }
    }

    /// The head, for another body.
    pub fn split(self) -> (Outbound<()>, B) {
        (Outbound { head: self.head, body: () }, self.body)
    }

    /// What the caller says it takes (RFC 9110 section 12.5.1), where it is text.
    #[must_use]
    pub fn accept(&self) -> Option<&str> {
        self.head.accept()
    }
}

/// What is sent to the engine.
#[derive(Debug)]
pub enum SendBody {
    /// A body that was read before the request was admitted; `None` once it is sent, or where there is none.
    Whole(Option<Bytes>),
    /// A body that is still arriving.
    Streamed(Box<Streamed>),
    /// A body that passes through untouched and unbounded.
    PassThrough(Incoming),
}

/// The part of a body that was read ahead, then the rest as it comes.
#[derive(Debug)]
pub struct Streamed {
    /// Read before admission; sent first.
    pub ahead: std::collections::VecDeque<Frame<Bytes>>,
    /// Still to come; `None` where all of it was read ahead.
    pub rest: Option<Incoming>,
    /// How many bytes of `rest` may still come.
    pub left: usize,
    /// When the rest must have come.
    pub deadline: Pin<Box<tokio::time::Sleep>>,
}

/// Why a streamed request body ends early.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The caller's connection failed.
    #[error("cannot read the request body")]
    Read(#[source] hyper::Error),
    /// Longer than `body_bytes_max`.
    #[error("the request body is too large")]
    TooLarge,
    /// Not complete within `body_timeout`.
    #[error("the request body did not arrive in time")]
    Timeout,
}

impl SendBody {
    /// Whether all of it is here: sending it waits for nobody but the engine.
    pub(super) fn is_at_hand(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Streamed(streamed) => streamed.rest.is_none(),
            Self::PassThrough(body) => body.is_end_stream(),
        }
    }

    /// Takes the next piece of a body that [is at hand](Self::is_at_hand).
    pub(super) fn next_at_hand(&mut self) -> Option<Frame<Bytes>> {
        match self {
            Self::Whole(bytes) => bytes.take().map(Frame::data),
            Self::Streamed(streamed) => streamed.ahead.pop_front(),
            Self::PassThrough(_) => None,
        }
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(streamed) => streamed.poll_frame(cx),
            Self::PassThrough(body) => Pin::new(body).poll_frame(cx).map_err(SendError::Read),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Streamed(streamed) => {
                streamed.ahead.is_empty() && streamed.rest.as_ref().is_none_or(Body::is_end_stream)
            }
            Self::PassThrough(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(
                bytes.as_ref().map_or(0, |bytes| bytes.len().try_into().unwrap_or(u64::MAX)),
            ),
            // Its length, where known, stands in the caller's own Content-Length.
            Self::Streamed(_) => SizeHint::default(),
            Self::PassThrough(body) => body.size_hint(),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        if let Some(frame) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(rest).poll_frame(cx) else {
            return self.deadline.as_mut().poll(cx).map(|()| Some(Err(SendError::Timeout)));
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(SendError::Read)?;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(left) = self.left.checked_sub(bytes) else {
            return Poll::Ready(Some(Err(SendError::TooLarge)));
        };
        self.left = left;
        Poll::Ready(Some(Ok(frame)))
    }
}
