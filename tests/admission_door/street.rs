//! Callers who come, wait, leave and hold in any order, under limits that change and a door that may close.

use std::task::Poll;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::admission::{Admit, Door, Permit};
use rime_gate::refusal::{Reason, Refusal};
use tokio::time::{Instant, advance};
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

use super::{WAIT_MAX, counts, door, limit, settle};

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
