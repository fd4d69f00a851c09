//! Many callers at once, as a busy hour sends them: decides when each calls, what it wants to hear, and whether it
//! was served within a target. Knows neither gate nor engine, only an address.
//!
//! The load is open: callers come when they come, whether or not those before them were served, and a caller's
//! TTFB counts from the moment it meant to call, so that a stall hides nothing ("no coordinated omission").

mod agents;
mod ask;
mod call;
mod grpc;
mod manner;
mod socket;
mod tally;
mod turn;
mod v1;
mod ws_json;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use agents::Agents;
pub use ask::ask;
pub use call::Heard;
pub(crate) use call::call_and_report;
pub use manner::{ClockStarts, Manner, Words};
pub use tally::Tally;

use crate::target::Target;

/// What a voice agent says between two turns: 0.8 to 2.4 seconds of sound at 14 characters a second.
pub const SENTENCES: [&str; 8] = [
    "All right.",
    "One moment.",
    "Thanks for waiting.",
    "Anything else today?",
    "Your order is on its way.",
    "Sure, I can help with that.",
    "Could you spell that for me?",
    "Your code was sent to your phone.",
];

/// Calls at once. Whoever would be one more is counted as failed.
pub const CALLS_MAX: usize = 10_000;

/// Arrivals of one load.
pub const ARRIVALS_MAX: usize = 1_000_000;

/// How callers ask.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// `POST /invocations`, each call on a connection of its own.
    #[default]
    Http,
    /// WebSocket v1 at `/ws`: agents with a socket each, a context for each turn.
    V1,
    /// Legacy JSON at `/ws3`: agents with a socket each, a flush for each turn.
    WsJson,
    /// `rime.TextToSpeech/Synthesize`: agents with a connection each, a call for each turn.
    Grpc,
}

/// What is asked of an address.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the callers call.
    pub address: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Agents, who open their lines before the first call and keep them. An agent takes one turn at a time, and turns
    /// go round; whoever calls when all are busy is an agent more. Of no account where calls have connections of their own.
    pub agents: usize,
    /// Arrivals per second, on average: positive.
    pub rate: f64,
    /// How long callers arrive before any is counted: an engine that was idle is not yet what it will be.
    pub warm_up: Duration,
    /// How long callers arrive who are counted.
    pub duration: Duration,
    /// How long after the last arrival the calls may end. What has not ended then is hung up on, and is not good.
    pub patience: Duration,
    /// Fixes the arrivals and who says what.
    pub seed: u64,
    /// When a call is good.
    pub target: Target,
    /// What is said; each call takes one of them. Not empty.
    pub texts: &'static [&'static str],
}

/// The callers of one load, and what has become of them so far.
#[derive(Debug)]
pub struct Callers {
    agents: Agents,
    load: Load,
    tally: Mutex<Tally>,
}

impl Callers {
    /// Callers who have not begun to call.
    #[must_use]
    pub fn new(load: Load) -> Arc<Self> {
        let agents = Agents::new(load.address, load.protocol, Manner::default());
        Arc::new(Self { agents, load, tally: Mutex::default() })
    }

    /// What has become of them so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().clone()
    }

    /// Lets them call, and waits for the end of every call, for at most `patience`.
    ///
    /// # Cancel safety
    /// Dropping it hangs up on every call that has not ended.
    pub async fn run(self: &Arc<Self>) -> Tally {
        let mut random = StdRng::seed_from_u64(self.load.seed);
        let arrivals = arrivals(&self.load, &mut random);
        let texts: Vec<_> = self.load.texts.iter().map(|text| Arc::new(Words::from(*text))).collect();
        let mut calls = JoinSet::new();
        self.agents.gather(self.load.agents).await;
        let start = Instant::now();
        for after in arrivals {
            let scheduled = start + after;
            let counts = after >= self.load.warm_up;
            let text = texts[random.random_range(0..texts.len())].clone();
            sleep_until(scheduled).await;
            while calls.try_join_next().is_some() {}
            let hears = calls.len() < CALLS_MAX;
            if counts {
                let mut tally = self.lock();
                tally.offered += 1;
                tally.failed += u64::from(!hears);
            }
            if hears {
                calls.spawn(Arc::clone(self).call(scheduled, text, counts));
            }
        }
        let patience_ends = start + self.load.warm_up + self.load.duration + self.load.patience;
        while let Ok(Some(_)) = timeout_at(patience_ends, calls.join_next()).await {}
        calls.shutdown().await;
        self.tally()
    }

    async fn call(self: Arc<Self>, scheduled: Instant, text: Arc<Words>, counts: bool) {
        let heard = self.agents.turn(scheduled, &text).await;
        if counts {
            self.lock().record(&heard, &self.load.target);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // A tally is a few counters: after a panic elsewhere each is still what it was.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When callers arrive: a Poisson process that has exactly its expected number of arrivals, which is as many
/// moments drawn evenly and put in order. Two loads of one rate so differ in their clusters, not in their size.
fn arrivals(load: &Load, random: &mut StdRng) -> Vec<Duration> {
    let mut moments = Vec::new();
    for (begin, span) in [(Duration::ZERO, load.warm_up), (load.warm_up, load.duration)] {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is bounded"
        )]
        let count = (load.rate * span.as_secs_f64()).round() as usize;
        let drawn = count.min(ARRIVALS_MAX - moments.len());
        moments.extend((0..drawn).map(|_| begin + span.mul_f64(random.random_range(0.0..1.0))));
    }
    moments.sort_unstable();
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_arrivals_and_their_gaps_are_those_of_a_poisson_process() {
        let load = Load {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            protocol: Protocol::Http,
            agents: 0,
            rate: 100.0,
            warm_up: Duration::from_secs(50),
            duration: Duration::from_secs(50),
            patience: Duration::ZERO,
            seed: 7,
            target: Target::default(),
            texts: &SENTENCES,
        };
        let draw = |seed| arrivals(&load, &mut StdRng::seed_from_u64(seed));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let moments = draw(7);
        assert_eq!(moments.len(), 10_000);
        // Of exponential gaps with mean 10 ms, a share of 1/e is longer than 10 ms.
        let long = moments.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(10)).count();
        assert!((3_500..3_860).contains(&long), "{long}");
    }
}
