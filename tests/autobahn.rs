//! Autobahn's cases, which a WebSocket endpoint is held to: through the gate none may end worse than at the same engine
//! directly. The engine echoes; what it echoes is no message of Rime's, and so passes untouched.
//!
//! `tests/install` brings `kosoku`, which runs the cases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod loopback;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use futures_util::{SinkExt, StreamExt};

use rime_gate::gate::Gate;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Autobahn's longest message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Compression is never negotiated (12.* and 13.*).
const LEFT_OUT: [&str; 2] = ["12.*", "13.*"];
/// Fewer have not been run.
const CASES_MIN: usize = 290;
/// Cases at a time.
const PARALLEL: &str = "4";

/// An engine that answers every message with itself.
async fn echo(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(echo_one(stream));
    }
}

async fn echo_one(stream: TcpStream) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX + 1))
        .max_frame_size(Some(MESSAGE_BYTES_MAX + 1));
    let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        let data = message.is_text() || message.is_binary();
        if data && socket.send(message).await.is_err() {
            return;
        }
    }
    // A protocol error is told by the library's own close frame.
    let _ = socket.flush().await;
}

fn gate(engine: SocketAddr) -> Gate {
    let mut config = loopback::config(engine);
    config.websocket.message_bytes_max = MESSAGE_BYTES_MAX;
    Gate::start(config).unwrap()
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    behavior: String,
    close: String,
}

/// How bad it is.
fn badness(verdict: &str) -> usize {
    ["OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "WRONG CODE", "UNCLEAN"]
        .iter()
        .position(|known| *known == verdict)
        .map_or(9, |position| if position < 2 { 0 } else { position })
}

/// Runs all cases against an address. The verdicts by case.
fn cases(address: SocketAddr, directory: &Path) -> BTreeMap<String, Verdict> {
    let kosoku = concat!(env!("CARGO_MANIFEST_DIR"), "/target/callers/kosoku/bin/kosoku");
    let mut command = Command::new(kosoku);
    command.args(["--parallelism", PARALLEL, "--outdir"]).arg(directory);
    for left_out in LEFT_OUT {
        command.args(["--exclude", left_out]);
    }
    // It exits with 1 where a case has failed, which is for the comparison to say.
    let output = command.arg(format!("ws://{address}/ws")).output();
    let output = output.unwrap_or_else(|error| panic!("{kosoku}: {error}; tests/install brings it"));
    let index = std::fs::read_to_string(directory.join("index.json"))
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let index: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&index).unwrap();
    let verdict = |case: &Value| Verdict {
        behavior: case["behavior"].as_str().unwrap().to_owned(),
        close: case["behaviorClose"].as_str().unwrap().to_owned(),
    };
    index.into_values().flatten().map(|(name, case)| (name, verdict(&case))).collect()
}

#[test]
fn no_case_of_autobahns_ends_worse_through_the_gate_than_at_the_engine() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let engine = listener.local_addr().unwrap();
    runtime.spawn(echo(listener));
    let _entered = runtime.enter();
    let gate = gate(engine);
    let directory = tempfile::tempdir().unwrap();
    let direct = cases(engine, &directory.path().join("direct"));
    let through = cases(gate.addresses()[0], &directory.path().join("through"));
    assert!(direct.len() >= CASES_MIN, "{} cases were run", direct.len());
    assert_eq!(direct.keys().collect::<Vec<_>>(), through.keys().collect::<Vec<_>>());
    let worse = direct.iter().zip(through.values()).filter(|((_, direct), through)| {
        badness(&through.behavior) > badness(&direct.behavior)
            || badness(&through.close) > badness(&direct.close)
    });
    let worse: Vec<_> = worse.collect();
    assert!(worse.is_empty(), "worse through the gate:\n{worse:#?}");
}
