//! The table of metric families: name, labels, help, buckets. Holds no value.

use prometheus::{HistogramOpts, Opts};

use crate::target::Target;

/// What every name of the gate's own begins with.
pub const PREFIX: &str = "rime_gate_";

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; 0 at start.
    Counter,
    /// A level, read when it is scraped.
    Gauge,
    /// Durations in seconds that a target speaks of.
    Latency,
    /// Real-time factors.
    RealTime,
    /// Waits, from at once to as long as any caller bears.
    Wait,
    /// Gaps between chunks.
    Gap,
    /// Whole syntheses.
    Length,
}

impl Kind {
    /// The type in the text format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Latency | Self::RealTime | Self::Wait | Self::Gap | Self::Length => "histogram",
        }
    }

    /// Upper edges, 1 s or 1.0 among them wherever a target may stand; the target's own are added.
    const fn edges(self) -> &'static [f64] {
        match self {
            Self::Counter | Self::Gauge => &[],
            Self::Latency => &[
                0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0,
                10.0, 30.0,
            ],
            Self::RealTime => &[
                0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5,
                2.0, 3.0, 5.0,
            ],
            Self::Wait => {
                &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0, 10.0]
            }
            Self::Gap => &[0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0],
            Self::Length => {
                &[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0]
            }
        }
    }
}

/// One family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The whole name.
    pub name: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// One line for people; also its line in the README.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident $name:literal $kind:ident [$($label:literal),*] $help:literal)+) => {
        $(pub(super) const $id: Family = Family {
            name: concat!("rime_gate_", $name), kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)+
        const OWN: &[Family] = &[$($id),+];
    };
}

families! {
    LIMIT "concurrency_limit" Gauge []
        "Slots in force: the most syntheses the gate lets in at once."
    INFLIGHT "inflight_syntheses" Gauge ["protocol"]
        "Syntheses that hold a slot."
    UTILIZATION "utilization_ratio" Gauge []
        "Slots taken as a share of the limit; above 1 while a lowered limit is not reached yet."
    QUEUE_DEPTH "queue_depth" Gauge []
        "Syntheses that wait for a slot."
    QUEUE_CAPACITY "queue_capacity" Gauge []
        "Syntheses that may wait at once."
    OLDEST "oldest_synthesis_age_seconds" Gauge []
        "Since the oldest running synthesis arrived; 0 where none runs."
    REQUESTS "requests_total" Counter ["protocol", "model", "code", "outcome"]
        "Syntheses that ended, let in or not, by the caller's status code and how they ended."
    REFUSALS "refusals_total" Counter ["protocol", "reason"]
        "Requests that the gate itself answered with a no, by reason."
    QUEUE_WAIT "queue_wait_seconds" Wait ["outcome"]
        "Wait for a slot, by what came of it."
    TTFB "ttfb_seconds" Latency ["protocol", "model"]
        "Arrival to first audio byte, the wait included: what the caller hears."
    UPSTREAM_TTFB "upstream_ttfb_seconds" Latency ["protocol", "model"]
        "Dispatch to first audio byte: what a benchmark of the engine sees."
    RTF "rtf_ratio" RealTime ["protocol", "model"]
        "Real-time factor: first to last byte, divided by the audio's duration; at 1 playback only just keeps up."
    DURATION "synthesis_duration_seconds" Length ["protocol", "outcome"]
        "Arrival to end."
    CHUNK_GAP "chunk_gap_seconds" Gap ["protocol"]
        "Between two chunks of one answer, from its first audio byte on."
    AUDIO_SECONDS "audio_seconds_total" Counter ["protocol", "model", "format"]
        "Audio carried, in seconds of playback, as far as it can be read."
    AUDIO_BYTES "audio_bytes_total" Counter ["protocol", "model", "format"]
        "Bytes of the answers that carried audio."
    UNDERRUNS "streams_with_underrun_total" Counter ["protocol"]
        "Answers whose playback ran dry before the end."
    RTF_UNKNOWN "rtf_unknown_total" Counter ["reason"]
        "Syntheses that were let in and have no RTF, by reason."
    SLO_EVENTS "slo_events_total" Counter ["slo"]
        "Syntheses that count for a clause of the target."
    SLO_GOOD "slo_good_total" Counter ["slo"]
        "Syntheses that were good in the sense of a clause of the target."
    SLO_TARGET "slo_target" Gauge ["slo"]
        "The share of good syntheses that a clause of the target asks for."
    WINDOW_TTFB "window_ttfb_seconds" Gauge ["percentile"]
        "TTFB over the last five minutes, the wait included; NaN without a sample."
    WINDOW_RTF "window_rtf_ratio" Gauge ["percentile"]
        "Real-time factor over the last five minutes; NaN without a sample."
    WINDOW_INFLIGHT "window_inflight_syntheses" Gauge ["percentile"]
        "Syntheses in flight over the last five minutes, by the share of the busy time; 100 is the peak."
    BURN_RATE "slo_burn_rate" Gauge ["slo", "window"]
        "How many times faster than a clause of the target allows bad syntheses come, TTFB from dispatch; NaN without any."
    SLO_MET "slo_met" Gauge ["slo", "window"]
        "1 where the share seen is what a clause of the target asks, 0 where it is less beyond chance, NaN where chance may do it."
    LIMIT_PROVED "limit_proved" Gauge []
        "Whether the limit in force is proved, and nothing in production speaks against it."
    LIMIT_ADVISED "concurrency_limit_advised" Gauge []
        "The limit that the engine's speed at each level of load would bear; NaN where there is too little load to say."
    SLOWDOWN "engine_slowdown_ratio" Gauge []
        "RTF as a multiple of what it was at the same load; 1 unless the engine has become slower."
    TUNED_INFO "tuned_info" Gauge ["target", "model", "image", "gpu", "level", "date"]
        "1, with how the limit was found; 0 where nothing says."
    SOCKETS "websocket_sessions" Gauge []
        "WebSockets open between callers and the engine; none of them is a synthesis."
    ENGINE_UP "engine_up" Gauge ["engine"]
        "Whether the engine answers its health check."
    ENGINE_UTILIZATION "engine_reported_utilization_ratio" Gauge ["engine"]
        "What the engine says of its own load (ORCA); NaN where it says nothing."
    DRAINING "draining" Gauge []
        "Whether the gate is shutting down."
    BUILD_INFO "build_info" Gauge ["version"]
        "1, with the gate's version."
}

/// The families of the `prometheus` crate's process collector.
const PROCESS: &[Family] = &[
    process("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds."),
    process("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors."),
    process("process_open_fds", Kind::Gauge, "Number of open file descriptors."),
    process("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes."),
    process(
        "process_start_time_seconds",
        Kind::Gauge,
        "Start time of the process since unix epoch in seconds.",
    ),
    process("process_threads", Kind::Gauge, "Number of OS threads in the process."),
    process("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes."),
];

const fn process(name: &'static str, kind: Kind, help: &'static str) -> Family {
    Family { name, kind, labels: &[], help }
}

/// Every family, in the order of the README.
pub fn families() -> impl Iterator<Item = &'static Family> {
    OWN.iter().chain(PROCESS)
}

/// The README's table of metrics.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Family { name, kind, labels, help } in families() {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        table += &format!("| `{name}` | {} | {} | {help} |\n", kind.label(), labels.join(", "));
    }
    table
}

impl Family {
    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    pub(super) fn histogram(&self, target: &Target) -> HistogramOpts {
        HistogramOpts::new(self.name, self.help).buckets(self.buckets(target))
    }

    /// The upper edges, the target's among them.
    fn buckets(&self, target: &Target) -> Vec<f64> {
        let own = match self.kind {
            Kind::Latency => target.ttfb_max().map(|ttfb| ttfb.as_secs_f64()),
            Kind::RealTime => target.rtf_max(),
            Kind::Counter | Kind::Gauge | Kind::Wait | Kind::Gap | Kind::Length => None,
        };
        let mut edges = self.kind.edges().to_vec();
        edges.extend(own);
        edges.sort_by(f64::total_cmp);
        edges.dedup();
        edges
    }
}
