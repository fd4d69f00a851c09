//! A request's way through the gate: recognise, admit, engine, meter, answer. Start reading here.
//!
//! ```text
//! RequestId ─ Relay ─┬─ pass-through ──────────────────────── engine client ─ engine
//!                    ├─ WebSocket ───── session: admission per synthesis ─ engine's socket
//!                    └─ Upload ─ Metering ─ Admission ──────── engine client ─ engine
//! ```
//!
//! Every box is a tower layer over the next. [`Relay`] looks at the head and takes one of three ways. A synthesis' body
//! is read by [`Upload`] before anything is decided, so that a slow caller holds no slot; then
//! [`Metering`](metering::Metering) notes the time, [`Admission`](crate::admission::layer) waits for a slot or
//! refuses, and the engine's answer comes back as a [`Metered`](crate::stream::Metered) body that holds the slot until the sound ends.

pub mod answer;
pub mod grpc;
pub mod metering;
pub mod request_id;
pub mod upload;
pub mod websocket;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower::{Layer, Service, ServiceBuilder};

use crate::admission::AdmissionLayer;
use crate::config::{Config, Listener};
use crate::engine::{EngineBody, EngineClient, EngineError, Outbound, SendBody};
use crate::metrics::Protocol;
use crate::protocol::arriving::Arriving;
use crate::protocol::headers::{self, Forwarding, Settled};
use crate::protocol::{Kind, Recognition};
use crate::refusal::{Reason, Refusal};
use crate::stream::Books;
use answer::Body;
use metering::MeteringLayer;
use request_id::{Named, RequestIdLayer};
use upload::{Upload, UploadLayer};
use websocket::Sockets;

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
) -> impl Service<Request<Arriving<Incoming>>, Response = Response<Named<Body>>, Error = Infallible, Future: Send>
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
    RequestIdLayer::new(config.forwarding.request_id_header.clone()).layer(Relay {
        shared: Arc::new(Shared {
            settings,
            books: Arc::clone(books),
            sockets: sockets.clone(),
            engine: engine.clone(),
            synthesis,
        }),
    })
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
    synthesis: Upload<S>,
}

impl<S> Clone for Relay<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> Service<Request<Arriving<Incoming>>> for Relay<S>
where
    S: Service<Outbound, Response = Response<Body>, Error = Refusal> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Nothing below holds anything before it is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Arriving<Incoming>>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let caller = request.version();
        // HTTP/1's parser counts by itself. One is the request's id, which may not be the caller's.
        if caller == Version::HTTP_2 && request.headers().len() > shared.settings.headers_max + 1 {
            let refused = Err(Refusal::new(Reason::HeadTooLarge));
            return Box::pin(ready(Ok(shared.answer(refused, caller))));
        }
        let kind = shared.settings.recognition.of(&request);
        let peer = Arc::clone(&request.body().peer);
        let settled = match headers::to_engine(&mut request, &peer, &shared.settings.forwarding) {
            Ok(settled) => settled,
            Err(bad) => {
                shared.books.metrics.turned_away(Protocol::Http, Reason::BadRequest);
                return Box::pin(ready(Ok(answer::bad_request(&bad, caller))));
            }
        };
        match kind {
            Kind::Synthesis => {
                let served = shared.synthesis.upload(shared.outbound(request, &settled));
                // An `async` block would hold it twice, and move it once more.
                Box::pin(served.map(move |served| Ok(shared.answer(served, caller))))
            }
            Kind::PassThrough => {
                let request = shared.outbound(request, &settled).map(SendBody::PassThrough);
                let served = shared.engine.send(request);
                Box::pin(async move { Ok(shared.answer(shared.passed(served.await), caller)) })
            }
            Kind::Socket(socket) => Box::pin(async move {
                let Shared { books, sockets, engine, .. } = &*shared;
                let opened = websocket::open(request, settled, socket, sockets, books, engine).await;
                Ok(shared.answer(opened, caller))
            }),
        }
    }
}

impl<S> Shared<S> {
    /// What the caller is told of what came of its request.
    fn answer(&self, served: Result<Response<Body>, Refusal>, caller: Version) -> Response<Body> {
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

    /// Writes the head. What the caller sent of it is not kept any longer: a request that waits is its bytes.
    fn outbound(&self, request: Request<Arriving<Incoming>>, settled: &Settled) -> Outbound<Incoming> {
        let (head, Arriving { body, spelling, .. }) = request.into_parts();
        self.engine.outbound(&head, spelling.as_ref(), settled, body)
    }

    /// Health, voices and all else that is no synthesis: never queued, never counted.
    fn passed(&self, sent: Result<Response<EngineBody>, EngineError>) -> Result<Response<Body>, Refusal> {
        match sent {
            Ok(response) => Ok(response.map(|body| Body::pass_through(body, self.settings.stall_timeout))),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a request was not passed through");
                Err(Refusal::new(error.reason()))
            }
        }
    }
}
