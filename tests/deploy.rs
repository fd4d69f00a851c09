//! What `deploy/` promises: every piece is valid for the tool that reads it, and all say what the defaults say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod promtool;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use promtool::promtool;
use rime_gate::config::{Config, Overrides};
use rime_gate::metrics;
use rime_gate::refusal::Reason;
use yaml_rust2::{Yaml, YamlLoader};

fn deploy() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy"))
}

fn text(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap()
}

fn yaml(path: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&text(path)).unwrap()
}

fn defaults() -> Config {
    Config::read("proxy.toml", "", &Overrides::default()).unwrap().config
}

fn list<'a>(yaml: &'a Yaml, key: &str) -> &'a [Yaml] {
    yaml[key].as_vec().unwrap_or_else(|| panic!("no {key} in {yaml:?}"))
}

fn string<'a>(yaml: &'a Yaml, key: &str) -> &'a str {
    yaml[key].as_str().unwrap_or_else(|| panic!("no {key} in {yaml:?}"))
}

fn number(yaml: &Yaml) -> u64 {
    u64::try_from(yaml.as_i64().unwrap()).unwrap()
}

#[track_caller]
fn assert_promtool_content(arguments: &[&str]) {
    let (content, said) = promtool(&deploy().join("prometheus"), arguments, "");
    assert!(content, "promtool {arguments:?}:\n{said}");
}

/// The object of this kind and name in the Pod's file.
fn kubernetes(kind: &str, name: &str) -> Yaml {
    let found = yaml("kubernetes/pod.yaml").into_iter().find(|object| {
        object["kind"].as_str() == Some(kind) && object["metadata"]["name"].as_str() == Some(name)
    });
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn gate_container() -> Yaml {
    kubernetes("Pod", "rime")["spec"]["initContainers"][0].clone()
}

fn model_container() -> Yaml {
    kubernetes("Pod", "rime")["spec"]["containers"][0].clone()
}

/// The configuration in the Pod's file.
fn pod_config() -> Config {
    let map = kubernetes("ConfigMap", "rime-gate");
    let checked = Config::read("proxy.toml", string(&map["data"], "proxy.toml"), &Overrides::default());
    let checked = checked.unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(checked.warnings.count(), 0, "{}", checked.warnings.render(false));
    checked.config
}

/// Every alert with the expression behind it.
fn alerts() -> Vec<Yaml> {
    let rules = yaml("prometheus/rules.yaml");
    let groups = list(&rules[0], "groups").iter();
    let rules = groups.flat_map(|group| list(group, "rules"));
    rules.filter(|rule| !rule["alert"].is_badvalue()).cloned().collect()
}

/// The words in a text that begin with `start`.
fn words<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(start))
        .collect()
}

#[test]
fn prometheus_takes_the_scrape_configuration_and_the_rules() {
    assert_promtool_content(&["check", "config", "scrape.yaml"]);
    assert_promtool_content(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"]);
}

#[test]
fn the_rules_call_for_what_they_should_and_for_nothing_else() {
    assert_promtool_content(&["test", "rules", "rules.test.yaml"]);
}

#[test]
fn every_alert_is_tested_firing_and_silent() {
    let tests = yaml("prometheus/rules.test.yaml");
    let tests = list(&tests[0], "tests").iter().flat_map(|test| list(test, "alert_rule_test"));
    let (silent, firing): (Vec<_>, Vec<_>) = tests.partition(|test| list(test, "exp_alerts").is_empty());
    let names = |tests: &[&Yaml]| -> BTreeSet<String> {
        tests.iter().map(|test| string(test, "alertname").to_owned()).collect()
    };
    let all: BTreeSet<_> = alerts().iter().map(|alert| string(alert, "alert").to_owned()).collect();
    assert!(all.len() >= 10);
    assert_eq!(names(&firing), all);
    assert_eq!(names(&silent), all);
}

#[test]
fn every_alert_says_what_happened_and_what_to_do() {
    for alert in alerts() {
        let name = string(&alert, "alert");
        assert!(["page", "ticket"].contains(&string(&alert["labels"], "severity")), "{name}");
        assert!(string(&alert["annotations"], "summary").starts_with("{{ $labels.instance }}: "), "{name}");
        assert!(string(&alert["annotations"], "action").ends_with('.'), "{name}");
        assert!(!string(&alert, "for").is_empty(), "{name}");
    }
}

#[test]
fn every_metric_and_label_value_in_deploy_is_one_of_the_gates() {
    let known: BTreeSet<_> = metrics::families().map(|family| family.name).collect();
    for file in ["prometheus/rules.yaml", "prometheus/rules.test.yaml", "README.md"] {
        let text = text(file);
        let used = words(&text, metrics::PREFIX);
        assert!(!used.is_empty(), "{file}");
        for name in used {
            assert!(known.contains(name), "{file}: {name} is no metric");
        }
    }
    let full: BTreeSet<_> =
        Reason::ALL.iter().filter(|reason| reason.is_full()).map(|reason| reason.answer().label).collect();
    let alerts = alerts();
    let refuses = alerts.iter().find(|alert| string(alert, "alert") == "RimeGateRefuses").unwrap();
    let expression = string(refuses, "expr");
    let (_, rest) = expression.split_once("reason=~\"").unwrap();
    let (reasons, _) = rest.split_once('"').unwrap();
    assert_eq!(reasons.split('|').collect::<BTreeSet<_>>(), full);
}

#[test]
fn prometheus_scrapes_the_metrics_port_under_the_job_that_the_rules_know() {
    let port = defaults().metrics.address.port();
    let scrape = yaml("prometheus/scrape.yaml");
    let [machines, pods] = list(&scrape[0], "scrape_configs") else { panic!("two jobs") };
    assert_eq!(string(machines, "job_name"), "rime-gate");
    assert_eq!(machines["static_configs"][0]["targets"][0].as_str(), Some(&*format!("127.0.0.1:{port}")));
    let discovery = &pods["dns_sd_configs"][0];
    assert_eq!(number(&discovery["port"]), u64::from(port));
    let service = discovery["names"][0].as_str().unwrap().split('.').next().unwrap();
    assert_eq!(kubernetes("Service", service)["spec"]["clusterIP"].as_str(), Some("None"));
    let relabel = &pods["relabel_configs"][0];
    assert_eq!((string(relabel, "target_label"), string(relabel, "replacement")), ("job", "rime-gate"));
    assert!(text("prometheus/rules.yaml").contains(r#"up{job="rime-gate"}"#));
}

#[test]
fn the_pod_opens_the_default_ports_and_closes_the_engines() {
    let (defaults, config) = (defaults(), pod_config());
    let speech = u64::from(defaults.listeners[0].address.port());
    let metrics = u64::from(defaults.metrics.address.port());
    assert_eq!(config.listeners, defaults.listeners);
    assert_eq!(config.metrics.address, defaults.metrics.address);
    assert_eq!(config.engine.http, defaults.engine.http);
    let port = |container: &Yaml, name: &str| {
        let ports = list(container, "ports");
        number(&ports.iter().find(|port| string(port, "name") == name).unwrap()["containerPort"])
    };
    let gate = gate_container();
    assert_eq!((port(&gate, "speech"), port(&gate, "metrics")), (speech, metrics));
    let engine = format!("http://127.0.0.1:{}", port(&model_container(), "engine"));
    assert_eq!(config.engine.http.to_string().trim_end_matches('/'), engine);
    assert_eq!(number(&kubernetes("Service", "rime")["spec"]["ports"][0]["port"]), speech);
    let policy = kubernetes("NetworkPolicy", "rime");
    let open: Vec<_> =
        list(&policy["spec"]["ingress"][0], "ports").iter().map(|port| number(&port["port"])).collect();
    assert_eq!(open, [speech, metrics]);
    for object in ["rime", "rime-gate-metrics"].map(|name| kubernetes("Service", name)) {
        let selector = &object["spec"]["selector"];
        assert_eq!(*selector, kubernetes("Pod", "rime")["metadata"]["labels"], "{object:?}");
    }
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], kubernetes("Pod", "rime")["metadata"]["labels"]);
}

#[test]
fn the_pods_gate_is_a_sidecar_that_the_model_does_not_wait_for_in_vain() {
    let gate = gate_container();
    assert_eq!((string(&gate, "name"), string(&gate, "restartPolicy")), ("rime-gate", "Always"));
    // The model starts after the startup probe: /readyz would wait for the model, and the model for it.
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        let get = &gate[probe]["httpGet"];
        assert_eq!((string(get, "path"), string(get, "port")), (path, "metrics"), "{probe}");
    }
    let arguments: Vec<_> = list(&gate, "args").iter().map(|argument| argument.as_str().unwrap()).collect();
    let mount = &gate["volumeMounts"][0];
    assert_eq!(arguments, ["run", "--config", &format!("{}/proxy.toml", string(mount, "mountPath"))]);
    let volume = &kubernetes("Pod", "rime")["spec"]["volumes"][0];
    assert_eq!(string(volume, "name"), string(mount, "name"));
    assert_eq!(string(&volume["configMap"], "name"), "rime-gate");
}

#[test]
fn the_pods_model_outlives_the_gates_drain_and_both_end_within_the_grace_period() {
    let drain = pod_config().limits.drain_timeout.as_secs();
    let hook = &gate_container()["lifecycle"]["preStop"]["exec"]["command"];
    let script = hook[2].as_str().unwrap();
    let pause = script.strip_prefix("sleep ").and_then(|rest| rest.strip_suffix("; kill -TERM 1")).unwrap();
    let pause: u64 = pause.parse().unwrap();
    let model_stays = number(&model_container()["lifecycle"]["preStop"]["sleep"]["seconds"]);
    let grace = number(&kubernetes("Pod", "rime")["spec"]["terminationGracePeriodSeconds"]);
    assert!(model_stays >= pause + drain, "{model_stays} s are less than {pause} s and {drain} s");
    assert!(grace >= model_stays + 10, "{grace} s leave the model no time to stop");
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_confined() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("rime-gate.service");
    // systemd looks whether the program is there.
    let text = text("systemd/rime-gate.service")
        .replace("/usr/local/bin/rime-gate run", concat!(env!("CARGO_BIN_EXE_rime-gate"), " run"));
    fs::write(&unit, text).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output();
        let output = output.expect("systemd-analyze is needed: apt-get install systemd");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "systemd-analyze {arguments:?}:\n{said}");
        said
    };
    let said = analyze(&["verify", "--man=no"]);
    assert!(said.is_empty(), "{said}");
    // Out of 100, the most exposed.
    analyze(&["security", "--offline=true", "--threshold=15", "--no-pager"]);
}

#[test]
fn the_unit_waits_longer_than_the_drain_and_opens_more_than_the_connections() {
    let (limits, unit) = (defaults().limits, text("systemd/rime-gate.service"));
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
        line.trim_end_matches('s').parse::<u64>().unwrap()
    };
    assert!(value("TimeoutStopSec") >= limits.drain_timeout.as_secs() + 5);
    assert!(value("LimitNOFILE") >= 2 * u64::try_from(limits.connections_max).unwrap());
    assert!(unit.contains("\nType=notify\n"));
}

#[test]
fn the_readme_names_every_piece_and_the_default_ports() {
    let (readme, defaults) = (text("README.md"), defaults());
    for piece in [
        "systemd/rime-gate.service",
        "kubernetes/pod.yaml",
        "prometheus/scrape.yaml",
        "prometheus/rules.yaml",
    ] {
        assert!(readme.contains(&format!("({piece})")), "{piece}");
    }
    for address in [defaults.listeners[0].address, defaults.metrics.address, defaults.admin.address] {
        assert!(readme.contains(&format!("\n| {} | ", address.port())), "{address}");
    }
}
