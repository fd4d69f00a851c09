//! The admission gate for Rime's on-prem speech engine.
//!
//! Too many syntheses at once and a text-to-speech engine falls behind real time for every caller together. The gate
//! stands in front of the engine and lets in at most the number that a benchmark proved, queues the rest for as long
//! as the target allows, refuses whoever would be late, and measures what callers hear.
//!
//! **The central promise: the slot lasts as long as the sound.** A slot is taken before the engine sees a synthesis
//! and given back when the engine has finished it: not at the response head, and never twice.
//!
//! # The life of a request
//!
//! 1. [`listener`] accepts a connection, tells HTTP/1.1 from h2c, and closes what is silent for too long.
//! 2. [`relay`] looks at the head: [`protocol`] tells a synthesis from the rest, and settles which headers travel on.
//!    The rest passes through, never queued.
//! 3. [`relay::upload`] reads a synthesis' body, so that a slow caller holds no slot.
//! 4. [`admission`] decides in one step: a slot, a place in the queue, or a [`refusal`]. Its policy is
//!    [`admission::scheduler`], a state machine without clock or tasks.
//! 5. [`engine`] sends the request on a connection that it keeps, and brings the answer's head.
//! 6. [`stream`] wraps the answer's body: the engine's bytes, the [`meter`] that times them by what [`audio`] reads in
//!    them, and the permit. It ends exactly once; then the slot is back and [`metrics`] has the figures.
//!
//! # The life of a WebSocket
//!
//! A socket is no synthesis: it carries some. [`relay::websocket`] opens the engine's socket for the caller's, and one task
//! reads messages at both ends. What a message means, [`protocol::websocket`] says, a state machine without sockets and
//! clock: this starts a synthesis, so ask for a slot and hold what follows; this is sound, so time it; this ends one, so give the
//! slot back. Steps 4 and 6 are then as above, for each synthesis of its own.
//!
//! # The life of a gRPC call
//!
//! As a request's, in rooms of its own: [`protocol::grpc`] tells by the path what a call is, [`relay::grpc`] waits for the
//! message, or for the first text that can be spoken, [`engine::grpc`] keeps HTTP/2 connections and opens a stream on one.
//! No message is re-encoded. The slot is back with the engine's trailers.
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | engine | the Rime model server, or API container, behind the gate |
//! | caller | whoever connects to the gate |
//! | synthesis | one unit of engine work, from accepted text to its last audio byte; what the limit counts |
//! | slot, permit | room for one synthesis; the value that holds it, and gives it back when dropped |
//! | limit | how many slots there are (`concurrency_max`) |
//! | refusal | an explicit answer to a synthesis that was not let in, with a reason |
//! | TTFB | arrival to first audio byte, the wait included; *upstream* TTFB starts at dispatch |
//! | RTF | (last byte - first byte) / audio duration, `armchair`'s definition; 1.0 is the edge of real time |
//! | underrun | playback, begun at the first audio byte, ran dry before the end; `armchair`'s simulation |
//!
//! # The rooms
//!
//! A room uses only rooms of its own level or below. The pure ones know no runtime, no sockets, no clock: time and bytes are
//! arguments. A test holds the direction.
//!
//! | level | rooms |
//! |---|---|
//! | commands | [`cli`], [`mod@bench`], [`tune`], [`demo`], [`gate`], [`check`] |
//! | doors | [`listener`], [`admin`], [`callers`], [`sim`] (the simulated engine) |
//! | the way | [`relay`], [`stream`] |
//! | means | [`admission`], [`engine`], [`metrics`] |
//! | pure | [`advice`], [`audio`], [`config`], [`meter`], [`protocol`], [`refusal`], [`slo`], [`target`] |

pub mod admin;
pub mod admission;
pub mod advice;
pub mod audio;
pub mod bench;
pub mod callers;
pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod engine;
pub mod gate;
pub mod listener;
pub mod meter;
pub mod metrics;
pub mod protocol;
pub mod refusal;
pub mod relay;
pub mod sim;
pub mod slo;
pub mod stream;
pub mod target;
pub mod tune;
