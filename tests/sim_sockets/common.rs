//! An engine, and callers with a WebSocket each.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use rime_gate::sim::{self, Counts, Engine, Profile, Settings};
use rimelabs_api::web_socket_response::Payload;
use rimelabs_api::{
    AudioParameters, SynthesisRequest, WebSocketError, WebSocketRequest, WebSocketResponse,
    web_socket_request,
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// 28 characters: 2 seconds.
pub(crate) const TEXT: &str = "It counts what it speaks of.";
/// Samples a second.
pub(crate) const RATE: i32 = 16_000;
/// Bytes of [`TEXT`] as 16 bit samples.
pub(crate) const TEXT_BYTES: usize = 2 * 2 * RATE as usize;

pub(crate) fn settings() -> Settings {
    let loopback = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let profile = Profile::named("test-fast").unwrap();
    Settings { profile, ws_json: loopback, ws_binary: loopback, ..Settings::default() }
}

pub(crate) async fn engine(settings: Settings) -> Engine {
    sim::start(settings).await.unwrap()
}

pub(crate) async fn until(engine: &Engine, holds: impl Fn(&Counts) -> bool) {
    let wait = async {
        while !holds(&engine.counts()) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never so: {:?}", engine.counts());
}

/// Hours of speech.
pub(crate) fn endless() -> String {
    "a".repeat(1_000_000) + "."
}

/// A caller's end of a socket. Dropping it hangs up.
pub(crate) struct Caller(pub(crate) WebSocketStream<TcpStream>);

impl Caller {
    pub(crate) async fn open(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Self {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(address).await.unwrap();
        Self(tokio_tungstenite::client_async(request, stream).await.unwrap().0)
    }

    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).await.unwrap();
    }

    /// The next message; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("the engine says something")
    }

    /// The code and the reason of the close frame, which comes next.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("{other:?} is no close frame"),
        }
    }
}

/// A caller of WebSocket v1, who has heard `ready`.
pub(crate) struct V1 {
    pub(crate) caller: Caller,
}

/// What was said to a context, or to the socket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    Started,
    Audio(usize),
    Done,
    Cancelled,
    Error(String),
}

impl V1 {
    pub(crate) async fn open(engine: &Engine) -> Self {
        Self::with(engine, "rime.v1.binary").await
    }

    pub(crate) async fn with(engine: &Engine, subprotocol: &str) -> Self {
        let headers = [("authorization", "Bearer any"), ("sec-websocket-protocol", subprotocol)];
        let mut v1 = Self { caller: Caller::open(engine.address(), "/ws", &headers).await };
        let ready = v1.response().await;
        assert!(matches!(ready.payload, Some(Payload::Ready(ready)) if ready.protocol == 1));
        v1
    }

    pub(crate) async fn send(&mut self, context: &str, payload: web_socket_request::Payload) {
        let request = WebSocketRequest { context_id: context.to_owned(), payload: Some(payload) };
        self.caller.send(request.encode_to_vec()).await;
    }

    pub(crate) async fn start(&mut self, context: &str, text: &str) {
        self.send(context, web_socket_request::Payload::Start(start(text))).await;
    }

    pub(crate) async fn text(&mut self, context: &str, text: &str) {
        self.send(context, web_socket_request::Payload::Text(text.to_owned())).await;
    }

    pub(crate) async fn end(&mut self, context: &str) {
        self.send(context, web_socket_request::Payload::End(Default::default())).await;
    }

    pub(crate) async fn cancel(&mut self, context: &str) {
        self.send(context, web_socket_request::Payload::Cancel(Default::default())).await;
    }

    /// The next message, whose frame is of the type that the subprotocol says.
    pub(crate) async fn response(&mut self) -> WebSocketResponse {
        match self.caller.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => WebSocketResponse::decode(bytes).unwrap(),
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} is no response"),
        }
    }

    pub(crate) async fn heard(&mut self) -> (String, Heard) {
        let response = self.response().await;
        Self::understand(response)
    }

    /// The next message, however long it takes.
    pub(crate) async fn heard_at_last(&mut self) -> (String, Heard) {
        let Some(Ok(Message::Binary(bytes))) = self.caller.0.next().await else { panic!("no message") };
        Self::understand(WebSocketResponse::decode(bytes).unwrap())
    }

    fn understand(response: WebSocketResponse) -> (String, Heard) {
        let heard = match response.payload.unwrap() {
            Payload::Ready(_) => panic!("ready twice"),
            Payload::Started(started) => {
                assert!(!started.request_id.is_empty());
                Heard::Started
            }
            Payload::Audio(bytes) => Heard::Audio(bytes.len()),
            Payload::Done(_) => Heard::Done,
            Payload::Cancelled(_) => Heard::Cancelled,
            Payload::Error(WebSocketError { kind, .. }) => Heard::Error(kind),
        };
        (response.context_id, heard)
    }

    /// What is no audio, and how many bytes of audio came before it.
    pub(crate) async fn next(&mut self) -> (String, usize, Heard) {
        let mut bytes = 0;
        loop {
            match self.heard().await {
                (_, Heard::Audio(piece)) => bytes += piece,
                (context, heard) => return (context, bytes, heard),
            }
        }
    }

    /// The very next message is this one.
    #[track_caller]
    pub(crate) fn expects(&mut self, context: &str, wanted: Heard) -> impl Future<Output = ()> {
        let context = context.to_owned();
        async move { assert_eq!(self.heard().await, (context, wanted)) }
    }

    /// Audio and nothing else, until there are so many bytes: how many there are then.
    pub(crate) async fn sounds(&mut self, bytes: usize) -> usize {
        let mut heard = 0;
        while heard < bytes {
            let (_, Heard::Audio(piece)) = self.heard().await else { panic!("no audio") };
            heard += piece;
        }
        heard
    }

    /// After any audio comes the end of this context. The bytes of the audio.
    pub(crate) async fn done(&mut self, context: &str) -> usize {
        let (id, bytes, heard) = self.next().await;
        assert_eq!((id.as_str(), heard), (context, Heard::Done));
        bytes
    }
}

pub(crate) fn start(text: &str) -> SynthesisRequest {
    let audio_parameters = AudioParameters {
        audio_format: Some("audio/pcm".to_owned()),
        sampling_rate: Some(RATE),
        ..Default::default()
    };
    SynthesisRequest { text: text.to_owned(), audio_parameters: Some(audio_parameters), ..Default::default() }
}

/// A caller of the legacy JSON socket.
pub(crate) struct Ws3(pub(crate) Caller);

impl Ws3 {
    /// PCM at [`RATE`], with further parameters.
    pub(crate) async fn open(engine: &Engine, parameters: &str) -> Self {
        let path = format!("/ws3?speaker=luna&audioFormat=pcm&samplingRate={RATE}&{parameters}");
        Self(Caller::open(engine.address(), &path, &[]).await)
    }

    pub(crate) async fn say(&mut self, text: &str, context: &str) {
        self.0.send(serde_json::json!({ "text": text, "contextId": context }).to_string()).await;
    }

    pub(crate) async fn operate(&mut self, operation: &str) {
        self.0.send(serde_json::json!({ "operation": operation }).to_string()).await;
    }

    pub(crate) async fn message(&mut self) -> Value {
        let message = self.0.next().await.unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    /// The next message that is neither audio nor timestamps, and the bytes of audio before it.
    pub(crate) async fn next(&mut self) -> (usize, Value) {
        use base64::Engine as _;
        let mut bytes = 0;
        loop {
            let message = self.message().await;
            match message["type"].as_str().unwrap() {
                "chunk" => {
                    let data = message["data"].as_str().unwrap();
                    bytes += base64::engine::general_purpose::STANDARD.decode(data).unwrap().len();
                }
                "timestamps" => {}
                _ => return (bytes, message),
            }
        }
    }

    /// After any audio comes `done`. The bytes of the audio.
    pub(crate) async fn done(&mut self) -> usize {
        let (bytes, message) = self.next().await;
        assert_eq!(message["type"], "done", "{message}");
        bytes
    }
}
