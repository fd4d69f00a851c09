//! Turns on a WebSocket v1: a context each, opened without text, as LiveKit's and pipecat's are.

use std::net::SocketAddr;

use prost::Message as _;
use rimelabs_api::web_socket_request::Payload as Request;
use rimelabs_api::web_socket_response::Payload as Response;
use rimelabs_api::{WebSocketEnd, WebSocketRequest, WebSocketResponse};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::call::{Heard, Trouble, ended};
use super::grpc;
use super::manner::{Manner, Words};
use super::socket::Socket;
use super::turn::Turn;
use crate::meter::Outcome;

/// A socket that is ready.
#[derive(Debug)]
pub(super) struct Line {
    socket: Socket,
    turns: u64,
}

impl Line {
    pub(super) async fn open(address: SocketAddr, manner: &Manner) -> Result<Self, Trouble> {
        let socket = Socket::open(address, "/ws", Some("rime.v1.binary"), manner).await?;
        let mut line = Self { socket, turns: 0 };
        match line.next().await.and_then(|response| response.payload) {
            Some(Response::Ready(_)) => Ok(line),
            _ => Err("the socket did not become ready".into()),
        }
    }

    pub(super) fn is_open(&mut self) -> bool {
        self.socket.is_open()
    }

    pub(super) async fn turn(&mut self, manner: &Manner, started: Instant, words: &Words) -> Turn {
        self.turns += 1;
        let context = format!("turn-{}", self.turns);
        if let Err(trouble) = self.say(&context, manner, words).await {
            return Turn::broken(Heard::failure(trouble));
        }
        let mut meter = manner.meter_of_audio(started);
        loop {
            let Some(response) = self.next().await else {
                return Turn::broken(ended(meter, Outcome::Truncated));
            };
            if response.context_id != context {
                return Turn::broken(Heard::failure("the engine spoke of another context"));
            }
            match response.payload {
                Some(Response::Started(_)) => {}
                Some(Response::Audio(bytes)) => {
                    meter.heard(Instant::now().into_std(), &bytes);
                }
                Some(Response::Done(_)) => return Turn::ended(ended(meter, Outcome::Ok)),
                Some(Response::Error(error)) => {
                    let refused = matches!(error.kind.as_str(), "resource_exhausted" | "unavailable");
                    let heard = if refused { Heard::Refusal } else { Heard::Failure };
                    return Turn::ended(heard(format!("{}: {}", error.kind, error.message)));
                }
                _ => return Turn::broken(Heard::failure("the engine ended the turn without a word of why")),
            }
        }
    }

    async fn say(&mut self, context: &str, manner: &Manner, words: &Words) -> Result<(), Trouble> {
        let start = grpc::order(manner, words);
        let said = [Request::Start(start), Request::Text(words.text.clone()), Request::End(WebSocketEnd {})];
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
