//! A caller's end of a WebSocket. Knows nothing of what is said on it.

use std::net::SocketAddr;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::call::Trouble;
use super::manner::Manner;

/// Read buffer of a socket: there are many of them.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// An open socket. Dropping it hangs up.
#[derive(Debug)]
pub(super) struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    pub(super) async fn open(
        address: SocketAddr,
        path: &str,
        subprotocol: Option<&'static str>,
        manner: &Manner,
    ) -> Result<Self, Trouble> {
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        let headers = request.headers_mut();
        // An engine whose licence is its own still wants to be told something.
        let nobody = HeaderValue::from_static("Bearer none");
        headers.insert("authorization", manner.authorization.clone().unwrap_or(nobody));
        if let Some(host) = manner.host.as_deref() {
            headers.insert("host", HeaderValue::from_str(host)?);
        }
        if let Some(subprotocol) = subprotocol {
            headers.insert("sec-websocket-protocol", HeaderValue::from_static(subprotocol));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0);
        let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
        Ok(Self(socket))
    }

    pub(super) async fn send(&mut self, message: impl Into<Message>) -> Result<(), Trouble> {
        Ok(self.0.send(message.into()).await?)
    }

    /// The next text or binary message; `None` after the end.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            match self.0.next().await?.ok()? {
                message @ (Message::Text(_) | Message::Binary(_)) => return Some(message),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Whether nothing has come since the last turn that ends this one before it begins. Pings that came are answered
    /// with the next message.
    pub(super) fn is_open(&mut self) -> bool {
        // Never ready: an idle socket says nothing but pings, which are not told.
        self.next().now_or_never().is_none()
    }
}
