//! What one caller may take: bytes, time and connections, each within its bound. No slot is lost.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rime_gate::config::QueueWaitMax;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{
    ENDLESS, Wire, ask, at_rest, config, engine, fast, hold, post, say, soon, start, status, until,
};
use crate::edge::{is_unharmed, recorded, said, statuses};

#[tokio::test(flavor = "multi_thread")]
async fn heads_beyond_the_bounds_are_refused() {
    let (engine, gate) = recorded().await;
    let long_value = format!("POST / HTTP/1.1\r\nHost: g\r\nX-A: {}\r\n\r\n", "a".repeat(70_000));
    let long_target = format!("POST /{} HTTP/1.1\r\nHost: g\r\n\r\n", "a".repeat(70_000));
    let no_end = format!("POST / HTTP/1.1\r\nHost: g\r\nX-A: {}", "a".repeat(200_000));
    let many = format!("POST / HTTP/1.1\r\nHost: g\r\n{}\r\n", "X-A: 1\r\n".repeat(101));
    let no_line = "a".repeat(200_000);
    for (what, request) in [
        ("value", long_value),
        ("target", long_target),
        ("no end", no_end),
        ("many", many),
        ("no line", no_line),
    ] {
        let said = said(&gate, request.as_bytes(), false).await;
        let statuses = statuses(&said);
        assert!(matches!(statuses[..], [] | [400 | 414 | 431]), "{what}: {said}");
        is_unharmed(&engine, &gate, 0, what).await;
    }
    // Within the bounds all is well.
    let just =
        format!("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n{}\r\n{{}}", "X-A: 1\r\n".repeat(90));
    assert_eq!(ask(&gate, just).await.status(), 200);
    let just = format!("GET /other HTTP/1.1\r\nHost: g\r\nX-A: {}\r\n\r\n", "a".repeat(50_000));
    assert_eq!(ask(&gate, just).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_in_is_cut_off() {
    let (engine, gate) = recorded().await;
    for start in ["", "P", "PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: g\r\nX"] {
        let mut wire = Wire::to_gate(&gate).await;
        wire.send(start).await;
        let (mut read, mut write) = wire.stream.into_split();
        // One byte after another, for as long as the gate bears it.
        let trickling = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while !start.is_empty() && write.write_all(b"a").await.is_ok() {
                ticks.tick().await;
            }
            // Closing would end it for the caller's own sake.
            std::future::pending::<()>().await;
            drop(write);
        });
        let mut said = Vec::new();
        let _ = soon("the end", tokio::io::AsyncReadExt::read_to_end(&mut read, &mut said)).await;
        trickling.abort();
        assert!(
            statuses(&String::from_utf8_lossy(&said)).iter().all(|status| *status / 100 == 4),
            "{start:?}"
        );
    }
    // A head on a connection that was used before has the same time.
    let mut wire = Wire::to_gate(&gate).await;
    assert_eq!(wire.ask(post("/", "{}")).await.status(), 200);
    wire.send("POST / HT").await;
    wire.ending().await;
    is_unharmed(&engine, &gate, 1, "slow heads").await;
    until("no connection left", || status(&gate).connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_cut_off_and_holds_no_slot() {
    let (engine, gate) = recorded().await;
    let mut slow = Vec::new();
    for start in [
        "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\n{\"te",
        "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-A: ",
    ] {
        let mut wire = Wire::to_gate(&gate).await;
        wire.send(start).await;
        slow.push(wire);
    }
    assert_eq!((status(&gate).running, status(&gate).waiting), (0, 0));
    assert_eq!(ask(&gate, post("/", "{}")).await.status(), 200);
    for mut wire in slow {
        let answer = wire.message().await;
        assert_eq!((answer.status(), answer.reason().as_str()), (408, "body_timeout"));
        wire.ending().await;
    }
    is_unharmed(&engine, &gate, 1, "slow bodies").await;
    until("no connection left", || status(&gate).connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_closes_one_half_early_loses_no_slot() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 1));
    let request = say(40);
    // In the head, in the body, after the whole request: the last is answered or cut, never left hanging.
    for sent in [0, 20, request.len() - 1, request.len()] {
        let said = said(&gate, &request[..sent], true).await;
        assert!(statuses(&said).len() <= 1, "{said}");
        at_rest(&gate).await;
        until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    }
    // Queued behind another.
    let held = hold(&gate).await;
    let mut queued = Wire::to_gate(&gate).await;
    queued.send(&request).await;
    until("one waiting", || status(&gate).waiting == 1).await;
    queued.stream.shutdown().await.unwrap();
    drop(held);
    queued.ending().await;
    at_rest(&gate).await;
    assert_eq!(ask(&gate, say(40)).await.status(), 200);
    assert!(engine.counts().syntheses.peak <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_sent_more_than_its_request_and_leaves_is_gone_from_the_queue_at_once() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 1);
    config.admission.queue_wait_max = QueueWaitMax::Fixed(Duration::from_secs(600));
    let gate = start(config);
    let held = hold(&gate).await;
    for surplus in [&b"\r\n"[..], b"G", &say(5), &[b' '; 3000]] {
        let mut queued = Wire::to_gate(&gate).await;
        queued.send([&say(40), surplus].concat()).await;
        until("one waiting", || status(&gate).waiting == 1).await;
        drop(queued);
        until("nobody waiting", || status(&gate).waiting == 0).await;
    }
    drop(held);
    at_rest(&gate).await;
    assert_eq!(engine.counts().syntheses.total, 1, "only who stayed was served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_too_many_is_told_so_and_one_that_leaves_makes_room() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 1);
    config.limits.connections_max = 3;
    let gate = start(config);
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::to_gate(&gate).await;
        assert_eq!(wire.ask("GET /health HTTP/1.1\r\nHost: g\r\n\r\n").await.status(), 200);
        inside.push(wire);
    }
    for _ in 0..3 {
        let answer = Wire::to_gate(&gate).await.message().await;
        assert_eq!((answer.status(), answer.reason().as_str()), (503, "too_many_connections"));
        assert_eq!(answer.body, b"Too many connections\n");
    }
    assert_eq!((status(&gate).connections, status(&gate).connections_turned_away), (3, 3));
    inside.pop();
    until("room", || status(&gate).connections == 2).await;
    assert_eq!(ask(&gate, say(5)).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_long_synthesis_is_not_idle() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 1);
    config.limits.idle_timeout = Duration::from_millis(300);
    config.limits.header_timeout = Duration::from_millis(300);
    let gate = start(config);
    let mut idle = Wire::to_gate(&gate).await;
    let mut speaking = Wire::to_gate(&gate).await;
    let spoken = speaking.ask(say(12_000));
    let (spoken, ()) = tokio::join!(spoken, async { drop(idle.ending().await) });
    assert_eq!(spoken.status(), 200);
    assert!(spoken.body.len() > ENDLESS);
    speaking.ending().await;
    at_rest(&gate).await;
}

/// Bytes that arrive on an idle HTTP/2 connection are no slow head: the header timeout is not for them.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_h2_connection_outlives_the_header_timeout() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 1);
    config.limits.header_timeout = Duration::from_millis(50);
    let gate = start(config);
    let stream = TcpStream::connect(gate.addresses()[0]).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut connection = tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::get("http://gate/health").body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        // What the answer leaves behind (a window, an acknowledgement) has come by then.
        let ended = tokio::time::timeout(Duration::from_millis(400), &mut connection).await;
        assert!(ended.is_err(), "the connection was closed: {ended:?}");
    }
}
