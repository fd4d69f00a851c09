//! `rime-gate tune` as an operator runs it: real processes, real ports, and a search that is killed and goes on.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rime_gate::config::{Config, Overrides};

const GATE: &str = env!("CARGO_BIN_EXE_rime-gate");
const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tune-tiny.toml");

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn tune(directory: &Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(GATE);
    let engine = format!("'{GATE}' engine --listen 127.0.0.1:{port} --profile '{PROFILE}'; true");
    command
        .current_dir(directory)
        .args(["tune", &format!("http://127.0.0.1:{port}"), "--engine-cmd", &engine])
        .args([
            "--env-file",
            "engine.env",
            "--config",
            "proxy.toml",
            "--gpu",
            "tiny",
            "--start-timeout",
            "20s",
        ])
        .args(["--target", "success:0.80,rtf:p70@1.00", "--confidence", "0.6", "--samples-max", "80"])
        .args(["--decoder-max-batch", "2", "--decoder-num-sessions", "1", "--generator-max-batch", "2"])
        .args([
            "--utilization-percent",
            "90",
            "--batch-max",
            "16",
            "--sessions-max",
            "2",
            "--level-max",
            "12",
        ])
        .args(["--pause", "50ms", "--text", "Half a second."])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn tries(directory: &Path) -> usize {
    let journal = fs::read_to_string(directory.join("rime-gate-tune.jsonl")).unwrap_or_default();
    journal.lines().filter(|line| line.starts_with("{\"tried\"")).count()
}

/// Kills it as it says its `line`th line: when it starts an engine, or has measured one. Whether it ended before that.
fn killed_at(mut child: Child, line: usize) -> bool {
    let said = BufReader::new(child.stderr.take().unwrap()).lines().take(line).count();
    child.kill().unwrap();
    child.wait().unwrap();
    said < line
}

#[test]
fn a_search_that_is_killed_goes_on_and_writes_down_what_it_found() {
    let directory = tempfile::tempdir().unwrap();
    let (path, port) = (directory.path(), free_port());
    fs::write(path.join("engine.env"), "LICENSE=x\n").unwrap();
    fs::write(path.join("proxy.toml"), "# ours\n[[engine]]\nconcurrency_max = 1 # for now\n").unwrap();
    let mut before = 0;
    for (index, line) in [1, 5, 8].into_iter().enumerate() {
        let child = tune(path, port, &["--yes"]).spawn().unwrap();
        if killed_at(child, line) {
            break;
        }
        let now = tries(path);
        assert!(now >= before, "round {index}: what was tried is forgotten");
        before = now;
        assert_eq!(fs::read_to_string(path.join("engine.env")).unwrap(), "LICENSE=x\n");
    }
    let output = tune(path, port, &["--yes"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}\n{complained}");
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("converged: 4 in flight"), "{said}");
    assert!(said.contains("out of memory"), "{said}");
    assert!(tries(path) <= 20, "{} starts", tries(path));
    let text = fs::read_to_string(path.join("proxy.toml")).unwrap();
    assert!(text.starts_with("# ours\n") && text.contains("concurrency_max = 4 # for now"), "{text}");
    let config = Config::read("proxy.toml", &text, &Overrides::default()).unwrap().config;
    assert_eq!(config.engine.tuned.level.map(std::num::NonZeroU32::get), Some(4));
    assert_eq!(config.engine.tuned.gpu.as_deref(), Some("tiny"));
    let environment = fs::read_to_string(path.join("engine.env")).unwrap();
    assert!(environment.starts_with("LICENSE=x\nDECODER_MAX_BATCH="), "{environment}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "an engine was left behind");
}

#[test]
fn nothing_is_started_without_consent_and_a_dry_run_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let output = tune(directory.path(), port, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--yes"));
    let output = tune(directory.path(), port, &["--dry-run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("success:0.80,rtf:p70@1.00") && said.contains("engine.env"), "{said}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "it wrote something");
}

#[test]
fn an_apply_command_that_fails_leaves_the_env_file_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (path, port) = (directory.path(), free_port());
    fs::write(path.join("engine.env"), "GENERATOR_MAX_BATCH=2\n").unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let apply = "cp engine.env seen.env; exit 1";
    let arguments =
        ["tune", &url, "--apply-cmd", apply, "--env-file", "engine.env", "--yes", "--start-timeout", "2s"];
    let output = Command::new(GATE).current_dir(path).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(path.join("engine.env")).unwrap(), "GENERATOR_MAX_BATCH=2\n");
}
