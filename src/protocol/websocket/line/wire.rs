//! Reads and writes the messages of Rime's legacy sockets: JSON (`ws3`, `ws2`) and bare text (`ws`).
//!
//! A caller's message that cannot be read for sure counts as text that may start a synthesis: an engine may be able
//! to read it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::super::Message;
use super::super::reading::{Raw, Sound};
use super::super::sentence::Piece;
use crate::protocol::flat;

/// How a line's messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Json {
        /// `done` says `"done": true` as well (`ws2`).
        done_flag: bool,
    },
    Binary,
}

/// What a caller's message means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// It stays for what follows.
    pub(super) label: Option<Box<str>>,
    pub(super) text: Option<Piece>,
    pub(super) operation: Option<Operation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Clear,
    Flush,
    Eos,
}

/// What an engine's message means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    Audio(Sound<'a>),
    Done,
    Error,
    Other,
}

/// Under which label an engine's message came, as it stands in the message.
pub(super) type Label<'a> = Option<Cow<'a, [u8]>>;

impl Wire {
    pub(super) fn said(self, message: &Message) -> Said {
        match self {
            Self::Json { .. } => said_json(message.bytes()),
            Self::Binary => said_bare(message.bytes()),
        }
    }

    pub(super) fn heard(self, message: &Message) -> (Label<'_>, Event<'_>) {
        match (self, message) {
            (Self::Json { .. }, Message::Text(text)) => heard_json(text),
            (Self::Binary, Message::Binary(bytes)) => (None, Event::Audio(Sound::Plain(bytes))),
            _ => (None, Event::Other),
        }
    }

    /// Whether the engine tells the end of a run.
    pub(super) const fn tells_done(self) -> bool {
        matches!(self, Self::Json { .. })
    }

    pub(super) const fn clear(self) -> Message {
        Message::Text(match self {
            Self::Json { .. } => Bytes::from_static(br#"{"operation":"clear"}"#),
            Self::Binary => Bytes::from_static(b"<CLEAR>"),
        })
    }

    /// What tells the caller that a run came to nothing: an error that names it, since pipecat ignores any other,
    /// and its `done`. Nothing on a wire without errors.
    pub(super) fn failure(self, label: Option<&str>, text: &str) -> Vec<Message> {
        let Self::Json { done_flag } = self else { return Vec::new() };
        let text_of = |kind: &str, extra: Option<(&str, Value)>| {
            let mut object = serde_json::Map::new();
            object.insert("type".to_owned(), kind.into());
            object.extend(extra.map(|(name, value)| (name.to_owned(), value)));
            object.extend(label.map(|label| ("contextId".to_owned(), label.into())));
            Message::Text(Value::Object(object).to_string().into())
        };
        let done = done_flag.then_some(("done", Value::Bool(true)));
        vec![text_of("error", Some(("message", text.into()))), text_of("done", done)]
    }
}

fn said_bare(bytes: &[u8]) -> Said {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Said { text: Some(Piece::UNREAD), ..Said::default() };
    };
    // The tokens are whole messages, but an engine may look for them anywhere.
    let has = |token: &str| text.to_ascii_uppercase().contains(token);
    let operation = match () {
        () if has("<EOS>") => Some(Operation::Eos),
        () if has("<FLUSH>") => Some(Operation::Flush),
        () if text.trim().eq_ignore_ascii_case("<CLEAR>") => Some(Operation::Clear),
        () => None,
    };
    let token = operation.is_some() && text.trim().ends_with('>') && text.trim().starts_with('<');
    Said { label: None, text: (!token).then(|| Piece::of(text)), operation }
}

/// The members of a JSON object in order, doubles included.
struct Members<'a>(Vec<(Cow<'a, str>, Value)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

fn said_json(bytes: &[u8]) -> Said {
    let mut said = Said::default();
    let Ok(Members(members)) = serde_json::from_slice(bytes) else {
        said.text = Some(Piece::UNREAD);
        return said;
    };
    for (name, value) in members {
        match (&*name, value) {
            (_, Value::Null) => {}
            ("text", Value::String(text)) if said.text.is_none() => said.text = Some(Piece::of(&text)),
            ("text", _) => said.text = Some(Piece::UNREAD),
            // Of two operations the one that costs more counts.
            ("operation", Value::String(name)) => said.operation = said.operation.max(operation(&name)),
            ("contextId", Value::String(label)) => said.label = Some(label.into()),
            _ => {}
        }
    }
    said
}

fn operation(name: &str) -> Option<Operation> {
    match name.trim().to_ascii_lowercase().as_str() {
        "flush" => Some(Operation::Flush),
        "clear" => Some(Operation::Clear),
        "eos" => Some(Operation::Eos),
        _ => None,
    }
}

fn heard_json(text: &[u8]) -> (Label<'_>, Event<'_>) {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: Option<Raw<'a>>,
        #[serde(borrow, default)]
        data: Option<Raw<'a>>,
        #[serde(borrow, default, rename = "contextId")]
        label: Option<Raw<'a>>,
    }
    // Most messages are sound.
    if let Some([Some(b"chunk"), Some(data), label]) = flat::strings(text, ["type", "data", "contextId"]) {
        return (label.map(Cow::Borrowed), Event::Audio(Sound::Base64(data.into())));
    }
    let Ok(fields) = serde_json::from_slice::<Fields<'_>>(text) else { return (None, Event::Other) };
    let event = match fields.kind.as_ref().map(|kind| &*kind.0) {
        Some(b"chunk") => fields.data.map_or(Event::Other, |data| Event::Audio(Sound::Base64(data.0))),
        Some(b"done") => Event::Done,
        Some(b"error") => Event::Error,
        _ => Event::Other,
    };
    (fields.label.map(|label| label.0), event)
}
