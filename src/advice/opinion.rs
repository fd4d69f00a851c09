//! From what was seen to what is said: whether the limit is proved, and which one the figures bear.

use std::fmt;

use super::drift::Slower;
use super::evidence::{Cell, Evidence};
use super::windows::{Standing, Verdict, WINDOWS, allowed};
use super::{LIKELY, objects};
use crate::target::{Clause, Target};

/// Syntheses that a level, or its eighth, must have seen before it is spoken of.
pub const ENOUGH: u64 = 100;

/// What the configuration says of how the limit was found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The greatest level that was proved.
    pub level: Option<u32>,
    /// The target that it was proved for.
    pub target: Option<Target>,
}

/// Whether the limit in force is still proved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Proof {
    /// It is: by the benchmark, and nothing in production speaks against it.
    Proved,
    /// Nothing says where it comes from.
    NoProvenance,
    /// It is higher than what was proved.
    Above {
        /// What was proved.
        proved: u32,
    },
    /// It was proved for another target.
    OtherTarget,
    /// The engine is slower than it was at the same load.
    Slower {
        /// RTF as a multiple of what it was.
        ratio: f64,
    },
    /// A clause of the target is missed.
    Missed {
        /// The clause's name in the grammar.
        clause: &'static str,
    },
}

impl Proof {
    pub(super) fn of(
        limit: u32,
        target: &Target,
        provenance: &Provenance,
        slower: Option<Slower>,
        standings: &[Standing],
    ) -> Self {
        // A minute that went wrong is spoken of at once, and not for the rest of the hour.
        let missed = standings.iter().find(|one| one.verdict == Verdict::Missed && one.window < WINDOWS[2]);
        if let Some(missed) = missed {
            return Self::Missed { clause: missed.clause.label() };
        }
        if let Some(slower) = slower {
            return Self::Slower { ratio: slower.ratio };
        }
        match (provenance.level, provenance.target) {
            (None, _) => Self::NoProvenance,
            (Some(proved), _) if proved < limit => Self::Above { proved },
            (_, Some(proved)) if proved != *target => Self::OtherTarget,
            _ => Self::Proved,
        }
    }

    /// One word for machines.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::NoProvenance => "no_provenance",
            Self::Above { .. } => "above_proved",
            Self::OtherTarget => "other_target",
            Self::Slower { .. } => "engine_slower",
            Self::Missed { .. } => "target_missed",
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proved => f.write_str("proved"),
            Self::NoProvenance => f.write_str("not proved: nothing says how it was found"),
            Self::Above { proved } => write!(f, "not proved: {proved} was"),
            Self::OtherTarget => f.write_str("not proved: it was found for another target"),
            Self::Slower { ratio } => {
                write!(
                    f,
                    "no longer proved: the engine takes {ratio:.2} times as long as it did at the same load"
                )
            }
            Self::Missed { clause } => write!(f, "no longer proved: production misses the target's {clause}"),
        }
    }
}

/// What the figures of production say about a limit.
#[derive(Clone, Debug, PartialEq)]
pub enum Advice {
    /// Too few syntheses ran near the limit.
    NotEnough {
        /// The levels near the limit.
        near: (u32, u32),
        /// Syntheses there.
        samples: u64,
    },
    /// The target is missed at levels that the limit allows.
    Lower {
        /// The highest levels at which it is.
        at: (u32, u32),
        /// What is missed there: `RTF p99 1.08 > 1.00`.
        missed: String,
        /// The highest level that meets the target, and the syntheses that say so.
        best: Option<(u32, u64)>,
    },
    /// The target is met near the limit.
    Holds {
        /// The levels near the limit.
        near: (u32, u32),
        /// Syntheses there.
        samples: u64,
        /// The limit up to which the trend of TTFB and RTF would meet the target too; at most an eighth above.
        room: Option<u32>,
    },
}

/// A few neighbouring levels, an eighth of the highest.
struct Group {
    from: u32,
    to: u32,
    cell: Cell,
}

impl Group {
    fn missed<'t>(&self, target: &'t Target) -> Option<(usize, &'t Clause)> {
        target.clauses().enumerate().find(|(index, clause)| {
            let count = self.cell.counts[*index];
            objects(count.bad, count.events, allowed(clause), LIKELY)
        })
    }
}

impl Advice {
    pub(super) fn of(limit: u32, target: &Target, evidence: &Evidence) -> Self {
        let groups = groups(limit.max(evidence.highest().unwrap_or(1)), limit, evidence);
        let enough = |group: &&Group| group.cell.samples >= ENOUGH;
        let near = groups.iter().find(|group| group.to <= limit);
        let allowed = groups.iter().filter(|group| group.from <= limit).filter(enough);
        let missed = allowed.clone().find_map(|group| group.missed(target).map(|missed| (group, missed)));
        if let Some((group, (index, clause))) = missed {
            let below = allowed.filter(|below| below.to < group.from && below.missed(target).is_none());
            let best = below.max_by_key(|below| below.to).map(|below| (below.to, below.cell.samples));
            return Self::Lower {
                at: (group.from, group.to),
                missed: complaint(clause, index, &group.cell),
                best,
            };
        }
        match near {
            Some(near) if near.cell.samples >= ENOUGH => {
                let samples = near.cell.samples;
                Self::Holds { near: (near.from, near.to), samples, room: room(limit, target, &groups) }
            }
            Some(near) => Self::NotEnough { near: (near.from, near.to), samples: near.cell.samples },
            None => Self::NotEnough { near: (limit, limit), samples: 0 },
        }
    }

    /// The limit that is advised, where there is anything to advise.
    #[must_use]
    pub fn limit(&self, in_force: u32) -> Option<u32> {
        match self {
            Self::NotEnough { .. } => None,
            Self::Lower { best, .. } => best.map(|(level, _)| level),
            Self::Holds { room, .. } => Some(room.unwrap_or(in_force)),
        }
    }
}

/// Levels by eighths, from the highest seen down; one group ends at the limit.
fn groups(highest: u32, limit: u32, evidence: &Evidence) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut to = highest;
    while to > 0 {
        let mut from = to - (to / 8).saturating_sub(1);
        if to > limit {
            from = from.max(limit + 1);
        }
        groups.push(Group { from, to, cell: evidence.between(from, to) });
        to = from - 1;
    }
    groups
}

/// How far the trend of the percentiles over the levels would bear the target, an eighth above the limit at most.
fn room(limit: u32, target: &Target, groups: &[Group]) -> Option<u32> {
    let seen: Vec<_> = groups.iter().filter(|group| group.cell.samples >= ENOUGH).collect();
    let mut most = limit + (limit / 8).max(1);
    let mut asked = false;
    for clause in target.clauses() {
        let (percentile, bound): (_, f64) = match clause {
            Clause::Ttfb { percentile, at_most } => (percentile.get(), at_most.as_secs_f64()),
            Clause::Rtf { percentile, at_most } => (percentile.get(), *at_most),
            Clause::Success { .. } | Clause::Underrun { .. } => continue,
        };
        asked = true;
        let value = |group: &&Group| {
            let is_ttfb = matches!(clause, Clause::Ttfb { .. });
            let cell = &group.cell;
            let value = if is_ttfb { cell.ttfb_seconds(percentile) } else { cell.rtf(percentile) }?;
            Some((f64::midpoint(f64::from(group.from), f64::from(group.to)), value))
        };
        let points: Vec<_> = seen.iter().filter_map(value).collect();
        let (level, slope, intercept) = trend(&points)?;
        let bears = |limit: u32| intercept + slope * (f64::from(limit) - level) <= bound;
        most = (limit..=most).rev().find(|limit| bears(*limit))?;
    }
    (asked && most > limit).then_some(most)
}

/// The least-squares line through at least three points: mean of x, slope (never falling: more load is not quicker), value at the mean.
fn trend(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    if points.len() < 3 {
        return None;
    }
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    (variance > 0.0).then(|| (x, (covariance / variance).max(0.0), y))
}

fn complaint(clause: &Clause, index: usize, cell: &Cell) -> String {
    let count = cell.counts[index];
    let bad = count.bad as f64 / count.events.max(1) as f64;
    match clause {
        Clause::Success { at_least } => format!("success {:.3} < {at_least}", 1.0 - bad),
        Clause::Underrun { at_most } => format!("underrun {bad:.3} > {at_most}"),
        Clause::Ttfb { percentile, at_most } => {
            let ttfb = cell.ttfb_seconds(percentile.get()).unwrap_or(f64::NAN);
            format!("TTFB {percentile} {ttfb:.2} s > {:.2} s", at_most.as_secs_f64())
        }
        Clause::Rtf { percentile, at_most } => {
            let rtf = cell.rtf(percentile.get()).unwrap_or(f64::NAN);
            format!("RTF {percentile} {rtf:.2} > {at_most:.2}")
        }
    }
}

/// `29-32`, or `32`.
fn span((from, to): (u32, u32)) -> String {
    if from == to { format!("{to}") } else { format!("{from}-{to}") }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnough { near, samples } => {
                let near = span(*near);
                write!(f, "not enough load to say: {samples} of {ENOUGH} syntheses at {near} in flight")
            }
            Self::Lower { at, missed, best } => {
                write!(f, "at {} in flight {missed}; ", span(*at))?;
                match best {
                    Some((level, samples)) => {
                        write!(f, "the highest level that meets the target is {level} ({samples} samples)")
                    }
                    None => f.write_str("no level below was seen to meet the target"),
                }
            }
            Self::Holds { near, samples, room } => {
                write!(f, "the target is met at {} in flight ({samples} samples)", span(*near))?;
                match room {
                    Some(room) => write!(f, "; by the trend there is room for {room}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// How production stands at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// The limit that is spoken of.
    pub limit: u32,
    /// Every clause over every window, clauses in the target's order.
    pub standings: Vec<Standing>,
    /// Whether the engine is slower than it was.
    pub slower: Option<Slower>,
    /// Whether the limit is still proved.
    pub proof: Proof,
}

impl Live {
    /// What a log line is written for when it changes: whether the limit is proved, and which clauses are missed.
    #[must_use]
    pub fn verdict(&self) -> (&'static str, Vec<&'static str>) {
        let missed =
            self.standings.iter().filter(|one| one.verdict == Verdict::Missed && one.window < WINDOWS[2]);
        let mut missed: Vec<_> = missed.map(|one| one.clause.label()).collect();
        missed.dedup();
        (self.proof.label(), missed)
    }
}
