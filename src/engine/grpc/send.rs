//! Sends a call's request: at once where it is all there, in a task of its own where it is still being written.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use tokio_util::task::AbortOnDropHandle;

/// Sends what of `body` is there. The task that sends the rest ends when it is dropped, and cancels the call where the
/// caller has.
pub(super) async fn start<B>(mut body: B, mut stream: SendStream<Bytes>) -> Option<AbortOnDropHandle<()>>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    // What was read ahead is bounded, and one piece where it is all there is: it needs no room to be made first.
    let first = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    });
    match first.await {
        None => {}
        Some(Some(Ok(frame))) if frame.is_data() => {
            let ends = body.is_end_stream();
            let sent = stream.send_data(frame.into_data().unwrap_or_default(), ends);
            if ends || sent.is_err() {
                return None;
            }
        }
        Some(frame) => {
            let _ = send(&mut stream, frame, true).await;
            return None;
        }
    }
    Some(AbortOnDropHandle::new(tokio::spawn(rest(body, stream))))
}

async fn rest<B>(mut body: B, mut stream: SendStream<Bytes>)
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        let next = poll_fn(|cx| {
            // The engine may end a call early, or have its connection fail.
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            Pin::new(&mut body).poll_frame(cx).map(Some)
        });
        let Some(frame) = next.await else { return };
        let ends = body.is_end_stream();
        if send(&mut stream, frame, ends).await.is_none() || ends {
            return;
        }
    }
}

/// Sends one frame as the engine makes room. `None` where it was the last.
async fn send<E>(
    stream: &mut SendStream<Bytes>,
    frame: Option<Result<Frame<Bytes>, E>>,
    ends: bool,
) -> Option<()> {
    let frame = match frame {
        Some(Ok(frame)) => frame,
        Some(Err(_)) => {
            stream.send_reset(Reason::CANCEL);
            return None;
        }
        None => {
            let _ = stream.send_data(Bytes::new(), true);
            return None;
        }
    };
    let mut bytes = match frame.into_data() {
        Ok(bytes) => bytes,
        Err(frame) => {
            let trailers = frame.into_trailers().ok()?;
            let _ = stream.send_trailers(trailers);
            return None;
        }
    };
    if bytes.is_empty() {
        // The end may come in a frame of its own.
        return if ends { stream.send_data(bytes, true).ok() } else { Some(()) };
    }
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        if room == 0 {
            continue;
        }
        let piece = bytes.split_to(room.min(bytes.len()));
        stream.send_data(piece, ends && bytes.is_empty()).ok()?;
    }
    Some(())
}
