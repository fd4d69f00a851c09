//! Voice agents: LiveKit's plugin, pipecat's services and an agent of one's own in Node, on every transport that each
//! of them has. All live through the same day.

use serde_json::Value;

use super::TEXT;
use super::day::{Agent, Day};
use super::running::{Engine, Gate, eventually};

/// How a caller is told that there is no place to wait.
const FULL: &str = "Currently at synthesis limit, queue full";

/// The day of an agent that comes in where HTTP does. `engine`: arguments of the engine.
#[track_caller]
fn day(caller: &str, transport: &str, engine: &[&str]) -> Day {
    Day::begins(engine, |gate| Agent::start(caller, &[transport, &gate.address.to_string()]))
}

/// LiveKit's plugin raises an error that has the status of the last of its four tries.
#[track_caller]
fn livekit(transport: &str, socket: Option<&str>, status: &Value) {
    let mut day = day("livekit", transport, &[]);
    day.many_turns(socket);
    day.an_interruption();
    day.a_wait();
    // On the legacy socket the plugin says nothing, and leaves the socket open until its next turn.
    day.an_interrupted_wait(transport != "ws3");
    for turn in day.refusals(1, 4) {
        assert_eq!(turn["errors"].as_array().map(Vec::len), Some(1), "{turn}");
        assert_eq!(turn["status"], *status, "{turn}");
    }
    day.another_engine(None, |_| {}).an_engine_that_dies(None).ends_as_promised("livekit", transport);
}

/// pipecat tries each turn once, and reports its error; three silent turns in a row would be the end of the service.
/// It connects again by itself, some four seconds after an attempt that failed; a turn before that would be silent.
#[track_caller]
fn pipecat(transport: &str, socket: Option<&str>, error: &str) {
    let mut day = day("pipecat", transport, &[]);
    day.many_turns(socket);
    day.an_interruption();
    day.a_wait();
    day.an_interrupted_wait(true);
    for turn in day.refusals(2, 1) {
        assert_eq!(turn["errors"][0], error, "{turn}");
    }
    day.another_engine(socket, |_| {}).an_engine_that_dies(socket).ends_as_promised("pipecat", transport);
}

/// `ws` does nothing by itself: what it hears is what was said. `door`: where it comes in, if not where HTTP does.
#[track_caller]
fn node(transport: &str, socket: &str, door: Option<&str>, refusal: &str) {
    let asked = door.map_or(vec![], |door| vec![format!("--{door}"), "127.0.0.1:0".to_owned()]);
    let asked: Vec<_> = asked.iter().map(String::as_str).collect();
    let mut day = Day::begins(&asked, |gate| {
        let address = door.map_or(gate.address, |door| gate.doors[door]);
        Agent::start("node", &[transport, &address.to_string()])
    });
    // The binary protocol has no end of a turn but the socket's.
    let kept = transport != "ws-binary";
    day.many_turns(kept.then_some(socket));
    day.an_interruption();
    day.a_wait();
    day.an_interrupted_wait(true);
    for turn in day.refusals(2, 1) {
        assert_eq!(turn["errors"], serde_json::json!([refusal]), "{turn}");
    }
    if kept {
        assert_eq!(day.engine.count(&format!("/sockets/{socket}/total")), 1);
    }
    day.another_engine(None, |_| {}).an_engine_that_dies(None).ends_as_promised("node", transport);
}

#[test]
fn livekit_on_http_is_heard_after_all_that_a_day_brings() {
    livekit("http", None, &429.into());
}

#[test]
fn livekit_on_ws3_is_heard_after_all_that_a_day_brings() {
    livekit("ws3", Some("ws-json"), &Value::Null);
}

#[test]
fn livekit_on_v1_is_heard_after_all_that_a_day_brings() {
    livekit("v1", Some("v1"), &429.into());
}

#[test]
fn livekit_on_v1_json_is_heard_after_all_that_a_day_brings() {
    livekit("v1-json", Some("v1"), &429.into());
}

/// On the legacy socket the plugin tells nothing of an interruption: it reads no more, and keeps the socket.
#[test]
fn livekit_on_ws3_that_listens_no_more_gives_its_slot_back() {
    let engine = Engine::start(&["--profile", "test-fast"]);
    let arguments = ["--concurrency-max", "1", "--set", "limits.caller_stall_timeout=1s"];
    let gate = Gate::start(&engine, &arguments);
    let agent = Agent::start("livekit", &["ws3", &gate.address.to_string()]);
    let mut day = Day::of(engine, gate, agent);
    // Far more sound than fits between the gate and a caller that does not read.
    day.agent.0.hears(&format!("interrupt {}", "This sentence is one of very many. ".repeat(600)));
    day.agent.end_of_turn();
    eventually("the slot is back", || day.gate.status("running") == 0.0);
    assert_eq!(day.engine.count("/syntheses/cancelled"), 1);
    assert_eq!(day.engine.count("/sockets/ws-json/open"), 1);
    day.turn_with_audio();
    day.ends();
}

#[test]
fn pipecat_on_http_is_heard_after_all_that_a_day_brings() {
    pipecat("http", None, "Rime TTS error: HTTP 429");
}

#[test]
fn pipecat_on_ws3_is_heard_after_all_that_a_day_brings() {
    pipecat("ws3", Some("ws-json"), "Error: Currently at synthesis limit, queue full");
}

#[test]
fn pipecat_on_ws3_is_heard_after_an_interruption_whatever_a_clear_does() {
    for on_clear in ["stop-done", "stop", "play-on"] {
        let mut day = day("pipecat", "ws3", &["--on-clear", on_clear]);
        // Where it plays on, the next turn waits for its end, and must not wait for long.
        day.a_turn_cut_short(&TEXT.repeat(2));
        day.a_turn_cut_short(&TEXT.repeat(2));
        assert_eq!(day.engine.count("/sockets/ws-json/total"), 1, "{on_clear}");
        day.ends();
    }
}

#[test]
fn pipecat_on_v1_is_heard_after_all_that_a_day_brings() {
    pipecat("v1", Some("v1"), "Rime error (resource_exhausted): Currently at synthesis limit, queue full");
}

#[test]
fn pipecat_on_v1_json_is_heard_after_all_that_a_day_brings() {
    pipecat(
        "v1-json",
        Some("v1"),
        "Rime error (resource_exhausted): Currently at synthesis limit, queue full",
    );
}

#[test]
fn node_on_ws3_is_heard_after_all_that_a_day_brings() {
    node("ws3", "ws-json", None, FULL);
}

#[test]
fn node_on_ws2_is_heard_after_all_that_a_day_brings() {
    node("ws2", "ws-json", None, FULL);
}

#[test]
fn node_on_ws_binary_is_heard_after_all_that_a_day_brings() {
    node("ws-binary", "ws-binary", Some("ws-binary"), "closed: 1013");
}

#[test]
fn node_on_v1_is_heard_after_all_that_a_day_brings() {
    node("v1", "v1", None, FULL);
}

#[test]
fn node_on_v1_json_is_heard_after_all_that_a_day_brings() {
    node("v1-json", "v1", None, FULL);
}
