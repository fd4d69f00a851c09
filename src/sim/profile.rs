//! Decides what hardware is simulated: a profile is data, the four variables of Rime's tuning guide bend it,
//! and memory says whether the engine would start at all. Reads no file and no environment.

mod variables;

use serde::Deserialize;
use thiserror::Error;

pub use variables::{Limits, Variables};

/// The built-in profiles, by name.
const BUILT_IN: [(&str, &str); 5] = [
    ("h100-arcana-v2", include_str!("profiles/h100-arcana-v2.toml")),
    ("edge-20", include_str!("profiles/edge-20.toml")),
    ("small-24", include_str!("profiles/small-24.toml")),
    ("few-sessions", include_str!("profiles/few-sessions.toml")),
    ("test-fast", include_str!("profiles/test-fast.toml")),
];

/// What the hardware and the model on it can do. Written as TOML; times in milliseconds, memory in GiB.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name, as shown by `/statusz`.
    pub name: String,
    /// The image's default variables.
    pub variables: Limits,
    /// What happens to a text before it reaches the GPU.
    pub frontend: Frontend,
    /// The beat in which the GPU works.
    pub round: Round,
    /// The language model that turns text into audio tokens, all sequences of a batch in lockstep.
    pub generator: Generator,
    /// The codec that turns audio tokens into samples.
    pub decoder: Decoder,
    /// What must fit into the GPU's memory at start.
    pub memory: Memory,
}

/// Normalising and tokenising a text, and its prefill.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontend {
    /// Mean time.
    pub latency_ms: f64,
    /// Greatest deviation from the mean, either way, evenly spread.
    pub spread_ms: f64,
    /// What every other synthesis in the engine adds.
    pub per_other_ms: f64,
}

/// One round: every synthesis in the batch gains the same stretch of audio.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Audio that a round yields for each synthesis in it.
    pub audio_ms: f64,
    /// Rounds before the first audio is let out: the codec needs to look ahead.
    pub first_rounds: u32,
    /// Greatest relative deviation of a round's duration, either way, evenly spread.
    pub jitter: f64,
}

/// Cost of a generator batch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// Cost of a round, whatever the batch.
    pub fixed_ms: f64,
    /// Cost of each row of the (padded) batch.
    pub per_row_ms: f64,
    /// Batches are padded to a multiple of this (below it, to a power of two): kernels are captured for
    /// these sizes only.
    pub row_granularity: u32,
    /// Relative cost of a round in which some syntheses have to sit out, since their caches are swapped.
    pub swap: f64,
}

/// Cost of a decoder pass. Sessions run side by side on one GPU, so that `n` of them are as good as
/// `n / (1 + contention (n-1) + coherency n (n-1))` (Gunther's universal scalability law).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    /// Cost of a pass, whatever the batch.
    pub fixed_ms: f64,
    /// Cost of each row, on one session alone.
    pub per_row_ms: f64,
    /// What sessions cost each other in waiting.
    pub contention: f64,
    /// What sessions cost each other in caches and memory bandwidth.
    pub coherency: f64,
}

/// What the engine allocates at start.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The GPU's memory.
    pub total_gib: f64,
    /// The CUDA context and everything that is neither generator nor decoder.
    pub runtime_gib: f64,
    /// The generator's weights.
    pub generator_weights_gib: f64,
    /// Cache and captured kernels for each row of `GENERATOR_MAX_BATCH`.
    pub generator_row_gib: f64,
    /// One decoder session's weights.
    pub decoder_weights_gib: f64,
    /// One decoder session's buffers for each row of `DECODER_MAX_BATCH`.
    pub decoder_row_gib: f64,
}

/// Why a profile or a variable cannot be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// No built-in profile has this name.
    #[error(
        "no profile named {0:?}; built in are h100-arcana-v2, edge-20, small-24, few-sessions and test-fast"
    )]
    Unknown(String),
    /// The TOML cannot be read as a profile.
    #[error("cannot read the profile")]
    Toml(#[from] toml::de::Error),
    /// A number that makes no sense.
    #[error("{name} must be {rule}")]
    Range {
        /// The key or variable.
        name: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A variable of the environment that is no number.
    #[error("{name}={value:?} is not a number")]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// What it held.
        value: String,
    },
}

/// The engine does not fit into the GPU's memory. `Display` is what the model prints before it exits with 1.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum OutOfMemory {
    /// The generator's share is too small for its weights and batch.
    #[error(
        "ValueError: No available memory for the cache blocks: the generator was given {given_gib:.2} GiB \
         and needs {needed_gib:.2} GiB. Try increasing GENERATOR_GPU_MEMORY_UTILIZATION or decreasing \
         GENERATOR_MAX_BATCH when initializing the engine."
    )]
    Generator {
        /// What `GENERATOR_GPU_MEMORY_UTILIZATION` gave it.
        given_gib: f64,
        /// Weights and batch.
        needed_gib: f64,
    },
    /// What the generator left is too small for the decoder sessions.
    #[error(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {tried_gib:.2} GiB. GPU 0 has a total \
         capacity of {total_gib:.2} GiB of which {free_gib:.2} GiB is free."
    )]
    Decoder {
        /// The decoder session that did not fit.
        tried_gib: f64,
        /// The whole GPU.
        total_gib: f64,
        /// What was left for it.
        free_gib: f64,
    },
}

impl Default for Profile {
    fn default() -> Self {
        Self::named("h100-arcana-v2").expect("the default profile is built in, and a test reads it")
    }
}

impl Profile {
    /// A built-in profile.
    ///
    /// # Errors
    /// No such name.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name);
        let (_, text) = found.ok_or_else(|| ProfileError::Unknown(name.to_owned()))?;
        Self::from_toml(text)
    }

    /// A profile of one's own.
    ///
    /// # Errors
    /// Not TOML, a key missing, unknown or out of range.
    pub fn from_toml(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), ProfileError> {
        let times = [
            ("frontend.spread_ms", self.frontend.spread_ms),
            ("frontend.per_other_ms", self.frontend.per_other_ms),
            ("generator.fixed_ms", self.generator.fixed_ms),
            ("generator.per_row_ms", self.generator.per_row_ms),
            ("generator.swap", self.generator.swap),
            ("decoder.fixed_ms", self.decoder.fixed_ms),
            ("decoder.per_row_ms", self.decoder.per_row_ms),
            ("decoder.contention", self.decoder.contention),
            ("decoder.coherency", self.decoder.coherency),
        ];
        for (name, value) in times {
            require(value.is_finite() && value >= 0.0, name, "zero or more")?;
        }
        let late_enough = self.frontend.latency_ms >= self.frontend.spread_ms;
        require(late_enough, "frontend.latency_ms", "at least frontend.spread_ms")?;
        require(self.round.audio_ms >= 1.0, "round.audio_ms", "at least 1")?;
        require((0.0..0.5).contains(&self.round.jitter), "round.jitter", "from 0 to below 0.5")?;
        require(self.round.first_rounds >= 1, "round.first_rounds", "at least 1")?;
        require(self.generator.row_granularity >= 1, "generator.row_granularity", "at least 1")?;
        let takes_time = self.generator.fixed_ms + self.decoder.fixed_ms > 0.0;
        require(takes_time, "generator.fixed_ms or decoder.fixed_ms", "above 0: a round takes time")?;
        self.variables.check()
    }

    /// The variables in force.
    ///
    /// # Errors
    /// A variable out of range.
    pub fn limits(&self, variables: &Variables) -> Result<Limits, ProfileError> {
        let default = self.variables;
        let limits = Limits {
            decoder_max_batch: variables.decoder_max_batch.unwrap_or(default.decoder_max_batch),
            decoder_num_sessions: variables.decoder_num_sessions.unwrap_or(default.decoder_num_sessions),
            generator_max_batch: variables.generator_max_batch.unwrap_or(default.generator_max_batch),
            generator_gpu_memory_utilization: variables
                .generator_gpu_memory_utilization
                .unwrap_or(default.generator_gpu_memory_utilization),
        };
        limits.check()?;
        Ok(limits)
    }

    /// Whether the model would start with these limits.
    ///
    /// # Errors
    /// It does not fit: the generator into its share, or the decoder sessions beside it.
    pub fn fit(&self, limits: &Limits) -> Result<(), OutOfMemory> {
        let memory = &self.memory;
        let given_gib = memory.total_gib * limits.generator_gpu_memory_utilization;
        let rows = f64::from(limits.generator_max_batch);
        let needed_gib = memory.generator_weights_gib + rows * memory.generator_row_gib;
        if needed_gib > given_gib {
            return Err(OutOfMemory::Generator { given_gib, needed_gib });
        }
        let mut free_gib = memory.total_gib - memory.runtime_gib - given_gib;
        let rows = f64::from(limits.decoder_max_batch);
        let session_gib = memory.decoder_weights_gib + rows * memory.decoder_row_gib;
        let sessions = f64::from(limits.decoder_num_sessions);
        if sessions * session_gib > free_gib {
            let fitting = (free_gib.max(0.0) / session_gib).floor();
            free_gib = (free_gib - fitting * session_gib).max(0.0);
            return Err(OutOfMemory::Decoder {
                tried_gib: session_gib,
                total_gib: memory.total_gib,
                free_gib,
            });
        }
        Ok(())
    }

    /// Mean duration of a round with `rows` syntheses in it while `in_flight` want one, in milliseconds.
    /// `rows` is at most `GENERATOR_MAX_BATCH`.
    #[must_use]
    pub fn round_ms(&self, limits: &Limits, rows: u32, in_flight: u32) -> f64 {
        let generator = &self.generator;
        let padded = f64::from(padded(rows, generator.row_granularity));
        let generate = generator.fixed_ms + generator.per_row_ms * padded;

        let decoder = &self.decoder;
        let slots = limits.decoder_max_batch.saturating_mul(limits.decoder_num_sessions);
        let passes = f64::from(rows.div_ceil(slots));
        let sessions = f64::from(rows.min(limits.decoder_num_sessions));
        let others = sessions - 1.0;
        let side_by_side =
            sessions / (1.0 + decoder.contention * others + decoder.coherency * sessions * others);
        let decode = decoder.fixed_ms * passes + decoder.per_row_ms * f64::from(rows) / side_by_side;

        let swap = if in_flight > rows { 1.0 + generator.swap } else { 1.0 };
        (generate + decode) * swap
    }

    /// The real-time factor that `in_flight` syntheses settle at: a round's duration over its audio, times
    /// the rounds that each has to wait for its turn.
    #[must_use]
    pub fn settled_rtf(&self, limits: &Limits, in_flight: u32) -> f64 {
        let rows = in_flight.min(limits.generator_max_batch).max(1);
        let turns = f64::from(in_flight.max(1)) / f64::from(rows);
        self.round_ms(limits, rows, in_flight) * turns / self.round.audio_ms
    }
}

fn require(holds: bool, name: &'static str, rule: &'static str) -> Result<(), ProfileError> {
    if holds { Ok(()) } else { Err(ProfileError::Range { name, rule }) }
}

/// The size of the captured kernel that `rows` run in.
fn padded(rows: u32, granularity: u32) -> u32 {
    if rows >= granularity {
        rows.div_ceil(granularity) * granularity
    } else {
        rows.next_power_of_two().min(granularity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_sound_and_fits_its_own_memory() {
        for (name, _) in BUILT_IN {
            let profile = Profile::named(name).unwrap();
            assert_eq!(profile.name, name);
            // That is what small-24 is for.
            assert_eq!(profile.fit(&profile.variables).is_ok(), name != "small-24", "{name}");
        }
    }

    #[test]
    fn a_profile_with_an_unknown_key_or_an_impossible_number_is_refused() {
        let text = BUILT_IN[0].1;
        assert!(Profile::from_toml(&text.replace("swap", "swop")).is_err());
        for (sound, impossible, complaint) in [
            ("audio_ms = 120.0", "audio_ms = 0.0", "round.audio_ms"),
            ("jitter = 0.04", "jitter = 0.5", "round.jitter"),
            ("latency_ms = 335.0", "latency_ms = 30.0", "frontend.latency_ms"),
            ("swap = 0.08", "swap = nan", "generator.swap"),
            ("generator_max_batch = 32", "generator_max_batch = 0", "GENERATOR_MAX_BATCH"),
        ] {
            assert!(text.contains(sound), "{sound}");
            let error = Profile::from_toml(&text.replace(sound, impossible)).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn batches_are_padded_to_captured_sizes() {
        let sizes = [1, 2, 3, 5, 8, 9, 32, 33].map(|rows| padded(rows, 8));
        assert_eq!(sizes, [1, 2, 4, 8, 8, 16, 32, 40]);
        assert_eq!(padded(33, 1), 33);
    }
}
