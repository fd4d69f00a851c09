//! What a caller is told when it is refused, or when the engine fails, and what of its turn is swallowed.

use super::*;

#[test]
fn a_refused_run_gets_an_error_and_a_done_and_the_rest_of_its_turn_is_swallowed() {
    let mut bench = ws3("bySentence");
    let run = asked(&bench.caller(HELLO));
    assert_eq!(to_caller(&bench.refuse(run, Reason::QueueFull)), REFUSED);
    assert!(
        bench.caller(HELLO).is_empty() && bench.caller(PART).is_empty() && bench.caller(FLUSH).is_empty()
    );
    asked(&bench.caller(HELLO));

    let mut bench = Bench::json("/ws2", "bySentence");
    let run = asked(&bench.caller(r#"{"text":"Hi."}"#));
    assert_eq!(to_caller(&bench.refuse(run, Reason::QueueFull))[1], r#"{"done":true,"type":"done"}"#);
    assert!(bench.caller(FLUSH).is_empty());
    asked(&bench.caller(r#"{"text":"Hi."}"#));
}

#[test]
fn a_caller_that_never_flushes_speaks_again_after_a_pause_or_under_another_label() {
    let mut bench = ws3("bySentence");
    let run = asked(&bench.caller(HELLO));
    bench.refuse(run, Reason::QueueFull);
    assert!(bench.after(1_999).caller(HELLO).is_empty());
    let run = asked(&bench.after(2_000).caller(HELLO));
    bench.refuse(run, Reason::QueueFull);
    asked(&bench.caller(r#"{"text":"Hi.","contextId":"b"}"#));
}

#[test]
fn a_refusal_after_eos_closes_in_order() {
    let mut bench = ws3("never");
    bench.caller(HELLO);
    let first = asked(&bench.caller(FLUSH));
    bench.caller(HELLO);
    bench.caller(EOS);
    let actions = bench.refuse(first, Reason::QueueFull);
    let second = actions.iter().find_map(|action| match action {
        Action::Ask(run) => Some(*run),
        _ => None,
    });
    assert!(!actions.contains(&Action::CloseCaller(CLOSE_NORMAL)), "the second may still be spoken");
    let actions = bench.refuse(second.unwrap(), Reason::QueueFull);
    assert_eq!(to_caller(&actions), REFUSED);
    assert_eq!(
        actions[actions.len() - 2..],
        [Action::CloseCaller(CLOSE_NORMAL), Action::CloseEngine(CLOSE_NORMAL)]
    );
}

#[test]
fn a_socket_holds_so_many_bytes() {
    for segment in ["never", "bySentence"] {
        let mut bench = ws3(segment);
        let long = format!(r#"{{"text":"{}","contextId":"a"}}"#, "x".repeat(40_000));
        assert!(bench.caller(&long).is_empty());
        let actions = bench.caller(&long);
        assert_eq!(ended(&actions)[0].phase, Phase::Refused(Reason::BodyTooLarge));
        assert_eq!((to_caller(&actions).len(), bench.session.held_bytes()), (2, 0));
        assert!(bench.caller(FLUSH).is_empty());
        assert_eq!(bench.session.queued(), 0);
    }
}

#[test]
fn an_engines_error_passes_and_its_run_ends_at_done_or_in_silence() {
    let error = r#"{"type":"error","message":"no"}"#;
    let mut bench = ws3("bySentence");
    bench.sounding();
    assert_eq!(bench.engine(error), [Action::ToCaller(text(error))]);
    assert_eq!(ended(&bench.engine(DONE))[0].measured.outcome, Outcome::EngineError);
    bench.sounding();
    bench.engine(error);
    assert_eq!(ended(&bench.after(500).wants())[0].measured.outcome, Outcome::EngineError);
    assert_eq!(bench.engine(error), [Action::ToCaller(text(error))], "idle, it is only passed on");
}

#[test]
fn a_silent_engine_is_cleared_and_the_caller_is_told_once() {
    let mut bench = ws3("bySentence");
    let run = asked(&bench.caller(HELLO));
    bench.grant(run);
    let actions = bench.after(30_000).wants();
    assert_eq!(to_engine(&actions), [CLEAR]);
    assert_eq!(
        to_caller(&actions)[1],
        DONE.replace(r#""type":"done","contextId":"a""#, r#""contextId":"a","type":"done""#)
    );
    let actions = bench.engine(DONE);
    assert!(to_caller(&actions).is_empty());
    assert_eq!(ended(&actions)[0].measured.outcome, Outcome::EngineTimeout);
}
