//! Keeps each head of an HTTP/1 connection as it came: the parser hands on its fields, but not how their names were
//! spelled. Parses nothing; where it loses track, a head has no spelling.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use memchr::memchr_iter;

use crate::protocol::headers::BodyLength;
use crate::protocol::spelling::Spelling;

/// What the connection's bytes are, told by its reads and its requests.
#[derive(Debug)]
pub(super) struct Heads {
    state: Mutex<State>,
    /// More has come than the request that was taken last: the parser holds it, and reads nothing meanwhile.
    surplus: AtomicBool,
}

#[derive(Debug)]
enum State {
    /// A head, as far as it has come, and perhaps what follows it.
    Head(Vec<u8>),
    /// A body with so many bytes left.
    Body(u64),
    /// Nobody can tell until the connection is at rest.
    Lost,
    /// No head follows.
    Ended,
}

impl Heads {
    pub(super) const fn new() -> Self {
        Self { state: Mutex::new(State::Head(Vec::new())), surplus: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These bytes came. `at_rest`: they begin a head, if nothing else is known of them.
    pub(super) fn read(&self, mut bytes: &[u8], at_rest: bool) {
        let mut state = self.lock();
        match &mut *state {
            State::Lost if at_rest => *state = State::Head(Vec::new()),
            State::Body(left) => {
                let body = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= body as u64;
                bytes = &bytes[body..];
                if *left == 0 {
                    *state = State::Head(Vec::new());
                }
            }
            _ => {}
        }
        if let State::Head(head) = &mut *state {
            head.extend_from_slice(bytes);
        }
    }

    /// No head will follow: the connection speaks another protocol from now on.
    pub(super) fn end(&self) {
        *self.lock() = State::Ended;
    }

    /// Whether bytes came behind the request that was taken last.
    pub(super) fn have_surplus(&self) -> bool {
        self.surplus.load(Relaxed)
    }

    /// How the head with these `fields` was spelled: the first that came and was not taken.
    pub(super) fn take(&self, fields: &HeaderMap) -> Option<Spelling> {
        let mut state = self.lock();
        self.surplus.store(false, Relaxed);
        let State::Head(mut head) = std::mem::replace(&mut *state, State::Lost) else { return None };
        // Empty lines before a head are no part of it (RFC 9112 section 2.2).
        let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        head.drain(..start);
        let end = end(&head)?;
        let after = head.len() - end;
        let length = match BodyLength::of(fields) {
            BodyLength::Bytes(length) => Some(length),
            BodyLength::Unsaid => Some(0),
            BodyLength::Chunked => None,
        };
        if let Some(length) = length {
            *state = match usize::try_from(length) {
                Ok(length) if length <= after => State::Head(head.split_off(end + length)),
                _ => State::Body(length - after as u64),
            };
        }
        let surplus = matches!(&*state, State::Head(next) if !next.is_empty());
        self.surplus.store(surplus, Relaxed);
        head.truncate(end);
        Some(Spelling::new(head))
    }
}

/// Where a head ends. A line may end with a line feed alone (RFC 9112 section 2.2).
fn end(head: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', head).find_map(|at| match &head[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn host(spelling: Option<Spelling>) -> Option<String> {
        let spelling = spelling?;
        let mut names = spelling.names();
        names.of(&HeaderName::from_static("host")).map(|name| String::from_utf8_lossy(name).into_owned())
    }

    #[test]
    fn pipelined_heads_are_told_apart_by_the_bodies_between_them() {
        let heads = Heads::new();
        heads.read(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\nPOST / HT", true);
        heads.read(b"TP/1.1\r\nHOST: a\r\n\r\n", false);
        assert_eq!(host(heads.take(&fields(&[("content-length", "4")]))).unwrap(), "Host");
        assert!(heads.have_surplus());
        assert_eq!(host(heads.take(&fields(&[]))).unwrap(), "HOST");
        assert!(!heads.have_surplus());
        heads.read(b"\r\nGET / HTTP/1.1\nhosT: a\n\n", true);
        assert_eq!(host(heads.take(&fields(&[]))).unwrap(), "hosT");
    }

    #[test]
    fn a_head_behind_a_body_that_arrives_by_and_by_is_found() {
        let heads = Heads::new();
        heads.read(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n12", true);
        heads.take(&fields(&[("content-length", "6")]));
        heads.read(b"345", false);
        heads.read(b"6GET / HTTP/1.1\r\nHOst: a\r\n\r\n", true);
        assert_eq!(host(heads.take(&fields(&[]))).unwrap(), "HOst");
    }

    #[test]
    fn behind_a_body_of_unknown_length_only_rest_makes_a_head_certain() {
        let heads = Heads::new();
        heads.read(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", true);
        heads.take(&fields(&[("transfer-encoding", "chunked")]));
        heads.read(b"0\r\n\r\nGET / HTTP/1.1\r\nHOST: a\r\n\r\n", false);
        assert!(heads.take(&fields(&[])).is_none());
        heads.read(b"GET / HTTP/1.1\r\nHOST: a\r\n\r\n", true);
        assert_eq!(host(heads.take(&fields(&[]))).unwrap(), "HOST");
    }

    #[test]
    fn where_track_was_lost_nothing_is_taken_for_surplus() {
        let heads = Heads::new();
        heads.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", true);
        heads.take(&fields(&[]));
        assert!(heads.have_surplus());
        assert!(heads.take(&fields(&[])).is_none(), "there is no whole head");
        assert!(!heads.have_surplus(), "what comes is the parser's to read");
    }

    #[test]
    fn after_a_switch_of_protocols_nothing_is_kept() {
        let heads = Heads::new();
        heads.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true);
        heads.take(&fields(&[]));
        heads.end();
        heads.read(b"GET / HTTP/1.1\r\nHOST: a\r\n\r\n", true);
        assert!(heads.take(&fields(&[])).is_none());
    }
}
