//! `rime-gate check` on files, and what `rime-gate run` makes of its flags, its environment and a file.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::{Args, FromArgMatches};
use rime_gate::check::{check, load};
use rime_gate::config::{Config, FILE_BYTES_MAX, QueueWaitMax, RunArguments, Threads};

/// Exit code, standard output and standard error of `check`, with the file called `proxy.toml`.
fn checked(content: impl AsRef<[u8]>) -> (u8, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    fs::write(&path, content).unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let code = check(&path, false, &mut stdout, &mut stderr).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(path.to_str().unwrap(), "proxy.toml");
    (code, text(stdout), text(stderr))
}

fn arguments(words: &[&str]) -> RunArguments {
    let command = RunArguments::augment_args(clap::Command::new("run"));
    let matches = command.try_get_matches_from([&["run"], words].concat()).unwrap();
    RunArguments::from_arg_matches(&matches).unwrap()
}

fn run(words: &[&str]) -> Config {
    load(&arguments(words)).unwrap().config
}

fn run_error(words: &[&str]) -> String {
    load(&arguments(words)).unwrap_err().to_string()
}

#[test]
fn a_file_that_is_fine_is_ok() {
    let text = "[[engine]]\nconcurrency_max = 32\n[engine.tuned]\nlevel = 32\n";
    assert_eq!(checked(text), (0, "proxy.toml: ok\n".into(), String::new()));
}

#[test]
fn the_committed_file_is_ok_but_for_a_limit_that_nobody_proved() {
    let (code, stdout, stderr) = checked(include_str!("../proxy.toml"));
    assert_eq!((code, stdout), (0, "proxy.toml: ok, with 1 warning\n".into()));
    assert!(stderr.starts_with("warning: nothing says how the limit was found\n"), "{stderr}");
}

#[test]
fn a_limit_above_what_was_proved_or_proved_for_another_target_is_warned_of() {
    let stderr = r#"warning: the limit is above what was proved: 33 for 32
 --> proxy.toml:2:19
  |
2 | concurrency_max = 33
  |                   ^^ the limit
3 | [engine.tuned]
4 | level = 32
  |         -- what was proved
  |
  = help: every synthesis beyond it is a guess: lower it, or tune again

warning: the limit was proved for another target
 --> proxy.toml:5:10
  |
5 | target = "ttfb:p99@2s"
  |          ^^^^^^^^^^^^^ the target is success:1.00,ttfb:p99@1s,rtf:p99@1.00,underrun:0.00
  |
  = help: it says nothing about this one; ttfb:p99@2s was proved
"#;
    let text = "[[engine]]\nconcurrency_max = 33\n[engine.tuned]\nlevel = 32\ntarget = \"ttfb:p99@2s\"\n";
    assert_eq!(checked(text), (0, "proxy.toml: ok, with 2 warnings\n".into(), stderr.into()));
}

#[test]
fn a_file_with_a_warning_is_ok_and_the_warning_is_shown() {
    let stderr = r#"warning: the admin address is open to other machines
 --> proxy.toml:2:11
  |
2 | address = "0.0.0.0:9465"
  |           ^^^^^^^^^^^^^^
  |
  = help: whoever reaches it can change the limit; `metrics.address` is the one to open
"#;
    let expected = (0, "proxy.toml: ok, with 1 warning\n".into(), stderr.into());
    assert_eq!(checked("[admin]\naddress = \"0.0.0.0:9465\"\n"), expected);
}

#[test]
fn a_file_that_is_wrong_shows_every_error_and_counts_them() {
    let stderr = r#"error: `admission.queue_max` must be a whole number from 0 to 65535
 --> proxy.toml:2:13
  |
2 | queue_max = -1
  |             ^^ too small

error: unknown key `wen_full` in [admission]
 --> proxy.toml:3:1
  |
3 | wen_full = "queue"
  | ^^^^^^^^
  |
  = help: did you mean `when_full`?

proxy.toml: 2 errors
"#;
    let text = "[admission]\nqueue_max = -1\nwen_full = \"queue\"\n";
    assert_eq!(checked(text), (1, String::new(), stderr.into()));
}

#[test]
fn a_file_that_is_no_text_or_too_long_cannot_be_read() {
    let latin1 = checked(b"# ok\n# caf\xe9\n");
    assert_eq!(latin1, (2, String::new(), "error: cannot read proxy.toml: line 2 is not UTF-8\n".into()));
    assert_eq!(checked(vec![b'\n'; FILE_BYTES_MAX]).0, 0);
    let too_long = checked(vec![b'\n'; FILE_BYTES_MAX + 1]);
    assert_eq!(too_long.2, "error: cannot read proxy.toml: longer than 1048576 bytes\n");
}

#[test]
fn a_file_that_is_not_there_cannot_be_read() {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let code = check(&PathBuf::from("/nonexistent/proxy.toml"), false, &mut stdout, &mut stderr).unwrap();
    assert_eq!((code, stdout.len()), (2, 0));
    assert!(stderr.starts_with(b"error: cannot read /nonexistent/proxy.toml: No such file"));
}

#[test]
fn without_a_file_the_flags_lie_over_the_defaults() {
    assert_eq!(run(&[]), Config::default());
    let config =
        run(&["--engine", "http://10.0.0.5:8000", "--concurrency-max", "8", "--set", "log.format=json"]);
    assert_eq!(config.engine.http.to_string(), "http://10.0.0.5:8000");
    assert_eq!(config.engine.concurrency_max.get(), 8);
    assert_eq!(config.limits, Config::default().limits);
}

#[test]
fn every_flag_sets_its_key() {
    let config = run(&[
        "--engine=http://[::1]:8080",
        "--listen=[::]:8801",
        "--concurrency-max=9",
        "--queue-max=0",
        "--queue-wait-max=700ms",
        "--threads=2",
        "--admin-address=127.0.0.1:1",
        "--metrics-address=127.0.0.1:2",
    ]);
    assert_eq!(config.engine.http.host(), "::1");
    assert_eq!(config.listeners[0].address.to_string(), "[::]:8801");
    assert_eq!(config.engine.concurrency_max.get(), 9);
    assert_eq!(config.admission.queue_max, 0);
    assert!(matches!(config.admission.queue_wait_max, QueueWaitMax::Fixed(wait) if wait.as_millis() == 700));
    assert!(matches!(config.runtime.threads, Threads::Count(count) if count.get() == 2));
    assert_eq!((config.admin.address.port(), config.metrics.address.port()), (1, 2));
}

#[test]
fn the_listen_flag_takes_the_place_of_every_listener_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    let listeners = "[[listener]]\nsynthesis_paths = [\"/tts\"]\n[[listener]]\naddress = \"127.0.0.1:1\"\n";
    fs::write(&path, format!("{listeners}[admission]\nqueue_max = 7\n")).unwrap();
    let file = path.to_str().unwrap();
    assert_eq!(run(&["--config", file]).listeners.len(), 2);
    let config = run(&["--config", file, "--listen", "127.0.0.1:8801"]);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].address.port(), 8801);
    assert_eq!(config.listeners[0].synthesis_paths, Config::default().listeners[0].synthesis_paths);
    assert_eq!(config.admission.queue_max, 7);

    fs::write(&path, "[[listener]]\nadress = \"127.0.0.1:1\"\n").unwrap();
    assert!(run_error(&["--config", file, "--listen", "127.0.0.1:8801"]).contains("did you mean `address`?"));
}

#[test]
fn a_wrong_flag_is_shown_as_it_was_said() {
    let expected = r"error: `admission.queue_max` must be a whole number from 0 to 65535
 |
 | --queue-max many
 |             ^^^^ this is a string
";
    assert_eq!(run_error(&["--queue-max", "many"]), expected);
}

#[test]
fn a_set_without_an_equals_sign_is_wrong_use() {
    let command = RunArguments::augment_args(clap::Command::new("run"));
    let error = command.try_get_matches_from(["run", "--set", "admission.queue_max"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("expected KEY=VALUE, as in `admission.queue_max=64`"));
}

/// Runs itself again in a process of its own: a process's environment cannot be set safely from a test.
#[test]
fn a_variable_yields_to_a_set_and_a_set_to_a_flag() {
    if std::env::var_os("RIME_GATE_QUEUE_MAX").is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_variable_yields_to_a_set_and_a_set_to_a_flag"]);
        child.env("RIME_GATE_QUEUE_MAX", "1").env("RIME_GATE_CONCURRENCY_MAX", "none");
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let expected = r"error: `engine.concurrency_max` must be a whole number from 1 to 65535
 |
 | RIME_GATE_CONCURRENCY_MAX=none
 |                           ^^^^ this is a string
";
    assert_eq!(run_error(&[]), expected);
    let queue_max = |words: &[&str]| run(&[words, &["--concurrency-max", "8"]].concat()).admission.queue_max;
    assert_eq!(queue_max(&[]), 1);
    assert_eq!(queue_max(&["--set", "admission.queue_max=2"]), 2);
    assert_eq!(queue_max(&["--set", "admission.queue_max=2", "--queue-max", "3"]), 3);
}
