//! Turns on a legacy JSON WebSocket: text and a flush each, as LiveKit's are.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::agents::Turn;
use super::call::{AUDIO, Heard, Trouble, ended, meter};
use super::socket::Socket;
use crate::meter::Outcome;

const PATH: &str = "/ws3?speaker=luna&modelId=arcana&audioFormat=wav&segment=never";

/// An open socket.
#[derive(Debug)]
pub(super) struct Line {
    socket: Socket,
    turns: u64,
}

/// What the engine says, as far as a caller minds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    data: Option<String>,
    context_id: Option<String>,
}

impl Line {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Trouble> {
        Ok(Self { socket: Socket::open(address, PATH, None).await?, turns: 0 })
    }

    pub(super) fn is_open(&mut self) -> bool {
        self.socket.is_open()
    }

    pub(super) async fn turn(&mut self, scheduled: Instant, text: &str) -> Turn {
        self.turns += 1;
        let context = format!("turn-{}", self.turns);
        for said in [json!({ "text": text, "contextId": context }), json!({ "operation": "flush" })] {
            if self.socket.send(said.to_string()).await.is_err() {
                return Turn::broken(Heard::Failure);
            }
        }
        let mut meter = meter(scheduled, Some(AUDIO));
        let mut refused = false;
        loop {
            let Some(message) = self.socket.next().await else {
                return Turn::broken(ended(meter, Outcome::Truncated));
            };
            let Ok(said) = serde_json::from_slice::<Said>(&message.into_data()) else {
                return Turn::broken(Heard::Failure);
            };
            match said.kind.as_str() {
                "chunk" => {
                    let data = said.data.and_then(|data| STANDARD.decode(data).ok());
                    meter.heard(Instant::now().into_std(), &data.unwrap_or_default());
                }
                "done" if refused => return Turn::ended(Heard::Refusal),
                "done" => return Turn::ended(ended(meter, Outcome::Ok)),
                // Only a gate names the turn, and ends it with `done`. The engine's own error is about the socket.
                "error" if said.context_id.as_deref() == Some(&context) => refused = true,
                "error" => return Turn::broken(Heard::Failure),
                _ => {}
            }
        }
    }
}
