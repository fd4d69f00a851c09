//! The engine's answer, on a connection that is kept for the next request once it was read to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::connection::Connection;
use super::http1::AnswerError;
use super::pool::Pool;

/// The engine's answer. Read to its end, it gives its connection back; dropped before, it closes the connection, which
/// is how the engine learns that nobody listens any more.
#[derive(Debug)]
pub struct EngineBody {
    /// `None` once the answer has ended or failed.
    lease: Option<(Box<Connection>, Arc<Pool>)>,
}

impl EngineBody {
    pub(super) fn new(connection: Box<Connection>, pool: Arc<Pool>) -> Self {
        let mut body = Self { lease: Some((connection, pool)) };
        body.give_back_at_end();
        body
    }

    fn give_back_at_end(&mut self) {
        if let Some((connection, pool)) = self.lease.take_if(|(connection, _)| connection.is_answered()) {
            pool.give(connection);
        }
    }
}

impl Body for EngineBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Some((connection, _)) = &mut self.lease else { return Poll::Ready(None) };
        let polled = ready!(connection.poll_frame(cx));
        match &polled {
            Some(Err(_)) => self.lease = None,
            _ => self.give_back_at_end(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let Some((connection, _)) = &self.lease else { return SizeHint::with_exact(0) };
        connection.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
