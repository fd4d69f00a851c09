//! Starts a synthesis' clock, and turns what became of it into an answer and into figures: refused, failed, given up,
//! or an audio stream that is metered to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::warn;

use super::answer::Body;
use crate::admission::{AdmissionError, Held, Permit};
use crate::audio::{AudioClock, Hint};
use crate::engine::{EngineBody, EngineError, SendBody};
use crate::meter::{Measured, Meter, Outcome};
use crate::metrics::{Model, Protocol};
use crate::protocol::Speech;
use crate::refusal::Refusal;
use crate::stream::{Books, Labels, Metered};

/// The `code` label of a synthesis whose caller left before it was answered; no answer carries it.
pub const CODE_CALLER_GONE: u16 = 499;

/// Puts [`Metering`] over an admission service.
#[derive(Clone, Debug)]
pub struct MeteringLayer {
    books: Arc<Books<EngineBody>>,
    client_buffer: Duration,
}

impl MeteringLayer {
    /// Writes into `books`; playback is taken to start `client_buffer` after the first audio byte.
    #[must_use]
    pub const fn new(books: Arc<Books<EngineBody>>, client_buffer: Duration) -> Self {
        Self { books, client_buffer }
    }
}

impl<S> Layer<S> for MeteringLayer {
    type Service = Metering<S>;

    fn layer(&self, inner: S) -> Metering<S> {
        Metering { inner, layer: self.clone() }
    }
}

/// Times a synthesis from its arrival to its last byte.
#[derive(Clone, Debug)]
pub struct Metering<S> {
    inner: S,
    layer: MeteringLayer,
}

impl<S> Service<Request<SendBody>> for Metering<S>
where
    S: Service<
            Request<SendBody>,
            Response = Held<Response<EngineBody>>,
            Error = AdmissionError<EngineError>,
            Future: Send + 'static,
        >,
{
    type Response = Response<Body>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        // An admission service over the engine client is always ready: it decides when it is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<SendBody>) -> Self::Future {
        let arrival = Arrival::of(&request, &self.layer);
        let answer = self.inner.call(request);
        Box::pin(async move {
            // Dropped before the answer: the caller is gone.
            let answered = answer.await;
            arrival.answered(answered)
        })
    }
}

/// A synthesis that was not answered yet. Dropped as it is, its caller left.
#[derive(Debug)]
struct Arrival {
    layer: MeteringLayer,
    at: Instant,
    model: Model,
    hint: Hint,
    answered: bool,
}

impl Arrival {
    fn of(request: &Request<SendBody>, layer: &MeteringLayer) -> Self {
        let speech = match request.body() {
            SendBody::Whole(Some(bytes)) => Speech::from_json(bytes),
            // A text longer than the read-ahead: its fields stand where they may.
            _ => Speech::default(),
        };
        let model = speech.model.as_deref();
        let accept = text(request.headers(), &ACCEPT);
        Self {
            layer: layer.clone(),
            at: Instant::now(),
            model: layer.books.metrics.model(model),
            hint: Hint::for_request(model, speech.format.as_deref(), speech.rate, accept),
            answered: false,
        }
    }

    const fn labels(&self, code: u16) -> Labels {
        Labels { protocol: Protocol::Http, model: self.model, code }
    }

    fn answered(
        mut self,
        answered: Result<Held<Response<EngineBody>>, AdmissionError<EngineError>>,
    ) -> Result<Response<Body>, Refusal> {
        self.answered = true;
        match answered {
            Ok(held) => {
                let (response, permit) = held.into_parts();
                Ok(self.began(response, permit))
            }
            Err(AdmissionError::Refused(refusal)) => {
                let waited = self.at.elapsed();
                self.layer.books.metrics.refused(Protocol::Http, self.model, refusal.reason, waited);
                Err(refusal)
            }
            Err(AdmissionError::Inner { error, permit }) => Err(self.failed(&error, permit)),
        }
    }

    fn began(&self, response: Response<EngineBody>, permit: Permit) -> Response<Body> {
        let headers = response.headers();
        let clock =
            AudioClock::for_answer(text(headers, &CONTENT_TYPE), text(headers, &CONTENT_ENCODING), self.hint);
        let waited = permit.waited();
        let dispatched = self.at + waited;
        let meter =
            Meter::new(self.at.into_std(), dispatched.into_std(), waited, clock, self.layer.client_buffer);
        let labels = self.labels(response.status().as_u16());
        response
            .map(|body| Body::Metered(Metered::new(&self.layer.books, body, permit, meter, labels, self.at)))
    }

    fn failed(&self, error: &EngineError, permit: Permit) -> Refusal {
        let refusal = Refusal::new(error.reason());
        let outcome = match error {
            EngineError::FirstByteTimeout => Outcome::EngineTimeout,
            EngineError::RequestBody(_) => Outcome::CallerGone,
            EngineError::Connect(_) | EngineError::ConnectTimeout | EngineError::Lost(_) => {
                Outcome::EngineError
            }
        };
        if outcome != Outcome::CallerGone {
            warn!(error = error as &dyn std::error::Error, "the engine did not answer a synthesis");
        }
        let waited = permit.waited();
        self.layer.books.settle(permit, outcome);
        self.write(refusal.reason.answer().http, waited, outcome);
        refusal
    }

    fn write(&self, code: u16, waited: Duration, outcome: Outcome) {
        let now = Instant::now();
        let measured = Measured::unanswered(self.at.into_std(), now.into_std(), waited, outcome);
        self.layer.books.written(now, self.labels(code), &measured);
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.answered {
            self.write(CODE_CALLER_GONE, Duration::ZERO, Outcome::CallerGone);
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
