//! Reads v1's messages as an engine would, and writes the few that are the gate's own.
//!
//! A caller's text message is protobuf JSON and its binary message is protobuf, whatever the subprotocol; an engine
//! answers in the subprotocol's encoding. Callers' messages are small and rare, so they are parsed whole. What an
//! engine says is only looked through: its audio is neither decoded nor copied.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, skip_field};
use rimelabs_api::web_socket_request::Payload as Request;
use rimelabs_api::web_socket_response::Payload as Response;
use rimelabs_api::{
    AudioParameters, WebSocketCancelled, WebSocketError, WebSocketRequest, WebSocketResponse,
};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::super::Message;
use super::super::reading::{Raw, Sound};
use super::Encoding;
use crate::protocol::flat;
use crate::refusal::Reason;

/// The context that an empty `contextId` names.
pub(super) const DEFAULT_CONTEXT: &str = "default";

/// What a caller's message means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// Parameters merged under every `start`, field by field: `audio_parameters` is one field.
    Config(Option<AudioParameters>),
    Start {
        context: Box<str>,
        /// All the text is here: the engine takes no more.
        one_shot: bool,
        audio: Option<AudioParameters>,
    },
    Text {
        context: Box<str>,
        /// Nothing in it can be spoken.
        blank: bool,
    },
    End(Box<str>),
    Cancel(Box<str>),
    /// It starts and ends nothing.
    Other,
    /// Engines may take it for this or that, perhaps for a `start`.
    Unclear,
}

/// What an engine's message means.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heard<'a> {
    /// Empty: the connection.
    pub(super) context: Cow<'a, str>,
    pub(super) event: Event<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event<'a> {
    Started,
    Audio(Sound<'a>),
    Done,
    Cancelled,
    Error,
    Other,
}

pub(super) fn said(message: &Message) -> Said {
    match message {
        Message::Text(text) => said_json(text),
        Message::Binary(bytes) => said_protobuf(bytes),
    }
}

fn named(context: String) -> Box<str> {
    if context.is_empty() { DEFAULT_CONTEXT.into() } else { context.into() }
}

fn said_protobuf(bytes: &[u8]) -> Said {
    let Ok(request) = WebSocketRequest::decode(bytes) else {
        // An engine that minds less (about UTF-8, say) might yet see a start in it.
        return if has_field(bytes, 3) { Said::Unclear } else { Said::Other };
    };
    let context = named(request.context_id);
    match request.payload {
        None => Said::Other,
        Some(Request::Config(config)) => Said::Config(config.defaults.and_then(|of| of.audio_parameters)),
        Some(Request::Start(start)) => {
            Said::Start { context, one_shot: !start.text.is_empty(), audio: start.audio_parameters }
        }
        Some(Request::Text(text)) => Said::Text { context, blank: text.trim().is_empty() },
        Some(Request::End(_)) => Said::End(context),
        Some(Request::Cancel(_)) => Said::Cancel(context),
    }
}

/// Whether a length-delimited field of this number can be read before the message breaks.
fn has_field(mut bytes: &[u8], wanted: u32) -> bool {
    while let Ok((tag, kind)) = decode_key(&mut bytes) {
        if tag == wanted && kind == WireType::LengthDelimited {
            return true;
        }
        if skip_field(kind, tag, &mut bytes, prost::encoding::DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

/// The members of a JSON object in order, doubles included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
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

/// The protobuf JSON mapping, unknown members allowed: a newer engine may know them. It takes both spellings of a
/// name, and `null` for absent.
fn said_json(text: &[u8]) -> Said {
    let Ok(Members(members)) = serde_json::from_slice(text) else {
        // Some parsers take more than JSON. Without the word, or an escape that may hide it, it starts nothing.
        let hides_start = |part: &[u8]| part.starts_with(b"start") || part.starts_with(b"\\u");
        return if (0..text.len()).any(|at| hides_start(&text[at..])) { Said::Unclear } else { Said::Other };
    };
    let (mut context, mut payload) = (None, None);
    let (mut contexts, mut payloads) = (0, 0);
    for (name, value) in members {
        match &*name {
            "contextId" | "context_id" => {
                contexts += 1;
                context = Some(value);
            }
            "config" | "start" | "text" | "end" | "cancel" if !value.is_null() => {
                payloads += 1;
                payload = Some((name, value));
            }
            _ => {}
        }
    }
    let context = match context {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(context)) => Some(context),
        Some(_) => None,
    };
    let Some((name, value)) = payload else { return Said::Other };
    let (Some(context), true) = (context, contexts <= 1 && payloads == 1) else { return Said::Unclear };
    let context = named(context);
    match (&*name, value) {
        ("config", config) => Said::Config(config.get("defaults").and_then(audio_parameters)),
        ("start", start) => {
            let one_shot = start.get("text").is_some_and(|text| text.as_str() != Some("") && !text.is_null());
            Said::Start { context, one_shot, audio: audio_parameters(&start) }
        }
        ("text", Value::String(text)) => Said::Text { context, blank: text.trim().is_empty() },
        ("end", _) => Said::End(context),
        ("cancel", _) => Said::Cancel(context),
        _ => Said::Unclear,
    }
}

/// `audioParameters` of a synthesis request. Numbers may be written as text.
fn audio_parameters(request: &Value) -> Option<AudioParameters> {
    let either = |of: &Value, camel: &str, snake: &str| of.get(camel).or_else(|| of.get(snake)).cloned();
    let audio = either(request, "audioParameters", "audio_parameters").filter(|audio| !audio.is_null())?;
    let number = |value: Value| match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_f64().map(|rate| {
            // Rates are small whole numbers; anything else ends as a rate that is not believed.
            #[allow(clippy::cast_possible_truncation)]
            let rate = rate as i32;
            rate
        }),
    };
    Some(AudioParameters {
        audio_format: either(&audio, "audioFormat", "audio_format")
            .and_then(|format| format.as_str().map(str::to_owned)),
        sampling_rate: either(&audio, "samplingRate", "sampling_rate").and_then(number),
        time_scale_factor: None,
    })
}

/// `None`: it is not one of the protocol's messages.
pub(super) fn heard(message: &Message) -> Option<Heard<'_>> {
    match message {
        Message::Text(text) => heard_json(text),
        Message::Binary(bytes) => heard_protobuf(bytes),
    }
}

fn heard_protobuf(mut bytes: &[u8]) -> Option<Heard<'_>> {
    let (mut context, mut event) = ("", Event::Other);
    while !bytes.is_empty() {
        let (tag, kind) = decode_key(&mut bytes).ok()?;
        if kind != WireType::LengthDelimited {
            skip_field(kind, tag, &mut bytes, prost::encoding::DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
        let (value, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        match tag {
            1 => context = std::str::from_utf8(value).ok()?,
            2 => event = Event::Other,
            3 => event = Event::Started,
            4 => event = Event::Audio(Sound::Plain(value)),
            5 => event = Event::Done,
            6 => event = Event::Cancelled,
            7 => event = Event::Error,
            _ => {}
        }
    }
    Some(Heard { context: context.into(), event })
}

fn heard_json(text: &[u8]) -> Option<Heard<'_>> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default, rename = "contextId", alias = "context_id")]
        context: Option<Raw<'a>>,
        #[serde(borrow, default)]
        audio: Option<Raw<'a>>,
        started: Option<IgnoredAny>,
        done: Option<IgnoredAny>,
        cancelled: Option<IgnoredAny>,
        error: Option<IgnoredAny>,
    }
    // Most messages are sound. A payload beside it would be nested, and so not flat.
    if let Some([context, snake, Some(audio)]) = flat::strings(text, ["contextId", "context_id", "audio"])
        && (context.is_none() || snake.is_none())
    {
        let context = std::str::from_utf8(context.or(snake).unwrap_or_default()).ok()?;
        return Some(Heard { context: context.into(), event: Event::Audio(Sound::Base64(audio.into())) });
    }
    let fields = serde_json::from_slice::<Fields<'_>>(text).ok()?;
    let context = match fields.context.map(|context| context.0) {
        None => Cow::Borrowed(""),
        Some(Cow::Borrowed(context)) => Cow::Borrowed(std::str::from_utf8(context).ok()?),
        Some(Cow::Owned(context)) => Cow::Owned(String::from_utf8(context).ok()?),
    };
    let event = match () {
        () if fields.audio.is_some() => Event::Audio(Sound::Base64(fields.audio?.0)),
        () if fields.done.is_some() => Event::Done,
        () if fields.cancelled.is_some() => Event::Cancelled,
        () if fields.error.is_some() => Event::Error,
        () if fields.started.is_some() => Event::Started,
        () => Event::Other,
    };
    Some(Heard { context, event })
}

/// The confirmation of a `cancel`.
pub(super) fn cancelled(encoding: Encoding, context: &str) -> Message {
    written(encoding, context, Response::Cancelled(WebSocketCancelled {}))
}

/// An error; of the connection where `context` is empty.
pub(super) fn error(encoding: Encoding, context: &str, kind: &str, message: &str) -> Message {
    let error = WebSocketError { kind: kind.to_owned(), message: message.to_owned(), request_id: None };
    written(encoding, context, Response::Error(error))
}

/// A refusal, its `kind` as Rime's clients map it.
pub(super) fn refused(encoding: Encoding, context: &str, reason: Reason) -> Message {
    let kind = match reason {
        Reason::BodyTooLarge => "resource_exhausted",
        reason if reason.is_full() => "resource_exhausted",
        _ => "unavailable",
    };
    error(encoding, context, kind, reason.answer().text)
}

fn written(encoding: Encoding, context: &str, payload: Response) -> Message {
    let response = WebSocketResponse { context_id: context.to_owned(), payload: Some(payload) };
    match encoding {
        Encoding::Binary => Message::Binary(Bytes::from(response.encode_to_vec())),
        Encoding::Json => {
            // Writing into memory a value without maps or floats cannot fail.
            Message::Text(serde_json::to_vec(&response).unwrap_or_default().into())
        }
    }
}

/// A `cancel` toward the engine, which takes either encoding: the connection's is used.
pub(super) fn cancel(encoding: Encoding, context: &str) -> Message {
    let cancel = Request::Cancel(rimelabs_api::WebSocketCancel {});
    let request = WebSocketRequest { context_id: context.to_owned(), payload: Some(cancel) };
    match encoding {
        Encoding::Binary => Message::Binary(Bytes::from(request.encode_to_vec())),
        Encoding::Json => Message::Text(serde_json::to_vec(&request).unwrap_or_default().into()),
    }
}
