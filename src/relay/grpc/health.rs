//! gRPC health checking (`grpc.health.v1.Health`), answered for the gate itself: serving means that a synthesis would be
//! admitted, as `/readyz` does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::body::Body;
use super::ended;
use crate::admission::Door;
use crate::config::Limits;
use crate::engine::Health;
use crate::protocol::grpc::{HealthAnswer, HealthRequest, Status, framed};
use crate::refusal::{Reason, Refusal};

/// What is read of a request: the name of a service.
const REQUEST_BYTES_MAX: usize = 4_096;

/// How often a watcher looks: health is asked of the engine every two seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

async fn request(request: Request<Incoming>, limits: &Limits) -> Option<HealthRequest> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    let body = timeout(limits.body_timeout, body).await.ok()?.ok()?;
    HealthRequest::from_body(&body.to_bytes())
}

fn began(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// `Check`.
pub(super) async fn check(ready: bool, asked: Request<Incoming>, limits: &Limits) -> Response<Body> {
    match request(asked, limits).await {
        None => ended(&Status::INVALID),
        Some(asked) if !asked.is_known() => ended(&Status::NOT_FOUND),
        Some(_) => began(Body::Own {
            message: Some(framed(&HealthAnswer::of(ready)).into()),
            trailers: Some(Status::OK.trailers()),
        }),
    }
}

/// `Watch`.
pub(super) async fn watch(
    health: &Arc<Health>,
    door: &Door,
    asked: Request<Incoming>,
    limits: &Limits,
) -> Response<Body> {
    let Some(asked) = request(asked, limits).await else { return ended(&Status::INVALID) };
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    began(Body::Watch(Box::new(Watch {
        health: Arc::clone(health),
        door: door.clone(),
        known: asked.is_known(),
        told: None,
        looks,
        stage: Stage::Looking,
    })))
}

/// The gate's health, told at once and whenever it changes. It ends when the gate drains, so that a watcher keeps no
/// connection open.
#[derive(Debug)]
pub struct Watch {
    health: Arc<Health>,
    door: Door,
    known: bool,
    told: Option<HealthAnswer>,
    looks: Interval,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Looking,
    /// The last message is out.
    Draining,
    Over,
}

impl Watch {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        match self.stage {
            Stage::Over => return Poll::Ready(None),
            Stage::Draining => {
                self.stage = Stage::Over;
                let refusal = Refusal::new(Reason::Draining);
                return Poll::Ready(Some(Frame::trailers(Status::refused(refusal, false).trailers())));
            }
            Stage::Looking => {}
        }
        while Pin::new(&mut self.looks).poll_tick(cx).is_ready() {
            let draining = self.door.snapshot().draining;
            if draining {
                self.stage = Stage::Draining;
            }
            let now = match self.known {
                true => HealthAnswer::of(self.health.is_up() && !draining),
                false => HealthAnswer::SERVICE_UNKNOWN,
            };
            if draining && self.told == Some(now) {
                return self.poll_frame(cx);
            }
            if self.told.replace(now) != Some(now) {
                return Poll::Ready(Some(Frame::data(framed(&now).into())));
            }
        }
        Poll::Pending
    }
}
