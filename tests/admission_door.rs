//! The door and its layer: whatever becomes of a caller, its slot or its place comes back, once and at once; and on any
//! number of threads there are never more inside than the limit.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::admission::{
    AdmissionError, AdmissionLayer, Admit, Door, Permit, QueueWaitMax, Settings, WhenFull,
};
use rime_gate::refusal::{Reason, Refusal};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;
use tokio::runtime;
use tokio::time::{Instant, advance};
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};

const WAIT_MAX: Duration = Duration::from_millis(700);

fn limit(limit: u32) -> NonZeroU32 {
    NonZeroU32::new(limit).unwrap()
}

fn door(limit_at_start: u32) -> Door {
    let queue_wait_max = QueueWaitMax::Fixed(WAIT_MAX);
    Door::new(Settings { queue_wait_max, queue_max: 12, ..Settings::new(limit(limit_at_start)) })
}

fn counts(door: &Door) -> (u32, u32) {
    let snapshot = door.snapshot();
    (snapshot.running, snapshot.waiting)
}

/// Lets the tasks run that the time gone by has woken.
async fn settle() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

struct Caller {
    admit: Spawn<Admit>,
    /// Since when it stands in the queue, once it was polled.
    since: Option<Instant>,
}

/// A schedule's callers, and what each of them holds.
struct Street {
    door: Door,
    rng: StdRng,
    callers: Vec<Caller>,
    permits: Vec<Permit>,
    /// When each lingering slot comes back.
    lingering: Vec<Instant>,
    limit: u32,
    draining: bool,
}

impl Street {
    fn new(seed: u64) -> Self {
        Self {
            door: door(3),
            rng: StdRng::seed_from_u64(seed),
            callers: Vec::new(),
            permits: Vec::new(),
            lingering: Vec::new(),
            limit: 3,
            draining: false,
        }
    }

    fn below(&mut self, most: usize) -> usize {
        self.rng.random_range(0..most)
    }

    async fn step(&mut self) {
        let before = self.door.snapshot().running;
        match self.below(24) {
            0..=5 => self.callers.push(Caller { admit: spawn(self.door.admit()), since: None }),
            6..=12 if !self.callers.is_empty() => self.poll(),
            13..=14 if !self.callers.is_empty() => {
                let nth = self.below(self.callers.len());
                drop(self.callers.swap_remove(nth));
            }
            15..=18 if !self.permits.is_empty() => self.release(),
            19..=21 => {
                // Timers are as fine as this.
                advance(Duration::from_millis(self.rng.random_range(0..400))).await;
                settle().await;
            }
            22 => {
                self.limit = self.rng.random_range(1..6);
                self.door.set_limit(limit(self.limit));
            }
            23 if self.below(10) == 0 => {
                self.draining = true;
                self.door.drain();
            }
            _ => {}
        }
        self.check(before);
    }

    fn poll(&mut self) {
        let nth = self.below(self.callers.len());
        let caller = &mut self.callers[nth];
        let woken = caller.admit.is_woken();
        match caller.admit.poll() {
            Poll::Pending => {
                assert!(!woken, "woken for nothing");
                caller.since.get_or_insert_with(Instant::now);
                return;
            }
            Poll::Ready(Ok(permit)) => {
                assert!(woken || caller.since.is_none(), "had a slot and was not woken");
                assert!(permit.waited() < WAIT_MAX);
                self.permits.push(permit);
            }
            Poll::Ready(Err(Refusal { reason, .. })) => match (caller.since, reason) {
                (Some(since), Reason::QueueTimeout) => assert!(since.elapsed() >= WAIT_MAX),
                (_, Reason::Draining) => assert!(self.draining),
                (None, Reason::QueueFull | Reason::Deadline) => {}
                (since, reason) => panic!("{reason:?} after {since:?}"),
            },
        }
        drop(self.callers.swap_remove(nth));
    }

    fn release(&mut self) {
        let nth = self.below(self.permits.len());
        let permit = self.permits.swap_remove(nth);
        if self.below(3) == 0 {
            let linger = Duration::from_millis(self.rng.random_range(0..300));
            permit.release_after(linger);
            self.lingering.push(Instant::now() + linger);
        }
    }

    fn check(&mut self, before: u32) {
        let now = Instant::now();
        self.lingering.retain(|until| *until > now);
        let (running, waiting) = counts(&self.door);
        assert!(running <= before.max(self.limit), "more than the limit");
        assert!(waiting == 0 || running >= self.limit, "a slot is free and somebody waits");
        let queued = || self.callers.iter().filter(|caller| caller.since.is_some());
        let held = self.permits.len() + self.lingering.len();
        assert!(held <= running as usize, "a slot came back twice");
        let uncollected = running as usize - held;
        assert!(uncollected <= queued().filter(|caller| caller.admit.is_woken()).count());
        for caller in queued().filter(|caller| !caller.admit.is_woken()) {
            let since = caller.since.unwrap();
            assert!(since.elapsed() < WAIT_MAX, "nobody told a caller that its time is up");
        }
        assert!(queued().filter(|caller| !caller.admit.is_woken()).count() <= waiting as usize);
    }

    /// All go home; then nothing is left behind.
    async fn end(mut self) {
        self.draining = true;
        self.door.drain();
        let door = self.door.clone();
        let mut idle = spawn(async move { door.idle().await });
        if counts(&self.door) == (0, 0) {
            assert_ready!(idle.poll());
            return;
        }
        assert_pending!(idle.poll());
        while !self.callers.is_empty() {
            if self.below(2) == 0 {
                self.poll();
            } else {
                self.callers.pop();
            }
        }
        self.permits.clear();
        advance(Duration::from_millis(301)).await;
        settle().await;
        assert_eq!(counts(&self.door), (0, 0));
        assert!(idle.is_woken());
        assert_ready!(idle.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_callers_do_their_slots_come_back() {
    for seed in 0..3_000 {
        let schedule = tokio::task::unconstrained(async move {
            let mut street = Street::new(seed);
            for _ in 0..60 {
                street.step().await;
            }
            street.end().await;
        });
        let ended = tokio::spawn(schedule).await;
        assert!(ended.is_ok(), "the schedule of seed {seed} failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moves_to_another_task_is_woken_there() {
    let door = door(1);
    let playing = door.admit().await.unwrap();
    let mut first = Box::pin(door.admit());
    let mut here = spawn(std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())));
    assert!(assert_ready!(here.poll()));
    let mut there = spawn(first);
    assert_pending!(there.poll());
    drop(playing);
    assert!(there.is_woken());
    drop(assert_ready_ok!(there.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_will_not_wait_longer_is_told_at_its_deadline() {
    let door = door(1);
    let _playing = door.admit().await.unwrap();
    let mut hurried = spawn(door.admit_before(Some(Instant::now() + Duration::from_millis(20))));
    assert_pending!(hurried.poll());
    advance(Duration::from_millis(21)).await;
    assert!(hurried.is_woken());
    assert_eq!(assert_ready_err!(hurried.poll()).reason, Reason::QueueTimeout);
    let past = Instant::now() - Duration::from_millis(1);
    assert_eq!(door.admit_before(Some(past)).await.unwrap_err().reason, Reason::Deadline);
}

#[tokio::test]
async fn a_panic_gives_the_slot_back() {
    let door = door(1);
    let permit = door.admit().await.unwrap();
    let holder = tokio::spawn(async move {
        let _permit = permit;
        panic!("a panic on purpose");
    });
    assert!(holder.await.unwrap_err().is_panic());
    assert_eq!(counts(&door), (0, 0));
}

#[test]
fn a_runtime_that_ends_gives_its_slots_back() {
    let door = door(3);
    let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(runtime.block_on(door.admit()).unwrap());
    }
    let mut waits = Box::pin(door.admit());
    runtime.block_on(async {
        let waiting = std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx).is_pending())).await;
        assert!(waiting);
        held.pop().unwrap().release_after(Duration::from_secs(3_600));
        let permit = held.pop().unwrap();
        drop(tokio::spawn(async move {
            let _permit = permit;
            pending::<()>().await;
        }));
    });
    assert_eq!(counts(&door), (3, 1));
    drop(waits);
    drop(runtime);
    assert_eq!(counts(&door), (1, 0));
    // Outside of any runtime there is nothing to wait on.
    held.pop().unwrap().release_after(Duration::from_secs(3_600));
    assert_eq!(counts(&door), (0, 0));
}

const THREADS: u64 = 4;
const CALLERS: u64 = 48;
const ROUNDS: u32 = 30;
const LIMIT_MAX: u32 = 6;

/// What the threads know, besides the door: the witness counts by itself.
#[derive(Default)]
struct Witness {
    inside: AtomicU32,
    peak: AtomicU32,
    served: AtomicU32,
    left: AtomicU32,
}

impl Witness {
    fn enter(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(inside, Ordering::SeqCst);
        self.served.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts down before the slot is free, so that the next one cannot be counted beside this one.
    fn leave(&self, permit: Permit) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
        drop(permit);
    }
}

async fn yields(count: u32) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// One caller: waits as long as it likes, holds as long as it likes, and lets go here or on another thread.
async fn call(door: Door, witness: Arc<Witness>, seed: u64, elsewhere: mpsc::Sender<Permit>) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..ROUNDS {
        let patience = rng.random_range(0..100);
        let admitted = tokio::select! {
            biased;
            admitted = door.admit() => admitted.ok(),
            () = yields(patience) => None,
        };
        let Some(permit) = admitted else {
            witness.left.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            continue;
        };
        witness.enter();
        yields(rng.random_range(0..6)).await;
        match rng.random_range(0..12) {
            0..=2 => elsewhere.send(permit).unwrap(),
            3 => {
                witness.leave(permit);
                door.set_limit(limit(rng.random_range(1..=LIMIT_MAX)));
            }
            _ => witness.leave(permit),
        }
    }
}

#[test]
fn on_many_threads_never_more_are_inside_than_the_limit() {
    let door = Door::new(Settings {
        queue_max: 1_000,
        queue_wait_max: QueueWaitMax::Fixed(Duration::from_secs(60)),
        ..Settings::new(limit(LIMIT_MAX))
    });
    let witness = Arc::new(Witness::default());
    let (elsewhere, left_here) = mpsc::channel();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (door, witness, elsewhere) = (door.clone(), Arc::clone(&witness), elsewhere.clone());
            scope.spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let callers: Vec<_> = (0..CALLERS)
                        .map(|n| {
                            (door.clone(), Arc::clone(&witness), thread * CALLERS + n, elsewhere.clone())
                        })
                        .map(|(door, witness, seed, elsewhere)| {
                            tokio::spawn(call(door, witness, seed, elsewhere))
                        })
                        .collect();
                    for caller in callers {
                        caller.await.unwrap();
                    }
                });
            });
        }
        drop(elsewhere);
        for permit in left_here {
            witness.leave(permit);
        }
    });
    assert_eq!(counts(&door), (0, 0));
    assert_eq!(witness.inside.load(Ordering::SeqCst), 0);
    assert_eq!(witness.peak.load(Ordering::SeqCst), LIMIT_MAX);
    assert!(witness.served.load(Ordering::SeqCst) > 100, "hardly anybody was served");
    assert!(witness.left.load(Ordering::SeqCst) > 100, "hardly anybody left the queue");
}

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

#[tokio::test(start_paused = true)]
async fn a_door_that_observes_lets_everybody_in_and_says_what_the_load_was() {
    let door = door(1);
    door.update(|settings| settings.when_full = WhenFull::Observe);
    let mut permits = Vec::new();
    for _ in 0..12 {
        permits.push(door.admit().await.unwrap());
    }
    tokio::time::advance(Duration::from_secs(30)).await;
    // Two more for an instant: a peak, and no time to speak of.
    let more = [door.admit().await.unwrap(), door.admit().await.unwrap()];
    drop(more);
    tokio::time::advance(Duration::from_secs(20)).await;
    drop(permits);
    let [minute, ..] = door.levels();
    assert_eq!((minute.peak, minute.p99, minute.busy), (14, 12, Duration::from_secs(50)));
    assert_eq!(door.snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_door_that_stops_observing_lets_nobody_in_until_the_limit_holds() {
    let door = door(1);
    door.update(|settings| settings.when_full = WhenFull::Observe);
    let [first, second] = [door.admit().await.unwrap(), door.admit().await.unwrap()];
    door.update(|settings| settings.when_full = WhenFull::Queue);
    let mut third = spawn(door.admit());
    assert_pending!(third.poll());
    drop(first);
    assert_pending!(third.poll());
    drop(second);
    drop(assert_ready_ok!(third.poll()));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_let_in_when_the_door_begins_to_observe() {
    let door = door(1);
    let _held = door.admit().await.unwrap();
    let mut next = spawn(door.admit());
    assert_pending!(next.poll());
    door.update(|settings| settings.when_full = WhenFull::Observe);
    assert!(next.is_woken());
    drop(assert_ready_ok!(next.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_permit_knows_how_many_ran_beside_it() {
    let door = door(8);
    let permit = door.admit().await.unwrap();
    assert_eq!(permit.mean_level(), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    let others = [door.admit().await.unwrap(), door.admit().await.unwrap()];
    tokio::time::advance(Duration::from_secs(3)).await;
    drop(others);
    // A second alone, three of three together.
    assert!((permit.mean_level().unwrap() - 2.5).abs() < 1e-6);
}
