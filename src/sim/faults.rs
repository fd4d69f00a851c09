//! Decides which synthesis goes wrong and how. Seeded: the n-th synthesis meets the same fate in every run.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What goes wrong, as shares of all syntheses between 0 and 1, of which the sum counts up to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Fail instead of sending audio: status 500, or an error of kind `internal`.
    pub error_rate: f64,
    /// Stop sending in the middle and never end.
    pub stall_rate: f64,
    /// Lose their connection in the middle of the audio (and of a WebSocket frame).
    pub cut_rate: f64,
    /// Fail in the middle of the audio. HTTP cannot say so: there it is a cut.
    pub mid_error_rate: f64,
    /// Send all of the audio, but not that it was all.
    pub no_done_rate: f64,
    /// Send `done` twice, where there is one.
    pub double_done_rate: f64,
    /// Start late, by `slow_start`. Apart from the other fates.
    pub slow_rate: f64,
    /// How late a slow one starts.
    pub slow_start: Duration,
    /// Every request for a synthesis is refused with this status before it begins, or with what a protocol
    /// has for it.
    pub refuse: Option<u16>,
}

/// What happens to one synthesis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fate {
    /// What goes wrong.
    pub blow: Blow,
    /// How much later than others it starts.
    pub late: Duration,
}

/// What goes wrong with one synthesis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Blow {
    /// Nothing.
    None,
    /// An error before the first byte.
    Error,
    /// No more bytes after this share of the audio, nor an end.
    Stall(f64),
    /// The connection breaks after this share of the audio.
    Cut(f64),
    /// An error after this share of the audio.
    MidError(f64),
    /// All of the audio, but no end.
    NoDone,
    /// The end twice.
    DoubleDone,
}

/// Throws for each synthesis in turn.
#[derive(Debug)]
pub struct Dice {
    faults: Faults,
    random: StdRng,
    /// Slowness comes upon any fate, and changes none.
    slowness: StdRng,
}

impl Dice {
    /// Fates for a run.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self {
            faults,
            random: StdRng::seed_from_u64(seed),
            slowness: StdRng::seed_from_u64(seed.wrapping_add(1)),
        }
    }

    /// The next synthesis's fate.
    pub fn throw(&mut self) -> Fate {
        // All are drawn every time, so that one rate does not shift the fates of the others.
        let chance: f64 = self.random.random();
        let share: f64 = self.random.random_range(0.2..0.8);
        let slow = self.slowness.random::<f64>() < self.faults.slow_rate;
        let blows = [
            (self.faults.error_rate, Blow::Error),
            (self.faults.stall_rate, Blow::Stall(share)),
            (self.faults.cut_rate, Blow::Cut(share)),
            (self.faults.mid_error_rate, Blow::MidError(share)),
            (self.faults.no_done_rate, Blow::NoDone),
            (self.faults.double_done_rate, Blow::DoubleDone),
        ];
        let mut below = 0.0;
        let struck = blows.into_iter().find(|(rate, _)| {
            below += rate;
            chance < below
        });
        Fate {
            blow: struck.map_or(Blow::None, |(_, blow)| blow),
            late: if slow { self.faults.slow_start } else { Duration::ZERO },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_every_fate_and_the_rates_are_kept() {
        let slow_start = Duration::from_secs(2);
        let faults = Faults {
            error_rate: 0.1,
            stall_rate: 0.2,
            cut_rate: 0.3,
            double_done_rate: 0.1,
            slow_rate: 0.5,
            slow_start,
            ..Faults::default()
        };
        let run = |seed| {
            let mut dice = Dice::new(faults, seed);
            (0..10_000).map(|_| dice.throw()).collect::<Vec<_>>()
        };
        let fates = run(7);
        assert_eq!(fates, run(7));
        assert_ne!(fates, run(8));
        let share = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count();
        assert!((900..1_100).contains(&share(|fate| fate.blow == Blow::Error)));
        assert!((1_800..2_200).contains(&share(|fate| matches!(fate.blow, Blow::Stall(_)))));
        assert!((2_800..3_200).contains(&share(|fate| matches!(fate.blow, Blow::Cut(_)))));
        assert!((900..1_100).contains(&share(|fate| fate.blow == Blow::DoubleDone)));
        assert!((4_800..5_200).contains(&share(|fate| fate.late > Duration::ZERO)));
    }
}
