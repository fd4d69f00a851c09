//! The demonstration on a terminal while it runs: a bar for each phase. Where standard error is no terminal, a plain
//! line now and then.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::Report;
use crate::callers::Tally;

/// Says what will happen.
pub(super) fn opening(profile: &str, limit: u32, capacity: f64, rate: f64, seconds: Duration) {
    eprintln!(
        "Simulated engine {profile}: {limit} syntheses at once, {capacity:.1} a second, meet the target.\n\
         Callers: {rate:.1} a second for {:.0} s, twice: at the engine itself, then at a gate before it.\n",
        seconds.as_secs_f64()
    );
}

/// Prints the table.
pub(super) fn closing(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "\n{report}")?;
    out.flush()
}

/// One phase as it runs.
#[derive(Debug)]
pub(super) struct Live {
    name: &'static str,
    seconds: Duration,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Live {
    pub(super) fn new(gated: bool, seconds: Duration) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(u64::try_from(seconds.as_millis()).unwrap_or(u64::MAX));
            let style = ProgressStyle::with_template("{prefix:12} {bar:12.cyan/blue} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let name = if gated { "with gate" } else { "without gate" };
        if let Some(bar) = &bar {
            bar.set_prefix(name);
        }
        Self { name, seconds, started: Instant::now(), bar }
    }

    /// How often it is to be shown.
    pub(super) fn interval(&self) -> Duration {
        if self.bar.is_some() { Duration::from_millis(125) } else { Duration::from_secs(2) }
    }

    pub(super) fn show(&mut self, tally: &Tally, in_engine: u64) {
        let line = line(tally, in_engine);
        match &self.bar {
            Some(bar) => {
                let passed = self.started.elapsed().min(self.seconds);
                bar.set_position(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
                bar.set_message(line);
            }
            None if tally.offered > 0 => {
                eprintln!("{:12} {:5.1} s  {line}", self.name, self.started.elapsed().as_secs_f64());
            }
            None => {}
        }
    }

    pub(super) fn end(&mut self, tally: &Tally, in_engine: u64) {
        self.show(tally, in_engine);
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn line(tally: &Tally, in_engine: u64) -> String {
    // Eighty columns, with what stands before it.
    format!(
        "in engine {in_engine:<3}  good {:<4}  late or gaps {:<4}  refused {:<4}",
        tally.good, tally.missed, tally.refused
    )
}
