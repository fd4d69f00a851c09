//! The gate's connections to its engine: used again, replaced when they are closed, and never good for sending a request
//! twice. An engine that is down or does not begin is said to be so.

use std::time::Duration;

use rime_gate::sim::Settings;
use tokio::net::TcpListener;

use crate::common::{
    Exchange, LOCAL, Scripted, Wire, at_rest, config, engine, fast, say, start, status, until,
};
use crate::relay::{HEALTH, OK, asked, scripted};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_engine_is_used_again_and_again() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 4));
    let mut caller = Wire::to_gate(&gate).await;
    for _ in 0..20 {
        assert_eq!(caller.ask(say(5)).await.status(), 200);
    }
    // One for this caller's worker, one for health checks.
    assert!(engine.counts().connections.total <= 2, "{:?}", engine.counts());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_engine_closed_is_replaced_and_nobody_notices() {
    let (mut engine, gate) = scripted().await;
    let mut caller = Wire::to_gate(&gate).await;
    for _ in 0..10 {
        caller.send(say(5)).await;
        let mut exchange = engine.next().await;
        exchange.wire.body(exchange.request).await;
        exchange.wire.send(OK).await;
        // Closed as soon as it is answered: whether the gate has seen that when the next request comes is chance.
        drop(exchange.wire);
        assert_eq!(caller.message().await.status(), 200);
    }
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_engine_may_have_seen_is_not_sent_twice() {
    let (mut engine, gate, mut caller, mut exchange) = asked(say(5)).await;
    exchange.wire.body(exchange.request).await;
    exchange.wire.send(OK).await;
    assert_eq!(caller.message().await.status(), 200);
    // On a connection that is used again, and on a new one.
    caller.send(say(5)).await;
    exchange.wire.message().await;
    drop(exchange.wire);
    let answer = caller.message().await;
    assert_eq!((answer.status(), answer.reason().as_str()), (502, "engine_unavailable"));
    caller.send(say(5)).await;
    let Exchange { request, mut wire } = engine.next().await;
    wire.body(request).await;
    wire.reset();
    let answer = caller.message().await;
    assert_eq!((answer.status(), answer.reason().as_str()), (502, "engine_unavailable"));
    assert!(!engine.is_unasked(), "each was sent once");
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_down_is_said_to_be_down_at_once_and_comes_back_without_a_restart() {
    let free = TcpListener::bind(LOCAL).await.unwrap().local_addr().unwrap();
    let gate = start(config(free, 1));
    let mut caller = Wire::to_gate(&gate).await;
    for request in [say(5), HEALTH.into()] {
        let answer = caller.ask(request).await;
        assert_eq!((answer.status(), answer.reason().as_str()), (502, "engine_unavailable"));
        assert_eq!(answer.body, b"Engine unavailable\n");
    }
    let engine = engine(Settings { listen: free, ..fast() }).await;
    assert_eq!(caller.ask(say(5)).await.status(), 200);
    engine.kill().await;
    assert_eq!(caller.ask(say(5)).await.status(), 502);
    until("the engine known to be down", || !status(&gate).engine.up).await;
    let _engine = crate::common::engine(Settings { listen: free, ..fast() }).await;
    assert_eq!(caller.ask(say(5)).await.status(), 200);
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_begin_is_given_up() {
    let mut engine = Scripted::start().await;
    let mut config = config(engine.address, 1);
    config.engine.first_byte_timeout = Duration::from_millis(100);
    let gate = start(config);
    for request in [say(5), HEALTH.into()] {
        let mut caller = Wire::to_gate(&gate).await;
        caller.send(request).await;
        let mut exchange = engine.next().await;
        let answer = caller.message().await;
        assert_eq!((answer.status(), answer.reason().as_str()), (504, "engine_timeout"));
        exchange.wire.ending().await;
    }
    at_rest(&gate).await;
}
