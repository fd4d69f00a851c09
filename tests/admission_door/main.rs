//! The door and its layer: whatever becomes of a caller, its slot or its place comes back, once and at once; and on any
//! number of threads there are never more inside than the limit.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod layer;
mod street;
mod threads;

use std::future::pending;
use std::num::NonZeroU32;
use std::task::Poll;
use std::time::Duration;

use rime_gate::admission::{Door, QueueWaitMax, Settings, WhenFull};
use rime_gate::refusal::Reason;
use tokio::runtime;
use tokio::time::{Instant, advance};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};

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

#[tokio::test(start_paused = true)]
async fn a_door_that_observes_lets_everybody_in_and_says_what_the_load_was() {
    let door = door(1);
    door.update(|settings| settings.when_full = WhenFull::Observe);
    let mut permits = Vec::new();
    for _ in 0..12 {
        permits.push(door.admit().await.unwrap());
    }
    advance(Duration::from_secs(30)).await;
    // Two more for an instant: a peak, and no time to speak of.
    let more = [door.admit().await.unwrap(), door.admit().await.unwrap()];
    drop(more);
    advance(Duration::from_secs(20)).await;
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
    advance(Duration::from_secs(1)).await;
    let others = [door.admit().await.unwrap(), door.admit().await.unwrap()];
    advance(Duration::from_secs(3)).await;
    drop(others);
    // A second alone, three of three together.
    assert!((permit.mean_level().unwrap() - 2.5).abs() < 1e-6);
}
