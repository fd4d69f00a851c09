//! Decides when each synthesis gains its next stretch of audio. Knows no sound, no caller and no clock:
//! time is an argument, the time since the engine started.
//!
//! The GPU works in rounds. A round takes up to `GENERATOR_MAX_BATCH` syntheses and yields the same stretch
//! of audio for each; the more take part, the longer it lasts. Those that do not fit take turns, so that all
//! fall behind together. A synthesis joins at the first round after its text was prepared. One whose text still
//! comes keeps its place when it has nothing left to say, and joins again with its next text.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::profile::{Limits, Profile};

/// Names one synthesis for as long as the GPU works on it. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

/// A synthesis has gained audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whose.
    pub id: Id,
    /// When, since the engine started.
    pub at: Duration,
    /// All audio of this synthesis so far.
    pub produced: Duration,
    /// Whether that is all there is; the id is gone then.
    pub finished: bool,
}

/// The GPU and all that it works on.
#[derive(Debug)]
pub struct Gpu {
    profile: Profile,
    limits: Limits,
    random: StdRng,
    next_id: u64,
    syntheses: HashMap<Id, Synthesis>,
    /// Texts in preparation, by the time they are ready.
    preparing: BTreeSet<(Duration, Id)>,
    /// Ready and not in the running round, the longest waiting first. May hold cancelled ids.
    waiting: VecDeque<Id>,
    round: Option<RunningRound>,
}

#[derive(Debug)]
struct Synthesis {
    /// Sound of all texts so far.
    audio: Duration,
    produced: Duration,
    rounds: u32,
    /// More text may come.
    open: bool,
    stage: Stage,
    /// What the first text takes longer than others.
    late: Duration,
}

/// Where a synthesis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Has no text to speak.
    Idle,
    /// Its text is in preparation until then.
    Preparing(Duration),
    /// Waits for a turn, or is in the running round.
    Ready,
}

#[derive(Debug)]
struct RunningRound {
    ends: Duration,
    rows: Vec<Id>,
}

impl Gpu {
    /// An idle GPU. `seed` fixes every deviation, so that the same calls give the same run.
    #[must_use]
    pub fn new(profile: Profile, limits: Limits, seed: u64) -> Self {
        Self {
            profile,
            limits,
            random: StdRng::seed_from_u64(seed),
            next_id: 0,
            syntheses: HashMap::new(),
            preparing: BTreeSet::new(),
            waiting: VecDeque::new(),
            round: None,
        }
    }

    /// Syntheses in the engine: in preparation, waiting for a turn, or in the running round.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.syntheses.len()
    }

    /// Takes in a text that will become `audio` of sound.
    pub fn start(&mut self, now: Duration, audio: Duration) -> Id {
        let id = self.open(Duration::ZERO);
        self.extend(now, id, audio);
        self.hold(id, false);
        id
    }

    /// Takes in a synthesis whose text is still to come. The first text takes `late` longer to prepare.
    pub fn open(&mut self, late: Duration) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        let synthesis = Synthesis {
            audio: Duration::ZERO,
            produced: Duration::ZERO,
            rounds: 0,
            open: true,
            stage: Stage::Idle,
            late,
        };
        self.syntheses.insert(id, synthesis);
        id
    }

    /// Takes in more text, which will become `audio` of sound. False if the synthesis is over.
    pub fn extend(&mut self, now: Duration, id: Id, audio: Duration) -> bool {
        let others = to_f64(self.syntheses.len().saturating_sub(1));
        let Some(synthesis) = self.syntheses.get_mut(&id) else { return false };
        synthesis.audio += audio;
        if synthesis.stage != Stage::Idle {
            // Prepared while the text before it is spoken.
            return true;
        }
        let frontend = &self.profile.frontend;
        let deviation = frontend.spread_ms * self.random.random_range(-1.0..=1.0);
        let latency = milliseconds(frontend.latency_ms + deviation + frontend.per_other_ms * others);
        let ready = now + latency + std::mem::take(&mut synthesis.late);
        synthesis.stage = Stage::Preparing(ready);
        self.preparing.insert((ready, id));
        true
    }

    /// Says whether more text may come. If none may and everything was spoken, that was the end.
    pub fn hold(&mut self, id: Id, open: bool) -> Option<Duration> {
        let synthesis = self.syntheses.get_mut(&id)?;
        synthesis.open = open;
        if open || synthesis.stage != Stage::Idle {
            return None;
        }
        self.syntheses.remove(&id).map(|synthesis| synthesis.produced)
    }

    /// Drops a synthesis: its share of the GPU is free from the next round on. Unknown ids are ignored.
    pub fn cancel(&mut self, id: Id) {
        let synthesis = self.syntheses.remove(&id);
        if let Some(Synthesis { stage: Stage::Preparing(ready), .. }) = synthesis {
            self.preparing.remove(&(ready, id));
        }
    }

    /// When something happens next, if nothing arrives before.
    #[must_use]
    pub fn next_event(&self) -> Option<Duration> {
        match &self.round {
            Some(round) => Some(round.ends),
            None => self.preparing.first().map(|(ready, _)| *ready),
        }
    }

    /// Lets time pass up to `now` and appends what came of it to `outputs`, in order of time.
    pub fn advance(&mut self, now: Duration, outputs: &mut Vec<Output>) {
        while let Some(at) = self.next_event().filter(|at| *at <= now) {
            if let Some(round) = self.round.take() {
                self.end_round(&round, outputs);
            }
            self.admit_prepared(at);
            self.begin_round(at);
        }
    }

    fn end_round(&mut self, round: &RunningRound, outputs: &mut Vec<Output>) {
        let step = milliseconds(self.profile.round.audio_ms);
        for id in &round.rows {
            let Some(synthesis) = self.syntheses.get_mut(id) else { continue };
            synthesis.rounds += 1;
            let produced = synthesis.audio.min(synthesis.produced + step);
            synthesis.produced = produced;
            let spoken = produced == synthesis.audio;
            let finished = spoken && !synthesis.open;
            if spoken || synthesis.rounds >= self.profile.round.first_rounds {
                outputs.push(Output { id: *id, at: round.ends, produced, finished });
            }
            if finished {
                self.syntheses.remove(id);
            } else if spoken {
                synthesis.stage = Stage::Idle;
            } else {
                self.waiting.push_back(*id);
            }
        }
    }

    fn admit_prepared(&mut self, at: Duration) {
        while self.preparing.first().is_some_and(|(ready, _)| *ready <= at) {
            let Some((_, id)) = self.preparing.pop_first() else { break };
            if let Some(synthesis) = self.syntheses.get_mut(&id) {
                synthesis.stage = Stage::Ready;
                self.waiting.push_back(id);
            }
        }
    }

    fn begin_round(&mut self, at: Duration) {
        let room = self.limits.generator_max_batch as usize;
        let mut rows = Vec::with_capacity(room.min(self.waiting.len()));
        while rows.len() < room {
            let Some(id) = self.waiting.pop_front() else { break };
            if self.syntheses.contains_key(&id) {
                rows.push(id);
            }
        }
        if rows.is_empty() {
            return;
        }
        self.waiting.retain(|id| self.syntheses.contains_key(id));
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let in_flight = count(rows.len() + self.waiting.len());
        let mean = self.profile.round_ms(&self.limits, count(rows.len()), in_flight);
        let deviation = self.profile.round.jitter * self.random.random_range(-1.0..=1.0);
        self.round = Some(RunningRound { ends: at + milliseconds(mean * (1.0 + deviation)), rows });
    }
}

/// A profile's times are checked to be finite and not negative. A round lasts a microsecond at least, so that
/// time always passes.
fn milliseconds(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds.max(0.001) / 1000.0)
}

fn to_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests;
