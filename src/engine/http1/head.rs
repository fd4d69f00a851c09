//! A request's head as bytes, with the names as the caller spelled them.

use http::header::{ACCEPT, CONTENT_LENGTH, HOST, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method};

use crate::protocol::headers::{BodyLength, Settled, decimal, may_trail, write_field};
use crate::protocol::spelling::Spelling;

/// A head that is written but for its end: what it does not say of the body's length is added once that is known. So
/// little is kept of a request that waits.
#[derive(Debug)]
pub(crate) struct Head {
    /// Whole lines.
    pub(super) lines: Vec<u8>,
    /// What they say of the body.
    pub(super) length: BodyLength,
    /// Trailers that they announce.
    pub(super) trailers: Vec<HeaderName>,
    /// The answer has no body, whatever its head says.
    pub(super) is_head: bool,
    accept: Option<HeaderValue>,
}

/// Room for a request line and the fields that the gate adds.
const HEAD_BYTES: usize = 288;

/// Room for one field. Where it is too small, the bytes move once.
const FIELD_BYTES: usize = 40;

/// A body of so many bytes is written behind its head without moving it.
const BODY_BYTES: u64 = 4096;

impl Head {
    /// That of a request whose target is in origin-form and whose fields are for the engine. `host` is for callers that
    /// named none: in HTTP/1.0 they need not, and HTTP/1.1 engines want one (RFC 9112 section 3.2).
    pub(crate) fn new(
        head: &Parts,
        spelling: Option<&Spelling>,
        settled: &Settled,
        host: &HeaderValue,
    ) -> Self {
        let room = HEAD_BYTES + head.headers.len() * FIELD_BYTES + body_room(settled.length);
        let is_head = head.method == Method::HEAD;
        let (lines, length) = (Vec::with_capacity(room), BodyLength::Unsaid);
        let mut written = Self { lines, length, trailers: Vec::new(), is_head, accept: None };
        written.write(head, settled.length, spelling, host);
        written.lines.extend_from_slice(settled.added.as_bytes());
        written
    }

    fn write(&mut self, head: &Parts, length: BodyLength, spelling: Option<&Spelling>, host: &HeaderValue) {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            self.lines.extend_from_slice(part.as_bytes());
        }
        let mut names = spelling.map(Spelling::names);
        let mut has_host = false;
        for (name, value) in &head.headers {
            match *name {
                // Of both one rules (RFC 9112 section 6.3); it is said once, and the body follows what is written here.
                CONTENT_LENGTH if self.length != BodyLength::Unsaid || !says(value, length) => continue,
                CONTENT_LENGTH => self.length = length,
                TRANSFER_ENCODING => self.length = BodyLength::Chunked,
                HOST => has_host = true,
                ACCEPT if self.accept.is_none() => self.accept = Some(value.clone()),
                TRAILER => {
                    let announced = value.to_str().unwrap_or_default().split(',');
                    let announced = announced.filter_map(|name| name.trim().parse().ok());
                    self.trailers.extend(announced.filter(may_trail));
                }
                _ => {}
            }
            let spelled = names.as_mut().and_then(|names| names.of(name));
            write_field(spelled.unwrap_or(name.as_str().as_bytes()), value.as_bytes(), &mut self.lines);
        }
        if !has_host {
            write_field(HOST.as_str().as_bytes(), host.as_bytes(), &mut self.lines);
        }
    }

    /// What the caller says it takes (RFC 9110 section 12.5.1), where it is text.
    pub(crate) fn accept(&self) -> Option<&str> {
        self.accept.as_ref()?.to_str().ok()
    }

    /// Says how long the body is.
    pub(super) fn say(&mut self, length: BodyLength) {
        self.length = length;
        match length {
            BodyLength::Bytes(bytes) => {
                write_field(
                    CONTENT_LENGTH.as_str().as_bytes(),
                    bytes.to_string().as_bytes(),
                    &mut self.lines,
                );
            }
            BodyLength::Chunked => {
                write_field(TRANSFER_ENCODING.as_str().as_bytes(), b"chunked", &mut self.lines);
            }
            BodyLength::Unsaid => {}
        }
    }
}

/// Whether a `Content-Length` says that the body has this `length`.
fn says(value: &HeaderValue, length: BodyLength) -> bool {
    decimal(value.as_bytes()).is_some_and(|bytes| length == BodyLength::Bytes(bytes))
}

fn body_room(length: BodyLength) -> usize {
    match length {
        // At most BODY_BYTES.
        BodyLength::Bytes(bytes) => usize::try_from(bytes.min(BODY_BYTES)).unwrap_or_default(),
        BodyLength::Chunked | BodyLength::Unsaid => 0,
    }
}
