//! The gate over loopback: its promise, what it relays, and what it does with HTTP that is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod edge;
mod promise;
mod promise_sockets;
mod relay;
mod sockets;
