//! Rime's load tester, with the two protocols that it speaks: HTTP, and the legacy JSON WebSocket, which it opens by
//! `POST`. Version 0.4.0 has no mode for WebSocket v1.

use std::collections::BTreeSet;
use std::process::Command;

use super::day::assert_lived;
use super::running::{Engine, Gate, Running, eventually, installed, output, program};
use super::{PACED, TEXT, assert_at_rest, curl, end, metric, seconds};

/// What takes no time to speak, as armchair waits for the end of the audio.
const WORD: &str = "Hello.";
/// More requests than a session comes to, although it has an end: some 20 s without an engine.
const REQUESTS_MAX: u32 = 400;

/// How armchair speaks, and what the address of the gate goes into.
struct Protocol {
    name: &'static str,
    arguments: &'static [&'static str],
    url: fn(&Gate) -> String,
}

const HTTP: Protocol =
    Protocol { name: "http", arguments: &[], url: |gate| format!("http://{}/", gate.address) };
const WS3: Protocol = Protocol {
    name: "ws3",
    arguments: &["--protocol", "websocket-chunked-json-tts"],
    url: |gate| format!("ws://{}/ws3?speaker=luna&modelId=arcana&audioFormat=wav", gate.address),
};

/// What armchair sums up.
struct Summary {
    total: u32,
    success: u32,
    lines: String,
}

/// As many sessions that live `like` this.
fn sessions(protocol: &Protocol, gate: &Gate, sessions: u32, text: &str, like: &[&str]) -> Command {
    let mut command = Command::new(installed("bin/armchair"));
    command
        .args(["--url", &(protocol.url)(gate), "--token", "none", "--text", text])
        .args(protocol.arguments)
        .args(["--concurrency", &sessions.to_string()])
        .args(like);
    command
}

/// As many sessions at once, each of so many requests.
fn command(protocol: &Protocol, gate: &Gate, callers: u32, requests: u32, text: &str) -> Command {
    let requests = requests.to_string();
    let like = ["--session-rate", "1000", "--requests-per-session", &requests];
    // Between two requests of a session, after the end of the audio.
    let pause = ["--intra-session-delay-mu", "50ms", "--intra-session-delay-sigma", "0s"];
    sessions(protocol, gate, callers, text, &[&like[..], &pause].concat())
}

/// As many simultaneous requests.
#[track_caller]
fn armchair(protocol: &Protocol, gate: &Gate, callers: u32) -> Summary {
    summary(&mut command(protocol, gate, callers, 1, TEXT))
}

#[track_caller]
fn summary(command: &mut Command) -> Summary {
    let output = output(command);
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

/// Killed while one of its requests is in the engine and another one waits.
#[track_caller]
fn may_be_killed(protocol: &Protocol) {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "1", "--queue-wait-max", "20s"]);
    let text = "This sentence is one of very many. ".repeat(200);
    let armchair = Running::start(&mut command(protocol, &gate, 2, 1, &text));
    eventually("one speaks and one waits", || gate.status("running") == 1.0 && gate.status("waiting") == 1.0);
    eventually("the engine speaks", || engine.count("/syntheses/running") == 1);
    armchair.kill();
    assert_at_rest(&engine, &gate);
    assert_eq!((engine.count("/syntheses/cancelled"), engine.count("/syntheses/total")), (1, 1));
    end(engine, gate);
}

/// A session that goes on when the engine dies in mid-turn and another one comes.
#[track_caller]
fn goes_on_with_another_engine(protocol: &Protocol) {
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "1"]);
    let around = output(&mut curl(&format!("http://{}/", engine.address), WORD, "audio/wav")).stdout;
    let in_full = format!(" bytes={} ", around.len());
    let mut session = Running::start(&mut command(protocol, &gate, 1, REQUESTS_MAX, WORD));
    for _ in 0..3 {
        session.says(&in_full);
    }
    let address = engine.address;
    eventually("a turn is in the engine", || engine.count("/syntheses/running") == 1);
    engine.process.kill();
    session.says(" status=502 ");
    let engine = Engine::start_on(address, PACED);
    session.says(&in_full);
    session.kill();
    assert_at_rest(&engine, &gate);
    end(engine, gate);
}

/// `refused`: how armchair writes a request that was refused.
#[track_caller]
fn day(protocol: &Protocol, refused: &str) {
    is_served_in_full_up_to_the_limit(protocol);
    waits_its_turn_above_the_limit(protocol);
    is_refused_cleanly_above_the_limit(protocol, refused);
    may_be_killed(protocol);
    goes_on_with_another_engine(protocol);
    let lived = [
        "many turns",
        "interrupted",
        "waits",
        "leaves the queue",
        "refused, then heard",
        "another engine",
        "engine dies",
    ];
    assert_lived("armchair", protocol.name, &BTreeSet::from(lived));
}

#[test]
fn armchair_on_http_is_heard_after_all_that_a_day_brings() {
    day(&HTTP, "status=429");
}

#[test]
fn armchair_on_ws3_is_heard_after_all_that_a_day_brings() {
    // The upgrade is accepted; what is refused is the synthesis.
    day(&WS3, "audio=0.00s");
}

#[test]
fn armchairs_sessions_read_as_a_number_in_flight_where_the_gate_observes() {
    const SESSIONS: u32 = 12;
    let engine = Engine::start(PACED);
    let gate = Gate::start(&engine, &["--concurrency-max", "1", "--set", "admission.when_full=observe"]);
    // They think 2 s, not 10, and speak some words, not a paragraph.
    let like = ["--session-rate", "3", "--requests-per-session", "3", "--intra-session-delay-mu", "2s"];
    let like =
        [&like[..], &["--intra-session-delay-sigma", "1s", "--intra-session-delay-max", "4s"]].concat();
    let summary = summary(&mut sessions(&HTTP, &gate, SESSIONS, TEXT, &like));
    assert_eq!((summary.total, summary.success), (3 * SESSIONS, 3 * SESSIONS), "{}", summary.lines);
    assert_at_rest(&engine, &gate);

    let admin = gate.admin.to_string();
    let status = output(program().args(["status", "--json", "--admin-address", &admin])).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    // The last five minutes: all of it.
    let window = &status["in_flight"][1];
    let [peak, p99] = ["peak", "p99"].map(|name| window[name].as_u64().unwrap());
    let in_engine = engine.count("/syntheses/peak");
    println!("{SESSIONS} sessions: {window}, {in_engine} at most in the engine");
    // The gate lets one go a moment after the engine has.
    assert!((in_engine..=in_engine + 1).contains(&peak), "{window}, {in_engine} in the engine");
    assert!(p99 <= peak && peak < u64::from(SESSIONS) && p99 >= 2, "{window}");
    // armchair's own clock says for how long it waited for answers, in all.
    let elapsed = summary.lines.split_whitespace().filter_map(|word| word.strip_prefix("elapsed="));
    let elapsed: f64 = elapsed.map(seconds_of).sum();
    let [mean, busy] = ["mean", "busy_seconds"].map(|name| window[name].as_f64().unwrap());
    assert!((0.9..1.05).contains(&(mean * busy / elapsed)), "{window}: {elapsed} s in armchair");

    let said =
        String::from_utf8(output(program().args(["status", "--admin-address", &admin])).stdout).unwrap();
    let line = format!(
        "last 5m: peak {peak}, p99 of the time {p99}, mean {mean:.1} in flight: concurrency_max = {p99}\n"
    );
    assert!(said.contains(&line) && said.contains("observing: everybody is let in"), "no {line} in {said}");
    end(engine, gate);
}

/// As armchair writes them: "1.14s", "541ms".
fn seconds_of(time: &str) -> f64 {
    match time.strip_suffix("ms") {
        Some(time) => time.parse::<f64>().unwrap() / 1_000.0,
        None => time.strip_suffix('s').unwrap().parse().unwrap(),
    }
}
