//! The load of callers on every protocol, straight against the simulated engine: what they hear and what the engine
//! counts is the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use rime_gate::callers::{Callers, Load, Protocol, SENTENCES, Tally};
use rime_gate::sim::counts::{Connections, Counts, Syntheses};
use rime_gate::sim::{self, Engine, Faults, Profile, Settings};
use rime_gate::target::Target;

const PROTOCOLS: [Protocol; 4] = [Protocol::Http, Protocol::V1, Protocol::WsJson, Protocol::Grpc];
const AGENTS: usize = 5;
const CALLS: u64 = 60;

async fn engine(faults: Faults) -> Engine {
    let grpc = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let profile = Profile::named("test-fast").unwrap();
    sim::start(Settings { grpc, profile, faults, ..Settings::default() }).await.unwrap()
}

/// A second of arrivals.
async fn called(engine: &Engine, protocol: Protocol) -> Tally {
    let address = if protocol == Protocol::Grpc { engine.grpc().unwrap() } else { engine.address() };
    let callers = Callers::new(Load {
        address,
        protocol,
        agents: AGENTS,
        rate: CALLS as f64,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(1),
        patience: Duration::from_secs(30),
        seed: 7,
        target: Target::default(),
        texts: &SENTENCES,
    });
    callers.run().await
}

fn counted(counts: &Counts, protocol: Protocol) -> Syntheses {
    match protocol {
        Protocol::Http => counts.protocols.http,
        Protocol::V1 => counts.protocols.v1,
        Protocol::WsJson => counts.protocols.ws_json,
        Protocol::Grpc => counts.protocols.grpc,
    }
}

#[tokio::test]
async fn every_protocol_is_heard_to_its_end() {
    for protocol in PROTOCOLS {
        let engine = engine(Faults::default()).await;
        let tally = called(&engine, protocol).await;
        let heard = tally.good + tally.missed;
        assert_eq!((tally.offered, heard), (CALLS, CALLS), "{protocol:?}: {tally:?}");
        assert!(tally.ttfb_seconds(50.0).unwrap() > 0.0);
        let counts = engine.counts();
        assert_eq!(counted(&counts, protocol).completed, CALLS);
        assert_eq!(counts.syntheses.total, CALLS);
    }
}

#[tokio::test]
async fn agents_take_turns_on_lines_that_stay_open() {
    let engine = engine(Faults::default()).await;
    for protocol in [Protocol::V1, Protocol::WsJson] {
        called(&engine, protocol).await;
        let sockets = engine.counts().sockets;
        let Connections { total, peak, .. } =
            if protocol == Protocol::V1 { sockets.v1 } else { sockets.ws_json };
        // More than the agents there were only if all of them spoke.
        assert!((AGENTS as u64..CALLS).contains(&total), "{protocol:?}: {total}");
        assert_eq!(total, peak);
    }
}

#[tokio::test]
async fn a_no_is_a_refusal_and_anything_else_a_failure() {
    let refuse = engine(Faults { refuse: Some(429), ..Faults::default() }).await;
    for protocol in [Protocol::Http, Protocol::V1, Protocol::Grpc] {
        let tally = called(&refuse, protocol).await;
        assert_eq!((tally.refused, tally.offered), (CALLS, CALLS), "{protocol:?}");
    }
    let fail = engine(Faults { error_rate: 1.0, ..Faults::default() }).await;
    for protocol in PROTOCOLS {
        let tally = called(&fail, protocol).await;
        assert_eq!((tally.failed, tally.offered), (CALLS, CALLS), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_line_that_broke_is_replaced() {
    for protocol in PROTOCOLS {
        let engine = engine(Faults { cut_rate: 0.5, ..Faults::default() }).await;
        let tally = called(&engine, protocol).await;
        let heard = tally.good + tally.missed;
        assert_eq!(heard + tally.failed, CALLS, "{protocol:?}");
        assert!(heard > 0 && tally.failed > 0);
        let counts = counted(&engine.counts(), protocol);
        assert_eq!((counts.completed, counts.failed), (heard, tally.failed));
    }
}
