//! HTTP/1.1 as the engine hears and speaks it: a request's bytes, an answer's head, and where its body ends (RFC 9112).
//! Pure: knows no connection and no clock, and decides nothing about either.

mod answer;
mod decoder;
mod head;
mod request;

use std::io;

use bytes::{Buf, Bytes};

pub(super) use answer::answer;
pub(super) use decoder::Decoder;
pub(super) use head::Head;
pub(super) use request::{Outgoing, Upload};

/// Bytes of an answer's head, of its trailers, and of the line before a chunk. The engine's own are a few hundred.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Fields of an answer's head, and of its trailers.
const HEADERS_MAX: usize = 100;

/// Why an answer, or the rest of one, does not come.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection failed.
    #[error("the connection to the engine failed")]
    Io(#[from] io::Error),
    /// The connection ended before the answer was complete (RFC 9112 section 8).
    #[error("the connection to the engine ended before its answer did")]
    Incomplete,
    /// What came is no HTTP/1 (RFC 9112 sections 4 and 5).
    #[error("the engine's answer is not HTTP/1")]
    Syntax(#[from] httparse::Error),
    /// A head, a line before a chunk or trailers of more than 64 KiB.
    #[error("the engine's answer has a head or a chunk line that is too long")]
    TooLong,
    /// Nobody can tell where the body ends (RFC 9112 sections 6.3 and 7.1).
    #[error("the engine's answer has no certain length: {0}")]
    Length(&'static str),
    /// A switch of protocols that was not asked for (RFC 9110 section 15.2.2).
    #[error("the engine switches protocols unasked")]
    Switched,
}

/// Goes past so many bytes. An emptied slice would hold on to all that was read for as long as somebody waits for more.
fn pass(unread: &mut Bytes, length: usize) {
    unread.advance(length);
    if unread.is_empty() {
        *unread = Bytes::new();
    }
}
