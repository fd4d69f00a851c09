//! One connection to the engine: writes a request, reads its answer. Whoever waits for the answer does both, in the task
//! that carries the answer on: a chunk changes no task on its way, and a connection that is dropped is closed at that
//! moment. A body that is still arriving has a task of its own, so that it goes on arriving while the answer waits for its
//! caller.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Frame;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use super::http1::{self, AnswerError, Decoder, Outgoing, Upload};
use super::send::SendError;

/// What is read at once at first; more where so much comes, less again where it does not.
const READ_BYTES_MIN: usize = 8 * 1024;

/// What is read at once at most.
const READ_BYTES_MAX: usize = 256 * 1024;

/// How long the rest of a request may take whose answer has ended: an engine that neither reads nor closes would hold it for
/// ever.
const REST_TIMEOUT: Duration = Duration::from_secs(30);

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
        if let Writing::Request { written: 0, .. } = self.writing {
            // What comes before anything was asked is no answer.
            return self.poll_alarm(cx);
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
                Poll::Pending => return self.poll_alarm(cx),
            };
            return Poll::Ready(Err(Unanswered::Lost(lost)));
        }
    }

    /// Waits for the deadline, even where interim answers without end have spent this task's budget.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Unanswered>> {
        let mut alarm = unconstrained(self.alarm.as_mut());
        Pin::new(&mut alarm).poll(cx).map(|()| Err(Unanswered::TimedOut))
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
                // The task that writes on is waited for from now on: nobody else tells that the body broke off.
                return self.poll_write(cx);
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
                tokio::spawn(timeout(REST_TIMEOUT, task));
                None
            }
            Writing::Request { writer, request, written } => {
                tokio::spawn(timeout(REST_TIMEOUT, write_out(writer, request, written)));
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
mod tests;
