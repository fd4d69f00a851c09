//! What the engine sends back over HTTP and gRPC: a response's body, whatever it is made of. Decides nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::speech::{Speech, Struck};

/// A response's body.
#[derive(Debug)]
pub(super) enum Reply {
    Whole(Option<Bytes>),
    Speech { speech: Box<Speech>, length: Option<u64> },
    Grpc(Box<Answer>),
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

/// Set when the stream is to be reset: gRPC itself only knows ends with a status.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut(Arc<AtomicBool>);

impl Cut {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The body of a gRPC response, which breaks off when fate says so.
#[derive(Debug)]
pub(super) struct Answer {
    body: tonic::body::Body,
    cut: Cut,
}

impl Answer {
    pub(super) fn new(body: tonic::body::Body, cut: Cut) -> Self {
        Self { body, cut }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Struck>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if self.cut.0.load(Ordering::Relaxed) {
            return Poll::Ready(Some(Err(Struck::Cut)));
        }
        // A server's body ends with a status in its trailers, never with an error of its own.
        frame.map(|frame| frame.map(|frame| frame.map_err(|_| Struck::Cut)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(super) fn json(value: &serde_json::Value) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(value.to_string().into())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
