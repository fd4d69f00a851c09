//! What a head costs: recognising a synthesis and settling which headers travel on, both ways.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{Request, Response, Version};
use rime_gate::config::Surface;
use rime_gate::protocol::headers::{Forwarding, Peer, to_caller, to_engine};
use rime_gate::protocol::{Recognition, Speech};

fn request(connection: Option<&str>) -> Request<()> {
    let builder = Request::post("/invocations")
        .header("host", "gate:8800")
        .header("accept", "audio/wav")
        .header("authorization", "Bearer key")
        .header("content-type", "application/json")
        .header("content-length", "128")
        .header("user-agent", "bench");
    let builder = connection.into_iter().fold(builder, |builder, value| builder.header("connection", value));
    builder.body(()).unwrap()
}

fn heads(c: &mut Criterion) {
    let peer = Peer::new("192.0.2.7:4711".parse().unwrap());
    let forwarding = |x_forwarded| Forwarding {
        x_forwarded,
        forwarded: false,
        trust_incoming: false,
        via: Forwarding::via_of("rime-gate"),
    };
    for (name, connection, x_forwarded) in
        [("plain", None, false), ("x-forwarded", None, true), ("keep-alive", Some("keep-alive"), true)]
    {
        let forwarding = forwarding(x_forwarded);
        c.bench_function(&format!("to_engine/{name}"), |b| {
            b.iter_batched_ref(
                || request(connection),
                |request| to_engine(request, &peer, &forwarding),
                BatchSize::SmallInput,
            );
        });
    }
    c.bench_function("to_caller", |b| {
        let response = || Response::builder().header("content-type", "audio/wav").body(()).unwrap();
        b.iter_batched_ref(response, |response| to_caller(response, Version::HTTP_11), BatchSize::SmallInput);
    });
    let paths = ["/", "/invocations", "/v1/rime-tts"].map(String::from);
    let recognition = Recognition::new(Surface::Http, &paths);
    for (name, path) in [("plain", "/v1/rime-tts"), ("escaped", "/v1/rime%2Dtts")] {
        let request = Request::post(path).body(()).unwrap();
        c.bench_function(&format!("recognise/{name}"), |b| b.iter(|| recognition.of(black_box(&request))));
    }
    let body =
        br#"{"text":"Thank you for calling.","speaker":"luna","modelId":"arcana","samplingRate":24000}"#;
    c.bench_function("speech", |b| b.iter(|| Speech::from_json(black_box(body))));
}

criterion_group!(benches, heads);
criterion_main!(benches);
