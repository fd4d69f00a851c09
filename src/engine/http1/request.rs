//! A request as bytes: its head with the names as the caller spelled them, and what of its body is at hand.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::{Body, Frame};

use crate::engine::SendBody;
use crate::engine::send::{Outbound, SendError};
use crate::protocol::headers::{Added, BodyLength, write_field};
use crate::protocol::spelling::Spelling;

/// A request that is ready to be written. The same bytes go out on whatever connection takes them.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The head, and all of the body that is at hand.
    pub(crate) bytes: Vec<u8>,
    /// The body that is still arriving.
    pub(crate) upload: Option<Box<Upload>>,
    /// Its answer has no body, whatever its head says.
    pub(crate) is_head: bool,
}

/// A body that is still arriving, and how it is framed.
#[derive(Debug)]
pub(crate) struct Upload {
    body: SendBody,
    framing: Framing,
}

/// Where a request's body ends (RFC 9112 section 6).
#[derive(Debug)]
enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// After the last chunk, and the trailers that the head announces: no others may follow (RFC 9110 section 6.5.1).
    Chunked { trailers: Vec<HeaderName> },
    /// It has ended.
    Ended,
}

impl Outgoing {
    /// The bytes of `request`, whose target is in origin-form and whose fields are for the engine. `host` is for callers
    /// that named none: in HTTP/1.0 they need not, and HTTP/1.1 engines want one (RFC 9112 section 3.2).
    pub(crate) fn new(request: Request<Outbound>, host: &HeaderValue) -> Self {
        let (head, Outbound { mut body, spelling, added }) = request.into_parts();
        let mut framing = Framing::of(&head, &body);
        let at_hand = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let mut bytes =
            Vec::with_capacity(HEAD_BYTES + head.headers.len() * FIELD_BYTES + at_hand.unwrap_or(0));
        write_head(&head, spelling.as_ref(), host, &added, &framing, &mut bytes);
        let is_head = head.method == Method::HEAD;
        if !body.is_at_hand() {
            return Self { bytes, upload: Some(Box::new(Upload { body, framing })), is_head };
        }
        while let Some(frame) = body.next_at_hand() {
            framing.write(frame, &mut bytes);
        }
        framing.end(&mut bytes);
        Self { bytes, upload: None, is_head }
    }
}

/// Room for a request line and the fields that the gate adds.
const HEAD_BYTES: usize = 128;

/// Room for one field. Where it is too small, the bytes move once.
const FIELD_BYTES: usize = 40;

impl Upload {
    /// Waits for the next piece of the body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// Appends a piece of the body to `out`, as it is framed.
    pub(crate) fn write(&mut self, frame: Frame<Bytes>, out: &mut Vec<u8>) {
        self.framing.write(frame, out);
    }

    /// Appends the body's end to `out`. Whether the body is as long as the head says: if not, the engine waits for more.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) -> bool {
        self.framing.end(out)
    }
}

impl Framing {
    /// How `body` is framed: as its caller did, where that is known.
    fn of(head: &Parts, body: &SendBody) -> Self {
        if body.is_end_stream() {
            return Self::Ended;
        }
        let length = match BodyLength::of(&head.headers) {
            BodyLength::Bytes(length) => Some(length),
            BodyLength::Chunked => None,
            BodyLength::Unsaid => body.size_hint().exact(),
        };
        length.map_or_else(|| Self::chunked(&head.headers), Self::Length)
    }

    fn chunked(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(TRAILER).iter().filter_map(|line| line.to_str().ok());
        let names = lines.flat_map(|line| line.split(','));
        Self::Chunked { trailers: names.filter_map(|name| HeaderName::try_from(name.trim()).ok()).collect() }
    }

    fn write(&mut self, frame: Frame<Bytes>, out: &mut Vec<u8>) {
        let frame = match (&mut *self, frame.into_data()) {
            (Self::Length(left), Ok(data)) => {
                // What is longer than its head says would be taken for the next request.
                let taken = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                return out.extend_from_slice(&data[..taken]);
            }
            (Self::Chunked { .. }, Ok(data)) => {
                if !data.is_empty() {
                    // Writing to memory cannot fail.
                    let _ = write!(out, "{:x}\r\n", data.len());
                    out.extend_from_slice(&data);
                    out.extend_from_slice(b"\r\n");
                }
                return;
            }
            (_, Ok(_)) => return,
            (_, Err(frame)) => frame,
        };
        if let Self::Chunked { trailers } = self
            && let Ok(fields) = frame.into_trailers()
        {
            out.extend_from_slice(b"0\r\n");
            for (name, value) in fields.iter().filter(|(name, _)| trailers.contains(name)) {
                write_field(name.as_str().as_bytes(), value.as_bytes(), out);
            }
            out.extend_from_slice(b"\r\n");
            *self = Self::Ended;
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) -> bool {
        match std::mem::replace(self, Self::Ended) {
            Self::Length(left) => left == 0,
            Self::Chunked { .. } => {
                out.extend_from_slice(b"0\r\n\r\n");
                true
            }
            Self::Ended => true,
        }
    }
}

fn write_head(
    head: &Parts,
    spelling: Option<&Spelling>,
    host: &HeaderValue,
    added: &Added,
    framing: &Framing,
    out: &mut Vec<u8>,
) {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut names = spelling.map(Spelling::names);
    let (mut has_host, mut has_length, mut has_coding) = (false, false, false);
    for (name, value) in &head.headers {
        match *name {
            // One of both rules (RFC 9112 section 6.3).
            CONTENT_LENGTH if matches!(framing, Framing::Chunked { .. }) => continue,
            TRANSFER_ENCODING if !matches!(framing, Framing::Chunked { .. }) => continue,
            CONTENT_LENGTH => has_length = true,
            TRANSFER_ENCODING => has_coding = true,
            HOST => has_host = true,
            _ => {}
        }
        let spelled = names.as_mut().and_then(|names| names.of(name));
        write_field(spelled.unwrap_or(name.as_str().as_bytes()), value.as_bytes(), out);
    }
    if !has_host {
        write_field(b"host", host.as_bytes(), out);
    }
    out.extend_from_slice(added.as_bytes());
    match framing {
        Framing::Length(length) if !has_length => {
            write_field(b"content-length", length.to_string().as_bytes(), out);
        }
        Framing::Chunked { .. } if !has_coding => write_field(b"transfer-encoding", b"chunked", out),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::send::Streamed;
    use std::collections::VecDeque;

    fn post() -> http::request::Builder {
        Request::post("/invocations?a=%20b").header("host", "engine")
    }

    fn written(request: http::request::Builder, body: impl Into<Outbound>) -> String {
        let outgoing = Outgoing::new(request.body(body.into()).unwrap(), &HeaderValue::from_static("engine"));
        assert!(outgoing.upload.is_none());
        String::from_utf8(outgoing.bytes).unwrap()
    }

    fn whole(text: &'static str) -> SendBody {
        SendBody::Whole(Some(Bytes::from_static(text.as_bytes())))
    }

    fn frames(frames: impl IntoIterator<Item = Frame<Bytes>>) -> SendBody {
        SendBody::Streamed(Box::new(Streamed {
            ahead: frames.into_iter().collect::<VecDeque<_>>(),
            rest: None,
            left: 0,
            deadline: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
        }))
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_request_is_written_as_its_caller_spelled_it() {
        let spelling =
            b"POST /x HTTP/1.1\r\nHOST: gate\r\nConnection: close\r\nX-One: 1\r\nContent-length:2\r\n\r\n";
        let request = post().header("x-one", "1").header("content-length", "2").header("via", "1.1 gate");
        let spelling = Some(Spelling::new(spelling.to_vec()));
        assert_eq!(
            written(request, Outbound { spelling, ..whole("{}").into() }),
            "POST /invocations?a=%20b HTTP/1.1\r\nHOST: engine\r\nX-One: 1\r\nContent-length: 2\r\nvia: 1.1 gate\r\n\r\n{}"
        );
    }

    #[test]
    fn a_body_whose_length_is_known_gets_it_written_down() {
        let bytes = written(post(), whole("{}"));
        assert!(bytes.ends_with("host: engine\r\ncontent-length: 2\r\n\r\n{}"), "{bytes}");
    }

    #[test]
    fn whoever_names_no_host_is_sent_to_the_engines() {
        let request = Request::get("/health").header("accept", "*/*");
        let bytes = written(request, SendBody::Whole(None));
        assert_eq!(bytes, "GET /health HTTP/1.1\r\naccept: */*\r\nhost: engine\r\n\r\n");
    }

    #[test]
    fn without_a_body_nothing_is_said_of_one_that_was_not_said_before() {
        assert!(written(post(), SendBody::Whole(None)).ends_with("host: engine\r\n\r\n"));
        let empty = post().header("content-length", "0");
        assert!(written(empty, SendBody::Whole(None)).ends_with("content-length: 0\r\n\r\n"));
        let empty = post().header("transfer-encoding", "chunked");
        assert!(written(empty, SendBody::Whole(None)).ends_with("host: engine\r\n\r\n"));
    }

    #[test]
    fn a_chunked_body_stays_chunked_and_has_no_length_beside_it() {
        let request = post().header("content-length", "9").header("transfer-encoding", "Chunked");
        let bytes = written(request, whole("0123456789abcdef"));
        assert!(
            bytes.ends_with(
                "host: engine\r\ntransfer-encoding: Chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
            ),
            "{bytes}"
        );
    }

    #[tokio::test]
    async fn only_announced_trailers_follow_a_body() {
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "7".parse().unwrap());
        fields.insert("content-length", "3".parse().unwrap());
        let request = post().header("trailer", "X-Sum").header("transfer-encoding", "chunked");
        let bytes = written(request, frames([data("ab"), data(""), data("c"), Frame::trailers(fields)]));
        assert!(bytes.ends_with("\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 7\r\n\r\n"), "{bytes}");
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_chunked() {
        let bytes = written(post(), frames([data("ab")]));
        assert!(bytes.ends_with("transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"), "{bytes}");
    }

    #[tokio::test]
    async fn a_body_longer_than_its_head_says_is_cut_there() {
        let bytes = written(post().header("content-length", "3"), frames([data("ab"), data("cd")]));
        assert!(bytes.ends_with("\r\n\r\nabc"), "{bytes}");
    }
}
