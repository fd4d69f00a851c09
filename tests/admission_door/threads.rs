//! One door and many threads: a witness counts who is inside.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::admission::{Door, Permit, QueueWaitMax, Settings};
use tokio::runtime;

use super::{counts, limit};

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
