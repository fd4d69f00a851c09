//! Which text makes a run, and which `done` ends it.

use super::*;

#[test]
fn text_without_the_end_of_a_sentence_is_held_and_starts_nothing() {
    let mut bench = ws3("bySentence");
    assert!(bench.caller(PART).is_empty());
    assert!(bench.session.held_bytes() > 0);
    assert_eq!((bench.session.running(), bench.session.queued()), (0, 0));
    let run = asked(&bench.caller(HELLO));
    assert_eq!(to_engine(&bench.grant(run)), [PART, HELLO]);
}

#[test]
fn a_flush_of_held_text_starts_a_run_under_every_segment() {
    for segment in ["never", "bySentence", ""] {
        let mut bench = ws3(segment);
        assert!(bench.caller(PART).is_empty(), "{segment}");
        let run = asked(&bench.caller(FLUSH));
        assert_eq!(to_engine(&bench.grant(run)), [PART, FLUSH]);
        assert_eq!(ended(&bench.engine(DONE))[0].measured.outcome, Outcome::Ok);
    }
}

#[test]
fn any_text_starts_a_run_when_immediate() {
    let mut bench = ws3("immediate");
    assert!(bench.caller(r#"{"text":" "}"#).is_empty());
    asked(&bench.caller(PART));
}

#[test]
fn what_cannot_be_read_may_be_text_and_needs_a_slot() {
    for json in
        [r#"{"text":"Hello.","x":NaN}"#, "Hello", r#"{"text":7}"#, r#"{"text":"a","text":"b"}"#, r#"["x"]"#]
    {
        asked(&ws3("bySentence").caller(json));
    }
    asked(&ws3("never").caller(r#"{"text":"Hello","operation":"FLUSH"}"#));
    let other = r#"{"future":1}"#;
    assert_eq!(ws3("immediate").caller(other), [Action::ToEngine(text(other))]);
}

#[test]
fn under_never_each_flush_is_a_run_of_its_own_and_one_runs_at_a_time() {
    let mut bench = ws3("never");
    assert!(bench.caller(HELLO).is_empty());
    let first = asked(&bench.caller(FLUSH));
    assert!(bench.caller(PART).is_empty() && bench.caller(FLUSH).is_empty());
    assert_eq!(bench.session.queued(), 2);
    assert_eq!(to_engine(&bench.grant(first)), [HELLO, FLUSH]);
    bench.engine(CHUNK);
    let actions = bench.engine(DONE);
    let [Action::Ended(end), Action::Ask(second), Action::ToCaller(_)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(end.run, first);
    assert_eq!(to_engine(&bench.grant(*second)), [PART, FLUSH]);
}

#[test]
fn a_flush_with_an_empty_buffer_makes_no_second_done() {
    let mut bench = ws3("never");
    assert_eq!(bench.caller(FLUSH), [Action::ToEngine(text(FLUSH))], "as the engine alone would see it");
    bench.caller(HELLO);
    let run = asked(&bench.caller(FLUSH));
    assert!(bench.caller(FLUSH).is_empty(), "a queued run needs no second one");
    assert_eq!(to_engine(&bench.grant(run)), [HELLO, FLUSH]);
    assert!(bench.caller(FLUSH).is_empty(), "nor does a running one");
}

#[test]
fn more_text_joins_a_run_by_sentence_and_one_done_ends_it() {
    let mut bench = ws3("bySentence");
    let run = bench.sounding();
    assert_eq!(to_engine(&bench.caller(HELLO)), [HELLO]);
    assert!(bench.caller(PART).is_empty(), "half a sentence waits here");
    assert_eq!(to_engine(&bench.caller(FLUSH)), [PART, FLUSH]);
    let actions = bench.after(1_000).engine(DONE);
    assert_eq!(ended(&actions)[0].run, run);
    assert_eq!(bench.session.running(), 0);
}

#[test]
fn a_done_that_crosses_with_text_keeps_the_slot_until_the_engine_stays_silent() {
    let mut bench = ws3("bySentence");
    let run = bench.sounding();
    bench.caller(HELLO);
    let actions = bench.after(20).engine(DONE);
    assert_eq!(to_caller(&actions), [DONE]);
    assert_eq!(bench.session.running(), 1, "the engine may be about to speak the second sentence");
    bench.after(500).engine(CHUNK);
    let actions = bench.after(500).engine(DONE);
    assert_eq!(ended(&actions)[0].run, run);

    let run = bench.sounding();
    bench.caller(HELLO);
    bench.after(20).engine(DONE);
    let actions = bench.after(2_000).wants();
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome, end.engine_let_go), (run, Outcome::Ok, true));
    assert_eq!(end.measured.duration, Duration::from_millis(20), "it was over at its `done`");
}

#[test]
fn a_done_said_twice_does_not_end_the_run_that_follows() {
    let mut bench = ws3("never");
    bench.with_another_behind();
    bench.engine(CHUNK);
    let actions = bench.engine(DONE);
    let [Action::Ask(second)] = actions[actions.len() - 2..][..1] else { panic!("{actions:?}") };
    bench.grant(second);
    assert!(ended(&bench.after(1).engine(DONE)).is_empty(), "an echo of the first run's");
    bench.after(100).engine(CHUNK);
    assert_eq!(ended(&bench.after(300).engine(DONE))[0].run, second);
}

#[test]
fn one_turn_may_yield_several_dones_when_text_comes_slowly_and_each_is_a_run() {
    let mut bench = ws3("bySentence");
    let first = bench.sounding();
    assert_eq!(ended(&bench.after(500).engine(DONE))[0].run, first);
    let second = asked(&bench.after(500).caller(HELLO));
    assert_ne!(first, second);
}

#[test]
fn eos_flushes_and_nothing_is_said_after_it() {
    let mut bench = ws3("bySentence");
    bench.caller(PART);
    let run = asked(&bench.caller(EOS));
    assert!(bench.caller(HELLO).is_empty());
    assert_eq!(to_engine(&bench.grant(run)), [PART, EOS]);
    assert_eq!(ws3("never").caller(EOS), [Action::ToEngine(text(EOS))]);
}

#[test]
fn a_caller_that_broke_the_protocol_begins_nothing_and_what_runs_goes_on() {
    let mut bench = ws3("never");
    let first = bench.with_another_behind();
    bench.caller(PART);
    bench.session.caller_broke(bench.now, &mut bench.out);
    let actions = bench.wants();
    assert_eq!((actions.len(), ended(&actions)[0].phase), (1, Phase::Queued));
    assert_eq!((bench.session.queued(), bench.session.held_bytes()), (0, 0));
    bench.engine(CHUNK);
    let actions = bench.engine(DONE);
    assert_eq!((ended(&actions)[0].run, to_caller(&actions)), (first, vec![DONE.to_owned()]));
    assert_eq!(actions.len(), 2, "nothing asks");
}
