//! The bounds against what is in tables and what must hold of any bounds; the judge against what he claims.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn close(value: f64, expected: f64) {
    assert!((value - expected).abs() < 5e-4, "{value}, expected {expected}");
}

#[test]
fn the_bounds_are_those_of_the_tables() {
    // Two-sided 95 % intervals of Clopper and Pearson, each side 97.5 %.
    let confidence = Confidence::new(0.975).unwrap();
    for (good, trials, low, high) in [
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (8, 100, 0.0352, 0.1516),
        (50, 100, 0.3983, 0.6017),
    ] {
        let (lower, upper) = bounds(good, trials, confidence);
        close(lower, low);
        close(upper, high);
    }
}

#[test]
fn the_chance_is_the_sum_of_its_terms_also_where_the_first_is_too_small_for_a_number() {
    close(chance_of_at_most(1, 3, 0.5), 0.5);
    close(chance_of_at_most(0, 368, 0.01), 0.02476);
    // 0.5^5000 is no number, but the middle of the distribution is.
    close(chance_of_at_most(2_499, 5_000, 0.5), 0.4944);
    assert_eq!((chance_of_at_most(3, 3, 0.9), chance_of_at_most(0, 5, 1.0)), (1.0, 0.0));
}

fn good() -> Measured {
    let ttfb = Some(Duration::from_millis(400));
    Measured { success: true, ttfb, rtf: Some(0.9), underrun: Some(false) }
}

fn judge(target: &str) -> Judge {
    Judge::new(&target.parse().unwrap(), Confidence::default())
}

/// How many it takes until the verdict is no longer open.
fn decided_after(judge: &mut Judge, measured: &Measured) -> u64 {
    while judge.verdict() == Verdict::Undecided {
        judge.record(measured);
        assert!(judge.samples() < 100_000);
    }
    judge.samples()
}

#[test]
fn good_syntheses_alone_meet_the_guides_target_after_368_and_hopeless_ones_miss_it_after_10() {
    let mut met = judge(Target::GUIDE);
    assert_eq!(met.samples_min(), 368);
    assert_eq!((decided_after(&mut met, &good()), met.verdict()), (368, Verdict::Met));
    let slow =
        Measured { rtf: Some(1.2), ttfb: Some(Duration::from_secs(2)), underrun: Some(true), ..good() };
    let mut missed = judge(Target::GUIDE);
    assert_eq!((decided_after(&mut missed, &slow), missed.verdict()), (FIRST_LOOK, Verdict::Missed));
}

#[test]
fn one_failure_is_too_many_where_all_are_to_succeed_and_can_be_borne_where_most_are() {
    let failure = Measured { success: false, ..Measured::default() };
    for (target, verdict) in [("success:1.00", Verdict::Missed), ("success:0.95", Verdict::Met)] {
        let mut judge = judge(target);
        judge.record(&failure);
        decided_after(&mut judge, &good());
        assert_eq!(judge.verdict(), verdict, "{target}");
    }
}

#[test]
fn what_cannot_be_measured_stays_undecided() {
    let mut judge = judge("rtf:p99@1.00");
    for _ in 0..5_000 {
        judge.record(&Measured { rtf: None, ..good() });
    }
    assert_eq!(judge.verdict(), Verdict::Undecided);
    assert_eq!(judge.clauses().next().unwrap().measured, 0);
    assert_eq!(judge.bound_by().unwrap().label(), "rtf");
}

#[test]
fn what_bound_it_is_the_cause_rather_than_how_it_sounds() {
    let with = |ttfb, rtf| Measured {
        ttfb: Some(Duration::from_millis(ttfb)),
        rtf: Some(rtf),
        underrun: Some(true),
        ..good()
    };
    for (measured, label) in
        [(with(400, 1.2), "rtf"), (with(2_000, 0.9), "ttfb"), (with(400, 0.9), "underrun")]
    {
        let mut judge = judge(Target::GUIDE);
        decided_after(&mut judge, &measured);
        assert_eq!(judge.bound_by().unwrap().label(), label);
    }
    let mut judge = judge(Target::GUIDE);
    decided_after(&mut judge, &Measured::default());
    assert_eq!(judge.bound_by().unwrap().label(), "success");
}

#[test]
fn a_target_without_clauses_and_a_clause_that_asks_for_nothing_are_met() {
    for target in ["", "success:0", "ttfb:p0@1s"] {
        let mut judge = judge(target);
        assert_eq!(
            (decided_after(&mut judge, &good()), judge.verdict()),
            (FIRST_LOOK, Verdict::Met),
            "{target}"
        );
    }
}

proptest! {
    #[test]
    fn bounds_enclose_what_was_seen_and_tighten_with_more(good in 0_u64..=200, more in 1_u64..20) {
        let confidence = Confidence::default();
        let (low, high) = bounds(good, 200, confidence);
        let seen = good as f64 / 200.0;
        prop_assert!(0.0 <= low && low <= seen && seen <= high && high <= 1.0, "{low} {seen} {high}");
        let (tighter_low, tighter_high) = bounds(good * (1 + more), 200 * (1 + more), confidence);
        prop_assert!(tighter_low >= low - 1e-12 && tighter_high <= high + 1e-12);
    }

    #[test]
    fn a_bound_is_just_where_what_was_seen_has_the_chance_left(bad in 0_u64..50, good in 1_u64..2_000) {
        let trials = good + bad;
        let (low, _) = bounds(good, trials, Confidence::default());
        let chance = chance_of_at_most(bad, trials, 1.0 - low);
        prop_assert!((chance - 0.05).abs() < 1e-6, "{chance}");
    }

    #[test]
    fn both_tails_make_a_whole(successes in 0_u64..300, share in 0.001_f64..0.999) {
        let below = chance_of_at_most(successes, 300, share);
        let above = chance_of_at_most(299 - successes.min(299), 300, 1.0 - share);
        let expected = if successes >= 300 { 2.0 } else { 1.0 };
        prop_assert!((below + above - expected).abs() < 1e-9, "{below} {above}");
    }

    #[test]
    fn a_better_level_is_never_judged_worse(bad in prop::collection::vec(prop::bool::weighted(0.02), 400)) {
        let judged = |spare: bool| {
            let mut judge = judge("rtf:p99@1.00");
            let mut spared = false;
            for is_bad in &bad {
                let is_bad = if spare && *is_bad && !spared { spared = true; false } else { *is_bad };
                judge.record(&Measured { rtf: Some(if is_bad { 1.1 } else { 0.9 }), ..good() });
            }
            match judge.verdict() { Verdict::Met => 2, Verdict::Undecided => 1, Verdict::Missed => 0 }
        };
        prop_assert!(judged(true) >= judged(false));
    }
}
