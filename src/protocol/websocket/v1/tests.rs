//! The protocol's subtleties, one promise each. What holds in every order of events is in [`super::model`].

use std::time::{Duration, Instant};

use super::super::{Ended, Session as AnySession};
use super::*;

/// One socket under test, and what it wanted since it was last asked.
pub(super) struct Bench {
    pub(super) session: AnySession,
    pub(super) now: Instant,
    pub(super) out: Vec<Action>,
}

pub(super) fn text(json: &str) -> Message {
    Message::Text(json.to_owned().into())
}

impl Bench {
    fn new() -> Self {
        Self::with(Encoding::Json, Settings::default())
    }

    pub(super) fn with(encoding: Encoding, settings: Settings) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        let now = Instant::now();
        Self { session: AnySession::v1(encoding, settings), now, out: Vec::new() }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.session.tick(self.now, &mut self.out);
        self
    }

    fn caller(&mut self, json: &str) -> Vec<Action> {
        self.session.caller_said(self.now, text(json), &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn engine(&mut self, json: &str) -> Vec<Action> {
        self.session.engine_said(self.now, text(json), &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn grant(&mut self, run: Run) -> Vec<Action> {
        self.session.granted(self.now, run, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn refuse(&mut self, run: Run, reason: Reason) -> Vec<Action> {
        self.session.refused(self.now, run, reason, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn wants(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }

    /// A context that is running and `started`.
    fn speaking(&mut self, context: &str) -> Run {
        let run = asked(&self.caller(&start(context)));
        self.grant(run);
        self.engine(&format!(r#"{{"contextId":"{context}","started":{{"requestId":"r"}}}}"#));
        run
    }
}

fn start(context: &str) -> String {
    format!(
        r#"{{"contextId":"{context}","start":{{"audioParameters":{{"audioFormat":"audio/pcm","samplingRate":1000}}}}}}"#
    )
}

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

const TEXT_A: &str = r#"{"contextId":"a","text":"Hello."}"#;
const END_A: &str = r#"{"contextId":"a","end":{}}"#;
const CANCEL_A: &str = r#"{"contextId":"a","cancel":{}}"#;
const DONE_A: &str = r#"{"contextId":"a","done":{}}"#;
const CANCELLED_A: &str = r#"{"contextId":"a","cancelled":{}}"#;
/// 500 ms of silence at 1 kHz: 1000 bytes.
fn audio_a() -> String {
    format!(r#"{{"contextId":"a","audio":"{}"}}"#, "AAAA".repeat(333) + "AA==")
}

#[test]
fn what_is_said_for_a_queued_context_waits_in_order_behind_its_start_and_neighbours_flow_on() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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
        let mut bench = Bench::new();
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
fn an_error_that_names_a_context_ends_it_and_one_that_names_none_ends_nothing() {
    let mut bench = Bench::new();
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
fn a_context_id_may_be_used_again_after_its_terminal() {
    let mut bench = Bench::new();
    let first = bench.speaking("a");
    bench.caller(END_A);
    assert_eq!(ended(&bench.engine(DONE_A)).len(), 1);
    let second = bench.speaking("a");
    assert_ne!(first, second);
    assert_eq!(bench.session.running(), 1);
}

#[test]
fn cancel_of_an_unknown_context_passes_and_its_confirmation_releases_nothing() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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
fn a_start_for_an_open_context_never_reaches_the_engine_and_the_context_goes_on() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
    let refused =
        r#"{"contextId":"a","error":{"kind":"invalid_input","message":"Context is not open for text"}}"#;
    assert_eq!(bench.caller(TEXT_A), [Action::ToCaller(text(refused))]);
    assert!(bench.caller(END_A).is_empty());
    bench.speaking("a");
    bench.caller(END_A);
    assert_eq!(bench.caller(TEXT_A), [Action::ToCaller(text(refused))]);
}

#[test]
fn config_and_everything_unknown_pass_untouched_both_ways() {
    let mut bench = Bench::new();
    for json in [
        r#"{"config":{"authorization":"","defaults":{"speaker":"luna"}}}"#,
        r#"{ "contextId" : "a" }"#,
        r#"{"future":{"x":[1]}}"#,
        "not json",
        "[]",
        r#"{"start":null}"#,
    ] {
        assert_eq!(bench.caller(json), [Action::ToEngine(text(json))], "{json}");
    }
    for json in [r#"{"ready":{"protocol":1}}"#, "not json", r#"{"contextId":"a","future":1}"#, "{}"] {
        assert_eq!(bench.engine(json), [Action::ToCaller(text(json))], "{json}");
    }
}

#[test]
fn nothing_that_may_be_a_start_slips_by() {
    for json in [
        r#"{"context_id":"a","start":{}}"#,
        r#"{"start":{},"contextId":"a"}"#,
        r#"{"contextId":"a","\u0073tart":{"text":"Hi"},"unknown":1}"#,
        r#"{"contextId":"a","start":{"unknown":[{}]}}"#,
    ] {
        asked(&Bench::new().caller(json));
    }
    for json in [
        r#"{"contextId":"a","contextId":"b","start":{}}"#,
        r#"{"contextId":"a","context_id":"b","start":{}}"#,
        r#"{"contextId":"a","start":{},"cancel":{}}"#,
        r#"{"contextId":"a","text":"x","start":{}}"#,
        r#"{"contextId":"a","start":{},"start":{}}"#,
        r#"{"contextId":7,"start":{}}"#,
        r#"{"contextId":"a","start":{"x":NaN}}"#,
        r#"{"contextId":"a","\u0073tart":{},}"#,
        r#"[{"start":{}}]"#,
        r#"{"text":"x"}{"start":{}}"#,
    ] {
        let actions = Bench::new().caller(json);
        assert!(to_engine(&actions).is_empty(), "{json}");
        assert!(to_caller(&actions)[0].contains("invalid_input"), "{json}");
    }
}

#[test]
fn a_protobuf_start_is_what_the_last_payload_says_and_a_broken_one_goes_nowhere() {
    let said = |bytes: &[u8]| wire::said(&Message::Binary(bytes.to_vec().into()));
    let (start, cancel, context) = (&b"\x1a\0"[..], &b"\x32\0"[..], &b"\x0a\x01a"[..]);
    assert!(matches!(said(&[context, cancel, start].concat()), Said::Start { .. }));
    assert_eq!(said(&[context, start, cancel].concat()), Said::Cancel("a".into()));
    assert!(
        matches!(said(&[context, start, b"\x0a\x01b"].concat()), Said::Start { context, .. } if &*context == "b")
    );
    assert_eq!(said(&[context, b"\x1a\x03\x22\x01\xff"].concat()), Said::Unclear, "no UTF-8, but a start");
    assert_eq!(said(b"\x0a\x05a"), Said::Other);
    assert_eq!(said(&[context, b"\x78\x01"].concat()), Said::Other, "an unknown field alone");
}

#[test]
fn an_empty_context_id_is_the_context_named_default() {
    let mut bench = Bench::new();
    let run = asked(&bench.caller(r#"{"start":{}}"#));
    assert!(to_caller(&bench.refuse(run, Reason::Draining))[0].starts_with(r#"{"contextId":"default","#));
}

#[test]
fn a_context_holds_so_many_bytes_and_then_is_refused_while_its_neighbours_flow_on() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::with(Encoding::Json, Settings { runs_max: 2, ..Settings::default() });
    asked(&bench.caller(&start("a")));
    asked(&bench.caller(&start("b")));
    let actions = bench.caller(&start("c"));
    assert_eq!(ended(&actions)[0].phase, Phase::Refused(Reason::QueueFull));
    assert!(to_caller(&actions)[0].contains("resource_exhausted"));
}

#[test]
fn an_unread_socket_is_cancelled_its_audio_dropped_and_its_terminals_kept() {
    let mut bench = Bench::new();
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
fn a_cancel_that_the_engine_does_not_confirm_releases_after_a_while() {
    let mut bench = Bench::new();
    let run = bench.speaking("a");
    bench.session.caller_stalled(bench.now, &mut bench.out);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_millis(500)));
    let actions = bench.after(500).wants();
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome, end.engine_let_go), (run, Outcome::CallerGone, false));
    assert!(bench.engine(&audio_a()).is_empty());
}

#[test]
fn an_engine_that_owes_and_is_silent_is_cancelled_and_the_caller_is_told() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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
        let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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

#[test]
fn ttfb_counts_from_the_first_text_that_can_be_spoken() {
    let mut bench = Bench::new();
    let run = asked(&bench.caller(&start("a")));
    bench.after(100).grant(run);
    bench.engine(r#"{"contextId":"a","started":{}}"#);
    bench.after(1_000).caller(r#"{"contextId":"a","text":" "}"#);
    bench.after(1_000).caller(TEXT_A);
    let actions = bench.after(250).engine(&audio_a());
    assert_eq!(actions[0], Action::Ttfb(Duration::from_millis(250)));
    bench.caller(END_A);
    let actions = bench.after(400).engine(&audio_a());
    assert_eq!(actions[0], Action::ChunkGap(Duration::from_millis(400)));
    let measured = ended(&bench.engine(DONE_A))[0].measured;
    assert_eq!(
        (measured.ttfb, measured.upstream_ttfb),
        (Some(Duration::from_millis(250)), Some(Duration::from_millis(250)))
    );
    assert_eq!((measured.rtf, measured.audio), (Ok(0.4), Duration::from_secs(1)));
    assert_eq!((measured.queue_wait, measured.bytes), (Duration::from_millis(100), 2_000));
}

#[test]
fn audio_parameters_of_start_replace_those_of_config_as_one_field() {
    for (start, millis) in [
        ("{}", 500),
        (r#"{"audio_parameters":{"audio_format":"audio/pcmu","samplingRate":"2000"}}"#, 500),
        (r#"{"audioParameters":{"audioFormat":"audio/pcm"}}"#, 20),
    ] {
        let mut bench = Bench::new();
        bench.caller(
            r#"{"config":{"defaults":{"audioParameters":{"audioFormat":"audio/pcm","samplingRate":1000}}}}"#,
        );
        let run = asked(&bench.caller(&format!(r#"{{"contextId":"a","start":{start}}}"#)));
        bench.grant(run);
        bench.engine(&audio_a());
        let measured = ended(&bench.engine(DONE_A))[0].measured;
        assert_eq!(measured.audio.as_millis(), millis, "{start}");
    }
}

#[test]
fn both_encodings_say_the_same() {
    use prost::Message as _;
    for (encoding, written) in [
        (Encoding::Json, wire::error(Encoding::Json, "a", "k", "m")),
        (Encoding::Binary, wire::error(Encoding::Binary, "a", "k", "m")),
    ] {
        let heard = wire::heard(&written).unwrap();
        assert_eq!((&*heard.context, &heard.event), ("a", &Event::Error), "{encoding:?}");
        assert!(matches!(
            (encoding, &written),
            (Encoding::Json, Message::Text(_)) | (Encoding::Binary, Message::Binary(_))
        ));
        assert_eq!(wire::said(&wire::cancel(encoding, "a")), Said::Cancel("a".into()));
        assert_eq!(wire::heard(&wire::cancelled(encoding, "a")).unwrap().event, Event::Cancelled);
    }
    let audio = rimelabs_api::WebSocketResponse {
        context_id: "a".into(),
        payload: Some(rimelabs_api::web_socket_response::Payload::Audio(vec![7; 300])),
    };
    let binary = Message::Binary(audio.encode_to_vec().into());
    assert_eq!(
        wire::heard(&binary).unwrap().event,
        Event::Audio(super::super::reading::Sound::Plain(&[7; 300]))
    );
    let json = text(&serde_json::to_string(&audio).unwrap());
    assert!(matches!(wire::heard(&json).unwrap().event, Event::Audio(_)));
}

#[test]
fn an_engine_that_speaks_on_after_a_cancel_has_not_let_go() {
    let mut bench = Bench::new();
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
fn an_engine_that_leaves_the_default_context_unnamed_ends_its_run_all_the_same() {
    let mut bench = Bench::new();
    let run = bench.speaking("default");
    assert_eq!(to_caller(&bench.engine(r#"{"error":{"kind":"internal","message":"x"}}"#)).len(), 1);
    assert_eq!(bench.session.running(), 1, "an error without a context is the connection's");
    let actions = bench.engine(r#"{"done":{}}"#);
    assert_eq!(ended(&actions)[0].run, run);
}
