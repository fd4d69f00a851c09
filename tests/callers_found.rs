//! What callers get at the limit that `bench` and `tune` find: an open load over HTTP at 1.5 and 3 times what the reference
//! engine can serve at 32 in flight, with the texts of `bench`. `tests/found_limit.rs` is the same in pure time, where no
//! machine can be busy.
//!
//! `RIME_GATE_TEST_SECONDS` sets how long each load lasts. `RIME_GATE_TEST_PEERS=1` also measures the same load
//! through `haproxy` with `maxconn 32`, if it is installed, for the table in the README.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod before;

use std::num::NonZeroU32;
use std::time::Duration;

use before::{Before, Row, Scene, haproxy_is_installed};
use rime_gate::bench::texts;
use rime_gate::callers::Protocol;

/// What `bench` finds, and where `tune` ends.
const LIMIT: NonZeroU32 = NonZeroU32::new(32).unwrap();
const LOADS: [f64; 2] = [1.5, 3.0];
/// A slot is held for about ten seconds.
const WARM_UP: Duration = Duration::from_secs(10);

/// Both loads at the same time, each with an engine of its own; printed row by row.
async fn measure(before: Before, seconds: Duration) -> [Row; 2] {
    let texts = texts::built_in("eng").unwrap().into_iter().map(|words| &*words.text.leak());
    let scene = Scene {
        profile: "h100-arcana-v2",
        limit: LIMIT,
        protocol: Protocol::Http,
        load: 1.0,
        warm_up: WARM_UP,
        seconds,
        texts: texts.collect::<Vec<_>>().leak(),
        seed: 32,
    };
    let [half, three] = LOADS.map(|load| Scene { load, ..scene }.measure(before));
    let rows = tokio::join!(half, three);
    for row in [&rows.0, &rows.1] {
        let figure = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let (ttfb, rtf) = (figure(row.tally.ttfb_seconds(100.0)), figure(row.tally.rtf(100.0)));
        println!("{row}  greatest TTFB {ttfb:.2} RTF {rtf:.2}");
    }
    rows.into()
}

#[test]
fn at_the_limit_that_was_found_whoever_is_let_in_is_served_within_the_target() {
    let seconds = std::env::var("RIME_GATE_TEST_SECONDS").ok().map_or(20, |value| value.parse().unwrap());
    let seconds = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let gated = runtime.block_on(measure(Before::Gate, seconds));
    let peers = std::env::var_os("RIME_GATE_TEST_PEERS").is_some();
    if peers && haproxy_is_installed() {
        for queue_ms in [1_000, 250] {
            runtime.block_on(measure(Before::Haproxy(queue_ms), seconds));
        }
    }
    // It falls behind in no time.
    let bare = runtime.block_on(measure(Before::Nothing, if peers { seconds } else { seconds / 2 }));
    for row in &gated {
        assert_eq!(row.peak, u64::from(LIMIT.get()), "most at once in the engine");
        let tally = &row.tally;
        let bad = tally.missed + tally.failed + tally.unfinished();
        // All of them are served within the target, says tests/found_limit.rs. Here a busy machine may stop for longer
        // than the 240 ms that are heard before the next sound comes.
        assert!(
            tally.good > 20 * bad,
            "{bad} were let in and not served within the target: {row}\n{}",
            row.notes
        );
    }
    for row in &bare {
        assert!(row.share < 0.2, "an engine that nobody protects does not fall behind: {row}");
    }
}
