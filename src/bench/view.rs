//! A benchmark on a terminal while it runs: lines as `armchair` prints them on standard output, a bar on standard error
//! where that is a terminal. Decides nothing.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use super::hunt::{Level, Quest, glance};
use super::report::{observed, verdict};
use super::search::{Effort, Look};
use super::{Event, Unit};

/// What has been shown.
#[derive(Debug)]
pub struct View {
    quest: Quest,
    unit: &'static str,
    searching: bool,
    bar: Option<ProgressBar>,
}

impl View {
    /// A view of a search.
    #[must_use]
    pub fn of_search(quest: &Quest, unit: Unit) -> Self {
        Self { searching: true, ..Self::new(quest, unit.words()) }
    }

    /// A view of one level.
    #[must_use]
    pub fn of_level(quest: &Quest) -> Self {
        Self::new(quest, "")
    }

    fn new(quest: &Quest, unit: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bar:24.cyan/blue} {msg}");
            let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
            bar
        });
        Self { quest: *quest, unit, searching: false, bar }
    }

    /// Shows what happened.
    pub fn show(&self, event: Event<'_>) {
        match event {
            Event::Begins(look) => self.begins(look),
            Event::Heard(level) => self.heard(level),
            Event::Ended(look, level) if self.searching => {
                let observed = observed(level, &self.quest.target, ", ");
                self.say(&format!("Observed: {observed}\n{}", self.comes_to(look, level)));
            }
            Event::Ended(..) => {}
        }
    }

    /// Ends the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn begins(&self, look: Look) {
        if self.searching {
            let doing = match look.effort {
                Effort::Glance => "Testing",
                Effort::Proof => "Proving",
            };
            self.say(&format!("\n--- {doing} {}: {} ---", self.unit, look.level));
        }
        if let Some(bar) = &self.bar {
            let least = Level::new(look.level, &self.quest).judge.samples_min();
            bar.set_length(match look.effort {
                Effort::Glance => glance(look.level, &self.quest),
                Effort::Proof => least.min(self.quest.samples_max),
            });
        }
    }

    fn heard(&self, level: &Level) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(level.samples.count());
        // Percentiles of a long run are sorted anew each time.
        if level.samples.count().is_multiple_of(10) {
            let observed = observed(level, &self.quest.target, " ");
            bar.set_message(format!("{}: {} {observed}", level.level, level.samples.count()));
        }
    }

    fn comes_to(&self, look: Look, level: &Level) -> String {
        match (look.effort, level.judge.verdict()) {
            (Effort::Glance, super::statistics::Verdict::Undecided) => {
                format!("No objection after {}", level.samples.count())
            }
            _ => format!("Verdict: {}", verdict(level, self.quest.confidence)),
        }
    }

    fn say(&self, text: &str) {
        let say = || {
            // Whoever closed standard output has heard enough.
            let _ = writeln!(io::stdout().lock(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}
