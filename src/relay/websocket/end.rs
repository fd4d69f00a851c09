//! One end of a relayed WebSocket: messages in, messages out, and how much of what was sent is still on its way. Knows
//! neither what messages mean nor who is at the other end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Error, Utf8Bytes};

use super::taken::Taken;
use crate::protocol::websocket::Message;

/// What is read at once from the engine: most of its chunks fit. The library clears as much before each read, so that an
/// idle socket has all of it in memory.
const ENGINE_READ_BYTES: usize = 6 * 1024;

/// What is read at once from a caller: text comes in words and sentences.
const CALLER_READ_BYTES: usize = 1024;

/// Bytes on their way to one end, beyond which the other is no longer read.
pub(super) const SEND_AHEAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes that may pile up for an end that takes nothing, beyond which it is given up.
pub(super) const UNSENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What was read from an end.
#[derive(Debug)]
pub(super) enum Read {
    /// A data message.
    Message(Message),
    /// A sign of life and nothing more: a ping, which is answered here, or a pong.
    Alive,
    /// The end wants to close; the code is absent where it gave none (RFC 6455 section 7.1.5).
    Close(Option<CloseFrame>),
    /// The end is gone, and said goodbye or not.
    Gone,
    /// The end broke the protocol's rules or the gate's bounds: what it is to be told.
    Broken(CloseFrame),
}

/// One end.
#[derive(Debug)]
pub(super) struct End<S> {
    socket: WebSocketStream<Taken<S>>,
    /// Bytes sent since everything was last known to be out.
    unsent: usize,
    /// Nothing more is read or sent.
    gone: bool,
    /// A close frame was sent.
    closing: bool,
}

impl<S> End<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// The end at `io`, of which `first` has been read already.
    pub(super) async fn new(io: S, first: Bytes, role: Role, message_bytes_max: usize) -> Self {
        let read_bytes = if role == Role::Server { CALLER_READ_BYTES } else { ENGINE_READ_BYTES };
        let config = WebSocketConfig::default()
            .read_buffer_size(read_bytes)
            .write_buffer_size(SEND_AHEAD_BYTES_MAX)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let socket =
            WebSocketStream::from_partially_read(Taken::new(io), first.into(), role, Some(config)).await;
        Self { socket, unsent: 0, gone: false, closing: false }
    }

    pub(super) const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether a close frame was sent.
    pub(super) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether all that was sent has left the gate.
    pub(super) const fn is_clear(&self) -> bool {
        self.unsent == 0
    }

    /// Whether so much is on its way that nothing should be added.
    pub(super) const fn is_full(&self) -> bool {
        self.unsent >= SEND_AHEAD_BYTES_MAX
    }

    /// Whether it has made room for more, after it had none.
    pub(super) fn has_made_room(&mut self) -> bool {
        self.socket.get_mut().has_made_room()
    }

    pub(super) fn send(&mut self, message: Message) {
        let message = match message {
            Message::Text(text) => match Utf8Bytes::try_from(text) {
                Ok(text) => tungstenite::Message::Text(text),
                // What was read as text is text.
                Err(_) => return,
            },
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
        };
        self.start(message);
    }

    pub(super) fn ping(&mut self) {
        self.start(tungstenite::Message::Ping(Bytes::new()));
    }

    pub(super) fn close(&mut self, frame: Option<CloseFrame>) {
        self.start(tungstenite::Message::Close(frame));
        self.closing = true;
    }

    fn start(&mut self, message: tungstenite::Message) {
        if self.gone || self.closing {
            return;
        }
        let piled_up = self.unsent > UNSENT_BYTES_MAX;
        // A frame without a payload is on its way too.
        self.unsent += message.len().max(1);
        if piled_up || Pin::new(&mut self.socket).start_send(message).is_err() {
            self.gone = true;
        }
    }

    /// Sends on what was sent, as far as the end takes it.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        if self.gone || self.unsent == 0 {
            return;
        }
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.unsent = 0,
            Poll::Ready(Err(_)) => self.gone = true,
            Poll::Pending => {}
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        if self.gone {
            return Poll::Pending;
        }
        let Poll::Ready(read) = Pin::new(&mut self.socket).poll_next(cx) else { return Poll::Pending };
        Poll::Ready(match read {
            Some(Ok(tungstenite::Message::Text(text))) => Read::Message(Message::Text(text.into())),
            Some(Ok(tungstenite::Message::Binary(bytes))) => Read::Message(Message::Binary(bytes)),
            Some(Ok(tungstenite::Message::Close(frame))) => {
                // The answer to it is queued by the library.
                self.unsent += 1;
                self.closing = true;
                Read::Close(frame)
            }
            Some(Ok(tungstenite::Message::Ping(_))) => {
                self.unsent += 1;
                Read::Alive
            }
            Some(Ok(_)) => Read::Alive,
            Some(Err(error)) => {
                let fault = fault(&error);
                self.gone = fault.is_none();
                fault.map_or(Read::Gone, Read::Broken)
            }
            None => {
                self.gone = true;
                Read::Gone
            }
        })
    }
}

/// What an end that is at fault is told (RFC 6455 section 7.4.1); `None` where its connection failed.
fn fault(error: &Error) -> Option<CloseFrame> {
    let (code, reason) = match error {
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => return None,
        Error::Protocol(_) => (CloseCode::Protocol, "protocol error"),
        Error::Utf8(_) => (CloseCode::Invalid, "text is not UTF-8"),
        Error::Capacity(_) => (CloseCode::Size, "message too long"),
        _ => return None,
    };
    Some(CloseFrame { code, reason: reason.into() })
}
