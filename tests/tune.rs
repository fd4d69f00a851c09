//! `rime-gate tune` as an operator runs it: real processes, real ports, and a search that is killed and goes on.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod running;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rime_gate::config::{Config, Overrides};
use running::{eventually, get};

const GATE: &str = env!("CARGO_BIN_EXE_rime-gate");
const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tune-tiny.toml");

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn kill(signal: &str, whom: &str) {
    assert!(Command::new("kill").args([signal, "--", whom]).status().unwrap().success());
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
    assert!(!answers(port), "an engine was left behind");
    // What is printed starts it again, with the variables of the env file.
    let line = said.lines().find(|line| line.starts_with("  env DECODER_MAX_BATCH=")).unwrap();
    assert!(environment.lines().skip(1).all(|variable| line.contains(variable)), "{line}\n{environment}");
    let mut engine = Command::new("sh").args(["-c", line]).process_group(0).spawn().unwrap();
    eventually("what was printed starts the engine", || answers(port));
    let group = format!("-{}", engine.id());
    kill("-TERM", &group);
    engine.wait().unwrap();
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
fn an_engine_that_is_still_starting_when_the_search_is_told_to_stop_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (path, port) = (directory.path(), free_port());
    let url = format!("http://127.0.0.1:{port}");
    // The engine is not the shell itself, as in any wrapper.
    let engine = "sleep 300 & echo $! >engine.pid; wait";
    let mut child = Command::new(GATE)
        .current_dir(path)
        .args(["tune", &url, "--engine-cmd", engine, "--yes"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = || fs::read_to_string(path.join("engine.pid")).unwrap_or_default();
    eventually("the engine starts", || pid().ends_with('\n'));
    kill("-TERM", &child.id().to_string());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    // One that has ended has no command line, even if nobody has asked for its exit code.
    let command_line = || fs::read(Path::new("/proc").join(pid().trim()).join("cmdline"));
    eventually("the engine has ended", || command_line().unwrap_or_default().is_empty());
}

/// Somebody else who runs the engine, with what the env file says, and writes down each time what that was.
struct Supervised {
    directory: tempfile::TempDir,
    port: u16,
    grpc: u16,
}

const BEFORE: &str = "LICENSE=x\nDECODER_MAX_BATCH=2\nDECODER_NUM_SESSIONS=1\nGENERATOR_MAX_BATCH=2\n\
                      GENERATOR_GPU_MEMORY_UTILIZATION=0.60\n";

impl Supervised {
    /// The engine runs with [`BEFORE`].
    fn start() -> Self {
        let (directory, port, grpc) = (tempfile::tempdir().unwrap(), free_port(), free_port());
        let path = directory.path();
        fs::write(path.join("engine.env"), BEFORE).unwrap();
        let script = format!(
            "#!/bin/sh\n\
             if [ -f pid ]; then kill $(cat pid); while kill -0 $(cat pid) 2>&-; do sleep 0.05; done; fi\n\
             set -a; . ./engine.env; set +a\n\
             echo $GENERATOR_MAX_BATCH >>applied\n\
             if [ \"$(wc -l <applied)\" = \"$(cat fails)\" ]; then exit 1; fi\n\
             '{GATE}' engine --listen 127.0.0.1:{port} --grpc 127.0.0.1:{grpc} --profile '{PROFILE}' >log 2>&1 &\n\
             echo $! >pid\n"
        );
        fs::write(path.join("apply"), script).unwrap();
        fs::set_permissions(path.join("apply"), fs::Permissions::from_mode(0o755)).unwrap();
        let supervised = Self { directory, port, grpc };
        assert!(Command::new("./apply").current_dir(supervised.path()).status().unwrap().success());
        eventually("the engine runs", || answers(port));
        supervised
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// A search that tries nothing but batches of 4.
    fn tune(&self, port: u16) -> Command {
        let mut command = Command::new(GATE);
        command
            .current_dir(self.path())
            .args(["tune", &format!("http://127.0.0.1:{port}"), "--apply-cmd", "./apply", "--yes"])
            .args(["--env-file", "engine.env", "--config", "proxy.toml", "--start-timeout", "20s"])
            .args(["--target", "success:0.80,rtf:p70@1.00", "--confidence", "0.6", "--samples-max", "80"])
            .args(["--decoder-max-batch", "4", "--decoder-num-sessions", "1", "--generator-max-batch", "4"])
            .args(["--utilization-percent", "70", "--batch-max", "4", "--sessions-max", "1"])
            .args(["--level-max", "6", "--pause", "50ms", "--text", "Half a second."])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let pid = self.read("pid");
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-TERM", pid.trim()]).status();
    }
}

#[test]
fn whoever_runs_the_engine_is_told_a_last_time_and_the_engine_is_left_running_with_what_was_found() {
    let supervised = Supervised::start();
    let output = supervised.tune(supervised.port).output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("the engine runs with it"), "{said}");
    // Before, as it was tried, as it was found.
    assert_eq!(supervised.read("applied"), "2\n4\n4\n");
    assert!(supervised.read("engine.env").contains("GENERATOR_MAX_BATCH=4\n"));
    let found = said.split_once("at 0.70: ").unwrap().1.lines().next().unwrap();
    assert!(supervised.read("proxy.toml").contains(found), "{said}");
    assert!(answers(supervised.port), "no engine runs");
}

#[test]
fn a_search_that_is_told_to_stop_leaves_the_engine_running_as_it_was() {
    for signal in ["-TERM", "-INT"] {
        let supervised = Supervised::start();
        let mut child = supervised.tune(supervised.port).spawn().unwrap();
        // It measures: the engine of the try is up and speaks.
        let said = child.stderr.take().unwrap();
        eventually("it applies the first try", || supervised.read("applied") == "2\n4\n");
        eventually("the engine of the try runs", || answers(supervised.port));
        kill(signal, &child.id().to_string());
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let said = std::io::read_to_string(said).unwrap();
        assert!(said.contains("told to stop") && said.contains("the engine runs as it did"), "{said}");
        assert_eq!(supervised.read("applied"), "2\n4\n2\n");
        assert_eq!(supervised.read("engine.env"), BEFORE);
        assert!(answers(supervised.port), "no engine runs");
        assert!(!supervised.path().join("proxy.toml").exists());
    }
}

#[test]
fn what_was_found_and_then_does_not_start_leaves_the_engine_running_as_it_was() {
    let supervised = Supervised::start();
    fs::write(supervised.path().join("fails"), "3").unwrap();
    let output = supervised.tune(supervised.port).output().unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(complained.contains("did not start with what was found"), "{complained}");
    assert_eq!(supervised.read("applied"), "2\n4\n4\n2\n");
    assert_eq!(supervised.read("engine.env"), BEFORE);
    assert!(answers(supervised.port), "no engine runs");
    assert!(!supervised.path().join("proxy.toml").exists());
}

#[test]
fn a_configuration_that_cannot_be_edited_is_told_before_anything_is_started() {
    let supervised = Supervised::start();
    fs::write(supervised.path().join("proxy.toml"), "engine = 3\n").unwrap();
    let output = supervised.tune(supervised.port).output().unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(complained.contains("cannot edit proxy.toml"), "{complained}");
    assert_eq!(
        (supervised.read("engine.env").as_str(), supervised.read("applied").as_str()),
        (BEFORE, "2\n")
    );
}

#[test]
fn the_journal_of_another_search_touches_nothing() {
    let supervised = Supervised::start();
    let journal = "rime-gate-tune.jsonl";
    let begun = r#"{"begun":{"url":"http://other","target":"ttfb:p99@1s","start":{"decoder_max_batch":1,"decoder_num_sessions":1,"generator_max_batch":1,"utilization_percent":50},"bounds":{"batch_max":1,"sessions_max":1,"utilization_percent":[30,95]},"env_file_before":null}}"#;
    fs::write(supervised.path().join(journal), format!("{begun}\n")).unwrap();
    let output = supervised.tune(supervised.port).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the journal of another search"));
    assert_eq!(
        (supervised.read("engine.env").as_str(), supervised.read("applied").as_str()),
        (BEFORE, "2\n")
    );
}

#[test]
fn an_engine_is_measured_on_the_protocol_that_is_asked_for() {
    let supervised = Supervised::start();
    let mut command = supervised.tune(supervised.grpc);
    command.args(["--protocol", "grpc"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--ready-url"));
    let ready = format!("http://127.0.0.1:{}/readyz", supervised.port);
    let child = command.args(["--ready-url", &ready]).spawn().unwrap();
    eventually("it speaks gRPC", || {
        let status: serde_json::Value =
            serde_json::from_str(&get(([127, 0, 0, 1], supervised.port).into(), "/statusz"))
                .unwrap_or_default();
        status["protocols"]["grpc"]["completed"].as_u64() > Some(0)
            && status["protocols"]["http"]["total"] == 0
    });
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("concurrency_max = "), "{said}");
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
