//! Decides which level to look at next on the way to the greatest that keeps the target. Knows no engine and no
//! statistics: it asks for looks and is told verdicts.
//!
//! Doubling, then bisecting, as `armchair` does, but with two kinds of look. A *glance* takes a few syntheses, and
//! only a certain miss counts against the level; so the way up is short. What is left in the end, the greatest level
//! to which nothing objected, is then *proved* with as many syntheses as certainty takes. If the proof fails, the search goes on
//! below, and proves every level it looks at from then on.

use super::statistics::Verdict;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Until it is missed, or for a few syntheses.
    Glance,
    /// Until it is met or missed, or the means are used up.
    Proof,
}

/// A level to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The level.
    pub level: u32,
    /// How closely.
    pub effort: Effort,
}

/// The state of a search.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    level_max: u32,
    /// The greatest level that was proved; 0 is no load at all.
    proved: u32,
    /// The greatest level below the ceiling to which nothing objected.
    hopeful: u32,
    /// The smallest level known to be too much, or not to be proved.
    ceiling: Option<u32>,
    /// A proof has failed: glances have shown that they are too coarse here.
    thorough: bool,
}

impl Search {
    /// A search from 1 to `level_max`.
    #[must_use]
    pub const fn new(level_max: u32) -> Self {
        Self { level_max, proved: 0, hopeful: 0, ceiling: None, thorough: false }
    }

    /// The next look, or nothing if the search has ended.
    #[must_use]
    pub fn next(&self) -> Option<Look> {
        let glance = if self.thorough { Effort::Proof } else { Effort::Glance };
        let look = |level, effort| Some(Look { level, effort });
        match self.ceiling {
            None if self.hopeful < self.level_max => {
                look(self.hopeful.saturating_mul(2).clamp(1, self.level_max), glance)
            }
            Some(ceiling) if ceiling - self.hopeful > 1 => look(u32::midpoint(self.hopeful, ceiling), glance),
            _ if self.hopeful > self.proved => look(self.hopeful, Effort::Proof),
            _ => None,
        }
    }

    /// Takes in what came of a look.
    pub fn tell(&mut self, look: Look, verdict: Verdict) {
        let Look { level, effort } = look;
        match (verdict, effort) {
            (Verdict::Missed, _) => self.fall_below(level),
            (Verdict::Undecided, Effort::Proof) => {
                self.thorough = true;
                self.fall_below(level);
            }
            (Verdict::Met, _) => {
                self.proved = self.proved.max(level);
                self.hopeful = self.hopeful.max(level);
            }
            (Verdict::Undecided, Effort::Glance) => self.hopeful = self.hopeful.max(level),
        }
    }

    /// The greatest level that was proved, if any.
    #[must_use]
    pub const fn found(&self) -> Option<u32> {
        if self.proved > 0 { Some(self.proved) } else { None }
    }

    /// The smallest level known to be too much, or not to be proved, if the search came so far.
    #[must_use]
    pub const fn ceiling(&self) -> Option<u32> {
        self.ceiling
    }

    fn fall_below(&mut self, level: u32) {
        self.ceiling = Some(self.ceiling.map_or(level, |ceiling| ceiling.min(level)));
        if self.hopeful >= level {
            // What was only glanced at is no ground to stand on: the glance at this level erred as well.
            self.hopeful = self.proved;
            self.thorough = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a search over levels that answer as `truth` has it; the number of looks, and how it ended.
    fn run(level_max: u32, truth: impl Fn(Look) -> Verdict) -> (usize, Search) {
        let mut search = Search::new(level_max);
        let mut looks = 0;
        while let Some(look) = search.next() {
            assert!((1..=level_max).contains(&look.level));
            search.tell(look, truth(look));
            looks += 1;
            assert!(looks < 200, "it does not end: {search:?}");
        }
        (looks, search)
    }

    fn honest(limit: u32) -> impl Fn(Look) -> Verdict {
        move |look| match (look.level <= limit, look.effort) {
            (false, _) => Verdict::Missed,
            (true, Effort::Glance) => Verdict::Undecided,
            (true, Effort::Proof) => Verdict::Met,
        }
    }

    proptest! {
        #[test]
        fn the_greatest_good_level_is_found_in_few_looks(limit in 1_u32..5_000) {
            let (looks, search) = run(100_000, honest(limit));
            prop_assert_eq!((search.found(), search.ceiling()), (Some(limit), Some(limit + 1)));
            prop_assert!(looks <= 2 * (limit.ilog2() as usize + 2) + 1, "{looks} looks");
        }

        #[test]
        fn glances_that_see_nothing_cost_looks_and_not_the_truth(limit in 0_u32..300, coarse in 0_u32..300) {
            // A glance sees a miss only well above the limit.
            let truth = |look: Look| match look.effort {
                Effort::Glance if look.level <= limit + coarse => Verdict::Undecided,
                _ => honest(limit)(look),
            };
            let (_, search) = run(1_000, truth);
            prop_assert_eq!(search.found().unwrap_or(0), limit);
        }

        #[test]
        fn levels_that_cannot_be_decided_lie_between_what_is_found_and_the_ceiling(
            limit in 0_u32..200, grey in 0_u32..20
        ) {
            let truth = |look: Look| match look.level {
                level if level > limit && level <= limit + grey => Verdict::Undecided,
                _ => honest(limit)(look),
            };
            let (_, search) = run(1_000, truth);
            prop_assert_eq!(search.found().unwrap_or(0), limit);
            prop_assert_eq!(search.ceiling(), Some(limit + 1));
        }
    }

    #[test]
    fn an_engine_that_misses_at_one_has_no_limit_and_one_that_never_misses_has_the_greatest() {
        assert_eq!(run(64, honest(0)).1.found(), None);
        let (_, search) = run(100, honest(1_000));
        assert_eq!((search.found(), search.ceiling()), (Some(100), None));
    }
}
