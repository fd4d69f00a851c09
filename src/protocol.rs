//! Decides what a request is, from its head and from the three body fields that metering needs. Never rewrites
//! a byte of it, never waits.

pub mod arriving;
mod flat;
pub mod grpc;
pub mod headers;
pub mod spelling;
pub mod websocket;

use std::borrow::Cow;

use http::header::UPGRADE;
use http::{Method, Request, Version};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::config::Surface;

/// What a request is to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One unit of engine work: it needs a slot.
    Synthesis,
    /// A WebSocket: no unit of work itself, it carries some.
    Socket(Socket),
    /// Everything else: never queued, never counted.
    PassThrough,
}

/// What is spoken on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Contexts, each a synthesis, in JSON or protobuf.
    V1,
    /// The legacy JSON protocol.
    Json,
    /// The legacy binary protocol: bare text in, bare sound out.
    Binary,
}

/// What the requests of one listener are.
#[derive(Clone, Debug)]
pub struct Recognition {
    surface: Surface,
    synthesis_paths: Vec<String>,
}

impl Recognition {
    /// For a listener that stands for `surface`.
    #[must_use]
    pub fn new(surface: Surface, synthesis_paths: &[String]) -> Self {
        Self { surface, synthesis_paths: synthesis_paths.iter().map(|path| normalised(path)).collect() }
    }

    /// Tells a synthesis, a `POST` to one of the synthesis paths, and a WebSocket from the rest.
    ///
    /// The comparison is on the path's meaning, not on its spelling: an engine whose router decodes `%69` or folds
    /// `//` would otherwise serve syntheses that the gate took for something else. Taking too much for a synthesis
    /// costs a slot; taking too little breaks the limit. So an upgrade that is none of the known sockets is no upgrade.
    #[must_use]
    pub fn of<B>(&self, request: &Request<B>) -> Kind {
        let path = request.uri().path();
        let legacy = !matches!(self.surface, Surface::Http | Surface::Grpc);
        // Where every path is a socket's, so is a `POST` that asks for one; `armchair` does.
        if !legacy && self.is_synthesis(request.method(), path) {
            return Kind::Synthesis;
        }
        if asks_for_a_socket(request)
            && let Some(socket) = self.socket(path)
        {
            return Kind::Socket(socket);
        }
        if legacy && self.is_synthesis(request.method(), path) { Kind::Synthesis } else { Kind::PassThrough }
    }

    fn is_synthesis(&self, method: &Method, path: &str) -> bool {
        let known = |path: &str| self.synthesis_paths.iter().any(|known| known == path);
        method.as_str().eq_ignore_ascii_case("POST")
            && (known(path) || (!is_plain(path) && known(&normalised(path))))
    }

    fn socket(&self, path: &str) -> Option<Socket> {
        match (self.surface, normalised(path).as_str()) {
            (Surface::Http, "/ws") => Some(Socket::V1),
            (Surface::Http, "/ws2" | "/ws3") | (Surface::WsJson, _) => Some(Socket::Json),
            (Surface::WsBinary, _) => Some(Socket::Binary),
            (Surface::Http | Surface::Grpc, _) => None,
        }
    }
}

/// Whether a request asks to become a WebSocket (RFC 6455 section 4.1). By `POST` too: `armchair` upgrades that way.
fn asks_for_a_socket<B>(request: &Request<B>) -> bool {
    let asked = request.headers().get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    request.version() == Version::HTTP_11
        && asked.flat_map(|list| list.split(',')).any(|one| one.trim().eq_ignore_ascii_case("websocket"))
}

/// Whether the path is its own normal form, so that comparing it as it stands is enough.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let doubled = bytes.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    !doubled && !bytes.contains(&b'%') && (bytes.len() <= 1 || bytes.last() != Some(&b'/'))
}

/// Percent-decoded, without empty, `.` and `..` segments and without a trailing slash (RFC 3986 section 6.2.2).
#[must_use]
pub fn normalised(path: &str) -> String {
    let decoded = percent_decoded(path.as_bytes());
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn percent_decoded(path: &[u8]) -> String {
    let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The fields of a synthesis body that metering needs; every other field is the engine's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speech<'a> {
    /// `modelId`.
    pub model: Option<Cow<'a, str>>,
    /// `samplingRate`, in Hz.
    pub rate: Option<u32>,
    /// `audioFormat`, where a body names it.
    pub format: Option<Cow<'a, str>>,
}

impl<'a> Speech<'a> {
    /// Reads a JSON body. What is not JSON, or has these fields in another type, tells nothing: the engine, not
    /// the gate, judges a body.
    #[must_use]
    pub fn from_json(body: &'a [u8]) -> Self {
        let flat = flat::members(body, ["modelId", "samplingRate", "audioFormat"]);
        flat.and_then(Self::from_members).unwrap_or_else(|| Self::from_any_json(body))
    }

    /// `None` where the rate needs a real parser.
    fn from_members([model, rate, format]: [Option<flat::Value<'a>>; 3]) -> Option<Self> {
        let text = |value: Option<flat::Value<'a>>| match value {
            Some(flat::Value::String(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        };
        let rate = match rate {
            Some(flat::Value::Number(digits)) => Some(std::str::from_utf8(digits).ok()?.parse::<u32>().ok()?),
            rate => text(rate).and_then(|text| text.parse().ok()),
        };
        Some(Self { model: text(model).map(Cow::Borrowed), rate, format: text(format).map(Cow::Borrowed) })
    }

    fn from_any_json(body: &'a [u8]) -> Self {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow, default, rename = "modelId")]
            model: Field<'a>,
            #[serde(borrow, default, rename = "samplingRate")]
            rate: Field<'a>,
            #[serde(borrow, default, rename = "audioFormat")]
            format: Field<'a>,
        }
        let Ok(fields) = serde_json::from_slice::<Fields<'a>>(body) else { return Self::default() };
        Self { model: fields.model.text(), rate: fields.rate.whole(), format: fields.format.text() }
    }
}

/// A JSON value of any type, kept where it is a text or a whole number.
#[derive(Default)]
enum Field<'a> {
    Text(Cow<'a, str>),
    Whole(u64),
    #[default]
    Other,
}

impl<'a> Field<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn whole(&self) -> Option<u32> {
        match self {
            Self::Whole(number) => u32::try_from(*number).ok(),
            // The API container's callers sometimes send numbers as text.
            Self::Text(text) => text.parse().ok(),
            Self::Other => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Field::Whole(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        // 24000.0 is a whole number to every JSON writer that has only floats.
        Ok(format!("{number}").parse().map_or(Field::Other, Field::Whole))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognise(surface: Surface, method: &str, path: &str, upgrade: Option<&str>) -> Kind {
        let paths = ["/", "/invocations", "/v1/rime-tts"].map(String::from);
        let mut request = Request::builder().method(method).uri(path);
        if let Some(upgrade) = upgrade {
            request = request.header(UPGRADE, upgrade);
        }
        Recognition::new(surface, &paths).of(&request.body(()).unwrap())
    }

    fn http(method: &str, path: &str) -> Kind {
        recognise(Surface::Http, method, path, None)
    }

    #[test]
    fn a_post_to_a_synthesis_path_needs_a_slot_however_it_is_spelled() {
        for path in [
            "/",
            "/invocations",
            "/v1/rime-tts",
            "/invocations/",
            "//invocations",
            "/./invocations",
            "/x/../invocations",
            "/%69nvocations",
            "/v1%2Frime-tts",
            "/v1/rime%2Dtts",
            "//",
            "/..",
        ] {
            assert_eq!(http("POST", path), Kind::Synthesis, "{path}");
            let upgraded = recognise(Surface::Http, "POST", path, Some("websocket"));
            assert_eq!(
                upgraded,
                Kind::Synthesis,
                "{path}: an engine that ignores the upgrade speaks at once"
            );
        }
    }

    #[test]
    fn everything_else_passes_through() {
        for path in ["/health", "/invocations2", "/v1", "/%", "/%6", "/%zz", "/Invocations", "/ws"] {
            assert_eq!(http("POST", path), Kind::PassThrough, "{path}");
        }
        assert_eq!(http("GET", "/"), Kind::PassThrough);
        assert_eq!(http("post", "/"), Kind::Synthesis, "an engine may not mind the case");
        assert_eq!(http("HEAD", "/invocations"), Kind::PassThrough);
        assert_eq!(http("OPTIONS", "*"), Kind::PassThrough);
    }

    #[test]
    fn a_socket_is_told_by_its_surface_and_path_and_by_post_too() {
        use Socket::{Binary, Json, V1};
        for (surface, path, socket) in [
            (Surface::Http, "/ws", Some(V1)),
            (Surface::Http, "//w%73/?a=1", Some(V1)),
            (Surface::Http, "/ws3?speaker=cove", Some(Json)),
            (Surface::Http, "/ws2", Some(Json)),
            (Surface::Http, "/other", None),
            (Surface::WsJson, "/", Some(Json)),
            (Surface::WsJson, "/ws", Some(Json)),
            (Surface::WsJson, "/ws2?a", Some(Json)),
            (Surface::WsBinary, "/", Some(Binary)),
            (Surface::Grpc, "/ws", None),
        ] {
            for (method, upgrade) in [("GET", "websocket"), ("POST", "h2c, WebSocket")] {
                let kind = recognise(surface, method, path, Some(upgrade));
                assert_eq!(kind, socket.map_or(Kind::PassThrough, Kind::Socket), "{surface:?} {path}");
            }
            assert_ne!(recognise(surface, "GET", path, None), Kind::Socket(V1));
            assert_eq!(recognise(surface, "GET", path, Some("h2c")), Kind::PassThrough);
        }
    }

    #[test]
    fn a_body_tells_its_model_rate_and_format_and_nothing_else_matters() {
        let body = br#"{"text":"hi","modelId":"coda","samplingRate":16000,"audioFormat":"mp3","speaker":null,"x":{"y":[1]}}"#;
        let speech = Speech::from_json(body);
        assert_eq!(speech.model.as_deref(), Some("coda"));
        assert_eq!((speech.rate, speech.format.as_deref()), (Some(16000), Some("mp3")));
    }

    #[test]
    fn odd_values_tell_nothing_and_hide_nothing() {
        let speech =
            Speech::from_json(br#"{"modelId":["coda"],"samplingRate":"24000","audioFormat":{"a":1}}"#);
        assert_eq!(speech, Speech { model: None, rate: Some(24000), format: None });
        let speech = Speech::from_json(br#"{"modelId":"c\u006fda","samplingRate":22050.0}"#);
        assert_eq!((speech.model.as_deref(), speech.rate), (Some("coda"), Some(22050)));
        for rate in ["-1", "1e300", "null", "true", "1.5"] {
            let body = format!(r#"{{"modelId":"coda","samplingRate":{rate}}}"#);
            let speech = Speech::from_json(body.as_bytes());
            assert_eq!((speech.model.as_deref(), speech.rate), (Some("coda"), None), "{rate}");
        }
        for body in [&b""[..], b"[]", b"{", b"text", b"{\"modelId\":", b"\xff\xfe"] {
            assert_eq!(Speech::from_json(body), Speech::default());
        }
    }
}
