//! The handles behind every label combination, resolved once: plain numbers, which reach the registry when it is asked. Decides
//! nothing about what counts.

use std::cell::OnceCell;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::local::{LocalCounter, LocalHistogram, LocalIntCounter};
use prometheus::{CounterVec, GaugeVec, HistogramVec, IntCounterVec, Registry};

use super::families::{self as family, Family};
use super::{CODE_CALLER_GONE, Model, OTHER_MODEL, Protocol, Settings};
use crate::audio::{Format, Unknown};
use crate::meter::{Measured, Outcome};
use crate::refusal::Reason;
use crate::slo;
use crate::target::{Clause, Target};

/// Status codes with handles of their own. Another is looked up by its label when it is seen.
const CODES: [u16; 16] = [200, 400, 401, 403, 404, 408, 413, 422, 429, 499, 500, 501, 502, 503, 504, 529];

/// What came of a wait: the `outcome` label of the waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waited {
    Admitted,
    Refused,
    CallerGone,
}

impl Waited {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Admitted, "admitted"), (Self::Refused, "refused"), (Self::CallerGone, "caller_gone")];
}

/// Counters and histograms. Arrays are indexed by the enums' own order.
#[derive(Debug)]
pub(super) struct Children {
    requests: IntCounterVec,
    protocols: [OfProtocol; Protocol::ALL.len()],
    waits: [LocalHistogram; Waited::ALL.len()],
    rtf_unknown: [LocalIntCounter; Unknown::ALL.len()],
    clauses: Vec<OfClause>,
}

#[derive(Debug)]
struct OfProtocol {
    models: Vec<OfModel>,
    refusals: [LocalIntCounter; Reason::ALL.len()],
    durations: [LocalHistogram; Outcome::ALL.len()],
    chunk_gap: LocalHistogram,
    underruns: LocalIntCounter,
}

#[derive(Debug)]
struct OfModel {
    name: String,
    /// Only what was seen, or what the gate itself can bring about, is a series.
    requests: [[OnceCell<LocalIntCounter>; CODES.len()]; Outcome::ALL.len()],
    ttfb: LocalHistogram,
    upstream_ttfb: LocalHistogram,
    rtf: LocalHistogram,
    audio_seconds: [LocalCounter; Format::ALL.len()],
    audio_bytes: [LocalIntCounter; Format::ALL.len()],
}

#[derive(Debug)]
struct OfClause {
    clause: Clause,
    events: LocalIntCounter,
    good: LocalIntCounter,
}

impl Children {
    pub(super) fn new(registry: &Registry, models: &[String], settings: &Settings) -> Self {
        let target = &settings.target;
        let requests = counters(registry, &family::REQUESTS);
        let refusals = counters(registry, &family::REFUSALS);
        let durations = histograms(registry, &family::DURATION, target);
        let gaps = histograms(registry, &family::CHUNK_GAP, target);
        let underruns = counters(registry, &family::UNDERRUNS);
        let waits = histograms(registry, &family::QUEUE_WAIT, target);
        let unknown = counters(registry, &family::RTF_UNKNOWN);
        let of_model = OfModels::new(registry, target);
        let protocols = Protocol::ALL.map(|protocol| {
            let label = protocol.label();
            OfProtocol {
                models: models
                    .iter()
                    .map(String::as_str)
                    .chain([OTHER_MODEL])
                    .map(|model| of_model.child(label, model))
                    .collect(),
                refusals: Reason::ALL
                    .map(|reason| refusals.with_label_values(&[label, reason.answer().label]).local()),
                durations: Outcome::ALL
                    .map(|outcome| durations.with_label_values(&[label, outcome.label()]).local()),
                chunk_gap: gaps.with_label_values(&[label]).local(),
                underruns: underruns.with_label_values(&[label]).local(),
            }
        });
        let children = Self {
            requests,
            protocols,
            waits: Waited::ALL.map(|(_, label)| waits.with_label_values(&[label]).local()),
            rtf_unknown: Unknown::ALL.map(|why| unknown.with_label_values(&[why.label()]).local()),
            clauses: clauses(registry, target),
        };
        children.begin_at_zero(settings.status_when_full);
        children
    }

    /// The combinations that the gate itself brings about. What else an engine answers appears when it is seen.
    fn begin_at_zero(&self, status_when_full: u16) {
        let seen = [
            (Outcome::Ok, 200),
            (Outcome::Refused, status_when_full),
            (Outcome::Refused, Reason::Draining.answer().http),
            (Outcome::CallerGone, 200),
            (Outcome::CallerGone, CODE_CALLER_GONE),
            (Outcome::EngineError, Reason::EngineUnavailable.answer().http),
            (Outcome::EngineTimeout, 200),
            (Outcome::EngineTimeout, Reason::EngineTimeout.answer().http),
            (Outcome::Truncated, 200),
        ];
        for protocol in Protocol::ALL {
            for model in &self.protocols[protocol as usize].models {
                for (outcome, code) in seen {
                    self.request(protocol, model, code, outcome, 0);
                }
            }
        }
    }

    /// Hands to the registry what was counted since the last time.
    pub(super) fn flush(&self) {
        for of in &self.protocols {
            of.models.iter().for_each(OfModel::flush);
            of.refusals.iter().for_each(LocalIntCounter::flush);
            of.durations.iter().for_each(LocalHistogram::flush);
            of.chunk_gap.flush();
            of.underruns.flush();
        }
        self.waits.iter().for_each(LocalHistogram::flush);
        self.rtf_unknown.iter().for_each(LocalIntCounter::flush);
        for of in &self.clauses {
            of.events.flush();
            of.good.flush();
        }
    }

    pub(super) fn ended(
        &self,
        protocol: Protocol,
        model: Model,
        code: u16,
        outcome: Outcome,
        duration: Duration,
    ) {
        let of = &self.protocols[protocol as usize];
        self.request(protocol, of.model(model), code, outcome, 1);
        of.durations[outcome as usize].observe(duration.as_secs_f64());
    }

    fn request(&self, protocol: Protocol, model: &OfModel, code: u16, outcome: Outcome, count: u64) {
        let labelled = || {
            // Three digits as RFC 9110 section 15 has them: what else an engine may send is one series.
            let code = code.clamp(100, 599).to_string();
            self.requests.with_label_values(&[protocol.label(), &model.name, &code, outcome.label()])
        };
        match CODES.iter().position(|known| *known == code) {
            Some(known) => {
                model.requests[outcome as usize][known].get_or_init(|| labelled().local()).inc_by(count);
            }
            None => labelled().inc_by(count),
        }
    }

    pub(super) fn waited(&self, what: Waited, wait: Duration) {
        self.waits[what as usize].observe(wait.as_secs_f64());
    }

    pub(super) fn rtf(&self, protocol: Protocol, model: Model, rtf: Result<f64, Unknown>) {
        match rtf {
            Ok(rtf) => self.protocols[protocol as usize].model(model).rtf.observe(rtf),
            Err(why) => self.rtf_unknown[why as usize].inc(),
        }
    }

    pub(super) fn sounded(&self, protocol: Protocol, model: Model, measured: &Measured) {
        let of = &self.protocols[protocol as usize];
        let of_model = of.model(model);
        if let Some(ttfb) = measured.ttfb {
            of_model.ttfb.observe(ttfb.as_secs_f64());
        }
        if let Some(ttfb) = measured.upstream_ttfb {
            of_model.upstream_ttfb.observe(ttfb.as_secs_f64());
        }
        let format = measured.format as usize;
        of_model.audio_seconds[format].inc_by(measured.audio.as_secs_f64());
        of_model.audio_bytes[format].inc_by(measured.bytes);
        if measured.underrun == Some(true) {
            of.underruns.inc();
        }
    }

    pub(super) fn judged(&self, code: u16, measured: &Measured) {
        for of in &self.clauses {
            if let Some(good) = slo::judge(&of.clause, code, measured) {
                of.events.inc();
                of.good.inc_by(u64::from(good));
            }
        }
    }

    pub(super) fn refusal(&self, protocol: Protocol, reason: Reason) {
        self.protocols[protocol as usize].refusals[reason as usize].inc();
    }

    pub(super) fn chunk_gap(&self, protocol: Protocol, gap: Duration) {
        self.protocols[protocol as usize].chunk_gap.observe(gap.as_secs_f64());
    }
}

impl OfProtocol {
    fn model(&self, model: Model) -> &OfModel {
        &self.models[usize::from(model.0)]
    }
}

impl OfModel {
    fn flush(&self) {
        self.requests.iter().flatten().filter_map(OnceCell::get).for_each(LocalIntCounter::flush);
        [&self.ttfb, &self.upstream_ttfb, &self.rtf].into_iter().for_each(LocalHistogram::flush);
        self.audio_seconds.iter().for_each(LocalCounter::flush);
        self.audio_bytes.iter().for_each(LocalIntCounter::flush);
    }
}

/// The families that tell models apart.
struct OfModels {
    ttfb: HistogramVec,
    upstream_ttfb: HistogramVec,
    rtf: HistogramVec,
    audio_seconds: CounterVec,
    audio_bytes: IntCounterVec,
}

impl OfModels {
    fn new(registry: &Registry, target: &Target) -> Self {
        let seconds = &family::AUDIO_SECONDS;
        Self {
            ttfb: histograms(registry, &family::TTFB, target),
            upstream_ttfb: histograms(registry, &family::UPSTREAM_TTFB, target),
            rtf: histograms(registry, &family::RTF, target),
            audio_seconds: registered(registry, CounterVec::new(seconds.opts(), seconds.labels)),
            audio_bytes: counters(registry, &family::AUDIO_BYTES),
        }
    }

    fn child(&self, protocol: &str, model: &str) -> OfModel {
        let labels = [protocol, model];
        let of = |format: Format| [protocol, model, format.label()];
        OfModel {
            name: model.to_owned(),
            requests: Default::default(),
            ttfb: self.ttfb.with_label_values(&labels).local(),
            upstream_ttfb: self.upstream_ttfb.with_label_values(&labels).local(),
            rtf: self.rtf.with_label_values(&labels).local(),
            audio_seconds: Format::ALL
                .map(|format| self.audio_seconds.with_label_values(&of(format)).local()),
            audio_bytes: Format::ALL.map(|format| self.audio_bytes.with_label_values(&of(format)).local()),
        }
    }
}

fn clauses(registry: &Registry, target: &Target) -> Vec<OfClause> {
    let events = counters(registry, &family::SLO_EVENTS);
    let good = counters(registry, &family::SLO_GOOD);
    let objective = gauges(registry, &family::SLO_TARGET);
    let of = |clause: &Clause| {
        let labels = [clause.label()];
        objective.with_label_values(&labels).set(clause.objective());
        OfClause {
            clause: *clause,
            events: events.with_label_values(&labels).local(),
            good: good.with_label_values(&labels).local(),
        }
    };
    target.clauses().map(of).collect()
}

fn counters(registry: &Registry, family: &Family) -> IntCounterVec {
    registered(registry, IntCounterVec::new(family.opts(), family.labels))
}

pub(super) fn gauges(registry: &Registry, family: &Family) -> GaugeVec {
    registered(registry, GaugeVec::new(family.opts(), family.labels))
}

fn histograms(registry: &Registry, family: &Family, target: &Target) -> HistogramVec {
    registered(registry, HistogramVec::new(family.histogram(target), family.labels))
}

pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    // Provable: the table's names and labels are valid, each name is there once (tested), edges rise.
    let collector = collector.expect("the table is valid");
    registry.register(Box::new(collector.clone())).expect("each name is there once");
    collector
}
