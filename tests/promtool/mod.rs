//! Runs Prometheus' own checker.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `promtool` in `directory`, `input` on its standard input. Returns whether it was content, and what it said.
pub(crate) fn promtool(directory: &Path, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed: apt-get install prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}
