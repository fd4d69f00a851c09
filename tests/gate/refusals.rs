//! What takes a slot and what does not, and what the gate says to what it does not let in.

use std::time::Duration;

use rime_gate::config::{FullStatus, QueueWaitMax, WhenFull};
use rime_gate::gate::Gate;

use crate::common::{
    Message, Recorder, Wire, ask, at_rest, config, engine, fast, hold, post, say, start, status, until,
};
use crate::relay::HEALTH;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_synthesis_is_never_queued() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 1));
    let held = hold(&gate).await;
    let mut queued = Wire::to_gate(&gate).await;
    queued.send(say(5)).await;
    until("one waiting", || status(&gate).waiting == 1).await;
    let asked = ["GET /health", "HEAD /health", "GET /", "POST /health", "OPTIONS /", "GET /voices/x"];
    for (line, expected) in asked.into_iter().zip([200, 200, 405, 405, 405, 404]) {
        let mut caller = Wire::to_gate(&gate).await;
        caller.send(format!("{line} HTTP/1.1\r\nHost: gate\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(caller.head().await.status(), expected, "{line}");
    }
    assert_eq!((status(&gate).running, status(&gate).waiting), (1, 1));
    drop(held);
    assert_eq!(queued.message().await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synthesis_takes_a_slot_however_its_path_is_spelled() {
    let engine = Recorder::start().await;
    let mut config = config(engine.address, 1);
    config.admission.when_full = WhenFull::Reject;
    let gate = start(config);
    let mut holder = Wire::to_gate(&gate).await;
    let holding = engine_that_holds(&gate, &mut holder).await;
    for path in [
        "/",
        "//",
        "/invocations",
        "/invocations/",
        "//invocations",
        "/%69nvocations",
        "/v1/%72ime-tts",
        "/v1//rime-tts",
        "/v1/./rime-tts",
        "/x/%2e%2e/invocations",
        "/x/../v1/rime-tts/",
        "/?x=/health",
        "/health/%2E%2e/",
        "http://gate/invocations",
        "http://gate",
        "/invocations#x",
    ] {
        let answer = ask(&gate, post(path, "{}")).await;
        // A fragment has no place in a request target.
        let expected = (429, "limit_reached");
        assert_eq!((answer.status(), answer.reason().as_str()), expected, "{path}");
    }
    drop(holding);
}

/// Takes the one slot by a request whose body never reaches the engine whole: it is longer than what is read ahead.
async fn engine_that_holds(gate: &Gate, holder: &mut Wire) -> Vec<u8> {
    let head = "POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 200000\r\n\r\n";
    holder.send(head).await;
    let ahead = vec![b' '; 100_000];
    holder.send(&ahead).await;
    until("the slot taken", || status(gate).running == 1).await;
    ahead
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_or_too_slow_is_refused() {
    let engine = Recorder::start().await;
    let mut config = config(engine.address, 1);
    config.limits.body_bytes_max = 100_000;
    config.limits.body_timeout = Duration::from_millis(200);
    let gate = start(config);
    // Declared.
    let mut caller = Wire::to_gate(&gate).await;
    let long = caller.ask("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 100001\r\n\r\n").await;
    assert_eq!((long.status(), long.reason().as_str()), (413, "body_too_large"));
    assert_eq!(long.body, b"Request body too large\n");
    assert!(engine.seen().is_empty());
    // Found out before and after the synthesis was let in.
    let piece = format!("ea60\r\n{}\r\n", " ".repeat(60_000));
    let mut caller = Wire::to_gate(&gate).await;
    caller.send("POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    caller.send(&piece).await;
    caller.try_send(&piece).await;
    let long = caller.message().await;
    assert_eq!((long.status(), long.reason().as_str()), (413, "body_too_large"));
    for sent in [0, 10, 70_000] {
        let mut caller = Wire::to_gate(&gate).await;
        caller.send("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 90000\r\n\r\n").await;
        caller.send(" ".repeat(sent)).await;
        let slow = caller.message().await;
        assert_eq!((slow.status(), slow.reason().as_str()), (408, "body_timeout"), "after {sent} bytes");
        caller.ending().await;
    }
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_why_when_to_come_again_and_one_plain_line() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 1);
    config.admission.queue_max = 1;
    config.admission.queue_wait_max = QueueWaitMax::Fixed(Duration::from_millis(400));
    let gate = start(config);
    slots_come_free(&gate).await;
    let _held = hold(&gate).await;
    let mut queued = Wire::to_gate(&gate).await;
    queued.send(say(5)).await;
    until("one waiting", || status(&gate).waiting == 1).await;
    let full = ask(&gate, say(5)).await;
    is_a_refusal(&full, 429, "queue_full", "Currently at synthesis limit, queue full\n");
    let late = queued.message().await;
    is_a_refusal(&late, 429, "queue_timeout", "No synthesis slot came free in time\n");
    assert_eq!(queued.ask(HEALTH).await.status(), 200, "the connection lives on");
}

/// When to come again is measured, not guessed: enough syntheses have to have ended.
async fn slots_come_free(gate: &Gate) {
    for _ in 0..20 {
        assert_eq!(ask(gate, say(5)).await.status(), 200);
    }
    at_rest(gate).await;
}

fn is_a_refusal(answer: &Message, status: u16, reason: &str, line: &str) {
    assert_eq!((answer.status(), answer.reason().as_str()), (status, reason));
    assert_eq!(answer.body, line.as_bytes());
    assert_eq!(answer.field("content-type").unwrap(), "text/plain; charset=utf-8");
    assert!(answer.field("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert!(answer.field("x-request-id").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_rejects_does_so_at_once_with_the_status_it_was_told() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 1);
    config.admission.when_full = WhenFull::Reject;
    config.admission.status_when_full = FullStatus::ServiceUnavailable;
    let gate = start(config);
    slots_come_free(&gate).await;
    let held = hold(&gate).await;
    let full = ask(&gate, say(5)).await;
    is_a_refusal(&full, 503, "limit_reached", "Currently at synthesis limit\n");
    drop(held);
    at_rest(&gate).await;
    assert_eq!(ask(&gate, say(5)).await.status(), 200);
}
