//! The demonstration's figures, as `--json` writes them and as the closing table shows them.

use std::fmt::{self, Display, Write as _};

use serde::Serialize;

use crate::callers::{Protocol, Tally};

/// What one phase came to. Fields are added, never changed.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// Callers.
    pub offered: u64,
    /// Served within the target.
    pub good: u64,
    /// Heard everything, but too late or with gaps.
    pub missed: u64,
    /// Refused at once or after their wait.
    pub refused: u64,
    /// No answer, or one that broke off.
    pub failed: u64,
    /// Hung up on when the phase ended.
    pub unfinished: u64,
    /// Ran dry while they played.
    pub underrun: u64,
    /// Median TTFB of those served, the wait included.
    pub ttfb_p50_seconds: Option<f64>,
    /// 99th percentile of it.
    pub ttfb_p99_seconds: Option<f64>,
    /// 99th percentile of RTF of those served.
    pub rtf_p99: Option<f64>,
    /// Most syntheses in the engine at once, by the engine's own count.
    pub engine_peak: u64,
}

impl Phase {
    pub(super) fn new(tally: &Tally, engine_peak: u64) -> Self {
        Self {
            offered: tally.offered,
            good: tally.good,
            missed: tally.missed,
            refused: tally.refused,
            failed: tally.failed,
            unfinished: tally.unfinished(),
            underrun: tally.underrun,
            ttfb_p50_seconds: tally.ttfb_seconds(50.0),
            ttfb_p99_seconds: tally.ttfb_seconds(99.0),
            rtf_p99: tally.rtf(99.0),
            engine_peak,
        }
    }

    fn share(&self, count: u64) -> String {
        #[expect(clippy::cast_precision_loss, reason = "callers of one demonstration")]
        let percent = 100.0 * count as f64 / self.offered.max(1) as f64;
        format!("{count} ({percent:.0} %)")
    }
}

/// Both phases, and under what conditions. Fields are added, never changed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How the callers asked.
    pub protocol: Protocol,
    /// The gate's limit.
    pub limit: u32,
    /// The simulated hardware.
    pub profile: String,
    /// When a caller is served within the target.
    pub target: String,
    /// Syntheses per second that the engine can serve within the target.
    pub capacity_per_second: f64,
    /// Callers per second.
    pub offered_per_second: f64,
    /// How long they arrived, in each phase, before any was counted.
    pub warm_up_seconds: f64,
    /// How long those who were counted arrived.
    pub counted_seconds: f64,
    /// Of arrivals, texts and engine.
    pub seed: u64,
    /// The callers at the engine itself.
    pub without: Phase,
    /// The callers at the gate.
    pub with: Phase,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (without, with) = (&self.without, &self.with);
        let mut row = |name: &str, without: &str, with: &str| {
            let mut line = format!("  {name:<30}");
            write!(line, "{without:>16}{with:>16}")?;
            writeln!(f, "{line}")
        };
        let count = |value: u64| value.to_string();
        let seconds = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2} s"));
        let ratio = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        row("", "without gate", "with gate")?;
        row("callers", &count(without.offered), &count(with.offered))?;
        row("served within the target", &without.share(without.good), &with.share(with.good))?;
        row("served too late or with gaps", &without.share(without.missed), &with.share(with.missed))?;
        row("  of which ran dry (underrun)", &count(without.underrun), &count(with.underrun))?;
        row("refused", &without.share(without.refused), &with.share(with.refused))?;
        if without.failed + without.unfinished + with.failed + with.unfinished > 0 {
            let lost = |phase: &Phase| phase.share(phase.failed + phase.unfinished);
            row("failed or not ended", &lost(without), &lost(with))?;
        }
        row("TTFB p50", &seconds(without.ttfb_p50_seconds), &seconds(with.ttfb_p50_seconds))?;
        row("TTFB p99", &seconds(without.ttfb_p99_seconds), &seconds(with.ttfb_p99_seconds))?;
        row("RTF p99", &ratio(without.rtf_p99), &ratio(with.rtf_p99))?;
        row("most at once in the engine", &count(without.engine_peak), &count(with.engine_peak))?;
        write!(
            f,
            "\n\
             Measured where callers stand, from the moment each meant to call to its last byte. The engine is\n\
             simulated ({profile}); gate and network are real. Both phases: the same {offered} callers at the same\n\
             moments, {rate:.1} a second for {seconds:.0} s, after {warm_up:.0} s in which they filled the engine and were not\n\
             counted. That is {overload:.2} times what the engine can serve in time ({capacity:.1} a second): in the long\n\
             run no more than {most:.0} % can be served well. The gate's limit: {limit}.\n\
             Target: {target}, here of each caller.\n\
             Refused callers count as not served; TTFB and RTF are those of the callers who were let in.\n",
            profile = self.profile,
            offered = without.offered,
            rate = self.offered_per_second,
            seconds = self.counted_seconds,
            warm_up = self.warm_up_seconds,
            overload = self.offered_per_second / self.capacity_per_second,
            capacity = self.capacity_per_second,
            most = 100.0 * self.capacity_per_second / self.offered_per_second,
            limit = self.limit,
            target = self.target,
        )
    }
}
