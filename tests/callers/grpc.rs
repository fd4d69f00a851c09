//! Callers of gRPC: grpcio on both kinds of call, and Rime's own SDK behind a TLS terminator. They live through the day of
//! `agents.rs`.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use serde_json::{Value, json};

use super::day::{Agent, Day};
use super::running::{Running, eventually, output};

/// The engine serves gRPC too.
const GRPC: &[&str] = &["--grpc", "127.0.0.1:0"];

/// The day of all callers of gRPC. What was heard of a turn in full, of a refused one, and of one without an engine.
#[track_caller]
fn lived(mut day: Day, caller: &str, transport: &str) -> [Value; 3] {
    day.many_turns(None);
    let full = day.turn_with_audio();
    day.an_interruption();
    day.a_wait();
    day.an_interrupted_wait(true);
    let refused = day.refusals(2, 1).remove(1);
    let mut down = Value::Null;
    day = day.another_engine(None, |agent| {
        agent.begin();
        down = agent.end_of_turn();
    });
    day.an_engine_that_dies(None).ends_as_promised(caller, transport);
    [full, refused, down]
}

#[track_caller]
fn grpcio(transport: &str) -> Day {
    Day::begins(GRPC, |gate| Agent::start("grpcio", &[transport, &gate.doors["grpc"].to_string()]))
}

/// grpcio hears what the gate wrote: code, details, and the reason beside them.
#[track_caller]
fn a_day_of_grpcio(transport: &str) {
    let [full, refused, down] = lived(grpcio(transport), "grpcio", transport);
    assert_eq!((&full["status"], &full["more"]["content_type"]), (&json!("OK"), &json!("audio/pcm")));
    assert_eq!(refused["status"], "RESOURCE_EXHAUSTED", "{refused}");
    assert_eq!(refused["errors"], json!(["Currently at synthesis limit, queue full"]));
    assert_eq!(refused["more"], json!({"content_type": null, "reason": "queue_full", "has_details": true}));
    assert_eq!(
        (&down["status"], &down["more"]["reason"]),
        (&json!("UNAVAILABLE"), &json!("engine_unavailable"))
    );
}

#[test]
fn grpcio_on_synthesize_is_heard_after_all_that_a_day_brings() {
    a_day_of_grpcio("synthesize");
}

#[test]
fn grpcio_on_streaming_is_heard_after_all_that_a_day_brings() {
    a_day_of_grpcio("streaming");
}

#[test]
fn grpcio_whose_deadline_passes_gives_its_slot_back() {
    for transport in ["synthesize", "streaming"] {
        let mut day = grpcio(transport);
        let address = day.gate.doors["grpc"].to_string();
        let mut hurried = Agent::start("grpcio", &[transport, &address, "1"]);
        hurried.0.hears(&format!("say {}", "This sentence is one of very many. ".repeat(200)));
        let late = hurried.end_of_turn();
        assert_eq!(late["status"], "DEADLINE_EXCEEDED", "{late}");
        eventually("the engine has stopped", || day.engine.count("/syntheses/cancelled") == 1);
        day.turn_with_audio();
        day.ends();
    }
}

#[test]
fn sdk_on_grpc_is_heard_after_all_that_a_day_brings() {
    let mut terminator = None;
    let day = Day::begins(GRPC, |gate| terminator.insert(Terminator::start(gate.doors["grpc"])).sdk());
    let [full, refused, down] = lived(day, "sdk", "grpc");
    assert!(full["more"]["request_id"].is_string(), "{full}");
    assert_eq!(refused["status"], "RimeResourceLimitError", "{refused}");
    assert_eq!(refused["errors"], json!(["Currently at synthesis limit, queue full"]));
    assert_eq!(down["status"], "RimeUnavailableError", "{down}");
    terminator.unwrap().process.kill();
}

/// Ends TLS as an operator does: HAProxy, HTTP/2 on both sides.
struct Terminator {
    process: Running,
    address: String,
    directory: tempfile::TempDir,
}

impl Terminator {
    #[track_caller]
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
        let both = [path("certificate.pem"), path("key.pem")].map(|file| fs::read_to_string(file).unwrap());
        fs::write(path("both.pem"), both.concat()).unwrap();
        // HAProxy does not say which port the system chose.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend tls\n bind 127.0.0.1:{port} ssl crt {} alpn h2\n default_backend gate\n\
             backend gate\n server gate {gate} proto h2\n",
            path("both.pem"),
        );
        fs::write(path("haproxy.cfg"), config).unwrap();
        let process = Running::start(Command::new("haproxy").args(["-db", "-f", &path("haproxy.cfg")]));
        eventually("HAProxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { process, address: format!("localhost:{port}"), directory }
    }

    /// Rime's SDK, which trusts its certificate.
    #[track_caller]
    fn sdk(&self) -> Agent {
        let certificate = self.directory.path().join("certificate.pem");
        Agent::start_trusting("sdk", &[&self.address], Some(&certificate))
    }
}
