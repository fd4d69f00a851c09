//! The door as a tower layer: a call waits for a slot, and its response comes together with the permit that pays for
//! it. Knows no protocol: what a response is, and when it has ended, is the caller's business.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Admit, Door, Permit};
use crate::refusal::Refusal;

/// Puts [`Admission`] over a service.
///
/// Tower's own `ConcurrencyLimit` frees its permit when the response future is done: for a streamed answer, at its
/// head. This layer hands the permit out with the response, so that it can ride with the body to the last byte.
///
/// Choose the limit by benchmark: the greatest number of syntheses at which the engine still meets its target. A limit
/// that is a guess is either a queue for nothing or a promise that cannot be kept.
///
/// ```
/// use std::num::NonZeroU32;
/// use rime_gate::admission::{AdmissionError, AdmissionLayer, Door, Held, Settings};
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let door = Door::new(Settings::new(NonZeroU32::MIN));
/// let mut speech = ServiceBuilder::new()
///     .layer(AdmissionLayer::new(door.clone()))
///     .service_fn(|text: &'static str| async move { Ok::<_, std::io::Error>(text.len()) });
///
/// let held: Held<usize> = speech.ready().await.unwrap().call("hello").await.unwrap();
/// // The answer has begun. Its slot is taken until the permit is dropped:
/// assert_eq!(door.snapshot().running, 1);
/// let (length, permit) = held.into_parts();
/// assert_eq!(length, 5);
/// drop(permit); // the last byte of audio went out
/// assert_eq!(door.snapshot().running, 0);
///
/// door.drain();
/// let refused = speech.ready().await.unwrap().call("late").await.unwrap_err();
/// assert!(matches!(refused, AdmissionError::Refused(_)));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AdmissionLayer {
    door: Door,
    cancel_linger: Duration,
}

impl AdmissionLayer {
    /// A layer through `door`.
    #[must_use]
    pub const fn new(door: Door) -> Self {
        Self { door, cancel_linger: Duration::ZERO }
    }

    /// How long a slot stays taken when a call is dropped before its response came: what was called may work on until
    /// it notices. Zero by default.
    #[must_use]
    pub const fn cancel_linger(mut self, linger: Duration) -> Self {
        self.cancel_linger = linger;
        self
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, layer: self.clone() }
    }
}

/// Lets a call through when it has a slot. Decides in `call`: a service that is ready and never called holds nothing.
#[derive(Clone, Debug)]
pub struct Admission<S> {
    inner: S,
    layer: AdmissionLayer,
}

/// A response, and the permit that lasts until whoever holds it drops it.
#[derive(Debug)]
#[must_use = "dropping it gives the slot back"]
pub struct Held<R> {
    response: R,
    permit: Permit,
}

impl<R> Held<R> {
    /// The response and its permit.
    pub fn into_parts(self) -> (R, Permit) {
        (self.response, self.permit)
    }
}

/// Why there is no response.
#[derive(Debug)]
pub enum AdmissionError<E> {
    /// The call was not let in; the inner service was not called.
    Refused(Refusal),
    /// The inner service failed. The permit is still held: whether the work behind it has ended, the error tells.
    Inner {
        /// The inner service's error.
        error: E,
        /// The call's slot.
        permit: Permit,
    },
}

impl<E: fmt::Display> fmt::Display for AdmissionError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Inner { error, .. } => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for AdmissionError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Inner { error, .. } => error.source(),
        }
    }
}

impl<S, R> Service<R> for Admission<S>
where
    S: Service<R> + Clone,
{
    type Response = Held<S::Response>;
    type Error = AdmissionError<S::Error>;
    type Future = ResponseFuture<S, R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The inner service is made ready once there is a slot: to hold it ready for a call that waits would keep
        // its capacity from others.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.calling(self.layer.door.admit(), request)
    }
}

impl<S> Admission<S> {
    /// As [`call`](Service::call), for whoever knows that the request arrives at `now`, and polls at once.
    pub(crate) fn call_at<R>(&self, now: Instant, request: R) -> ResponseFuture<S, R>
    where
        S: Service<R> + Clone,
    {
        self.calling(self.layer.door.admit_from(Some(now), None), request)
    }

    fn calling<R>(&self, admit: Admit, request: R) -> ResponseFuture<S, R>
    where
        S: Service<R> + Clone,
    {
        ResponseFuture {
            state: State::Waiting { admit, call: Some((self.inner.clone(), request)) },
            linger: Linger { after: self.layer.cancel_linger, permit: None },
        }
    }
}

pin_project! {
    /// The future of an admitted call.
    ///
    /// # Cancel safety
    ///
    /// Dropping it while it waits gives up the place in the queue. Dropping it later drops the inner call, and gives
    /// the slot back after `cancel_linger`.
    pub struct ResponseFuture<S, R> where S: Service<R> {
        // Before the permit: the inner call is dropped first.
        #[pin]
        state: State<S, R>,
        linger: Linger,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R> where S: Service<R> {
        // For the slot, and once there is a permit for the service.
        Waiting { #[pin] admit: Admit, call: Option<(S, R)> },
        Called { #[pin] response: S::Future },
    }
}

impl<S, R> ResponseFuture<S, R>
where
    S: Service<R>,
{
    /// How long the call waited for its slot; `None` while it has none.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.linger.permit.as_ref().map(Permit::waited)
    }
}

/// The slot of a call that was let in and has no response yet.
struct Linger {
    after: Duration,
    permit: Option<Permit>,
}

impl Drop for Linger {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.release_after(self.after);
        }
    }
}

impl<S, R> Future for ResponseFuture<S, R>
where
    S: Service<R>,
{
    type Output = Result<Held<S::Response>, AdmissionError<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Waiting { admit, call } => {
                    if this.linger.permit.is_none() {
                        this.linger.permit = Some(ready!(admit.poll(cx)).map_err(AdmissionError::Refused)?);
                    }
                    let (service, _) =
                        call.as_mut().expect("a call is taken in the step that leaves this state");
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        return Poll::Ready(Err(failed(error, this.linger)));
                    }
                    let (mut service, request) = call.take().expect("looked at just before");
                    State::Called { response: service.call(request) }
                }
                StateProjection::Called { response } => {
                    let response = ready!(response.poll(cx));
                    return Poll::Ready(match response {
                        Ok(response) => Ok(Held { response, permit: taken(this.linger) }),
                        Err(error) => Err(failed(error, this.linger)),
                    });
                }
            };
            this.state.set(next);
        }
    }
}

fn failed<E>(error: E, linger: &mut Linger) -> AdmissionError<E> {
    AdmissionError::Inner { error, permit: taken(linger) }
}

fn taken(linger: &mut Linger) -> Permit {
    linger.permit.take().expect("a call that was let in has its permit, and ends once")
}

impl<S: Service<R>, R> fmt::Debug for ResponseFuture<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admitted = self.linger.permit.is_some();
        f.debug_struct("ResponseFuture").field("admitted", &admitted).finish_non_exhaustive()
    }
}
