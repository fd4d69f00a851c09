//! Holds the README to the truth: its metrics table is the registry's, and its two commands are the ones that
//! continuous integration runs.

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between two markers.
fn between(text: &str, from: &str, to: &str) -> String {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("the README lacks {from}"));
    let (inner, _) = rest.split_once(to).unwrap_or_else(|| panic!("the README lacks {to}"));
    inner.trim().to_owned()
}

#[test]
fn the_metrics_table_is_the_registrys() {
    let table = between(&read("README.md"), "<!-- metrics -->", "<!-- /metrics -->");
    let registry = rime_gate::metrics::markdown();
    assert_eq!(table, registry.trim(), "write the table anew:\n{registry}");
}

#[test]
fn the_two_commands_are_run_in_continuous_integration() {
    let quick = between(&read("README.md"), "<!-- commands -->", "<!-- /commands -->");
    let commands: Vec<_> =
        quick.lines().filter(|line| !line.starts_with("```") && !line.is_empty()).collect();
    let commands: Vec<_> =
        commands.iter().map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let ci = read(".ci/run");
    for command in commands {
        assert!(ci.lines().any(|line| line.trim() == command), ".ci/run does not run `{command}`");
    }
}

#[test]
fn every_command_line_in_the_readme_is_understood() {
    use clap::Parser;
    let readme = read("README.md");
    let lines = readme.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    let lines: Vec<_> = lines.filter(|line| line.starts_with("rime-gate ")).collect();
    assert!(lines.len() >= 5, "{lines:?}");
    for line in lines {
        let parsed = rime_gate::cli::Cli::try_parse_from(line.split_whitespace());
        assert!(parsed.is_ok(), "`{line}`: {}", parsed.unwrap_err());
    }
}
