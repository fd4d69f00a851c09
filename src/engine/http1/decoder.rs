//! An answer's body, piece by piece, without its framing (RFC 9112 sections 6 and 7). Takes what there is and asks for no
//! more than that.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use httparse::Status;

use super::answer::headers;
use super::{AnswerError, HEAD_BYTES_MAX, HEADERS_MAX, pass};

/// What is still to come of a body.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// So many bytes.
    Length(u64),
    /// All until the engine closes.
    UntilClose,
    /// Chunks.
    Chunked(Chunked),
}

/// Where in a chunked body the next byte stands.
#[derive(Debug)]
pub(crate) enum Chunked {
    /// Before a chunk's size.
    Size,
    /// In a chunk, with so many bytes left of it.
    Data(u64),
    /// After a chunk's last byte.
    DataEnd,
    /// After the last chunk.
    Trailers,
    /// At the end; trailers that came were not taken yet.
    End(Option<HeaderMap>),
    /// What came is no chunk.
    Broken(AnswerError),
}

impl Decoder {
    pub(crate) const fn chunked() -> Self {
        Self::Chunked(Chunked::Size)
    }

    /// Whether it ends before its connection does.
    pub(crate) const fn is_delimited(&self) -> bool {
        !matches!(self, Self::UntilClose)
    }

    /// Whether nothing is left to take.
    pub(crate) const fn is_ended(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::End(None)))
    }

    /// How many bytes are left, where that is known.
    pub(crate) const fn length(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(Chunked::End(_)) => Some(0),
            _ => None,
        }
    }

    /// Takes a piece out of `unread`; `None` where it has [ended](Self::is_ended) or more must be read first. What follows a
    /// piece at once is looked at too, so that the end is known with the last piece.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] where what came cannot be told apart.
    pub(crate) fn take(&mut self, unread: &mut Bytes) -> Result<Option<Frame<Bytes>>, AnswerError> {
        match self {
            Self::Length(left) => Ok(piece(left, unread)),
            Self::UntilClose => {
                let all = std::mem::take(unread);
                Ok((!all.is_empty()).then(|| Frame::data(all)))
            }
            Self::Chunked(state) => {
                state.skip(unread);
                let Chunked::Data(left) = state else { return state.taken() };
                let piece = piece(left, unread);
                if *left == 0 {
                    *state = Chunked::DataEnd;
                    state.skip(unread);
                }
                Ok(piece)
            }
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    ///
    /// [`AnswerError::Incomplete`] where the body has not.
    pub(crate) fn close(&mut self) -> Result<(), AnswerError> {
        if matches!(self, Self::UntilClose) {
            *self = Self::Length(0);
        }
        if self.is_ended() { Ok(()) } else { Err(AnswerError::Incomplete) }
    }
}

fn piece(left: &mut u64, unread: &mut Bytes) -> Option<Frame<Bytes>> {
    let length = unread.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= length as u64;
    (length > 0).then(|| Frame::data(unread.split_to(length)))
}

impl Chunked {
    /// Goes past all that is no data, as far as it has come.
    fn skip(&mut self, unread: &mut Bytes) {
        loop {
            let next = match self {
                Self::Size => size(unread),
                Self::DataEnd => data_end(unread),
                Self::Trailers => trailers(unread),
                Self::Data(_) | Self::End(_) | Self::Broken(_) => return,
            };
            match next {
                Ok(Some(next)) => *self = next,
                Ok(None) if unread.len() > HEAD_BYTES_MAX => *self = Self::Broken(AnswerError::TooLong),
                Ok(None) => return,
                Err(error) => *self = Self::Broken(error),
            }
        }
    }

    /// What is to be told where no data is left.
    fn taken(&mut self) -> Result<Option<Frame<Bytes>>, AnswerError> {
        match self {
            Self::End(trailers) => Ok(trailers.take().map(Frame::trailers)),
            Self::Broken(error) => Err(std::mem::replace(error, AnswerError::Incomplete)),
            _ => Ok(None),
        }
    }
}

/// Takes the line with a chunk's size. `None` where there is not all of it yet.
fn size(unread: &mut Bytes) -> Result<Option<Chunked>, AnswerError> {
    let invalid = || AnswerError::Length("a chunk's size is no number");
    // The parser takes a line without a digit for 0, which is the end.
    if unread.first().is_some_and(|digit| !digit.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let parsed = httparse::parse_chunk_size(unread).map_err(|_| invalid())?;
    let Status::Complete((length, size)) = parsed else { return Ok(None) };
    pass(unread, length);
    Ok(Some(if size == 0 { Chunked::Trailers } else { Chunked::Data(size) }))
}

fn data_end(unread: &mut Bytes) -> Result<Option<Chunked>, AnswerError> {
    if !b"\r\n".starts_with(&unread[..unread.len().min(2)]) {
        return Err(AnswerError::Length("a chunk is longer than its size"));
    }
    if unread.len() < 2 {
        return Ok(None);
    }
    pass(unread, 2);
    Ok(Some(Chunked::Size))
}

fn trailers(unread: &mut Bytes) -> Result<Option<Chunked>, AnswerError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let Status::Complete((length, fields)) = httparse::parse_headers(unread, &mut fields)? else {
        return Ok(None);
    };
    let fields = if fields.is_empty() { None } else { Some(headers(fields, unread)?) };
    pass(unread, length);
    Ok(Some(Chunked::End(fields)))
}

#[cfg(test)]
mod tests {
    use super::super::answer;
    use super::*;
    use bytes::BytesMut;
    use http_body::Body;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use std::pin::pin;
    use tokio::io::AsyncWriteExt;

    /// What a whole answer comes to: status, fields, body, trailers; `None` where it is none, or breaks off.
    type Read = Option<(u16, Vec<(String, Vec<u8>)>, Vec<u8>, Vec<(String, Vec<u8>)>)>;

    fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
    }

    /// Reads an answer that comes in `pieces`, before its connection ends.
    fn read(pieces: &[&[u8]]) -> Read {
        let (mut unread, mut head, mut body, mut trailers) = (Bytes::new(), None, Vec::new(), Vec::new());
        for piece in pieces {
            let mut joined = BytesMut::from(&unread[..]);
            joined.extend_from_slice(piece);
            unread = joined.freeze();
            if head.is_none() {
                head = answer(&mut unread, false).ok()?;
            }
            let Some(answer) = &mut head else { continue };
            while let Some(frame) = answer.decoder.take(&mut unread).ok()? {
                match frame.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers = fields(&frame.into_trailers().ok()?),
                }
            }
        }
        let mut answer = head?;
        if !answer.decoder.is_ended() {
            answer.decoder.close().ok()?;
        }
        Some((answer.head.status().as_u16(), fields(answer.head.headers()), body, trailers))
    }

    /// What another reader of HTTP/1 makes of the same bytes.
    fn read_by_hyper(bytes: &[u8]) -> Read {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (gate, mut engine) = tokio::io::duplex(bytes.len() + 1024);
            let handshake = hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(gate));
            let (mut sender, connection) = handshake.await.ok()?;
            let connection = tokio::spawn(connection);
            let request =
                http::Request::get("/").header("host", "engine").body(http_body_util::Empty::<Bytes>::new());
            let asked = tokio::spawn(sender.send_request(request.unwrap()));
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            engine.write_all(bytes).await.unwrap();
            engine.shutdown().await.unwrap();
            let (head, body) = asked.await.unwrap().ok()?.into_parts();
            let (mut data, mut trailers, mut incoming) = (Vec::new(), Vec::new(), pin!(body));
            while let Some(frame) = std::future::poll_fn(|cx| incoming.as_mut().poll_frame(cx)).await {
                match frame.ok()?.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers = fields(&frame.into_trailers().ok()?),
                }
            }
            drop((sender, connection));
            Some((head.status.as_u16(), fields(&head.headers), data, trailers))
        })
    }

    /// Answers as engines write them, and as they should not.
    fn an_answer() -> impl Strategy<Value = Vec<u8>> {
        let odd = prop::sample::select(vec![
            "HTTP/1.1 200",
            "HTTP/1.0 200 Fine",
            "HTTP/1.1 503 Service Unavailable",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 304 Not Modified",
            "HTTP/2.0 200 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 Odd",
            "nonsense",
            "",
        ]);
        let status = prop_oneof![3 => Just("HTTP/1.1 200 OK"), 1 => odd];
        let interim = prop::sample::select(vec![
            "",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        ]);
        let field = prop::sample::select(vec![
            "Content-Length: 5",
            "content-length: 5, 5",
            "Content-Length: 6",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, Chunked",
            "transfer-encoding: gzip",
            "Transfer-Encoding: chunked, gzip",
            "Connection: close",
            "X-Odd:\t v \t",
            "X-Empty:",
            "X-High: \u{e9}",
            " X-Folded: 1",
            "X Space: 1",
            "X-Bad: \u{0}",
            ": 1",
            "no colon",
        ]);
        let piece = prop::sample::select(vec![
            "5\r\nhello\r\n",
            "05;ext=\"a\"\r\nhello\r\n",
            "A\r\n0123456789\r\n",
            "a \r\n0123456789\r\n",
            "5\nhello\n",
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "5\r\nhellooo\r\n",
            "5\r\nhell",
            "FFFFFFFFFFFFFFFFF\r\n",
            "0\r\n\r\n",
            "0\r\nX-Sum: 7\r\n\r\n",
            "000\r\nbad trailer\r\n\r\n",
            "hello",
            "more",
        ]);
        let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]);
        (interim, status, prop::collection::vec(field, 0..4), end, prop::collection::vec(piece, 0..6))
            .prop_map(|(interim, status, fields, end, pieces)| {
                let lines = [status].into_iter().chain(fields).map(|line| format!("{line}{end}"));
                format!("{interim}{}{end}{}", lines.collect::<String>(), pieces.concat()).into_bytes()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn an_answer_is_what_another_reader_takes_it_for_however_it_is_split(
            bytes in an_answer(),
            splits in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut at: Vec<_> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
            at.sort_unstable();
            let bounds: Vec<_> = [vec![0], at, vec![bytes.len()]].concat();
            let pieces: Vec<_> = bounds.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let whole = read(&[&bytes]);
            prop_assert_eq!(&whole, &read(&pieces), "split at {:?}: {}", bounds, bytes.escape_ascii());
            prop_assert_eq!(&whole, &read_by_hyper(&bytes), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_end_is_known_with_the_last_piece() {
        let mut decoder = Decoder::chunked();
        let mut unread = Bytes::from_static(b"5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(decoder.take(&mut unread).unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(decoder.is_ended() && unread.is_empty());
    }

    #[test]
    fn what_came_before_a_broken_chunk_is_not_lost() {
        let mut decoder = Decoder::chunked();
        let mut unread = Bytes::from_static(b"5\r\nhello\r\nx");
        assert_eq!(decoder.take(&mut unread).unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(!decoder.is_ended());
        assert!(matches!(decoder.take(&mut unread), Err(AnswerError::Length(_))));
    }

    #[test]
    fn who_waits_for_the_next_chunk_holds_nothing_of_the_last() {
        let mut unread = Bytes::from(b"5\r\nhello\r\n".to_vec());
        let piece = Decoder::chunked().take(&mut unread).unwrap().unwrap().into_data().unwrap();
        assert!(piece.is_unique());
    }

    #[test]
    fn a_line_before_a_chunk_is_bounded() {
        let line = [b"5;".to_vec(), vec![b'x'; HEAD_BYTES_MAX]].concat();
        assert!(matches!(Decoder::chunked().take(&mut line.into()), Err(AnswerError::TooLong)));
    }
}
