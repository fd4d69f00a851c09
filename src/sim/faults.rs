//! Decides which synthesis goes wrong and how. Seeded: the n-th synthesis meets the same fate in every run.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What goes wrong, as shares of all syntheses between 0 and 1, of which the sum counts up to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Answered with 500 instead of audio.
    pub error_rate: f64,
    /// Stop sending in the middle and never end.
    pub stall_rate: f64,
    /// Lose their connection in the middle.
    pub cut_rate: f64,
    /// Every request for a synthesis is refused with this status before it begins.
    pub refuse: Option<u16>,
}

/// What happens to one synthesis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// Nothing.
    Fine,
    /// An error before the first byte.
    Error,
    /// No more bytes after this share of the audio, nor an end.
    Stall(f64),
    /// The connection breaks after this share of the audio.
    Cut(f64),
}

/// Throws for each synthesis in turn.
#[derive(Debug)]
pub struct Dice {
    faults: Faults,
    random: StdRng,
}

impl Dice {
    /// Fates for a run.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, random: StdRng::seed_from_u64(seed) }
    }

    /// The next synthesis's fate.
    pub fn throw(&mut self) -> Fate {
        // Both are drawn every time, so that one rate does not shift the fates of the others.
        let chance: f64 = self.random.random();
        let share: f64 = self.random.random_range(0.2..0.8);
        let Faults { error_rate, stall_rate, cut_rate, refuse: _ } = self.faults;
        if chance < error_rate {
            Fate::Error
        } else if chance < error_rate + stall_rate {
            Fate::Stall(share)
        } else if chance < error_rate + stall_rate + cut_rate {
            Fate::Cut(share)
        } else {
            Fate::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_every_fate_and_the_rates_are_kept() {
        let faults = Faults { error_rate: 0.1, stall_rate: 0.2, cut_rate: 0.3, refuse: None };
        let run = |seed| {
            let mut dice = Dice::new(faults, seed);
            (0..10_000).map(|_| dice.throw()).collect::<Vec<_>>()
        };
        let fates = run(7);
        assert_eq!(fates, run(7));
        assert_ne!(fates, run(8));
        let share = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count();
        assert!((900..1_100).contains(&share(|fate| *fate == Fate::Error)));
        assert!((1_800..2_200).contains(&share(|fate| matches!(fate, Fate::Stall(_)))));
        assert!((2_800..3_200).contains(&share(|fate| matches!(fate, Fate::Cut(_)))));
    }
}
