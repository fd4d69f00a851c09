//! What gives a slot back, when, and whose fault the end was.

use super::*;

#[test]
fn an_error_that_names_a_context_ends_it_and_one_that_names_none_ends_nothing() {
    let mut bench = bench();
    let run = bench.speaking("a");
    let connection = r#"{"error":{"kind":"invalid_input","message":"?"}}"#;
    assert_eq!(bench.engine(connection), [Action::ToCaller(text(connection))]);
    assert_eq!(bench.session.running(), 1);
    let own = r#"{"contextId":"a","error":{"kind":"internal","message":"?"}}"#;
    let actions = bench.engine(own);
    assert_eq!(to_caller(&actions), [own]);
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome, end.engine_let_go), (run, Outcome::EngineError, true));
}

#[test]
fn an_engine_that_leaves_the_default_context_unnamed_ends_its_run_all_the_same() {
    let mut bench = bench();
    let run = bench.speaking("default");
    assert_eq!(to_caller(&bench.engine(r#"{"error":{"kind":"internal","message":"x"}}"#)).len(), 1);
    assert_eq!(bench.session.running(), 1, "an error without a context is the connection's");
    let actions = bench.engine(r#"{"done":{}}"#);
    assert_eq!(ended(&actions)[0].run, run);
}

#[test]
fn cancel_of_an_unknown_context_passes_and_its_confirmation_releases_nothing() {
    let mut bench = bench();
    bench.speaking("b");
    assert_eq!(to_engine(&bench.caller(CANCEL_A)), [CANCEL_A]);
    assert!(bench.caller(&start("a")).is_empty(), "the confirmation on its way must not end this one");
    let actions = bench.engine(CANCELLED_A);
    assert!(ended(&actions).is_empty());
    assert_eq!(to_caller(&actions), [CANCELLED_A]);
    assert!(matches!(actions[..], [Action::Ask(_), _]), "now it asks: {actions:?}");
}

#[test]
fn a_cancelled_context_keeps_its_slot_until_the_engine_confirms_and_releases_once() {
    let mut bench = bench();
    let run = bench.speaking("a");
    assert_eq!(to_engine(&bench.caller(CANCEL_A)), [CANCEL_A]);
    bench.caller(CANCEL_A);
    assert_eq!(bench.session.running(), 1);
    let actions = bench.engine(CANCELLED_A);
    assert_eq!(ended(&actions)[0].run, run);
    let again = bench.engine(CANCELLED_A);
    assert!(ended(&again).is_empty());
    assert_eq!(to_caller(&again), [CANCELLED_A]);
}

#[test]
fn a_cancel_that_the_engine_does_not_confirm_releases_after_a_while() {
    let mut bench = bench();
    let run = bench.speaking("a");
    bench.session.caller_stalled(bench.now, &mut bench.out);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_millis(500)));
    let actions = bench.after(500).wants();
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome, end.engine_let_go), (run, Outcome::CallerGone, false));
    assert!(bench.engine(&audio_a()).is_empty());
}

#[test]
fn an_engine_that_speaks_on_after_a_cancel_has_not_let_go() {
    let mut bench = bench();
    let run = bench.speaking("a");
    bench.session.caller_stalled(bench.now, &mut bench.out);
    bench.wants();
    for _ in 0..10 {
        assert!(bench.after(400).wants().is_empty());
        assert!(bench.engine(&audio_a()).is_empty());
    }
    let actions = bench.after(500).wants();
    assert_eq!(ended(&actions)[0].run, run);
}

#[test]
fn an_unread_socket_is_cancelled_its_audio_dropped_and_its_terminals_kept() {
    let mut bench = bench();
    let run = bench.speaking("a");
    let queued = asked(&bench.caller(&start("b")));
    bench.session.caller_stalled(bench.now, &mut bench.out);
    let actions = bench.wants();
    assert_eq!(to_engine(&actions), [CANCEL_A]);
    assert_eq!(ended(&actions).iter().map(|end| end.run).collect::<Vec<_>>(), [queued]);
    assert!(bench.engine(&audio_a()).is_empty());
    let actions = bench.engine(CANCELLED_A);
    assert_eq!(to_caller(&actions), [CANCELLED_A]);
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome, end.engine_let_go), (run, Outcome::CallerGone, true));
}

#[test]
fn an_engine_that_owes_and_is_silent_is_cancelled_and_the_caller_is_told() {
    let mut bench = bench();
    bench.speaking("a");
    bench.caller(TEXT_A);
    bench.caller(END_A);
    let actions = bench.after(30_000).wants();
    assert_eq!(to_engine(&actions), [CANCEL_A]);
    assert!(to_caller(&actions)[0].contains(r#""kind":"unavailable""#));
    let actions = bench.engine(CANCELLED_A);
    assert!(to_caller(&actions).is_empty(), "it was told already");
    assert_eq!(ended(&actions)[0].measured.outcome, Outcome::EngineTimeout);
    assert_eq!(bench.session.deadline(), None);
}

#[test]
fn waiting_for_words_is_not_the_engines_stall_but_a_silent_writer_holds_no_slot_for_ever() {
    let mut bench = bench();
    bench.speaking("a");
    assert!(bench.after(59_000).wants().is_empty());
    let actions = bench.after(1_000).wants();
    assert_eq!(to_engine(&actions), [CANCEL_A]);
    assert!(to_caller(&actions)[0].contains(r#""kind":"timeout""#));
    assert_eq!(ended(&bench.engine(CANCELLED_A))[0].measured.outcome, Outcome::CallerGone);
}

#[test]
fn closing_ends_every_run_with_whose_fault_it_was() {
    for (engine, running, queued) in
        [(true, Outcome::Truncated, Outcome::EngineError), (false, Outcome::CallerGone, Outcome::CallerGone)]
    {
        let mut bench = bench();
        let a = bench.speaking("a");
        let b = asked(&bench.caller(&start("b")));
        if engine {
            bench.session.engine_closed(bench.now, true, &mut bench.out);
        } else {
            bench.session.caller_closed(bench.now, &mut bench.out);
        }
        let actions = bench.wants();
        let ends: Vec<_> = ended(&actions)
            .iter()
            .map(|end| (end.run, end.phase, end.measured.outcome, end.engine_let_go))
            .collect();
        assert_eq!(ends, [(a, Phase::Running, running, engine), (b, Phase::Queued, queued, true)]);
        assert_eq!(bench.session.deadline(), None);
    }
}

#[test]
fn each_context_is_told_once_that_the_engine_is_gone() {
    let mut bench = bench();
    bench.speaking("a");
    asked(&bench.caller(&start("b")));
    bench.session.engine_closed(bench.now, true, &mut bench.out);
    let told = to_caller(&bench.wants());
    assert_eq!(told.len(), 2, "{told:?}");
    for context in [r#""contextId":"a""#, r#""contextId":"b""#] {
        let of_it = told.iter().filter(|message| message.contains(context));
        assert_eq!(
            of_it.filter(|message| message.contains(r#""kind":"unavailable""#)).count(),
            1,
            "{told:?}"
        );
    }
}
