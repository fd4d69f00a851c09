//! What `proxy.toml` may say, and what an operator is told when it says something else.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod rules;
mod values;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use rime_gate::config::{Config, LogFilter, Overrides, QueueWaitMax, Threads, WhenFull};
use rime_gate::target::Target;

const PROXY_TOML: &str = include_str!("../../proxy.toml");
fn overrides(sets: &[&str]) -> Overrides {
    let mut overrides = Overrides::default();
    for set in sets {
        overrides.push_set(set).unwrap();
    }
    overrides
}

fn config(text: &str, sets: &[&str]) -> Config {
    Config::read("proxy.toml", text, &overrides(sets)).unwrap().config
}

/// The rendered errors, with a line end before them so that the expected text can begin on a line of its own.
fn errors(text: &str, sets: &[&str]) -> String {
    format!("\n{}", Config::read("proxy.toml", text, &overrides(sets)).unwrap_err())
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(config("", &[]), Config::default());
}

#[test]
fn the_committed_file_means_the_defaults_without_a_warning() {
    let read = Config::read("proxy.toml", PROXY_TOML, &Overrides::default()).unwrap();
    assert_eq!(read.config, Config::default());
    assert!(read.warnings.is_empty(), "{}", read.warnings);
}

#[test]
fn the_committed_file_names_every_key_and_no_other() {
    let mut named = BTreeSet::new();
    for (table, value) in PROXY_TOML.parse::<toml::Table>().unwrap() {
        let keys = value.as_table().or_else(|| value.as_array()?.first()?.as_table()).unwrap();
        named.extend(keys.keys().map(|key| format!("{table}.{key}")));
    }
    let (tuned, keys): (BTreeSet<_>, BTreeSet<_>) =
        Config::keys().into_iter().partition(|key| key.starts_with("engine.tuned."));
    assert_eq!(named, keys);
    // What has no default stands there as an example.
    let (_, example) = PROXY_TOML.split_once("# [engine.tuned]\n").unwrap();
    let lines = example.lines().map_while(|line| line.strip_prefix("# "));
    let example: String = lines.map(|line| format!("{line}\n")).collect();
    let example = example.parse::<toml::Table>().unwrap();
    assert_eq!(example.keys().map(|key| format!("engine.tuned.{key}")).collect::<BTreeSet<_>>(), tuned);
    config(&format!("[[engine]]\n[engine.tuned]\n{example}"), &[]);
}

#[test]
fn the_committed_file_says_of_every_key_what_its_default_is() {
    let mut comment = String::new();
    for line in PROXY_TOML.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else {
            if let Some((key, value)) = line.split_once(" = ") {
                assert!(comment.ends_with(&format!(" Default {value}.")), "{key}: {comment}");
            }
            comment.clear();
        }
    }
}

#[test]
fn a_written_configuration_reads_as_itself() {
    let mut written =
        config("", &["log.level=warn,rime_gate=debug", "limits.idle_timeout=1m 3s", "forwarding.via="]);
    written.runtime.threads = Threads::Count(3.try_into().unwrap());
    let tuned = &mut written.engine.tuned;
    (tuned.level, tuned.target) = (NonZeroU32::new(27), Some(Target::default()));
    (tuned.ttfb, tuned.rtf, tuned.samples) = (Some(Duration::from_millis(742)), Some(0.98), Some(368));
    tuned.variables = vec!["DECODER_MAX_BATCH=32".to_owned()];
    for config in [Config::default(), written] {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(self::config(&text, &[]), config, "{text}");
    }
}

/// `UPDATE_SCHEMA=1 cargo test --test config schema` writes the file anew.
#[test]
fn the_committed_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/proxy.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, Config::schema()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == Config::schema(),
        "run UPDATE_SCHEMA=1 cargo test schema"
    );
}

#[test]
fn the_log_subscriber_understands_every_filter_that_is_accepted() {
    for text in ["off", "info", "info,rime_gate::admission=debug", "hyper=off,trace"] {
        let filter = LogFilter::parse(text).unwrap();
        tracing_subscriber::filter::EnvFilter::try_new(filter.as_str()).unwrap();
    }
}

#[test]
fn an_override_counts_more_than_the_file_and_the_later_more_than_the_earlier() {
    let text = "[admission]\nqueue_max = 1\nwhen_full = \"reject\"\n";
    let config =
        config(text, &["admission.queue_max=2", "admission.queue_max=3", "admission.queue_wait_max=200ms"]);
    assert_eq!((config.admission.queue_max, config.admission.when_full), (3, WhenFull::Reject));
    assert!(matches!(config.admission.queue_wait_max, QueueWaitMax::Fixed(wait) if wait.as_millis() == 200));
}

#[test]
fn an_override_reaches_any_listener_by_its_number_and_the_first_without() {
    let text = "[[listener]]\n[[listener]]\n";
    let sets =
        ["listener.address=127.0.0.1:1", "listener.1.address=127.0.0.1:2", "listener.synthesis_paths=['/']"];
    let listeners = config(text, &sets).listeners;
    assert_eq!(listeners.iter().map(|one| one.address.port()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(listeners[0].synthesis_paths, ["/"]);
}

/// The committed file with a piece cut out and another put in: texts that are nearly right.
fn nearly_right() -> impl Strategy<Value = String> {
    let place = || any::<prop::sample::Index>();
    (place(), 0..40_usize, "[\\PC\n\t\u{1b}\u{202e}\"'=\\[\\]{}#.,0-9]{0,20}").prop_map(|(at, cut, piece)| {
        let chars: Vec<char> = PROXY_TOML.chars().collect();
        let at = at.index(chars.len());
        let (head, tail) = (&chars[..at], &chars[(at + cut).min(chars.len())..]);
        head.iter().chain(&piece.chars().collect::<Vec<_>>()).chain(tail).collect()
    })
}

fn never_panics(text: &str, sets: &[String]) {
    let mut overrides = Overrides::default();
    for set in sets {
        let _ = overrides.push_set(set);
    }
    let problems = match Config::read("proxy.toml", text, &overrides) {
        Ok(checked) => checked.warnings,
        Err(errors) => errors,
    };
    let shown = problems.to_string();
    assert!(!shown.chars().any(|char| char.is_control() && char != '\n'), "{shown:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_text_makes_the_reader_panic_or_reaches_the_terminal_raw(text in "(?s).{0,200}") {
        never_panics(&text, &[]);
    }

    #[test]
    fn no_nearly_right_text_does(text in nearly_right()) {
        never_panics(&text, &[]);
    }

    #[test]
    fn no_override_does(sets in prop::collection::vec("(admission.queue_max|target.slo|listener|\\PC{0,9})=(?s).{0,30}", 0..4)) {
        never_panics(PROXY_TOML, &sets);
    }
}
