//! What can be configured: one struct a table of `proxy.toml`, one field a key, and every default.
//! The first line of a field's comment is the key's description in the JSON schema.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;
use http::uri::Authority;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::parse::LIST_MAX;
use super::values::{
    DurationText, EngineUrl, ForwardedHeaders, FullStatus, LogFilter, LogFormat, QueueWaitMax, Surface,
    Threads, WhenFull, serialize_duration,
};
use crate::target::Target;

/// Most syntheses at once in one engine.
pub const CONCURRENCY_MAX: u64 = 65_535;
/// Most unused connections to the engine per worker thread.
pub const POOL_IDLE_MAX: u64 = 65_535;
/// Most syntheses waiting for a slot.
pub const QUEUE_MAX: u64 = 65_535;
/// Most open connections of all callers together.
pub const CONNECTIONS_MAX: u64 = 1_000_000;
/// Smallest bound on a request's head: the HTTP parser's buffer is not smaller.
pub const HEAD_BYTES_MIN: u64 = 8_192;
/// Greatest bound on a request's head.
pub const HEAD_BYTES_MAX: u64 = 1 << 20;
/// Greatest bound on the number of header fields.
pub const HEADERS_MAX: u64 = 1_024;
/// Greatest bound on a synthesis request's body.
pub const BODY_BYTES_MAX: u64 = 64 << 20;
/// Greatest bound on a caller's WebSocket message.
pub const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// Most contexts of one WebSocket that are open at once.
pub const CONTEXTS_MAX: u64 = 65_535;
/// Greatest bound on what is held for one synthesis on a WebSocket that has no slot yet.
pub const HELD_BYTES_MAX: u64 = 64 << 20;

/// Everything a gate needs to know before it starts.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "proxy.toml of rime-gate")]
pub struct Config {
    /// The process itself.
    pub runtime: Runtime,
    /// Where callers come in: at least one, no two on the same address.
    #[serde(rename = "listener")]
    #[schemars(length(max = LIST_MAX))]
    pub listeners: Vec<Listener>,
    /// The engine behind the gate.
    #[serde(serialize_with = "one_element")]
    #[schemars(with = "[Engine; 1]")]
    pub engine: Engine,
    /// Who is let in, who waits, who is refused.
    pub admission: Admission,
    /// Bounds on what a caller may send and how long it may take.
    pub limits: Limits,
    /// What holds for WebSockets, whichever protocol they speak.
    pub websocket: WebSocket,
    /// What the gate adds to a request on its way to the engine.
    pub forwarding: Forwarding,
    /// What the gate promises its callers.
    pub target: TargetSection,
    /// The read-only address: `/metrics`, `/livez`, `/readyz`.
    pub metrics: Metrics,
    /// The operator's address: status and the live limit.
    pub admin: Admin,
    /// What the gate says about itself.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: Runtime::default(),
            listeners: vec![Listener::default()],
            engine: Engine::default(),
            admission: Admission::default(),
            limits: Limits::default(),
            websocket: WebSocket::default(),
            forwarding: Forwarding::default(),
            target: TargetSection::default(),
            metrics: Metrics::default(),
            admin: Admin::default(),
            log: Log::default(),
        }
    }
}

/// `[runtime]`: the process itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Worker threads.
    pub threads: Threads,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { threads: Threads::Auto }
    }
}

/// `[[listener]]`: one door for callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Address and port to listen on.
    pub address: SocketAddr,
    /// Which of the engine's doors this one stands for.
    pub surface: Surface,
    /// Paths whose POST is a synthesis; everything else passes through, never queued.
    #[schemars(length(min = 1, max = LIST_MAX))]
    pub synthesis_paths: Vec<String>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8800)),
            surface: Surface::Http,
            synthesis_paths: ["/", "/invocations", "/v1/rime-tts"].map(String::from).to_vec(),
        }
    }
}

/// `[[engine]]`: the engine behind the gate. Exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Name of the engine in metrics and logs.
    pub name: String,
    /// Where the engine serves HTTP and WebSocket v1.
    pub http: EngineUrl,
    /// Where the engine serves gRPC; used where a listener has the surface `grpc`.
    pub grpc: EngineUrl,
    /// Where the API container serves the legacy JSON WebSocket; used where a listener has the surface `ws-json`.
    pub ws_json: EngineUrl,
    /// Where the API container serves the legacy binary WebSocket; used where a listener has the surface `ws-binary`.
    pub ws_binary: EngineUrl,
    /// The limit: how many syntheses run in the engine at once.
    #[schemars(range(min = 1, max = CONCURRENCY_MAX))]
    pub concurrency_max: NonZeroU32,
    /// Longest wait for a TCP connection to the engine.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// Longest wait from dispatch to the head of the engine's answer.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub first_byte_timeout: Duration,
    /// Longest silence of the engine in the middle of an answer.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub stall_timeout: Duration,
    /// How long an unused connection to the engine is kept.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub pool_idle_timeout: Duration,
    /// Unused connections to the engine kept per worker thread.
    #[schemars(range(max = POOL_IDLE_MAX))]
    pub pool_idle_max: usize,
    /// Path of the engine's health check; any answer below 500 counts as up.
    pub health_path: String,
    /// Pause between two health checks.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub health_interval: Duration,
    /// Longest wait for the answer to a health check.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub health_timeout: Duration,
    /// How long a cancelled synthesis keeps its slot, for the engine to notice.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub cancel_linger: Duration,
    /// How the limit was found.
    #[serde(skip_serializing_if = "Tuned::is_empty")]
    pub tuned: Tuned,
}

/// `[engine.tuned]`: how the limit was found; written by `rime-gate tune`. Every key may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tuned {
    /// The greatest number in flight that was proved to keep the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = CONCURRENCY_MAX))]
    pub level: Option<NonZeroU32>,
    /// The target that it was proved for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub target: Option<Target>,
    /// The model that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub model: Option<String>,
    /// The engine's image, with its tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub image: Option<String>,
    /// The GPU that it ran on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub gpu: Option<String>,
    /// The engine's variables, each as `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = LIST_MAX))]
    pub variables: Vec<String>,
    /// The 99th percentile of TTFB at that level.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_duration")]
    #[schemars(with = "DurationText")]
    pub ttfb: Option<Duration>,
    /// The 99th percentile of RTF at that level.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64")]
    pub rtf: Option<f64>,
    /// Syntheses that the proof rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub samples: Option<u64>,
    /// How certain the proof is, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64")]
    pub confidence: Option<f64>,
    /// When it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub date: Option<String>,
    /// The version of the tool that measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub tool_version: Option<String>,
}

impl Tuned {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            name: "engine".to_owned(),
            http: EngineUrl::of(Authority::from_static("127.0.0.1:8080")),
            grpc: EngineUrl::of(Authority::from_static("127.0.0.1:7463")),
            ws_json: EngineUrl::of(Authority::from_static("127.0.0.1:8003")),
            ws_binary: EngineUrl::of(Authority::from_static("127.0.0.1:8002")),
            concurrency_max: const { NonZeroU32::new(32).unwrap() },
            connect_timeout: Duration::from_secs(1),
            first_byte_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(30),
            pool_idle_max: 64,
            health_path: "/readyz".to_owned(),
            health_interval: Duration::from_secs(2),
            health_timeout: Duration::from_secs(1),
            cancel_linger: Duration::from_millis(100),
            tuned: Tuned::default(),
        }
    }
}

/// `[admission]`: who is let in, who waits, who is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// What happens to a synthesis when every slot is taken.
    pub when_full: WhenFull,
    /// How many syntheses may wait for a slot.
    #[schemars(range(max = QUEUE_MAX))]
    pub queue_max: usize,
    /// How long a synthesis may wait for a slot.
    pub queue_wait_max: QueueWaitMax,
    /// Status of a refusal for want of a slot.
    pub status_when_full: FullStatus,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            when_full: WhenFull::Queue,
            queue_max: 64,
            queue_wait_max: QueueWaitMax::Auto,
            status_when_full: FullStatus::TooManyRequests,
        }
    }
}

/// `[limits]`: bounds on what a caller may send and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections of all callers together.
    #[schemars(range(min = 1, max = CONNECTIONS_MAX))]
    pub connections_max: usize,
    /// Bytes of a request line and its headers.
    #[schemars(range(min = HEAD_BYTES_MIN, max = HEAD_BYTES_MAX))]
    pub head_bytes_max: usize,
    /// Number of header fields in a request.
    #[schemars(range(min = 1, max = HEADERS_MAX))]
    pub headers_max: usize,
    /// Longest time from the first byte of a request's head to its last.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub header_timeout: Duration,
    /// Bytes of a synthesis request's body.
    #[schemars(range(min = 1, max = BODY_BYTES_MAX))]
    pub body_bytes_max: usize,
    /// Longest time from the end of a synthesis request's head to the end of its body.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub body_timeout: Duration,
    /// How long a kept-alive connection may stay without a request.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub idle_timeout: Duration,
    /// Longest time that a caller may read nothing of its answer.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub caller_stall_timeout: Duration,
    /// Longest time from SIGTERM to the end of the last synthesis.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            head_bytes_max: 65_536,
            headers_max: 100,
            header_timeout: Duration::from_secs(10),
            body_bytes_max: 1_048_576,
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(330),
            caller_stall_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// `[websocket]`: what holds for WebSockets, whichever protocol they speak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    /// Open WebSockets of all callers together; no synthesis is counted by it.
    #[schemars(range(min = 1, max = CONNECTIONS_MAX))]
    pub sockets_max: usize,
    /// Bytes of one message from a caller.
    #[schemars(range(min = 1, max = MESSAGE_BYTES_MAX))]
    pub message_bytes_max: usize,
    /// Contexts of one v1 socket that are open at once, running and waiting.
    #[schemars(range(min = 1, max = CONTEXTS_MAX))]
    pub contexts_max: usize,
    /// Bytes of text held for one synthesis that has no slot yet.
    #[schemars(range(min = 1, max = HELD_BYTES_MAX))]
    pub held_bytes_max: usize,
    /// Silence of a caller after which it is asked whether it is still there.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub ping_interval: Duration,
    /// Longest wait for the answer to such a question.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub pong_timeout: Duration,
    /// How long after `cancel` or `clear` a synthesis keeps its slot if the engine says nothing more.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub clear_release: Duration,
    /// Legacy binary protocol: a synthesis is over when the engine has sent nothing for so long.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub binary_quiet: Duration,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            sockets_max: 16_384,
            message_bytes_max: 1_048_576,
            contexts_max: 64,
            held_bytes_max: 65_536,
            ping_interval: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(10),
            clear_release: Duration::from_millis(500),
            binary_quiet: Duration::from_secs(2),
        }
    }
}

/// `[forwarding]`: what the gate adds to a request on its way to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarding {
    /// Which headers tell the engine who the caller is.
    pub forwarded_headers: ForwardedHeaders,
    /// Whether to append to what the caller sent in those headers; otherwise it is replaced.
    pub trust_incoming: bool,
    /// Pseudonym in `Via` (RFC 9110 section 7.6.3); `None`, in the file an empty string, sends no `Via`.
    #[serde(serialize_with = "empty_for_none")]
    #[schemars(with = "String")]
    pub via: Option<String>,
    /// Header of the request id: kept when the caller sent one, made otherwise.
    #[serde(serialize_with = "header_name")]
    #[schemars(with = "String")]
    pub request_id_header: HeaderName,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            forwarded_headers: ForwardedHeaders::XForwarded,
            trust_incoming: false,
            via: Some("rime-gate".to_owned()),
            request_id_header: HeaderName::from_static("x-request-id"),
        }
    }
}

/// `[target]`: what the gate promises its callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TargetSection {
    /// The target that the limit was tuned for.
    #[schemars(with = "String")]
    pub slo: Target,
    /// How long after the first audio byte a caller begins to play.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub client_buffer: Duration,
}

/// `[metrics]`: the read-only address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub address: SocketAddr,
    /// Values that the `model` label may take; any other model is `other`.
    #[schemars(length(max = LIST_MAX))]
    pub models: Vec<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9464)),
            models: ["arcana", "coda", "mist", "mistv2", "mistv3"].map(String::from).to_vec(),
        }
    }
}

/// `[admin]`: the operator's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address of `GET /status` and `PUT /limit`. Whoever reaches it can change the limit.
    pub address: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9465)) }
    }
}

/// `[log]`: what the gate says about itself, on standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Which events are logged.
    pub level: LogFilter,
    /// How a line looks.
    pub format: LogFormat,
}

fn one_element<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    [value].serialize(serializer)
}

// serde hands over a reference to the field, whatever its type.
#[allow(clippy::ref_option)]
fn empty_for_none<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_deref().unwrap_or_default())
}

// As above.
#[allow(clippy::ref_option)]
fn optional_duration<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serialize_duration(&value.unwrap_or_default(), serializer)
}

fn header_name<S: Serializer>(value: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_str())
}
