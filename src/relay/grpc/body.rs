//! What a gRPC caller is answered: the engine's messages and trailers, metered or passed through, or the gate's own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};

use super::super::answer::BoxError;
use super::health::Watch;
use crate::engine::grpc::Answer;
use crate::protocol::grpc::Status;
use crate::refusal::{Reason, Refusal};
use crate::stream::{Metered, StreamError, Texts};

/// The body of any answer to a gRPC caller.
#[derive(Debug)]
pub enum Body {
    /// A synthesis.
    Metered {
        /// The engine's messages.
        body: Metered<Answer>,
        /// Where its text is still being written.
        texts: Option<Arc<Texts>>,
        /// Nothing comes any more.
        ended: bool,
    },
    /// Any other answer of the engine.
    PassThrough {
        /// The engine's messages.
        answer: Answer,
        /// Nothing comes any more.
        ended: bool,
    },
    /// The gate's own answer: one message at most, then trailers.
    Own {
        /// The message.
        message: Option<Bytes>,
        /// The end.
        trailers: Option<HeaderMap>,
    },
    /// The gate's health, as it changes.
    Watch(Box<Watch>),
    /// Nothing: all is said in the head.
    Empty,
}

type Polled<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<BoxError> {
        match self.get_mut() {
            Self::Metered { ended: true, .. } | Self::PassThrough { ended: true, .. } | Self::Empty => {
                Poll::Ready(None)
            }
            Self::Metered { body, texts, ended } => {
                let polled = std::task::ready!(Pin::new(body).poll_frame(cx));
                let stalled = |texts: &Option<Arc<Texts>>| match texts {
                    Some(texts) if texts.is_open() => Reason::BodyTimeout,
                    _ => Reason::EngineTimeout,
                };
                Poll::Ready(polled.map(|frame| match frame {
                    Ok(frame) => Ok(frame),
                    Err(StreamError::Engine(error)) => broken(error, ended),
                    Err(StreamError::Stalled) => Ok(trailers(stalled(texts), ended)),
                }))
            }
            Self::PassThrough { answer, ended } => {
                let polled = std::task::ready!(Pin::new(answer).poll_frame(cx));
                Poll::Ready(polled.map(|frame| frame.or_else(|error| broken(error, ended))))
            }
            Self::Own { message, trailers } => Poll::Ready(match message.take() {
                Some(message) => Some(Ok(Frame::data(message))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Self::Watch(watch) => watch.poll_frame(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Metered { body, .. } => body.is_end_stream(),
            Self::PassThrough { answer, ended } => *ended || answer.is_end_stream(),
            Self::Own { message, trailers } => message.is_none() && trailers.is_none(),
            Self::Watch(_) => false,
            Self::Empty => true,
        }
    }
}

/// A reset of the engine's is passed on as it is: callers read a status in its code. Where the connection broke, or the
/// engine left out its trailers, the call still has an end that gRPC knows.
fn broken(error: h2::Error, ended: &mut bool) -> Result<Frame<Bytes>, BoxError> {
    if error.is_reset() && error.is_remote() {
        return Err(error.into());
    }
    tracing::debug!(error = &error as &dyn std::error::Error, "the engine's answer broke off");
    Ok(trailers(Reason::EngineUnavailable, ended))
}

fn trailers(reason: Reason, ended: &mut bool) -> Frame<Bytes> {
    *ended = true;
    Frame::trailers(Status::refused(Refusal::new(reason), false).trailers())
}
