//! What `clear` drops, and how long a cleared run keeps its slot.

use super::*;

#[test]
fn an_idle_clear_is_free() {
    let mut bench = ws3("bySentence");
    let run = bench.sounding();
    assert_eq!(ended(&bench.engine(DONE))[0].run, run);
    assert_eq!(bench.caller(CLEAR), [Action::ToEngine(text(CLEAR))]);
    assert_eq!(bench.session.deadline(), None);
    asked(&bench.caller(HELLO));
}

#[test]
fn a_clear_drops_held_text_and_withdraws_a_queued_run() {
    let mut bench = ws3("bySentence");
    bench.caller(PART);
    assert_eq!(to_engine(&bench.caller(CLEAR)), [CLEAR]);
    assert_eq!(bench.session.held_bytes(), 0);
    let run = asked(&bench.caller(HELLO));
    let actions = bench.caller(CLEAR);
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.phase, end.measured.outcome), (run, Phase::Queued, Outcome::CallerGone));
    assert!(to_caller(&actions).is_empty());
    assert!(bench.grant(run).is_empty());
}

#[test]
fn a_clear_of_a_running_run_ends_at_done_or_in_silence_or_when_the_audio_is_over() {
    // The engine stops, and says so.
    let mut bench = ws3("bySentence");
    bench.sounding();
    bench.caller(CLEAR);
    let actions = bench.after(100).engine(DONE);
    assert_eq!(
        (ended(&actions)[0].measured.outcome, ended(&actions)[0].engine_let_go),
        (Outcome::CallerGone, true)
    );

    // It stops, and says nothing.
    bench.sounding();
    bench.caller(CLEAR);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_millis(500)));
    let actions = bench.after(500).wants();
    assert!(!ended(&actions)[0].engine_let_go);

    // It does not stop.
    let run = asked(&bench.caller(HELLO));
    bench.grant(run);
    bench.engine(CHUNK);
    bench.caller(CLEAR);
    for _ in 0..10 {
        assert!(ended(&bench.after(400).engine(CHUNK)).is_empty());
    }
    assert_eq!(ended(&bench.engine(DONE))[0].run, run);
}

#[test]
fn text_after_a_clear_waits_for_the_end_of_the_cleared_run() {
    let mut bench = ws3("bySentence");
    bench.sounding();
    bench.caller(CLEAR);
    assert!(bench.caller(HELLO).is_empty());
    let actions = bench.after(500).wants();
    assert!(matches!(actions[..], [Action::Ended(_), Action::Ask(_)]), "{actions:?}");
}

#[test]
fn a_done_that_comes_after_the_cleared_run_was_given_up_does_not_end_the_next() {
    let mut bench = ws3("bySentence");
    bench.sounding();
    bench.caller(CLEAR);
    bench.after(500).wants();
    let run = asked(&bench.caller(HELLO));
    bench.grant(run);
    assert_eq!(bench.engine(DONE), [Action::ToCaller(text(DONE))]);
    bench.engine(CHUNK);
    assert_eq!(ended(&bench.engine(DONE))[0].run, run);

    // Under another label it is known even when the next run sounds.
    bench.sounding();
    bench.caller(CLEAR);
    bench.after(500).wants();
    let run = asked(&bench.caller(r#"{"text":"Hi.","contextId":"b"}"#));
    bench.grant(run);
    bench.engine(r#"{"type":"chunk","contextId":"b","data":"AAAA"}"#);
    assert!(ended(&bench.engine(DONE)).is_empty());
    assert_eq!(ended(&bench.engine(r#"{"type":"done","contextId":"b"}"#))[0].run, run);
}

#[test]
fn an_unread_socket_is_cleared_and_its_audio_dropped() {
    let mut bench = ws3("bySentence");
    let run = bench.sounding();
    bench.session.caller_stalled(bench.now, &mut bench.out);
    assert_eq!(to_engine(&bench.wants()), [CLEAR]);
    assert!(bench.engine(CHUNK).is_empty());
    let actions = bench.engine(DONE);
    assert_eq!(to_caller(&actions), [DONE]);
    assert_eq!((ended(&actions)[0].run, ended(&actions)[0].measured.outcome), (run, Outcome::CallerGone));
}

#[test]
fn a_clear_before_the_first_sound_keeps_the_slot_until_an_engine_that_plays_on_has_sounded() {
    // It was told at 100 ms, and sounds at 1,400 all the same.
    let mut bench = ws3("bySentence");
    let run = asked(&bench.caller(HELLO));
    bench.grant(run);
    bench.after(100).caller(CLEAR);
    for _ in 0..13 {
        assert!(ended(&bench.after(100).wants()).is_empty());
    }
    bench.engine(CHUNK);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_millis(500)), "as after any sound");
    let actions = bench.after(400).engine(DONE);
    assert_eq!((ended(&actions)[0].run, ended(&actions)[0].engine_let_go), (run, true));

    // It stops, and says so.
    let run = asked(&bench.after(1_000).caller(HELLO));
    bench.grant(run);
    bench.after(100).caller(CLEAR);
    assert_eq!(ended(&bench.after(300).engine(DONE))[0].run, run, "at once");

    // It stops, and says nothing.
    let run = asked(&bench.after(1_000).caller(HELLO));
    bench.grant(run);
    bench.after(100).caller(CLEAR);
    assert!(ended(&bench.after(2_899).wants()).is_empty());
    assert_eq!(ended(&bench.after(1).wants())[0].run, run);
}

#[test]
fn a_clear_of_text_that_joined_and_was_not_heard_yet_waits_for_its_first_sound_too() {
    let mut bench = ws3("bySentence");
    let run = bench.sounding();
    bench.after(1_000).caller(HELLO);
    bench.after(100).caller(CLEAR);
    assert!(ended(&bench.after(1_000).wants()).is_empty());
    bench.engine(CHUNK);
    assert_eq!(ended(&bench.after(500).wants())[0].run, run);
}

#[test]
fn a_clear_keeps_the_slot_no_longer_than_an_engine_may_take_to_its_first_sound() {
    let settings = Settings { first_byte_timeout: Duration::from_secs(1), ..Settings::default() };
    let mut bench = Bench::binary(settings);
    let run = asked(&bench.caller("Hello."));
    bench.grant(run);
    bench.after(100).caller("<CLEAR>");
    assert!(ended(&bench.after(899).wants()).is_empty());
    assert_eq!(ended(&bench.after(1).wants())[0].run, run);
}
