//! `armchair`'s sessions: turns with time to listen and to think between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::sample::Sample;
use super::Crowd;

/// Sessions as `armchair` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sessions {
    /// Turns of each session. Without a number, sessions go on for as long as anyone listens.
    pub turns: Option<u32>,
    /// Sessions begin at so many per second, at random.
    pub starts_per_second: f64,
    /// Think time between two turns: mean.
    pub think_mean: Duration,
    /// Think time: standard deviation.
    pub think_deviation: Duration,
    /// Think time: the least.
    pub think_min: Duration,
    /// Think time: the most.
    pub think_max: Duration,
}

/// `armchair`'s defaults.
impl Default for Sessions {
    fn default() -> Self {
        Self {
            turns: Some(5),
            starts_per_second: 5.0,
            think_mean: Duration::from_secs(10),
            think_deviation: Duration::from_secs(5),
            think_min: Duration::ZERO,
            think_max: Duration::from_secs(20),
        }
    }
}

/// One session.
pub(super) struct Session {
    pub(super) crowd: Arc<Crowd>,
    pub(super) like: Sessions,
    pub(super) random: StdRng,
    pub(super) numbers: Arc<AtomicU64>,
    pub(super) told: mpsc::Sender<(u64, Sample)>,
}

impl Session {
    pub(super) async fn run(mut self, start: Instant) {
        sleep_until(start).await;
        let mut turns = 0;
        loop {
            let number = self.numbers.fetch_add(1, Relaxed);
            let words = self.crowd.text(&mut self.random);
            let sample = self.crowd.call(Instant::now(), &words).await;
            let still_playing = still_playing(&sample);
            if self.told.send((number, sample)).await.is_err() {
                return;
            }
            turns += 1;
            if self.like.turns.is_some_and(|all| turns >= all) {
                return;
            }
            sleep(still_playing).await;
            sleep(think(&self.like, &mut self.random)).await;
        }
    }
}

/// What is left to play when the last byte has come.
pub(in crate::bench) fn still_playing(sample: &Sample) -> Duration {
    let streamed = sample.elapsed.saturating_sub(sample.ttfb.unwrap_or_default());
    sample.audio.saturating_sub(streamed)
}

/// Normal, and cut off at both ends.
pub(in crate::bench) fn think(like: &Sessions, random: &mut StdRng) -> Duration {
    // Box and Muller: two even draws make a normal one.
    let (even, turn): (f64, f64) = (random.random_range(0.0..1.0), random.random_range(0.0..1.0));
    let normal = (-2.0 * (1.0 - even).ln()).sqrt() * (std::f64::consts::TAU * turn).cos();
    let seconds = like.think_mean.as_secs_f64() + like.think_deviation.as_secs_f64() * normal;
    Duration::try_from_secs_f64(seconds).unwrap_or_default().clamp(like.think_min, like.think_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn think_times_are_normal_and_cut_off_at_both_ends() {
        let mut random = StdRng::seed_from_u64(1);
        let like = Sessions::default();
        let drawn: Vec<f64> = (0..10_000).map(|_| think(&like, &mut random).as_secs_f64()).collect();
        let mean = drawn.iter().sum::<f64>() / 10_000.0;
        assert!((9.9..10.1).contains(&mean), "{mean}");
        assert!(drawn.iter().all(|seconds| (0.0..=20.0).contains(seconds)));
        // 2.3 % lie beyond two deviations, on either side.
        let at = |end: f64| drawn.iter().filter(|seconds| (**seconds - end).abs() < 1e-9).count();
        assert!((170..290).contains(&at(0.0)) && (170..290).contains(&at(20.0)), "{} {}", at(0.0), at(20.0));
    }

    #[test]
    fn a_session_waits_until_its_sound_has_been_played() {
        let seconds = Duration::from_secs;
        let sample = |elapsed, audio| Sample { elapsed, audio, ttfb: Some(seconds(1)), ..Sample::default() };
        assert_eq!(still_playing(&sample(seconds(3), seconds(10))), seconds(8));
        assert_eq!(still_playing(&sample(seconds(13), seconds(10))), Duration::ZERO);
    }
}
