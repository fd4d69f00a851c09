//! What admission costs a synthesis: a free slot taken and given back, and a slot handed to the next in line, with
//! nobody, some and many waiting. Through the door, lock and wakers and timers included.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rime_gate::admission::{Admit, Door, Permit, QueueWaitMax, Settings};
use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const LIMIT: NonZeroU32 = NonZeroU32::new(20).unwrap();

type Waiting = Pin<Box<Admit>>;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// A door whose queue nobody leaves for the time.
fn door() -> Door {
    let queue_wait_max = QueueWaitMax::Fixed(Duration::from_secs(3_600));
    Door::new(Settings { queue_max: 10_000, queue_wait_max, ..Settings::new(LIMIT) })
}

fn poll(admit: &mut Waiting) -> Option<Permit> {
    match admit.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(admitted) => Some(admitted.unwrap()),
        Poll::Pending => None,
    }
}

fn waiting(door: &Door) -> Waiting {
    let mut admit = Box::pin(door.admit());
    assert!(poll(&mut admit).is_none());
    admit
}

/// Every slot taken, and so many waiting.
fn full(door: &Door, queue: usize) -> (VecDeque<Permit>, VecDeque<Waiting>) {
    let playing = (0..LIMIT.get()).map(|_| poll(&mut Box::pin(door.admit())).unwrap()).collect();
    (playing, (0..queue).map(|_| waiting(door)).collect())
}

fn free_slot(c: &mut Criterion) {
    let door = door();
    c.bench_function("a free slot taken and given back", |b| {
        b.iter(|| {
            let mut admit = std::pin::pin!(door.admit());
            let admitted = admit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(black_box(admitted).is_ready());
        });
    });
}

/// One joins the queue, one ends, the first in line collects: the line stays as long as it is.
fn handed_over(c: &mut Criterion) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut group = c.benchmark_group("a slot handed to the next in line");
    for queue in [0, 64, 1_000] {
        let door = door();
        let (mut playing, mut line) = full(&door, queue);
        group.bench_function(format!("{queue} others waiting"), |b| {
            b.iter(|| {
                line.push_back(waiting(&door));
                drop(playing.pop_front());
                let mut first = line.pop_front().unwrap();
                playing.push_back(poll(&mut first).unwrap());
            });
        });
    }
}

fn left(c: &mut Criterion) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut group = c.benchmark_group("a caller leaves the middle of the queue");
    for queue in [64, 1_000] {
        let door = door();
        let (_playing, mut line) = full(&door, queue);
        group.bench_function(format!("{queue} waiting"), |b| {
            b.iter_batched(
                || {
                    line.push_back(waiting(&door));
                    line.swap_remove_back(line.len() / 2).unwrap()
                },
                drop,
                BatchSize::PerIteration,
            );
        });
    }
}

fn refused(c: &mut Criterion) {
    let door = door();
    let (_playing, _) = full(&door, 0);
    door.update(|settings| settings.queue_max = 0);
    c.bench_function("a refusal", |b| {
        b.iter(|| {
            let mut admit = std::pin::pin!(door.admit());
            let refused = admit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(black_box(refused), Poll::Ready(Err(_))));
        });
    });
}

criterion_group!(benches, free_slot, handed_over, left, refused);
criterion_main!(benches);
