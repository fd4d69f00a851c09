//! A connection against an engine that is a socket in the test's hand.

use super::*;
use crate::engine::http1::Head;
use crate::engine::{Outbound, SendBody};
use crate::protocol::headers::Settled;
use http::{HeaderValue, Request};
use std::task::Waker;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

async fn pair() -> (Box<Connection>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (engine, _) = listener.accept().await.unwrap();
    (Box::new(Connection::new(stream)), engine)
}

fn send(connection: &mut Connection) {
    let (head, ()) = Request::get("/").body(()).unwrap().into_parts();
    let head = Head::new(&head, None, &Settled::default(), &HeaderValue::from_static("engine"));
    let request = Outgoing::new(Outbound { head, body: SendBody::Whole(None) });
    connection.send(request, Instant::now() + Duration::from_secs(10));
}

/// The answer's head, and all of its body.
async fn answered(connection: &mut Connection) -> Result<(Response<()>, Vec<u8>), AnswerError> {
    let head = poll_fn(|cx| connection.poll_answer(cx)).await;
    let head = head.unwrap_or_else(|unanswered| panic!("{unanswered:?}"));
    let mut body = Vec::new();
    while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx)).await {
        body.extend(frame?.into_data().unwrap());
    }
    Ok((head, body))
}

async fn hears_a_request(engine: &mut TcpStream) {
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        assert!(engine.read_buf(&mut heard).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn one_connection_carries_exchange_after_exchange() {
    let (mut connection, mut engine) = pair().await;
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab"),
        (
            "HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n",
            "c",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
    ] {
        send(&mut connection);
        let (answered, ()) = tokio::join!(answered(&mut connection), async {
            hears_a_request(&mut engine).await;
            engine.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(answered.unwrap().1, body.as_bytes());
        connection = connection.rest().expect("the engine keeps it");
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn a_connection_that_the_engine_means_to_close_is_not_kept() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore than was asked for",
    ] {
        let (mut connection, mut engine) = pair().await;
        send(&mut connection);
        engine.write_all(answer.as_bytes()).await.unwrap();
        answered(&mut connection).await.unwrap();
        assert!(connection.rest().is_none(), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_from_one_that_ends_with_its_connection() {
    for (answer, whole) in [
        ("HTTP/1.1 200 OK\r\n\r\nab", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", false),
    ] {
        let (mut connection, mut engine) = pair().await;
        send(&mut connection);
        engine.write_all(answer.as_bytes()).await.unwrap();
        engine.shutdown().await.unwrap();
        match answered(&mut connection).await {
            Ok((_, body)) => assert!(whole && body == b"ab", "{answer}"),
            Err(error) => {
                assert!(!whole && matches!(error, AnswerError::Incomplete), "{answer}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_kept_connection_is_found_closed_when_it_is_looked_at() {
    let (connection, engine) = pair().await;
    assert!(connection.is_open());
    drop(engine);
    while connection.is_open() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_exchange_that_is_dropped_closes_its_connection_at_that_moment() {
    let (mut connection, mut engine) = pair().await;
    send(&mut connection);
    assert!(connection.poll_answer(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(connection);
    let mut seen = Vec::new();
    engine.read_to_end(&mut seen).await.unwrap();
    assert!(seen.starts_with(b"GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_request_that_cannot_be_written_comes_back_unsent() {
    let (mut connection, engine) = pair().await;
    // Without lingering the connection is reset: a write fails at once.
    socket2::SockRef::from(&engine).set_linger(Some(Duration::ZERO)).unwrap();
    drop(engine);
    while connection.is_open() {
        tokio::task::yield_now().await;
    }
    send(&mut connection);
    let answered = poll_fn(|cx| connection.poll_answer(cx)).await;
    let Err(Unanswered::Unsent(request, _)) = answered else { panic!("{answered:?}") };
    assert!(request.bytes.starts_with(b"GET / HTTP/1.1\r\n"));
}
