//! The gate over loopback: its promise, what it relays, and what it does with HTTP that is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod common;
mod edge;
mod engine;
mod promise;
mod promise_sockets;
mod refusals;
mod relay;
mod sockets;
