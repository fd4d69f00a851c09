//! Rime's load tester, with the two protocols that it speaks: HTTP, and the legacy JSON WebSocket, which it opens by
//! `POST`. Version 0.4.0 has no mode for WebSocket v1.

use std::process::Command;

use super::running::{Engine, Gate, installed, output};
use super::{PACED, TEXT, assert_at_rest, end, metric, seconds};

/// How armchair speaks, and what the address of the gate goes into.
struct Protocol {
    arguments: &'static [&'static str],
    url: fn(&Gate) -> String,
}

const HTTP: Protocol = Protocol { arguments: &[], url: |gate| format!("http://{}/", gate.address) };
const WS3: Protocol = Protocol {
    arguments: &["--protocol", "websocket-chunked-json-tts"],
    url: |gate| format!("ws://{}/ws3?speaker=luna&modelId=arcana&audioFormat=wav", gate.address),
};

/// What armchair sums up.
struct Summary {
    total: u32,
    success: u32,
    lines: String,
}

/// As many simultaneous requests.
#[track_caller]
fn armchair(protocol: &Protocol, gate: &Gate, callers: u32) -> Summary {
    let mut command = Command::new(installed("bin/armchair"));
    command
        .args(["--url", &(protocol.url)(gate), "--token", "none", "--text", TEXT])
        .args(protocol.arguments);
    command.args(["--session-rate", "1000", "--requests-per-session", "1"]);
    let output = output(command.args(["--concurrency", &callers.to_string()]));
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{lines}");
    // "total: 4 success: 4 (100.0%)"
    let words: Vec<_> = lines.lines().find(|line| line.starts_with("total:")).unwrap().split(' ').collect();
    let [_, total, _, success, ..] = words[..] else { panic!("{lines}") };
    Summary { total: total.parse().unwrap(), success: success.parse().unwrap(), lines }
}

#[track_caller]
fn is_served_in_full_up_to_the_limit(protocol: &Protocol) {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "4"]);
    let summary = armchair(protocol, &gate, 4);
    assert_eq!((summary.total, summary.success), (4, 4), "{}", summary.lines);
    // One line a request: "[0: 1] status=200 ttfb=125ms elapsed=1.14s audio=3.00s rtf=0.340 bytes=144044 underrun=false"
    let audio = format!("audio={:.2}s", seconds(&engine));
    assert_eq!(summary.lines.matches(&audio).count(), 4, "no {audio} in {}", summary.lines);
    assert_eq!(engine.count("/syntheses/peak"), 4);
    assert_eq!(metric(&gate, "rime_gate_rtf_ratio_count", ""), 4.0);
    assert_at_rest(&engine, &gate);
    end(engine, gate);
}

#[track_caller]
fn waits_its_turn_above_the_limit(protocol: &Protocol) {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "2", "--queue-wait-max", "20s"]);
    let summary = armchair(protocol, &gate, 4);
    assert_eq!((summary.total, summary.success), (4, 4), "{}", summary.lines);
    assert_eq!((engine.count("/syntheses/peak"), engine.count("/syntheses/total")), (2, 4));
    assert_at_rest(&engine, &gate);
    end(engine, gate);
}

/// `refused`: how armchair writes a request that was refused.
#[track_caller]
fn is_refused_cleanly_above_the_limit(protocol: &Protocol, refused: &str) {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "2", "--set", "admission.when_full=reject"]);
    let summary = armchair(protocol, &gate, 4);
    let refused = u32::try_from(summary.lines.matches(refused).count()).unwrap();
    assert!(refused >= 1 && summary.success + refused == 4, "{}", summary.lines);
    let counted = metric(&gate, "rime_gate_refusals_total", r#"reason="limit_reached""#);
    assert_eq!(counted, f64::from(refused));
    assert_eq!(engine.count("/syntheses/peak"), 2);
    assert_eq!(engine.count("/syntheses/total"), u64::from(summary.success));
    // The refused have cost nothing that would last.
    assert_eq!(armchair(protocol, &gate, 2).success, 2);
    assert_at_rest(&engine, &gate);
    end(engine, gate);
}

#[test]
fn armchair_is_served_in_full_up_to_the_limit_and_finds_real_audio() {
    is_served_in_full_up_to_the_limit(&HTTP);
    is_served_in_full_up_to_the_limit(&WS3);
}

#[test]
fn armchair_above_the_limit_waits_its_turn_when_the_queue_allows_it() {
    waits_its_turn_above_the_limit(&HTTP);
    waits_its_turn_above_the_limit(&WS3);
}

#[test]
fn armchair_above_the_limit_is_refused_cleanly_when_the_gate_rejects() {
    is_refused_cleanly_above_the_limit(&HTTP, "status=429");
    // The upgrade is accepted; what is refused is the synthesis.
    is_refused_cleanly_above_the_limit(&WS3, "audio=0.00s");
}
