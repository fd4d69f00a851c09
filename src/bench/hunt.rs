//! A search with its syntheses: decides when a level has been looked at for long enough, and what the looks come to. Knows
//! no clock and no engine; whoever runs the load tells it what was heard.

use std::collections::BTreeMap;
use std::time::Duration;

use super::load::Crowd;
use super::sample::{Sample, Samples};
use super::search::{Effort, Look, Search};
use super::statistics::{Confidence, Judge, Verdict};
use crate::target::{Clause, Target};

/// The first level is where the initial latency is measured, so it is glanced at for longer.
const FIRST_GLANCE: u64 = 20;

/// What a hunt is to find out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quest {
    /// What a level has to keep.
    pub target: Target,
    /// How certain verdicts are to be.
    pub confidence: Confidence,
    /// The greatest level that may be tried.
    pub level_max: u32,
    /// Syntheses at one level, after which it stays undecided.
    pub samples_max: u64,
    /// Syntheses of a glance, for each of the level: 2 in flight, or as many as a session has turns.
    pub glance: u64,
}

/// A level and what is known of it.
#[derive(Clone, Debug)]
pub struct Level {
    /// How many at once.
    pub level: u32,
    /// The judge who heard its syntheses.
    pub judge: Judge,
    /// The syntheses.
    pub samples: Samples,
    /// How long it was looked at, where a clock was.
    pub lasted: Duration,
    /// The most syntheses at once.
    pub peak: u32,
    /// The time of all syntheses together.
    pub busy: Duration,
}

impl Level {
    /// A level of which nothing is known.
    #[must_use]
    pub fn new(level: u32, quest: &Quest) -> Self {
        let judge = Judge::new(&quest.target, quest.confidence);
        Self {
            level,
            judge,
            samples: Samples::default(),
            lasted: Duration::ZERO,
            peak: 0,
            busy: Duration::ZERO,
        }
    }

    /// Takes in a synthesis. They are to come in the order in which they were begun.
    pub fn record(&mut self, sample: Sample) {
        self.judge.record(&sample.measured());
        self.samples.all.push(sample);
    }

    /// Adds a look that `lasted` so long, by this crowd.
    pub(super) fn saw(&mut self, lasted: Duration, crowd: &Crowd) {
        self.lasted += lasted;
        self.peak = self.peak.max(crowd.peak());
        self.busy += crowd.busy();
    }

    /// How many ran at once, on average over time.
    #[must_use]
    pub fn in_flight_mean(&self) -> f64 {
        self.busy.as_secs_f64() / self.lasted.as_secs_f64().max(f64::EPSILON)
    }

    /// Whether that is all that a look of this effort wants to hear.
    #[must_use]
    pub fn is_enough(&self, effort: Effort, quest: &Quest) -> bool {
        let heard = self.samples.count();
        if self.judge.verdict() == Verdict::Missed || heard >= quest.samples_max {
            return true;
        }
        match effort {
            Effort::Proof => self.judge.verdict() == Verdict::Met,
            Effort::Glance => heard >= glance(self.level, quest),
        }
    }
}

/// Syntheses of a glance at `level`.
pub(super) fn glance(level: u32, quest: &Quest) -> u64 {
    let least = if level == 1 { FIRST_GLANCE } else { super::statistics::FIRST_LOOK };
    (quest.glance * u64::from(level)).clamp(least, quest.samples_max.max(least))
}

/// A search and all that was heard in it.
#[derive(Clone, Debug)]
pub struct Hunt {
    quest: Quest,
    search: Search,
    levels: BTreeMap<u32, Level>,
}

impl Hunt {
    /// A hunt that has not begun.
    #[must_use]
    pub fn new(quest: Quest) -> Self {
        Self { quest, search: Search::new(quest.level_max), levels: BTreeMap::new() }
    }

    /// What to look at next; nothing when the hunt is over.
    #[must_use]
    pub fn next(&self) -> Option<Look> {
        self.search.next()
    }

    /// The level of a look, with what was heard at it before.
    pub fn level(&mut self, look: Look) -> &mut Level {
        self.levels.entry(look.level).or_insert_with(|| Level::new(look.level, &self.quest))
    }

    /// Whether the look has heard all it wants.
    #[must_use]
    pub fn is_enough(&self, look: Look) -> bool {
        self.levels.get(&look.level).is_some_and(|level| level.is_enough(look.effort, &self.quest))
    }

    /// Ends a look, for whatever reason.
    pub fn close(&mut self, look: Look) {
        let verdict = self.level(look).judge.verdict();
        self.search.tell(look, verdict);
    }

    /// The greatest level that was proved, if any.
    #[must_use]
    pub const fn found(&self) -> Option<u32> {
        self.search.found()
    }

    /// The levels, from the smallest.
    pub fn levels(&self) -> impl Iterator<Item = &Level> {
        self.levels.values()
    }

    /// The clause that keeps the next level from being met, and whether that is certain. Nothing where the search ended at
    /// its greatest level.
    #[must_use]
    pub fn bound_by(&self) -> Option<(Clause, Verdict)> {
        let judge = &self.levels.get(&self.search.ceiling()?)?.judge;
        Some((judge.bound_by()?, judge.verdict()))
    }

    /// The mean TTFB at level 1, if it was looked at.
    #[must_use]
    pub fn initial_latency(&self) -> Option<Duration> {
        let mean = self.levels.get(&1)?.samples.ttfb().mean?;
        Duration::try_from_secs_f64(mean).ok()
    }
}

#[cfg(test)]
mod tests;
