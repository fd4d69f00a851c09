//! How far a value may go: what the file is read by and what its schema says. Knows no key's default.

use std::time::Duration;

/// No duration in a configuration is longer: what lasts a day is not a timeout.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a name that becomes a label value, a header value or a path.
pub const NAME_BYTES_MAX: usize = 128;
/// Elements of a list.
pub const LIST_MAX: usize = 64;
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
