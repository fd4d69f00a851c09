//! The simulated engine's WebSockets over loopback: each protocol is spoken as its callers know it, and every
//! synthesis on it is counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod handshake;
mod hostile;
mod legacy;
mod v1;
