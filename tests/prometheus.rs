//! A real Prometheus scrapes the gate, and its queries return what callers heard. `tests/install` brings Prometheus.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod promtool;
mod running;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use promtool::promtool;
use running::{Engine, Gate, Running, eventually, get, output};
use serde_json::Value;

const SYNTHESES: u32 = 8;

struct Prometheus {
    process: Running,
    address: SocketAddr,
}

impl Prometheus {
    /// Scrapes the gate every second, with the rules of `deploy/`.
    #[track_caller]
    fn start(gate: &Gate, directory: &Path) -> Self {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/rules.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{rules}']\n\
             scrape_configs:\n  - job_name: rime-gate\n    static_configs: [{{ targets: ['{}'] }}]\n",
            gate.metrics
        );
        let file = directory.join("prometheus.yaml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        let mut process = Running::start(command.arg("--web.listen-address=127.0.0.1:0"));
        let line = process.says("msg=\"Listening on\"");
        let address = line.rsplit_once("address=").unwrap().1.parse().unwrap();
        process.says("Server is ready to receive web requests.");
        Self { process, address }
    }

    /// The answer's `data`.
    #[track_caller]
    fn ask(&self, path: &str, query: &str) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.address);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--get", "--max-time", "10"]);
        let said = output(command.args(["--data-urlencode", &format!("query={query}"), &url]));
        assert!(said.status.success(), "{query}: {}", String::from_utf8_lossy(&said.stderr));
        let answer: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].clone()
    }

    /// The one number that a query returns, as soon as there is one.
    #[track_caller]
    fn number(&self, query: &str) -> Option<f64> {
        let data = self.ask("query", query);
        let result = data["result"].as_array().unwrap();
        assert!(result.len() <= 1, "{query} returns more than one: {data}");
        let number: f64 = result.first()?["value"][1].as_str().unwrap().parse().unwrap();
        number.is_finite().then_some(number)
    }

    /// Waits until a query returns a number that is right.
    #[track_caller]
    fn finds(&self, query: &str, right: impl Fn(f64) -> bool) {
        let mut last = None;
        eventually(&format!("{query} is right"), || {
            last = self.number(query);
            last.is_some_and(&right)
        });
    }
}

#[track_caller]
fn synthesise(gate: &Gate, times: u32) {
    let url = format!("http://{}/", gate.address);
    let body = r#"{"text":"Hello there, this is a turn.","speaker":"astra","modelId":"arcana"}"#;
    let calls: Vec<_> = (0..times)
        .map(|_| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--fail", "--max-time", "60", "--header", "accept: audio/wav"]);
            Running::start(command.args(["--data", body, "--output", "/dev/null", &url]))
        })
        .collect();
    for call in calls {
        assert_eq!(call.ends(), Some(0));
    }
}

#[test]
fn a_real_prometheus_returns_the_quantiles_and_counts_of_what_callers_heard() {
    let engine = Engine::start(&["--profile", "edge-20"]);
    let gate = Gate::start(&engine, &["--concurrency-max", "8"]);
    let directory = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(&gate, directory.path());
    // An increase is one from what was seen before.
    prometheus.finds("sum(rime_gate_requests_total)", |count| count == 0.0);
    synthesise(&gate, SYNTHESES);

    // The engine's own: a TTFB of 110 ms for one caller and 300 ms for twenty, an RTF of 0.2 to 1.
    for share in ["0.5", "0.99"] {
        let quantile = |family: &str| {
            format!("histogram_quantile({share}, sum by (le) (rate(rime_gate_{family}_bucket[1m])))")
        };
        prometheus.finds(&quantile("ttfb_seconds"), |seconds| (0.05..=1.0).contains(&seconds));
        prometheus.finds(&quantile("upstream_ttfb_seconds"), |seconds| (0.05..=1.0).contains(&seconds));
        prometheus.finds(&quantile("rtf_ratio"), |ratio| (0.1..=1.0).contains(&ratio));
    }
    let all = f64::from(SYNTHESES);
    for counter in [
        r#"sum(rime_gate_requests_total{protocol="http",model="arcana",code="200",outcome="ok"})"#,
        r#"sum(rime_gate_rtf_ratio_count{model="arcana"})"#,
        r#"sum(rime_gate_slo_events_total{slo="rtf"})"#,
        r#"sum(rime_gate_slo_good_total{slo="success"})"#,
    ] {
        prometheus.finds(counter, |count| count == all);
    }
    prometheus.finds("sum(rime_gate_audio_seconds_total)", |seconds| seconds > all);
    prometheus.finds("rime_gate_concurrency_limit", |limit| limit == 8.0);
    prometheus.finds("sum(rime_gate_inflight_syntheses)", |inflight| inflight == 0.0);
    prometheus.finds("sum(rime_gate_refusals_total)", |refused| refused == 0.0);
    prometheus.finds(r#"rime_gate_engine_up{engine="engine"}"#, |up| up == 1.0);
    prometheus.finds(r#"up{job="rime-gate"}"#, |up| up == 1.0);

    let (content, said) = promtool(directory.path(), &["check", "metrics"], &get(gate.metrics, "/metrics"));
    assert!(content && said.is_empty(), "promtool check metrics:\n{said}");

    assert_eq!(prometheus.process.terminate(), Some(0));
    assert_eq!(gate.process.terminate(), Some(0));
    assert_eq!(engine.process.terminate(), Some(0));
}

#[test]
fn a_real_prometheus_evaluates_every_rule_and_calls_when_the_engine_goes() {
    let engine = Engine::start(&["--profile", "test-fast"]);
    let gate = Gate::start(&engine, &[]);
    let directory = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(&gate, directory.path());
    let rules = || -> Vec<Value> {
        let data = prometheus.ask("rules", "");
        let groups = data["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    };
    eventually("every rule has been evaluated", || {
        let rules = rules();
        rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok")
    });
    let state = |name: &str| rules().into_iter().find(|rule| rule["name"] == name).unwrap()["state"].clone();
    assert_eq!(state("RimeGateEngineDown"), "inactive");
    assert_eq!(engine.process.terminate(), Some(0));
    // It fires after half a minute.
    eventually("the alert is pending", || state("RimeGateEngineDown") == "pending");
    assert_eq!(prometheus.process.terminate(), Some(0));
    assert_eq!(gate.process.terminate(), Some(0));
}
