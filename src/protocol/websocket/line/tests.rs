//! The legacy sockets' subtleties, one promise each. What holds in every order of events is in [`super::model`].

use std::time::{Duration, Instant};

use super::super::{Ended, Session as AnySession};
use super::*;

/// One socket under test, and what it wanted since it was last asked.
struct Bench {
    session: AnySession,
    now: Instant,
    out: Vec<Action>,
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned().into())
}

impl Bench {
    fn new(segment: &str) -> Self {
        Self::at("/ws3", segment)
    }

    fn at(path: &str, segment: &str) -> Self {
        let query = format!("audioFormat=pcm&samplingRate=1000&segment={segment}");
        Self::with(AnySession::json(Dialect::of(path, Some(&query)), Settings::default()))
    }

    fn bare(settings: Settings) -> Self {
        let dialect = Dialect::of("/ws", Some("audioFormat=pcm&samplingRate=1000"));
        Self::with(AnySession::binary(dialect, settings))
    }

    fn with(session: AnySession) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        let now = Instant::now();
        Self { session, now, out: Vec::new() }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.session.tick(self.now, &mut self.out);
        self
    }

    fn caller(&mut self, message: &str) -> Vec<Action> {
        self.session.caller_said(self.now, text(message), &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn engine(&mut self, message: &str) -> Vec<Action> {
        self.session.engine_said(self.now, text(message), &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn sound(&mut self, bytes: usize) -> Vec<Action> {
        self.session.engine_said(self.now, Message::Binary(vec![0; bytes].into()), &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn grant(&mut self, run: Run) -> Vec<Action> {
        self.session.granted(self.now, run, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn refuse(&mut self, run: Run) -> Vec<Action> {
        self.session.refused(self.now, run, Reason::QueueFull, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn wants(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }

    /// A run that sounds.
    fn speaking(&mut self) -> Run {
        let run = asked(&self.caller(HELLO));
        self.grant(run);
        self.engine(CHUNK);
        run
    }
}

const HELLO: &str = r#"{"text":"Hello there. ","contextId":"a"}"#;
const PART: &str = r#"{"text":"and then","contextId":"a"}"#;
const FLUSH: &str = r#"{"operation":"flush"}"#;
const CLEAR: &str = r#"{"operation":"clear"}"#;
const EOS: &str = r#"{"operation":"eos"}"#;
const CHUNK: &str = r#"{"type":"chunk","contextId":"a","data":"AAAAAAAA"}"#;
const DONE: &str = r#"{"type":"done","contextId":"a"}"#;
const REFUSED: [&str; 2] = [
    r#"{"contextId":"a","message":"Currently at synthesis limit, queue full","type":"error"}"#,
    r#"{"contextId":"a","type":"done"}"#,
];

fn asked(actions: &[Action]) -> Run {
    match actions {
        [Action::Ask(run)] => *run,
        other => panic!("{other:?}"),
    }
}

fn ended(actions: &[Action]) -> Vec<&Ended> {
    let ends = actions.iter().filter_map(|action| match action {
        Action::Ended(ended) => Some(&**ended),
        _ => None,
    });
    ends.collect()
}

fn to_caller(actions: &[Action]) -> Vec<String> {
    let messages = actions.iter().filter_map(|action| match action {
        Action::ToCaller(message) => Some(String::from_utf8_lossy(message.bytes()).into_owned()),
        _ => None,
    });
    messages.collect()
}

fn to_engine(actions: &[Action]) -> Vec<String> {
    let messages = actions.iter().filter_map(|action| match action {
        Action::ToEngine(message) => Some(String::from_utf8_lossy(message.bytes()).into_owned()),
        _ => None,
    });
    messages.collect()
}

#[test]
fn text_without_the_end_of_a_sentence_is_held_and_starts_nothing() {
    let mut bench = Bench::new("bySentence");
    assert!(bench.caller(PART).is_empty());
    assert!(bench.session.held_bytes() > 0);
    assert_eq!((bench.session.running(), bench.session.queued()), (0, 0));
    let run = asked(&bench.caller(HELLO));
    assert_eq!(to_engine(&bench.grant(run)), [PART, HELLO]);
}

#[test]
fn a_flush_of_held_text_starts_a_run_under_every_segment() {
    for segment in ["never", "bySentence", ""] {
        let mut bench = Bench::new(segment);
        assert!(bench.caller(PART).is_empty(), "{segment}");
        let run = asked(&bench.caller(FLUSH));
        assert_eq!(to_engine(&bench.grant(run)), [PART, FLUSH]);
        assert_eq!(ended(&bench.engine(DONE))[0].measured.outcome, Outcome::Ok);
    }
}

#[test]
fn any_text_starts_a_run_when_immediate() {
    let mut bench = Bench::new("immediate");
    assert!(bench.caller(r#"{"text":" "}"#).is_empty());
    asked(&bench.caller(PART));
}

#[test]
fn under_never_each_flush_is_a_run_of_its_own_and_one_runs_at_a_time() {
    let mut bench = Bench::new("never");
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
    let mut bench = Bench::new("never");
    assert_eq!(bench.caller(FLUSH), [Action::ToEngine(text(FLUSH))], "as the engine alone would see it");
    bench.caller(HELLO);
    let run = asked(&bench.caller(FLUSH));
    assert!(bench.caller(FLUSH).is_empty(), "a queued run needs no second one");
    assert_eq!(to_engine(&bench.grant(run)), [HELLO, FLUSH]);
    assert!(bench.caller(FLUSH).is_empty(), "nor does a running one");
}

#[test]
fn more_text_joins_a_run_by_sentence_and_one_done_ends_it() {
    let mut bench = Bench::new("bySentence");
    let run = bench.speaking();
    assert_eq!(to_engine(&bench.caller(HELLO)), [HELLO]);
    assert!(bench.caller(PART).is_empty(), "half a sentence waits here");
    assert_eq!(to_engine(&bench.caller(FLUSH)), [PART, FLUSH]);
    let actions = bench.after(1_000).engine(DONE);
    assert_eq!(ended(&actions)[0].run, run);
    assert_eq!(bench.session.running(), 0);
}

#[test]
fn a_done_that_crosses_with_text_keeps_the_slot_until_the_engine_stays_silent() {
    let mut bench = Bench::new("bySentence");
    let run = bench.speaking();
    bench.caller(HELLO);
    let actions = bench.after(20).engine(DONE);
    assert_eq!(to_caller(&actions), [DONE]);
    assert_eq!(bench.session.running(), 1, "the engine may be about to speak the second sentence");
    bench.after(500).engine(CHUNK);
    let actions = bench.after(500).engine(DONE);
    assert_eq!(ended(&actions)[0].run, run);

    let run = bench.speaking();
    bench.caller(HELLO);
    bench.after(20).engine(DONE);
    let actions = bench.after(2_000).wants();
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome, end.engine_let_go), (run, Outcome::Ok, true));
    assert_eq!(end.measured.duration, Duration::from_millis(20), "it was over at its `done`");
}

#[test]
fn one_turn_may_yield_several_dones_when_text_comes_slowly_and_each_is_a_run() {
    let mut bench = Bench::new("bySentence");
    let first = bench.speaking();
    assert_eq!(ended(&bench.after(500).engine(DONE))[0].run, first);
    let second = asked(&bench.after(500).caller(HELLO));
    assert_ne!(first, second);
}

#[test]
fn an_idle_clear_is_free() {
    let mut bench = Bench::new("bySentence");
    let run = bench.speaking();
    assert_eq!(ended(&bench.engine(DONE))[0].run, run);
    assert_eq!(bench.caller(CLEAR), [Action::ToEngine(text(CLEAR))]);
    assert_eq!(bench.session.deadline(), None);
    asked(&bench.caller(HELLO));
}

#[test]
fn a_clear_drops_held_text_and_withdraws_a_queued_run() {
    let mut bench = Bench::new("bySentence");
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
    let mut bench = Bench::new("bySentence");
    bench.speaking();
    bench.caller(CLEAR);
    let actions = bench.after(100).engine(DONE);
    assert_eq!(
        (ended(&actions)[0].measured.outcome, ended(&actions)[0].engine_let_go),
        (Outcome::CallerGone, true)
    );

    // It stops, and says nothing.
    bench.speaking();
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
    let mut bench = Bench::new("bySentence");
    bench.speaking();
    bench.caller(CLEAR);
    assert!(bench.caller(HELLO).is_empty());
    let actions = bench.after(500).wants();
    assert!(matches!(actions[..], [Action::Ended(_), Action::Ask(_)]), "{actions:?}");
}

#[test]
fn a_done_that_comes_after_the_cleared_run_was_given_up_does_not_end_the_next() {
    let mut bench = Bench::new("bySentence");
    bench.speaking();
    bench.caller(CLEAR);
    bench.after(500).wants();
    let run = asked(&bench.caller(HELLO));
    bench.grant(run);
    assert_eq!(bench.engine(DONE), [Action::ToCaller(text(DONE))]);
    bench.engine(CHUNK);
    assert_eq!(ended(&bench.engine(DONE))[0].run, run);

    // Under another label it is known even when the next run sounds.
    bench.speaking();
    bench.caller(CLEAR);
    bench.after(500).wants();
    let run = asked(&bench.caller(r#"{"text":"Hi.","contextId":"b"}"#));
    bench.grant(run);
    bench.engine(r#"{"type":"chunk","contextId":"b","data":"AAAA"}"#);
    assert!(ended(&bench.engine(DONE)).is_empty());
    assert_eq!(ended(&bench.engine(r#"{"type":"done","contextId":"b"}"#))[0].run, run);
}

#[test]
fn a_refused_run_gets_an_error_and_a_done_and_the_rest_of_its_turn_is_swallowed() {
    let mut bench = Bench::new("bySentence");
    let run = asked(&bench.caller(HELLO));
    assert_eq!(to_caller(&bench.refuse(run)), REFUSED);
    assert!(
        bench.caller(HELLO).is_empty() && bench.caller(PART).is_empty() && bench.caller(FLUSH).is_empty()
    );
    asked(&bench.caller(HELLO));

    let mut bench = Bench::at("/ws2", "bySentence");
    let run = asked(&bench.caller(r#"{"text":"Hi."}"#));
    assert_eq!(to_caller(&bench.refuse(run))[1], r#"{"done":true,"type":"done"}"#);
    assert!(bench.caller(FLUSH).is_empty());
    asked(&bench.caller(r#"{"text":"Hi."}"#));
}

#[test]
fn a_caller_that_never_flushes_speaks_again_after_a_pause_or_under_another_label() {
    let mut bench = Bench::new("bySentence");
    let run = asked(&bench.caller(HELLO));
    bench.refuse(run);
    assert!(bench.after(1_999).caller(HELLO).is_empty());
    let run = asked(&bench.after(2_000).caller(HELLO));
    bench.refuse(run);
    asked(&bench.caller(r#"{"text":"Hi.","contextId":"b"}"#));
}

#[test]
fn eos_flushes_and_nothing_is_said_after_it() {
    let mut bench = Bench::new("bySentence");
    bench.caller(PART);
    let run = asked(&bench.caller(EOS));
    assert!(bench.caller(HELLO).is_empty());
    assert_eq!(to_engine(&bench.grant(run)), [PART, EOS]);
    assert_eq!(Bench::new("never").caller(EOS), [Action::ToEngine(text(EOS))]);
}

#[test]
fn a_refusal_after_eos_closes_in_order() {
    let mut bench = Bench::new("never");
    bench.caller(HELLO);
    let first = asked(&bench.caller(FLUSH));
    bench.caller(HELLO);
    bench.caller(EOS);
    let actions = bench.refuse(first);
    let second = actions.iter().find_map(|action| match action {
        Action::Ask(run) => Some(*run),
        _ => None,
    });
    assert!(!actions.contains(&Action::CloseCaller(CLOSE_NORMAL)), "the second may still be spoken");
    let actions = bench.refuse(second.unwrap());
    assert_eq!(to_caller(&actions), REFUSED);
    assert_eq!(
        actions[actions.len() - 2..],
        [Action::CloseCaller(CLOSE_NORMAL), Action::CloseEngine(CLOSE_NORMAL)]
    );
}

#[test]
fn an_engines_error_passes_and_its_run_ends_at_done_or_in_silence() {
    let error = r#"{"type":"error","message":"no"}"#;
    let mut bench = Bench::new("bySentence");
    bench.speaking();
    assert_eq!(bench.engine(error), [Action::ToCaller(text(error))]);
    assert_eq!(ended(&bench.engine(DONE))[0].measured.outcome, Outcome::EngineError);
    bench.speaking();
    bench.engine(error);
    assert_eq!(ended(&bench.after(500).wants())[0].measured.outcome, Outcome::EngineError);
    assert_eq!(bench.engine(error), [Action::ToCaller(text(error))], "idle, it is only passed on");
}

#[test]
fn a_silent_engine_is_cleared_and_the_caller_is_told_once() {
    let mut bench = Bench::new("bySentence");
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

#[test]
fn an_unread_socket_is_cleared_and_its_audio_dropped() {
    let mut bench = Bench::new("bySentence");
    let run = bench.speaking();
    bench.session.caller_stalled(bench.now, &mut bench.out);
    assert_eq!(to_engine(&bench.wants()), [CLEAR]);
    assert!(bench.engine(CHUNK).is_empty());
    let actions = bench.engine(DONE);
    assert_eq!(to_caller(&actions), [DONE]);
    assert_eq!((ended(&actions)[0].run, ended(&actions)[0].measured.outcome), (run, Outcome::CallerGone));
}

#[test]
fn what_cannot_be_read_may_be_text_and_needs_a_slot() {
    for json in
        [r#"{"text":"Hello.","x":NaN}"#, "Hello", r#"{"text":7}"#, r#"{"text":"a","text":"b"}"#, r#"["x"]"#]
    {
        asked(&Bench::new("bySentence").caller(json));
    }
    asked(&Bench::new("never").caller(r#"{"text":"Hello","operation":"FLUSH"}"#));
    let other = r#"{"future":1}"#;
    assert_eq!(Bench::new("immediate").caller(other), [Action::ToEngine(text(other))]);
}

#[test]
fn a_bare_text_run_ends_in_silence_sooner_when_all_its_text_was_heard() {
    let mut bench = Bench::bare(Settings::default());
    assert!(bench.caller("Hello").is_empty());
    // 13 characters: at most 1.625 s at 8 a second, which is 3,250 bytes.
    let run = asked(&bench.caller(" world. "));
    assert_eq!(to_engine(&bench.grant(run)), ["Hello", " world. "]);
    bench.after(300).sound(2_000);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_secs(2)));
    bench.after(300).sound(2_000);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_millis(500)));
    let actions = bench.after(500).wants();
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome), (run, Outcome::Ok));
    assert_eq!((end.measured.rtf, end.measured.audio), (Ok(0.15), Duration::from_secs(2)));
}

#[test]
fn a_refused_bare_text_run_closes_the_socket_to_try_again_later() {
    let mut bench = Bench::bare(Settings::default());
    bench.caller("Hello");
    let run = asked(&bench.caller("<FLUSH>"));
    let actions = bench.refuse(run);
    let close = Close { code: 1013, reason: "Currently at synthesis limit, queue full" };
    assert!(actions.contains(&Action::CloseCaller(close)));
    assert!(to_caller(&actions).is_empty());
}

#[test]
fn bare_tokens_flush_clear_and_end() {
    let mut bench = Bench::bare(Settings::default());
    assert_eq!(bench.caller("<CLEAR>"), [Action::ToEngine(text("<CLEAR>"))]);
    bench.caller("Hello");
    let run = asked(&bench.caller("<EOS>"));
    assert_eq!(to_engine(&bench.grant(run)), ["Hello", "<EOS>"]);
    bench.sound(2_000);
    bench.session.engine_closed(bench.now, true, &mut bench.out);
    assert_eq!(ended(&bench.wants())[0].measured.outcome, Outcome::Ok, "its own end of a run");
}

#[test]
fn a_socket_holds_so_many_bytes() {
    for segment in ["never", "bySentence"] {
        let mut bench = Bench::new(segment);
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
fn a_done_said_twice_does_not_end_the_run_that_follows() {
    let mut bench = Bench::new("never");
    bench.caller(HELLO);
    let first = asked(&bench.caller(FLUSH));
    bench.grant(first);
    bench.caller(HELLO);
    bench.caller(FLUSH);
    bench.engine(CHUNK);
    let actions = bench.engine(DONE);
    let [Action::Ask(second)] = actions[actions.len() - 2..][..1] else { panic!("{actions:?}") };
    bench.grant(second);
    assert!(ended(&bench.after(1).engine(DONE)).is_empty(), "an echo of the first run's");
    bench.after(100).engine(CHUNK);
    assert_eq!(ended(&bench.after(300).engine(DONE))[0].run, second);
}
