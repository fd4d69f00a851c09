//! Turns on a WebSocket v1: a context each, opened without text, as LiveKit's and pipecat's are.

use std::net::SocketAddr;

use prost::Message as _;
use rimelabs_api::web_socket_request::Payload as Request;
use rimelabs_api::web_socket_response::Payload as Response;
use rimelabs_api::{AudioParameters, SynthesisRequest, WebSocketEnd, WebSocketRequest, WebSocketResponse};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::agents::Turn;
use super::call::{AUDIO, Heard, Trouble, ended, meter};
use super::socket::Socket;
use crate::meter::Outcome;

/// A socket that is ready.
#[derive(Debug)]
pub(super) struct Line {
    socket: Socket,
    turns: u64,
}

impl Line {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Trouble> {
        let mut line = Self { socket: Socket::open(address, "/ws", Some("rime.v1.binary")).await?, turns: 0 };
        match line.next().await.and_then(|response| response.payload) {
            Some(Response::Ready(_)) => Ok(line),
            _ => Err("the socket did not become ready".into()),
        }
    }

    pub(super) fn is_open(&mut self) -> bool {
        self.socket.is_open()
    }

    pub(super) async fn turn(&mut self, scheduled: Instant, text: &str) -> Turn {
        self.turns += 1;
        let context = format!("turn-{}", self.turns);
        if self.say(&context, text).await.is_err() {
            return Turn::broken(Heard::Failure);
        }
        let mut meter = meter(scheduled, Some(AUDIO));
        loop {
            let Some(response) = self.next().await else {
                return Turn::broken(ended(meter, Outcome::Truncated));
            };
            if response.context_id != context {
                return Turn::broken(Heard::Failure);
            }
            match response.payload {
                Some(Response::Started(_)) => {}
                Some(Response::Audio(bytes)) => {
                    meter.heard(Instant::now().into_std(), &bytes);
                }
                Some(Response::Done(_)) => return Turn::ended(ended(meter, Outcome::Ok)),
                Some(Response::Error(error)) => {
                    let refused = matches!(error.kind.as_str(), "resource_exhausted" | "unavailable");
                    return Turn::ended(if refused { Heard::Refusal } else { Heard::Failure });
                }
                _ => return Turn::broken(Heard::Failure),
            }
        }
    }

    async fn say(&mut self, context: &str, text: &str) -> Result<(), Trouble> {
        let audio_format = Some(AUDIO.to_owned());
        let start = SynthesisRequest {
            speaker: Some("luna".to_owned()),
            audio_parameters: Some(AudioParameters { audio_format, ..AudioParameters::default() }),
            ..SynthesisRequest::default()
        };
        let said = [Request::Start(start), Request::Text(text.to_owned()), Request::End(WebSocketEnd {})];
        for payload in said {
            let request = WebSocketRequest { context_id: context.to_owned(), payload: Some(payload) };
            self.socket.send(request.encode_to_vec()).await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<WebSocketResponse> {
        match self.socket.next().await? {
            Message::Binary(bytes) => WebSocketResponse::decode(bytes).ok(),
            _ => None,
        }
    }
}
