//! `rime-gate demo` in a few seconds: the file it writes, and that it shows what it claims.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

/// The table on standard output, and the file.
fn demonstrate(protocol: &str) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.json");
    let run = Command::new(env!("CARGO_BIN_EXE_rime-gate"))
        .args(["demo", "--seconds", "10", "--protocol", protocol, "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{table}{}", String::from_utf8_lossy(&run.stderr));
    (table, serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap())
}

#[test]
fn the_demonstration_shows_more_callers_served_with_the_gate_than_without() {
    // One after the other: each wants the machine for itself.
    for protocol in ["http", "v1"] {
        shows(protocol);
    }
}

fn shows(protocol: &str) {
    let (table, report) = demonstrate(protocol);
    assert_eq!(report["protocol"], protocol);
    for phase in ["without", "with"] {
        for count in ["offered", "good", "refused", "underrun", "engine_peak"] {
            assert!(report[phase][count].is_u64(), "{phase}.{count}: {report}");
        }
        for figure in ["ttfb_p50_seconds", "ttfb_p99_seconds", "rtf_p99"] {
            assert!(report[phase][figure].as_f64().unwrap() > 0.0, "{phase}.{figure}: {report}");
        }
    }
    let (without, with, limit) = (&report["without"], &report["with"], &report["limit"]);
    let count = |value: &Value| value.as_u64().unwrap();
    assert_eq!(without["offered"], with["offered"], "both phases are offered the same: {report}");
    assert_eq!(count(&with["engine_peak"]), count(limit), "the gate fills the engine to its limit: {report}");
    assert!(count(&without["engine_peak"]) > count(limit), "{report}");
    assert_eq!(count(&without["refused"]), 0, "nobody refuses without the gate: {report}");
    assert!(count(&with["good"]) > count(&without["good"]), "{table}");
    for row in ["served within the target", "underrun", "refused", "TTFB p99", "RTF p99", "simulated"] {
        assert!(table.contains(row), "{row}: {table}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_runs() {
    let run = Command::new(env!("CARGO_BIN_EXE_rime-gate"))
        .args(["demo", "--json", "/no/such/folder/demo.json"])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("cannot write /no/such/folder/demo.json"), "{said}");
}
