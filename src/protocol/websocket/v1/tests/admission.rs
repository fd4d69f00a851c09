//! Who asks, who waits, who is refused, and what is held in the meantime.

use super::*;

#[test]
fn what_is_said_for_a_queued_context_waits_in_order_behind_its_start_and_neighbours_flow_on() {
    let mut bench = bench();
    let a = asked(&bench.caller(&start("a")));
    assert!(bench.caller(TEXT_A).is_empty() && bench.caller(END_A).is_empty());
    let b = asked(&bench.caller(&start("b")));
    assert_eq!(to_engine(&bench.grant(b)), [start("b")], "a neighbour does not wait");
    let text_b = r#"{"contextId":"b","text":"Hi."}"#;
    assert_eq!(to_engine(&bench.caller(text_b)), [text_b]);
    assert!(bench.session.held_bytes() > 0);
    assert_eq!(to_engine(&bench.grant(a)), [start("a"), TEXT_A.into(), END_A.into()]);
    assert_eq!((bench.session.held_bytes(), bench.session.running(), bench.session.queued()), (0, 2, 0));
}

#[test]
fn cancel_of_a_queued_context_is_answered_here_and_never_reaches_the_engine() {
    let mut bench = bench();
    let run = asked(&bench.caller(&start("a")));
    let actions = bench.after(70).caller(CANCEL_A);
    assert_eq!(to_caller(&actions), [CANCELLED_A]);
    assert!(to_engine(&actions).is_empty());
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.phase, end.measured.outcome), (run, Phase::Queued, Outcome::CallerGone));
    assert_eq!(end.measured.queue_wait, Duration::from_millis(70));
    assert!(bench.grant(run).is_empty(), "a slot that comes too late does nothing");
}

#[test]
fn a_refused_context_gets_an_error_and_its_text_is_swallowed_until_it_starts_anew() {
    let mut bench = bench();
    let run = asked(&bench.caller(&start("a")));
    let actions = bench.refuse(run, Reason::QueueFull);
    assert_eq!(
        to_caller(&actions),
        [
            r#"{"contextId":"a","error":{"kind":"resource_exhausted","message":"Currently at synthesis limit, queue full"}}"#
        ]
    );
    assert_eq!(ended(&actions)[0].phase, Phase::Refused(Reason::QueueFull));
    assert!(bench.caller(TEXT_A).is_empty() && bench.caller(END_A).is_empty());
    assert_eq!(bench.caller(CANCEL_A), [Action::ToCaller(text(CANCELLED_A))]);
    asked(&bench.caller(&start("a")));
}

#[test]
fn a_missing_capacity_is_unavailable_and_a_taken_one_is_exhausted() {
    for reason in Reason::ALL {
        let mut bench = bench();
        let run = asked(&bench.caller(&start("a")));
        let actions = bench.refuse(run, reason);
        let kind = if reason.is_full() || reason == Reason::BodyTooLarge {
            r#""kind":"resource_exhausted""#
        } else {
            r#""kind":"unavailable""#
        };
        assert!(to_caller(&actions)[0].contains(kind), "{reason:?}");
    }
}

#[test]
fn a_start_for_an_open_context_never_reaches_the_engine_and_the_context_goes_on() {
    let mut bench = bench();
    bench.speaking("a");
    let actions = bench.caller(&start("a"));
    assert_eq!(
        to_caller(&actions),
        [r#"{"error":{"kind":"invalid_input","message":"Context is already open"}}"#]
    );
    assert_eq!(actions.len(), 1);
    assert_eq!(to_engine(&bench.caller(TEXT_A)), [TEXT_A]);
}

#[test]
fn a_start_behind_an_ended_context_waits_for_its_terminal() {
    let mut bench = bench();
    bench.speaking("a");
    bench.caller(END_A);
    assert!(bench.caller(&start("a")).is_empty());
    assert!(bench.caller(TEXT_A).is_empty());
    let actions = bench.engine(DONE_A);
    let [Action::Ended(_), Action::Ask(next), Action::ToCaller(_)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(to_engine(&bench.grant(next)), [start("a"), TEXT_A.into()]);
    assert!(ended(&bench.engine(DONE_A)).is_empty(), "a second `done` of the run before ends nothing");
}

#[test]
fn text_for_a_context_that_is_not_open_is_answered_as_the_engine_would() {
    let mut bench = bench();
    let refused =
        r#"{"contextId":"a","error":{"kind":"invalid_input","message":"Context is not open for text"}}"#;
    assert_eq!(bench.caller(TEXT_A), [Action::ToCaller(text(refused))]);
    assert!(bench.caller(END_A).is_empty());
    bench.speaking("a");
    bench.caller(END_A);
    assert_eq!(bench.caller(TEXT_A), [Action::ToCaller(text(refused))]);
}

#[test]
fn a_context_id_may_be_used_again_after_its_terminal() {
    let mut bench = bench();
    let first = bench.speaking("a");
    bench.caller(END_A);
    assert_eq!(ended(&bench.engine(DONE_A)).len(), 1);
    let second = bench.speaking("a");
    assert_ne!(first, second);
    assert_eq!(bench.session.running(), 1);
}

#[test]
fn a_context_holds_so_many_bytes_and_then_is_refused_while_its_neighbours_flow_on() {
    let mut bench = bench();
    let run = asked(&bench.caller(&start("a")));
    let neighbour = asked(&bench.caller(&start("b")));
    let long = format!(r#"{{"contextId":"a","text":"{}"}}"#, "x".repeat(40_000));
    assert!(bench.caller(&long).is_empty());
    let actions = bench.caller(&long);
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.phase), (run, Phase::Refused(Reason::BodyTooLarge)));
    assert!(to_caller(&actions)[0].contains("resource_exhausted"));
    assert_eq!(to_engine(&bench.grant(neighbour)), [start("b")]);
}

#[test]
fn a_socket_has_so_many_contexts_and_then_refuses() {
    let mut bench = Bench::v1(Encoding::Json, Settings { runs_max: 2, ..Settings::default() });
    asked(&bench.caller(&start("a")));
    asked(&bench.caller(&start("b")));
    let actions = bench.caller(&start("c"));
    assert_eq!(ended(&actions)[0].phase, Phase::Refused(Reason::QueueFull));
    assert!(to_caller(&actions)[0].contains("resource_exhausted"));
}

#[test]
fn a_caller_that_broke_the_protocol_begins_nothing_and_what_runs_goes_on() {
    let mut bench = bench();
    let run = bench.speaking("a");
    bench.caller(END_A);
    let next = [asked(&bench.caller(&start("b"))), Run(3)];
    assert!(bench.caller(&start("a")).is_empty(), "a third run waits behind the first");
    bench.session.caller_broke(bench.now, &mut bench.out);
    let actions = bench.wants();
    let withdrawn: Vec<_> = ended(&actions).iter().map(|end| (end.run, end.phase)).collect();
    assert_eq!(actions.len(), withdrawn.len(), "{actions:?}");
    assert!(next.iter().all(|run| withdrawn.contains(&(*run, Phase::Queued))), "{withdrawn:?}");
    assert!(bench.grant(next[0]).is_empty(), "too late");
    let actions = bench.engine(DONE_A);
    assert_eq!((ended(&actions)[0].run, to_caller(&actions)), (run, vec![DONE_A.to_owned()]));
    assert!(!actions.iter().any(|action| matches!(action, Action::Ask(_))));
}
