//! What writing down costs: once a synthesis, once a chunk, once a scrape.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rime_gate::audio::Format;
use rime_gate::meter::{Measured, Outcome};
use rime_gate::metrics::{Levels, Metrics, Protocol, Settings};
use rime_gate::refusal::Reason;

const HTTP: Protocol = Protocol::Http;

fn writing(c: &mut Criterion) {
    #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
    let origin = Instant::now();
    let metrics = Metrics::new(&Settings::default());
    let model = metrics.model(Some("arcana"));
    let synthesis = Measured {
        outcome: Outcome::Ok,
        format: Format::Wav,
        queue_wait: Duration::from_millis(150),
        ttfb: Some(Duration::from_millis(550)),
        upstream_ttfb: Some(Duration::from_millis(400)),
        rtf: Ok(0.5),
        rtf_between: None,
        audio: Duration::from_secs(4),
        bytes: 192_044,
        underrun: Some(false),
        duration: Duration::from_millis(2550),
    };
    let mut now = origin;
    c.bench_function("finished", |b| {
        b.iter(|| {
            // 100 a second: the window turns as it does in life.
            now += Duration::from_millis(10);
            metrics.finished(now, HTTP, model, 200, black_box(&synthesis));
        });
    });
    c.bench_function("refused", |b| {
        b.iter(|| metrics.refused(HTTP, model, Reason::QueueFull, black_box(Duration::ZERO)));
    });
    c.bench_function("chunk_gap", |b| {
        b.iter(|| metrics.chunk_gap(HTTP, black_box(Duration::from_millis(40))));
    });
    c.bench_function("model", |b| b.iter(|| metrics.model(black_box(Some("mistv3")))));
    // The lock is held for this long of a scrape.
    c.bench_function("window", |b| b.iter(|| metrics.window(now)));
    let levels = Levels { limit: 32, engine_up: vec![true], ..Levels::default() };
    c.bench_function("render", |b| b.iter(|| metrics.render(now, &levels)));
}

criterion_group!(benches, writing);
criterion_main!(benches);
