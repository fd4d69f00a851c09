//! Every metric family, and the one place where they are filled. Decides which synthesis counts for which; knows no
//! wire, no queue and no clock.
//!
//! Counters and histograms are filled as syntheses end, through handles that were resolved at the start: an array
//! index and a few atomics, no label is hashed. Levels (slots taken, queue, engine) are read when they are scraped.
//! Every label value of a closed set is there from the start, at zero; a model that is not on the operator's list is
//! `other`; no text, voice, address or key is ever a label.

mod children;
mod families;
mod gauges;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};

use crate::admission;
use crate::advice::{Advice, Advisor, Live, Provenance};
use crate::meter::{Measured, Outcome};
use crate::refusal::Reason;
use crate::slo::{self, Window, Windows};
use crate::target::Target;
use children::{Children, Waited};
use gauges::Gauges;

pub use families::{Family, Kind, PREFIX, families, markdown};

/// The `model` label of every model that is not on the list.
pub const OTHER_MODEL: &str = "other";

/// Models that can be told apart.
pub const MODELS_MAX: usize = 64;

/// The status code of a caller who went away before an answer began: nobody receives it. nginx's number.
pub const CODE_CALLER_GONE: u16 = 499;

/// What a caller speaks: the `protocol` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP requests.
    Http,
    /// WebSocket v1: every context is a synthesis.
    V1,
    /// The legacy JSON WebSocket: every run is a synthesis.
    WsJson,
    /// The legacy binary WebSocket.
    WsBinary,
    /// gRPC calls.
    Grpc,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 5] = [Self::Http, Self::V1, Self::WsJson, Self::WsBinary, Self::Grpc];

    /// The label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::V1 => "v1",
            Self::WsJson => "ws-json",
            Self::WsBinary => "ws-binary",
            Self::Grpc => "grpc",
        }
    }
}

/// A value of the `model` label, from [`Metrics::model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Model(u8);

/// What the metrics must know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Values of the `model` label; beyond [`MODELS_MAX`] they are `other`.
    pub models: Vec<String>,
    /// Values of the `engine` label.
    pub engines: Vec<String>,
    /// What the `slo_*` families count, and edges of the histograms.
    pub target: Target,
    /// The status code of a refusal for want of a slot.
    pub status_when_full: u16,
    /// How the limit was found: label values of `tuned_info`, in its order. Empty where nothing says.
    pub tuned: [String; 6],
    /// Whether there is anything to say of it.
    pub is_tuned: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            models: ["arcana", "coda", "mist", "mistv2", "mistv3"].map(String::from).to_vec(),
            engines: vec!["engine".to_owned()],
            target: Target::default(),
            status_when_full: 429,
            tuned: Default::default(),
            is_tuned: false,
        }
    }
}

/// What is read when it is scraped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Levels {
    /// Slots in force.
    pub limit: u32,
    /// Slots taken, in the order of [`Protocol::ALL`].
    pub inflight: [u32; Protocol::ALL.len()],
    /// Syntheses that wait.
    pub queue_depth: u32,
    /// Syntheses that may wait.
    pub queue_capacity: u32,
    /// Since the oldest running synthesis arrived.
    pub oldest_synthesis_age: Duration,
    /// WebSockets open.
    pub websocket_sessions: u32,
    /// Whether each engine answers, in the order of [`Settings::engines`].
    pub engine_up: Vec<bool>,
    /// What each engine says of its load, 1.0 being full.
    pub engine_reported_utilization: Vec<Option<f64>>,
    /// Whether the gate is shutting down.
    pub draining: bool,
    /// What was in flight over the last five minutes.
    pub in_flight_of_late: admission::Levels,
    /// How production stands, where anybody asked.
    pub live: Option<Live>,
}

/// Every metric of one gate.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    models: Vec<String>,
    /// Taken for every count, for some additions, and at a scrape, to hand them on: cheaper than an atomic for each.
    children: Mutex<Children>,
    gauges: Gauges,
    status_when_full: u16,
    /// Taken once a synthesis and once a scrape, for a histogram update and for adding up the ring.
    windows: Mutex<Windows>,
    /// The same, for a few counts and two histogram updates.
    advisor: Mutex<Advisor>,
}

impl Metrics {
    /// Every family, at zero.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let registry = Registry::new();
        let models: Vec<_> = settings.models.iter().take(MODELS_MAX).cloned().collect();
        let children = Mutex::new(Children::new(&registry, &models, settings));
        let gauges = Gauges::new(&registry, settings);
        // Provable: its names are its own, and it is registered once.
        registry.register(Box::new(ProcessCollector::for_self())).expect("names of its own");
        let status_when_full = settings.status_when_full;
        let advisor = Mutex::new(Advisor::new(settings.target));
        Self { registry, models, children, gauges, status_when_full, windows: Mutex::default(), advisor }
    }

    /// The label of a model's name.
    #[must_use]
    pub fn model(&self, name: Option<&str>) -> Model {
        let known = name.and_then(|name| self.models.iter().position(|model| model == name));
        let index = known.unwrap_or(self.models.len());
        // At most MODELS_MAX.
        Model(u8::try_from(index).unwrap_or_default())
    }

    /// A synthesis that was let in has ended at `now`, however it ended. `code` is the status code that the caller
    /// was answered with.
    pub fn finished(&self, now: Instant, protocol: Protocol, model: Model, code: u16, measured: &Measured) {
        let sounded = slo::is_2xx(code);
        {
            let children = self.children();
            children.ended(protocol, model, code, measured.outcome, measured.duration);
            children.waited(Waited::Admitted, measured.queue_wait);
            children.rtf(protocol, model, measured.rtf);
            if sounded {
                children.sounded(protocol, model, measured);
            }
            children.judged(code, measured);
        }
        self.windows().record(now, measured.ttfb.filter(|_| sounded), measured.rtf.ok());
    }

    /// The same synthesis, for the advisor: with the mean number in flight during its life, where it is known.
    pub fn advise(&self, now: Instant, code: u16, measured: &Measured, level: Option<f64>) {
        self.advisor().record(now, code, measured, level);
    }

    /// Whether `limit` is proved as of now, and how every clause of the target stands.
    #[must_use]
    pub fn live(&self, now: Instant, limit: u32, provenance: &Provenance) -> Live {
        self.advisor().verdict(now, limit, provenance)
    }

    /// What the speed at each level of load says about `limit`.
    #[must_use]
    pub fn advice(&self, now: Instant, limit: u32) -> Advice {
        self.advisor().advice(now, limit)
    }

    /// A synthesis was not let in, after it had `waited`. No event of the target: that judges what was let in.
    pub fn refused(&self, protocol: Protocol, model: Model, reason: Reason, waited: Duration) {
        let code = if reason.is_full() { self.status_when_full } else { reason.answer().http };
        let children = self.children();
        children.ended(protocol, model, code, Outcome::Refused, waited);
        children.waited(Waited::Refused, waited);
        children.refusal(protocol, reason);
    }

    /// A caller went away while its synthesis waited for a slot.
    pub fn caller_left_queue(&self, protocol: Protocol, model: Model, waited: Duration) {
        let children = self.children();
        children.ended(protocol, model, CODE_CALLER_GONE, Outcome::CallerGone, waited);
        children.waited(Waited::CallerGone, waited);
    }

    /// The gate said no, but not to a synthesis at its door: to a connection, to a request that is none, or to one
    /// that was let in and that [`Metrics::finished`] writes down.
    pub fn turned_away(&self, protocol: Protocol, reason: Reason) {
        self.children().refusal(protocol, reason);
    }

    /// A chunk arrived `gap` after the one before.
    pub fn chunk_gap(&self, protocol: Protocol, gap: Duration) {
        self.children().chunk_gap(protocol, gap);
    }

    /// TTFB and RTF over the last five minutes.
    #[must_use]
    pub fn window(&self, now: Instant) -> Window {
        self.windows().view(now)
    }

    /// All of it in the text format, version 0.0.4.
    #[must_use]
    pub fn render(&self, now: Instant, levels: &Levels) -> String {
        self.gauges.set(levels, &self.window(now));
        if let Some(live) = &levels.live {
            self.gauges.judge(live, &self.advice(now, live.limit));
        }
        self.children().flush();
        let mut text = String::new();
        // Provable: writing to a string does not fail, and no family is without samples.
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text).expect("families are complete");
        text
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        // Counts stay whole whatever happens to who holds the lock.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advisor(&self) -> MutexGuard<'_, Advisor> {
        // Counts stay whole whatever happens to who holds the lock.
        self.advisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        // Histograms stay whole whatever happens to who holds the lock.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
