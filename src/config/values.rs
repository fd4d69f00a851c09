//! The values a key can take that are more than a number, a text or a duration.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use http::uri::{Authority, Scheme, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// How many worker threads the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// As many as there are cores, at most [`Threads::AUTO_MAX`].
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

impl Threads {
    /// More are of no use to one engine's traffic, and cost it cache.
    pub const AUTO_MAX: usize = 4;

    /// The greatest number that can be set.
    pub const COUNT_MAX: u64 = 256;

    /// The number of threads on a machine with `cores` cores; at least 1.
    #[must_use]
    pub fn count(self, cores: usize) -> usize {
        match self {
            Self::Auto => cores.clamp(1, Self::AUTO_MAX),
            Self::Count(count) => count.get(),
        }
    }
}

/// One of the engine's doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Surface {
    /// HTTP/1.1 and HTTP/2: one request is one synthesis. WebSocket v1 is at `/ws`, the legacy JSON ones at `/ws3`, `/ws2`.
    Http,
    /// gRPC over HTTP/2 without TLS.
    Grpc,
    /// The legacy JSON WebSocket, on any path.
    WsJson,
    /// The legacy binary WebSocket, on any path.
    WsBinary,
}

impl Surface {
    /// Every choice with its name in the file.
    pub const CHOICES: &'static [(&'static str, Self)] = &[
        ("http", Self::Http),
        ("grpc", Self::Grpc),
        ("ws-json", Self::WsJson),
        ("ws-binary", Self::WsBinary),
    ];

    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::CHOICES.iter().find(|(_, surface)| *surface == self).map_or("", |(name, _)| name)
    }
}

/// What happens to a synthesis when every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// It waits, for a bounded time, in a queue of bounded length.
    Queue,
    /// It is refused at once.
    Reject,
    /// It is let in: the limit is not enforced, only the number of syntheses in flight is written down.
    Observe,
}

impl WhenFull {
    /// Every choice with its name in the file.
    pub const CHOICES: &'static [(&'static str, Self)] =
        &[("queue", Self::Queue), ("reject", Self::Reject), ("observe", Self::Observe)];
}

/// How long a synthesis may wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueWaitMax {
    /// As long as the target's TTFB leaves, less what the engine itself has needed of late.
    Auto,
    /// So long.
    Fixed(Duration),
}

/// HTTP status of a refusal for want of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullStatus {
    /// 429.
    TooManyRequests,
    /// 503.
    ServiceUnavailable,
}

impl FullStatus {
    /// The status code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::TooManyRequests => 429,
            Self::ServiceUnavailable => 503,
        }
    }
}

/// Which headers tell the engine who the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeaders {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Both.
    Both,
    /// Neither is added; what the caller sent is not touched.
    Off,
}

impl ForwardedHeaders {
    /// Every choice with its name in the file.
    pub const CHOICES: &'static [(&'static str, Self)] = &[
        ("x-forwarded", Self::XForwarded),
        ("forwarded", Self::Forwarded),
        ("both", Self::Both),
        ("off", Self::Off),
    ];

    /// Whether `X-Forwarded-*` are written.
    #[must_use]
    pub const fn x_forwarded(self) -> bool {
        matches!(self, Self::XForwarded | Self::Both)
    }

    /// Whether `Forwarded` is written.
    #[must_use]
    pub const fn forwarded(self) -> bool {
        matches!(self, Self::Forwarded | Self::Both)
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Every choice with its name in the file.
    pub const CHOICES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// Where an engine serves one of its surfaces: `http://host:port`, nothing after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineUrl {
    authority: Authority,
}

impl EngineUrl {
    /// Host and port as written, for the `Host` header: `127.0.0.1:8080`.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host to resolve and connect to; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port to connect to; 80 when none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(80)
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// One line that says what a URL of an engine may be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the gate speaks plain HTTP to its engine: write `http://`".to_owned());
        }
        let no_url = || "expected `http://` and a host".to_owned();
        let parts = text.parse::<Uri>().map_err(|_| no_url())?.into_parts();
        let (Some(authority), true) = (parts.authority, parts.scheme == Some(Scheme::HTTP)) else {
            return Err(no_url());
        };
        if parts.path_and_query.is_some_and(|path| path.as_str() != "/") {
            return Err("an engine's URL has no path: callers bring their own".to_owned());
        }
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err("an engine's URL holds a host and a port, nothing else".to_owned());
        }
        let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err("the port is a number from 1 to 65535".to_owned());
        }
        Ok(Self { authority })
    }
}

impl EngineUrl {
    pub(super) const fn of(authority: Authority) -> Self {
        Self { authority }
    }
}

impl Serialize for EngineUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Threads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => count.serialize(serializer),
        }
    }
}

impl Serialize for QueueWaitMax {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(wait) => serialize_duration(wait, serializer),
        }
    }
}

impl Serialize for FullStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.code())
    }
}

impl Serialize for LogFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// As it is written in the file: `5m 30s`.
pub(super) fn serialize_duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}

macro_rules! schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// The schema of a duration.
pub(super) struct DurationText;

schema!(DurationText, "Duration", {
    "type": "string", "pattern": "^([0-9.]+ *[a-zA-Zµ]+ *)+$|^0$",
    "description": "A duration such as `500ms`, `1s` or `2m`."
});
schema!(Threads, "Threads", {
    "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": Self::COUNT_MAX }]
});
schema!(QueueWaitMax, "QueueWaitMax", {
    "type": "string", "pattern": "^auto$|^([0-9.]+ *[a-zA-Zµ]+ *)+$"
});
schema!(FullStatus, "FullStatus", { "type": "integer", "enum": [429, 503] });
schema!(EngineUrl, "EngineUrl", { "type": "string", "pattern": "^http://[^/@?#]+/?$" });
schema!(LogFilter, "LogFilter", {
    "type": "string",
    "pattern": "^(([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace)(,|$))+$"
});

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// A filter for log events: levels, each for all targets or for one, as in `info,rime_gate::admission=debug`.
/// Every such text is a directive of `tracing`'s `EnvFilter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The names of the levels, quietest first.
    pub const LEVELS: [&'static str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// Reads a filter: clauses `level` and `target=level`, with commas between.
    ///
    /// `EnvFilter` would take a misspelt level for the name of a target, and log all of that target or nothing.
    ///
    /// # Errors
    /// What stands where a level should, and its bytes in the text.
    pub fn parse(text: &str) -> Result<Self, (&str, Range<usize>)> {
        let mut start = 0;
        for clause in text.split(',') {
            let (target, level) = clause.split_once('=').unwrap_or(("rime_gate", clause));
            let is_target = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
            let target_is_wrong = target.is_empty() || !target.bytes().all(is_target);
            if target_is_wrong || !Self::LEVELS.contains(&level) {
                let wrong = if target_is_wrong { clause } else { level };
                let end = start + clause.len();
                return Err((wrong, end - wrong.len()..end));
            }
            start += clause.len() + 1;
        }
        Ok(Self(text.to_owned()))
    }

    /// The filter's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}
