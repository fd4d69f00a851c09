//! A request's way through the gate: recognise, admit, engine, meter, answer. Start reading here.
//!
//! ```text
//! request id ─ trace ─ Relay ─┬─ pass-through ──────────────────────── engine client ─ engine
//!                             └─ Upload ─ Metering ─ Admission ──────── engine client ─ engine
//! ```
//!
//! Every box is a tower layer over the next. [`Relay`] looks at the head and takes one of two ways. A synthesis' body
//! is read by [`Upload`](upload::Upload) before anything is decided, so that a slow caller holds no slot; then
//! [`Metering`](metering::Metering) notes the time, [`Admission`](crate::admission::layer) waits for a slot or
//! refuses, and the engine's answer comes back as a [`Metered`](crate::stream::Metered) body that holds the slot until the sound ends.

pub mod answer;
pub mod grpc;
pub mod metering;
pub mod upload;
pub mod websocket;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower::{Service, ServiceBuilder};
use tower_http::classify::{NeverClassifyEos, ServerErrorsFailureClass};
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::{ResponseBody, TraceLayer};
use tracing::{Span, debug_span};

use crate::admission::AdmissionLayer;
use crate::config::{Config, Listener};
use crate::engine::{EngineBody, EngineClient, SendBody};
use crate::metrics::Protocol;
use crate::protocol::headers::{self, Forwarding, Peer};
use crate::protocol::{Kind, Recognition};
use crate::refusal::{Reason, Refusal};
use crate::stream::Books;
use answer::Body;
use metering::MeteringLayer;
use upload::UploadLayer;
use websocket::Sockets;

mod request_id;

/// What the relay does to every request alike.
#[derive(Debug)]
struct Settings {
    recognition: Recognition,
    forwarding: Forwarding,
    headers_max: usize,
    stall_timeout: Duration,
    status_when_full: u16,
}

/// The whole stack over one engine client, for one listener on one worker.
pub fn stack(
    config: &Config,
    listener: &Listener,
    books: &Arc<Books<EngineBody>>,
    sockets: &Sockets,
    engine: &EngineClient,
) -> impl Service<Request<Incoming>, Response = Response<TracedBody>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
+ use<> {
    let settings = Settings {
        recognition: Recognition::new(listener.surface, &listener.synthesis_paths),
        forwarding: forwarding(config),
        headers_max: config.limits.headers_max,
        stall_timeout: config.engine.stall_timeout,
        status_when_full: config.admission.status_when_full.code(),
    };
    let synthesis = ServiceBuilder::new()
        .layer(UploadLayer::new(&config.limits))
        .layer(MeteringLayer::new(Arc::clone(books), config.target.client_buffer))
        .layer(AdmissionLayer::new(books.door.clone()).cancel_linger(config.engine.cancel_linger))
        .service(engine.clone());
    let relay = Relay {
        shared: Arc::new(Shared {
            settings,
            books: Arc::clone(books),
            sockets: sockets.clone(),
            engine: engine.clone(),
            synthesis,
        }),
    };
    around(config, relay)
}

/// What every surface's stack has around it: a request id, and a span for the log.
fn around<S, B>(
    config: &Config,
    service: S,
) -> impl Service<Request<Incoming>, Response = Response<Traced<B>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
+ use<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Error: std::fmt::Display> + Send + 'static,
{
    let request_id = &config.forwarding.request_id_header;
    ServiceBuilder::new()
        .layer(SetRequestIdLayer::new(request_id.clone(), request_id::Ids::default()))
        .layer(PropagateRequestIdLayer::new(request_id.clone()))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_request(())
                .on_response(())
                .on_body_chunk(())
                .on_eos(())
                .on_failure(()),
        )
        .service(service)
}

/// What the engine is told about callers.
fn forwarding(config: &Config) -> Forwarding {
    let forwarding = &config.forwarding;
    Forwarding {
        x_forwarded: forwarding.forwarded_headers.x_forwarded(),
        forwarded: forwarding.forwarded_headers.forwarded(),
        trust_incoming: forwarding.trust_incoming,
        via: forwarding.via.as_deref().and_then(Forwarding::via_of),
    }
}

/// An answer's body as it leaves the stack.
pub type Traced<B> = ResponseBody<B, NeverClassifyEos<ServerErrorsFailureClass>, (), (), ()>;

/// As above, on every surface but gRPC's.
pub type TracedBody = Traced<Body>;

fn span(request: &Request<Incoming>) -> Span {
    let id = request.extensions().get::<tower_http::request_id::RequestId>();
    let id = id.and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    debug_span!("request", method = %request.method(), path = request.uri().path(), id)
}

/// Tells syntheses from the rest, and settles the headers of both ways.
#[derive(Debug)]
pub struct Relay<S> {
    /// One count to take for a request, whatever there is in it.
    shared: Arc<Shared<S>>,
}

#[derive(Debug)]
struct Shared<S> {
    settings: Settings,
    books: Arc<Books<EngineBody>>,
    sockets: Sockets,
    engine: EngineClient,
    synthesis: S,
}

impl<S> Clone for Relay<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> Service<Request<Incoming>> for Relay<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Refusal> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Nothing below holds anything before it is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { Ok(shared.serve(request).await) })
    }
}

impl<S> Shared<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Refusal> + Clone,
{
    async fn serve(&self, mut request: Request<Incoming>) -> Response<Body> {
        let caller = request.version();
        // HTTP/1's parser counts by itself.
        if caller == Version::HTTP_2 && request.headers().len() > self.settings.headers_max {
            self.books.metrics.turned_away(Protocol::Http, Reason::HeadTooLarge);
            return answer::refusal(&Refusal::new(Reason::HeadTooLarge), self.settings.status_when_full);
        }
        let served = match self.to_engine(&mut request) {
            Ok(Kind::Synthesis) => {
                let synthesis = self.synthesis.clone().call(request);
                synthesis.await
            }
            Ok(Kind::PassThrough) => self.pass_through(request).await,
            // Boxed for the same reason as a pass-through: its state would be carried by every request.
            Ok(Kind::Socket(socket)) => {
                Box::pin(websocket::open(request, socket, &self.sockets, &self.books, &self.engine)).await
            }
            Err(bad) => {
                self.books.metrics.turned_away(Protocol::Http, Reason::BadRequest);
                return answer::bad_request(&bad, caller);
            }
        };
        match served {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => response,
            Ok(mut response) => {
                headers::to_caller(&mut response, caller);
                response
            }
            Err(refusal) => {
                if !refusal.reason.is_of_the_door() {
                    self.books.metrics.turned_away(Protocol::Http, refusal.reason);
                }
                answer::refusal(&refusal, self.settings.status_when_full)
            }
        }
    }

    fn to_engine(&self, request: &mut Request<Incoming>) -> Result<Kind, headers::BadHead> {
        let settings = &self.settings;
        let kind = settings.recognition.of(request);
        let peer = request.extensions_mut().remove::<Peer>().unwrap_or_default();
        headers::to_engine(request, &peer, &settings.forwarding)?;
        Ok(kind)
    }

    /// Health, voices and all else that is no synthesis: never queued, never counted.
    async fn pass_through(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        // Boxed: the state of a pass-through would make every synthesis' future larger.
        match Box::pin(self.engine.send(request.map(SendBody::PassThrough))).await {
            Ok(response) => Ok(response.map(|body| Body::pass_through(body, self.settings.stall_timeout))),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a request was not passed through");
                Err(Refusal::new(error.reason()))
            }
        }
    }
}
