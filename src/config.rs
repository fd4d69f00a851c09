//! Turns the text of `proxy.toml` and the operator's overrides into a [`Config`] that cannot be wrong, or into
//! every error at once, each with its place. Knows no file system, no environment and no clock.
//!
//! What is said on the command line counts more than the environment, that more than the file, that more than the
//! defaults. Every key has a default, so an empty file is a valid one.

mod arguments;
mod bounds;
mod build;
mod defaults;
mod overrides;
mod parse;
mod problem;
mod read;
mod rules;
mod sections;
mod values;

use std::collections::BTreeSet;

use toml::de::DeTable;

pub use arguments::RunArguments;
pub use bounds::{
    BODY_BYTES_MAX, CONCURRENCY_MAX, CONNECTIONS_MAX, CONTEXTS_MAX, DURATION_MAX, HEAD_BYTES_MAX,
    HEAD_BYTES_MIN, HEADERS_MAX, HELD_BYTES_MAX, LIST_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, POOL_IDLE_MAX,
    QUEUE_MAX,
};
pub use overrides::Overrides;
pub use problem::{PROBLEMS_SHOWN_MAX, Problems, Severity};
pub use sections::{
    Admin, Admission, Config, Engine, Forwarding, Limits, Listener, Log, Metrics, Runtime, TargetSection,
    Tuned, WebSocket,
};
pub use values::{
    EngineUrl, ForwardedHeaders, FullStatus, LogFilter, LogFormat, QueueWaitMax, Surface, Threads, WhenFull,
};

use problem::{Problem, Source};
use read::Reader;

/// Bytes of a configuration file.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// A configuration, and what its operator should look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Warnings; often none.
    pub warnings: Problems,
    /// Why the limit is not known to be a good one; for whoever checks a file, not for every start.
    pub provenance: Problems,
}

impl Config {
    /// Reads `text`, the content of the file `name`, and lays `overrides` over it. An empty text gives the
    /// defaults.
    ///
    /// # Errors
    /// Everything that is wrong, at once. Where the text is no TOML, keys are judged only as far as they can be told.
    pub fn read(name: &str, text: &str, overrides: &Overrides) -> Result<Checked, Problems> {
        let file = Source { file: Some(name.to_owned()), text: text.to_owned() };
        let mut reader = Reader::new(file, overrides);
        let (mut table, errors) = DeTable::parse_recoverable(text);
        let syntax: Vec<_> = errors.iter().map(|error| syntax_problem(text, error)).collect();
        let masked = mask(text, &syntax);
        if !syntax.is_empty() {
            match masked.as_deref().map(DeTable::parse) {
                Some(Ok(rest)) => table = rest,
                _ => return Err(Problems::new(Severity::Error, reader.sources, one_a_line(text, syntax))),
            }
        }
        let is_toml = syntax.is_empty();
        let table = table.into_inner();
        let mut document = reader.document(&table);
        let config = build::config(&mut document, overrides.one_listener);
        document.unknown_keys();
        reader.finish();
        rules::counts(&mut reader);
        let mut errors = one_a_line(text, syntax);
        errors.append(&mut reader.problems);
        // A value that was masked is at its default, which proves nothing about its neighbours.
        let findings = if is_toml { rules::check(&config, &reader) } else { rules::Findings::default() };
        errors.extend(findings.errors);
        if !errors.is_empty() {
            return Err(Problems::new(Severity::Error, reader.sources, errors));
        }
        let provenance = Problems::new(Severity::Warning, reader.sources.clone(), findings.provenance);
        let warnings = Problems::new(Severity::Warning, reader.sources, findings.warnings);
        Ok(Checked { config, warnings, provenance })
    }

    /// Every key, dotted, as it is set with `--set`: `engine.concurrency_max`.
    #[must_use]
    pub fn keys() -> BTreeSet<String> {
        let overrides = Overrides::default();
        let empty = Source { file: None, text: String::new() };
        let mut reader = Reader::new(empty, &overrides);
        let table = DeTable::new();
        build::config(&mut reader.document(&table), false);
        reader.keys.iter().map(|key| read::plain(key)).collect()
    }

    /// The JSON schema of `proxy.toml`, for editors.
    #[must_use]
    pub fn schema() -> String {
        let schema = schemars::schema_for!(Self);
        // A schema is a JSON value already.
        let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
        text + "\n"
    }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    // A value that is not there is taken by the parser for a string without quotes.
    let rest = text[span.start.min(text.len())..].lines().next().unwrap_or_default().trim();
    let label = match error.message() {
        unquoted if unquoted.starts_with("string values must be quoted") => {
            let missing = rest.is_empty() || rest.starts_with('#');
            if missing { "the value is missing" } else { "a string stands in quotes" }
        }
        other => other,
    };
    let (title, label, place) = ("this is not TOML".into(), label.into(), problem::Place { source: 0, span });
    Problem { title, place, label, also: None, help: None }
}

/// The first problem of each line: what follows on the same line follows from it.
fn one_a_line(text: &str, mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.place.span.start);
    problems.dedup_by_key(|problem| line(text, problem).start);
    problems
}

/// The text without the lines that are no TOML, every other byte in its place; `None` if one of them opens a table,
/// for then it is unknown where the keys below it belong.
fn mask(text: &str, syntax: &[Problem]) -> Option<String> {
    let mut masked = text.to_owned();
    for problem in syntax {
        let line = line(text, problem);
        if text[line.clone()].trim_start().starts_with('[') {
            return None;
        }
        let blank = " ".repeat(line.len());
        masked.replace_range(line, &blank);
    }
    Some(masked)
}

/// The bytes of the line on which a problem begins, without its end.
fn line(text: &str, problem: &Problem) -> std::ops::Range<usize> {
    let at = problem.place.span.start.min(text.len());
    let start = text.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let length = text.as_bytes()[start..].iter().position(|byte| *byte == b'\n');
    start..length.map_or(text.len(), |length| start + length)
}
