//! Gives every request a name: an id that both sides are told, and a span that the log shows it in.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{Entry, HeaderName};
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use rand::TryRng;
use rand::rngs::SysRng;
use tower::{Layer, Service};
use tracing::{Span, debug_span};

/// Puts [`RequestId`] over a service.
#[derive(Clone, Debug)]
pub struct RequestIdLayer {
    ids: Arc<Ids>,
}

impl RequestIdLayer {
    /// The id stands in `header`. A caller's own is kept.
    #[must_use]
    pub fn new(header: HeaderName) -> Self {
        Self { ids: Arc::new(Ids::new(header)) }
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestId<S>;

    fn layer(&self, inner: S) -> RequestId<S> {
        RequestId { inner, ids: Arc::clone(&self.ids) }
    }
}

/// Names requests on their way in, and puts the name on answers that have none.
#[derive(Clone, Debug)]
pub struct RequestId<S> {
    inner: S,
    ids: Arc<Ids>,
}

impl<S, A, B> Service<Request<A>> for RequestId<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<Named<B>>;
    type Error = S::Error;
    type Future = Naming<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let id = match request.headers_mut().entry(&self.ids.header) {
            Entry::Occupied(kept) => kept.get().clone(),
            Entry::Vacant(free) => free.insert(self.ids.next()).clone(),
        };
        let span = debug_span!(
            "request",
            method = %request.method(),
            path = request.uri().path(),
            id = id.to_str().unwrap_or_default()
        );
        let answer = span.in_scope(|| self.inner.call(request));
        Naming { answer, span, header: self.ids.header.clone(), id: Some(id) }
    }
}

pin_project! {
    /// The future of a request with a name.
    #[derive(Debug)]
    pub struct Naming<F> {
        #[pin]
        answer: F,
        span: Span,
        header: HeaderName,
        id: Option<HeaderValue>,
    }
}

impl<F, B, E> Future for Naming<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Named<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = {
            let _entered = this.span.enter();
            ready!(this.answer.poll(cx))
        };
        let span = std::mem::replace(this.span, Span::none());
        Poll::Ready(answered.map(|mut response| {
            if let (Entry::Vacant(free), Some(id)) =
                (response.headers_mut().entry(&*this.header), this.id.take())
            {
                free.insert(id);
            }
            response.map(|body| Named { body, span })
        }))
    }
}

pin_project! {
    /// The body of an answer to a request with a name.
    #[derive(Debug)]
    pub struct Named<B> {
        #[pin]
        body: B,
        span: Span,
    }
}

impl<B: Body> Body for Named<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let _entered = this.span.enter();
        this.body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The ids of one stack: `5f1c09ab33d0e7c2-1`, `-2`, and so on: unique to a process and a request, cheap to make, short
/// enough to read aloud.
#[derive(Debug)]
struct Ids {
    header: HeaderName,
    prefix: String,
    next: AtomicU64,
}

/// The longest id: a prefix of 17 characters and a number of up to 20.
const ID_BYTES_MAX: usize = 37;

impl Ids {
    fn new(header: HeaderName) -> Self {
        // Without randomness the ids of two processes may meet; nothing depends on their not doing so.
        let prefix = SysRng.try_next_u64().unwrap_or(u64::from(std::process::id()));
        Self { header, prefix: format!("{prefix:016x}-"), next: AtomicU64::new(1) }
    }

    fn next(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = Id { bytes: [0; ID_BYTES_MAX], begin: ID_BYTES_MAX };
        id.prepend_number(number);
        id.prepend(self.prefix.as_bytes());
        HeaderValue::from_maybe_shared(Bytes::from_owner(id)).unwrap_or(HeaderValue::from_static("unnamed"))
    }
}

/// An id, written from its end on: so its number needs no second look, and all of it one place in memory.
struct Id {
    bytes: [u8; ID_BYTES_MAX],
    begin: usize,
}

impl Id {
    fn prepend(&mut self, text: &[u8]) {
        let end = self.begin;
        self.begin -= text.len();
        self.bytes[self.begin..end].copy_from_slice(text);
    }

    fn prepend_number(&mut self, mut number: u64) {
        loop {
            // A digit.
            self.prepend(&[b'0' + u8::try_from(number % 10).unwrap_or_default()]);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

impl AsRef<[u8]> for Id {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_requests_have_the_same_id() {
        let header = HeaderName::from_static("x-request-id");
        let ids = [Ids::new(header.clone()), Ids::new(header)];
        let mut made: Vec<_> = ids.iter().flat_map(|ids| [ids.next(), ids.next()]).collect();
        made.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        made.dedup();
        assert_eq!(made.len(), 4);
    }

    #[test]
    fn an_id_never_outgrows_its_buffer() {
        let ids = Ids::new(HeaderName::from_static("x-request-id"));
        ids.next.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(ids.next().len(), ID_BYTES_MAX);
    }
}
