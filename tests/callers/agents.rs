//! Voice agents: LiveKit's plugin, pipecat's services and an agent of one's own in Node, on every transport that each
//! of them has. All live through the same day.

use std::process::Command;

use serde_json::Value;

use super::running::{Engine, Gate, Running, eventually, installed};
use super::{PACED, TEXT, assert_at_rest, curl, end, hang_up, long_call, metric, seconds};

/// A program that speaks what it is told, one turn a line.
struct Agent(Running);

impl Agent {
    /// Connects it. `script` is one of this directory.
    #[track_caller]
    fn start(script: &str, transport: &str, gate: &Gate) -> Self {
        let node = script.ends_with(".cjs");
        let mut command = Command::new(if node { "node".into() } else { installed("python/bin/python") });
        // The test's own directory stays as it is.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("RIME_API_KEY");
        if node {
            command.env("NODE_PATH", installed("node/node_modules"));
        }
        command.arg(format!("{}/tests/callers/{script}", env!("CARGO_MANIFEST_DIR")));
        let mut agent = Running::start(command.args([transport, &gate.address.to_string()]));
        agent.says("ready");
        Self(agent)
    }

    /// Begins a turn.
    #[track_caller]
    fn begin(&mut self) {
        self.0.hears(&format!("say {TEXT}"));
    }

    /// What became of the turn.
    #[track_caller]
    fn end_of_turn(&mut self) -> Value {
        serde_json::from_str(&self.0.says("{")).unwrap()
    }

    /// A turn in which everything is heard.
    #[track_caller]
    fn turn_with_audio(&mut self, seconds: f64) {
        self.begin();
        self.end_of_turn_with_audio(seconds);
    }

    /// Everything was heard, and there was no error.
    #[track_caller]
    fn end_of_turn_with_audio(&mut self, seconds: f64) {
        let turn = self.end_of_turn();
        assert!(turn["frames"].as_u64().unwrap() > 1, "{turn}");
        let heard = turn["seconds"].as_f64().unwrap();
        assert!((heard - seconds).abs() < 0.001, "{heard} s instead of {seconds} s: {turn}");
        assert_eq!(turn["errors"].as_array().map(Vec::len), Some(0), "{turn}");
        assert_eq!(turn["usable"], true, "{turn}");
    }
}

/// One agent, one slot, and one place to wait for it.
struct Day {
    engine: Engine,
    gate: Gate,
    agent: Agent,
    /// How long a turn sounds.
    seconds: f64,
}

impl Day {
    #[track_caller]
    fn begins(script: &str, transport: &str, engine: &[&str]) -> Self {
        let engine = Engine::start(&[PACED, engine].concat());
        let arguments = ["--concurrency-max", "1", "--queue-wait-max", "20s", "--queue-max", "1"];
        let gate = Gate::start(&engine, &arguments);
        let seconds = seconds(&engine);
        let agent = Agent::start(script, transport, &gate);
        Self { engine, gate, agent, seconds }
    }

    /// The engine has never been asked for more than the limit, and nothing is left over.
    #[track_caller]
    fn ends(self) {
        assert_eq!(self.agent.0.ends(), Some(0));
        assert_eq!(self.engine.count("/syntheses/peak"), 1);
        assert_at_rest(&self.engine, &self.gate);
        end(self.engine, self.gate);
    }

    /// Many turns, for which one socket is enough. `socket` is the engine's name for it, where there is one.
    #[track_caller]
    fn many_turns(&mut self, socket: Option<&str>) {
        for _ in 0..3 {
            self.agent.turn_with_audio(self.seconds);
        }
        if let Some(socket) = socket {
            assert_eq!(self.engine.count(&format!("/sockets/{socket}/total")), 1);
        }
    }

    /// A turn that is interrupted by its caller; the next turn is heard.
    #[track_caller]
    fn a_turn_cut_short(&mut self, text: &str) {
        self.agent.0.hears(&format!("interrupt {text}"));
        let turn = self.agent.end_of_turn();
        assert!(turn["frames"].as_u64().unwrap() >= 1, "{turn}");
        assert_eq!(turn["errors"].as_array().map(Vec::len), Some(0), "{turn}");
        self.agent.turn_with_audio(self.seconds);
    }

    /// A long turn that is interrupted holds the slot no longer.
    #[track_caller]
    fn an_interruption(&mut self) {
        self.a_turn_cut_short(&"This sentence is one of many. ".repeat(33));
        eventually("the engine has stopped", || self.engine.count("/syntheses/cancelled") == 1);
    }

    /// A turn that is interrupted while it waits. `told`: the gate hears of it.
    #[track_caller]
    fn an_interrupted_wait(&mut self, told: bool) {
        let before = self.engine.count("/syntheses/total");
        let call = long_call(&self.engine, &self.gate);
        self.agent.0.hears(&format!("leave {TEXT}"));
        eventually("the turn waits", || self.gate.status("waiting") == 1.0);
        self.agent.0.hears("stop");
        let turn = self.agent.end_of_turn();
        assert_eq!((&turn["frames"], &turn["usable"]), (&0.into(), &true.into()), "{turn}");
        if told {
            eventually("nobody waits", || self.gate.status("waiting") == 0.0);
            assert_eq!(self.engine.count("/syntheses/total") - before, 1, "the long call and nothing else");
            hang_up(call, &self.gate);
        } else {
            call.kill();
        }
        self.agent.turn_with_audio(self.seconds);
    }

    /// A turn that waits for its slot.
    #[track_caller]
    fn a_wait(&mut self) {
        let call = long_call(&self.engine, &self.gate);
        self.agent.begin();
        eventually("the turn waits", || self.gate.status("waiting") == 1.0);
        call.kill();
        self.agent.end_of_turn_with_audio(self.seconds);
    }

    /// Turns that are refused, as many as told, after as many `tries` each; then one that is heard.
    #[track_caller]
    fn refusals(&mut self, turns: u32, tries: u32) -> Vec<Value> {
        let refused = || metric(&self.gate, "rime_gate_refusals_total", r#"reason="queue_full""#);
        let before = refused();
        let call = long_call(&self.engine, &self.gate);
        let url = format!("http://{}/", self.gate.address);
        let waiting = Running::start(curl(&url, TEXT, "audio/pcm").args(["--output", "/dev/null"]));
        eventually("the only place to wait is taken", || self.gate.status("waiting") == 1.0);
        let mut heard = Vec::new();
        for _ in 0..turns {
            self.agent.begin();
            let turn = self.agent.end_of_turn();
            assert_eq!((&turn["frames"], &turn["usable"]), (&0.into(), &true.into()), "{turn}");
            heard.push(turn);
        }
        assert_eq!(refused() - before, f64::from(turns * tries));
        waiting.kill();
        hang_up(call, &self.gate);
        self.agent.turn_with_audio(self.seconds);
        heard
    }

    /// The engine goes away between two turns, and comes back. `reconnects`: the agent opens this kind of socket again
    /// by itself, and not at its next turn.
    #[track_caller]
    fn another_engine(mut self, reconnects: Option<&str>) -> Self {
        let address = self.engine.address;
        assert_eq!(self.engine.process.terminate(), Some(0));
        self.engine = Engine::start_on(address, PACED);
        if let Some(socket) = reconnects {
            let open = format!("/sockets/{socket}/open");
            eventually("the agent is back", || self.engine.count(&open) == 1);
        }
        self.agent.turn_with_audio(self.seconds);
        self
    }
}

/// LiveKit's plugin raises an error that has the status of the last of its four tries.
#[track_caller]
fn livekit(transport: &str, socket: Option<&str>, status: &Value) {
    let mut day = Day::begins("livekit_turns.py", transport, &[]);
    day.many_turns(socket);
    day.an_interruption();
    day.a_wait();
    // On the legacy socket the plugin says nothing, and leaves the socket open until its next turn.
    day.an_interrupted_wait(transport != "ws3");
    for turn in day.refusals(1, 4) {
        assert_eq!(turn["errors"].as_array().map(Vec::len), Some(1), "{turn}");
        assert_eq!(turn["status"], *status, "{turn}");
    }
    day.another_engine(None).ends();
}

/// pipecat tries each turn once, and reports its error; three silent turns in a row would be the end of the service.
/// It connects again by itself, some four seconds after an attempt that failed; a turn before that would be silent.
#[track_caller]
fn pipecat(transport: &str, socket: Option<&str>, error: &str) {
    let mut day = Day::begins("pipecat_turns.py", transport, &[]);
    day.many_turns(socket);
    day.an_interruption();
    day.a_wait();
    day.an_interrupted_wait(true);
    for turn in day.refusals(2, 1) {
        assert_eq!(turn["errors"][0], error, "{turn}");
    }
    day.another_engine(socket).ends();
}

/// `ws` does nothing by itself: what it hears is what was said.
#[track_caller]
fn node(transport: &str, socket: &str) {
    let mut day = Day::begins("node_turns.cjs", transport, &[]);
    day.many_turns(Some(socket));
    day.an_interruption();
    day.a_wait();
    if transport != "ws3" {
        // A legacy socket tells nothing of a `clear`.
        day.an_interrupted_wait(true);
    }
    for turn in day.refusals(2, 1) {
        assert_eq!(turn["errors"], serde_json::json!(["Currently at synthesis limit, queue full"]), "{turn}");
    }
    assert_eq!(day.engine.count(&format!("/sockets/{socket}/total")), 1);
    day.another_engine(None).ends();
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
fn livekit_on_v1_in_json_is_heard_after_all_that_a_day_brings() {
    livekit("v1-json", Some("v1"), &429.into());
}

/// On the legacy socket the plugin tells nothing of an interruption: it reads no more, and keeps the socket.
#[test]
fn livekit_on_ws3_that_listens_no_more_gives_its_slot_back() {
    let engine = Engine::start(&["--profile", "test-fast"]);
    let arguments = ["--concurrency-max", "1", "--set", "limits.caller_stall_timeout=1s"];
    let gate = Gate::start(&engine, &arguments);
    let seconds = seconds(&engine);
    let agent = Agent::start("livekit_turns.py", "ws3", &gate);
    let mut day = Day { engine, gate, agent, seconds };
    // Far more sound than fits between the gate and a caller that does not read.
    day.agent.0.hears(&format!("interrupt {}", "This sentence is one of very many. ".repeat(600)));
    day.agent.end_of_turn();
    eventually("the slot is back", || day.gate.status("running") == 0.0);
    assert_eq!(day.engine.count("/syntheses/cancelled"), 1);
    assert_eq!(day.engine.count("/sockets/ws-json/open"), 1);
    day.agent.turn_with_audio(seconds);
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
        let mut day = Day::begins("pipecat_turns.py", "ws3", &["--on-clear", on_clear]);
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
fn pipecat_on_v1_in_json_is_heard_after_all_that_a_day_brings() {
    pipecat(
        "v1-json",
        Some("v1"),
        "Rime error (resource_exhausted): Currently at synthesis limit, queue full",
    );
}

#[test]
fn node_on_ws3_is_heard_after_all_that_a_day_brings() {
    node("ws3", "ws-json");
}

#[test]
fn node_on_v1_in_json_is_heard_after_all_that_a_day_brings() {
    node("v1-json", "v1");
}
