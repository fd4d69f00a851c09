//! What Prometheus reads from the gate: complete from the start, bounded for ever, in its own conventions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod promtool;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use promtool::promtool;
use rime_gate::audio::{Format, Unknown};
use rime_gate::meter::{Measured, Outcome};
use rime_gate::metrics::{self, Levels, Metrics, Protocol, Settings};
use rime_gate::refusal::Reason;

const HTTP: Protocol = Protocol::Http;

/// Samples by name and labels, as they stand in the text.
#[derive(Debug)]
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(metrics: &Metrics, now: Instant, levels: &Levels) -> Self {
        let text = metrics.render(now, levels);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
        let samples = samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect();
        Self { text, samples }
    }

    /// The sample `rime_gate_` + `name`.
    #[track_caller]
    fn get(&self, name: &str) -> f64 {
        let name = format!("rime_gate_{name}");
        *self.samples.get(&name).unwrap_or_else(|| panic!("no {name} in\n{}", self.text))
    }

    /// Everything of one family, added up.
    fn sum(&self, name: &str) -> f64 {
        let start = format!("rime_gate_{name}{{");
        self.samples.iter().filter(|(sample, _)| sample.starts_with(&start)).map(|(_, value)| value).sum()
    }

    /// Without the process' own, which differ from one scrape to the next.
    fn series(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }
}

fn start() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
    Instant::now()
}

fn settings() -> Settings {
    Settings { models: vec!["arcana".into(), "coda".into()], ..Settings::default() }
}

fn target(slo: &str) -> Settings {
    Settings { target: slo.parse().unwrap(), ..settings() }
}

fn fresh(settings: &Settings) -> Scrape {
    Scrape::of(&Metrics::new(settings), start(), &Levels::default())
}

fn synthesis() -> Measured {
    Measured {
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
    }
}

/// Everything that may happen, once.
fn fill(metrics: &Metrics, now: Instant) {
    for name in [None, Some("arcana"), Some("coda"), Some("mist"), Some("Arcana")] {
        let model = metrics.model(name);
        for outcome in Outcome::ALL {
            for code in
                [0, 99, 200, 201, 302, 400, 418, 429, 499, 500, 502, 503, 504, 599, 600, 999, u16::MAX]
            {
                for format in Format::ALL {
                    metrics.finished(now, HTTP, model, code, &Measured { outcome, format, ..synthesis() });
                }
            }
        }
        for why in Unknown::ALL {
            metrics.finished(now, HTTP, model, 200, &Measured { rtf: Err(why), ..synthesis() });
        }
        for reason in Reason::ALL {
            metrics.refused(HTTP, model, reason, Duration::from_millis(3));
            metrics.turned_away(HTTP, reason);
        }
        metrics.caller_left_queue(HTTP, model, Duration::from_millis(30));
        metrics.chunk_gap(HTTP, Duration::from_millis(20));
    }
}

#[track_caller]
fn assert_clean(text: &str) {
    let (clean, said) = promtool(Path::new("."), &["check", "metrics"], text);
    assert!(clean && said.is_empty(), "{said}\n{text}");
}

#[test]
fn promtool_finds_nothing_in_a_fresh_gate() {
    assert_clean(&fresh(&settings()).text);
}

#[test]
fn promtool_finds_nothing_in_a_gate_where_everything_happened() {
    let (metrics, now) = (Metrics::new(&settings()), start());
    fill(&metrics, now);
    let levels = Levels {
        limit: 32,
        inflight: [33, 0, 0, 0, 0],
        engine_up: vec![true],
        engine_reported_utilization: vec![Some(1.25)],
        draining: true,
        ..Levels::default()
    };
    assert_clean(&Scrape::of(&metrics, now, &levels).text);
}

#[test]
fn promtool_finds_nothing_without_a_target_models_or_engines() {
    let bare = Settings { models: vec![], engines: vec![], ..target("") };
    let (metrics, now) = (Metrics::new(&bare), start());
    assert_clean(&Scrape::of(&metrics, now, &Levels::default()).text);
    fill(&metrics, now);
    let scrape = Scrape::of(&metrics, now, &Levels::default());
    assert_clean(&scrape.text);
    assert!(!scrape.text.contains("_slo_"), "{}", scrape.text);
}

#[test]
fn promtool_would_find_a_fault() {
    let (clean, _) = promtool(Path::new("."), &["check", "metrics"], "# TYPE a counter\na 1\n");
    assert!(!clean);
}

#[test]
fn every_value_of_a_closed_label_is_there_from_the_start_at_zero() {
    let scrape = fresh(&settings());
    let mut expected = Vec::new();
    for reason in Reason::ALL {
        expected.push(format!("refusals_total{{protocol=\"http\",reason=\"{}\"}}", reason.answer().label));
    }
    for outcome in Outcome::ALL {
        expected.push(format!(
            "synthesis_duration_seconds_count{{outcome=\"{}\",protocol=\"http\"}}",
            outcome.label()
        ));
    }
    for why in Unknown::ALL {
        expected.push(format!("rtf_unknown_total{{reason=\"{}\"}}", why.label()));
    }
    for outcome in ["admitted", "refused", "caller_gone"] {
        expected.push(format!("queue_wait_seconds_count{{outcome=\"{outcome}\"}}"));
    }
    for slo in ["success", "ttfb", "rtf", "underrun"] {
        expected.push(format!("slo_events_total{{slo=\"{slo}\"}}"));
        expected.push(format!("slo_good_total{{slo=\"{slo}\"}}"));
    }
    for model in ["arcana", "coda", "other"] {
        for family in ["ttfb_seconds_count", "upstream_ttfb_seconds_count", "rtf_ratio_count"] {
            expected.push(format!("{family}{{model=\"{model}\",protocol=\"http\"}}"));
        }
        for format in Format::ALL {
            let labels = format!("{{format=\"{}\",model=\"{model}\",protocol=\"http\"}}", format.label());
            expected.push(format!("audio_seconds_total{labels}"));
            expected.push(format!("audio_bytes_total{labels}"));
        }
        for (code, outcome) in [
            (200, "ok"),
            (429, "refused"),
            (503, "refused"),
            (200, "caller_gone"),
            (499, "caller_gone"),
            (502, "engine_error"),
            (504, "engine_timeout"),
            (200, "engine_timeout"),
            (200, "truncated"),
        ] {
            expected.push(format!(
                "requests_total{{code=\"{code}\",model=\"{model}\",outcome=\"{outcome}\",protocol=\"http\"}}"
            ));
        }
    }
    expected.extend(
        ["chunk_gap_seconds_count", "streams_with_underrun_total", "inflight_syntheses"]
            .map(|family| format!("{family}{{protocol=\"http\"}}")),
    );
    for name in expected {
        assert_eq!(scrape.get(&name), 0.0, "{name}");
    }
    assert_eq!(scrape.get(r#"slo_target{slo="ttfb"}"#), 0.99);
    assert_eq!(scrape.get(r#"slo_target{slo="underrun"}"#), 1.0);
    assert!(scrape.get(r#"window_ttfb_seconds{percentile="99"}"#).is_nan());
    assert!(scrape.get(r#"window_rtf_ratio{percentile="50"}"#).is_nan());
    assert_eq!(scrape.get(concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}")), 1.0);
}

#[test]
fn the_table_is_what_is_scraped_no_more_and_no_less() {
    let scrape = fresh(&settings());
    let lines = |kind: &str| -> BTreeMap<_, _> {
        let start = format!("# {kind} ");
        let lines = scrape.text.lines().filter_map(|line| line.strip_prefix(&start));
        lines.map(|line| line.split_once(' ').unwrap()).collect()
    };
    let (types, helps) = (lines("TYPE"), lines("HELP"));
    let table = || metrics::families();
    assert_eq!(types, table().map(|family| (family.name, family.kind.label())).collect());
    assert_eq!(helps, table().map(|family| (family.name, family.help)).collect());
    for family in table() {
        let samples = scrape.samples.keys().filter_map(|sample| sample.strip_prefix(family.name));
        let labels: BTreeSet<_> = samples
            .filter_map(|rest| {
                let rest = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|part| rest.strip_prefix(part))
                    .unwrap_or(rest);
                rest.strip_prefix('{')?.strip_suffix('}')
            })
            .flat_map(|labels| labels.split(',').map(|label| label.split_once('=').unwrap().0))
            .filter(|label| *label != "le")
            .collect();
        assert_eq!(labels, family.labels.iter().copied().collect(), "{}", family.name);
    }
}

#[test]
fn names_and_helps_keep_to_the_conventions() {
    let mut seen = BTreeSet::new();
    for family in metrics::families() {
        let (name, kind, help) = (family.name, family.kind.label(), family.help);
        assert!(seen.insert(name), "{name} is there twice");
        assert!(name.starts_with(metrics::PREFIX) || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(
            help.ends_with('.') && help.starts_with(|first: char| !first.is_lowercase()),
            "{name}: {help}"
        );
        assert!(!help.contains(['|', '\n', '\\']), "{name}: {help}");
        if kind == "histogram" {
            assert!(name.ends_with("_seconds") || name.ends_with("_ratio"), "{name} has no base unit");
        }
        assert!(!family.labels.iter().any(|label| ["le", "quantile"].contains(label)), "{name}");
    }
}

#[test]
fn the_markdown_table_has_a_line_for_each_family() {
    let table = metrics::markdown();
    assert_eq!(table.lines().count(), 2 + metrics::families().count());
    assert!(table.lines().all(|line| line.matches('|').count() == 5), "{table}");
    assert!(table.contains("| `rime_gate_ttfb_seconds` | histogram | `protocol`, `model` | "), "{table}");
}

#[test]
fn histograms_have_an_edge_at_the_guides_target_and_at_the_configured_one() {
    let edge = |settings: &Settings, family: &str, le: &str| {
        let sample = format!("rime_gate_{family}_bucket{{model=\"coda\",protocol=\"http\",le=\"{le}\"}}");
        fresh(settings).samples.contains_key(&sample)
    };
    let own = target("ttfb:p95@730ms,rtf:p90@0.87");
    for settings in [&settings(), &own] {
        assert!(edge(settings, "ttfb_seconds", "1") && edge(settings, "upstream_ttfb_seconds", "1"));
        assert!(edge(settings, "rtf_ratio", "1"));
    }
    assert!(edge(&own, "ttfb_seconds", "0.73") && edge(&own, "rtf_ratio", "0.87"));
    assert!(!edge(&settings(), "ttfb_seconds", "0.73") && !edge(&settings(), "rtf_ratio", "0.87"));
}

#[test]
fn a_synthesis_exactly_at_the_target_lies_below_its_edge_and_is_good() {
    let (metrics, now) = (Metrics::new(&target("ttfb:p99@730ms,rtf:p99@0.87")), start());
    let at_the_edge = Measured { ttfb: Some(Duration::from_millis(730)), rtf: Ok(0.87), ..synthesis() };
    metrics.finished(now, HTTP, metrics.model(Some("coda")), 200, &at_the_edge);
    let scrape = Scrape::of(&metrics, now, &Levels::default());
    assert_eq!(scrape.get(r#"ttfb_seconds_bucket{model="coda",protocol="http",le="0.73"}"#), 1.0);
    assert_eq!(scrape.get(r#"rtf_ratio_bucket{model="coda",protocol="http",le="0.87"}"#), 1.0);
    assert_eq!(
        (scrape.get(r#"slo_good_total{slo="ttfb"}"#), scrape.get(r#"slo_good_total{slo="rtf"}"#)),
        (1.0, 1.0)
    );
}

#[test]
fn a_good_synthesis_is_in_every_family_once() {
    let (metrics, now) = (Metrics::new(&settings()), start());
    metrics.finished(now, HTTP, metrics.model(Some("arcana")), 200, &synthesis());
    let scrape = Scrape::of(&metrics, now, &Levels::default());
    let of = |family: &str| scrape.get(&format!("{family}{{model=\"arcana\",protocol=\"http\"}}"));
    assert_eq!(scrape.get(r#"requests_total{code="200",model="arcana",outcome="ok",protocol="http"}"#), 1.0);
    assert_eq!(scrape.sum("requests_total"), 1.0);
    assert_eq!(
        (of("ttfb_seconds_sum"), of("upstream_ttfb_seconds_sum"), of("rtf_ratio_sum")),
        (0.55, 0.4, 0.5)
    );
    assert_eq!(scrape.get(r#"queue_wait_seconds_sum{outcome="admitted"}"#), 0.15);
    assert_eq!(scrape.get(r#"synthesis_duration_seconds_sum{outcome="ok",protocol="http"}"#), 2.55);
    let wav = r#"{format="wav",model="arcana",protocol="http"}"#;
    assert_eq!(scrape.get(&format!("audio_seconds_total{wav}")), 4.0);
    assert_eq!(scrape.get(&format!("audio_bytes_total{wav}")), 192_044.0);
    assert_eq!((scrape.sum("slo_events_total"), scrape.sum("slo_good_total")), (4.0, 4.0));
    assert_eq!((scrape.sum("refusals_total"), scrape.sum("rtf_unknown_total")), (0.0, 0.0));
    assert_eq!(scrape.sum("streams_with_underrun_total"), 0.0);
    // In steps of at most 0.8 %.
    let window = scrape.get(r#"window_ttfb_seconds{percentile="50"}"#);
    assert!((0.546..=0.55).contains(&window), "{window}");
}

#[test]
fn each_refusal_is_one_request_with_the_code_that_was_sent_and_no_event_of_the_target() {
    for status_when_full in [429, 503] {
        let metrics = Metrics::new(&Settings { status_when_full, ..settings() });
        let model = metrics.model(Some("arcana"));
        metrics.refused(HTTP, model, Reason::QueueFull, Duration::ZERO);
        metrics.refused(HTTP, model, Reason::QueueTimeout, Duration::from_millis(700));
        metrics.refused(HTTP, model, Reason::EngineUnavailable, Duration::ZERO);
        let scrape = Scrape::of(&metrics, start(), &Levels::default());
        let sent = |code: u16| {
            scrape.get(&format!(
                "requests_total{{code=\"{code}\",model=\"arcana\",outcome=\"refused\",protocol=\"http\"}}"
            ))
        };
        assert_eq!((sent(status_when_full), sent(502)), (2.0, 1.0));
        assert_eq!(scrape.get(r#"refusals_total{protocol="http",reason="queue_full"}"#), 1.0);
        assert_eq!(scrape.sum("refusals_total"), 3.0);
        assert_eq!(scrape.get(r#"queue_wait_seconds_count{outcome="refused"}"#), 3.0);
        assert_eq!(scrape.get(r#"queue_wait_seconds_sum{outcome="refused"}"#), 0.7);
        assert_eq!((scrape.sum("slo_events_total"), scrape.sum("rtf_unknown_total")), (0.0, 0.0));
    }
}

#[test]
fn an_error_text_is_neither_audio_nor_a_ttfb() {
    let (metrics, now) = (Metrics::new(&settings()), start());
    let error = Measured {
        outcome: Outcome::EngineError,
        format: Format::Unknown,
        rtf: Err(Unknown::Incomplete),
        ..synthesis()
    };
    metrics.finished(now, HTTP, metrics.model(None), 500, &error);
    let scrape = Scrape::of(&metrics, now, &Levels::default());
    assert_eq!(scrape.get(r#"ttfb_seconds_count{model="other",protocol="http"}"#), 0.0);
    assert_eq!((scrape.sum("audio_seconds_total"), scrape.sum("audio_bytes_total")), (0.0, 0.0));
    assert!(scrape.get(r#"window_ttfb_seconds{percentile="99"}"#).is_nan());
    assert_eq!(scrape.get(r#"slo_events_total{slo="success"}"#), 1.0);
    assert_eq!(scrape.get(r#"slo_good_total{slo="success"}"#), 0.0);
}

#[test]
fn whatever_happens_every_end_is_counted_once_and_everyone_let_in_has_an_rtf_or_a_reason() {
    let (metrics, now) = (Metrics::new(&settings()), start());
    fill(&metrics, now);
    let scrape = Scrape::of(&metrics, now, &Levels::default());
    let requests = scrape.sum("requests_total");
    assert!(requests > 1000.0);
    assert_eq!(requests, scrape.sum("synthesis_duration_seconds_count"));
    assert_eq!(requests, scrape.sum("queue_wait_seconds_count"));
    let let_in = scrape.get(r#"queue_wait_seconds_count{outcome="admitted"}"#);
    assert_eq!(let_in, scrape.sum("rtf_ratio_count") + scrape.sum("rtf_unknown_total"));
    assert!(scrape.sum("slo_good_total") <= scrape.sum("slo_events_total"));
}

#[test]
fn callers_cannot_make_series() {
    let (metrics, now) = (Metrics::new(&settings()), start());
    fill(&metrics, now);
    let before = Scrape::of(&metrics, now, &Levels::default());
    for number in 0..1000_u16 {
        let model = metrics.model(Some(&format!("model-{number}")));
        assert_eq!(model, metrics.model(None));
        metrics.finished(now, HTTP, model, 600 + number, &synthesis());
    }
    assert_eq!(before.series(), Scrape::of(&metrics, now, &Levels::default()).series());
}

#[test]
fn a_list_of_models_that_is_too_long_ends_in_other() {
    let models: Vec<_> = (0..100).map(|number| format!("m{number}")).collect();
    let metrics = Metrics::new(&Settings { models, ..settings() });
    assert_ne!(metrics.model(Some("m63")), metrics.model(None));
    assert_eq!(metrics.model(Some("m64")), metrics.model(None));
    metrics.finished(start(), HTTP, metrics.model(Some("m99")), 200, &synthesis());
    let scrape = Scrape::of(&metrics, start(), &Levels::default());
    assert_eq!(scrape.get(r#"rtf_ratio_count{model="other",protocol="http"}"#), 1.0);
}

#[test]
fn levels_are_those_of_the_scrape() {
    let metrics = Metrics::new(&settings());
    let busy = Levels {
        limit: 32,
        inflight: [16, 5, 2, 0, 1],
        queue_depth: 5,
        queue_capacity: 64,
        oldest_synthesis_age: Duration::from_millis(2500),
        websocket_sessions: 7,
        engine_up: vec![true],
        engine_reported_utilization: vec![Some(0.75)],
        draining: true,
        live: None,
        in_flight_of_late: rime_gate::admission::Levels {
            peak: 9,
            p50: 3,
            p90: 6,
            p99: 8,
            ..Default::default()
        },
    };
    let scrape = Scrape::of(&metrics, start(), &busy);
    for (name, value) in [
        ("concurrency_limit", 32.0),
        (r#"inflight_syntheses{protocol="http"}"#, 16.0),
        (r#"inflight_syntheses{protocol="v1"}"#, 5.0),
        (r#"inflight_syntheses{protocol="ws-json"}"#, 2.0),
        (r#"inflight_syntheses{protocol="ws-binary"}"#, 0.0),
        (r#"inflight_syntheses{protocol="grpc"}"#, 1.0),
        (r#"window_inflight_syntheses{percentile="99"}"#, 8.0),
        (r#"window_inflight_syntheses{percentile="100"}"#, 9.0),
        ("websocket_sessions", 7.0),
        ("utilization_ratio", 0.75),
        ("queue_depth", 5.0),
        ("queue_capacity", 64.0),
        ("oldest_synthesis_age_seconds", 2.5),
        (r#"engine_up{engine="engine"}"#, 1.0),
        (r#"engine_reported_utilization_ratio{engine="engine"}"#, 0.75),
        ("draining", 1.0),
    ] {
        assert_eq!(scrape.get(name), value, "{name}");
    }
    let idle = Levels {
        limit: 32,
        engine_up: vec![false],
        engine_reported_utilization: vec![None],
        ..Levels::default()
    };
    let scrape = Scrape::of(&metrics, start(), &idle);
    assert_eq!(scrape.get(r#"inflight_syntheses{protocol="http"}"#), 0.0);
    assert_eq!(scrape.get(r#"engine_up{engine="engine"}"#), 0.0);
    assert!(scrape.get(r#"engine_reported_utilization_ratio{engine="engine"}"#).is_nan());
    assert_eq!((scrape.get("utilization_ratio"), scrape.get("draining")), (0.0, 0.0));
}
