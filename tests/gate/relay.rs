//! What travels through the gate, both ways: an engine scripted byte by byte shows what arrived, a raw caller what came
//! back.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rime_gate::config::ForwardedHeaders;
use rime_gate::gate::Gate;
use tokio::net::TcpStream;

use crate::common::{Exchange, Recorder, Scripted, Wire, ask, at_rest, config, post, say, soon, start};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 2\r\n\r\nok";
pub(crate) const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: gate\r\n\r\n";

/// A gate in front of an engine that says `ok`.
async fn recorded() -> (Recorder, Gate) {
    let engine = Recorder::start().await;
    let gate = start(config(engine.address, 4));
    (engine, gate)
}

/// A gate in front of a scripted engine.
pub(crate) async fn scripted() -> (Scripted, Gate) {
    let engine = Scripted::start().await;
    let gate = start(config(engine.address, 4));
    (engine, gate)
}

/// A caller's request, and where it has come through a gate to a scripted engine.
pub(crate) async fn asked(request: impl AsRef<[u8]>) -> (Scripted, Gate, Wire, Exchange) {
    let (mut engine, gate) = scripted().await;
    let mut caller = Wire::to_gate(&gate).await;
    caller.send(request).await;
    let exchange = engine.next().await;
    (engine, gate, caller, exchange)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_the_engine_as_the_caller_wrote_it() {
    let (engine, gate) = recorded().await;
    let body = "{ \"text\" : \"h\\u0069\",\r\n\t\"temperature\":0.70,\"zzz\":{\"a\":[1,2,{}]},\"text\":\"twice\" }\n";
    let length = body.len();
    let request = format!(
        "POST /v1/rime-tts?a=%20b&&c HTTP/1.1\r\nhOST: Gate.Example:80\r\nX-Zebra: 1\r\n\
         ACCEPT: audio/wav;q=0.1,  */*;level=\"x\" ,audio/x-odd\r\nx-alpha:2\r\nX-Zebra: \t3 \r\n\
         content-Type: application/json; charset=UTF-8\r\nAuthorization: Bearer k\r\nx-empty:\r\n\
         Content-Length: {length}\r\nX-Request-ID: mine\r\n\r\n{body}"
    );
    assert_eq!(ask(&gate, request).await.body, b"ok");
    let seen = &engine.seen()[0];
    assert_eq!(seen.line(), "POST /v1/rime-tts?a=%20b&&c HTTP/1.1");
    assert_eq!(seen.body, body.as_bytes());
    let names = seen.names();
    let own = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via"];
    let (added, kept): (Vec<&str>, Vec<&str>) =
        names.iter().partition(|name| own.contains(&name.to_lowercase().as_str()));
    let expected = [
        "hOST",
        "X-Zebra",
        "X-Zebra",
        "ACCEPT",
        "x-alpha",
        "content-Type",
        "Authorization",
        "x-empty",
        "Content-Length",
        "X-Request-ID",
    ];
    assert_eq!(kept, expected, "order and case, but for fields of one name, which stand together");
    assert_eq!(added.len(), 4, "{added:?}");
    assert_eq!(seen.field("accept").unwrap(), "audio/wav;q=0.1,  */*;level=\"x\" ,audio/x-odd");
    assert_eq!(seen.field("host").unwrap(), "Gate.Example:80");
    assert_eq!(seen.field("x-zebra").unwrap(), "1|3");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_keep_each_its_own_spelling() {
    let (engine, gate) = recorded().await;
    let mut caller = Wire::to_gate(&gate).await;
    let request =
        |host: &str| format!("POST / HTTP/1.1\r\n{host}: gate\r\nContent-Length: 4\r\n\r\n\r\n\r\n");
    caller.send(["HOST", "Host", "hosT"].map(request).concat()).await;
    for _ in 0..3 {
        assert_eq!(caller.message().await.status(), 200);
    }
    let seen = engine.seen();
    let names: Vec<_> = seen.iter().map(|message| message.names()[0]).collect();
    assert_eq!(names, ["HOST", "Host", "hosT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reaches_the_caller_as_the_engine_wrote_it() {
    let (_engine, _gate, mut caller, mut exchange) = asked(say(5)).await;
    exchange
        .wire
        .send(
            "HTTP/1.1 203 Odd Reason\r\nX-B: 1\r\nContent-TYPE: audio/wav\r\nx-a: 2\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\nContent-Length: 3\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n\0\u{1}x",
        )
        .await;
    let answer = caller.message().await;
    assert_eq!(answer.status(), 203);
    assert_eq!(answer.body, b"\0\x01x");
    let names: Vec<_> = answer.names().into_iter().filter(|name| *name != "x-request-id").collect();
    assert_eq!(
        names,
        ["x-b", "content-type", "x-a", "content-length", "date"],
        "in order; case tells nothing"
    );
    assert_eq!(answer.field("date").unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_fields_end_at_the_gate() {
    let (engine, gate) = recorded().await;
    let request = "POST / HTTP/1.1\r\nHost: gate\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: 5\r\nX-Private: 1\r\n\
                   Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
                   Content-Length: 2\r\n\r\n{}";
    assert_eq!(ask(&gate, request).await.status(), 200);
    let seen = &engine.seen()[0];
    for gone in
        ["connection", "keep-alive", "x-private", "proxy-connection", "te", "upgrade", "http2-settings"]
    {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_for_100_continue_gets_it_from_the_gate() {
    let (engine, gate) = recorded().await;
    let mut caller = Wire::to_gate(&gate).await;
    caller.send("POST / HTTP/1.1\r\nHost: gate\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(caller.head().await.status(), 100);
    assert!(engine.seen().is_empty());
    assert_eq!(caller.ask("{}").await.status(), 200);
    assert_eq!(engine.seen()[0].field("expect"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_no_body_and_keeps_the_length() {
    let (_engine, _gate, mut caller, mut exchange) =
        asked("HEAD /health HTTP/1.1\r\nHost: gate\r\n\r\n").await;
    assert_eq!(exchange.request.line(), "HEAD /health HTTP/1.1");
    exchange.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n").await;
    assert_eq!(caller.head().await.field("content-length").unwrap(), "77");
    // Nothing of a body came: the connection is good for another request.
    caller.send(HEALTH).await;
    exchange.wire.head().await;
    exchange.wire.send(OK).await;
    assert_eq!(caller.message().await.body, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_trailers_travel_both_ways() {
    let (mut engine, gate) = scripted().await;
    for path in ["/", "/other"] {
        let mut caller = Wire::to_gate(&gate).await;
        caller
            .send(format!(
                "POST {path} HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 3\r\n{{\"a\r\n4;x=y\r\n\":1}}\r\n0\r\nX-Sum: 7\r\n\r\n"
            ))
            .await;
        let Exchange { request, mut wire } = engine.next().await;
        let request = wire.body(request).await;
        assert_eq!(request.body, b"{\"a\":1}", "{path}");
        assert_eq!(request.field("content-length"), None, "{path}");
        assert_eq!(request.trailers.trim().to_lowercase(), "x-sum: 7", "{path}");
        wire.send(
            "HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nab\r\n1\r\nc\r\n0\r\nX-End: 9\r\n\r\n",
        )
        .await;
        let answer = caller.message().await;
        assert_eq!(answer.body, b"abc", "{path}");
        assert_eq!(answer.field("transfer-encoding").unwrap(), "chunked");
        drop(wire);
    }
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_an_answer_reach_a_caller_that_asked_for_them() {
    let request = "POST / HTTP/1.1\r\nHost: gate\r\nTE: trailers\r\nContent-Length: 2\r\n\r\n{}";
    let (mut engine, gate, mut caller, mut exchange) = asked(request).await;
    exchange
        .wire
        .send(
            "HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-end: 9\r\n\r\n",
        )
        .await;
    let answer = caller.message().await;
    assert_eq!(answer.trailers.trim(), "x-end: 9");
    // HTTP/2 has trailers without asking.
    let stream = TcpStream::connect(gate.addresses()[0]).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://gate/").body(Full::<Bytes>::from("{}")).unwrap();
    let answer =
        tokio::spawn(async move { sender.send_request(request).await.unwrap().into_body().collect().await });
    let mut again = next_request(&mut engine, exchange.wire).await;
    assert_eq!(again.request.field("via").unwrap(), "2.0 rime-gate");
    again
        .wire
        .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n2\r\nab\r\n0\r\nx-end: 9\r\n\r\n")
        .await;
    let answer = soon("an answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.trailers().unwrap()["x-end"], "9");
}

/// The next request, on the connection that is known or on a new one: each worker has connections of its own.
async fn next_request(engine: &mut Scripted, mut known: Wire) -> Exchange {
    tokio::select! {
        exchange = engine.next() => exchange,
        Some(request) = known.try_head() => Exchange { request, wire: known },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_unknown_length_ends_with_the_engines_connection() {
    let (_engine, gate, mut caller, mut exchange) = asked(say(5)).await;
    exchange.wire.send("HTTP/1.0 200 OK\r\ncontent-type: audio/wav\r\n\r\nabc").await;
    drop(exchange);
    assert_eq!(caller.message().await.body, b"abc");
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let all = [post("/", "{\"text\":\"1\"}"), HEALTH.into(), post("/", "{\"text\":\"2\"}")].concat();
    let (_engine, gate, mut caller, Exchange { mut request, mut wire }) = asked(all).await;
    for (path, body) in [("/", &b"{\"text\":\"1\"}"[..]), ("/health", b""), ("/", b"{\"text\":\"2\"}")] {
        let whole = wire.body(request).await;
        assert_eq!(whole.line().split(' ').nth(1), Some(path));
        assert_eq!(whole.body, body);
        wire.send(format!("HTTP/1.1 200 OK\r\nx-body: {}\r\ncontent-length: 2\r\n\r\nok", body.len())).await;
        assert_eq!(caller.message().await.field("x-body").unwrap(), body.len().to_string());
        if body.ends_with(b"2\"}") {
            break;
        }
        request = wire.head().await;
    }
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_learns_who_calls_as_configured() {
    use ForwardedHeaders::{Both, Forwarded, Off, XForwarded};
    for (choice, trust) in [(XForwarded, false), (Forwarded, false), (Both, true), (Off, false)] {
        let engine = Recorder::start().await;
        let mut config = config(engine.address, 1);
        config.forwarding.forwarded_headers = choice;
        config.forwarding.trust_incoming = trust;
        config.forwarding.via = (choice != Off).then(|| "edge".to_owned());
        let gate = start(config);
        let request = "POST / HTTP/1.1\r\nHost: tts.example\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n\
                       Via: 1.1 before\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(ask(&gate, request).await.status(), 200);
        let seen = &engine.seen()[0];
        let field = |name| seen.field(name).unwrap_or_default();
        let (x_forwarded, forwarded) = match choice {
            XForwarded => ("127.0.0.1", "for=192.0.2.1"),
            Forwarded => ("192.0.2.1", "for=127.0.0.1;proto=http;host=\"tts.example\""),
            Both => ("192.0.2.1, 127.0.0.1", "for=192.0.2.1, for=127.0.0.1;proto=http;host=\"tts.example\""),
            Off => ("192.0.2.1", "for=192.0.2.1"),
        };
        assert_eq!(field("x-forwarded-for"), x_forwarded, "{choice:?}");
        assert_eq!(field("forwarded"), forwarded, "{choice:?}");
        let told = matches!(choice, XForwarded | Both);
        assert_eq!(field("x-forwarded-proto"), if told { "http" } else { "" }, "{choice:?}");
        assert_eq!(field("x-forwarded-host"), if told { "tts.example" } else { "" }, "{choice:?}");
        assert_eq!(field("via"), if choice == Off { "1.1 before" } else { "1.1 before|1.1 edge" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_kept_or_made_and_told_to_both_sides() {
    let (engine, gate) = recorded().await;
    let mine =
        ask(&gate, "POST / HTTP/1.1\r\nHost: g\r\nX-Request-Id: mine/7\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(mine.field("x-request-id").unwrap(), "mine/7");
    let made = [ask(&gate, say(1)).await, ask(&gate, say(1)).await]
        .map(|answer| answer.field("x-request-id").unwrap());
    assert_ne!(made[0], made[1]);
    let seen: Vec<_> = engine.seen().iter().map(|seen| seen.field("x-request-id").unwrap()).collect();
    assert_eq!(seen, ["mine/7", &made[0], &made[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_leaves_before_the_second_has_come() {
    let (_engine, _gate, mut caller, mut exchange) = asked(say(5)).await;
    exchange
        .wire
        .send("HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(caller.head().await.status(), 200, "the head leaves at once");
    for byte in ["R", "I", "F", "F"] {
        exchange.wire.send(format!("1\r\n{byte}\r\n")).await;
        assert_eq!(soon("a byte", caller.chunk()).await, Some(Some(byte.into())));
    }
    exchange.wire.send("0\r\n\r\n").await;
    assert_eq!(soon("the end", caller.chunk()).await, Some(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_stream_on_and_arrive_unchanged() {
    let (engine, gate) = recorded().await;
    let body: String = (0..150_000).map(|n: u32| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
    assert_eq!(ask(&gate, post("/", &body)).await.status(), 200);
    let mut chunked = Wire::to_gate(&gate).await;
    chunked.send("POST / HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in body.as_bytes().chunks(7_777) {
        chunked.send(format!("{:x}\r\n", piece.len())).await;
        chunked.send(piece).await;
        chunked.send("\r\n").await;
    }
    assert_eq!(chunked.ask("0\r\n\r\n").await.status(), 200);
    // What passes through is not bounded at all.
    let huge = "x".repeat(3_000_000);
    assert_eq!(ask(&gate, post("/other", &huge)).await.status(), 200);
    let seen = engine.seen();
    assert_eq!(seen[0].field("content-length").unwrap(), "150000");
    assert_eq!(seen[1].field("transfer-encoding").unwrap(), "chunked");
    assert!(seen[0].body == body.as_bytes() && seen[1].body == body.as_bytes());
    assert!(seen[2].body == huge.as_bytes());
    at_rest(&gate).await;
}
