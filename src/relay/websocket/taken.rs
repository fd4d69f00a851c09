//! Notes when a socket that had no room takes more: whoever is at its other end has made room, and is alive. Alters no
//! byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket that remembers.
#[derive(Debug)]
pub(super) struct Taken<S> {
    socket: S,
    /// It had no room when it was last written to.
    full: bool,
    made_room: bool,
}

impl<S> Taken<S> {
    pub(super) const fn new(socket: S) -> Self {
        Self { socket, full: false, made_room: false }
    }

    /// Whether room was made since this was last asked. Bytes that a socket with room takes show nothing: they may lie in
    /// the system's own buffers for ever.
    pub(super) const fn has_made_room(&mut self) -> bool {
        std::mem::replace(&mut self.made_room, false)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        match &written {
            Poll::Pending => self.full = true,
            Poll::Ready(taken) => {
                let was_full = std::mem::replace(&mut self.full, false);
                self.made_room |= was_full && taken.as_ref().is_ok_and(|bytes| *bytes > 0);
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_test::{assert_pending, assert_ready_ok, task};

    #[tokio::test]
    async fn a_socket_that_was_full_and_takes_more_shows_life_and_one_with_room_shows_nothing() {
        let (mut far, near) = duplex(4);
        let mut near = Taken::new(near);
        near.write_all(b"1234").await.unwrap();
        assert!(!near.has_made_room(), "there was room");
        {
            let mut more = task::spawn(near.write(b"5"));
            assert_pending!(more.poll());
        }
        assert!(!near.has_made_room(), "nobody has read");
        far.read_exact(&mut [0; 2]).await.unwrap();
        {
            let mut more = task::spawn(near.write(b"5"));
            assert_ready_ok!(more.poll());
        }
        assert!(near.has_made_room());
        assert!(!near.has_made_room(), "told once");
    }

    #[tokio::test]
    async fn a_socket_that_breaks_shows_no_life() {
        let (far, near) = duplex(1);
        let mut near = Taken::new(near);
        near.write_all(b"1").await.unwrap();
        {
            let mut more = task::spawn(near.write(b"2"));
            assert_pending!(more.poll());
        }
        drop(far);
        assert!(near.write(b"2").await.is_err());
        assert!(!near.has_made_room());
    }
}
