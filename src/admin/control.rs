//! The gate's state, read and changed while it runs.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::admission::{self, WhenFull};
use crate::advice::{self, Live, Provenance};
use crate::config::Config;
use crate::engine::grpc::Answer;
use crate::engine::{EngineBody, Health};
use crate::metrics::{Levels, Protocol};
use crate::relay::websocket::Sockets;
use crate::stream::Books;

/// Reads the gate's levels and changes its limit.
#[derive(Debug)]
pub struct Control {
    /// Slots, figures and running syntheses.
    pub books: Arc<Books<EngineBody>>,
    /// The same for gRPC: the same door, the same figures.
    pub grpc: Arc<Books<Answer>>,
    /// The engine's state.
    pub health: Arc<Health>,
    config: Arc<Config>,
    connections: Arc<AtomicUsize>,
    connections_turned_away: Arc<AtomicUsize>,
    sockets: Sockets,
    started: Instant,
}

/// `GET /status`. Fields are added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The gate's version.
    pub version: String,
    /// Since the gate started.
    pub uptime_seconds: f64,
    /// Whether a synthesis would be admitted: the engine is up and the gate is not draining.
    pub ready: bool,
    /// Whether the gate is shutting down.
    pub draining: bool,
    /// Slots in force.
    pub limit: u32,
    /// Slots by the configuration.
    pub limit_configured: u32,
    /// Slots taken.
    pub running: u32,
    /// Whether everybody is let in and the limit is only looked at (`when_full = "observe"`).
    #[serde(default)]
    pub observing: bool,
    /// How many were in flight over the last minute, five minutes and hour.
    #[serde(default)]
    pub in_flight: Vec<InFlightStatus>,
    /// Syntheses without a slot yet.
    pub waiting: u32,
    /// Syntheses that may wait.
    pub queue_max: u32,
    /// The longest wait in force.
    pub queue_wait_max_seconds: f64,
    /// Since the oldest running synthesis arrived; 0 where none runs.
    pub oldest_synthesis_age_seconds: f64,
    /// Open connections of callers.
    pub connections: usize,
    /// Connections turned away since the start.
    pub connections_turned_away: usize,
    /// Open WebSockets.
    pub websocket_sessions: usize,
    /// The engine behind the gate.
    pub engine: EngineStatus,
    /// What the target asks.
    pub target: String,
    /// Percentiles of late.
    pub window: WindowStatus,
    /// Whether the limit is proved, in a sentence.
    #[serde(default)]
    pub proof: String,
    /// What the speed at each level of load says about the limit, in a sentence.
    #[serde(default)]
    pub advice: String,
    /// The limit that is advised, if any.
    #[serde(default)]
    pub limit_advised: Option<u32>,
    /// How every clause of the target stands, with TTFB from dispatch.
    #[serde(default)]
    pub standings: Vec<StandingStatus>,
}

/// One clause of the target over one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingStatus {
    /// The clause.
    pub clause: String,
    /// How far the window reaches back.
    pub window_seconds: u64,
    /// `met`, `missed`, `unsure` or `idle`.
    pub verdict: String,
    /// Syntheses that count.
    pub events: u64,
    /// Those of them that were not good.
    pub bad: u64,
    /// How many times faster than allowed bad ones come.
    pub burn_rate: Option<f64>,
}

/// The engine, as last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Its name in metrics.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether it answers.
    pub up: bool,
    /// What it reports of its own load (ORCA), 1.0 being full.
    pub reported_utilization: Option<f64>,
}

/// How many syntheses were in flight over one window. Shares are of the time in which at least one was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InFlightStatus {
    /// How far the window reaches back.
    pub window_seconds: u64,
    /// The most at once.
    pub peak: u32,
    /// Half of the time, so many or fewer.
    pub p50: u32,
    /// Nine tenths of the time, so many or fewer.
    pub p90: u32,
    /// All but a hundredth of the time, so many or fewer.
    pub p99: u32,
    /// The time-weighted mean.
    pub mean: f64,
    /// How long at least one was in flight.
    pub busy_seconds: f64,
}

/// Percentiles over the sliding window; `null` without a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// TTFB, the wait included: median.
    pub ttfb_p50_seconds: Option<f64>,
    /// TTFB, the wait included: 99th percentile.
    pub ttfb_p99_seconds: Option<f64>,
    /// RTF: median.
    pub rtf_p50: Option<f64>,
    /// RTF: 99th percentile.
    pub rtf_p99: Option<f64>,
}

impl Control {
    /// A control over the gate's shared state.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        books: Arc<Books<EngineBody>>,
        grpc: Arc<Books<Answer>>,
        health: Arc<Health>,
        connections: Arc<AtomicUsize>,
        connections_turned_away: Arc<AtomicUsize>,
        sockets: Sockets,
    ) -> Self {
        let started = Instant::now();
        Self { books, grpc, health, config, connections, connections_turned_away, sockets, started }
    }

    /// Whether a synthesis would be admitted. Full is still ready: taking a full gate out of service would send its
    /// callers to gates that are as full.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.is_up() && !self.books.door.snapshot().draining
    }

    /// Changes the limit at once: growing wakes the waiting, shrinking lets the running end. Returns the limit before.
    pub fn set_limit(&self, limit: NonZeroU32) -> u32 {
        let before = self.books.door.snapshot().limit;
        self.books.door.set_limit(limit);
        info!(before, limit, "the limit was changed");
        before
    }

    fn oldest_age(&self, now: Instant) -> Duration {
        self.books.oldest_age(now).max(self.grpc.oldest_age(now))
    }

    /// The metrics in text format 0.0.4.
    #[must_use]
    pub fn metrics(&self) -> String {
        let now = Instant::now();
        let door = self.books.door.snapshot();
        let taken = self.books.door.taken();
        let levels = Levels {
            limit: door.limit,
            inflight: Protocol::ALL.map(|protocol| taken[protocol as usize]),
            queue_depth: door.waiting,
            queue_capacity: door.queue_max,
            oldest_synthesis_age: self.oldest_age(now),
            websocket_sessions: u32::try_from(self.sockets.open()).unwrap_or(u32::MAX),
            engine_up: vec![self.health.is_up()],
            engine_reported_utilization: vec![self.health.reported_utilization()],
            draining: door.draining,
            in_flight_of_late: self.books.door.levels()[1],
            live: Some(self.live(now)),
        };
        self.books.metrics.render(now.into_std(), &levels)
    }

    /// The state for a person.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let door = self.books.door.snapshot();
        let engine = &self.config.engine;
        let live = self.live(now);
        let advice = self.books.metrics.advice(now.into_std(), door.limit);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: seconds(now - self.started),
            ready: self.is_ready(),
            draining: door.draining,
            limit: door.limit,
            limit_configured: engine.concurrency_max.get(),
            running: door.running,
            observing: self.books.door.settings().when_full == WhenFull::Observe,
            in_flight: self.in_flight(),
            waiting: door.waiting,
            queue_max: door.queue_max,
            queue_wait_max_seconds: seconds(door.queue_wait_max),
            oldest_synthesis_age_seconds: seconds(self.oldest_age(now)),
            connections: self.connections.load(Relaxed),
            connections_turned_away: self.connections_turned_away.load(Relaxed),
            websocket_sessions: self.sockets.open(),
            engine: EngineStatus {
                name: engine.name.clone(),
                url: engine.http.to_string(),
                up: self.health.is_up(),
                reported_utilization: self.health.reported_utilization(),
            },
            target: self.config.target.slo.to_string(),
            window: self.window(now),
            proof: live.proof.to_string(),
            advice: advice.to_string(),
            limit_advised: advice.limit(door.limit),
            standings: live.standings.iter().map(standing).collect(),
        }
    }

    /// How production stands against the limit in force.
    #[must_use]
    pub fn live(&self, now: Instant) -> Live {
        let tuned = &self.config.engine.tuned;
        let provenance = Provenance { level: tuned.level.map(NonZeroU32::get), target: tuned.target };
        self.books.metrics.live(now.into_std(), self.books.door.settings().limit.get(), &provenance)
    }

    /// Asks for ever how production stands, and logs what changes.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the asking and nothing else.
    pub async fn keep_judging(self: Arc<Self>) {
        let mut ticks = interval(JUDGED_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            let now = ticks.tick().await;
            let live = self.live(now);
            let verdict = live.verdict();
            if last.as_ref() == Some(&verdict) {
                continue;
            }
            let advice = self.books.metrics.advice(now.into_std(), live.limit);
            let (limit, proof, clauses) = (live.limit, live.proof, verdict.1.join(","));
            let missed = Some(clauses.as_str()).filter(|clauses| !clauses.is_empty());
            if matches!(proof, advice::Proof::Missed { .. } | advice::Proof::Slower { .. }) {
                warn!(limit, missed, %advice, "the limit is {proof}");
            } else {
                info!(limit, missed, %advice, "the limit is {proof}");
            }
            last = Some(verdict);
        }
    }

    fn in_flight(&self) -> Vec<InFlightStatus> {
        let windows = admission::WINDOWS.into_iter().zip(self.books.door.levels());
        let status = windows.map(|(window, levels)| InFlightStatus {
            window_seconds: window.as_secs(),
            peak: levels.peak,
            p50: levels.p50,
            p90: levels.p90,
            p99: levels.p99,
            mean: (levels.mean * 100.0).round() / 100.0,
            busy_seconds: seconds(levels.busy),
        });
        status.collect()
    }

    fn window(&self, now: Instant) -> WindowStatus {
        let window = self.books.metrics.window(now.into_std());
        WindowStatus {
            ttfb_p50_seconds: window.ttfb_seconds(50.0),
            ttfb_p99_seconds: window.ttfb_seconds(99.0),
            rtf_p50: window.rtf(50.0),
            rtf_p99: window.rtf(99.0),
        }
    }
}

/// How often it is asked how production stands.
const JUDGED_EVERY: Duration = Duration::from_secs(10);

fn standing(standing: &advice::Standing) -> StandingStatus {
    StandingStatus {
        clause: standing.clause.to_string(),
        window_seconds: standing.window.as_secs(),
        verdict: standing.verdict.label().to_owned(),
        events: standing.events,
        bad: standing.bad,
        burn_rate: standing.burn_rate().map(|rate| (rate * 100.0).round() / 100.0),
    }
}

/// To the millisecond: nobody reads more.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
