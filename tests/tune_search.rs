//! The search over the engine's variables, against profiles whose optimum is worked out from their closed form: it is
//! reached, within a bounded number of starts, from any point at which it was interrupted.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::cell::RefCell;
use std::collections::HashMap;

use rime_gate::sim::profile::{Limits, OutOfMemory, Profile};
use rime_gate::tune::search::{Bounds, Found, Outcome, Short, Variables, search};

fn limits(variables: &Variables) -> Limits {
    Limits {
        decoder_max_batch: variables.decoder_max_batch,
        decoder_num_sessions: variables.decoder_num_sessions,
        generator_max_batch: variables.generator_max_batch,
        generator_gpu_memory_utilization: f64::from(variables.utilization_percent) / 100.0,
    }
}

/// The greatest number in flight up to which RTF settles below 1.
fn level(profile: &Profile, limits: &Limits) -> u32 {
    (1..=512).take_while(|level| profile.settled_rtf(limits, *level) <= 1.0).last().unwrap_or(0)
}

fn measured(profile: &Profile, variables: &Variables) -> Outcome {
    let limits = limits(variables);
    match profile.fit(&limits) {
        Err(OutOfMemory::Generator { .. }) => Outcome::OutOfMemory(Short::Generator),
        Err(OutOfMemory::Decoder { .. }) => Outcome::OutOfMemory(Short::Rest),
        Ok(()) => Outcome::Level(level(profile, &limits)),
    }
}

fn start(profile: &Profile) -> Variables {
    let Limits { decoder_max_batch, decoder_num_sessions, generator_max_batch, .. } = profile.variables;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let utilization_percent = (profile.variables.generator_gpu_memory_utilization * 100.0).round() as u32;
    Variables { decoder_max_batch, decoder_num_sessions, generator_max_batch, utilization_percent }
}

/// The best level of all variables within the bounds. More decoder rows never harm: the most that fit are the best.
fn optimum(profile: &Profile, bounds: &Bounds) -> u32 {
    let mut best = 0;
    let mut levels = HashMap::new();
    for decoder_num_sessions in 1..=bounds.sessions_max {
        for generator_max_batch in 1..=bounds.batch_max.min(96) {
            for utilization_percent in bounds.utilization_percent.0..=bounds.utilization_percent.1 {
                let fits = |rows: u32| {
                    let variables = Variables {
                        decoder_max_batch: rows,
                        decoder_num_sessions,
                        generator_max_batch,
                        utilization_percent,
                    };
                    profile.fit(&limits(&variables)).is_ok().then_some(variables)
                };
                let (mut fit, mut too_many) = (0, 97);
                while too_many - fit > 1 {
                    let middle = u32::midpoint(fit, too_many);
                    if fits(middle).is_some() { fit = middle } else { too_many = middle }
                }
                let Some(variables) = fits(fit).filter(|_| fit > 0) else { continue };
                let key = (decoder_num_sessions, generator_max_batch, fit);
                best = best.max(*levels.entry(key).or_insert_with(|| level(profile, &limits(&variables))));
            }
        }
    }
    best
}

/// Searches to the end; what was found, and the tries with their reasons.
fn run(
    start: Variables,
    bounds: &Bounds,
    engine: impl Fn(&Variables) -> Outcome,
) -> (Found, Vec<(Variables, String)>) {
    let (mut known, mut tries) = (Vec::new(), Vec::new());
    loop {
        // Nothing but what is known is carried from one step to the next: so goes one that was interrupted.
        match search(start, bounds, &known) {
            Ok(found) => return (found, tries),
            Err(need) => {
                assert!(known.iter().all(|(tried, _)| *tried != need.variables), "tried twice: {need:?}");
                known.push((need.variables, engine(&need.variables)));
                tries.push((need.variables, need.why));
                assert!(tries.len() <= 90, "{tries:#?}");
            }
        }
    }
}

fn reaches_the_optimum(name: &str, runs_max: usize) {
    let profile = Profile::named(name).unwrap();
    let bounds = Bounds::default();
    let (found, tries) = run(start(&profile), &bounds, |variables| measured(&profile, variables));
    let best = optimum(&profile, &bounds);
    println!("{name}: {:?} of {best} after {} starts: {}", found.best, tries.len(), found.why);
    assert_eq!(found.best.unwrap().1, best, "{found:?} {tries:#?}");
    assert!(found.why.starts_with("converged"), "{found:?}");
    assert!(tries.len() <= runs_max, "{} starts: {tries:#?}", tries.len());
}

#[test]
fn the_reference_gpu_is_at_its_optimum_and_stays_there() {
    reaches_the_optimum("h100-arcana-v2", 12);
}

#[test]
fn a_smaller_gpu_that_runs_out_of_memory_on_the_defaults_comes_to_its_optimum() {
    reaches_the_optimum("small-24", 32);
}

#[test]
fn an_engine_limited_by_its_decoder_sessions_comes_to_its_optimum() {
    reaches_the_optimum("few-sessions", 16);
}

#[test]
fn whatever_the_engine_answers_the_search_ends() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let profile = Profile::default();
    for seed in 0..300 {
        let random = RefCell::new(StdRng::seed_from_u64(seed));
        let bounds = Bounds { batch_max: 40, sessions_max: 8, ..Bounds::default() };
        run(start(&profile), &bounds, |_| match random.borrow_mut().random_range(0..24_u32) {
            0 => Outcome::OutOfMemory(Short::Generator),
            1 => Outcome::OutOfMemory(Short::Rest),
            2 => Outcome::Failed("no".to_owned()),
            level => Outcome::Level(level),
        });
    }
}
