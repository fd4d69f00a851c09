//! What is set when it is scraped: levels, windows, and what production says of the limit. Decides nothing about either.

use prometheus::{Gauge, Registry};

use super::children::{gauges, registered};
use super::families::{self as family, Family};
use super::{Levels, Protocol, Settings};
use crate::advice::{Advice, Live, Proof, Verdict};
use crate::slo::Window;
use crate::target::Target;

/// Percentiles of the windows.
const PERCENTILES: [(f64, &str); 3] = [(50.0, "50"), (90.0, "90"), (99.0, "99")];

/// One clause over one window.
#[derive(Debug)]
struct OfWindow {
    burn: Gauge,
    met: Gauge,
}

fn standings(registry: &Registry, target: &Target) -> Vec<OfWindow> {
    let (burn, met) = (gauges(registry, &family::BURN_RATE), gauges(registry, &family::SLO_MET));
    let mut all = Vec::new();
    for clause in target.clauses() {
        for window in ["1m", "5m", "1h"] {
            let labels = [clause.label(), window];
            let of = OfWindow { burn: burn.with_label_values(&labels), met: met.with_label_values(&labels) };
            of.burn.set(f64::NAN);
            of.met.set(f64::NAN);
            all.push(of);
        }
    }
    all
}

/// What is set when it is scraped.
#[derive(Debug)]
pub(super) struct Gauges {
    limit: Gauge,
    inflight: [Gauge; Protocol::ALL.len()],
    utilization: Gauge,
    queue_depth: Gauge,
    queue_capacity: Gauge,
    oldest: Gauge,
    window_ttfb: [Gauge; PERCENTILES.len()],
    window_rtf: [Gauge; PERCENTILES.len()],
    window_inflight: [Gauge; 4],
    standings: Vec<OfWindow>,
    limit_proved: Gauge,
    limit_advised: Gauge,
    slowdown: Gauge,
    sockets: Gauge,
    engine_up: Vec<Gauge>,
    engine_utilization: Vec<Gauge>,
    draining: Gauge,
}

impl Gauges {
    pub(super) fn new(registry: &Registry, settings: &Settings) -> Self {
        let gauge = |family: &Family| registered(registry, Gauge::with_opts(family.opts()));
        let percentiles = |family: &Family| {
            let gauges = gauges(registry, family);
            PERCENTILES.map(|(_, label)| gauges.with_label_values(&[label]))
        };
        let engines = |family: &Family| {
            let gauges = gauges(registry, family);
            settings.engines.iter().map(|engine| gauges.with_label_values(&[engine.as_str()])).collect()
        };
        let tuned = settings.tuned.each_ref().map(String::as_str);
        let is_tuned = f64::from(u8::from(settings.is_tuned));
        gauges(registry, &family::TUNED_INFO).with_label_values(&tuned).set(is_tuned);
        let inflight = gauges(registry, &family::INFLIGHT);
        gauges(registry, &family::BUILD_INFO).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Self {
            limit: gauge(&family::LIMIT),
            inflight: Protocol::ALL.map(|protocol| inflight.with_label_values(&[protocol.label()])),
            utilization: gauge(&family::UTILIZATION),
            queue_depth: gauge(&family::QUEUE_DEPTH),
            queue_capacity: gauge(&family::QUEUE_CAPACITY),
            oldest: gauge(&family::OLDEST),
            window_ttfb: percentiles(&family::WINDOW_TTFB),
            window_rtf: percentiles(&family::WINDOW_RTF),
            window_inflight: {
                let gauges = gauges(registry, &family::WINDOW_INFLIGHT);
                ["50", "90", "99", "100"].map(|label| gauges.with_label_values(&[label]))
            },
            standings: standings(registry, &settings.target),
            limit_proved: gauge(&family::LIMIT_PROVED),
            limit_advised: gauge(&family::LIMIT_ADVISED),
            slowdown: gauge(&family::SLOWDOWN),
            sockets: gauge(&family::SOCKETS),
            engine_up: engines(&family::ENGINE_UP),
            engine_utilization: engines(&family::ENGINE_UTILIZATION),
            draining: gauge(&family::DRAINING),
        }
    }

    /// What production says of the limit.
    pub(super) fn judge(&self, live: &Live, advice: &Advice) {
        // Made from the same clauses and windows, in the same order.
        for (gauges, standing) in self.standings.iter().zip(&live.standings) {
            gauges.burn.set(standing.burn_rate().unwrap_or(f64::NAN));
            gauges.met.set(match standing.verdict {
                Verdict::Met => 1.0,
                Verdict::Missed => 0.0,
                Verdict::Idle | Verdict::Unsure => f64::NAN,
            });
        }
        self.limit_proved.set(f64::from(u8::from(live.proof == Proof::Proved)));
        self.limit_advised.set(advice.limit(live.limit).map_or(f64::NAN, f64::from));
        self.slowdown.set(live.slower.map_or(1.0, |slower| slower.ratio));
    }

    pub(super) fn set(&self, levels: &Levels, window: &Window) {
        let mut taken = 0.0;
        for (gauge, running) in self.inflight.iter().zip(levels.inflight.map(f64::from)) {
            taken += running;
            gauge.set(running);
        }
        self.limit.set(f64::from(levels.limit));
        self.utilization.set(taken / f64::from(levels.limit.max(1)));
        self.queue_depth.set(f64::from(levels.queue_depth));
        self.queue_capacity.set(f64::from(levels.queue_capacity));
        self.oldest.set(levels.oldest_synthesis_age.as_secs_f64());
        for (index, (percentile, _)) in PERCENTILES.into_iter().enumerate() {
            self.window_ttfb[index].set(window.ttfb_seconds(percentile).unwrap_or(f64::NAN));
            self.window_rtf[index].set(window.rtf(percentile).unwrap_or(f64::NAN));
        }
        let of_late = &levels.in_flight_of_late;
        for (gauge, level) in
            self.window_inflight.iter().zip([of_late.p50, of_late.p90, of_late.p99, of_late.peak])
        {
            gauge.set(f64::from(level));
        }
        self.sockets.set(f64::from(levels.websocket_sessions));
        for (gauge, up) in self.engine_up.iter().zip(&levels.engine_up) {
            gauge.set(f64::from(u8::from(*up)));
        }
        for (index, gauge) in self.engine_utilization.iter().enumerate() {
            let load = levels.engine_reported_utilization.get(index).copied().flatten();
            gauge.set(load.unwrap_or(f64::NAN));
        }
        self.draining.set(f64::from(u8::from(levels.draining)));
    }
}
