//! The benchmark against the simulated engine, in real time: what it measures is what the engine did.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

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

fn bench(arguments: &[&str]) -> Output {
    running::output(running::program().arg("bench").args(arguments))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_search_ends_in_a_number_a_file_and_a_page_that_a_browser_shows_without_a_network() {
    let engine = running::Engine::start(&["--profile", "edge-20"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Short texts and a soft target, so that it takes seconds.
    std::fs::write(path("texts"), "All right.\nOne moment.\n").unwrap();
    let url = format!("http://{}", engine.address);
    let output = bench(&[
        &url,
        "--texts",
        &path("texts"),
        "--target",
        "success:0.9,ttfb:p90@1s,rtf:p90@0.70",
        "--pause",
        "100ms",
        "--json",
        &path("json"),
        "--report",
        &path("page.html"),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(path("json")).unwrap()).unwrap();
    let limit = report["max_concurrency"].as_u64().unwrap();
    assert!((10..=40).contains(&limit), "{report}");
    assert_eq!((&report["bound_by"], &report["bound_certain"]), (&"rtf".into(), &true.into()), "{report}");
    assert!((0.08..0.3).contains(&report["initial_latency_seconds"].as_f64().unwrap()), "{report}");
    let levels = report["levels"].as_array().unwrap();
    let at = |level: u64| levels.iter().find(|found| found["level"] == level).unwrap();
    assert_eq!((&at(limit)["met"], &at(limit + 1)["met"]), (&true.into(), &false.into()));
    for figure in ["mean", "p50", "p90", "p99"] {
        assert!(at(limit)["ttfb_seconds"][figure].as_f64().unwrap() > 0.0, "{report}");
        assert!(at(limit)["rtf"][figure].as_f64().unwrap() > 0.0, "{report}");
    }
    assert!(
        said(&output).contains(&format!("=== MAXIMUM IN FLIGHT FOUND: {limit} ===")),
        "{}",
        said(&output)
    );
    shows(&path("page.html"), &format!("Limit: {limit} in flight. Bound by rtf."), levels.len());
}

#[test]
fn a_search_over_sessions_ends_at_the_greatest_that_may_be_tried_where_all_keep_the_target() {
    let engine = running::Engine::start(&["--profile", "test-fast"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // What is said is played, too.
    std::fs::write(path("texts"), "Hi.\n").unwrap();
    let url = format!("http://{}", engine.address);
    let (texts, json) = (path("texts"), path("json"));
    let mut arguments =
        vec![&url[..], "--sessions", "auto", "--level-max", "6", "--texts", &texts, "--json", &json];
    arguments.extend(["--target", "success:0.9", "--confidence", "0.8", "--pause", "50ms"]);
    arguments.extend(["--think-mean", "20ms", "--think-deviation", "10ms", "--think-max", "40ms"]);
    let output = bench(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("=== MAXIMUM SESSIONS FOUND: 6 ==="), "{}", said(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&report["load"], &report["max_concurrency"]), (&"sessions".into(), &6.into()), "{report}");
    // They listen most of the time.
    assert!(engine.count("/syntheses/peak") <= 6);
}

/// A real browser makes of the page what it is meant to be.
fn shows(page: &str, verdict: &str, levels: usize) {
    let source = std::fs::read_to_string(page).unwrap();
    for outside in ["<script", "<link", "src=", "href=", "url(", "@import"] {
        assert!(!source.contains(outside), "{outside} in the page");
    }
    let browser = |argument: &str| {
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,1400", argument]);
        let profile = tempfile::tempdir().unwrap();
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(format!("file://{page}"));
        running::output(&mut command)
    };
    let dom = String::from_utf8(browser("--dump-dom").stdout).unwrap();
    assert!(dom.contains(verdict), "{dom}");
    assert_eq!(dom.matches("<svg ").count(), 2, "{dom}");
    assert_eq!(dom.matches("<polyline ").count(), 6, "{dom}");
    assert_eq!(dom.matches("class=\"target\"").count(), 2, "{dom}");
    assert_eq!(dom.matches("class=\"limit\"").count(), 2, "{dom}");
    // Three percentiles of each level in each picture, and three in each key.
    assert_eq!(dom.matches("<circle ").count(), 2 * (3 * levels + 3), "{dom}");
    let picture = format!("{page}.png");
    browser(&format!("--screenshot={picture}"));
    let image = std::fs::read(&picture).unwrap();
    assert!(image.starts_with(b"\x89PNG") && image.len() > 20_000, "{} bytes", image.len());
}

#[test]
fn an_engine_that_is_busy_is_not_measured_unless_that_is_wanted() {
    let engine = running::Engine::start(&["--profile", "edge-20"]);
    let url = format!("http://{}", engine.address);
    let other = running::Running::start(running::program().args(["bench", &url, "--in-flight", "3"]));
    running::eventually("the other is at work", || engine.count("/syntheses/running") == 3);
    let output = bench(&[&url, "--in-flight", "1", "--samples", "10"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("/statusz counts 3 running already; --allow-busy"), "{}", said(&output));
    let output = bench(&[&url, "--in-flight", "1", "--samples", "10", "--allow-busy"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("Initial latency: "), "{}", said(&output));
    other.kill();
}

#[test]
fn through_a_gate_its_wait_and_its_refusals_are_told() {
    let engine = running::Engine::start(&["--profile", "edge-20"]);
    let gate = running::Gate::start(&engine, &["--concurrency-max", "2", "--queue-max", "2"]);
    let (url, admin) = (format!("http://{}", gate.address), gate.admin.to_string());
    let output = bench(&[&url, "--in-flight", "8", "--through", "--admin-address", &admin]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = said(&output);
    assert!(told.contains("Gate: limit 2, admitted ") && told.contains("Gate refused: "), "{told}");
    assert!(told.contains("Refused: ") && told.contains("queue_full"), "{told}");
    assert!(told.contains("Verdict: missed (success:1.00)"), "{told}");
}

#[test]
fn arrivals_at_a_rate_are_counted_from_when_they_were_due() {
    let engine = running::Engine::start(&["--profile", "test-fast"]);
    let url = format!("http://{}", engine.address);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("json").to_str().unwrap().to_owned();
    let output = bench(&[&url, "--rate", "40", "--level-time", "8s", "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["rate_per_second"], 40.0);
    // Three seconds after the warm-up, 120 on average: 70 to 170 is beyond four deviations.
    let samples = report["levels"][0]["samples"].as_u64().unwrap();
    assert!((70..=170).contains(&samples), "{samples}");
}

#[test]
fn what_cannot_be_meant_is_wrong_use() {
    for arguments in [
        &["https://127.0.0.1:1"][..],
        &["http://127.0.0.1:1", "--target", "ttfb:fast"],
        &["http://127.0.0.1:1", "--in-flight", "1", "--rate", "2"],
        &["http://127.0.0.1:1", "--confidence", "1"],
        &["http://127.0.0.1:1", "--lang", "tlh"],
        &["http://127.0.0.1:1", "--texts", "/no/such/file"],
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
    let output = bench(&["http://127.0.0.1:1", "--json", "/no/such/folder/json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cannot write /no/such/folder/json"), "{}", said(&output));
}
