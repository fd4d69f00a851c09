//! Decides from the syntheses seen so far whether a level keeps a target: met, missed, or not decided yet. Knows no
//! load, no clock and no engine.
//!
//! Every clause asks for a share of good syntheses: `rtf:p99@1.00` for 0.99, `success:0.95` for 0.95. Good ones are
//! counted, and the exact binomial bounds of Clopper and Pearson (Biometrika 26, 1934) say what the counts prove:
//!
//! - the clause **holds** once the lower bound of its share has reached what it asks for;
//! - it **fails** once the upper bound is below.
//!
//! A level has met its target when every clause holds, and missed it when one fails. Both errors are bounded by
//! `1 - confidence` for each level:
//!
//! - *Met, wrongly*: some clause fails in truth and was taken to hold. All must be taken to hold, so the chance is no
//!   greater than that of this one clause, and no correction for their number is needed.
//! - *Missed, wrongly*: all hold in truth and one was taken to fail. The chances of the clauses add up, so each gets its part.
//! - *Several looks* at growing counts are several chances to err. Look `k` may spend `1/(k(k+1))` of the chance, which
//!   adds up to 1 however many looks there are. Looks are geometrically spaced.
//!
//! # What cannot be certain
//!
//! No finite number of good syntheses proves that *all* are good. A clause that asks for 1.00 fails at the first bad one, and
//! is taken to hold when none was seen among as many as prove [`WHOLE_SHARE`]: `success:1.00` means "not one failed, and
//! it is certain that fewer than 1 in 100 do". At a confidence of 0.95 that takes 368 syntheses, as does a p99 of which none
//! was bad. A share that lies so near to what is asked that no affordable number of syntheses tells them apart stays
//! undecided.
//!
//! The bounds take syntheses to be independent of each other. Those that run at the same time share one engine, so a
//! disturbance of a second makes several bad at once: such an engine is judged more surely than it ought to be, in
//! either way. A longer run is the only help.

use crate::target::{Clause, Measured, Target};

/// What a clause that asks for all is proved to, with none bad. See [the module](self).
pub const WHOLE_SHARE: f64 = 0.99;

/// Nothing is said before this many syntheses.
pub const FIRST_LOOK: u64 = 10;

/// From one look to the next.
const LOOK_GROWTH: f64 = 1.5;

/// How certain a verdict is: the chance that it is wrong is at most `1 - confidence`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Confidence(f64);

impl Confidence {
    /// `value` as a confidence, if it is at least 0.5 and below 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.5..1.0).contains(&value).then_some(Self(value))
    }

    /// The confidence, 0.5 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The chance of being wrong that it leaves.
    fn chance(self) -> f64 {
        1.0 - self.0
    }
}

/// 0.95.
impl Default for Confidence {
    fn default() -> Self {
        Self(0.95)
    }
}

/// The chance of at most `successes` in `trials` that succeed with `share` each.
#[must_use]
pub fn chance_of_at_most(successes: u64, trials: u64, share: f64) -> f64 {
    if successes >= trials || share <= 0.0 {
        return 1.0;
    }
    if share >= 1.0 {
        return 0.0;
    }
    // In logarithms: the first term underflows for many trials, long before the sum does.
    let odds = share.ln() - (-share).ln_1p();
    let mut term = to_f64(trials) * (-share).ln_1p();
    let mut sum = term.exp();
    for successes in 1..=successes {
        term += odds + to_f64(trials - successes + 1).ln() - to_f64(successes).ln();
        sum += term.exp();
    }
    sum.min(1.0)
}

/// The bounds of the share, of which `good` in `trials` were seen, each certain to `confidence` by itself.
#[must_use]
pub fn bounds(good: u64, trials: u64, confidence: Confidence) -> (f64, f64) {
    let bad = trials.saturating_sub(good);
    // The greatest share of bad ones that makes so few of them no less likely than the chance; and the same turned round.
    let most_bad = greatest_share(bad, trials, confidence.chance());
    let most_good = greatest_share(good.min(trials), trials, confidence.chance());
    (1.0 - most_bad, most_good)
}

/// The share at which at most `successes` in `trials` have just this `chance`.
fn greatest_share(successes: u64, trials: u64, chance: f64) -> f64 {
    if successes >= trials {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if chance_of_at_most(successes, trials, middle) > chance {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// What is known of a clause or of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds, with the confidence asked for.
    Met,
    /// It does not, with the confidence asked for.
    Missed,
    /// Neither is certain.
    Undecided,
}

/// Judges one level, synthesis by synthesis.
///
/// Syntheses are to be told in the order in which they were *begun*: whoever takes them as they end hears of the quick
/// ones first, and stops before the slow.
#[derive(Clone, Debug)]
pub struct Judge {
    target: Target,
    trials: Vec<Trial>,
    samples: u64,
}

impl Judge {
    /// A judge who has seen nothing.
    #[must_use]
    pub fn new(target: &Target, confidence: Confidence) -> Self {
        let falsely_missed = target.clauses().filter(|clause| can_fail_by_chance(clause)).count().max(1);
        let chance = confidence.chance();
        let trial = |clause: &Clause| Trial::new(*clause, chance, chance / to_f64(falsely_missed as u64));
        Self { target: *target, trials: target.clauses().map(trial).collect(), samples: 0 }
    }

    /// Takes a synthesis into account.
    pub fn record(&mut self, measured: &Measured) {
        self.samples += 1;
        for trial in &mut self.trials {
            trial.record(measured);
        }
    }

    /// Syntheses seen.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// The fewest syntheses that could be judged met.
    #[must_use]
    pub fn samples_min(&self) -> u64 {
        self.trials.iter().map(|trial| trial.first_accept).max().unwrap_or(0).max(FIRST_LOOK)
    }

    /// What is certain.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.samples < FIRST_LOOK {
            Verdict::Undecided
        } else if self.trials.iter().any(|trial| trial.verdict == Verdict::Missed) {
            Verdict::Missed
        } else if self.trials.iter().all(|trial| trial.verdict == Verdict::Met) {
            Verdict::Met
        } else {
            Verdict::Undecided
        }
    }

    /// What is known of each clause.
    pub fn clauses(&self) -> impl Iterator<Item = Judged> {
        self.trials.iter().map(Trial::judged)
    }

    /// The clause that keeps the level from being met: one that failed, else one that is open. Of several, a failure
    /// before anything else, then the slower of TTFB and RTF by their shares of good ones; an underrun, which is what a
    /// high RTF sounds like, last.
    #[must_use]
    pub fn bound_by(&self) -> Option<Clause> {
        let of = |verdict| self.trials.iter().filter(move |trial| trial.verdict == verdict);
        let first = |verdict| {
            of(verdict).min_by(|one, other| one.rank().total_cmp(&other.rank())).map(|trial| trial.clause)
        };
        first(Verdict::Missed).or_else(|| first(Verdict::Undecided))
    }

    /// The target that is judged.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }
}

/// What is known of a clause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The clause.
    pub clause: Clause,
    /// Syntheses in which it could be measured.
    pub measured: u64,
    /// Those that were good.
    pub good: u64,
    /// What is certain.
    pub verdict: Verdict,
}

/// One clause and its looks.
#[derive(Clone, Debug)]
struct Trial {
    clause: Clause,
    measured: u64,
    bad: u64,
    verdict: Verdict,
    /// The chance of taking it to hold wrongly, and to fail wrongly.
    accept: Looks,
    reject: Looks,
    first_accept: u64,
}

/// When to look next, and what chance of error to spend on it.
#[derive(Clone, Debug)]
struct Looks {
    chance: f64,
    number: u64,
    next: u64,
}

impl Looks {
    fn new(chance: f64, first: u64) -> Self {
        Self { chance, number: 1, next: first }
    }

    /// The chance to spend, if now is the time.
    fn due(&mut self, count: u64) -> Option<f64> {
        if count < self.next {
            return None;
        }
        let spent = self.chance / to_f64(self.number * (self.number + 1));
        self.number += 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of syntheses")]
        let next = (to_f64(self.next) * LOOK_GROWTH).ceil() as u64;
        self.next = next;
        Some(spent)
    }
}

impl Trial {
    fn new(clause: Clause, accept: f64, reject: f64) -> Self {
        let first_accept = fewest(accepted_share(&clause), accept / 2.0);
        Self {
            clause,
            measured: 0,
            bad: 0,
            verdict: if clause.objective() <= 0.0 { Verdict::Met } else { Verdict::Undecided },
            accept: Looks::new(accept, first_accept),
            reject: Looks::new(reject, FIRST_LOOK),
            first_accept,
        }
    }

    fn record(&mut self, measured: &Measured) {
        let Some(good) = self.clause.is_good(measured) else { return };
        self.measured += 1;
        self.bad += u64::from(!good);
        let objective = self.clause.objective();
        if objective <= 0.0 || self.verdict == Verdict::Missed {
            return;
        }
        if objective >= 1.0 && self.bad > 0 {
            self.verdict = Verdict::Missed;
            return;
        }
        if let Some(chance) = self.reject.due(self.measured)
            && objective < 1.0
            && self.bad > 0
            && 1.0 - chance_of_at_most(self.bad - 1, self.measured, 1.0 - objective) <= chance
        {
            self.verdict = Verdict::Missed;
            return;
        }
        let bad_allowed = 1.0 - accepted_share(&self.clause);
        if let Some(chance) = self.accept.due(self.measured)
            && chance_of_at_most(self.bad, self.measured, bad_allowed) <= chance
        {
            self.verdict = Verdict::Met;
        }
    }

    fn judged(&self) -> Judged {
        Judged {
            clause: self.clause,
            measured: self.measured,
            good: self.measured - self.bad,
            verdict: self.verdict,
        }
    }

    fn rank(&self) -> f64 {
        match self.clause {
            Clause::Success { .. } => -1.0,
            Clause::Ttfb { .. } | Clause::Rtf { .. } => 1.0 - to_f64(self.bad) / to_f64(self.measured.max(1)),
            Clause::Underrun { .. } => 2.0,
        }
    }
}

fn can_fail_by_chance(clause: &Clause) -> bool {
    (0.0..1.0).contains(&clause.objective()) && clause.objective() > 0.0
}

/// The share that is proved of a clause before it is taken to hold.
fn accepted_share(clause: &Clause) -> f64 {
    if clause.objective() >= 1.0 { WHOLE_SHARE } else { clause.objective() }
}

/// The fewest syntheses that prove `share` to `chance` if all are good.
fn fewest(share: f64, chance: f64) -> u64 {
    if share <= 0.0 {
        return 1;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; positive")]
    let fewest = (chance.ln() / share.ln()).ceil() as u64;
    fewest.max(1)
}

#[expect(clippy::cast_precision_loss, reason = "counts of syntheses")]
const fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
