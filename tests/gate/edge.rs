//! HTTP that is none, or means two things: a clear 4xx or a closed connection, within a bound. Nothing is smuggled,
//! which a recording engine shows, and no slot is lost.

use std::time::Duration;

use rime_gate::gate::Gate;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::common::{Recorder, Wire, ask, at_rest, config, post, soon, start, status, until};

/// A second request that must never be seen: what smuggling is about.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: gate\r\n\r\n";

pub(crate) async fn recorded() -> (Recorder, Gate) {
    let engine = Recorder::start().await;
    let mut config = config(engine.address, 2);
    config.limits.header_timeout = Duration::from_millis(500);
    config.limits.body_timeout = Duration::from_millis(500);
    config.limits.idle_timeout = Duration::from_secs(1);
    (engine, start(config))
}

/// What a connection says until it ends; the caller closes its side for writing first where it `ends`.
pub(crate) async fn said(gate: &Gate, bytes: &[u8], ends: bool) -> String {
    let mut wire = Wire::to_gate(gate).await;
    wire.try_send(bytes).await;
    if ends {
        let _ = wire.stream.shutdown().await;
    }
    String::from_utf8_lossy(&wire.ending().await).into_owned()
}

pub(crate) fn statuses(said: &str) -> Vec<u16> {
    // An answer's own text may name HTTP/1.1 too.
    let lines = said.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect()
}

/// Nothing of what was sent reached the engine, and the gate is as good as new.
pub(crate) async fn is_unharmed(engine: &Recorder, gate: &Gate, seen: usize, what: &str) {
    assert_eq!(engine.seen().len(), seen, "{what}: {:?}", engine.seen());
    assert!(!engine.seen().iter().any(|request| request.head.contains("smuggled")), "{what}");
    at_rest(gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_mean_two_things_are_refused_and_nothing_is_smuggled() {
    let shapes: &[(&str, &str)] = &[
        (
            "two lengths that differ",
            "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        ),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2, 40\r\n\r\n{}"),
        ("a length with a sign", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: +2\r\n\r\n{}"),
        ("a negative length", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: -2\r\n\r\n{}"),
        ("a length that is no number", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 0x2\r\n\r\n{}"),
        (
            "a length beyond all bounds",
            "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        ),
        ("an empty length", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: \r\n\r\n{}"),
        ("a folded line", "POST / HTTP/1.1\r\nHost: g\r\nX-A: 1\r\n  folded\r\nContent-Length: 2\r\n\r\n{}"),
        ("a folded coding", "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        ("a space before a colon", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length : 2\r\n\r\n{}"),
        ("a space before the first field", "POST / HTTP/1.1\r\n Content-Length: 2\r\nHost: g\r\n\r\n{}"),
        ("a field without a colon", "POST / HTTP/1.1\r\nHost: g\r\nContent-Length 2\r\n\r\n{}"),
        ("a field without a name", "POST / HTTP/1.1\r\nHost: g\r\n: 2\r\n\r\n{}"),
        ("a NUL in a value", "POST / HTTP/1.1\r\nHost: g\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{}"),
        ("a NUL in a name", "POST / HTTP/1.1\r\nHost: g\r\nX\0A: ab\r\nContent-Length: 2\r\n\r\n{}"),
        ("a NUL in the target", "POST /\0 HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        (
            "a carriage return in a value",
            "POST / HTTP/1.1\r\nHost: g\r\nX-A: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        ),
        ("a carriage return alone", "POST / HTTP/1.1\rHost: g\rContent-Length: 2\r\r{}"),
        ("an unknown coding", "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (
            "chunked not last",
            "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "identity",
            "POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
        ),
        ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a space in the target", "POST / x HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        ("no target", "POST HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        ("an unknown version", "POST / HTTP/1.2\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        ("HTTP/2 in a start line", "POST / HTTP/2.0\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        ("HTTP/0.9", "GET /\r\n"),
        ("garbage", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n"),
    ];
    let (engine, gate) = recorded().await;
    for (what, request) in shapes {
        for next in ["", SMUGGLED] {
            let said = said(&gate, format!("{request}{next}").as_bytes(), false).await;
            let statuses = statuses(&said);
            let fine = matches!(statuses[..], [] | [400..=499] | [501 | 505]);
            assert!(fine, "{what}: {said}");
            is_unharmed(&engine, &gate, 0, what).await;
        }
    }
    assert_eq!(ask(&gate, post("/", "{}")).await.status(), 200);
}

/// Their framing is clear, so that the connection may live on; the engine sees nothing of them.
#[tokio::test(flavor = "multi_thread")]
async fn requests_for_nobody_in_particular_are_refused() {
    let shapes: &[(&str, &str)] = &[
        ("no host", "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
        ("two hosts", "POST / HTTP/1.1\r\nHost: g\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"),
        ("the same host twice", "POST / HTTP/1.1\r\nHost: g\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        ("another scheme", "POST ftp://gate/ HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
        ("a tunnel", "CONNECT engine:80 HTTP/1.1\r\nHost: engine:80\r\n\r\n"),
        ("a target without a slash", "POST invocations HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"),
    ];
    let (engine, gate) = recorded().await;
    for (what, request) in shapes {
        let answer = ask(&gate, request).await;
        assert_eq!((answer.status(), answer.reason().as_str()), (400, "bad_request"), "{what}");
        assert!(answer.body.ends_with(b"\n"), "{what}: one plain line");
        is_unharmed(&engine, &gate, 0, what).await;
    }
}

/// Bytes that never get past the head or body of the one request that they belong to.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_break_the_request_off_and_nothing_is_smuggled() {
    let (engine, gate) = recorded().await;
    let long = "x".repeat(40_000);
    let long_extension = format!("2;{long}\r\n{{}}\r\n0\r\n\r\n");
    let bodies: &[(&str, &str)] = &[
        ("a size that is no number", "zz\r\n{}\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a negative size", "-2\r\n{}\r\n0\r\n\r\n"),
        ("a size with a sign", "+2\r\n{}\r\n0\r\n\r\n"),
        ("a size beyond all bounds", "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("no size", "\r\n{}\r\n0\r\n\r\n"),
        ("more than the size", "2\r\n{}}\r\n0\r\n\r\n"),
        ("no end of the chunk", "2\r\n{}0\r\n\r\n"),
        ("a line feed alone", "2\n{}\r\n0\r\n\r\n"),
        ("a line feed alone after the chunk", "2\r\n{}\n0\r\n\r\n"),
        ("a long extension", &long_extension),
        ("a line feed in an extension", "2;a\nb\r\n{}\r\n0\r\n\r\n"),
        ("a space in a size", "2 2\r\n{}\r\n0\r\n\r\n"),
    ];
    // What passes through begins at the engine before its body is known, if only a moment after its caller has the answer; a
    // synthesis does not.
    let mut targets = Vec::new();
    for (path, most) in [("/", 0), ("/other", 1)] {
        for (number, (what, body)) in bodies.iter().enumerate() {
            let target = format!("{path}?shape={number}");
            let head = format!("POST {target} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n");
            let said = said(&gate, format!("{head}{body}{SMUGGLED}").as_bytes(), false).await;
            let statuses = statuses(&said);
            assert!(matches!(statuses[..], [] | [400..=499]), "{path} {what}: {said}");
            targets.push((format!("POST {target} "), most));
            at_rest(&gate).await;
        }
    }
    assert_eq!(ask(&gate, post("/", "{}")).await.status(), 200);
    targets.push(("POST / ".to_owned(), 1));
    let seen = engine.seen();
    for (target, most) in &targets {
        let times = seen.iter().filter(|request| request.head.starts_with(target)).count();
        assert!(times <= *most, "{target}: {seen:?}");
    }
    let ours = |head: &str| targets.iter().any(|(target, _)| head.starts_with(target));
    assert!(seen.iter().all(|request| ours(&request.head)), "{seen:?}");
}

/// RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length, which must not travel on; or it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_never_reaches_the_engine() {
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: chunked\r\nContent-Length: 300",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nTRANSFER-encoding: \tchunked ",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: transfer-encoding",
        "Content-Length: 3\r\nTransfer-Encoding: gzip, chunked",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: content-length",
    ] {
        for path in ["/", "/other"] {
            let (engine, gate) = recorded().await;
            let request = format!("POST {path} HTTP/1.1\r\nHost: g\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}");
            let said = said(&gate, request.as_bytes(), false).await;
            let seen = engine.seen();
            assert!(seen.len() <= 2, "{fields}: {seen:?}");
            if let Some(first) = seen.first() {
                assert_eq!(first.field("content-length"), None, "{path} {fields}");
                assert!(first.body.is_empty(), "{path} {fields}");
            }
            // Either the gate closed after the first, or the second was a request of its own to both.
            assert!(statuses(&said).len() >= seen.len(), "{path} {fields}: {said} {seen:?}");
            at_rest(&gate).await;
        }
    }
}

/// The same length twice is one length (RFC 9110 section 8.6): refused, or sent on once.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_length_twice_is_one_length_or_refused() {
    let (engine, gate) = recorded().await;
    let request = "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}";
    let mut wire = Wire::to_gate(&gate).await;
    let answer = wire.ask(request).await;
    match engine.seen().first() {
        Some(seen) => {
            assert_eq!((seen.field("content-length").as_deref(), &seen.body[..]), (Some("2"), &b"{}"[..]));
        }
        None => assert_eq!(answer.status(), 400),
    }
    at_rest(&gate).await;
}

/// RFC 9112 section 2.2 lets a reader take a bare LF for a line's end: what travels on must be written anew.
#[tokio::test(flavor = "multi_thread")]
async fn bare_line_feeds_are_refused_or_end_at_the_gate() {
    let (engine, gate) = recorded().await;
    for request in [
        "POST / HTTP/1.1\nHost: g\nContent-Length: 2\n\n{}",
        "POST / HTTP/1.1\r\nHost: g\nContent-Length: 2\r\n\r\n{}",
        "POST / HTTP/1.1\r\nHost: g\r\nX-A: 1\nX-B: 2\r\nContent-Length: 2\r\n\r\n{}",
        "\r\n\r\nPOST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}",
        "\n\nPOST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let before = engine.seen().len();
        let said = said(&gate, request.as_bytes(), false).await;
        let statuses = statuses(&said);
        assert_eq!(statuses.len(), 1, "{request:?}: {said}");
        for seen in &engine.seen()[before..] {
            assert!(!seen.head.replace("\r\n", "").contains('\r'), "{request:?}: {seen:?}");
            assert_eq!(seen.body, b"{}", "{request:?}");
            assert!(
                seen.names().iter().filter(|name| name.eq_ignore_ascii_case("content-length")).count() == 1
            );
        }
        at_rest(&gate).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_lawful_requests_are_served() {
    let (engine, gate) = recorded().await;
    for (request, line) in [
        (
            "POST http://gate/invocations?x=1 HTTP/1.1\r\nHost: other\r\nContent-Length: 2\r\n\r\n{}",
            "POST /invocations?x=1 HTTP/1.1",
        ),
        ("post / HTTP/1.1\r\nHost: gate\r\nContent-Length: 2\r\n\r\n{}", "post / HTTP/1.1"),
        ("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", "POST / HTTP/1.1"),
        ("POST / HTTP/1.1\r\nHost:\r\nContent-Length: 2\r\n\r\n{}", "POST / HTTP/1.1"),
        ("OPTIONS * HTTP/1.1\r\nHost: gate\r\nContent-Length: 2\r\n\r\n{}", "OPTIONS * HTTP/1.1"),
    ] {
        let mut wire = Wire::to_gate(&gate).await;
        let answer = wire.ask(request).await;
        assert_eq!(answer.status(), 200, "{request:?}");
        let seen = engine.seen();
        let seen = seen.last().unwrap();
        assert_eq!(seen.line(), line);
        assert_eq!(seen.body, b"{}");
        if request.contains("http://gate") {
            assert_eq!(seen.field("host").unwrap(), "gate", "the target rules over Host");
        }
        if request.contains("HTTP/1.0") {
            assert!(wire.ending().await.is_empty(), "HTTP/1.0 closes unless asked to stay");
        }
    }
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_h2_connection_that_breaks_its_protocol_is_closed() {
    let (engine, gate) = recorded().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let shapes: [(&str, Vec<u8>); 8] = [
        ("half a preface, another way on", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("HTTP/1.1 after the preface", [&preface[..], SMUGGLED.as_bytes()].concat()),
        ("no settings", [&preface[..], &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat()),
        ("a frame too large", [&preface[..], &settings, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("headers on stream 0", [&preface[..], &settings, &[0, 0, 1, 1, 5, 0, 0, 0, 0, 0x82]].concat()),
        ("data on an idle stream", [&preface[..], &settings, &[0, 0, 1, 0, 1, 0, 0, 0, 1, 0x82]].concat()),
        (
            "headers that do not decode",
            [&preface[..], &settings, &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0xff]].concat(),
        ),
        ("only the preface, then silence", preface.clone()),
    ];
    for (what, bytes) in shapes {
        let mut wire = Wire::to_gate(&gate).await;
        wire.try_send(&bytes).await;
        wire.ending().await;
        is_unharmed(&engine, &gate, 0, what).await;
    }
    until("no connection left", || status(&gate).connections == 0).await;
}

/// One h2 request by prior knowledge: every field a literal of its own, so that nothing checks it on its way out.
fn h2_request(fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let block: Vec<u8> =
        fields.iter().flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat()).collect();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let (headers, data) = (frame(1, 4, 1, &block), frame(0, 1, 1, body.as_bytes()));
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &headers, &data].concat()
}

/// What would be one request in HTTP/2 and two in HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn h2_requests_cannot_be_made_into_something_else_on_their_way_to_http1() {
    let (engine, gate) = recorded().await;
    let usual = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "gate")];
    let with = |extra: &[(&'static str, &'static str)]| [&usual[..], extra].concat();
    let instead = |name: &str, value: &'static str| {
        usual.map(|(usual, as_usual)| (usual, if usual == name { value } else { as_usual })).to_vec()
    };
    let inside = "{}GET /smuggled HTTP/1.1\r\nhost: g\r\n\r\n";
    let split = "/ HTTP/1.1\r\nhost: g\r\n\r\nGET /smuggled HTTP/1.1\r\nx: ";
    let shapes = [
        (
            "a coding",
            with(&[("transfer-encoding", "chunked")]),
            "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: g\r\n\r\n",
        ),
        ("a length too short", with(&[("content-length", "2")]), inside),
        ("a length too long", with(&[("content-length", "900")]), inside),
        ("two lengths", with(&[("content-length", "2"), ("content-length", "900")]), "{}"),
        ("a length of zero", with(&[("content-length", "0")]), inside),
        (
            "a line end in a value",
            with(&[("x-a", "b\r\ncontent-length: 0\r\n\r\nGET /smuggled HTTP/1.1")]),
            "{}",
        ),
        ("a line end in a name", with(&[("x-a: b\r\ncontent-length", "0")]), inside),
        ("a colon in a name", with(&[("content-length: 0", "0")]), inside),
        ("capitals in a name", with(&[("Content-Length", "0")]), inside),
        ("a NUL in a value", with(&[("x-a", "a\0b")]), "{}"),
        ("a line end in the path", instead(":path", split), "{}"),
        ("a space in the path", instead(":path", "/ x"), "{}"),
        ("an empty path", instead(":path", ""), "{}"),
        ("a line end in the method", instead(":method", "GET / HTTP/1.1\r\nhost: g\r\n\r\nPOST"), "{}"),
        ("a space in the method", instead(":method", "GET /smuggled"), "{}"),
        ("a line end in the authority", instead(":authority", "g\r\ncontent-length: 0"), inside),
        ("a connection field", with(&[("connection", "content-length, x-a"), ("x-a", "1")]), "{}"),
        ("an upgrade", with(&[("upgrade", "websocket"), ("connection", "upgrade")]), "{}"),
        ("two hosts", with(&[("host", "other"), ("host", "another")]), "{}"),
        ("a tunnel", instead(":method", "CONNECT"), "{}"),
    ];
    let mut callers = JoinSet::new();
    for (_, fields, body) in &shapes {
        let mut wire = Wire::to_gate(&gate).await;
        wire.try_send(h2_request(fields, body)).await;
        callers.spawn(async move { wire.ending().await });
    }
    soon("the end of all connections", callers.join_all()).await;
    is_unharmed(&engine, &gate, 0, "h2").await;
    // The same bytes without a trick are served; a lone host yields to the authority.
    let mut plain = Wire::to_gate(&gate).await;
    plain.send(h2_request(&with(&[("host", "other")]), "{}")).await;
    until("a plain request at the engine", || engine.seen().len() == 1).await;
    assert_eq!(engine.seen()[0].line(), "POST / HTTP/1.1");
    assert_eq!(engine.seen()[0].field("host").unwrap(), "gate");
}
