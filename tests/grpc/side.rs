//! gRPC health checking, which the gate answers for itself.

use rime_gate::gate::Gate;
use rime_gate::protocol::grpc::{HealthAnswer, HealthRequest, framed};
use rime_gate::sim::Engine;

use crate::common::{fast, soon, start, status, until};
use crate::raw::Caller;
use crate::{config, door, engine};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn of(service: &str) -> HealthRequest {
    HealthRequest { service: service.into() }
}

/// A gate that knows its engine to be up, and a caller.
async fn healthy() -> (Engine, Gate, Caller) {
    let engine = engine(fast()).await;
    let mut settings = config(&engine, 1);
    settings.engine.health_interval = std::time::Duration::from_millis(50);
    let gate = start(settings);
    until("the engine up", || status(&gate).engine.up).await;
    let caller = Caller::to(door(&gate)).await;
    (engine, gate, caller)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_whether_a_synthesis_would_be_admitted() {
    let (engine, gate, caller) = healthy().await;
    for service in ["", "rime.TextToSpeech"] {
        let end = caller.call(CHECK, &[], &of(service)).await;
        assert_eq!((end.field("grpc-status"), &end.body), ("0", &framed(&HealthAnswer::of(true))));
    }
    assert_eq!(caller.call(CHECK, &[], &of("other")).await.field("grpc-status"), "5");
    engine.kill().await;
    until("the engine down", || !status(&gate).engine.up).await;
    let end = caller.call(CHECK, &[], &of("")).await;
    assert_eq!(end.body, framed(&HealthAnswer::of(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_told_at_once_and_of_every_change_and_keeps_no_drain_waiting() {
    let (_engine, gate, caller) = healthy().await;
    let (response, mut stream) = caller.begin(WATCH, &[]).await;
    stream.send_data(framed(&of("rime.TextToSpeech")).into(), true).unwrap();
    let mut told = soon("a head", response).await.unwrap().into_body();
    assert_eq!(soon("its health", told.data()).await.unwrap().unwrap(), framed(&HealthAnswer::of(true)));
    let (unknown, mut stream) = caller.begin(WATCH, &[]).await;
    stream.send_data(framed(&of("other")).into(), true).unwrap();
    let mut unknown = soon("a head", unknown).await.unwrap().into_body();
    assert_eq!(
        soon("unknown", unknown.data()).await.unwrap().unwrap(),
        framed(&HealthAnswer::SERVICE_UNKNOWN)
    );
    let draining = tokio::spawn(gate.drain());
    assert_eq!(soon("a change", told.data()).await.unwrap().unwrap(), framed(&HealthAnswer::of(false)));
    assert!(soon("the end", told.data()).await.is_none());
    let trailers = soon("trailers", told.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    soon("the other's end", unknown.data()).await;
    drop((told, unknown, caller));
    soon("the drain", draining).await.unwrap();
}
