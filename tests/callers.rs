//! Real callers, through the gate to an engine, all started as a user starts them: curl, Rime's armchair, LiveKit's
//! plugin and pipecat's services on every transport that they have, Node's `ws`, grpcio and Rime's SDK. The engine's
//! own count is the witness. `tests/install` brings the callers.
//!
//! What each of them lives through on each transport, and after each of it a turn is heard in full:
//!
//! | caller | transport | many turns | interrupted | waits | leaves the queue | refused, then heard | another engine | engine dies |
//! |---|---|---|---|---|---|---|---|---|
//! | armchair | http | one session | killed | yes | killed | yes | yes | yes |
//! | armchair | ws3 | a socket each | killed | yes | killed | yes | yes | yes |
//! | livekit | http | yes | yes | yes | yes | after four tries | yes | yes |
//! | livekit | ws3 | one socket | at its next turn | yes | at its next turn | after four tries | yes | yes |
//! | livekit | v1 | one socket | yes | yes | yes | after four tries | yes | yes |
//! | livekit | v1-json | one socket | yes | yes | yes | after four tries | yes | yes |
//! | pipecat | http | yes | yes | yes | yes | twice | yes | yes |
//! | pipecat | ws3 | one socket | yes | yes | yes | twice | yes | yes |
//! | pipecat | v1 | one socket | yes | yes | yes | twice | yes | yes |
//! | pipecat | v1-json | one socket | yes | yes | yes | twice | yes | yes |
//! | node | ws3 | one socket | yes | yes | yes | twice | yes | yes |
//! | node | ws2 | one socket | yes | yes | yes | twice | yes | yes |
//! | node | ws-binary | a socket each | yes | yes | yes | twice | yes | yes |
//! | node | v1 | one socket | yes | yes | yes | twice | yes | yes |
//! | node | v1-json | one socket | yes | yes | yes | twice | yes | yes |
//! | grpcio | synthesize | one channel | yes | yes | yes | twice | yes | yes |
//! | grpcio | streaming | one channel | yes | yes | yes | twice | yes | yes |
//! | sdk | grpc | one channel | yes | yes | yes | twice | yes | yes |
//!
//! `day.rs` compares every row with what was lived. armchair 0.4.0 has no mode for v1.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "callers/agents.rs"]
mod agents;
#[path = "callers/armchair.rs"]
mod armchair;
#[path = "callers/day.rs"]
mod day;
#[path = "callers/grpc.rs"]
mod grpc;
mod running;

use std::fs;
use std::process::Command;

use running::{Engine, Gate, Running, eventually, get, output, program};

const TEXT: &str = "Hello there, this is a turn of some words.";
/// An engine whose TTFB and RTF are a real one's: about 110 ms and 0.3.
const PACED: &[&str] = &["--profile", "edge-20"];

/// curl for a synthesis.
fn curl(url: &str, text: &str, accept: &str) -> Command {
    let mut command = Command::new("curl");
    // armchair's, LiveKit's and pipecat's common fields.
    let body =
        serde_json::json!({"text": text, "modelId": "arcana", "speaker": "astra", "samplingRate": 24_000});
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--header",
        "content-type: application/json",
    ]);
    command.args(["--header", &format!("accept: {accept}"), "--data", &body.to_string(), url]);
    command
}

/// What curl hears: the whole body.
#[track_caller]
fn heard(address: impl std::fmt::Display, accept: &str, arguments: &[&str]) -> Vec<u8> {
    let url = format!("http://{address}/");
    let output = output(curl(&url, TEXT, accept).arg("--fail").args(arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Seconds of a text, as the engine speaks it.
#[track_caller]
fn seconds_of(engine: &Engine, text: &str) -> f64 {
    let output = output(curl(&format!("http://{}/", engine.address), text, "audio/pcm").arg("--fail"));
    let samples = output.stdout.len() / 2;
    f64::from(u32::try_from(samples).unwrap()) / 24_000.0
}

/// Seconds of `TEXT`.
#[track_caller]
fn seconds(engine: &Engine) -> f64 {
    seconds_of(engine, TEXT)
}

/// A caller who takes a slot for minutes, and has it.
#[track_caller]
fn long_call(engine: &Engine, gate: &Gate) -> Running {
    let text = "This sentence is one of very many. ".repeat(200);
    let url = format!("http://{}/", gate.address);
    let call = Running::start(curl(&url, &text, "audio/pcm").args(["--output", "/dev/null"]));
    eventually("the long call is in the engine", || engine.count("/syntheses/running") == 1);
    call
}

/// Hangs up, and waits until the slot is free.
#[track_caller]
fn hang_up(call: Running, gate: &Gate) {
    call.kill();
    eventually("the slot is free", || gate.status("running") == 0.0);
}

#[track_caller]
fn end(engine: Engine, gate: Gate) {
    assert_eq!(gate.process.terminate(), Some(0));
    assert_eq!(engine.process.terminate(), Some(0));
}

/// Nothing is left over, and nothing runs or waits for nobody.
#[track_caller]
fn assert_at_rest(engine: &Engine, gate: &Gate) {
    eventually("every slot is back", || gate.status("running") == 0.0 && gate.status("waiting") == 0.0);
    eventually("the engine is idle", || engine.count("/syntheses/running") == 0);
    for socket in ["v1", "ws-json", "ws-binary"] {
        eventually("every socket is closed", || engine.count(&format!("/sockets/{socket}/open")) == 0);
    }
}

/// A metric's samples that have `labels`, added up.
fn metric(gate: &Gate, name: &str, labels: &str) -> f64 {
    let text = get(gate.metrics, "/metrics");
    let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Compares what comes through a gate with what comes around it, in each of these formats and every HTTP version.
#[track_caller]
fn assert_same_bytes(engine: Engine, formats: &[&str]) {
    let gate = Gate::start(&engine, &[]);
    let versions = ["--http1.0", "--http1.1", "--http2-prior-knowledge"];
    for format in formats {
        let around = heard(engine.address, format, &[]);
        assert!(around.len() > 1_000, "{format}: {} bytes", around.len());
        for version in versions {
            let through = heard(gate.address, format, &[version]);
            assert!(through == around, "{format}, {version}: not the engine's bytes");
        }
    }
    let counted = metric(&gate, "rime_gate_requests_total", r#"code="200",model="arcana",outcome="ok""#);
    assert_eq!(counted, f64::from(u32::try_from(formats.len() * versions.len()).unwrap()));
    end(engine, gate);
}

#[test]
fn curl_hears_through_the_gate_the_bytes_that_it_hears_around_it() {
    let formats = ["audio/wav", "audio/L16", "audio/pcm", "audio/PCMU", "audio/mpeg", "application/json"];
    assert_same_bytes(Engine::start(&["--profile", "test-fast"]), &formats);
}

#[test]
fn curl_hears_pages_clusters_and_events_as_the_engine_made_them() {
    // The engine cuts them as its rounds end, and two answers to one request differ: so all is done in one round.
    let profile = include_str!("../src/sim/profiles/test-fast.toml");
    let one_round = profile.replace("\naudio_ms = 500.0\n", "\naudio_ms = 60000.0\n");
    assert_ne!(one_round, profile);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one-round.toml");
    fs::write(&file, one_round).unwrap();
    let engine = Engine::start(&["--profile", file.to_str().unwrap()]);
    assert_same_bytes(engine, &["audio/ogg", "audio/webm", "text/event-stream"]);
}

#[test]
fn curl_hears_the_beginning_while_the_engine_still_speaks_and_may_hang_up() {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("speech.wav");
    let text = "This sentence is one of very many. ".repeat(200);
    let url = format!("http://{}/", gate.address);
    let call = Running::start(curl(&url, &text, "audio/wav").args(["--no-buffer", "--output"]).arg(&file));
    eventually("audio has come", || fs::metadata(&file).is_ok_and(|file| file.len() > 44));
    assert_eq!(engine.count("/syntheses/running"), 1);
    hang_up(call, &gate);
    eventually("the engine has stopped", || engine.count("/syntheses/cancelled") == 1);
    assert_eq!(metric(&gate, "rime_gate_requests_total", r#"outcome="caller_gone""#), 1.0);
    end(engine, gate);
}

#[test]
fn an_operator_sees_the_state_and_a_new_limit_lets_the_waiting_in() {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "1", "--queue-wait-max", "30s"]);
    let call = long_call(&engine, &gate);
    let url = format!("http://{}/", gate.address);
    let waiting = Running::start(curl(&url, TEXT, "audio/wav").args(["--fail", "--output", "/dev/null"]));
    eventually("one waits", || gate.status("waiting") == 1.0);
    let admin = gate.admin.to_string();
    let ask = |words: &[&str]| {
        let output = output(program().args(words).args(["--admin-address", &admin]));
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let status = ask(&["status"]);
    assert!(status.starts_with("ready (rime-gate "), "{status}");
    assert!(status.contains("\nrunning  1 of 1, ") && status.contains("\nwaiting  1 of 64, "), "{status}");
    assert_eq!(ask(&["limit", "24"]), "limit 24 (was 1)\n");
    assert_eq!(waiting.ends(), Some(0));
    assert!(ask(&["status"]).contains("running  1 of 24 (configured 1), "));
    assert_eq!(engine.count("/syntheses/peak"), 2);
    hang_up(call, &gate);
    end(engine, gate);
}

#[test]
fn a_gate_told_to_stop_lets_the_caller_hear_the_end_and_refuses_the_waiting() {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "1", "--queue-wait-max", "30s"]);
    let around = heard(engine.address, "audio/wav", &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("speech.wav");
    let url = format!("http://{}/", gate.address);
    let call = Running::start(curl(&url, TEXT, "audio/wav").args(["--fail", "--output"]).arg(&file));
    eventually("the caller is in the engine", || engine.count("/syntheses/running") == 1);
    let write = ["--output", "/dev/null", "--write-out", "status %{http_code}\\n"];
    let mut waiting = Running::start(curl(&url, TEXT, "audio/wav").args(write));
    eventually("one waits", || gate.status("waiting") == 1.0);
    assert_eq!(gate.process.terminate(), Some(0));
    assert_eq!(call.ends(), Some(0));
    assert!(fs::read(file).unwrap() == around, "the end is missing");
    assert_eq!(waiting.says("status "), "status 503");
    assert_eq!(engine.process.terminate(), Some(0));
}

#[test]
fn an_engine_that_goes_and_comes_back_needs_no_new_gate() {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &[]);
    let around = heard(gate.address, "audio/wav", &[]);
    let address = engine.address;
    assert_eq!(engine.process.terminate(), Some(0));
    let url = format!("http://{}/", gate.address);
    let write = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let refused = output(curl(&url, TEXT, "audio/wav").args(write));
    assert_eq!(String::from_utf8(refused.stdout).unwrap(), "502");
    eventually("the gate is unready", || !get(gate.metrics, "/readyz").starts_with("ok"));

    let engine = Engine::start_on(address, PACED);
    eventually("the gate is ready again", || get(gate.metrics, "/readyz").starts_with("ok"));
    assert!(heard(gate.address, "audio/wav", &[]) == around);
    end(engine, gate);
}
