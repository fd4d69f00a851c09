//! Decides whether an engine is at work for others already: a benchmark beside them would measure both. Knows what an
//! idle engine says of itself, and how a single synthesis ought to go.
//!
//! Three signs, each enough by itself:
//!
//! - `GET /statusz` counts running syntheses (the simulated engine has it, in this form);
//! - the engine's load report (ORCA, `endpoint-load-metrics`) does not grow in proportion: of two syntheses begun
//!   together the report of one alone is half, unless there are others;
//! - a synthesis alone already misses the target's TTFB or RTF, or three in a row differ by more than twice: whoever is
//!   alone hears the same every time.

use std::net::SocketAddr;

use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::Bench;
use super::load::Crowd;
use super::sample::Sample;
use crate::callers::{Heard, Protocol, ask, call_and_report};
use crate::target::Target;

/// Probes, one after the other. The first is not judged: the engine may be cold.
const PROBES: usize = 4;
/// The slowest probe may take so many times as long as the quickest.
const SPREAD_MAX: f64 = 2.0;
/// Shorter TTFBs than this differ by chance.
const SPREAD_FROM_SECONDS: f64 = 0.05;

/// Why the engine seems busy; nothing if it does not.
///
/// # Cancel safety
/// Dropping it hangs up.
pub(super) async fn busy(bench: &Bench, crowd: &Crowd) -> Option<String> {
    if let Some(running) = running(bench.address).await.filter(|running| *running > 0) {
        return Some(format!("its /statusz counts {running} running already"));
    }
    let mut probes = Vec::new();
    for _ in 0..PROBES {
        probes.push(crowd.once().await);
    }
    if let Some(why) = far_off(&probes[1..], &bench.quest.target) {
        return Some(why);
    }
    if bench.protocol != Protocol::Http {
        return None;
    }
    let (alone, beside) = reports(bench).await?;
    let others = others(alone, beside)?;
    (others > 0).then(|| format!("by its load report, {others} others run already"))
}

/// What `/statusz` counts, where there is one.
async fn running(address: SocketAddr) -> Option<u64> {
    let answer = ask(address, Method::GET, "/statusz", String::new()).await.ok()?;
    let status: Value = serde_json::from_slice(&answer).ok()?;
    status.pointer("/syntheses/running")?.as_u64()
}

/// The engine's load report with one synthesis of ours, and with two.
async fn reports(bench: &Bench) -> Option<(f64, f64)> {
    let call = || call_and_report(bench.address, &bench.manner, Instant::now(), &bench.texts[0]);
    let (_, alone): (Heard, _) = call().await;
    let ((_, one), (_, other)) = tokio::join!(call(), call());
    Some((alone?, one?.max(other?)))
}

/// How many others run, by the reports with one and with two of ours.
fn others(alone: f64, beside: f64) -> Option<u64> {
    let share_of_one = beside - alone;
    if share_of_one <= 0.0 || alone <= 0.0 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
    let others = (alone / share_of_one - 1.0).round().max(0.0) as u64;
    Some(others)
}

/// Why probes do not look like syntheses that are alone.
fn far_off(probes: &[Sample], target: &Target) -> Option<String> {
    let ttfbs: Vec<f64> = probes.iter().filter_map(|probe| Some(probe.ttfb?.as_secs_f64())).collect();
    let quickest = ttfbs.iter().copied().fold(f64::INFINITY, f64::min);
    let slowest = ttfbs.iter().copied().fold(0.0, f64::max);
    let ttfb_max = target.ttfb_max().map_or(f64::INFINITY, |ttfb| ttfb.as_secs_f64());
    let rtf = probes.iter().filter_map(|probe| probe.rtf).fold(0.0, f64::max);
    if quickest.is_finite() && quickest > ttfb_max {
        Some(format!("a synthesis alone is heard after {quickest:.3} s, and the target allows {ttfb_max} s"))
    } else if target.rtf_max().is_some_and(|rtf_max| rtf > rtf_max) {
        Some(format!("a synthesis alone has an RTF of {rtf:.2}"))
    } else if slowest > SPREAD_FROM_SECONDS && slowest > quickest * SPREAD_MAX {
        Some(format!(
            "a synthesis alone is heard after {quickest:.3} s once, and after {slowest:.3} s another time"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_load_report_tells_others_from_ones_own() {
        assert_eq!(others(1.0 / 32.0, 2.0 / 32.0), Some(0));
        assert_eq!(others(0.5, 1.0), Some(0), "an engine with a capacity of 2");
        assert_eq!(others(11.0 / 32.0, 12.0 / 32.0), Some(10));
        assert_eq!(others(0.3, 0.3), None, "a report that does not move tells nothing");
    }

    #[test]
    fn probes_that_are_slow_or_unsteady_are_not_alone() {
        let probe = |ms, rtf| Sample {
            success: true,
            ttfb: Some(Duration::from_millis(ms)),
            rtf: Some(rtf),
            ..Sample::default()
        };
        let target = Target::default();
        let busy = |probes: &[Sample]| far_off(probes, &target);
        assert_eq!(busy(&[probe(380, 0.3), probe(430, 0.3), probe(400, 0.3)]), None);
        assert_eq!(busy(&[probe(3, 0.1), probe(20, 0.1)]), None);
        assert!(busy(&[probe(1_200, 0.3), probe(1_300, 0.3)]).unwrap().contains("the target allows 1 s"));
        assert!(busy(&[probe(400, 1.1)]).unwrap().contains("RTF of 1.10"));
        assert!(busy(&[probe(400, 0.3), probe(900, 0.3)]).unwrap().contains("another time"));
    }
}
