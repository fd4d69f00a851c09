//! WebSockets through the gate: what travels, what waits, and what happens when an end goes away. Engine and caller are
//! scripted message by message.

mod unread;

use futures_util::{SinkExt, StreamExt};
use rime_gate::config::{Config, EngineUrl, Listener, Surface};
use rime_gate::gate::Gate;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

use crate::common::{Exchange, LOCAL, Scripted, Wire, at_rest, config, gauge, soon, start, status, until};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An end of a WebSocket that a test holds.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn over(wire: Wire, role: Role) -> Self {
        Self(WebSocketStream::from_raw_socket(wire.stream, role, None).await)
    }

    async fn send(&mut self, message: impl Into<Message>) {
        soon("sending", self.0.send(message.into())).await.unwrap();
    }

    async fn say(&mut self, message: Value) {
        self.send(message.to_string()).await;
    }

    /// The next message, pings and pongs left out.
    #[track_caller]
    fn next(&mut self) -> impl Future<Output = Message> {
        soon("a message", async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => return other.expect("a message, not the end").expect("a message, not an error"),
                }
            }
        })
    }

    #[track_caller]
    fn hear(&mut self) -> impl Future<Output = Value> {
        let next = self.next();
        async { serde_json::from_str(next.await.to_text().unwrap()).unwrap() }
    }

    /// The close frame that comes next.
    #[track_caller]
    fn closed(&mut self) -> impl Future<Output = Option<(u16, String)>> {
        let next = self.next();
        async {
            match next.await {
                Message::Close(frame) => frame.map(|frame| (frame.code.into(), frame.reason.to_string())),
                other => panic!("{other} instead of a close"),
            }
        }
    }

    /// Waits until the other end is gone, however it went.
    #[track_caller]
    fn gone(&mut self) -> impl Future<Output = ()> {
        soon("the end", async { while let Some(Ok(_)) = self.0.next().await {} })
    }
}

pub(crate) fn upgrade(method: &str, target: &str, more: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: gate\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

fn switching(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{more}\r\n",
        derive_accept_key(KEY.as_bytes())
    )
}

/// A gate in front of an engine that a test scripts.
async fn scripted(limit: u32, change: impl FnOnce(&mut Config)) -> (Scripted, Gate) {
    let engine = Scripted::start().await;
    let mut config = config(engine.address, limit);
    change(&mut config);
    (engine, start(config))
}

/// A socket, both ends of it.
async fn open(gate: &Gate, engine: &mut Scripted, target: &str, more: &str) -> (Socket, Socket) {
    let mut caller = Wire::to_gate(gate).await;
    caller.send(upgrade("GET", target, more)).await;
    let Exchange { mut wire, .. } = engine.next().await;
    let subprotocol = if more.is_empty() { "" } else { "Sec-WebSocket-Protocol: rime.v1.json\r\n" };
    wire.send(switching(subprotocol)).await;
    assert_eq!(caller.head().await.status(), 101);
    (Socket::over(caller, Role::Client).await, Socket::over(wire, Role::Server).await)
}

/// A v1 socket that speaks JSON.
async fn v1(gate: &Gate, engine: &mut Scripted) -> (Socket, Socket) {
    open(gate, engine, "/ws", "Sec-WebSocket-Protocol: rime.v1.json\r\n").await
}

/// The start of a context whose text comes later, as LiveKit and pipecat begin theirs.
fn started(context: &str) -> Value {
    json!({"contextId": context, "start": {"text": ""}})
}

/// The engine takes a context and speaks it to its end.
async fn serve(caller: &mut Socket, engine: &mut Socket, context: &str) {
    for event in [json!({"contextId": context, "started": {"requestId": "r"}}), done(context)] {
        engine.say(event.clone()).await;
        assert_eq!(caller.hear().await, event);
    }
}

fn done(context: &str) -> Value {
    json!({"contextId": context, "done": {}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_reaches_the_engine_as_the_caller_wrote_it_but_for_extensions() {
    let (mut engine, gate) = scripted(4, |_| {}).await;
    let mut caller = Wire::to_gate(&gate).await;
    let more = "Sec-WebSocket-Protocol: rime.v1.binary, rime.v1.json\r\nX-Odd: 1\r\nAuthorization: Bearer k\r\n\
                Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    caller.send(upgrade("GET", "/ws?speaker=luna&x=%20", more)).await;
    let Exchange { request, mut wire } = engine.next().await;
    assert_eq!(request.line(), "GET /ws?speaker=luna&x=%20 HTTP/1.1");
    for (name, value) in [
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "rime.v1.binary, rime.v1.json"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("x-odd", "1"),
        ("authorization", "Bearer k"),
        ("host", "gate"),
    ] {
        assert_eq!(request.field(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(request.field("sec-websocket-extensions"), None, "frames are read on the way");
    wire.send(switching("Sec-WebSocket-Protocol: rime.v1.json\r\nX-Request-Id: r1\r\n")).await;
    let answer = caller.head().await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.field("connection").as_deref(), Some("upgrade"), "armchair takes no other spelling");
    assert_eq!(answer.field("sec-websocket-protocol").as_deref(), Some("rime.v1.json"));
    assert_eq!(answer.field("sec-websocket-accept"), Some(derive_accept_key(KEY.as_bytes())));
    assert_eq!(answer.field("sec-websocket-extensions"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn armchairs_upgrade_by_post_works() {
    let (mut engine, gate) = scripted(4, |_| {}).await;
    let mut caller = Wire::to_gate(&gate).await;
    caller.send(upgrade("POST", "/ws3?speaker=luna", "")).await;
    let Exchange { request, mut wire } = engine.next().await;
    assert_eq!(request.line(), "POST /ws3?speaker=luna HTTP/1.1");
    wire.send(switching("")).await;
    assert_eq!(caller.head().await.status(), 101);
    let mut caller = Socket::over(caller, Role::Client).await;
    let mut engine = Socket::over(wire, Role::Server).await;
    engine.say(json!({"type": "hello"})).await;
    assert_eq!(caller.hear().await, json!({"type": "hello"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_switch_answers_itself() {
    let (mut engine, gate) = scripted(4, |_| {}).await;
    let mut caller = Wire::to_gate(&gate).await;
    caller.send(upgrade("GET", "/ws", "")).await;
    let Exchange { mut wire, .. } = engine.next().await;
    wire.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 6\r\n\r\nno key").await;
    let answer = caller.message().await;
    assert_eq!((answer.status(), &answer.body[..]), (401, &b"no key"[..]));
    until("the place is free", || status(&gate).websocket_sessions == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_was_not_offered_is_no_socket() {
    let (mut engine, gate) = scripted(4, |_| {}).await;
    let mut caller = Wire::to_gate(&gate).await;
    caller.send(upgrade("GET", "/ws", "")).await;
    let Exchange { mut wire, .. } = engine.next().await;
    wire.send(switching("Sec-WebSocket-Extensions: permessage-deflate\r\n")).await;
    assert_eq!(caller.message().await.status(), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_have_a_cap_of_their_own_and_a_dead_engine_is_told_at_once() {
    let (mut engine, gate) = scripted(1, |config| config.websocket.sockets_max = 2).await;
    let one = v1(&gate, &mut engine).await;
    let _two = v1(&gate, &mut engine).await;
    assert_eq!(gauge(&gate, "rime_gate_websocket_sessions"), 2.0);
    let refused = Wire::to_gate(&gate).await.ask(upgrade("GET", "/ws", "")).await;
    assert_eq!((refused.status(), refused.reason().as_str()), (503, "too_many_sockets"));
    drop(one);
    until("a place", || status(&gate).websocket_sessions == 1).await;
    let _three = v1(&gate, &mut engine).await;
    drop(engine);
    let gate = start(config("127.0.0.1:1".parse().unwrap(), 1));
    let refused = Wire::to_gate(&gate).await.ask(upgrade("GET", "/ws", "")).await;
    assert_eq!((refused.status(), refused.reason().as_str()), (502, "engine_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gate_still_opens_sockets_and_a_queued_context_stalls_no_neighbour() {
    let (mut engine, gate) = scripted(1, |_| {}).await;
    let (mut one, mut one_engine) = v1(&gate, &mut engine).await;
    one.say(started("a")).await;
    assert_eq!(one_engine.hear().await, started("a"));
    let (mut two, mut two_engine) = v1(&gate, &mut engine).await;
    two.say(started("b")).await;
    two.say(json!({"contextId": "b", "end": {}})).await;
    until("b waits", || status(&gate).waiting == 1).await;
    two_engine.say(json!({"ready": {"protocol": 1}})).await;
    assert_eq!(two.hear().await["ready"]["protocol"], 1, "the socket lives while its context waits");
    two.send(Message::Ping("still there?".into())).await;
    let pong = soon("a pong", two.0.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("still there?".into()));
    serve(&mut one, &mut one_engine, "a").await;
    assert_eq!(two_engine.hear().await, started("b"), "the slot went to the next in line");
    assert_eq!(
        two_engine.hear().await,
        json!({"contextId": "b", "end": {}}),
        "held in order behind its start"
    );
    serve(&mut two, &mut two_engine, "b").await;
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_context_is_told_in_the_callers_protocol_and_keeps_its_socket() {
    let (mut engine, gate) = scripted(1, |config| config.admission.queue_max = 0).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    caller.say(started("b")).await;
    let refusal = caller.hear().await;
    assert_eq!(refusal["contextId"], "b");
    assert_eq!(refusal["error"]["kind"], "resource_exhausted");
    caller.say(json!({"contextId": "b", "text": "swallowed"})).await;
    caller.say(json!({"contextId": "a", "text": "more"})).await;
    assert_eq!(upstream.hear().await, json!({"contextId": "a", "text": "more"}));
    serve(&mut caller, &mut upstream, "a").await;
    caller.say(started("b")).await;
    assert_eq!(upstream.hear().await, started("b"), "a refused context may come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn close_codes_pass_both_ways() {
    let (mut engine, gate) = scripted(1, |_| {}).await;
    for (code, reason) in [(1000, ""), (1011, "400: text is too long"), (3000, "x"), (4999, "y")] {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
        upstream.send(Message::Close(Some(frame.clone()))).await;
        assert_eq!(caller.closed().await, Some((code, reason.to_owned())));
        caller.gone().await;
        let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
        caller.send(Message::Close(Some(frame))).await;
        assert_eq!(upstream.closed().await, Some((code, reason.to_owned())));
        upstream.gone().await;
    }
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    upstream.send(Message::Close(None)).await;
    assert_eq!(caller.closed().await, None);
    until("no socket is left", || status(&gate).websocket_sessions == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_vanishes_frees_its_slots_and_its_places_in_the_queue() {
    let (mut engine, gate) = scripted(1, |_| {}).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    caller.say(started("b")).await;
    caller.say(started("c")).await;
    until("b and c wait", || status(&gate).waiting == 2).await;
    drop(caller);
    assert_eq!(upstream.closed().await.map(|(code, _)| code), Some(1001));
    at_rest(&gate).await;
    until("no socket is left", || status(&gate).websocket_sessions == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_vanishes_is_told_per_context_and_then_by_the_close() {
    let (mut engine, gate) = scripted(1, |_| {}).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(started("a")).await;
    upstream.hear().await;
    caller.say(started("b")).await;
    until("b waits", || status(&gate).waiting == 1).await;
    drop(upstream);
    let mut told = Vec::new();
    for _ in 0..2 {
        let error = caller.hear().await;
        assert_eq!(error["error"]["kind"], "unavailable");
        told.push(error["contextId"].as_str().unwrap().to_owned());
    }
    told.sort();
    assert_eq!(told, ["a", "b"]);
    assert_eq!(caller.closed().await.map(|(code, _)| code), Some(1011));
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_long_closes_with_1009_and_a_broken_frame_with_1002() {
    let (mut engine, gate) = scripted(1, |config| config.websocket.message_bytes_max = 1000).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.send("x".repeat(1000)).await;
    assert_eq!(upstream.next().await.len(), 1000, "what is no known message passes as it came");
    caller.send("x".repeat(1001)).await;
    assert_eq!(caller.closed().await.map(|(code, _)| code), Some(1009));
    let (caller, mut upstream) = v1(&gate, &mut engine).await;
    let mut caller = Wire::over(caller.0.into_inner());
    caller.send(BROKEN_FRAME).await;
    assert_eq!(upstream.closed().await.map(|(code, _)| code), Some(1002));
    assert_eq!(caller.ending().await[..4], [0x88, 16, 0x03, 0xea]);
}

/// A reserved opcode: no frame that anybody may send.
const BROKEN_FRAME: [u8; 6] = [0x83, 0x80, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_broken_frame_is_answered_before_the_close() {
    let (mut engine, gate) = scripted(1, |_| {}).await;
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(json!({"future": 1})).await;
    caller.0.get_mut().write_all(&BROKEN_FRAME).await.unwrap();
    assert_eq!(upstream.hear().await, json!({"future": 1}));
    upstream.say(json!({"future": 2})).await;
    assert_eq!(caller.hear().await, json!({"future": 2}));
    assert_eq!(caller.closed().await.map(|(code, _)| code), Some(1002));
    assert_eq!(upstream.closed().await.map(|(code, _)| code), Some(1002));

    // An engine that closes has nothing more to say; the caller is told its own fault.
    let (mut caller, mut upstream) = v1(&gate, &mut engine).await;
    caller.say(json!({"future": 1})).await;
    caller.0.get_mut().write_all(&BROKEN_FRAME).await.unwrap();
    assert_eq!(upstream.hear().await, json!({"future": 1}));
    upstream.send(Message::Close(None)).await;
    assert_eq!(caller.closed().await.map(|(code, _)| code), Some(1002));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_broken_frame_no_synthesis_starts_and_one_that_never_ends_is_not_waited_for() {
    let (mut engine, gate) = scripted(2, |_| {}).await;
    let (mut broken, mut broken_engine) = v1(&gate, &mut engine).await;
    let (mut other, mut other_engine) = v1(&gate, &mut engine).await;
    broken.say(started("a")).await;
    assert_eq!(broken_engine.hear().await, started("a"));
    other.say(started("b")).await;
    assert_eq!(other_engine.hear().await, started("b"));
    broken.say(started("c")).await;
    until("c waits", || status(&gate).waiting == 1).await;
    let (sink, mut stream) = broken_engine.0.split();
    let audio = json!({"contextId": "a", "audio": "AAAA"}).to_string();
    let speaking = tokio::spawn(unread::speak_for_ever(sink, audio.into()));
    broken.0.get_mut().write_all(&BROKEN_FRAME).await.unwrap();
    until("c waits no more", || status(&gate).waiting == 0).await;
    serve(&mut other, &mut other_engine, "b").await;
    let listening = tokio::spawn(async move {
        while let Some(Ok(message)) = broken.0.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| u16::from(frame.code));
            }
        }
        None
    });
    let next = soon("the close", stream.next()).await.unwrap().unwrap();
    assert!(next.is_close(), "{next} reached the engine");
    assert_eq!(soon("the caller's close", listening).await.unwrap(), Some(1002));
    speaking.abort();
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_what_runs_end_refuses_what_waits_and_closes_with_1012() {
    let (mut engine, gate) = scripted(1, |_| {}).await;
    let (mut idle, _idle_engine) = v1(&gate, &mut engine).await;
    let (mut busy, mut busy_engine) = v1(&gate, &mut engine).await;
    busy.say(started("a")).await;
    busy_engine.hear().await;
    busy.say(started("b")).await;
    until("b waits", || status(&gate).waiting == 1).await;
    let draining = tokio::spawn(gate.drain());
    assert_eq!(idle.closed().await.map(|(code, _)| code), Some(1012));
    assert_eq!(busy.hear().await["error"]["kind"], "unavailable");
    serve(&mut busy, &mut busy_engine, "a").await;
    assert_eq!(busy.closed().await.map(|(code, _)| code), Some(1012));
    busy.gone().await;
    idle.gone().await;
    soon("the drain", draining).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_surface_is_served_by_one_process() {
    let engine = Scripted::start().await;
    let mut config = config("127.0.0.1:1".parse().unwrap(), 1);
    config.engine.ws_json = EngineUrl::parse(&format!("http://{}", engine.address)).unwrap();
    config.engine.ws_binary = config.engine.ws_json.clone();
    for surface in [Surface::WsJson, Surface::WsBinary] {
        config.listeners.push(Listener { address: LOCAL, surface, ..Listener::default() });
    }
    let gate = start(config);
    let mut engine = engine;
    for address in &gate.addresses()[1..] {
        let mut caller = Wire::to(*address).await;
        caller.send(upgrade("GET", "/any/path", "")).await;
        let Exchange { mut wire, .. } = engine.next().await;
        wire.send(switching("")).await;
        assert_eq!(caller.head().await.status(), 101);
    }
    until("both ends have gone", || status(&gate).websocket_sessions == 0).await;
}
