//! How a request becomes a WebSocket.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rime_gate::sim::{Engine, Settings};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::common::{V1, engine, settings};

async fn ask(engine: &Engine, request: Request<Empty<Bytes>>) -> (StatusCode, HeaderMap, Bytes) {
    let stream = TcpStream::connect(engine.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = if head.status == StatusCode::SWITCHING_PROTOCOLS {
        Bytes::new()
    } else {
        body.collect().await.unwrap().to_bytes()
    };
    (head.status, head.headers, body)
}

fn upgrade(method: &str, path: &str) -> http::request::Builder {
    let builder = Request::builder().method(method).uri(path).header("host", "engine");
    let builder = builder.header("connection", "Upgrade").header("upgrade", "websocket");
    // The example of RFC 6455, section 1.3.
    builder.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn a_post_upgrades_as_well_as_a_get() {
    let engine = engine(settings()).await;
    for (method, path) in [("GET", "/ws"), ("POST", "/ws"), ("POST", "/ws3"), ("POST", "/ws2")] {
        let (status, headers, _) = ask(&engine, upgrade(method, path).body(Empty::new()).unwrap()).await;
        assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS, "{method} {path}");
        assert_eq!(headers["connection"], "upgrade");
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

#[tokio::test]
async fn the_first_subprotocol_that_is_known_wins_and_no_extension_is_taken_up() {
    let engine = engine(settings()).await;
    let cases = [
        (Some("graphql-ws, rime.v1.json, rime.v1.binary"), Some("rime.v1.json")),
        (Some("rime.v1.binary, rime.v1.json"), Some("rime.v1.binary")),
        (Some("rime.v2.json"), None),
        (None, None),
    ];
    for (offered, chosen) in cases {
        let mut request = upgrade("GET", "/ws").header("sec-websocket-extensions", "permessage-deflate");
        if let Some(offered) = offered {
            request = request.header("sec-websocket-protocol", offered);
        }
        let (_, headers, _) = ask(&engine, request.body(Empty::new()).unwrap()).await;
        let found = headers.get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(found, chosen, "{offered:?}");
        assert!(!headers.contains_key("sec-websocket-extensions"));
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_told_so() {
    let engine = engine(settings()).await;
    let plain = Request::get("/ws").header("host", "engine").body(Empty::new()).unwrap();
    assert_eq!(ask(&engine, plain).await.0, StatusCode::UPGRADE_REQUIRED);
    let mut old = upgrade("GET", "/ws").body(Empty::new()).unwrap();
    old.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
    assert_eq!(ask(&engine, old).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_legacy_socket_asks_for_the_key_at_the_upgrade() {
    let engine = engine(Settings { api_key: Some("secret".to_owned()), ..settings() }).await;
    let status = async |key: Option<&str>| {
        let mut request = upgrade("GET", "/ws3");
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        ask(&engine, request.body(Empty::new()).unwrap()).await.0
    };
    assert_eq!(status(None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(Some("Bearer wrong")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(Some("Bearer secret")).await, StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn statusz_shows_every_protocol_and_its_sockets() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", "").await;
    v1.heard().await;
    let request = Request::get("/statusz").header("host", "engine").body(Empty::new()).unwrap();
    let status: Value = serde_json::from_slice(&ask(&engine, request).await.2).unwrap();
    for (pointer, wanted) in [
        ("/syntheses/running", 1),
        ("/protocols/v1/running", 1),
        ("/protocols/v1/peak", 1),
        ("/protocols/http/total", 0),
        ("/protocols/ws-json/total", 0),
        ("/protocols/ws-binary/total", 0),
        ("/protocols/grpc/total", 0),
        ("/sockets/v1/open", 1),
        ("/sockets/ws-json/open", 0),
        ("/sockets/ws-binary/open", 0),
        ("/requests/~1ws", 1),
    ] {
        assert_eq!(status.pointer(pointer), Some(&wanted.into()), "{pointer}");
    }
}
