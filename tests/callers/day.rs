//! A day of a caller: all that it lives through before a gate with one slot, and that it was what the table promises.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::running::{Doors, Engine, Gate, Running, eventually, installed};
use super::{PACED, assert_at_rest, curl, end, hang_up, long_call, metric, seconds_of};

/// What a turn says: no longer than it must be, as a day has ten of them.
const TURN: &str = "Hello there, some words.";
/// The files that have the tests of days.
const SOURCES: [&str; 3] = [include_str!("agents.rs"), include_str!("armchair.rs"), include_str!("grpc.rs")];

/// The table of `callers.rs`: first its head, then its rows, as cells.
fn table() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = include_str!("../callers.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.map(|row| row.trim_end_matches(" |").split(" | ").map(str::trim).collect())
}

/// What was lived through is what the table says of this caller on this transport, no more and no less.
#[track_caller]
pub(crate) fn assert_lived(caller: &str, transport: &str, lived: &BTreeSet<&'static str>) {
    let mut table = table();
    let head = table.next().unwrap();
    let row = table.find(|row| row[..2] == [caller, transport]);
    let row = row.unwrap_or_else(|| panic!("the table has no row for {caller} on {transport}"));
    let cells = head.into_iter().zip(row).skip(2);
    let promised: BTreeSet<_> =
        cells.filter(|(_, cell)| *cell != "-").map(|(situation, _)| situation).collect();
    assert_eq!(promised, *lived, "the table and the day of {caller} on {transport}");
}

#[test]
fn every_row_of_the_table_has_its_day() {
    let rows: Vec<_> = table().skip(1).collect();
    let days = SOURCES.iter().flat_map(|source| source.lines());
    let days = days.filter(|line| line.ends_with("_is_heard_after_all_that_a_day_brings() {")).count();
    assert_eq!(rows.len(), days);
    for row in rows {
        let transport = row[1].replace('-', "_");
        let test = format!("\nfn {}_on_{transport}_is_heard_after_all_that_a_day_brings() {{\n", row[0]);
        assert!(SOURCES.iter().any(|source| source.contains(&test)), "nothing proves the row of {row:?}");
    }
}

/// A program that speaks what it is told, one turn a line.
pub(crate) struct Agent(pub(crate) Running);

impl Agent {
    /// Connects it. Its script is one of this directory, and takes these arguments.
    #[track_caller]
    pub(crate) fn start(caller: &str, arguments: &[&str]) -> Self {
        Self::start_trusting(caller, arguments, None)
    }

    /// Connects it. It trusts this certificate, if it speaks gRPC over TLS.
    #[track_caller]
    pub(crate) fn start_trusting(caller: &str, arguments: &[&str], certificate: Option<&Path>) -> Self {
        let (mut command, extension) = if caller == "node" {
            let mut command = Command::new("node");
            command.env("NODE_PATH", installed("node/node_modules"));
            (command, "cjs")
        } else {
            (Command::new(installed("python/bin/python")), "py")
        };
        // The test's own directory stays as it is.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("RIME_API_KEY");
        if let Some(certificate) = certificate {
            command.env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", certificate);
        }
        command.arg(format!("{}/tests/callers/{caller}_turns.{extension}", env!("CARGO_MANIFEST_DIR")));
        let mut agent = Running::start(command.args(arguments));
        agent.says("ready");
        Self(agent)
    }

    /// Begins a turn.
    #[track_caller]
    pub(crate) fn begin(&mut self) {
        self.0.hears(&format!("say {TURN}"));
    }

    /// What became of the turn.
    #[track_caller]
    pub(crate) fn end_of_turn(&mut self) -> Value {
        serde_json::from_str(&self.0.says("{")).unwrap()
    }

    /// A turn in which everything is heard.
    #[track_caller]
    pub(crate) fn turn_with_audio(&mut self, seconds: f64) -> Value {
        self.begin();
        self.end_of_turn_with_audio(seconds)
    }

    /// Everything was heard, and there was no error.
    #[track_caller]
    pub(crate) fn end_of_turn_with_audio(&mut self, seconds: f64) -> Value {
        let turn = self.end_of_turn();
        assert!(turn["frames"].as_u64().unwrap() > 1, "it streams: {turn}");
        let heard = turn["seconds"].as_f64().unwrap();
        assert!((heard - seconds).abs() < 0.001, "{heard} s instead of {seconds} s: {turn}");
        assert_eq!(turn["errors"].as_array().map(Vec::len), Some(0), "{turn}");
        assert_eq!(turn["usable"], true, "{turn}");
        turn
    }
}

/// One agent, one slot, and one place to wait for it.
pub(crate) struct Day {
    pub(crate) engine: Engine,
    pub(crate) gate: Gate,
    pub(crate) agent: Agent,
    /// How long a turn sounds.
    seconds: f64,
    /// What has been lived through, by the table's names.
    lived: BTreeSet<&'static str>,
}

impl Day {
    /// `engine`: arguments of the engine. `agent` connects to the gate.
    #[track_caller]
    pub(crate) fn begins(engine: &[&str], agent: impl FnOnce(&Gate) -> Agent) -> Self {
        let engine = Engine::start(&[PACED, engine].concat());
        let arguments = ["--concurrency-max", "1", "--queue-wait-max", "20s", "--queue-max", "1"];
        let gate = Gate::start(&engine, &arguments);
        let agent = agent(&gate);
        Self::of(engine, gate, agent)
    }

    #[track_caller]
    pub(crate) fn of(engine: Engine, gate: Gate, agent: Agent) -> Self {
        let seconds = seconds_of(&engine, TURN);
        Self { engine, gate, agent, seconds, lived: BTreeSet::new() }
    }

    /// It has brought all that the table says.
    #[track_caller]
    pub(crate) fn ends_as_promised(self, caller: &str, transport: &str) {
        assert_lived(caller, transport, &self.lived);
        self.ends();
    }

    /// The engine has never been asked for more than the limit, and nothing is left over.
    #[track_caller]
    pub(crate) fn ends(self) {
        assert_eq!(self.agent.0.ends(), Some(0));
        assert_eq!(self.engine.count("/syntheses/peak"), 1);
        assert_at_rest(&self.engine, &self.gate);
        end(self.engine, self.gate);
    }

    /// A turn in which everything is heard.
    #[track_caller]
    pub(crate) fn turn_with_audio(&mut self) -> Value {
        self.agent.turn_with_audio(self.seconds)
    }

    /// Many turns, for which one socket is enough. `socket` is the engine's name for it, where there is one.
    #[track_caller]
    pub(crate) fn many_turns(&mut self, socket: Option<&str>) {
        self.lived.insert("many turns");
        for _ in 0..3 {
            self.turn_with_audio();
        }
        if let Some(socket) = socket {
            assert_eq!(self.engine.count(&format!("/sockets/{socket}/total")), 1);
        }
    }

    /// A turn that is interrupted by its caller; the next turn is heard.
    #[track_caller]
    pub(crate) fn a_turn_cut_short(&mut self, text: &str) {
        self.agent.0.hears(&format!("interrupt {text}"));
        let turn = self.agent.end_of_turn();
        assert!(turn["frames"].as_u64().unwrap() >= 1, "{turn}");
        assert_eq!(turn["errors"].as_array().map(Vec::len), Some(0), "{turn}");
        self.turn_with_audio();
    }

    /// A long turn that is interrupted holds the slot no longer.
    #[track_caller]
    pub(crate) fn an_interruption(&mut self) {
        self.lived.insert("interrupted");
        self.a_turn_cut_short(&long());
        eventually("the engine has stopped", || self.engine.count("/syntheses/cancelled") == 1);
    }

    /// A turn that is interrupted while it waits. `told`: the gate hears of it.
    #[track_caller]
    pub(crate) fn an_interrupted_wait(&mut self, told: bool) {
        self.lived.insert("leaves the queue");
        let before = self.engine.count("/syntheses/total");
        let call = long_call(&self.engine, &self.gate);
        self.agent.0.hears(&format!("leave {TURN}"));
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
        self.turn_with_audio();
    }

    /// A turn that waits for its slot.
    #[track_caller]
    pub(crate) fn a_wait(&mut self) {
        self.lived.insert("waits");
        let call = long_call(&self.engine, &self.gate);
        self.agent.begin();
        eventually("the turn waits", || self.gate.status("waiting") == 1.0);
        call.kill();
        self.agent.end_of_turn_with_audio(self.seconds);
    }

    /// Turns that are refused, as many as told, after as many `tries` each; then one that is heard.
    #[track_caller]
    pub(crate) fn refusals(&mut self, turns: u32, tries: u32) -> Vec<Value> {
        self.lived.insert("refused, then heard");
        let refused = || metric(&self.gate, "rime_gate_refusals_total", r#"reason="queue_full""#);
        let before = refused();
        let call = long_call(&self.engine, &self.gate);
        let url = format!("http://{}/", self.gate.address);
        let waiting = Running::start(curl(&url, TURN, "audio/pcm").args(["--output", "/dev/null"]));
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
        self.turn_with_audio();
        heard
    }

    /// The engine goes away between two turns, and comes back. `reconnects`: the agent opens this kind of socket again
    /// by itself, and not at its next turn. `meanwhile`: what it does before there is another engine.
    #[track_caller]
    pub(crate) fn another_engine(
        mut self,
        reconnects: Option<&str>,
        meanwhile: impl FnOnce(&mut Agent),
    ) -> Self {
        self.lived.insert("another engine");
        let (address, doors) = (self.engine.address, self.engine.doors.clone());
        assert_eq!(self.engine.process.terminate(), Some(0));
        meanwhile(&mut self.agent);
        self.engine = another(address, &doors);
        self.is_back(reconnects);
        self.turn_with_audio();
        self
    }

    /// The engine dies while it is heard, and comes back. The agent is told: no broken turn passes for a whole one.
    #[track_caller]
    pub(crate) fn an_engine_that_dies(mut self, reconnects: Option<&str>) -> Self {
        self.lived.insert("engine dies");
        self.agent.0.hears(&format!("say {}", long()));
        self.agent.0.says("audio");
        let (address, doors) = (self.engine.address, self.engine.doors.clone());
        self.engine.process.kill();
        let turn = self.agent.end_of_turn();
        assert_ne!(turn["errors"].as_array().map(Vec::len), Some(0), "{turn}");
        assert_eq!(turn["usable"], true, "{turn}");
        self.engine = another(address, &doors);
        self.is_back(reconnects);
        self.turn_with_audio();
        self
    }

    /// Waits for an agent that opens this kind of socket again by itself.
    #[track_caller]
    fn is_back(&self, reconnects: Option<&str>) {
        if let Some(socket) = reconnects {
            let open = format!("/sockets/{socket}/open");
            eventually("the agent is back", || self.engine.count(&open) == 1);
        }
    }
}

/// A turn of a minute.
fn long() -> String {
    "This sentence is one of many. ".repeat(33)
}

/// An engine where there was one before.
#[track_caller]
fn another(address: SocketAddr, doors: &Doors) -> Engine {
    let doors = doors.iter().flat_map(|(door, address)| [format!("--{door}"), address.to_string()]);
    let doors: Vec<_> = doors.collect();
    let arguments = PACED.iter().copied().chain(doors.iter().map(String::as_str));
    Engine::start_on(address, &arguments.collect::<Vec<_>>())
}
