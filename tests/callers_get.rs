//! What callers get: an open load at 1, 1.5 and 3 times what the limit can serve, through a gate that nobody tuned,
//! to an engine whose RTF passes 1 just above the limit.
//!
//! A synthesis is good when all its audio came, its TTFB (the wait included) was at most 1 s, its RTF at most 1, and
//! playback never ran dry. What is asked for is the good ones' share of what the engine could have served.
//!
//! `RIME_GATE_TEST_SECONDS` shortens the minute that each load lasts. `RIME_GATE_TEST_PEERS=1` also measures the same
//! load without a gate and through `haproxy`, if it is installed, for the table in the README.
//! The load is made over HTTP, and then by 120 agents with a v1 socket each; `RIME_GATE_TEST_PROTOCOL=ws-json` (or any
//! other) measures that protocol alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod before;

use std::num::NonZeroU32;
use std::time::Duration;

use before::{Before, Row, Scene, haproxy_is_installed};
use rime_gate::callers::{Protocol, SENTENCES};

const LIMIT: NonZeroU32 = NonZeroU32::new(20).unwrap();
const SEED: u64 = 20;
/// Load, and the least share of capacity that must be good.
const BOUNDS: [(f64, f64); 3] = [(1.0, 0.93), (1.5, 0.95), (3.0, 0.95)];
/// What says how much a queue can smooth out: [`SENTENCES`] hold a slot for about 1.5 s. The longer that is, the fewer
/// slots come free in the time a caller can wait, and the more of a load of 1 is lost to chance, whoever decides.
const TEXTS: &[&str] = &SENTENCES;
#[test]
fn an_untuned_gate_keeps_an_overloaded_engine_as_useful_as_it_can_be() {
    let seconds = std::env::var("RIME_GATE_TEST_SECONDS").ok().map_or(60, |value| value.parse().unwrap());
    let seconds = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for protocol in protocols() {
        println!("{protocol:?}: before, load, share of capacity, counts, TTFB and RTF of those let in:");
        let gated = runtime.block_on(measure(Before::Gate, protocol, seconds));
        if std::env::var_os("RIME_GATE_TEST_PEERS").is_some() {
            for peer in [Before::Haproxy(1_000), Before::Haproxy(700), Before::Nothing] {
                if peer == Before::Nothing || haproxy_is_installed() {
                    runtime.block_on(measure(peer, protocol, seconds));
                }
            }
        }
        for (row, (load, bound)) in gated.iter().zip(BOUNDS) {
            assert_eq!(row.peak, u64::from(LIMIT.get()), "most at once in the engine at {load} times");
            assert!(
                row.share >= bound,
                "{protocol:?}: at {load} times the capacity {:.3} of it was good, not {bound}\n{}",
                row.share,
                row.notes
            );
        }
    }
}

/// All three loads at the same time, each with an engine of its own; printed row by row.
async fn measure(before: Before, protocol: Protocol, seconds: Duration) -> Vec<Row> {
    let scene = Scene {
        profile: "edge-20",
        limit: LIMIT,
        protocol,
        load: 1.0,
        warm_up: Duration::from_secs(5),
        seconds,
        texts: TEXTS,
        seed: SEED,
    };
    let [one, half, three] = BOUNDS.map(|(load, _)| Scene { load, ..scene });
    let (one, half, three) = tokio::join!(one.measure(before), half.measure(before), three.measure(before));
    let rows = vec![one, half, three];
    for row in &rows {
        println!("{row}");
        print!("{}", row.notes);
    }
    rows
}

/// The protocols that are measured, one after the other.
fn protocols() -> Vec<Protocol> {
    match std::env::var("RIME_GATE_TEST_PROTOCOL") {
        Ok(name) => vec![clap::ValueEnum::from_str(&name, false).unwrap()],
        Err(_) => vec![Protocol::Http, Protocol::V1],
    }
}
