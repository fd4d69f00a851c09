//! One connection to the engine: writes a request, reads its answer. Whoever waits for the answer does both, in the task
//! that carries the answer on: a chunk changes no task on its way, and a connection that is dropped is closed at that
//! moment. A body that is still arriving has a task of its own, so that it goes on arriving while the answer waits for its
//! caller.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Frame;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use super::body::SendError;
use super::http1::{self, AnswerError, Decoder, Outgoing, Upload};

/// What is read at once at first; more where so much comes, less again where it does not.
const READ_BYTES_MIN: usize = 8 * 1024;

/// What is read at once at most.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Why a request brought no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// No byte of it was written: it may go out on another connection.
    Unsent(Outgoing, io::Error),
    /// It may have reached the engine.
    Lost(AnswerError),
    /// Its body broke off on the way.
    Body(SendError),
    /// The deadline passed.
    TimedOut,
}

/// A connection, busy with one exchange or kept for the next.
#[derive(Debug)]
pub(super) struct Connection {
    reader: OwnedReadHalf,
    writing: Writing,
    /// Read, and not taken yet.
    unread: Bytes,
    /// What to read at once.
    read_bytes: usize,
    /// What is still to come of the answer.
    decoder: Decoder,
    /// Another exchange may follow.
    keeps: bool,
    /// The request was `HEAD`.
    is_head: bool,
    /// Kept from exchange to exchange: to move a timer on is cheap, to make one is not.
    alarm: Pin<Box<Sleep>>,
}

/// Who writes, and what.
#[derive(Debug)]
enum Writing {
    Nothing(OwnedWriteHalf),
    /// So many bytes of the request have left.
    Request {
        writer: OwnedWriteHalf,
        request: Outgoing,
        written: usize,
    },
    /// A task that writes what still arrives.
    Elsewhere(AbortOnDropHandle<Result<Option<OwnedWriteHalf>, SendError>>),
    /// Nobody can write any more.
    Over,
}

impl Connection {
    /// Speaks HTTP/1.1 on `stream`.
    pub(super) fn new(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader,
            writing: Writing::Nothing(writer),
            unread: Bytes::new(),
            read_bytes: READ_BYTES_MIN,
            decoder: Decoder::Length(0),
            keeps: true,
            is_head: false,
            alarm: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Sends `request`; its answer is to be [polled](Self::poll_answer) for, and must begin before `deadline`.
    pub(super) fn send(&mut self, request: Outgoing, deadline: Instant) {
        self.is_head = request.is_head;
        self.alarm.as_mut().reset(deadline);
        if let Writing::Nothing(writer) = std::mem::replace(&mut self.writing, Writing::Over) {
            self.writing = Writing::Request { writer, request, written: 0 };
        }
    }

    /// Waits for the head of the answer to what was sent. Not to be polled again after it was ready.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Unanswered>> {
        if let Poll::Ready(Err(unanswered)) = self.poll_write(cx) {
            return Poll::Ready(Err(unanswered));
        }
        loop {
            if !self.unread.is_empty() {
                match http1::answer(&mut self.unread, self.is_head) {
                    Ok(None) => {}
                    Ok(Some(answer)) => {
                        self.decoder = answer.decoder;
                        self.keeps = answer.keeps;
                        return Poll::Ready(Ok(answer.head));
                    }
                    Err(error) => return Poll::Ready(Err(Unanswered::Lost(error))),
                }
            }
            let lost = match self.poll_read(cx) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) => AnswerError::Incomplete,
                Poll::Ready(Err(error)) => error.into(),
                Poll::Pending => return self.alarm.as_mut().poll(cx).map(|()| Err(Unanswered::TimedOut)),
            };
            return Poll::Ready(Err(Unanswered::Lost(lost)));
        }
    }

    /// Writes the request. Ready where nothing more is to be written here.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unanswered>> {
        if let Writing::Elsewhere(task) = &mut self.writing {
            let ended = ready!(Pin::new(task).poll(cx));
            self.writing = Writing::Over;
            match ended {
                Ok(Ok(Some(writer))) => self.writing = Writing::Nothing(writer),
                Ok(Err(error)) => return Poll::Ready(Err(Unanswered::Body(error))),
                // The engine takes no more of it: it may have answered.
                Ok(Ok(None)) | Err(_) => {}
            }
        }
        let Writing::Request { writer, request, written } = &mut self.writing else {
            return Poll::Ready(Ok(()));
        };
        let failed = loop {
            match ready!(Pin::new(&mut *writer).poll_write(cx, &request.bytes[*written..])) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(bytes) => *written += bytes,
                Err(error) => break error,
            }
            if *written == request.bytes.len() {
                self.written();
                return Poll::Ready(Ok(()));
            }
        };
        match std::mem::replace(&mut self.writing, Writing::Over) {
            Writing::Request { request, written: 0, .. } => {
                Poll::Ready(Err(Unanswered::Unsent(request, failed)))
            }
            // The engine takes no more of it: it may have answered.
            _ => Poll::Ready(Ok(())),
        }
    }

    /// All that was at hand has left.
    fn written(&mut self) {
        let Writing::Request { writer, request, .. } = std::mem::replace(&mut self.writing, Writing::Over)
        else {
            return;
        };
        self.writing = match request.upload {
            None => Writing::Nothing(writer),
            Some(upload) => {
                Writing::Elsewhere(AbortOnDropHandle::new(tokio::spawn(write_on(writer, upload))))
            }
        };
    }

    /// Takes what has come of the answer's body. `None` at its end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Writing::Request { .. } = self.writing {
            // Answered early. What became of the request is told by what comes.
            let _ = self.poll_write(cx);
        }
        loop {
            match self.decoder.take(&mut self.unread) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.decoder.is_ended() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            let more = ready!(self.poll_read(cx)).map_err(AnswerError::from);
            match more.and_then(|more| if more { Ok(()) } else { self.decoder.close() }) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Reads once, behind what is unread. `false` where the engine has closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Asked first, so that whoever waits holds no buffer.
        ready!(self.reader.as_ref().poll_read_ready(cx))?;
        let mut read = BytesMut::with_capacity(self.unread.len() + self.read_bytes);
        read.extend_from_slice(&self.unread);
        let bytes = ready!(poll_read_buf(Pin::new(&mut self.reader), cx, &mut read))?;
        self.unread = read.freeze();
        if bytes >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if bytes < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Poll::Ready(Ok(bytes > 0))
    }

    /// Whether the answer has ended.
    pub(super) const fn is_answered(&self) -> bool {
        self.decoder.is_ended()
    }

    /// How many bytes are left of the answer's body, where that is known.
    pub(super) const fn length(&self) -> Option<u64> {
        self.decoder.length()
    }

    /// Whether it is open and could take a request, as far as is known without asking the engine.
    pub(super) fn is_open(&self) -> bool {
        // Bytes that nobody asked for are no answer to what comes next.
        let waits = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.reader.as_ref().try_read(&mut [0]).is_err_and(waits)
    }

    /// Ends an exchange whose answer was read to its end. `None` where the request is still being sent, or the engine
    /// means to close: not to be used again.
    pub(super) fn rest(mut self: Box<Self>) -> Option<Box<Self>> {
        if matches!(&self.writing, Writing::Elsewhere(task) if task.is_finished()) {
            let _ = self.poll_write(&mut Context::from_waker(std::task::Waker::noop()));
        }
        match std::mem::replace(&mut self.writing, Writing::Over) {
            Writing::Nothing(writer) if self.keeps && self.unread.is_empty() => {
                self.writing = Writing::Nothing(writer);
                Some(self)
            }
            // Answered early: the rest of the request is sent all the same, as its caller expects.
            Writing::Elsewhere(task) => {
                drop(task.detach());
                None
            }
            Writing::Request { writer, request, written } => {
                tokio::spawn(write_out(writer, request, written));
                None
            }
            Writing::Nothing(_) | Writing::Over => None,
        }
    }

    /// The stream beneath, after the engine has switched protocols, and what it has said since. `None` where the connection
    /// is not at rest.
    pub(super) fn into_stream(self) -> Option<(TcpStream, Bytes)> {
        let Writing::Nothing(writer) = self.writing else { return None };
        let stream = self.reader.reunite(writer).ok()?;
        Some((stream, self.unread))
    }
}

/// Writes a body as it arrives. `None` where nothing can follow it: the engine takes no more, or the body is shorter than
/// its head says.
async fn write_on(
    mut writer: OwnedWriteHalf,
    mut upload: Box<Upload>,
) -> Result<Option<OwnedWriteHalf>, SendError> {
    let mut out = Vec::new();
    while let Some(frame) = poll_fn(|cx| upload.poll_frame(cx)).await {
        upload.write(frame?, &mut out);
        if writer.write_all(&out).await.is_err() {
            return Ok(None);
        }
        out.clear();
    }
    let complete = upload.end(&mut out);
    let left = writer.write_all(&out).await;
    Ok((complete && left.is_ok()).then_some(writer))
}

/// Writes what is left of a request that was answered early.
async fn write_out(mut writer: OwnedWriteHalf, request: Outgoing, written: usize) {
    // Its caller has the answer already.
    if writer.write_all(&request.bytes[written..]).await.is_ok()
        && let Some(upload) = request.upload
    {
        let _ = write_on(writer, upload).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SendBody;
    use http::Request;
    use std::task::Waker;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (Box<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (engine, _) = listener.accept().await.unwrap();
        (Box::new(Connection::new(stream)), engine)
    }

    fn send(connection: &mut Connection) {
        let request = Request::get("/").header("host", "engine").body(SendBody::Whole(None)).unwrap();
        connection.send(Outgoing::new(request), Instant::now() + Duration::from_secs(10));
    }

    /// The answer's head, and all of its body.
    async fn answered(connection: &mut Connection) -> Result<(Response<()>, Vec<u8>), AnswerError> {
        let head = poll_fn(|cx| connection.poll_answer(cx)).await;
        let head = head.unwrap_or_else(|unanswered| panic!("{unanswered:?}"));
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx)).await {
            body.extend(frame?.into_data().unwrap());
        }
        Ok((head, body))
    }

    async fn hears_a_request(engine: &mut TcpStream) {
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            assert!(engine.read_buf(&mut heard).await.unwrap() > 0);
        }
    }

    #[tokio::test]
    async fn one_connection_carries_exchange_after_exchange() {
        let (mut connection, mut engine) = pair().await;
        for (answer, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab"),
            (
                "HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n",
                "c",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ] {
            send(&mut connection);
            let (answered, ()) = tokio::join!(answered(&mut connection), async {
                hears_a_request(&mut engine).await;
                engine.write_all(answer.as_bytes()).await.unwrap();
            });
            assert_eq!(answered.unwrap().1, body.as_bytes());
            connection = connection.rest().expect("the engine keeps it");
            assert!(connection.is_open());
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_engine_means_to_close_is_not_kept() {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore than was asked for",
        ] {
            let (mut connection, mut engine) = pair().await;
            send(&mut connection);
            engine.write_all(answer.as_bytes()).await.unwrap();
            answered(&mut connection).await.unwrap();
            assert!(connection.rest().is_none(), "{answer}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_told_from_one_that_ends_with_its_connection() {
        for (answer, whole) in [
            ("HTTP/1.1 200 OK\r\n\r\nab", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", false),
        ] {
            let (mut connection, mut engine) = pair().await;
            send(&mut connection);
            engine.write_all(answer.as_bytes()).await.unwrap();
            engine.shutdown().await.unwrap();
            match answered(&mut connection).await {
                Ok((_, body)) => assert!(whole && body == b"ab", "{answer}"),
                Err(error) => {
                    assert!(!whole && matches!(error, AnswerError::Incomplete), "{answer}: {error}")
                }
            }
        }
    }

    #[tokio::test]
    async fn a_kept_connection_is_found_closed_when_it_is_looked_at() {
        let (connection, engine) = pair().await;
        assert!(connection.is_open());
        drop(engine);
        while connection.is_open() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_exchange_that_is_dropped_closes_its_connection_at_that_moment() {
        let (mut connection, mut engine) = pair().await;
        send(&mut connection);
        assert!(connection.poll_answer(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(connection);
        let mut seen = Vec::new();
        engine.read_to_end(&mut seen).await.unwrap();
        assert!(seen.starts_with(b"GET / HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_written_comes_back_unsent() {
        let (mut connection, engine) = pair().await;
        // Without lingering the connection is reset: a write fails at once.
        socket2::SockRef::from(&engine).set_linger(Some(Duration::ZERO)).unwrap();
        drop(engine);
        while connection.is_open() {
            tokio::task::yield_now().await;
        }
        send(&mut connection);
        let answered = poll_fn(|cx| connection.poll_answer(cx)).await;
        let Err(Unanswered::Unsent(request, _)) = answered else { panic!("{answered:?}") };
        assert!(request.bytes.starts_with(b"GET / HTTP/1.1\r\n"));
    }
}
