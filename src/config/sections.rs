//! What can be configured: one struct a table of `proxy.toml`, one field a key. What a key is when nothing is said
//! and how far it may go are in `defaults` and `bounds`.
//! The first line of a field's comment is the key's description in the JSON schema.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::bounds::{
    BODY_BYTES_MAX, CONCURRENCY_MAX, CONNECTIONS_MAX, CONTEXTS_MAX, HEAD_BYTES_MAX, HEAD_BYTES_MIN,
    HEADERS_MAX, HELD_BYTES_MAX, LIST_MAX, MESSAGE_BYTES_MAX, POOL_IDLE_MAX, QUEUE_MAX,
};
use super::values::{
    DurationText, EngineUrl, ForwardedHeaders, FullStatus, LogFilter, LogFormat, QueueWaitMax, Surface,
    Threads, WhenFull, serialize_duration,
};
use crate::target::Target;

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

/// `[runtime]`: the process itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Worker threads.
    pub threads: Threads,
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
    /// How long after `cancel` or `clear` a synthesis keeps its slot at least if the engine says nothing more.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub clear_release: Duration,
    /// Legacy binary protocol: a synthesis is over when the engine has sent nothing for so long.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub binary_quiet: Duration,
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

/// `[admin]`: the operator's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address of `GET /status` and `PUT /limit`. Whoever reaches it can change the limit.
    pub address: SocketAddr,
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
