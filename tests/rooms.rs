//! Holds the direction of rooms: each uses only rooms of its own level or below, and the pure ones know no runtime,
//! no sockets and no clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down, as in the crate's documentation.
const LEVELS: [&[&str]; 5] = [
    &["cli", "bench", "demo", "gate", "check", "tune"],
    &["listener", "admin", "callers", "sim"],
    &["relay", "stream"],
    &["admission", "engine", "metrics"],
    PURE,
];

const PURE: &[&str] = &["advice", "audio", "config", "meter", "protocol", "refusal", "slo", "target"];

/// What a pure room must not know.
const IMPURE: [&str; 6] = ["tokio::", "hyper::", "tracing::", "prometheus::", "std::env", "SystemTime::now"];

fn level(room: &str) -> usize {
    let found = LEVELS.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| panic!("`{room}` has no level: give it one here and in src/lib.rs"))
}

/// Every source file with its room.
fn files() -> Vec<(String, PathBuf)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&source, &mut found);
    let room = |path: &Path| {
        let first = path.strip_prefix(&source).unwrap().components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    let files = found.into_iter().map(|path| (room(&path), path));
    files.filter(|(room, _)| !matches!(room.as_str(), "lib" | "main")).collect()
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The rooms that a file names, as `crate::room`.
fn used(code: &str) -> Vec<String> {
    let after = code.split("crate::").skip(1);
    let name =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms: Vec<_> = after.map(name).filter(|name| !name.is_empty()).collect();
    rooms.sort();
    rooms.dedup();
    rooms
}

#[test]
fn a_room_uses_only_rooms_of_its_level_or_below() {
    let mut wrong = Vec::new();
    for (room, path) in files() {
        for used in used(&code(&path)) {
            if level(&used) < level(&room) {
                wrong.push(format!("{} ({room}) uses {used}, which is above it", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn admission_knows_refusals_and_nothing_else_of_the_house() {
    for (room, path) in files() {
        if room == "admission" {
            let mut used = used(&code(&path));
            used.retain(|used| !matches!(used.as_str(), "admission" | "refusal"));
            assert_eq!(used, Vec::<String>::new(), "{}", path.display());
        }
    }
}

#[test]
fn the_pure_rooms_know_no_runtime_no_sockets_and_no_clock() {
    let mut wrong = Vec::new();
    for (room, path) in files() {
        if PURE.contains(&room.as_str()) {
            let code = code(&path);
            wrong.extend(
                IMPURE.iter().filter(|impure| code.contains(**impure)).map(|impure| (path.clone(), *impure)),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_scheduler_the_simulated_gpu_and_the_statistics_are_pure_too() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in [
        "admission/scheduler.rs",
        "admission/estimate.rs",
        "admission/levels.rs",
        "admission/queue.rs",
        "bench/hunt.rs",
        "bench/page.rs",
        "bench/report.rs",
        "bench/sample.rs",
        "bench/search.rs",
        "bench/statistics.rs",
        "bench/texts.rs",
        "sim/gpu.rs",
    ] {
        let code = code(&source.join(file));
        for impure in IMPURE {
            assert!(!code.contains(impure), "{file} knows {impure}");
        }
    }
}
