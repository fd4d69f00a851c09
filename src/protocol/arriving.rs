//! What a caller's connection hands on with a request: its body, and what the head does not tell.

use std::sync::Arc;

use super::headers::Peer;
use super::spelling::Spelling;

/// The body of a request that comes in, who sends it, and how the head was spelled.
#[derive(Debug)]
pub struct Arriving<B> {
    /// As it arrives.
    pub body: B,
    /// Who sends it.
    pub peer: Arc<Peer>,
    /// `None` where names have no case (HTTP/2), or nobody knows it.
    pub spelling: Option<Spelling>,
}
