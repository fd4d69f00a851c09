//! The gate's connections to its engine: used again, replaced when they are closed, and never good for sending a request
//! twice. An engine that is down or does not begin is said to be so.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rime_gate::sim::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{
    Exchange, LOCAL, Scripted, Wire, at_rest, config, engine, fast, say, soon, start, status, until,
};
use crate::relay::{HEALTH, OK, asked, scripted};
use crate::sockets::upgrade;

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

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_the_request_is_sent_is_relayed_and_the_request_goes_on() {
    let (mut engine, gate) = scripted().await;
    let mut caller = Wire::to_gate(&gate).await;
    // Longer than what is read before the synthesis is let in.
    let half = "x".repeat(60_000);
    let head =
        format!("POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: {}\r\n\r\n{half}{half}", 4 * half.len());
    caller.send(head).await;
    let mut exchange = engine.next().await;
    exchange.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nRIFF\r\n").await;
    assert_eq!(caller.head().await.status(), 200);
    assert_eq!(soon("a chunk", caller.chunk()).await, Some(Some(b"RIFF".to_vec())));
    caller.send(format!("{half}{half}")).await;
    let request = exchange.wire.body(exchange.request).await;
    assert_eq!(request.body.len(), 4 * half.len());
    exchange.wire.send("0\r\n\r\n").await;
    assert_eq!(soon("the end", caller.chunk()).await, Some(None));
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_protocols_that_nobody_asked_for_is_the_engines_fault() {
    let (_engine, gate, mut caller, mut exchange) = asked(say(5)).await;
    exchange
        .wire
        .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
        .await;
    let answer = caller.message().await;
    assert_eq!((answer.status(), answer.reason().as_str()), (502, "engine_unavailable"));
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_the_engines_fault() {
    for answer in
        ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"]
    {
        let (_engine, gate, mut caller, mut exchange) = asked(say(5)).await;
        exchange.wire.send(answer).await;
        let answer = caller.message().await;
        assert_eq!((answer.status(), answer.reason().as_str()), (502, "engine_unavailable"));
        at_rest(&gate).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_right_behind_the_switch_to_a_websocket_is_not_lost() {
    let (mut engine, gate) = scripted().await;
    let mut caller = Wire::to_gate(&gate).await;
    caller.send(upgrade("GET", "/ws", "")).await;
    let mut exchange = engine.next().await;
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    // A text frame of two bytes.
    exchange.wire.send([head.as_bytes(), b"\x81\x02hi"].concat()).await;
    assert_eq!(caller.head().await.status(), 101);
    let (mut stream, mut heard) = caller.into_parts();
    while heard.len() < 4 {
        assert!(soon("the message", stream.read_buf(&mut heard)).await.unwrap() > 0);
    }
    assert_eq!(heard, b"\x81\x02hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_says_wait_without_end_is_given_up() {
    let mut engine = Scripted::start().await;
    let mut config = config(engine.address, 1);
    config.engine.first_byte_timeout = Duration::from_millis(200);
    let gate = start(config);
    let mut caller = Wire::to_gate(&gate).await;
    caller.send(HEALTH).await;
    let (mut stream, _) = engine.next().await.wire.into_parts();
    let flood = tokio::spawn(async move {
        let waits = "HTTP/1.1 102 Processing\r\n\r\n".repeat(10_000);
        while stream.write_all(waits.as_bytes()).await.is_ok() {}
    });
    let answer = caller.message().await;
    assert_eq!((answer.status(), answer.reason().as_str()), (504, "engine_timeout"));
    soon("the end of the flood", flood).await.unwrap();
}

/// A body of which no more comes.
struct Stopped(Option<Bytes>);

impl Body for Stopped {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |part| Poll::Ready(Some(Ok(Frame::data(part)))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_on_its_way_to_a_silent_engine_is_refused_when_its_time_is_up() {
    let mut engine = Scripted::start().await;
    let mut config = config(engine.address, 1);
    config.limits.body_timeout = Duration::from_millis(500);
    let gate = start(config);
    // Over HTTP/2, where nothing but the body's end wakes the request that waits for an answer.
    let stream = TcpStream::connect(gate.addresses()[0]).await.unwrap();
    let (mut caller, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // More than what is read before the synthesis is let in.
    let request = Request::post("http://gate/").body(Stopped(Some(vec![b'x'; 120_000].into()))).unwrap();
    let answer = tokio::spawn(caller.send_request(request));
    let _silent = engine.next().await;
    let answer = soon("the refusal", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 408);
    assert_eq!(answer.headers()["x-rime-gate-reason"], "body_timeout");
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_is_believed_by_nobody() {
    let (_engine, gate, mut caller, mut exchange) = asked(say(5)).await;
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    exchange.wire.send(answer).await;
    let answer = caller.message().await;
    assert_eq!((answer.field("content-length"), answer.body.as_slice()), (None, &b"hello"[..]));
    at_rest(&gate).await;
}
