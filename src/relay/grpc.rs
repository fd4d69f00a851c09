//! A gRPC call's way through the gate: what it is, when it needs a slot, the engine, the meter, the answer. Re-encodes no
//! message and alters no metadata, but adds who called.
//!
//! - `Synthesize` is decided when its request message has been read, as an HTTP synthesis is.
//! - `SynthesizeStreaming` is decided when text has come that can be spoken; what came before it is held, up to
//!   [`text::OPENING_BYTES_MAX`]. From there on text flows as it comes, under HTTP/2's own back-pressure.
//! - The slot lasts until the engine's trailers, or its reset, or a cancel and its linger.
//! - `grpc-timeout` bounds the wait in the queue. It travels on as it came: where the wait has used some of it, the caller
//!   itself ends the call at its time, and the gate passes that on at once.
//! - A call that was sent is not sent again. A call that the engine resets is reset with the same code; one that is lost
//!   with its connection ends as `UNAVAILABLE`.

pub mod body;
mod health;
pub mod text;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::{debug, warn};

use super::forwarding;
use super::request_id::{Named, RequestIdLayer};
use super::upload::read_ahead;
use crate::admission::Permit;
use crate::audio::{AudioClock, Hint};
use crate::config::{Config, Limits};
use crate::engine::grpc::{Answer, CallError, GrpcClient};
use crate::engine::{Health, SendBody};
use crate::meter::{Measured, Meter, Outcome};
use crate::metrics::{CODE_CALLER_GONE, Model, Protocol};
use crate::protocol::arriving::Arriving;
use crate::protocol::grpc::{self, AUDIO_CONTENT_TYPE, Asked, Call, Status};
use crate::protocol::headers::{self, Forwarding};
use crate::refusal::{Reason, Refusal};
use crate::stream::{Books, Labels, Metered, Texts};
use body::Body;
use text::Text;

/// The stack over one engine client, for one `grpc` listener on one worker.
pub fn stack(
    config: &Config,
    books: &Arc<Books<Answer>>,
    health: &Arc<Health>,
    engine: &GrpcClient,
) -> impl Service<Request<Arriving<Incoming>>, Response = Response<Named<Body>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
+ use<> {
    let relay = Relay(Arc::new(Shared {
        forwarding: forwarding(config),
        limits: config.limits.clone(),
        client_buffer: config.target.client_buffer,
        books: Arc::clone(books),
        health: Arc::clone(health),
        engine: engine.clone(),
    }));
    RequestIdLayer::new(config.forwarding.request_id_header.clone()).layer(relay)
}

/// Serves gRPC calls.
#[derive(Clone, Debug)]
pub struct Relay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    forwarding: Forwarding,
    limits: Limits,
    client_buffer: Duration,
    books: Arc<Books<Answer>>,
    health: Arc<Health>,
    engine: GrpcClient,
}

impl Service<Request<Arriving<Incoming>>> for Relay {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Arriving<Incoming>>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { Ok(shared.serve(request).await) })
    }
}

impl Shared {
    async fn serve(&self, request: Request<Arriving<Incoming>>) -> Response<Body> {
        if request.version() != Version::HTTP_2 {
            self.books.metrics.turned_away(Protocol::Grpc, Reason::BadRequest);
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            return response;
        }
        let call = grpc::call(request.uri().path());
        let served = match self.to_engine(request) {
            Err(refusal) => Err(Refused { refusal, out_of_time: false }),
            Ok(request) => match call {
                Call::Synthesize => self.synthesize(request).await,
                Call::SynthesizeStreaming => self.synthesize_streaming(request).await,
                Call::HealthCheck => Ok(health::check(self.is_ready(), request, &self.limits).await),
                Call::HealthWatch => {
                    Ok(health::watch(&self.health, &self.books.door, request, &self.limits).await)
                }
                Call::PassThrough => self.pass_through(request).await,
            },
        };
        served.unwrap_or_else(|Refused { refusal, out_of_time }| {
            if !refusal.reason.is_of_the_door() {
                self.books.metrics.turned_away(Protocol::Grpc, refusal.reason);
            }
            ended(&Status::refused(refusal, out_of_time))
        })
    }

    fn to_engine(&self, mut request: Request<Arriving<Incoming>>) -> Result<Request<Incoming>, Refusal> {
        // One is the request's id, which may not be the caller's.
        if request.headers().len() > self.limits.headers_max + 1 {
            return Err(Refusal::new(Reason::HeadTooLarge));
        }
        let peer = Arc::clone(&request.body().peer);
        headers::to_grpc_engine(&mut request, self.engine.authority(), &peer, &self.forwarding)
            .map_err(|_| Refusal::new(Reason::BadRequest))?;
        Ok(request.map(|arriving| arriving.body))
    }

    fn is_ready(&self) -> bool {
        self.health.is_up() && !self.books.door.snapshot().draining
    }

    /// Everything that is no synthesis: never queued, never counted.
    async fn pass_through(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        match Box::pin(self.engine.call(request.map(SendBody::PassThrough))).await {
            Ok(response) => Ok(response.map(|answer| Body::PassThrough { answer, ended: false })),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "a call was not passed through");
                Err(Refusal::new(error.reason()).into())
            }
        }
    }

    async fn synthesize(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let deadline = deadline(request.headers());
        let (head, body) = request.into_parts();
        let body = read_ahead(body, self.limits.body_bytes_max, self.limits.body_timeout)
            .await
            .map_err(Refusal::new)?;
        let asked = match &body {
            SendBody::Whole(Some(bytes)) => Asked::from_body(bytes),
            // Longer than what is read ahead: the engine's metadata tells the format.
            _ => Asked::default(),
        };
        let arrival = self.arrival(&asked);
        let response = self.admitted(arrival, deadline, Request::from_parts(head, body), None).await?;
        Ok(response)
    }

    async fn synthesize_streaming(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let deadline = deadline(request.headers());
        let (head, body) = request.into_parts();
        let texts = Arc::new(Texts::default());
        let (asked, text) =
            Text::read(body, self.limits.idle_timeout, Arc::clone(&texts)).await.map_err(Refusal::new)?;
        let arrival = self.arrival(&asked);
        self.admitted(arrival, deadline, Request::from_parts(head, text), Some(texts)).await
    }

    fn arrival(&self, asked: &Asked) -> Arrival {
        let hint = Hint::for_request(None, asked.format(), asked.rate(), None);
        let model = self.books.metrics.model(None);
        let books = Arc::clone(&self.books);
        Arrival { books, at: Instant::now(), model, hint, stage: Stage::Waiting }
    }

    /// Waits for a slot, calls the engine, and puts the slot and the meter into the answer.
    async fn admitted<B>(
        &self,
        mut arrival: Arrival,
        deadline: Option<Instant>,
        request: Request<B>,
        texts: Option<Arc<Texts>>,
    ) -> Result<Response<Body>, Refused>
    where
        B: http_body::Body<Data = bytes::Bytes, Error: Send> + Send + Unpin + 'static,
    {
        match self.books.door.admit_before(deadline).await {
            Ok(permit) => arrival.stage = Stage::Called(permit),
            Err(refusal) => {
                let out_of_time = refusal.reason == Reason::QueueTimeout
                    && deadline.is_some_and(|deadline| Instant::now() >= deadline);
                arrival.refused(refusal.reason);
                return Err(Refused { refusal, out_of_time });
            }
        }
        match self.engine.call(request).await {
            Ok(response) => Ok(arrival.began(response, self.client_buffer, texts)),
            Err(error) => Err(arrival.failed(&error).into()),
        }
    }
}

/// When the caller gives up by itself.
fn deadline(headers: &HeaderMap) -> Option<Instant> {
    // A deadline beyond what a clock can tell is none.
    Instant::now().checked_add(grpc::timeout(headers)?)
}

/// An answer that is all head: trailers-only, HTTP status 200 whatever the call's own is.
fn ended(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = status.trailers();
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A refusal, and whether it was the caller's own deadline that ended the wait.
struct Refused {
    refusal: Refusal,
    out_of_time: bool,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, out_of_time: false }
    }
}

/// A synthesis that was not answered yet. Dropped before that, its caller is gone.
#[derive(Debug)]
struct Arrival {
    books: Arc<Books<Answer>>,
    at: Instant,
    model: Model,
    hint: Hint,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Called(Permit),
    Over,
}

impl Arrival {
    const fn labels(&self, code: u16) -> Labels {
        Labels { protocol: Protocol::Grpc, model: self.model, code }
    }

    fn refused(&mut self, reason: Reason) {
        self.stage = Stage::Over;
        self.books.metrics.refused(Protocol::Grpc, self.model, reason, self.at.elapsed());
    }

    fn began(
        mut self,
        response: Response<Answer>,
        client_buffer: Duration,
        texts: Option<Arc<Texts>>,
    ) -> Response<Body> {
        let Stage::Called(permit) = std::mem::replace(&mut self.stage, Stage::Over) else {
            unreachable!("an answer begins once, with a slot")
        };
        let headers = response.headers();
        let content_type = headers.get(AUDIO_CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let clock = AudioClock::for_grpc(content_type, self.hint);
        let waited = permit.waited();
        let meter = Meter::new(self.at.into_std(), waited, clock, client_buffer);
        // A trailers-only answer has its status in its head.
        let code = match (response.status().as_u16(), grpc::code_of(headers)) {
            (200, Some(status)) => grpc::http_code(status),
            (code, _) => code,
        };
        let labels = self.labels(code);
        response.map(|answer| {
            let metered = Metered::new(&self.books, answer, permit, meter, labels, self.at);
            Body::Metered { body: metered.fed_by(texts.clone()), texts, ended: false }
        })
    }

    fn failed(mut self, error: &CallError) -> Refusal {
        let refusal = Refusal::new(error.reason());
        let outcome = match error {
            CallError::FirstByteTimeout => Outcome::EngineTimeout,
            _ => Outcome::EngineError,
        };
        warn!(error = error as &dyn std::error::Error, "the engine did not answer a synthesis");
        self.end(refusal.reason.answer().http, outcome, error.is_unsent());
        refusal
    }

    /// Gives the slot back, at once where the engine never saw the call, and writes it down.
    fn end(&mut self, code: u16, outcome: Outcome, unsent: bool) {
        let Stage::Called(permit) = std::mem::replace(&mut self.stage, Stage::Over) else { return };
        let (waited, level) = (permit.waited(), permit.mean_level());
        if unsent {
            drop(permit);
        } else {
            permit.release_after(self.books.cancel_linger);
        }
        let now = Instant::now();
        let measured = Measured::unanswered(self.at.into_std(), now.into_std(), waited, outcome);
        self.books.written(now, self.labels(code), &measured, level);
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        match self.stage {
            Stage::Over => {}
            Stage::Waiting => {
                self.books.metrics.caller_left_queue(Protocol::Grpc, self.model, self.at.elapsed());
            }
            Stage::Called(_) => self.end(CODE_CALLER_GONE, Outcome::CallerGone, false),
        }
    }
}
