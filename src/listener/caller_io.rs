//! A caller's socket, as the HTTP library reads and writes it: puts back what was read to learn the protocol, keeps heads as
//! they came, and notices that the caller is gone when the library does not look.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::heads::Heads;
use super::watch::Watch;

/// What is read of an HTTP/1 connection at once, and to learn which HTTP a caller speaks.
const READ_BYTES_MAX: usize = 8 * 1024;

/// A head with a short body, or a chunk with its frame: to write so little in one piece is cheaper than to tell the kernel of
/// several, the copy included.
const FLAT_BYTES_MAX: usize = 4096;

/// Reads what has come, behind what was `seen`. How many bytes it was.
pub(super) fn read_some(
    stream: &mut TcpStream,
    seen: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // On the stack of this call: a buffer in the connection's own state would stay with it for life.
    let mut space = [MaybeUninit::uninit(); READ_BYTES_MAX];
    let mut space = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut space))?;
    seen.extend_from_slice(space.filled());
    Poll::Ready(Ok(space.filled().len()))
}

/// A caller's socket, and the bytes that were read before the parser asked for them.
#[derive(Debug)]
pub(super) struct CallerIo {
    ahead: BytesMut,
    stream: TokioIo<TcpStream>,
    watch: Arc<Watch>,
    /// `None` in HTTP/2: bytes that arrive between requests begin no head, they may be a ping or a window.
    heads: Option<Arc<Heads>>,
}

impl Read for CallerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let at_rest = this.heads.is_some() && this.watch.expects_head();
        if this.ahead.is_empty() {
            let Some(heads) = &this.heads else { return Pin::new(&mut this.stream).poll_read(cx, buf) };
            let mut space = [MaybeUninit::uninit(); READ_BYTES_MAX];
            let room = buf.remaining().min(space.len());
            let mut read = ReadBuf::uninit(&mut space[..room]);
            ready!(Pin::new(this.stream.inner_mut()).poll_read(cx, &mut read))?;
            heads.read(read.filled(), at_rest);
            buf.put_slice(read.filled());
        } else {
            buf.put_slice(&this.ahead.split_to(this.ahead.len().min(buf.remaining())));
            if this.ahead.is_empty() {
                // An emptied buffer would hold its allocation for the connection's life.
                this.ahead = BytesMut::new();
            }
        }
        if at_rest {
            this.watch.head_began();
        }
        Poll::Ready(Ok(()))
    }
}

impl CallerIo {
    /// That at `stream`, of which `ahead` was read. `heads` is `None` in HTTP/2.
    pub(super) fn new(
        stream: TcpStream,
        ahead: BytesMut,
        watch: Arc<Watch>,
        heads: Option<Arc<Heads>>,
    ) -> Self {
        Self { ahead, stream: TokioIo::new(stream), watch, heads }
    }

    pub(super) fn heads(&self) -> Option<Arc<Heads>> {
        self.heads.clone()
    }

    /// A parser that holds bytes of the next request reads nothing while this one is served, and would not learn that the
    /// caller is gone. So more is read here.
    ///
    /// # Errors
    ///
    /// The caller is gone.
    fn look_for_the_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(heads) = self.heads.as_ref().filter(|heads| heads.have_surplus()) else { return Ok(()) };
        while self.watch.is_serving() && self.ahead.len() < READ_BYTES_MAX {
            let before = self.ahead.len();
            let Poll::Ready(read) = read_some(self.stream.inner_mut(), &mut self.ahead, cx) else { break };
            if read? == 0 {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            heads.read(&self.ahead[before..], false);
        }
        Ok(())
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(_) => self.watch.wrote(),
            Poll::Pending => self.watch.write_blocked(),
        }
        written
    }
}

impl Write for CallerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        let written = if bytes > FLAT_BYTES_MAX {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        } else {
            let mut space = [MaybeUninit::uninit(); FLAT_BYTES_MAX];
            let mut flat = ReadBuf::uninit(&mut space);
            bufs.iter().for_each(|buf| flat.put_slice(buf));
            Pin::new(&mut self.stream).poll_write(cx, flat.filled())
        };
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The parser's driver comes by here on every turn.
        self.look_for_the_end(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    #[tokio::test]
    async fn pieces_arrive_in_their_order_whether_they_are_few_bytes_or_many() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut caller, _) = listener.accept().await.unwrap();
        let watch = Arc::new(Watch::new(Instant::now().into_std()));
        let mut io = CallerIo::new(stream, BytesMut::new(), watch, None);
        for length in [0, 1, FLAT_BYTES_MAX / 3, FLAT_BYTES_MAX / 3 + 1, FLAT_BYTES_MAX] {
            let pieces = [b'a', b'b', b'c'].map(|byte| vec![byte; length]);
            let sent = pieces.concat();
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let slices: Vec<_> = rest.chunks(length).map(io::IoSlice::new).collect();
                let written = poll_fn(|cx| Pin::new(&mut io).poll_write_vectored(cx, &slices)).await.unwrap();
                rest = &rest[written..];
            }
            let mut heard = vec![0; sent.len()];
            caller.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, sent, "{length}");
        }
    }
}
