//! The benchmark against the simulated engine, in real time: what it measures is what the engine did.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use rime_gate::bench::statistics::Verdict;
use rime_gate::bench::{self, Bench, BenchError, Load, Unit};
use rime_gate::callers::Protocol;
use rime_gate::sim::{self, Engine, Faults, Profile, Settings};

async fn engine(profile: &str, faults: Faults) -> Engine {
    let grpc = Some("127.0.0.1:0".parse().unwrap());
    let profile = Profile::named(profile).unwrap();
    sim::start(Settings { grpc, profile, faults, ..Settings::default() }).await.unwrap()
}

async fn bench_at(engine: &Engine, protocol: Protocol) -> Bench {
    let address = if protocol == Protocol::Grpc { engine.grpc().unwrap() } else { engine.address() };
    let bench = Bench::at(&format!("http://{address}")).await.unwrap();
    let pause = Duration::ZERO;
    Bench { protocol, pause, ..bench }
}

#[tokio::test]
async fn so_many_are_always_in_flight_on_every_protocol() {
    for protocol in [Protocol::Http, Protocol::V1, Protocol::WsJson, Protocol::Grpc] {
        let engine = engine("test-fast", Faults::default()).await;
        let mut bench = bench_at(&engine, protocol).await;
        bench.quest.target = "success:1.00,ttfb:p90@1s".parse().unwrap();
        let level = bench::measure(&bench, Load::InFlight(7), &mut |_| {}).await;
        assert_eq!(level.judge.verdict(), Verdict::Met, "{protocol:?} {:?}", level.samples.failures());
        assert_eq!((engine.counts().syntheses.peak, level.peak), (7, 7), "{protocol:?}");
        // The first seven are not told, and some were still running in the end.
        let (told, begun) = (level.samples.count(), engine.counts().syntheses.total);
        assert!((told + 7..=told + 28).contains(&begun), "{protocol:?}: {told} {begun}");
        engine.kill().await;
    }
}

#[tokio::test]
async fn an_engine_that_fails_one_synthesis_misses_and_success_is_what_bound_it() {
    let engine = engine("test-fast", Faults { error_rate: 0.3, ..Faults::default() }).await;
    let bench = bench_at(&engine, Protocol::Http).await;
    let level = bench::measure(&bench, Load::InFlight(4), &mut |_| {}).await;
    assert_eq!(level.judge.verdict(), Verdict::Missed);
    assert_eq!(level.judge.bound_by().unwrap().label(), "success");
    assert!(
        level.samples.failures().keys().any(|why| why.starts_with("500")),
        "{:?}",
        level.samples.failures()
    );
    engine.kill().await;
}

#[tokio::test]
async fn an_engine_that_serves_nobody_has_no_limit_but_an_error() {
    let engine = engine("test-fast", Faults { refuse: Some(503), ..Faults::default() }).await;
    let bench = bench_at(&engine, Protocol::Http).await;
    let error = bench::find_limit(&bench, Unit::InFlight, &mut |_| {}).await.unwrap_err();
    assert!(matches!(&error, BenchError::Unserved { why, .. } if why.contains("503")), "{error}");
    engine.kill().await;
}
