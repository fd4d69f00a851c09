//! Opens a WebSocket to the engine. Decides nothing of what is said on it.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::body::EngineBody;
use super::connection::Connection;
use super::http1::{AnswerError, Outgoing};
use super::send::Outbound;
use super::{EngineClient, EngineError};

/// Bytes of an answer that refuses a socket: a line of text. What is longer is left out.
const ANSWER_BYTES_MAX: usize = 65_536;

/// What the engine says to a request for a WebSocket.
#[derive(Debug)]
pub enum Opened {
    /// It switches protocols: its head, the connection, and what it has said on it already.
    Switched(Response<()>, (TcpStream, Bytes)),
    /// It does not: its answer, whole.
    Answered(Response<Bytes>),
}

impl EngineClient {
    /// Asks the engine for a WebSocket, on a connection of its own: one that was kept could have been closed meanwhile,
    /// and what asks for a socket is not sent twice.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// [`EngineError`] where no response head came.
    pub async fn open_socket(&self, request: Outbound) -> Result<Opened, EngineError> {
        let inner = &*self.inner;
        let deadline = Instant::now() + inner.first_byte_timeout;
        let asking = async {
            let mut connection = Connection::new(inner.dial().await?);
            connection.send(Outgoing::new(request), deadline);
            let response = poll_fn(|cx| connection.poll_answer(cx)).await?;
            Ok((response, connection))
        };
        let asked = asking.await;
        inner.health.learn(asked.as_ref().map(|(response, _)| response));
        let (response, connection) = asked?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let switched = connection.into_stream().ok_or(EngineError::Lost(AnswerError::Switched))?;
            return Ok(Opened::Switched(response, switched));
        }
        let body = EngineBody::new(Box::new(connection), Arc::clone(&inner.pool));
        let body = timeout(inner.first_byte_timeout, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
        let body = body.ok().and_then(Result::ok).map(Collected::to_bytes);
        let (mut head, ()) = response.into_parts();
        if body.is_none() {
            head.headers.remove(CONTENT_LENGTH);
        }
        Ok(Opened::Answered(Response::from_parts(head, body.unwrap_or_default())))
    }
}
