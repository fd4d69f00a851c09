//! One WebSocket: its handshake, its frames in and out, its end. Knows nothing of what is said on it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::reply::{Reply, plain};

/// Longest message that a caller may send.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Read buffer of a socket: callers send little.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Answers that may wait to be written before the caller is no longer listened to.
const OUTBOX_MAX: usize = 64;
/// How long a caller may take to read what was said before the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a caller may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A binary frame's header that announces 1000 bytes, and a few of them.
const HALF_A_FRAME: [u8; 12] = [0x82, 126, 0x03, 0xE8, 0, 1, 2, 3, 4, 5, 6, 7];

type Frames = WebSocketStream<TokioIo<Upgraded>>;

/// What is said on a socket.
pub(super) trait Session: Send + 'static {
    /// The caller has sent a text or binary message.
    fn hear(&mut self, message: Message, out: &mut Outbox);
    /// Ready when something was put out. Called only when all that was put out before is on its way.
    fn poll_speak(&mut self, context: &mut Context<'_>, out: &mut Outbox) -> Poll<()>;
    /// Whether nothing is being spoken.
    fn is_idle(&self) -> bool;
    /// Until when the session wants to hear from the caller.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The deadline has passed.
    fn late(&mut self, _out: &mut Outbox) {}
}

/// Messages on their way to the caller.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Message>,
    ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// A close frame is the last message.
    Close,
    /// The connection breaks in the middle of a frame.
    BreakOff,
}

impl Outbox {
    /// One more message. Nothing is said after the end.
    pub(super) fn say(&mut self, message: Message) {
        if self.ending.is_none() {
            self.messages.push_back(message);
        }
    }

    /// Closes the socket after what was said before.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        let frame = CloseFrame { code, reason: reason.to_owned().into() };
        self.say(Message::Close(Some(frame)));
        self.ending.get_or_insert(Ending::Close);
    }

    /// Breaks the connection in the middle of a frame, after what was said before.
    pub(super) fn break_off(&mut self) {
        self.ending.get_or_insert(Ending::BreakOff);
    }
}

/// Whether a request wants to become a WebSocket.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let names = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    names.is_some_and(|names| names.split(',').any(|name| name.trim().eq_ignore_ascii_case("websocket")))
}

/// Answers the opening handshake (RFC 6455 section 4.2). `POST` is as good as `GET`: Rime's `armchair` sends it.
/// Extensions are never taken up.
pub(super) fn accept<B>(
    request: &mut Request<B>,
    subprotocol: Option<&'static str>,
) -> Result<(Response<Reply>, OnUpgrade), Box<Response<Reply>>> {
    let method = request.method();
    let headers = request.headers();
    if !is_upgrade(headers) || request.version() != Version::HTTP_11 {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket endpoint");
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(response));
    }
    if *method != Method::GET && *method != Method::POST {
        return Err(Box::new(plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")));
    }
    let versions = headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let (Some(key), Some(b"13")) = (headers.get(SEC_WEBSOCKET_KEY), versions) else {
        let complaint = "not a WebSocket handshake of version 13";
        return Err(Box::new(plain(StatusCode::BAD_REQUEST, complaint)));
    };
    let proof = derive_accept_key(key.as_bytes());
    let mut response = Response::new(Reply::Whole(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    // In this very spelling: `armchair` compares it.
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let mut insert = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(SEC_WEBSOCKET_ACCEPT, &proof);
    if let Some(subprotocol) = subprotocol {
        insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    Ok((response, hyper::upgrade::on(request)))
}

/// Serves a socket until it is closed. Told to stop, it closes as soon as nothing is spoken.
///
/// # Cancel safety
/// The connection breaks, and all that was spoken on it ends.
pub(super) async fn serve(upgrade: OnUpgrade, mut session: impl Session, graceful: CancellationToken) {
    // The caller went away before the handshake was through.
    let Ok(upgraded) = upgrade.await else { return };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut frames =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let mut out = Outbox::default();
    let mut stopping = false;
    while out.ending.is_none() {
        let deadline = session.deadline();
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let step = poll_fn(|context| poll_step(&mut frames, &mut session, &mut out, context));
        tokio::select! {
            gone = step => if gone { break },
            () = late => session.late(&mut out),
            () = graceful.cancelled(), if !stopping => stopping = true,
        }
        if stopping && session.is_idle() {
            out.close(CloseCode::Away, "the engine is shutting down");
        }
    }
    // Whatever is still spoken ends now, not when the caller has read the rest.
    drop(session);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        for message in out.messages.drain(..) {
            frames.send(message).await?;
        }
        SinkExt::flush(&mut frames).await
    });
    if !matches!(drained.await, Ok(Ok(()))) {
        return;
    }
    if out.ending == Some(Ending::BreakOff) {
        let _ = frames.get_mut().write_all(&HALF_A_FRAME).await;
        return;
    }
    let farewell = async { while let Some(Ok(_)) = frames.next().await {} };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
    // Otherwise a caller with unread audio might be told of a reset instead of a close.
    let _ = frames.get_mut().shutdown().await;
}

/// Moves the socket on by one message. True when the caller is gone.
fn poll_step(
    frames: &mut Frames,
    session: &mut impl Session,
    out: &mut Outbox,
    context: &mut Context<'_>,
) -> Poll<bool> {
    let room = loop {
        match frames.poll_ready_unpin(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(true),
            Poll::Pending => break false,
        }
        let Some(message) = out.messages.pop_front() else { break true };
        if frames.start_send_unpin(message).is_err() {
            return Poll::Ready(true);
        }
    };
    // Before anything is spoken: a caller who cancels wants to hear no more.
    while out.messages.len() < OUTBOX_MAX {
        match frames.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(message @ (Message::Text(_) | Message::Binary(_))))) => {
                session.hear(message, out);
                return Poll::Ready(false);
            }
            Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
            Poll::Ready(Some(Ok(Message::Close(_)) | Err(_)) | None) => return Poll::Ready(true),
            Poll::Pending => break,
        }
    }
    if room && session.poll_speak(context, out).is_ready() {
        return Poll::Ready(false);
    }
    Poll::Pending
}
