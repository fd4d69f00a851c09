//! Writes down what was found: the env file, and `proxy.toml` edited in place, comments and all. Decides no value.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::search::Variables;

/// What goes into `[engine.tuned]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// The greatest level that was proved: the new `concurrency_max`.
    pub level: u32,
    /// The target.
    pub target: String,
    /// The model that was measured, if it was named.
    pub model: Option<String>,
    /// The image, if it was named.
    pub image: Option<String>,
    /// The GPU, if it was named.
    pub gpu: Option<String>,
    /// The variables.
    pub variables: Variables,
    /// The 99th percentile of TTFB, in seconds.
    pub ttfb_p99_seconds: Option<f64>,
    /// The 99th percentile of RTF.
    pub rtf_p99: Option<f64>,
    /// Syntheses that the proof rests on.
    pub samples: u64,
    /// How certain it is.
    pub confidence: f64,
    /// The day, `2026-11-24`.
    pub date: String,
}

/// Variables as an env file has them; what else was in it stays.
#[must_use]
pub fn env_file(before: &str, variables: &Variables) -> String {
    let environment = variables.environment();
    let own =
        |line: &&str| environment.iter().any(|(name, _)| line.trim_start().starts_with(&format!("{name}=")));
    let mut text = String::new();
    for line in before.lines().filter(|line| !own(line)) {
        text.push_str(line);
        text.push('\n');
    }
    for (name, value) in &environment {
        // A `String` takes whatever is written.
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// The variables that an env file sets; where it sets none, `otherwise`.
#[must_use]
pub fn variables_in(text: &str, otherwise: Variables) -> Variables {
    let set = |name: &str| {
        let mut values =
            text.lines().filter_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix('='));
        values.next_back().map(|value| value.trim().trim_matches(['"', '\'']))
    };
    let count = |name, otherwise| set(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise);
    let share = set("GENERATOR_GPU_MEMORY_UTILIZATION").and_then(|value| value.parse::<f64>().ok());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of one, in hundredths"
    )]
    let utilization_percent = share.map(|share| (share.clamp(0.0, 1.0) * 100.0).round() as u32);
    Variables {
        decoder_max_batch: count("DECODER_MAX_BATCH", otherwise.decoder_max_batch),
        decoder_num_sessions: count("DECODER_NUM_SESSIONS", otherwise.decoder_num_sessions),
        generator_max_batch: count("GENERATOR_MAX_BATCH", otherwise.generator_max_batch),
        utilization_percent: utilization_percent.unwrap_or(otherwise.utilization_percent),
    }
}

/// One line for a shell that runs `command` with these variables in its environment.
#[must_use]
pub fn command_line(variables: &Variables, command: &str) -> String {
    let set = variables.environment().map(|(name, value)| format!("{name}={value}")).join(" ");
    format!("env {set} sh -c '{}'", command.replace('\'', r"'\''"))
}

/// `text`, a `proxy.toml`, with the limit and its provenance in the first engine's table.
///
/// # Errors
/// It is no TOML, or `engine` is no list of tables.
pub fn proxy_toml(text: &str, found: &Provenance) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error| format!("{error}"))?;
    let engines = document.entry("engine").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let engines = engines.as_array_of_tables_mut().ok_or("`engine` is no list of tables")?;
    if engines.is_empty() {
        engines.push(Table::new());
    }
    let engine = engines.get_mut(0).ok_or("`engine` is empty")?;
    set(engine, "concurrency_max", i64::from(found.level).into());
    let tuned = engine.entry("tuned").or_insert(Item::Table(Table::new()));
    let tuned = tuned.as_table_mut().ok_or("`engine.tuned` is no table")?;
    set(tuned, "level", i64::from(found.level).into());
    set(tuned, "target", found.target.as_str().into());
    for (key, named) in [("model", &found.model), ("image", &found.image), ("gpu", &found.gpu)] {
        match named {
            Some(name) => set(tuned, key, name.as_str().into()),
            // What an earlier search measured says nothing about this one.
            None => drop(tuned.remove(key)),
        }
    }
    let variables = found.variables.environment().map(|(name, value)| format!("{name}={value}"));
    set(tuned, "variables", toml_edit::Value::Array(variables.into_iter().collect()));
    if let Some(ttfb) = found.ttfb_p99_seconds {
        set(tuned, "ttfb", format!("{:.0}ms", ttfb * 1000.0).into());
    }
    if let Some(rtf) = found.rtf_p99 {
        set(tuned, "rtf", ((rtf * 1000.0).round() / 1000.0).into());
    }
    set(tuned, "samples", i64::try_from(found.samples).unwrap_or(i64::MAX).into());
    set(tuned, "confidence", found.confidence.into());
    set(tuned, "date", found.date.as_str().into());
    set(tuned, "tool_version", env!("CARGO_PKG_VERSION").into());
    Ok(document.to_string())
}

/// Sets a value and leaves the comments around it.
fn set(table: &mut Table, key: &str, mut new: toml_edit::Value) {
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *new.decor_mut() = old.decor().clone();
    }
    match table.get_mut(key) {
        Some(item) => *item = Item::Value(new),
        None => drop(table.insert(key, value(new))),
    }
}

/// Replaces a file as one step: whoever reads it sees the old or the new.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    fs::write(&beside, text)?;
    if let Ok(metadata) = fs::metadata(path) {
        fs::set_permissions(&beside, metadata.permissions())?;
    }
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn found() -> Provenance {
        Provenance {
            level: 27,
            target: "ttfb:p99@1s".to_owned(),
            model: Some("arcana".to_owned()),
            image: None,
            gpu: Some("H100 \"80\"".to_owned()),
            variables: Variables {
                decoder_max_batch: 48,
                decoder_num_sessions: 6,
                generator_max_batch: 48,
                utilization_percent: 70,
            },
            ttfb_p99_seconds: Some(0.7424),
            rtf_p99: Some(0.98),
            samples: 368,
            confidence: 0.95,
            date: "2026-11-24".to_owned(),
        }
    }

    #[test]
    fn every_comment_stays_and_the_configuration_says_what_was_found() {
        let before = include_str!("../../proxy.toml");
        let after = proxy_toml(before, &found()).unwrap();
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(comments(&after), comments(before));
        let config = Config::read("proxy.toml", &after, &Overrides::default()).unwrap().config;
        let (engine, tuned) = (&config.engine, &config.engine.tuned);
        assert_eq!(engine.concurrency_max.get(), 27);
        assert_eq!(tuned.level.map(std::num::NonZeroU32::get), Some(27));
        assert_eq!((tuned.samples, tuned.gpu.as_deref()), (Some(368), Some("H100 \"80\"")));
        assert_eq!(tuned.variables[3], "GENERATOR_GPU_MEMORY_UTILIZATION=0.70");
        assert_eq!(tuned.ttfb, Some(std::time::Duration::from_millis(742)));
    }

    #[test]
    fn an_empty_file_gets_what_it_lacks_and_a_second_result_replaces_the_first() {
        let first = proxy_toml("", &found()).unwrap();
        let second = proxy_toml(&first, &Provenance { level: 30, model: None, ..found() }).unwrap();
        let config = Config::read("", &second, &Overrides::default()).unwrap().config;
        assert_eq!((config.engine.concurrency_max.get(), config.engine.tuned.model), (30, None));
        assert!(proxy_toml("engine = 3", &found()).is_err());
    }

    #[test]
    fn an_env_file_keeps_what_is_not_the_tuners() {
        let before = "LICENSE=x\n# batches\nGENERATOR_MAX_BATCH=32\n";
        let after = env_file(before, &found().variables);
        let expected = "LICENSE=x\n# batches\nDECODER_MAX_BATCH=48\nDECODER_NUM_SESSIONS=6\n\
                        GENERATOR_MAX_BATCH=48\nGENERATOR_GPU_MEMORY_UTILIZATION=0.70\n";
        assert_eq!(after, expected);
        assert_eq!(env_file(&after, &found().variables), expected);
    }

    #[test]
    fn what_an_env_file_sets_is_read_back_and_what_it_does_not_is_left() {
        let variables = found().variables;
        assert_eq!(
            variables_in(
                &env_file("LICENSE=x\n", &variables),
                Variables { decoder_max_batch: 1, ..variables }
            ),
            variables
        );
        let before =
            "GENERATOR_MAX_BATCH=\"64\"\n# DECODER_MAX_BATCH=9\nGENERATOR_GPU_MEMORY_UTILIZATION=0.7\n";
        assert_eq!(variables_in(before, variables), Variables { generator_max_batch: 64, ..variables });
    }

    #[test]
    fn a_command_line_says_to_a_shell_what_was_run() {
        let line = command_line(&found().variables, "echo \"it's $GENERATOR_MAX_BATCH\"; true");
        let said = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "it's 48\n", "{line}");
    }
}
