//! Turns on a legacy JSON WebSocket: text and a flush each, as LiveKit's are.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::call::{Heard, Trouble, ended};
use super::manner::{Manner, Words};
use super::socket::Socket;
use super::turn::Turn;
use crate::meter::Outcome;

/// Everything but the text is told at the door.
fn path(manner: &Manner) -> String {
    let fields = [
        ("speaker", manner.speaker.as_deref()),
        ("modelId", manner.model.as_deref()),
        ("lang", manner.lang.as_deref()),
    ];
    let mut path = "/ws3?audioFormat=wav&segment=never".to_owned();
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        path.extend(["&", name, "="]);
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(byte.into()),
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

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
    message: Option<String>,
    context_id: Option<String>,
}

impl Line {
    pub(super) async fn open(address: SocketAddr, manner: &Manner) -> Result<Self, Trouble> {
        Ok(Self { socket: Socket::open(address, &path(manner), None, manner).await?, turns: 0 })
    }

    pub(super) fn is_open(&mut self) -> bool {
        self.socket.is_open()
    }

    pub(super) async fn turn(&mut self, manner: &Manner, started: Instant, words: &Words) -> Turn {
        self.turns += 1;
        let context = format!("turn-{}", self.turns);
        for said in [json!({ "text": words.text, "contextId": context }), json!({ "operation": "flush" })] {
            if let Err(trouble) = self.socket.send(said.to_string()).await {
                return Turn::broken(Heard::failure(trouble));
            }
        }
        let mut meter = manner.meter_of_audio(started);
        let mut refused = None;
        loop {
            let Some(message) = self.socket.next().await else {
                return Turn::broken(ended(meter, Outcome::Truncated));
            };
            let Ok(said) = serde_json::from_slice::<Said>(&message.into_data()) else {
                return Turn::broken(Heard::failure("the engine says what is no message"));
            };
            match said.kind.as_str() {
                "chunk" => {
                    let data = said.data.and_then(|data| STANDARD.decode(data).ok());
                    meter.heard(Instant::now().into_std(), &data.unwrap_or_default());
                }
                "done" => {
                    return Turn::ended(refused.map_or_else(|| ended(meter, Outcome::Ok), Heard::Refusal));
                }
                // Only a gate names the turn, and ends it with `done`. The engine's own error is about the socket.
                "error" if said.context_id.as_deref() == Some(&context) => {
                    refused = Some(said.message.unwrap_or_default());
                }
                "error" => return Turn::broken(Heard::Failure(said.message.unwrap_or_default())),
                _ => {}
            }
        }
    }
}
