//! The three shapes of load: always so many at once, sessions that think and listen between their turns, and arrivals at a
//! rate. Decides when each call begins; hands over what was heard in the order in which calls began. Judges nothing.

mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::sample::Sample;
use crate::callers::{Agents, CALLS_MAX, Words};
use sessions::Session;
pub use sessions::Sessions;
#[cfg(test)]
pub(super) use sessions::{still_playing, think};

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// There is more to hear.
    Continue,
    /// That was enough.
    Stop,
}

/// Takes what was heard, in the order in which the calls began.
pub trait Listener: FnMut(Sample) -> Flow + Send {}
impl<L: FnMut(Sample) -> Flow + Send> Listener for L {}

/// Those who call, and what they have to say.
#[derive(Debug)]
pub struct Crowd {
    agents: Agents,
    texts: Vec<Arc<Words>>,
    timeout: Duration,
    in_flight: AtomicU32,
    peak: AtomicU32,
    busy_micros: AtomicU64,
}

impl Crowd {
    /// A crowd with these texts, which are not empty. A call that takes longer than `timeout` has failed.
    #[must_use]
    pub fn new(agents: Agents, texts: &[Words], timeout: Duration) -> Arc<Self> {
        let texts = texts.iter().cloned().map(Arc::new).collect();
        let (in_flight, peak, busy_micros) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Arc::new(Self { agents, texts, timeout, in_flight, peak, busy_micros })
    }

    /// The most calls at once so far.
    #[must_use]
    pub fn peak(&self) -> u32 {
        self.peak.load(Relaxed)
    }

    /// The time of all calls that have ended or were hung up on, together.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_micros(self.busy_micros.load(Relaxed))
    }

    fn text(&self, random: &mut StdRng) -> Arc<Words> {
        self.texts[random.random_range(0..self.texts.len())].clone()
    }

    /// One call, which was due at `due`.
    async fn call(&self, due: Instant, words: &Words) -> Sample {
        let running = Running::begin(self);
        let heard = timeout(self.timeout, self.agents.turn(due, words)).await;
        let elapsed = running.began.elapsed();
        drop(running);
        match heard {
            Ok(heard) => Sample::of(heard, elapsed),
            Err(_) => Sample {
                elapsed,
                failed: Some(format!("it did not end within {:?}", self.timeout)),
                ..Sample::default()
            },
        }
    }

    /// The first text, once.
    ///
    /// # Cancel safety
    /// Dropping it hangs up.
    pub async fn once(&self) -> Sample {
        self.call(Instant::now(), &self.texts[0]).await
    }

    /// Keeps `count` calls running until the listener has heard enough, or `deadline`. The first call of each place is
    /// not told: an engine that was idle is not yet what it will be.
    ///
    /// # Cancel safety
    /// Dropping it hangs up on every call.
    pub async fn in_flight(
        self: &Arc<Self>,
        count: u32,
        seed: u64,
        deadline: Instant,
        mut listener: impl Listener,
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut calls = JoinSet::new();
        let mut order = Order::new(u64::from(count));
        let mut begin = |number: u64, calls: &mut JoinSet<_>| {
            let (crowd, words) = (Arc::clone(self), self.text(&mut random));
            calls.spawn(async move { (number, crowd.call(Instant::now(), &words).await) });
        };
        let mut begun = 0;
        self.agents.gather(count as usize).await;
        while begun < u64::from(count) {
            begin(begun, &mut calls);
            begun += 1;
        }
        while let Ok(Some(ended)) = timeout_at(deadline, calls.join_next()).await {
            let (number, sample) = sound(ended);
            if order.take(number, sample, &mut listener) == Flow::Stop {
                break;
            }
            begin(begun, &mut calls);
            begun += 1;
        }
        calls.shutdown().await;
    }

    /// Lets `count` sessions take their turns until they have ended, the listener has heard enough, or `deadline`.
    ///
    /// # Cancel safety
    /// Dropping it hangs up on every call.
    pub async fn sessions(
        self: &Arc<Self>,
        count: u32,
        like: Sessions,
        seed: u64,
        deadline: Instant,
        mut listener: impl Listener,
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let (told, mut heard) = mpsc::channel(count.max(1) as usize);
        let numbers = Arc::new(AtomicU64::new(0));
        let mut sessions = JoinSet::new();
        let mut start = Instant::now();
        for _ in 0..count {
            start += exponential(like.starts_per_second, &mut random);
            let session = Session {
                crowd: Arc::clone(self),
                like,
                random: StdRng::seed_from_u64(random.random()),
                numbers: Arc::clone(&numbers),
                told: told.clone(),
            };
            sessions.spawn(session.run(start));
        }
        drop(told);
        let mut order = Order::new(0);
        while let Ok(Some((number, sample))) = timeout_at(deadline, heard.recv()).await {
            if order.take(number, sample, &mut listener) == Flow::Stop {
                break;
            }
        }
        sessions.shutdown().await;
    }

    /// Lets calls arrive at random, `rate` a second on average, until `deadline` or until the listener has heard
    /// enough; then waits for those that have begun. Those due within `warm_up` are not told. A call's clock starts when it
    /// was due, whatever the calls before it do, if its manner says so.
    ///
    /// # Cancel safety
    /// Dropping it hangs up on every call.
    pub async fn rate(
        self: &Arc<Self>,
        rate: f64,
        seed: u64,
        warm_up: Duration,
        deadline: Instant,
        mut listener: impl Listener,
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut calls = JoinSet::new();
        let mut order = Order::new(0);
        let counts_from = Instant::now() + warm_up;
        let (mut due, mut numbered) = (Instant::now(), 0);
        'arrivals: loop {
            due += exponential(rate, &mut random);
            if due >= deadline {
                break;
            }
            loop {
                tokio::select! {
                    Some(ended) = calls.join_next() => {
                        let (number, sample) = sound(ended);
                        if let Some(number) = number
                            && order.take(number, sample, &mut listener) == Flow::Stop {
                            break 'arrivals;
                        }
                    }
                    () = sleep_until(due) => break,
                }
            }
            let number = (due >= counts_from).then_some(numbered);
            numbered += u64::from(number.is_some());
            let (crowd, words) = (Arc::clone(self), self.text(&mut random));
            if calls.len() < CALLS_MAX {
                calls.spawn(async move { (number, crowd.call(due, &words).await) });
            } else if let Some(number) = number {
                let failed = Some(format!("{CALLS_MAX} calls were running already"));
                let sample = Sample { failed, ..Sample::default() };
                if order.take(number, sample, &mut listener) == Flow::Stop {
                    break;
                }
            }
        }
        while let Some(ended) = calls.join_next().await {
            if let (Some(number), sample) = sound(ended)
                && order.take(number, sample, &mut listener) == Flow::Stop
            {
                break;
            }
        }
        calls.shutdown().await;
    }
}

/// A call that runs. Counts itself out when it ends or is hung up on.
struct Running<'a> {
    crowd: &'a Crowd,
    began: Instant,
}

impl<'a> Running<'a> {
    fn begin(crowd: &'a Crowd) -> Self {
        let running = crowd.in_flight.fetch_add(1, Relaxed) + 1;
        crowd.peak.fetch_max(running, Relaxed);
        Self { crowd, began: Instant::now() }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.crowd.in_flight.fetch_sub(1, Relaxed);
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.crowd.busy_micros.fetch_add(micros, Relaxed);
    }
}

/// The time to the next arrival of a Poisson process.
pub(super) fn exponential(rate: f64, random: &mut StdRng) -> Duration {
    let even: f64 = random.random_range(0.0..1.0);
    Duration::try_from_secs_f64(-(1.0 - even).ln() / rate).unwrap_or(Duration::MAX / 4)
}

fn sound<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => unreachable!("calls are cancelled only when nobody waits for them any more"),
    })
}

/// Brings what was heard into the order in which calls began. Whoever takes calls as they end hears of the quick ones
/// first, and when he stops has not heard of the slow.
#[derive(Debug)]
struct Order {
    skipped: u64,
    next: u64,
    ahead: BTreeMap<u64, Sample>,
}

impl Order {
    /// The first `skipped` calls are not told.
    fn new(skipped: u64) -> Self {
        Self { skipped, next: 0, ahead: BTreeMap::new() }
    }

    fn take(&mut self, number: u64, sample: Sample, listener: &mut impl Listener) -> Flow {
        self.ahead.insert(number, sample);
        while let Some(sample) = self.ahead.remove(&self.next) {
            self.next += 1;
            if self.next > self.skipped && listener(sample) == Flow::Stop {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_in_the_order_in_which_they_began_and_the_first_not_at_all() {
        let mut order = Order::new(2);
        let mut told = Vec::new();
        for number in [3, 0, 2, 1, 4, 6, 5] {
            let sample = Sample { elapsed: Duration::from_secs(number), ..Sample::default() };
            let mut listener = |sample: Sample| {
                told.push(sample.elapsed.as_secs());
                if told.len() == 4 { Flow::Stop } else { Flow::Continue }
            };
            let flow = order.take(number, sample, &mut listener);
            assert_eq!(flow == Flow::Stop, number == 5, "{number}");
        }
        assert_eq!(told, [2, 3, 4, 5]);
    }
}
