//! What a message is taken for, in both encodings, and what is read of it for the figures.

use super::*;
use crate::protocol::websocket::reading::Sound;

#[test]
fn config_and_everything_unknown_pass_untouched_both_ways() {
    let mut bench = bench();
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
        asked(&bench().caller(json));
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
        let actions = bench().caller(json);
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
    let mut bench = bench();
    let run = asked(&bench.caller(r#"{"start":{}}"#));
    assert!(to_caller(&bench.refuse(run, Reason::Draining))[0].starts_with(r#"{"contextId":"default","#));
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
    assert_eq!(wire::heard(&binary).unwrap().event, Event::Audio(Sound::Plain(&[7; 300])));
    let json = text(&serde_json::to_string(&audio).unwrap());
    assert!(matches!(wire::heard(&json).unwrap().event, Event::Audio(_)));
}

#[test]
fn what_waited_for_a_slow_caller_is_excused_and_what_came_after_is_not() {
    let mut bench = bench();
    let run = asked(&bench.caller(&start("a")));
    bench.caller(TEXT_A);
    bench.caller(END_A);
    bench.grant(run);
    bench.after(100).engine(&audio_a());
    bench.after(900).session.held_up(Duration::from_millis(900));
    let gaps =
        |actions: &[Action]| actions.iter().filter(|action| matches!(action, Action::ChunkGap(_))).count();
    assert_eq!(gaps(&bench.engine(&audio_a())), 0);
    bench.session.held_up(Duration::from_millis(900));
    bench.session.held_up(Duration::ZERO);
    assert_eq!(bench.after(400).engine(&audio_a())[0], Action::ChunkGap(Duration::from_millis(400)));
    let measured = ended(&bench.engine(DONE_A))[0].measured;
    assert_eq!(measured.rtf, Err(crate::audio::Unknown::SlowCaller));
}

#[test]
fn ttfb_counts_from_the_first_text_that_can_be_spoken() {
    let mut bench = bench();
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
        let mut bench = bench();
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
