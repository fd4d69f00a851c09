//! Real gRPC callers through the gate: grpcio, and Rime's own SDK behind a TLS terminator. `tests/install` brings them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rime_gate::config::{Config, EngineUrl, Listener, QueueWaitMax, Surface, WhenFull};
use rime_gate::gate::Gate;
use rime_gate::sim::{self, Profile, Settings};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use running::{Running, eventually, installed, output};

const TEXT: &str = "Hello there, this is a turn of some words. And another sentence.";
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// An engine and a gate, as processes have them: with threads of their own.
struct House {
    runtime: Runtime,
    engine: sim::Engine,
    gate: Gate,
}

impl House {
    fn start(limit: u32, when_full: WhenFull) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let profile = Profile::named("edge-20").unwrap();
        let settings = Settings { profile, grpc: Some(LOCAL), ..Settings::default() };
        let engine = runtime.block_on(sim::start(settings)).unwrap();
        let mut config = Config::default();
        let listener = Listener { address: LOCAL, surface: Surface::Grpc, ..Listener::default() };
        config.listeners = vec![listener];
        (config.metrics.address, config.admin.address) = (LOCAL, LOCAL);
        config.engine.http = EngineUrl::parse(&format!("http://{}", engine.address())).unwrap();
        config.engine.grpc = EngineUrl::parse(&format!("http://{}", engine.grpc().unwrap())).unwrap();
        config.engine.concurrency_max = limit.try_into().unwrap();
        config.admission.when_full = when_full;
        config.admission.queue_wait_max = QueueWaitMax::Fixed(Duration::from_secs(20));
        let gate = runtime.block_on(async { Gate::start(config) }).unwrap();
        Self { runtime, engine, gate }
    }

    fn address(&self) -> SocketAddr {
        self.gate.addresses()[0]
    }

    #[track_caller]
    fn at_rest(&self) {
        eventually("every slot is back", || {
            let status = self.gate.control().status();
            (status.running, status.waiting) == (0, 0) && self.engine.counts().syntheses.running == 0
        });
    }

    fn end(self) {
        self.at_rest();
        self.runtime.block_on(self.gate.drain());
        self.runtime.block_on(self.engine.stop());
    }
}

/// A Python caller that answers each line with one of its own.
struct Caller(Running);

impl Caller {
    #[track_caller]
    fn start(name: &str, target: &str, certificate: Option<&Path>) -> Self {
        let mut command = Command::new(installed("python/bin/python"));
        // The test's own directory stays as it is.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("RIME_API_KEY");
        if let Some(certificate) = certificate {
            command.env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", certificate);
        }
        command.arg(format!("{}/tests/callers/{name}_turns.py", env!("CARGO_MANIFEST_DIR"))).arg(target);
        let mut caller = Running::start(&mut command);
        caller.says("ready");
        Self(caller)
    }

    #[track_caller]
    fn begin(&mut self, line: &str) {
        self.0.hears(line);
    }

    #[track_caller]
    fn end_of_turn(&mut self) -> Value {
        serde_json::from_str(&self.0.says("{")).unwrap()
    }

    #[track_caller]
    fn turn(&mut self, line: &str) -> Value {
        self.begin(line);
        self.end_of_turn()
    }

    #[track_caller]
    fn end(self) {
        assert_eq!(self.0.ends(), Some(0));
    }
}

fn long() -> Value {
    json!({"text": "This sentence is one of very many. ".repeat(200)})
}

#[test]
fn grpcio_hears_the_same_through_the_gate_as_around_it_and_may_cancel() {
    let house = House::start(2, WhenFull::Queue);
    let mut around = Caller::start("grpcio", &house.engine.grpc().unwrap().to_string(), None);
    let mut through = Caller::start("grpcio", &house.address().to_string(), None);
    for streaming in [false, true] {
        let asked = json!({"text": TEXT, "streaming": streaming}).to_string();
        let heard = through.turn(&asked);
        assert_eq!((&heard["code"], &heard["content_type"]), (&"OK".into(), &"audio/pcm".into()), "{heard}");
        assert!(heard["bytes"].as_u64().unwrap() > 50_000, "{heard}");
        assert_eq!(heard["bytes"], around.turn(&asked)["bytes"]);
    }
    let mut cancelled = long();
    cancelled["cancel_after"] = 2.into();
    assert_eq!(through.turn(&cancelled.to_string())["code"], "CANCELLED");
    house.at_rest();
    assert_eq!(house.engine.counts().syntheses.cancelled, 1);
    // Its own deadline, in mid-audio.
    let mut late = long();
    late["timeout"] = 0.5.into();
    assert_eq!(through.turn(&late.to_string())["code"], "DEADLINE_EXCEEDED");
    house.at_rest();
    assert_eq!(house.engine.counts().syntheses.cancelled, 2);
    around.end();
    through.end();
    house.end();
}

#[test]
fn grpcio_is_refused_in_its_own_words_and_served_when_there_is_room() {
    let house = House::start(1, WhenFull::Reject);
    let mut speaking = Caller::start("grpcio", &house.address().to_string(), None);
    let mut caller = Caller::start("grpcio", &house.address().to_string(), None);
    speaking.begin(&long().to_string());
    eventually("the engine speaks", || house.engine.counts().syntheses.running == 1);
    for streaming in [false, true] {
        let refused = caller.turn(&json!({"text": TEXT, "streaming": streaming}).to_string());
        assert_eq!(refused["code"], "RESOURCE_EXHAUSTED", "{refused}");
        assert_eq!(refused["details"], "Currently at synthesis limit");
        assert_eq!((&refused["reason"], &refused["has_details"]), (&"limit_reached".into(), &true.into()));
    }
    speaking.0.kill();
    house.at_rest();
    assert_eq!(caller.turn(&json!({"text": TEXT}).to_string())["code"], "OK");
    assert_eq!(house.engine.counts().syntheses.peak, 1);
    caller.end();
    house.end();
}

/// Ends TLS as an operator does: HAProxy, HTTP/2 on both sides.
struct Terminator {
    process: Running,
    target: String,
    directory: tempfile::TempDir,
}

impl Terminator {
    fn start(gate: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let made = output(Command::new("openssl").args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("certificate.pem"),
        ]));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let both =
            [path("certificate.pem"), path("key.pem")].map(|file| std::fs::read_to_string(file).unwrap());
        std::fs::write(path("both.pem"), both.concat()).unwrap();
        // HAProxy does not say which port the system chose.
        let port = TcpListener::bind(LOCAL).unwrap().local_addr().unwrap().port();
        let config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend tls\n bind 127.0.0.1:{port} ssl crt {} alpn h2\n default_backend gate\n\
             backend gate\n server gate {gate} proto h2\n",
            path("both.pem"),
        );
        std::fs::write(path("haproxy.cfg"), config).unwrap();
        let process = Running::start(Command::new("haproxy").args(["-db", "-f", &path("haproxy.cfg")]));
        eventually("HAProxy listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { process, target: format!("localhost:{port}"), directory }
    }

    fn caller(&self) -> Caller {
        Caller::start("sdk", &self.target, Some(&self.directory.path().join("certificate.pem")))
    }
}

#[test]
fn rimes_own_sdk_speaks_through_the_gate_is_refused_and_speaks_again() {
    let house = House::start(1, WhenFull::Reject);
    let terminator = Terminator::start(house.address());
    let mut sdk = terminator.caller();
    let heard = sdk.turn(TEXT);
    assert!(heard["error"].is_null() && heard["bytes"].as_u64().unwrap() > 50_000, "{heard}");
    assert!(heard["request_id"].is_string(), "{heard}");

    let mut speaking = Caller::start("grpcio", &house.address().to_string(), None);
    speaking.begin(&long().to_string());
    eventually("the engine speaks", || house.engine.counts().syntheses.running == 1);
    let refused = sdk.turn(TEXT);
    assert_eq!(refused["error"], "RimeResourceLimitError", "{refused}");
    speaking.0.kill();
    house.at_rest();

    assert_eq!(sdk.turn(TEXT)["bytes"], heard["bytes"]);
    assert_eq!(house.engine.counts().syntheses.peak, 1);
    sdk.end();
    terminator.process.kill();
    house.end();
}

#[test]
fn rimes_own_sdk_waits_for_its_turn_and_is_told_when_the_engine_is_down() {
    let house = House::start(1, WhenFull::Queue);
    let terminator = Terminator::start(house.address());
    let mut sdk = terminator.caller();
    let mut speaking = Caller::start("grpcio", &house.address().to_string(), None);
    speaking.begin(&long().to_string());
    eventually("the engine speaks", || house.engine.counts().syntheses.running == 1);
    sdk.begin(TEXT);
    eventually("the SDK waits", || house.gate.control().status().waiting == 1);
    speaking.0.kill();
    let heard = sdk.end_of_turn();
    assert!(heard["error"].is_null() && heard["bytes"].as_u64().unwrap() > 50_000, "{heard}");
    house.at_rest();
    let House { runtime, engine, gate } = house;
    runtime.block_on(engine.kill());
    let down = sdk.turn(TEXT);
    assert_eq!(down["error"], "RimeUnavailableError", "{down}");
    sdk.end();
    terminator.process.kill();
    runtime.block_on(gate.drain());
}
