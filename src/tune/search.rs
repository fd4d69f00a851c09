//! Decides which variables to try next, in the order of Rime's guide, and when to stop. Pure: measuring is injected, and the
//! whole search is a function of what was measured so far, so that a journal is all that a resumed one needs.
//!
//! The guide's four steps, as rules:
//!
//! 1. *Memory.* Where the engine runs out of it at start, `GENERATOR_GPU_MEMORY_UTILIZATION` is lowered; where it is the
//!    generator that complains of too little, it is raised; between the two it is bisected, down to two hundredths: what fits
//!    at one value alone is no way to run an engine. Batches that fit at none of them are too large.
//! 2. *Batches.* While the level found rises, `DECODER_MAX_BATCH` and `GENERATOR_MAX_BATCH` rise together by half; a step too far
//!    is bisected. Batches with room to spare at the level found are not what holds it, and are left.
//! 3. *Sessions.* `DECODER_NUM_SESSIONS` is doubled, raised by half, by one, lowered by one, halved, for as long as the level rises;
//!    not halved where one less is worse already.
//! 4. Steps 2 and 3 are repeated until neither raises the level: it has converged.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The four variables of the guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variables {
    /// `DECODER_MAX_BATCH`.
    pub decoder_max_batch: u32,
    /// `DECODER_NUM_SESSIONS`.
    pub decoder_num_sessions: u32,
    /// `GENERATOR_MAX_BATCH`.
    pub generator_max_batch: u32,
    /// `GENERATOR_GPU_MEMORY_UTILIZATION`, in hundredths.
    pub utilization_percent: u32,
}

impl Variables {
    /// Names and values, as the engine reads them.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let share = format!("{}.{:02}", self.utilization_percent / 100, self.utilization_percent % 100);
        [
            ("DECODER_MAX_BATCH", self.decoder_max_batch.to_string()),
            ("DECODER_NUM_SESSIONS", self.decoder_num_sessions.to_string()),
            ("GENERATOR_MAX_BATCH", self.generator_max_batch.to_string()),
            ("GENERATOR_GPU_MEMORY_UTILIZATION", share),
        ]
    }
}

impl fmt::Display for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { decoder_max_batch, decoder_num_sessions, generator_max_batch, utilization_percent } = self;
        let share = f64::from(*utilization_percent) / 100.0;
        write!(
            f,
            "decoder {decoder_max_batch} x {decoder_num_sessions}, generator {generator_max_batch} at {share:.2}"
        )
    }
}

/// Between two shares of memory that are told apart, in hundredths.
const SHARE_STEP: u32 = 2;

/// How far the search may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Greatest batch of decoder and generator.
    pub batch_max: u32,
    /// Most decoder sessions.
    pub sessions_max: u32,
    /// Least and greatest share of the GPU's memory for the generator, in hundredths.
    pub utilization_percent: (u32, u32),
}

impl Default for Bounds {
    fn default() -> Self {
        Self { batch_max: 256, sessions_max: 16, utilization_percent: (30, 95) }
    }
}

/// Which part of the engine found too little memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Short {
    /// The generator: its share is too small.
    Generator,
    /// What the generator left, or nobody can tell.
    Rest,
}

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "came", content = "of")]
pub enum Outcome {
    /// It ran, and this is the greatest number in flight that was proved to keep the target; 0 if none was.
    Level(u32),
    /// It did not start for want of memory.
    OutOfMemory(Short),
    /// It did not start for another reason.
    Failed(String),
}

/// What to try next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// With these variables.
    pub variables: Variables,
    /// For this reason.
    pub why: String,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The best variables, if the engine ran with any.
    pub best: Option<(Variables, u32)>,
    /// Why it ended.
    pub why: String,
}

/// The search so far: how it ended.
///
/// # Errors
/// What to try next. `tries` is what came of all that was tried before.
pub fn search(start: Variables, bounds: &Bounds, tries: &[(Variables, Outcome)]) -> Result<Found, Need> {
    let hill = Hill { bounds, tries };
    let Some(mut best) = hill.foothold(start)? else {
        return Ok(Found {
            best: None,
            why: "the engine started with none of the variables tried".to_owned(),
        });
    };
    loop {
        let before = best.1;
        let larger;
        (best, larger) = hill.batches(best)?;
        best = hill.sessions(best)?;
        if best.1 == before {
            let (variables, level) = best;
            let batch = variables.generator_max_batch;
            let why = if level < batch || larger {
                format!("converged: {level} in flight with batches of {batch}, and no step raises it")
            } else if batch >= bounds.batch_max {
                format!("stopped at the greatest batch allowed, {batch}, which is full")
            } else {
                format!("stopped at {batch}, the greatest batch that the memory bears, which is full")
            };
            return Ok(Found { best: Some((variables, level)), why });
        }
    }
}

type Place = (Variables, u32);

/// Whether the batches may be what holds the level: they are full at it, by its uncertainty of an eighth.
fn is_tight(variables: &Variables, level: u32) -> bool {
    let decoders = variables.decoder_max_batch.saturating_mul(variables.decoder_num_sessions);
    let level = level + level / 8;
    level >= variables.generator_max_batch || level >= decoders
}

struct Hill<'a> {
    bounds: &'a Bounds,
    tries: &'a [(Variables, Outcome)],
}

impl Hill<'_> {
    fn look(&self, variables: Variables, why: impl Into<String>) -> Result<Outcome, Need> {
        let known = self.tries.iter().find(|(tried, _)| *tried == variables);
        known.map(|(_, outcome)| outcome.clone()).ok_or_else(|| Need { variables, why: why.into() })
    }

    /// The first variables with which the engine runs: those of the start, or smaller batches.
    fn foothold(&self, start: Variables) -> Result<Option<Place>, Need> {
        let mut variables = start;
        loop {
            if let Some(place) = self.settle(variables, "the engine's own variables")? {
                return Ok(Some(place));
            }
            if variables.generator_max_batch == 1 && variables.decoder_num_sessions == 1 {
                return Ok(None);
            }
            variables.generator_max_batch = (variables.generator_max_batch * 3 / 4).max(1);
            variables.decoder_max_batch = (variables.decoder_max_batch * 3 / 4).max(1);
            variables.decoder_num_sessions = (variables.decoder_num_sessions * 3 / 4).max(1);
        }
    }

    /// Runs with these batches and sessions at whatever share of memory they fit in; nothing if they fit in none.
    fn settle(&self, mut variables: Variables, why: &str) -> Result<Option<Place>, Need> {
        if let Some(place) = self.ran(&variables) {
            return Ok(Some(place));
        }
        let (least, greatest) = self.bounds.utilization_percent;
        // Shares that are known to be too small for the generator, and too great for the rest.
        let (mut low, mut high) = self.shares(&variables);
        if high <= low + SHARE_STEP {
            return Ok(None);
        }
        if variables.utilization_percent <= low || variables.utilization_percent >= high {
            variables.utilization_percent = u32::midpoint(low, high);
        }
        let (mut why, mut step) = (why.to_owned(), 5);
        loop {
            let at = variables.utilization_percent;
            match self.look(variables, why)? {
                Outcome::Level(level) => return Ok(Some((variables, level))),
                Outcome::OutOfMemory(Short::Generator) => low = low.max(at),
                Outcome::OutOfMemory(Short::Rest) => high = high.min(at),
                Outcome::Failed(_) => return Ok(None),
            }
            if high <= low + SHARE_STEP {
                return Ok(None);
            }
            let (lowered, raised) = (low < least, high > greatest);
            let next = match (lowered, raised) {
                (true, true) | (false, false) => u32::midpoint(low, high),
                (true, false) => at.saturating_sub(step).max(least),
                (false, true) => (at + step).min(greatest),
            };
            let next = if next == at { u32::midpoint(low, high) } else { next };
            step *= 2;
            let word = if next < at { "lower" } else { "raise" };
            why = format!("out of memory at start: {word} GENERATOR_GPU_MEMORY_UTILIZATION");
            variables.utilization_percent = next;
        }
    }

    /// The level with these batches and sessions, if the engine ran with them.
    fn ran(&self, variables: &Variables) -> Option<Place> {
        self.tries.iter().find_map(|(tried, outcome)| {
            let same = Variables { utilization_percent: tried.utilization_percent, ..*variables } == *tried;
            match outcome {
                Outcome::Level(level) if same => Some((*tried, *level)),
                _ => None,
            }
        })
    }

    /// Shares that are too small, and too great, by what is known of engines that ask for no more: where the generator
    /// of a smaller batch found too little, that of a larger one will, and that of a larger one needs no more than as much
    /// for each row; likewise for the rest.
    fn shares(&self, variables: &Variables) -> (u32, u32) {
        let (least, greatest) = self.bounds.utilization_percent;
        let (mut low, mut high) = (least.saturating_sub(1), greatest + 1);
        for (tried, outcome) in self.tries {
            let rows = tried.generator_max_batch.min(variables.generator_max_batch);
            let too_small = tried.utilization_percent * rows / tried.generator_max_batch;
            let fewer = tried.decoder_max_batch <= variables.decoder_max_batch
                && tried.decoder_num_sessions <= variables.decoder_num_sessions;
            match outcome {
                Outcome::OutOfMemory(Short::Generator) => low = low.max(too_small),
                Outcome::OutOfMemory(Short::Rest) if fewer => high = high.min(tried.utilization_percent),
                _ => {}
            }
        }
        (low, high)
    }

    /// The best of this batch and larger ones, and whether a larger one than the best ran and was no better.
    fn batches(&self, mut best: Place) -> Result<(Place, bool), Need> {
        loop {
            let (variables, level) = best;
            if !is_tight(&variables, level) {
                return Ok((best, false));
            }
            let batch = variables.generator_max_batch;
            let mut above = (batch + batch.div_ceil(2)).min(self.bounds.batch_max);
            let mut why = format!("{level} in flight kept the target: raise both batches");
            let (mut better, mut larger) = (None, false);
            // From a step too far back by halves.
            while above > batch {
                if let Some(found) = self.settle(self.with_batch(&variables, above), &why)? {
                    // One that is still full says nothing of what a larger one holds.
                    if found.1 > level || found.1 == level && level >= above {
                        better = Some(found);
                    }
                    larger = true;
                    // It fits: a smaller batch would hold no more.
                    break;
                }
                let gap = above - batch;
                above = if gap > 1 { batch + gap / 2 } else { batch };
                why = "that batch does not fit: back by half a step".to_owned();
            }
            match better {
                Some(found) => best = found,
                None => return Ok((best, larger)),
            }
        }
    }

    fn with_batch(&self, variables: &Variables, batch: u32) -> Variables {
        let Variables { decoder_max_batch, generator_max_batch, .. } = *variables;
        let decoder = (decoder_max_batch * batch).div_ceil(generator_max_batch);
        Variables {
            generator_max_batch: batch,
            decoder_max_batch: decoder.clamp(1, self.bounds.batch_max),
            ..*variables
        }
    }

    fn sessions(&self, mut best: Place) -> Result<Place, Need> {
        'again: loop {
            let (variables, level) = best;
            let now = variables.decoder_num_sessions;
            let mut tried = vec![now];
            for sessions in [now * 2, now + now.div_ceil(2), now + 1, now.saturating_sub(1), now / 2] {
                let sessions = sessions.clamp(1, self.bounds.sessions_max);
                if tried.contains(&sessions) {
                    continue;
                }
                tried.push(sessions);
                let word = if sessions > now { "more" } else { "fewer" };
                let why = format!("{level} in flight with {now} decoder sessions: try {word}");
                let candidate = Variables { decoder_num_sessions: sessions, ..variables };
                let mut found = self.settle(candidate, &why)?;
                if found.is_none() && sessions > now {
                    // Together they need hold no more rows than the generator's batch.
                    let rows = variables.generator_max_batch.div_ceil(sessions).max(1);
                    let smaller = Variables { decoder_max_batch: rows, ..candidate };
                    found = self.settle(smaller, "they do not fit: smaller decoder batches")?;
                }
                match found {
                    Some(found) if found.1 > level => {
                        best = found;
                        continue 'again;
                    }
                    Some(found) if sessions < now && found.1 < level => break,
                    _ => {}
                }
            }
            return Ok(best);
        }
    }
}
