//! The four variables of Rime's tuning guide: what they may be, and how the process's own lay themselves over a
//! profile's. Looks nothing up itself.

use serde::Deserialize;

use super::{ProfileError, require};

/// The four variables, all set.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `DECODER_MAX_BATCH`: rows of one decoder session.
    pub decoder_max_batch: u32,
    /// `DECODER_NUM_SESSIONS`: decoder sessions side by side.
    pub decoder_num_sessions: u32,
    /// `GENERATOR_MAX_BATCH`: syntheses that the generator advances in one round.
    pub generator_max_batch: u32,
    /// `GENERATOR_GPU_MEMORY_UTILIZATION`: share of the GPU's memory that the generator takes at start.
    pub generator_gpu_memory_utilization: f64,
}

/// The four variables as the process's environment has them; what is not set keeps the profile's default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Variables {
    /// `DECODER_MAX_BATCH`.
    pub decoder_max_batch: Option<u32>,
    /// `DECODER_NUM_SESSIONS`.
    pub decoder_num_sessions: Option<u32>,
    /// `GENERATOR_MAX_BATCH`.
    pub generator_max_batch: Option<u32>,
    /// `GENERATOR_GPU_MEMORY_UTILIZATION`, above 0 and up to 1.
    pub generator_gpu_memory_utilization: Option<f64>,
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        let share = self.generator_gpu_memory_utilization;
        require(self.decoder_max_batch >= 1, "DECODER_MAX_BATCH", "at least 1")?;
        require(self.decoder_num_sessions >= 1, "DECODER_NUM_SESSIONS", "at least 1")?;
        require(self.generator_max_batch >= 1, "GENERATOR_MAX_BATCH", "at least 1")?;
        let name = "GENERATOR_GPU_MEMORY_UTILIZATION";
        require(share > 0.0 && share <= 1.0, name, "above 0 and at most 1")
    }
}

impl Variables {
    /// Reads the variables through `lookup`, which is `std::env::var` of the process or a test's own.
    ///
    /// # Errors
    /// A variable that is no number. Its range is checked by [`Profile::limits`](super::Profile::limits).
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ProfileError> {
        Ok(Self {
            decoder_max_batch: number("DECODER_MAX_BATCH", &lookup)?,
            decoder_num_sessions: number("DECODER_NUM_SESSIONS", &lookup)?,
            generator_max_batch: number("GENERATOR_MAX_BATCH", &lookup)?,
            generator_gpu_memory_utilization: number("GENERATOR_GPU_MEMORY_UTILIZATION", &lookup)?,
        })
    }
}

fn number<N: std::str::FromStr>(
    name: &'static str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<N>, ProfileError> {
    let Some(value) = lookup(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| ProfileError::NotANumber { name, value })
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::*;

    #[test]
    fn the_environment_overrides_the_profile_and_an_empty_variable_does_not() {
        let lookup = |name: &str| match name {
            "GENERATOR_MAX_BATCH" => Some("64".to_owned()),
            "GENERATOR_GPU_MEMORY_UTILIZATION" => Some("0.65".to_owned()),
            "DECODER_MAX_BATCH" => Some(String::new()),
            _ => None,
        };
        let profile = Profile::default();
        let limits = profile.limits(&Variables::read(lookup).unwrap()).unwrap();
        let expected =
            Limits { generator_max_batch: 64, generator_gpu_memory_utilization: 0.65, ..profile.variables };
        assert_eq!(limits, expected);
        let error = Variables::read(|_| Some("many".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), r#"DECODER_MAX_BATCH="many" is not a number"#);
    }
}
