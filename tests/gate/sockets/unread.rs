//! Ends that take nothing, vanish, or break off: each stalls only itself, is noticed, and gives back what it holds.

use std::time::Duration;

use futures_util::{Sink, SinkExt, StreamExt};
use rime_gate::config::{Config, QueueWaitMax, Surface};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::{Socket, done, open, scripted, serve, started, v1};
use crate::common::{Scripted, Wire, at_rest, config, soon, start, status, until};

/// What nobody has taken for so long, nobody takes.
const FULL: Duration = Duration::from_secs(1);
/// No test waits for it.
const NEVER: Duration = Duration::from_secs(600);

/// So much for a context that every buffer on the way is full after a while.
fn audio(context: &str) -> Message {
    json!({"contextId": context, "audio": "A".repeat(60_000)}).to_string().into()
}

pub(super) async fn speak_for_ever(mut sink: impl Sink<Message> + Unpin, audio: Message) {
    while sink.send(audio.clone()).await.is_ok() {}
}

/// Speaks until something is said to it.
async fn speak_until_told(engine: &mut Socket, audio: Message) -> Message {
    let (sink, mut stream) = (&mut engine.0).split();
    tokio::select! {
        () = speak_for_ever(sink, audio) => panic!("the engine's socket is lost"),
        said = soon("a word to the engine", stream.next()) => said.unwrap().unwrap(),
    }
}

/// Says the same until nobody takes any more.
async fn fill(socket: &mut Socket, message: Message) {
    while timeout(FULL, socket.0.send(message.clone())).await.is_ok() {}
}

/// The gate will not notice by the clock.
fn patient(config: &mut Config) {
    config.limits.caller_stall_timeout = NEVER;
    config.websocket.ping_interval = NEVER;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_socket_is_found_by_ping() {
    let quick = |config: &mut Config| {
        config.websocket.ping_interval = Duration::from_millis(50);
        config.websocket.pong_timeout = Duration::from_millis(50);
    };
    let (mut engine, gate) = scripted(1, quick).await;
    // This caller reads nothing, so it answers no ping either.
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    upstream.gone().await;
    at_rest(&gate).await;
    until("no socket is left", || status(&gate).websocket_sessions == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_reading_stalls_only_itself_and_loses_its_slot() {
    let (mut engine, gate) = scripted(1, |config| {
        config.limits.caller_stall_timeout = Duration::from_millis(200);
    })
    .await;
    let (mut deaf, mut deaf_engine) = v1(&gate, &mut engine).await;
    deaf.say(started("a")).await;
    assert_eq!(deaf_engine.hear().await, started("a"));
    let (mut next, mut next_engine) = v1(&gate, &mut engine).await;
    next.say(started("b")).await;
    let (sink, mut stream) = deaf_engine.0.split();
    let audio = json!({"contextId": "a", "audio": "A".repeat(60_000)}).to_string();
    let speaking = tokio::spawn(speak_for_ever(sink, audio.into()));
    let cancelled = soon("the cancel", stream.next()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(cancelled.to_text().unwrap()).unwrap()["contextId"], "a");
    assert_eq!(status(&gate).running, 1, "an engine that speaks on has not let go");
    speaking.abort();
    assert_eq!(next_engine.hear().await, started("b"), "the slot went on");
    serve(&mut next, &mut next_engine, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_not_read_is_not_silent() {
    let mut engine = Scripted::start().await;
    let mut config = config(engine.address, 1);
    config.listeners[0].surface = Surface::WsBinary;
    config.engine.ws_binary = config.engine.http.clone();
    config.websocket.binary_quiet = Duration::from_millis(50);
    config.admission.queue_wait_max = QueueWaitMax::Fixed(Duration::from_secs(1));
    let gate = start(config);
    let (mut deaf, mut deaf_engine) = open(&gate, &mut engine, "/", "").await;
    deaf.send("Hello there.").await;
    assert_eq!(deaf_engine.next().await.to_text().unwrap(), "Hello there.");
    let (sink, _stream) = deaf_engine.0.split();
    let speaking = tokio::spawn(speak_for_ever(sink, "\0".repeat(60_000).into_bytes().into()));
    let (mut next, mut next_engine) = open(&gate, &mut engine, "/", "").await;
    next.send("Hello there.").await;
    assert_eq!(next.closed().await.map(|(code, _)| code), Some(1013), "no slot came free");
    next.gone().await;
    assert!(!matches!(next_engine.next().await, Message::Text(_)), "the engine still speaks to the other");
    speaking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_backlog_no_synthesis_starts_until_it_is_read() {
    let (mut engine, gate) = scripted(4, patient).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    assert_eq!(upstream.hear().await, started("a"));
    fill(&mut upstream, audio("a")).await;
    caller.say(started("b")).await;
    caller.say(started("c")).await;
    caller.say(json!({"contextId": "c", "cancel": {}})).await;
    caller.say(json!({"future": 1})).await;
    assert_eq!(upstream.hear().await, json!({"future": 1}), "b would not be heard");
    assert_eq!(status(&gate).running, 1);
    let (_sink, mut stream) = caller.0.split();
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
    soon("room for the rest", upstream.0.flush()).await.unwrap();
    assert_eq!(upstream.hear().await, started("b"));
    for end in [json!({"contextId": "b", "started": {"requestId": "r"}}), done("b"), done("a")] {
        upstream.say(end).await;
    }
    at_rest(&gate).await;
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_was_given_up_starts_nothing_until_it_reads_again() {
    let (mut engine, gate) = scripted(1, |config| {
        config.limits.caller_stall_timeout = Duration::from_millis(200);
    })
    .await;
    let (mut deaf, mut upstream) = v1(&gate, &mut engine).await;
    deaf.say(started("a")).await;
    assert_eq!(upstream.hear().await, started("a"));
    let told = speak_until_told(&mut upstream, audio("a")).await;
    assert!(told.to_text().unwrap().contains("cancel"), "{told}");
    upstream.say(json!({"contextId": "a", "cancelled": {}})).await;
    at_rest(&gate).await;
    deaf.say(started("b")).await;
    deaf.say(json!({"future": 1})).await;
    assert_eq!(upstream.hear().await, json!({"future": 1}), "b would not be heard");
    assert_eq!((status(&gate).running, status(&gate).waiting), (0, 0));
    while deaf.hear().await != json!({"contextId": "b", "cancelled": {}}) {}
    deaf.say(started("c")).await;
    assert_eq!(upstream.hear().await, started("c"), "it reads again");
    serve(&mut deaf, &mut upstream, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_as_it_plays_is_alive_though_its_pong_is_late() {
    let (mut engine, gate) = scripted(1, |config| {
        config.websocket.ping_interval = Duration::from_millis(100);
        config.websocket.pong_timeout = Duration::from_secs(3);
    })
    .await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    socket2::SockRef::from(caller.0.get_ref()).set_recv_buffer_size(64 * 1024).unwrap();
    caller.say(started("a")).await;
    upstream.hear().await;
    let (sink, _stream) = upstream.0.split();
    let speaking = tokio::spawn(speak_for_ever(sink, audio("a")));
    // It answers no ping in all the time: each is behind audio that it has yet to play. Each time it plays more than the
    // sockets on the way can hold.
    let mut caller = caller.0.into_inner();
    let mut played = vec![0; 5 << 20];
    let mut playing = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..14 {
        playing.tick().await;
        soon("more to play", caller.read_exact(&mut played)).await.unwrap();
    }
    assert_eq!(status(&gate).running, 1);
    drop(caller);
    at_rest(&gate).await;
    speaking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_lost_while_it_is_written_to_is_noticed() {
    let (mut engine, gate) = scripted(1, patient).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    // The caller takes nothing, so the engine is not read.
    fill(&mut upstream, audio("a")).await;
    Wire::over(upstream.0.into_inner()).reset();
    assert_eq!(status(&gate).running, 1);
    caller.say(json!({"contextId": "a", "text": "Still there?"})).await;
    at_rest(&gate).await;
    let told = soon("the close", async {
        loop {
            if let Message::Close(frame) = caller.next().await {
                return frame.map(|frame| u16::from(frame.code));
            }
        }
    });
    assert_eq!(told.await, Some(1011));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_lost_while_it_is_written_to_is_noticed() {
    let (mut engine, gate) = scripted(1, patient).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    // The engine takes nothing, so the caller is not read.
    let text = json!({"contextId": "a", "text": "A".repeat(60_000)}).to_string();
    fill(&mut caller, text.into()).await;
    Wire::over(caller.0.into_inner()).reset();
    assert_eq!(status(&gate).running, 1);
    upstream.say(json!({"contextId": "a", "audio": "AAAA"})).await;
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_lingers_where_the_gate_itself_breaks_the_engines_socket_off() {
    let (mut engine, gate) = scripted(1, |config| config.engine.cancel_linger = Duration::from_secs(2)).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    // A reserved opcode.
    upstream.0.get_mut().write_all(&[0x83, 0]).await.unwrap();
    assert_eq!(caller.hear().await["error"]["kind"], "unavailable");
    assert_eq!(caller.closed().await.map(|(code, _)| code), Some(1011));
    assert_eq!(status(&gate).running, 1, "the engine may work on until it notices");
    at_rest(&gate).await;
}
