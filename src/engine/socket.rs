//! Opens a WebSocket to the engine. Decides nothing of what is said on it.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::body::SendBody;
use super::{EngineClient, EngineError, lost};

/// Bytes of an answer that refuses a socket: a line of text. What is longer is left out.
const ANSWER_BYTES_MAX: usize = 65_536;

/// What the engine says to a request for a WebSocket.
#[derive(Debug)]
pub enum Opened {
    /// It switches protocols: its head, and the connection to come.
    Switched(Response<()>, OnUpgrade),
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
    pub async fn open_socket(&self, request: Request<SendBody>) -> Result<Opened, EngineError> {
        let inner = &*self.inner;
        let asking = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(inner.dial().await?)).await.map_err(lost)?;
            tokio::spawn(async move {
                // How a connection ends is told to whoever waits for its answer.
                let _ = connection.with_upgrades().await;
            });
            sender.send_request(request).await.map_err(lost)
        };
        let answer = timeout(inner.first_byte_timeout, asking).await;
        let answer = answer.unwrap_or(Err(EngineError::FirstByteTimeout));
        inner.health.learn(&answer);
        let mut response = answer?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(&mut response);
            return Ok(Opened::Switched(response.map(drop), upgraded));
        }
        let (mut head, body) = response.into_parts();
        let body = timeout(inner.first_byte_timeout, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
        let body = body.ok().and_then(Result::ok).map(Collected::to_bytes);
        if body.is_none() {
            head.headers.remove(CONTENT_LENGTH);
        }
        Ok(Opened::Answered(Response::from_parts(head, body.unwrap_or_default())))
    }
}
