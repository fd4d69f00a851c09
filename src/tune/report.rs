//! What a search has tried, as its operator reads it. Judges nothing.

use super::journal::{Journal, Try};
use super::search::{Outcome, Short};

/// What came of a try, in a few words.
pub(super) fn told(one: &Try) -> String {
    match &one.outcome {
        Outcome::Level(0) => "no level keeps the target".to_owned(),
        Outcome::Level(level) => format!(
            "{level} in flight, TTFB p99 {:.3} s, RTF p99 {:.3} ({} samples, {:.0} s)",
            one.ttfb_p99_seconds.unwrap_or(f64::NAN),
            one.rtf_p99.unwrap_or(f64::NAN),
            one.samples,
            one.seconds
        ),
        Outcome::OutOfMemory(Short::Generator) => {
            "out of memory: the generator's share is too small".to_owned()
        }
        Outcome::OutOfMemory(Short::Rest) => "out of memory at start".to_owned(),
        Outcome::Failed(why) => format!("did not start: {why}"),
    }
}

/// What was tried, and why.
pub(super) fn table(journal: &Journal) {
    println!("what was tried:");
    for (index, one) in journal.tries.iter().enumerate() {
        println!("{:>3}  {}\n     {}: {}", index + 1, one.variables, one.why, told(one));
    }
}
