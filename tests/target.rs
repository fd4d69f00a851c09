//! The target grammar: what `armchair` accepts, and no more.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::time::Duration;

use proptest::prelude::*;
use rime_gate::target::{Clause, Measured, Percentile, Share, Target};

fn parse(text: &str) -> Target {
    text.parse().unwrap()
}

#[test]
fn the_guides_target_is_the_default_and_its_own_canonical_text() {
    assert_eq!(parse(Target::GUIDE), Target::default());
    assert_eq!(Target::default().to_string(), Target::GUIDE);
}

#[test]
fn what_armchair_accepts_is_accepted_and_written_canonically() {
    for (text, canonical) in [
        ("", ""),
        (" , ,", ""),
        ("success:1.00,ttfb:p90@500ms,rtf:p90@1.00", "success:1.00,ttfb:p90@500ms,rtf:p90@1.00"),
        (" UNDERRUN : 0.025 , Success : 1 ", "success:1.00,underrun:0.025"),
        ("ttfb:P99.9@1.2s", "ttfb:p99.9@1200ms"),
        ("ttfb: p50 @ 20 ms", "ttfb:p50@20ms"),
        ("ttfb:p50@1 s", "ttfb:p50@1s"),
        ("ttfb:p0@1e-6s", "ttfb:p0@0.000001s"),
        ("ttfb:p99@60000ms", "ttfb:p99@60s"),
        ("rtf:p100@+1.5e0", "rtf:p100@1.50"),
        ("success:-0", "success:0.00"),
        ("rtf:p99@1,rtf:p50@0.5", "rtf:p50@0.50"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text:?}");
    }
}

#[test]
fn an_error_says_what_is_wrong_and_where() {
    let share = "a share is a number from 0.0 to 1.0";
    let percentile = "a percentile is `p` and a number from 0 to 100";
    let pair = "a percentile and its bound are written `p99@bound`";
    let factor = "a real-time factor is a number, 0 or more";
    let ttfb = "a TTFB is written `500ms` or `1.2s`";
    for (text, message, wrong) in [
        ("success", "a clause is written `name:value`", "success"),
        ("success:1, speed : 2", "a clause is one of success, ttfb, rtf, underrun", "speed"),
        ("success: 1.1 ", share, "1.1"),
        ("underrun:NaN", share, "NaN"),
        ("underrun:", share, ""),
        ("rtf:1.00", pair, "1.00"),
        ("rtf:99@1", percentile, "99"),
        ("rtf:p 99@1", percentile, "p 99"),
        ("rtf:p101@1", percentile, "p101"),
        ("rtf:p99@inf", factor, "inf"),
        ("rtf:p99@-1", factor, "-1"),
        ("ttfb:p99@1", ttfb, "1"),
        ("ttfb:p99@1.5ms", ttfb, "1.5ms"),
        ("ttfb:p99@-1s", ttfb, "-1s"),
        ("ttfb:p99@1e300s", ttfb, "1e300s"),
    ] {
        let error = text.parse::<Target>().unwrap_err();
        assert_eq!((error.message.as_str(), &text[error.span]), (message, wrong), "{text}");
    }
}

#[test]
fn a_synthesis_is_good_up_to_and_including_the_bound() {
    let target = Target::default();
    let good =
        Measured { success: true, ttfb: Some(Duration::from_secs(1)), rtf: Some(1.0), underrun: Some(false) };
    assert!(target.is_good(&good));
    for (label, measured) in [
        ("success", Measured { success: false, ..good }),
        ("ttfb", Measured { ttfb: Some(Duration::from_millis(1001)), ..good }),
        ("rtf", Measured { rtf: Some(1.01), ..good }),
        ("underrun", Measured { underrun: Some(true), ..good }),
    ] {
        assert!(!target.is_good(&measured));
        let bad = target.clauses().filter(|clause| clause.is_good(&measured) == Some(false));
        assert_eq!(bad.map(Clause::label).collect::<Vec<_>>(), [label]);
    }
}

#[test]
fn what_was_not_measured_is_counted_by_no_clause() {
    let measured = Measured { success: true, ..Measured::default() };
    let verdicts: Vec<_> = Target::default().clauses().map(|clause| clause.is_good(&measured)).collect();
    assert_eq!(verdicts, [Some(true), None, None, None]);
}

#[test]
fn the_objective_is_the_share_that_must_be_good() {
    let target = parse("success:0.99,ttfb:p95@1s,rtf:p90@1,underrun:0.25");
    let objectives: Vec<_> = target.clauses().map(Clause::objective).collect();
    assert_eq!(objectives, [0.99, 0.95, 0.9, 0.75]);
    assert_eq!(target.clauses().map(Clause::label).collect::<Vec<_>>(), Clause::LABELS);
    assert_eq!((target.ttfb_max(), target.rtf_max()), (Some(Duration::from_secs(1)), Some(1.0)));
}

fn text_of_a_target() -> impl Strategy<Value = String> {
    let share = 0.0..=1.0_f64;
    (share.clone(), 0.0..=100.0_f64, 0..86_400_000_u64, 0.0..1000.0_f64, share, 0..16_u8).prop_map(
        |(success, percentile, millis, rtf, underrun, chosen)| {
            let seconds = millis as f64 / 1000.0 + 1e-7;
            let clauses = [
                format!("success:{success}"),
                format!("ttfb:p{percentile}@{seconds}s"),
                format!("rtf:p{percentile}@{rtf}"),
                format!("underrun:{underrun}"),
            ];
            let chosen = clauses.into_iter().enumerate().filter(|(index, _)| chosen & (1 << index) != 0);
            chosen.map(|(_, clause)| clause).collect::<Vec<_>>().join(",")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn the_canonical_text_means_the_same_target(text in text_of_a_target()) {
        let target = parse(&text);
        prop_assert_eq!(parse(&target.to_string()), target);
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_every_error_lies_in_the_text(
        text in "((success|ttfb|rtf|underrun|\\PC{0,4})[: ]{0,2}(p9|@|\\PC|1s|0.5|,){0,8},?){0,4}"
    ) {
        if let Err(error) = text.parse::<Target>() {
            prop_assert!(text.get(error.span).is_some());
        }
    }

    #[test]
    fn shares_and_percentiles_hold_their_bounds(value in any::<f64>()) {
        prop_assert_eq!(Share::new(value).is_some(), (0.0..=1.0).contains(&value));
        prop_assert_eq!(Percentile::new(value).is_some(), (0.0..=100.0).contains(&value));
    }
}
