//! A request as bytes: its head, what of its body is at hand, and what is still to come.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HeaderName;
use http_body::{Body, Frame};

use super::head::Head;
use crate::engine::send::{Outbound, SendBody, SendError};
use crate::protocol::headers::{BodyLength, write_field};

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
    /// The bytes of `outbound`, as far as they are at hand.
    pub(crate) fn new(outbound: Outbound) -> Self {
        let Outbound { mut head, mut body } = outbound;
        if head.length == BodyLength::Unsaid && !body.is_end_stream() {
            head.say(body.size_hint().exact().map_or(BodyLength::Chunked, BodyLength::Bytes));
        }
        let Head { lines: mut bytes, length, trailers, is_head, .. } = head;
        bytes.extend_from_slice(b"\r\n");
        let mut framing = match length {
            BodyLength::Bytes(length) => Framing::Length(length),
            BodyLength::Chunked => Framing::Chunked { trailers },
            BodyLength::Unsaid => Framing::Ended,
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::send::Streamed;
    use crate::protocol::headers::{Forwarding, Peer, Settled, to_engine};
    use crate::protocol::spelling::Spelling;
    use http::{HeaderMap, HeaderValue, Request, Version};
    use std::collections::VecDeque;

    fn post() -> http::request::Builder {
        Request::post("/invocations?a=%20b").header("host", "engine")
    }

    fn outgoing(request: http::request::Builder, spelling: Option<&Spelling>, body: SendBody) -> Outgoing {
        let mut request = request.body(()).unwrap();
        let forwarding =
            Forwarding { x_forwarded: false, forwarded: false, trust_incoming: false, via: None };
        let settled =
            to_engine(&mut request, &Peer::new("192.0.2.7:4711".parse().unwrap()), &forwarding).unwrap();
        let (head, ()) = request.into_parts();
        let head = Head::new(&head, spelling, &settled, &HeaderValue::from_static("engine"));
        Outgoing::new(Outbound { head, body })
    }

    fn written(request: http::request::Builder, body: SendBody) -> String {
        let outgoing = outgoing(request, None, body);
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
        let outgoing = outgoing(request, Some(&Spelling::new(spelling.to_vec())), whole("{}"));
        assert_eq!(
            String::from_utf8(outgoing.bytes).unwrap(),
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
        let request = Request::get("/health").version(Version::HTTP_10).header("accept", "*/*");
        let bytes = written(request, SendBody::Whole(None));
        assert_eq!(bytes, "GET /health HTTP/1.1\r\naccept: */*\r\nhost: engine\r\n\r\n");
    }

    #[test]
    fn without_a_body_nothing_is_said_of_one_that_was_not_said_before() {
        assert!(written(post(), SendBody::Whole(None)).ends_with("host: engine\r\n\r\n"));
        let empty = post().header("content-length", "0");
        assert!(written(empty, SendBody::Whole(None)).ends_with("content-length: 0\r\n\r\n"));
        let empty = post().header("transfer-encoding", "chunked");
        assert!(written(empty, SendBody::Whole(None)).ends_with("chunked\r\n\r\n0\r\n\r\n"));
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

    #[test]
    fn a_body_is_framed_as_the_lines_of_its_head_say_and_not_as_was_thought() {
        let (head, ()) = post().body(()).unwrap().into_parts();
        for length in [BodyLength::Chunked, BodyLength::Bytes(7)] {
            let settled = Settled { length, ..Settled::default() };
            let head = Head::new(&head, None, &settled, &HeaderValue::from_static("engine"));
            let bytes = Outgoing::new(Outbound { head, body: whole("{}") }).bytes;
            assert!(bytes.ends_with(b"host: engine\r\ncontent-length: 2\r\n\r\n{}"), "{length:?}");
        }
    }

    #[test]
    fn one_length_is_said_once() {
        let twice = post().header("content-length", "2").header("content-length", "02");
        let bytes = written(twice, whole("{}"));
        assert!(bytes.ends_with("host: engine\r\ncontent-length: 2\r\n\r\n{}"), "{bytes}");
        let none = post().header("content-length", "").header("content-length", "2");
        let bytes = written(none, whole("{}"));
        assert!(bytes.ends_with("host: engine\r\ncontent-length: 2\r\n\r\n{}"), "{bytes}");
    }

    #[tokio::test]
    async fn only_announced_trailers_follow_a_body() {
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "7".parse().unwrap());
        fields.insert("content-length", "3".parse().unwrap());
        fields.insert("x-forwarded-for", "6.6.6.6".parse().unwrap());
        fields.insert("connection", "close".parse().unwrap());
        let announced = "X-Sum, Content-Length, x-forwarded-for, Connection";
        let request = post().header("trailer", announced).header("transfer-encoding", "chunked");
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
