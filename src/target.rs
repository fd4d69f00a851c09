//! The performance target: what a deployment promises its callers, in the grammar of Rime's `armchair`.
//! Decides what a target says and whether one synthesis keeps it. Knows no clock, window or metric.
//!
//! ```text
//! success:1.00,ttfb:p99@1s,rtf:p99@1.00,underrun:0.00
//! ```
//!
//! The parser accepts exactly what `armchair` 0.4.0 accepts after `--target`, so that one text serves the
//! benchmark, the tuner and the live verdict. Every clause is optional; of a clause given twice the last counts.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A share between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// `value` as a share, if it lies between 0 and 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value.abs())) // abs: "-0" is in the range and means 0
    }

    /// The share, 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        two_decimals(f, self.0)
    }
}

/// A percentile between 0 and 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percentile(f64);

impl Percentile {
    /// `value` as a percentile, if it lies between 0 and 100.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=100.0).contains(&value).then_some(Self(value.abs()))
    }

    /// The percentile, 0 to 100.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The percentile as a share, 0 to 1: `p99` is 0.99.
    #[must_use]
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// One clause of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clause {
    /// At least this share of the syntheses succeeds.
    Success {
        /// The share that must succeed.
        at_least: Share,
    },
    /// This percentile of TTFB is at most so long.
    Ttfb {
        /// Which percentile.
        percentile: Percentile,
        /// The longest time to the first audio byte.
        at_most: Duration,
    },
    /// This percentile of RTF is at most so high.
    Rtf {
        /// Which percentile.
        percentile: Percentile,
        /// The highest real-time factor; finite, not negative.
        at_most: f64,
    },
    /// At most this share of the syntheses runs dry while it plays.
    Underrun {
        /// The share that may run dry.
        at_most: Share,
    },
}

/// What was measured of one synthesis, as far as a target asks. `None`: not measurable, so no clause counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Whether it succeeded: a 2xx answer, with audio, to its end.
    pub success: bool,
    /// Time to the first audio byte.
    pub ttfb: Option<Duration>,
    /// Real-time factor.
    pub rtf: Option<f64>,
    /// Whether playback ran dry.
    pub underrun: Option<bool>,
}

impl Clause {
    /// The label of every clause, in the order of [`Target::clauses`].
    pub const LABELS: [&'static str; 4] = ["success", "ttfb", "rtf", "underrun"];

    /// The clause's name in the grammar and in the metrics' `slo` label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Success { .. } => "success",
            Self::Ttfb { .. } => "ttfb",
            Self::Rtf { .. } => "rtf",
            Self::Underrun { .. } => "underrun",
        }
    }

    /// The share of syntheses that must be good for the clause to hold, 0 to 1:
    /// `p99` asks for 0.99, `underrun:0.02` for 0.98.
    #[must_use]
    pub fn objective(&self) -> f64 {
        match self {
            Self::Success { at_least } => at_least.get(),
            Self::Ttfb { percentile, .. } | Self::Rtf { percentile, .. } => percentile.share(),
            Self::Underrun { at_most } => 1.0 - at_most.get(),
        }
    }

    /// Whether one synthesis is good in the sense of this clause; `None` if it was not measured.
    #[must_use]
    pub fn is_good(&self, measured: &Measured) -> Option<bool> {
        match self {
            Self::Success { .. } => Some(measured.success),
            Self::Ttfb { at_most, .. } => measured.ttfb.map(|ttfb| ttfb <= *at_most),
            Self::Rtf { at_most, .. } => measured.rtf.map(|rtf| rtf <= *at_most),
            Self::Underrun { .. } => measured.underrun.map(|underrun| !underrun),
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success { at_least } => write!(f, "success:{at_least}"),
            Self::Ttfb { percentile, at_most } => {
                write!(f, "ttfb:{percentile}@")?;
                duration(f, *at_most)
            }
            Self::Rtf { percentile, at_most } => {
                write!(f, "rtf:{percentile}@")?;
                two_decimals(f, *at_most)
            }
            Self::Underrun { at_most } => write!(f, "underrun:{at_most}"),
        }
    }
}

/// A conjunction of up to four clauses, at most one of each kind. The empty target is always met.
///
/// `Display` gives the canonical text, which parses to the same target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    clauses: [Option<Clause>; 4],
}

impl Target {
    /// The target of Rime's guide and `armchair`'s default.
    pub const GUIDE: &'static str = "success:1.00,ttfb:p99@1s,rtf:p99@1.00,underrun:0.00";

    /// The clauses, in the order success, ttfb, rtf, underrun.
    pub fn clauses(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().flatten()
    }

    /// The longest TTFB that the target allows, if it says.
    #[must_use]
    pub fn ttfb_max(&self) -> Option<Duration> {
        self.clauses().find_map(|clause| match clause {
            Clause::Ttfb { at_most, .. } => Some(*at_most),
            _ => None,
        })
    }

    /// The highest RTF that the target allows, if it says.
    #[must_use]
    pub fn rtf_max(&self) -> Option<f64> {
        self.clauses().find_map(|clause| match clause {
            Clause::Rtf { at_most, .. } => Some(*at_most),
            _ => None,
        })
    }

    /// Whether one synthesis is good in the sense of every clause that could measure it.
    #[must_use]
    pub fn is_good(&self, measured: &Measured) -> bool {
        self.clauses().all(|clause| clause.is_good(measured) != Some(false))
    }
}

/// The target of Rime's guide, [`Target::GUIDE`].
impl Default for Target {
    fn default() -> Self {
        let one = Share(1.0);
        let p99 = Percentile(99.0);
        Self {
            clauses: [
                Some(Clause::Success { at_least: one }),
                Some(Clause::Ttfb { percentile: p99, at_most: Duration::from_secs(1) }),
                Some(Clause::Rtf { percentile: p99, at_most: 1.0 }),
                Some(Clause::Underrun { at_most: Share(0.0) }),
            ],
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, clause) in self.clauses().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            clause.fmt(f)?;
        }
        Ok(())
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// At least two decimals, as in `1.00`, and as many more as the value needs.
fn two_decimals(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    let shortest = value.to_string();
    let decimals = shortest.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    write!(f, "{value:.*}", decimals.max(2))
}

/// In the units that `armchair` reads: whole milliseconds, or seconds with decimals.
fn duration(f: &mut fmt::Formatter<'_>, value: Duration) -> fmt::Result {
    let (seconds, nanos) = (value.as_secs(), value.subsec_nanos());
    if nanos == 0 {
        write!(f, "{seconds}s")
    } else if nanos.is_multiple_of(1_000_000) {
        write!(f, "{}ms", value.as_millis())
    } else {
        write!(f, "{seconds}.{}s", format!("{nanos:09}").trim_end_matches('0'))
    }
}

/// Why a text is not a target, and where in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TargetError {
    /// One line for a person.
    pub message: String,
    /// The bytes of the text that are wrong.
    pub span: Range<usize>,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let mut target = Self { clauses: [None; 4] };
        let mut start = 0;
        for part in text.split(',') {
            let part = Part { text: part, start };
            start += part.text.len() + 1;
            if part.trim().text.is_empty() {
                continue;
            }
            let clause = part.trim().clause()?;
            let place = match clause {
                Clause::Success { .. } => 0,
                Clause::Ttfb { .. } => 1,
                Clause::Rtf { .. } => 2,
                Clause::Underrun { .. } => 3,
            };
            target.clauses[place] = Some(clause);
        }
        Ok(target)
    }
}

/// A piece of the target's text that knows where it stands.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Part<'a> {
    fn trim(self) -> Self {
        let left = self.text.trim_start();
        Self { text: left.trim_end(), start: self.start + self.text.len() - left.len() }
    }

    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (left, right) = self.text.split_once(separator)?;
        let right_start = self.start + left.len() + separator.len_utf8();
        Some((Self { text: left, start: self.start }, Self { text: right, start: right_start }))
    }

    fn error(self, message: impl Into<String>) -> TargetError {
        TargetError { message: message.into(), span: self.start..self.start + self.text.len() }
    }

    fn clause(self) -> Result<Clause, TargetError> {
        let Some((key, value)) = self.split_once(':') else {
            return Err(self.error("a clause is written `name:value`"));
        };
        let (key, value) = (key.trim(), value.trim());
        match key.text.to_ascii_lowercase().as_str() {
            "success" => Ok(Clause::Success { at_least: value.share()? }),
            "underrun" => Ok(Clause::Underrun { at_most: value.share()? }),
            "ttfb" => {
                let (percentile, at_most) = value.percentile_and_bound()?;
                Ok(Clause::Ttfb { percentile, at_most: at_most.duration()? })
            }
            "rtf" => {
                let (percentile, at_most) = value.percentile_and_bound()?;
                Ok(Clause::Rtf { percentile, at_most: at_most.factor()? })
            }
            _ => Err(key.error("a clause is one of success, ttfb, rtf, underrun")),
        }
    }

    fn share(self) -> Result<Share, TargetError> {
        let value = self.text.parse().ok().and_then(Share::new);
        value.ok_or_else(|| self.error("a share is a number from 0.0 to 1.0"))
    }

    fn percentile_and_bound(self) -> Result<(Percentile, Self), TargetError> {
        let Some((percentile, bound)) = self.split_once('@') else {
            return Err(self.error("a percentile and its bound are written `p99@bound`"));
        };
        let percentile = percentile.trim();
        let number = percentile.text.strip_prefix(['p', 'P']).and_then(|number| number.parse().ok());
        match number.and_then(Percentile::new) {
            Some(value) => Ok((value, bound.trim())),
            None => Err(percentile.error("a percentile is `p` and a number from 0 to 100")),
        }
    }

    fn factor(self) -> Result<f64, TargetError> {
        match self.text.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
            _ => Err(self.error("a real-time factor is a number, 0 or more")),
        }
    }

    fn duration(self) -> Result<Duration, TargetError> {
        let value = if let Some(millis) = self.text.strip_suffix("ms") {
            millis.trim().parse().ok().map(Duration::from_millis)
        } else if let Some(seconds) = self.text.strip_suffix('s') {
            seconds.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        } else {
            None
        };
        value.ok_or_else(|| self.error("a TTFB is written `500ms` or `1.2s`"))
    }
}
