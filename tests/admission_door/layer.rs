//! The door as a tower layer: what a call holds, from when and until when.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rime_gate::admission::{AdmissionError, AdmissionLayer, WhenFull};
use rime_gate::refusal::Reason;
use tokio::time::advance;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{counts, door, settle};

/// Counts its calls; each ends as its request says.
#[derive(Clone, Default)]
struct Engine {
    calls: Arc<Mutex<u32>>,
    broken: bool,
}

#[derive(Clone, Copy)]
enum Ask {
    Answer,
    Fail,
    Hang,
}

impl Service<Ask> for Engine {
    type Response = &'static str;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<&'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        *self.calls.lock().unwrap() += 1;
        Box::pin(async move {
            match ask {
                Ask::Answer => Ok("audio"),
                Ask::Fail => Err(io::ErrorKind::ConnectionReset.into()),
                Ask::Hang => pending().await,
            }
        })
    }
}

#[tokio::test]
async fn a_service_that_is_ready_and_never_called_holds_nothing() {
    let door = door(1);
    let mut service = AdmissionLayer::new(door.clone()).layer(Engine::default());
    let mut idlers = vec![service.clone(); 5];
    for idler in &mut idlers {
        idler.ready().await.unwrap();
    }
    let never_polled = service.ready().await.unwrap().call(Ask::Answer);
    assert_eq!(counts(&door), (0, 0));
    let held = service.ready().await.unwrap().call(Ask::Answer).await.unwrap();
    assert_eq!(counts(&door), (1, 0));
    drop((held, never_polled));
    assert_eq!(counts(&door), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_the_engine_works_keeps_its_slot_as_long_as_the_engine_needs() {
    let door = door(1);
    let layer = AdmissionLayer::new(door.clone()).cancel_linger(Duration::from_millis(250));
    let mut service = layer.layer(Engine::default());
    let mut call = spawn(service.call(Ask::Hang));
    assert_pending!(call.poll());
    assert_eq!(call.waited(), Some(Duration::ZERO));
    drop(call);
    settle().await;
    advance(Duration::from_millis(249)).await;
    settle().await;
    assert_eq!(counts(&door), (1, 0));
    advance(Duration::from_millis(2)).await;
    settle().await;
    assert_eq!(counts(&door), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_leaves_the_queue_at_once_and_never_reaches_the_engine() {
    let door = door(1);
    let engine = Engine::default();
    let layer = AdmissionLayer::new(door.clone()).cancel_linger(Duration::from_millis(250));
    let mut service = layer.layer(engine.clone());
    let playing = service.call(Ask::Answer).await.unwrap();
    let mut gone = spawn(service.call(Ask::Answer));
    let mut next = spawn(service.call(Ask::Answer));
    assert_pending!(gone.poll());
    assert_pending!(next.poll());
    assert_eq!(counts(&door), (1, 2));
    drop(gone);
    assert_eq!(counts(&door), (1, 1));
    drop(playing);
    assert!(next.is_woken());
    let (audio, permit) = assert_ready_ok!(next.poll()).into_parts();
    assert_eq!((audio, *engine.calls.lock().unwrap()), ("audio", 2));
    drop(permit);
    assert_eq!(counts(&door), (0, 0));
}

#[tokio::test]
async fn an_inner_error_carries_the_permit() {
    let door = door(1);
    let engine = Engine::default();
    let mut service = AdmissionLayer::new(door.clone()).layer(engine.clone());
    let mut broken = AdmissionLayer::new(door.clone()).layer(Engine { broken: true, ..engine.clone() });
    let Err(AdmissionError::Inner { error, permit }) = service.call(Ask::Fail).await else {
        panic!("the engine failed");
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(counts(&door), (1, 0));
    drop(permit);
    let Err(AdmissionError::Inner { error, permit }) = broken.call(Ask::Answer).await else {
        panic!("a service that cannot get ready fails the call");
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(counts(&door), (1, 0));
    drop(permit);
    assert_eq!((counts(&door), *engine.calls.lock().unwrap()), ((0, 0), 1));
}

#[tokio::test]
async fn a_refused_call_never_reaches_the_engine() {
    let door = door(1);
    door.update(|settings| settings.when_full = WhenFull::Reject);
    let called = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&called);
    let mut service = AdmissionLayer::new(door.clone()).layer(service_fn(move |()| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(()) }
    }));
    let held = service.call(()).await.unwrap();
    let Err(AdmissionError::Refused(refusal)) = service.call(()).await else {
        panic!("there is one slot");
    };
    assert_eq!((refusal.reason, called.load(Ordering::SeqCst)), (Reason::LimitReached, 1));
    drop(held);
}
