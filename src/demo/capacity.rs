//! What simulated hardware can serve, known before anything runs: the GPU model alone, in its own time, with every
//! slot always taken.

use std::time::Duration;

use crate::sim::Profile;
use crate::sim::gpu::Gpu;
use crate::sim::profile::Limits;
use crate::sim::request::length;

/// Simulated time that counts.
const SPAN: Duration = Duration::from_secs(300);
/// Simulated time before it: all start together, and have to fall out of step.
const SETTLING: Duration = Duration::from_secs(10);

/// Syntheses per second that end when `in_flight` are always running, each of the next of `texts`.
#[must_use]
pub fn capacity_per_second(
    profile: &Profile,
    limits: Limits,
    in_flight: u32,
    texts: &[&str],
    seed: u64,
) -> f64 {
    let mut gpu = Gpu::new(profile.clone(), limits, seed);
    let mut sounds = texts.iter().map(|text| length(text.chars().count(), 1.0)).cycle();
    let mut outputs = Vec::new();
    let mut ended = 0_u32;
    for _ in 0..in_flight {
        let Some(sound) = sounds.next() else { return 0.0 };
        gpu.start(Duration::ZERO, sound);
    }
    while let Some(now) = gpu.next_event().filter(|now| *now < SETTLING + SPAN) {
        gpu.advance(now, &mut outputs);
        for output in outputs.drain(..).filter(|output| output.finished) {
            ended += u32::from(output.at >= SETTLING);
            let Some(sound) = sounds.next() else { return 0.0 };
            gpu.start(output.at, sound);
        }
    }
    f64::from(ended) / SPAN.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_more_serves_more_until_the_batch_is_full() {
        let profile = Profile::named("edge-20").unwrap();
        let texts = ["Sure, I can help with that."];
        let at = |in_flight| capacity_per_second(&profile, profile.variables, in_flight, &texts, 1);
        // 27 characters are 1.93 seconds of sound, which takes as long or a little less to make.
        assert!((9.0..14.0).contains(&at(20)), "{}", at(20));
        assert!(at(10) < at(20));
        assert!(at(40) < at(20) * 1.15, "{} {}", at(40), at(20));
    }
}
