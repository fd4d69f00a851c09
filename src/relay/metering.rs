//! Starts a synthesis' clock, and turns what became of it into an answer and into figures: refused, failed, given up,
//! or an audio stream that is metered to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::warn;

use super::answer::Body;
use crate::admission::layer::ResponseFuture;
use crate::admission::{Admission, AdmissionError, Held, Permit};
use crate::audio::{AudioClock, Hint};
use crate::engine::{EngineBody, EngineError, Outbound, SendBody};
use crate::meter::{Measured, Meter, Outcome};
use crate::metrics::{CODE_CALLER_GONE, Model, Protocol};
use crate::protocol::Speech;
use crate::refusal::Refusal;
use crate::stream::{Books, Labels, Metered};

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

impl<S> Service<Outbound> for Metering<Admission<S>>
where
    S: Service<Outbound, Response = Response<EngineBody>, Error = EngineError> + Clone,
{
    type Response = Response<Body>;
    type Error = Refusal;
    type Future = Synthesis<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        // Admission is always ready: it decides when it is called.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, request: Outbound) -> Synthesis<S> {
        let arrival = Arrival::of(&request, &self.layer);
        Synthesis { answer: self.inner.call_at(arrival.at, request), arrival: Some(arrival) }
    }
}

pin_project! {
    /// A synthesis until its answer begins. Dropped before that, its caller is gone.
    #[derive(Debug)]
    pub struct Synthesis<S>
    where
        S: Service<Outbound>,
    {
        #[pin]
        answer: ResponseFuture<S, Outbound>,
        arrival: Option<Arrival>,
    }

    impl<S> PinnedDrop for Synthesis<S>
    where
        S: Service<Outbound>,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(arrival) = this.arrival.take() {
                arrival.given_up(this.answer.waited());
            }
        }
    }
}

impl<S> Future for Synthesis<S>
where
    S: Service<Outbound, Response = Response<EngineBody>, Error = EngineError>,
{
    type Output = Result<Response<Body>, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        let arrival = this.arrival.take().expect("a future is not polled after it was ready");
        Poll::Ready(arrival.answered(answer))
    }
}

/// A synthesis that was not answered yet.
#[derive(Debug)]
struct Arrival {
    layer: MeteringLayer,
    at: Instant,
    model: Model,
    hint: Hint,
}

impl Arrival {
    fn of(request: &Outbound, layer: &MeteringLayer) -> Self {
        let speech = match &request.body {
            SendBody::Whole(Some(bytes)) => Speech::from_json(bytes),
            // A text longer than the read-ahead: its fields stand where they may.
            _ => Speech::default(),
        };
        let model = speech.model.as_deref();
        Self {
            layer: layer.clone(),
            at: Instant::now(),
            model: layer.books.metrics.model(model),
            hint: Hint::for_request(model, speech.format.as_deref(), speech.rate, request.accept()),
        }
    }

    const fn labels(&self, code: u16) -> Labels {
        Labels { protocol: Protocol::Http, model: self.model, code }
    }

    fn answered(
        self,
        answered: Result<Held<Response<EngineBody>>, AdmissionError<EngineError>>,
    ) -> Result<Response<Body>, Refusal> {
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
        let meter = Meter::new(self.at.into_std(), waited, clock, self.layer.client_buffer);
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
        let (waited, level) = (permit.waited(), permit.mean_level());
        match error {
            EngineError::Connect(_) | EngineError::ConnectTimeout => drop(permit),
            // The request may have reached the engine, and the engine may be at work on it.
            _ => permit.release_after(self.layer.books.cancel_linger),
        }
        self.write(refusal.reason.answer().http, waited, outcome, level);
        refusal
    }

    /// The caller went away: while it waited for its slot where `waited` is `None`, else while the engine worked.
    fn given_up(&self, waited: Option<Duration>) {
        match waited {
            Some(waited) => self.write(CODE_CALLER_GONE, waited, Outcome::CallerGone, None),
            None => {
                self.layer.books.metrics.caller_left_queue(Protocol::Http, self.model, self.at.elapsed());
            }
        }
    }

    fn write(&self, code: u16, waited: Duration, outcome: Outcome, level: Option<f64>) {
        let now = Instant::now();
        let measured = Measured::unanswered(self.at.into_std(), now.into_std(), waited, outcome);
        self.layer.books.written(now, self.labels(code), &measured, level);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
