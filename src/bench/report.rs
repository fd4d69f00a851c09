//! What a benchmark came to, as `--json` writes it and as the lines on standard output say it. Judges nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::hunt::{Level, Quest};
use super::sample::Figures;
use super::statistics::{Confidence, Verdict, bounds};
use super::{Found, Load, Unit};
use crate::target::{Clause, Target};

/// A whole run. Fields are added, never changed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The tool.
    pub version: &'static str,
    /// What was measured.
    pub url: String,
    /// What `level` counts: `in_flight`, `sessions`, or `rate` per second.
    pub load: &'static str,
    /// Syntheses per second, where they arrive at a rate.
    pub rate_per_second: Option<f64>,
    /// What a level had to keep.
    pub target: Target,
    /// The chance that a verdict is wrong is at most 1 less this.
    pub confidence: f64,
    /// The greatest level that is certain to keep the target. `null`: none, or no search.
    pub max_concurrency: Option<u32>,
    /// Mean TTFB of one synthesis alone.
    pub initial_latency_seconds: Option<f64>,
    /// The clause that the next level (or, without a search, the level) did not keep.
    pub bound_by: Option<&'static str>,
    /// Whether that is certain.
    pub bound_certain: Option<bool>,
    /// Every level, from the smallest.
    pub levels: Vec<LevelReport>,
    /// What the gate says of its own part.
    pub gate: Option<GateReport>,
}

/// One level.
#[derive(Clone, Debug, Serialize)]
pub struct LevelReport {
    /// How many at once; 0 where they arrive at a rate.
    pub level: u32,
    /// Syntheses that count.
    pub samples: u64,
    /// Whether the target was kept; `null` where that is not certain.
    pub met: Option<bool>,
    /// Whether what was observed is within the target, whatever it proves.
    pub observed_within: bool,
    /// Share that succeeded.
    pub success: f64,
    /// To the first audio byte.
    pub ttfb_seconds: Figures,
    /// Real-time factor.
    pub rtf: Figures,
    /// Start to end.
    pub elapsed_seconds: Figures,
    /// Share that ran dry.
    pub underrun: f64,
    /// The most at once.
    pub in_flight_peak: u32,
    /// How many at once, on average over time.
    pub in_flight_mean: f64,
    /// How long it was looked at.
    pub seconds: f64,
    /// What is known of each clause.
    pub clauses: Vec<ClauseReport>,
    /// Refused, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Failed, by what went wrong.
    pub failures: BTreeMap<String, u64>,
}

/// What is known of a clause at a level.
#[derive(Clone, Debug, Serialize)]
pub struct ClauseReport {
    /// The clause.
    pub clause: String,
    /// Whether it holds; `null` where that is not certain.
    pub met: Option<bool>,
    /// Syntheses in which it could be measured.
    pub measured: u64,
    /// Those that were good.
    pub good: u64,
    /// Exact binomial bounds of the share of good ones, each at the confidence by itself, for one look.
    pub good_share_bounds: (f64, f64),
}

/// What a gate counted during the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GateReport {
    /// Its limit.
    pub limit: u32,
    /// Syntheses that waited for a slot or had one at once.
    pub admitted: u64,
    /// Their mean wait.
    pub queue_wait_mean_seconds: Option<f64>,
    /// The edge of the histogram's bucket that holds the 99th percentile of the wait.
    pub queue_wait_p99_at_most_seconds: Option<f64>,
    /// Refused, by reason.
    pub refusals: BTreeMap<String, u64>,
}

const fn met(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Met => Some(true),
        Verdict::Missed => Some(false),
        Verdict::Undecided => None,
    }
}

impl LevelReport {
    /// A level as it is told.
    #[must_use]
    pub fn of(level: &Level, target: &Target, confidence: Confidence) -> Self {
        let samples = &level.samples;
        let clauses = level.judge.clauses().map(|judged| ClauseReport {
            clause: judged.clause.to_string(),
            met: met(judged.verdict),
            measured: judged.measured,
            good: judged.good,
            good_share_bounds: bounds(judged.good, judged.measured, confidence),
        });
        Self {
            level: level.level,
            samples: samples.count(),
            met: met(level.judge.verdict()),
            observed_within: samples.within(target),
            success: samples.success(),
            ttfb_seconds: samples.ttfb(),
            rtf: samples.rtf(),
            elapsed_seconds: samples.elapsed(),
            underrun: samples.underrun(),
            in_flight_peak: level.peak,
            in_flight_mean: level.in_flight_mean(),
            seconds: level.lasted.as_secs_f64(),
            clauses: clauses.collect(),
            refusals: samples.refusals(),
            failures: samples.failures(),
        }
    }
}

impl Report {
    /// What a search came to.
    #[must_use]
    pub fn of_search(url: &str, unit: Unit, quest: &Quest, found: &Found) -> Self {
        let levels = found.levels.iter();
        Self {
            load: unit.name(),
            rate_per_second: None,
            max_concurrency: found.limit,
            initial_latency_seconds: match unit {
                Unit::InFlight => found.initial_latency.map(|latency| latency.as_secs_f64()),
                Unit::Sessions => None,
            },
            bound_by: found.bound_by.map(|(clause, _)| clause.label()),
            bound_certain: found.bound_by.map(|(_, verdict)| verdict == Verdict::Missed),
            levels: levels.map(|level| LevelReport::of(level, &quest.target, quest.confidence)).collect(),
            ..Self::empty(url, quest)
        }
    }

    /// What one level came to.
    #[must_use]
    pub fn of_level(url: &str, load: Load, quest: &Quest, level: &Level) -> Self {
        let missed = level.judge.verdict() == Verdict::Missed;
        let alone = load == Load::InFlight(1);
        let (name, rate) = match load {
            Load::InFlight(_) => (Unit::InFlight.name(), None),
            Load::Sessions(_) => (Unit::Sessions.name(), None),
            Load::Rate(rate) => ("rate", Some(rate)),
        };
        Self {
            load: name,
            rate_per_second: rate,
            initial_latency_seconds: if alone { level.samples.ttfb().mean } else { None },
            bound_by: level.judge.bound_by().filter(|_| missed).map(|clause| clause.label()),
            bound_certain: missed.then_some(true),
            levels: vec![LevelReport::of(level, &quest.target, quest.confidence)],
            ..Self::empty(url, quest)
        }
    }

    fn empty(url: &str, quest: &Quest) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            url: url.to_owned(),
            load: "in_flight",
            rate_per_second: None,
            target: quest.target,
            confidence: quest.confidence.get(),
            max_concurrency: None,
            initial_latency_seconds: None,
            bound_by: None,
            bound_certain: None,
            levels: Vec::new(),
            gate: None,
        }
    }
}

/// `Observed: success=1.000, ttfb_p99=552ms, …`, as `armchair` writes it, with `between` between.
#[must_use]
pub fn observed(level: &Level, target: &Target, between: &str) -> String {
    let parts = target.clauses().map(|clause| {
        let value = level.samples.observed(clause);
        match clause {
            Clause::Success { .. } => format!("success={}", decimals(value)),
            Clause::Underrun { .. } => format!("underrun={}", decimals(value)),
            Clause::Ttfb { percentile, .. } => {
                let ttfb = value.map_or("-".into(), |seconds| format!("{:.0}ms", seconds * 1_000.0));
                format!("ttfb_{percentile}={ttfb}")
            }
            Clause::Rtf { percentile, .. } => format!("rtf_{percentile}={}", decimals(value)),
        }
    });
    parts.collect::<Vec<_>>().join(between)
}

fn decimals(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.3}"))
}

/// What is certain of a level, in words.
#[must_use]
pub fn verdict(level: &Level, confidence: Confidence) -> String {
    let (samples, confidence) = (level.samples.count(), confidence.get());
    let by = level.judge.bound_by().map_or(String::new(), |clause| format!(" ({clause})"));
    match level.judge.verdict() {
        Verdict::Met => format!("met, certain to {confidence} after {samples}"),
        Verdict::Missed => format!("missed{by}, certain to {confidence} after {samples}"),
        Verdict::Undecided => {
            format!("not decided: {samples} do not tell at a confidence of {confidence}{by}")
        }
    }
}

/// The summary of a level, line by line as `armchair` has it.
#[must_use]
pub fn summary(name: &str, level: &Level, target: &Target, confidence: Confidence) -> String {
    let samples = &level.samples;
    let (total, count) = (samples.count(), |share: f64| {
        #[expect(clippy::cast_precision_loss, reason = "counts of syntheses")]
        let count = (share * level.samples.count() as f64).round();
        count
    });
    let (success, underrun) = (samples.success(), samples.underrun());
    let mut text = format!(
        "----- Summary -----\n{name}\ntotal: {total} success: {:.0} ({:.1}%)\nBuffer underrun: {:.0} ({:.1}%)\n",
        count(success),
        success * 100.0,
        count(underrun),
        underrun * 100.0
    );
    text += &figures("TTFB ms", &samples.ttfb(), 1_000.0, 1);
    text += &figures("Elapsed ms", &samples.elapsed(), 1_000.0, 1);
    text += &figures("RTF", &samples.rtf(), 1.0, 3);
    for (what, counts) in [("Refused", samples.refusals()), ("Failed", samples.failures())] {
        for (why, count) in counts {
            let _ = writeln!(text, "{what}: {count} {why}");
        }
    }
    let _ = writeln!(text, "In flight: peak={} mean={:.1}", level.peak, level.in_flight_mean());
    let _ = writeln!(text, "Target: {target} | Observed: {}", observed(level, target, " "));
    let _ = writeln!(text, "Verdict: {}", verdict(level, confidence));
    text
}

fn figures(name: &str, figures: &Figures, unit: f64, digits: usize) -> String {
    let Some(mean) = figures.mean else { return String::new() };
    let mut line = format!("{name}: mean={:.digits$}", mean * unit);
    let percentiles = [
        ("p1", figures.p1),
        ("p25", figures.p25),
        ("p50", figures.p50),
        ("p90", figures.p90),
        ("p99", figures.p99),
    ];
    for (name, value) in percentiles {
        let _ = write!(line, " {name}={:.digits$}", value.unwrap_or_default() * unit);
    }
    line + "\n"
}

/// One level, as it is printed.
#[must_use]
pub fn of_level(load: Load, level: &Level, quest: &Quest) -> String {
    let name = match load {
        Load::InFlight(count) => format!("in flight: {count}"),
        Load::Sessions(count) => format!("concurrency: {count} sessions"),
        Load::Rate(rate) => format!("rate: {rate} a second"),
    };
    let mut text = summary(&name, level, &quest.target, quest.confidence);
    if let (Load::InFlight(1), Some(mean)) = (load, level.samples.ttfb().mean) {
        let _ = writeln!(text, "Initial latency: {:.0} ms (mean TTFB of one at a time)", mean * 1_000.0);
    }
    text
}

/// What a search came to, as it is printed.
#[must_use]
pub fn of_search(unit: Unit, found: &Found, quest: &Quest) -> String {
    let mut text =
        format!("\n=== MAXIMUM {} FOUND: {} ===\n", unit.words().to_uppercase(), found.limit.unwrap_or(0));
    if let Some(level) = found.at_limit() {
        let name = format!("{}: {}", unit.words(), level.level);
        text += &summary(&name, level, &quest.target, quest.confidence);
    }
    match found.bound_by {
        Some((clause, Verdict::Missed)) => {
            let _ = writeln!(text, "Bound by: {} (the next level misses {clause})", clause.label());
        }
        Some((clause, _)) => {
            let _ = writeln!(
                text,
                "Bound by: {}, but whether the next level keeps {clause} was not decided",
                clause.label()
            );
        }
        None => {
            let _ = writeln!(text, "Bound by: nothing up to {}", quest.level_max);
        }
    }
    if let (Unit::InFlight, Some(latency)) = (unit, found.initial_latency) {
        let _ = writeln!(
            text,
            "Initial latency: {:.0} ms (mean TTFB of one at a time)",
            latency.as_secs_f64() * 1_000.0
        );
    }
    text
}

/// The gate's own account, as it is printed.
#[must_use]
pub fn of_gate(gate: &GateReport) -> String {
    let millis =
        |seconds: Option<f64>| seconds.map_or("-".into(), |seconds| format!("{:.0} ms", seconds * 1_000.0));
    let mut text = format!(
        "Gate: limit {}, admitted {}, queue wait mean {} p99 at most {}\n",
        gate.limit,
        gate.admitted,
        millis(gate.queue_wait_mean_seconds),
        millis(gate.queue_wait_p99_at_most_seconds)
    );
    for (reason, count) in &gate.refusals {
        let _ = writeln!(text, "Gate refused: {count} {reason}");
    }
    text
}
