//! How the legacy sockets write what they say: JSON messages, or bare text and bare audio. Decides nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{Outbox, Protocol, Socket};

/// Which of the legacy protocols a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Wire {
    /// `/ws3`.
    Json3,
    /// `/ws2`, whose `done` says so twice.
    Json2,
    /// Bare text and audio.
    Binary,
}

/// What a caller said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Text { text: String, label: Option<String> },
    Operation(Operation),
    Nonsense(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Flush,
    Clear,
    Eos,
}

const MARKS: [(&str, Operation); 3] =
    [("<FLUSH>", Operation::Flush), ("<CLEAR>", Operation::Clear), ("<EOS>", Operation::Eos)];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    text: Option<String>,
    context_id: Option<String>,
    operation: Option<String>,
}

impl Wire {
    pub(in crate::sim) fn protocol(self) -> Protocol {
        match self {
            Self::Json3 | Self::Json2 => Protocol::WsJson,
            Self::Binary => Protocol::WsBinary,
        }
    }

    pub(in crate::sim) fn socket(self) -> Socket {
        match self {
            Self::Json3 | Self::Json2 => Socket::WsJson,
            Self::Binary => Socket::WsBinary,
        }
    }

    /// What a message says, in order.
    pub(super) fn read(self, message: &Message) -> Vec<Said> {
        let Ok(text) = message.to_text() else {
            return vec![Said::Nonsense("the message is no text".to_owned())];
        };
        if self == Self::Binary { read_bare(text) } else { read_json(text) }
    }

    pub(super) fn chunk(self, audio: Bytes, label: Option<&str>, out: &mut Outbox) {
        if self == Self::Binary {
            return out.say(Message::Binary(audio));
        }
        // Written by hand: what is large is base64 and needs no escapes.
        let mut text = String::with_capacity(audio.len() * 4 / 3 + 128);
        text.push_str(r#"{"type":"chunk","data":""#);
        STANDARD.encode_string(&audio, &mut text);
        text.push_str(r#"","contextId":"#);
        text.push_str(&json!(label).to_string());
        text.push('}');
        out.say(Message::text(text));
    }

    pub(super) fn timestamps(self, words: &Value, label: Option<&str>, out: &mut Outbox) {
        self.json(&json!({ "type": "timestamps", "word_timestamps": words, "contextId": label }), out);
    }

    pub(super) fn done(self, label: Option<&str>, out: &mut Outbox) {
        let done = match self {
            Self::Json2 => json!({ "type": "done", "done": true, "contextId": label }),
            _ => json!({ "type": "done", "contextId": label }),
        };
        self.json(&done, out);
    }

    /// A run failed. The binary socket has no word for it.
    pub(super) fn error(self, status: u16, message: &str, out: &mut Outbox) {
        match self {
            Self::Binary => out.close(CloseCode::Error, &format!("{status}: {message}")),
            _ => self.complain(message, out),
        }
    }

    pub(super) fn complain(self, message: &str, out: &mut Outbox) {
        self.json(&json!({ "type": "error", "message": message }), out);
    }

    fn json(self, message: &Value, out: &mut Outbox) {
        if self != Self::Binary {
            out.say(Message::text(message.to_string()));
        }
    }
}

fn read_json(text: &str) -> Vec<Said> {
    let request: Request = match serde_json::from_str(text) {
        Ok(request) => request,
        Err(error) => return vec![Said::Nonsense(format!("invalid JSON message: {error}"))],
    };
    let mut said = Vec::new();
    if let Some(text) = request.text {
        said.push(Said::Text { text, label: request.context_id });
    }
    match request.operation.as_deref() {
        None => {}
        Some("flush") => said.push(Said::Operation(Operation::Flush)),
        Some("clear") => said.push(Said::Operation(Operation::Clear)),
        Some("eos") => said.push(Said::Operation(Operation::Eos)),
        Some(other) => said.push(Said::Nonsense(format!("unknown operation {other:?}"))),
    }
    if said.is_empty() {
        said.push(Said::Nonsense("text or operation is required".to_owned()));
    }
    said
}

fn read_bare(mut text: &str) -> Vec<Said> {
    let mut said = Vec::new();
    loop {
        let next = MARKS.iter().filter_map(|mark| Some((text.find(mark.0)?, mark))).min_by_key(|(at, _)| *at);
        let end = next.map_or(text.len(), |(at, _)| at);
        if end > 0 {
            said.push(Said::Text { text: text[..end].to_owned(), label: None });
        }
        let Some((at, (mark, operation))) = next else { return said };
        said.push(Said::Operation(*operation));
        text = &text[at + mark.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, label: Option<&str>) -> Said {
        Said::Text { text: text.to_owned(), label: label.map(str::to_owned) }
    }

    #[test]
    fn marks_in_bare_text_are_operations() {
        let message = Message::text("Hello. <FLUSH>More<EOS>");
        let heard = [
            text("Hello. ", None),
            Said::Operation(Operation::Flush),
            text("More", None),
            Said::Operation(Operation::Eos),
        ];
        assert_eq!(Wire::Binary.read(&message), heard);
    }

    #[test]
    fn json_messages_say_text_or_an_operation_and_may_say_more() {
        let read = |json: &str| Wire::Json3.read(&Message::text(json));
        assert_eq!(read(r#"{"text":"a","contextId":"c","odd":1}"#), [text("a", Some("c"))]);
        assert_eq!(read(r#"{"operation":"clear"}"#), [Said::Operation(Operation::Clear)]);
        for nonsense in ["{", "{}", r#"{"operation":"dance"}"#] {
            assert!(matches!(read(nonsense)[..], [Said::Nonsense(_)]), "{nonsense}");
        }
    }
}
