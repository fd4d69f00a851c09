//! What travels between a caller and the engine, frame by frame.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use rime_gate::config::WhenFull;
use rime_gate::gate::Gate;
use rime_gate::protocol::grpc::framed;
use tokio::task::JoinHandle;

use crate::common::{self, Recorder, at_rest, soon, start, status, until};
use crate::raw::{Arrived, Caller, End, SYNTHESIZE, Scripted, end};
use crate::{config_for, door, say};

/// A gate in front of a scripted engine, a caller before it, and what answers for the engine over HTTP.
async fn scripted(streams_max: u32, limit: u32) -> (Scripted, Gate, Caller, Recorder) {
    let engine = Scripted::start(streams_max).await;
    let http = Recorder::start().await;
    let mut config = config_for(http.address, engine.address, limit);
    config.engine.first_byte_timeout = Duration::from_millis(1_500);
    let gate = start(config);
    let caller = Caller::to(door(&gate)).await;
    (engine, gate, caller, http)
}

/// A synthesis on its way, and what has come of it to the engine.
async fn asked(caller: Caller, engine: &mut Scripted) -> (JoinHandle<End>, Arrived) {
    let call = tokio::spawn(async move { caller.synthesize(&[], 10).await });
    (call, engine.next().await)
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in pairs {
        fields.append(*name, HeaderValue::from_static(value));
    }
    fields
}

fn begin(arrived: &mut Arrived) -> h2::SendStream<Bytes> {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-rime-audio-content-type", "audio/pcm")
        .header("x-request-id", "engine-1")
        .header("x-blob-bin", "AAE")
        .header("x-blob-bin", "AAI");
    arrived.respond.send_response(head.body(()).unwrap(), false).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_travels_as_it_was_made_and_its_answer_as_it_was_given() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let metadata = [
        ("grpc-timeout", "9S"),
        ("x-key", "1"),
        ("x-blob-bin", "AAEC"),
        ("x-key", "2"),
        ("authorization", "Bearer k"),
        ("user-agent", "grpc-test/1"),
    ];
    let (response, mut stream) = caller.begin(SYNTHESIZE, &metadata).await;
    let message = Bytes::from(framed(&say(30)));
    // In three pieces, so that nobody can have relied on frames.
    stream.send_data(message.slice(..3), false).unwrap();
    stream.send_data(message.slice(3..9), false).unwrap();
    stream.send_data(message.slice(9..), true).unwrap();
    let mut arrived = engine.next().await;
    let head = arrived.request.headers().clone();
    let named = |name: &str| head.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    for (name, values) in [
        ("te", vec!["trailers"]),
        ("grpc-timeout", vec!["9S"]),
        ("x-key", vec!["1", "2"]),
        ("x-blob-bin", vec!["AAEC"]),
        ("authorization", vec!["Bearer k"]),
        ("user-agent", vec!["grpc-test/1"]),
        ("content-type", vec!["application/grpc"]),
        ("via", vec!["2.0 rime-gate"]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-forwarded-host", vec!["gate"]),
    ] {
        assert_eq!(named(name), values, "{name}");
    }
    assert!(head.contains_key("x-request-id") && !head.contains_key("host"));
    assert_eq!(arrived.request.uri().to_string(), format!("http://gate{SYNTHESIZE}"));
    let mut got = Vec::new();
    while let Some(bytes) = arrived.request.body_mut().data().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(got, message);

    let mut answer = begin(&mut arrived);
    let response = soon("the head", response).await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "engine-1");
    assert_eq!(response.headers().get_all("x-blob-bin").iter().collect::<Vec<_>>(), ["AAE", "AAI"]);
    assert!(!response.headers().contains_key("content-length"));
    answer.send_data(Bytes::from_static(b"\0\0\0\0\x04\x0a\x02"), false).unwrap();
    answer.send_data(Bytes::from_static(b"ab\0\0\0\0\0"), false).unwrap();
    assert_eq!(status(&gate).running, 1, "the slot lasts as long as the sound");
    answer
        .send_trailers(fields(&[("grpc-status", "0"), ("x-last", "1"), ("x-last", "2"), ("x-end-bin", "AA")]))
        .unwrap();
    let end = soon("the end", end(response)).await.unwrap();
    assert_eq!(end.body, b"\0\0\0\0\x04\x0a\x02ab\0\0\0\0\0");
    let trailers = end.trailers.unwrap();
    assert_eq!(
        trailers,
        fields(&[("grpc-status", "0"), ("x-last", "1"), ("x-last", "2"), ("x-end-bin", "AA")])
    );
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailers_only_answer_stays_one_and_counts_as_the_engines_error() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let (call, mut arrived) = asked(caller, &mut engine).await;
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "3")
        .header("grpc-message", "no%20voice")
        .header("grpc-status-details-bin", "CAM");
    arrived.respond.send_response(head.body(()).unwrap(), true).unwrap();
    let end = soon("the end", call).await.unwrap();
    assert!(end.trailers.is_none() && end.body.is_empty());
    for (name, value) in
        [("grpc-status", "3"), ("grpc-message", "no%20voice"), ("grpc-status-details-bin", "CAM")]
    {
        assert_eq!(end.field(name), value);
    }
    at_rest(&gate).await;
    let metrics = gate.control().metrics();
    assert!(
        metrics.contains(r#"code="400",model="other",outcome="engine_error",protocol="grpc"} 1"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_after_audio_counts_as_the_engines_error() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let (call, mut arrived) = asked(caller, &mut engine).await;
    let mut answer = begin(&mut arrived);
    answer.send_data(Bytes::from_static(b"\0\0\0\0\x04\x0a\x02ab"), false).unwrap();
    answer.send_trailers(fields(&[("grpc-status", "13"), ("grpc-message", "gpu")])).unwrap();
    assert_eq!(soon("the end", call).await.unwrap().field("grpc-status"), "13");
    at_rest(&gate).await;
    let metrics = gate.control().metrics();
    assert!(
        metrics.contains(r#"code="500",model="other",outcome="engine_error",protocol="grpc"} 1"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_own_deadline_ends_its_wait_as_deadline_exceeded() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let (_held, mut stream) = caller.begin(SYNTHESIZE, &[]).await;
    stream.send_data(framed(&say(10)).into(), true).unwrap();
    let _holding = engine.next().await;
    let end = caller.synthesize(&[("grpc-timeout", "50m")], 10).await;
    assert!(end.trailers.is_none());
    assert_eq!((end.field("grpc-status"), end.field("x-rime-gate-reason")), ("4", "queue_timeout"));
    assert!(!engine.is_unasked(), "the engine never saw it");
    assert_eq!((status(&gate).running, status(&gate).waiting), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_travels_both_ways_at_once() {
    let (mut engine, gate, caller, _http) = scripted(100, 2).await;
    // The caller's, before the head and after it; with its request still open.
    for with_head in [false, true] {
        let path = "/rime.TextToSpeech/SynthesizeStreaming";
        let (response, mut stream) = caller.begin(path, &[]).await;
        stream.send_data(opening().into(), false).unwrap();
        let mut arrived = engine.next().await;
        let answer = with_head.then(|| begin(&mut arrived));
        if with_head {
            drop(soon("the head", response).await.unwrap());
        }
        stream.send_reset(Reason::CANCEL);
        let mut request = arrived.request.into_body();
        let seen = soon("a reset at the engine", async {
            while let Some(bytes) = request.data().await {
                if let Err(error) = bytes {
                    return error.reason();
                }
            }
            None
        });
        assert_eq!(seen.await, Some(Reason::CANCEL), "{with_head}");
        drop(answer);
        at_rest(&gate).await;
    }
    // The engine's.
    let (response, mut stream) = caller.begin(SYNTHESIZE, &[]).await;
    stream.send_data(framed(&say(10)).into(), true).unwrap();
    let mut arrived = engine.next().await;
    let mut answer = begin(&mut arrived);
    let response = soon("the head", response).await.unwrap();
    answer.send_reset(Reason::ENHANCE_YOUR_CALM);
    let error = soon("the end", end(response)).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    at_rest(&gate).await;
}

/// A header with a text.
fn opening() -> Vec<u8> {
    use rimelabs_api::rime::StreamingSynthesisRequest;
    use rimelabs_api::rime::streaming_synthesis_request::Payload;
    framed(&StreamingSynthesisRequest { payload: Some(Payload::Header(say(10))) })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_limit_of_streams_is_kept_by_making_connections() {
    let (mut engine, gate, caller, _http) = scripted(3, 10).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let (response, mut stream) = caller.begin(SYNTHESIZE, &[]).await;
        stream.send_data(framed(&say(10)).into(), true).unwrap();
        open.push(response);
    }
    let mut on = std::collections::BTreeMap::new();
    let mut arrived = Vec::new();
    for _ in 0..10 {
        let call = engine.next().await;
        *on.entry(call.connection).or_insert(0) += 1;
        arrived.push(call);
    }
    assert!(on.values().all(|calls| *calls <= 3) && on.len() <= 5, "{on:?}");
    for call in &mut arrived {
        begin(call).send_trailers(fields(&[("grpc-status", "0")])).unwrap();
    }
    for response in open {
        let response = soon("a head", response).await.unwrap();
        assert_eq!(soon("the end", end(response)).await.unwrap().field("grpc-status"), "0");
    }
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_goodbye_running_calls_end_and_new_ones_go_another_way() {
    let (mut engine, gate, caller, _http) = scripted(100, 4).await;
    let (response, mut stream) = caller.begin(SYNTHESIZE, &[]).await;
    stream.send_data(framed(&say(10)).into(), true).unwrap();
    let mut first = engine.next().await;
    engine.goodbyes.send(()).unwrap();
    let mut answer = begin(&mut first);
    let response = soon("the head", response).await.unwrap();
    // The goodbye's own ping has been answered when a call is on another connection.
    let second = loop {
        let (later, mut stream) = caller.begin(SYNTHESIZE, &[]).await;
        stream.send_data(framed(&say(10)).into(), true).unwrap();
        let mut second = engine.next().await;
        if second.connection != first.connection {
            break (second, later);
        }
        begin(&mut second).send_trailers(fields(&[("grpc-status", "0")])).unwrap();
        soon("a head", later).await.unwrap();
    };
    answer.send_trailers(fields(&[("grpc-status", "0")])).unwrap();
    assert_eq!(soon("the end", end(response)).await.unwrap().field("grpc-status"), "0");
    let (mut second, later) = second;
    begin(&mut second).send_trailers(fields(&[("grpc-status", "0")])).unwrap();
    let later = soon("a head", later).await.unwrap();
    assert_eq!(soon("the end", end(later)).await.unwrap().field("grpc-status"), "0");
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_begin_is_given_up_and_a_call_is_sent_once() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let end = caller.synthesize(&[], 10).await;
    assert_eq!((end.field("grpc-status"), end.field("x-rime-gate-reason")), ("14", "engine_timeout"));
    let _one = engine.next().await;
    assert!(!engine.is_unasked());
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_status_is_not_taken_for_a_whole_one() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let (call, mut arrived) = asked(caller, &mut engine).await;
    begin(&mut arrived).send_data(Bytes::from_static(b"\0\0\0\0\x04\x0a\x02ab"), true).unwrap();
    assert_eq!(soon("the end", call).await.unwrap().field("grpc-status"), "14");
    at_rest(&gate).await;
    assert!(gate.control().metrics().contains(r#"outcome="truncated",protocol="grpc"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synthesis_takes_a_slot_however_it_is_spelled_and_a_slow_upload_takes_none() {
    let (mut engine, gate, caller, _http) = scripted(100, 1).await;
    let (_slow, mut slow) = caller.begin(SYNTHESIZE, &[]).await;
    slow.send_data(Bytes::from_static(b"\0\0\0"), false).unwrap();
    let (_held, mut stream) = caller.begin("/rime.TextToSpeech/%53ynthesize", &[]).await;
    stream.send_data(framed(&say(10)).into(), true).unwrap();
    let _holding = engine.next().await;
    assert_eq!((status(&gate).running, status(&gate).waiting), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_all_head() {
    let engine = Scripted::start(100).await;
    let http = Recorder::start().await;
    let mut config = config_for(http.address, engine.address, 1);
    config.admission.when_full = WhenFull::Reject;
    let mut engine = engine;
    let gate = start(config);
    let caller = Caller::to(door(&gate)).await;
    let (_held, mut stream) = caller.begin(SYNTHESIZE, &[]).await;
    stream.send_data(framed(&say(10)).into(), true).unwrap();
    let _holding = engine.next().await;
    let end = caller.synthesize(&[], 10).await;
    assert!(end.trailers.is_none(), "{end:?}");
    assert_eq!(end.field("grpc-status"), "8");
    assert_eq!(end.field("grpc-message"), "Currently at synthesis limit");
    assert_eq!(end.field("content-type"), "application/grpc");
    assert!(!end.head.contains_key("content-length"), "{end:?}");
    let mut many: Vec<(String, String)> = Vec::new();
    for number in 0..120 {
        many.push((format!("x-{number}"), "1".to_owned()));
    }
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let end = caller.synthesize(&many, 10).await;
    assert_eq!((end.field("grpc-status"), end.field("x-rime-gate-reason")), ("8", "head_too_large"));
    until("one running", || status(&gate).running == 1).await;
    let plain = common::Wire::to(door(&gate)).await.ask(common::post("/", "{}")).await;
    assert_eq!(plain.status(), 505, "HTTP/1 is not spoken here");
}
