//! WebSocket v1.

use rime_gate::sim::counts::Syntheses;
use rimelabs_api::web_socket_request::Payload as Request;
use rimelabs_api::web_socket_response::Payload;
use rimelabs_api::{SplitStrategy, TimestampOptions, WebSocketConfig};
use tokio_tungstenite::tungstenite::Message;

use crate::common::{Caller, Heard, PATIENCE, TEXT, TEXT_BYTES, V1, endless, engine, settings, start, until};

#[tokio::test]
async fn a_context_is_started_spoken_and_done_in_either_encoding() {
    let engine = engine(settings()).await;
    for subprotocol in ["rime.v1.binary", "rime.v1.json"] {
        let mut v1 = V1::with(&engine, subprotocol).await;
        v1.start("one", TEXT).await;
        v1.expects("one", Heard::Started).await;
        assert_eq!(v1.done("one").await, TEXT_BYTES);
    }
    let v1 = engine.counts().protocols.v1;
    assert_eq!(v1, Syntheses { peak: 1, total: 2, completed: 2, ..Syntheses::default() });
}

#[tokio::test]
async fn every_format_is_as_long_as_its_text_also_when_the_text_came_in_pieces() {
    use rime_gate::audio::{AudioClock, Hint};
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    let formats =
        ["audio/wav", "audio/L16", "audio/pcmu", "audio/mpeg", "audio/ogg;codecs=opus", "audio/webm"];
    for format in formats {
        let mut request = start("");
        request.audio_parameters.as_mut().unwrap().audio_format = Some(format.to_owned());
        v1.send("", Request::Start(request)).await;
        for text in ["It counts what ", "it speaks of."] {
            v1.text("", text).await;
        }
        v1.end("").await;
        v1.expects("default", Heard::Started).await;
        let mut clock =
            AudioClock::for_answer(Some(format), None, Hint { rate: Some(16_000), ..Hint::default() });
        while let Some(Payload::Audio(bytes)) = v1.response().await.payload {
            clock.feed(&bytes);
        }
        // Frames and packets are whole, so that some sound may be added to the last.
        let seconds = clock.audio().as_secs_f64();
        assert!((1.92..2.08).contains(&seconds), "{format}: {seconds}");
    }
}

#[tokio::test]
async fn contexts_of_one_socket_are_spoken_side_by_side() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("long", &endless()).await;
    v1.start("short", TEXT).await;
    v1.expects("long", Heard::Started).await;
    let mut done = false;
    while !done {
        let (context, heard) = v1.heard().await;
        done = (context.as_str(), heard) == ("short", Heard::Done);
    }
    let syntheses = engine.counts().syntheses;
    assert_eq!((syntheses.running, syntheses.peak), (1, 2));
}

#[tokio::test]
async fn an_open_context_occupies_the_engine_while_it_waits_for_words() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("talk", "").await;
    v1.expects("talk", Heard::Started).await;
    assert_eq!(engine.counts().protocols.v1.running, 1);
    v1.text("talk", TEXT).await;
    // All but the last sample, which could be the end.
    let bytes = v1.sounds(TEXT_BYTES - 2).await;
    assert_eq!((bytes, engine.counts().syntheses.running), (TEXT_BYTES - 2, 1));
    v1.text("talk", TEXT).await;
    v1.end("talk").await;
    assert_eq!(bytes + v1.done("talk").await, 2 * TEXT_BYTES);
    assert_eq!(engine.counts().syntheses.running, 0);
}

#[tokio::test]
async fn words_that_accumulate_are_spoken_sentence_by_sentence_and_end_flushes() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    let split_strategy = Some(SplitStrategy::AccumulateSentence.into());
    v1.send("a", Request::Start(rimelabs_api::SynthesisRequest { split_strategy, ..start("") })).await;
    v1.expects("a", Heard::Started).await;
    v1.text("a", "It counts what it").await;
    // Answered in order: nothing was spoken before.
    v1.cancel("unknown").await;
    v1.expects("unknown", Heard::Cancelled).await;
    v1.text("a", " speaks of. And").await;
    let (_, Heard::Audio(_)) = v1.heard().await else { panic!("no audio") };
    v1.end("a").await;
    v1.done("a").await;
}

#[tokio::test]
async fn an_open_context_that_never_gets_a_word_is_done_without_audio() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("mute", "").await;
    v1.end("mute").await;
    v1.expects("mute", Heard::Started).await;
    v1.expects("mute", Heard::Done).await;
}

#[tokio::test]
async fn cancel_ends_a_context_at_once_and_its_name_is_free_again() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("x", &endless()).await;
    v1.cancel("x").await;
    let (context, _, heard) = v1.next().await;
    assert_eq!((context.as_str(), heard), ("x", Heard::Started));
    let (context, _, heard) = v1.next().await;
    assert_eq!((context.as_str(), heard), ("x", Heard::Cancelled));
    assert_eq!(engine.counts().syntheses.running, 0);
    v1.start("x", TEXT).await;
    v1.expects("x", Heard::Started).await;
    assert_eq!(v1.done("x").await, TEXT_BYTES);
    assert_eq!(engine.counts().protocols.v1.peak, 1);
}

#[tokio::test]
async fn cancel_of_an_unknown_context_is_confirmed_too() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.cancel("never").await;
    v1.expects("never", Heard::Cancelled).await;
}

#[tokio::test]
async fn an_error_without_a_context_leaves_the_contexts_running() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", "").await;
    v1.expects("a", Heard::Started).await;
    v1.start(&"x".repeat(129), TEXT).await;
    v1.expects("", Heard::Error("invalid_input".to_owned())).await;
    v1.text("a", TEXT).await;
    v1.end("a").await;
    assert_eq!(v1.done("a").await, TEXT_BYTES);
    v1.start(&"x".repeat(128), TEXT).await;
    v1.expects(&"x".repeat(128), Heard::Started).await;
}

#[tokio::test]
async fn text_for_a_context_that_is_not_open_is_an_invalid_input() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.text("a", TEXT).await;
    v1.expects("a", Heard::Error("invalid_input".to_owned())).await;
}

#[tokio::test]
async fn ready_does_not_mean_authenticated() {
    let engine = engine(settings()).await;
    let open = async || {
        let mut v1 = V1 { caller: Caller::open(engine.address(), "/ws", &[]).await };
        assert!(matches!(v1.response().await.payload, Some(Payload::Ready(_))));
        v1
    };
    let mut v1 = open().await;
    v1.start("a", TEXT).await;
    v1.expects("", Heard::Error("unauthenticated".to_owned())).await;
    assert_eq!(v1.caller.closed().await.0, 1008);

    let mut v1 = open().await;
    let config = WebSocketConfig { authorization: Some(String::new()), ..WebSocketConfig::default() };
    v1.send("", Request::Config(config)).await;
    v1.start("a", TEXT).await;
    v1.expects("a", Heard::Started).await;
}

#[tokio::test]
async fn a_caller_without_a_key_has_ten_seconds_to_send_one() {
    let engine = engine(settings()).await;
    let mut v1 = V1 { caller: Caller::open(engine.address(), "/ws", &[]).await };
    assert!(matches!(v1.response().await.payload, Some(Payload::Ready(_))));
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    v1.expects("", Heard::Error("unauthenticated".to_owned())).await;
    assert!(began.elapsed().as_secs() <= 10);
    assert_eq!(v1.caller.closed().await.0, 1008);
}

#[tokio::test]
async fn the_config_is_what_every_start_begins_with() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    let config = WebSocketConfig { defaults: Some(start("ignored")), ..WebSocketConfig::default() };
    v1.send("", Request::Config(config)).await;
    let bare = rimelabs_api::SynthesisRequest { text: TEXT.to_owned(), ..Default::default() };
    v1.send("a", Request::Start(bare)).await;
    v1.expects("a", Heard::Started).await;
    assert_eq!(v1.done("a").await, TEXT_BYTES);
    v1.send("", Request::Config(WebSocketConfig::default())).await;
    v1.expects("", Heard::Error("invalid_input".to_owned())).await;
}

#[tokio::test]
async fn frames_are_read_by_their_type_whatever_the_answers_are_written_in() {
    let engine = engine(settings()).await;
    let mut v1 = V1::with(&engine, "rime.v1.binary").await;
    let json = serde_json::json!({ "contextId": "a", "start": { "text": TEXT } });
    v1.caller.send(json.to_string()).await;
    v1.expects("a", Heard::Started).await;
    v1.done("a").await;
}

#[tokio::test]
async fn what_cannot_be_decoded_closes_the_socket() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.caller.send("{").await;
    v1.expects("", Heard::Error("invalid_input".to_owned())).await;
    assert_eq!(v1.caller.closed().await.0, 1007);
}

#[tokio::test]
async fn timestamps_come_with_done_for_whoever_asked() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    let timestamps = Some(TimestampOptions { enable: true });
    v1.send("a", Request::Start(rimelabs_api::SynthesisRequest { timestamps, ..start(TEXT) })).await;
    let timestamps = loop {
        if let Some(Payload::Done(done)) = v1.response().await.payload {
            break done.timestamps.unwrap();
        }
    };
    let words: Vec<_> = timestamps.spans.iter().map(|span| span.text.as_str()).collect();
    assert_eq!(words, TEXT.split(' ').collect::<Vec<_>>());
    assert_eq!(timestamps.spans.last().unwrap().end.unwrap().seconds, 2);
}

#[tokio::test]
async fn a_caller_that_hangs_up_ends_all_of_its_contexts() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", &endless()).await;
    v1.start("b", "").await;
    until(&engine, |counts| counts.syntheses.running == 2).await;
    assert_eq!(engine.counts().sockets.v1.open, 1);
    drop(v1);
    until(&engine, |counts| counts.syntheses.running == 0 && counts.sockets.v1.open == 0).await;
    assert_eq!(engine.counts().protocols.v1.cancelled, 2);
}

#[tokio::test]
async fn a_caller_that_reads_nothing_is_still_heard() {
    let engine = engine(settings()).await;
    let mut deaf = V1::open(&engine).await;
    let mut request = start(&endless());
    request.audio_parameters.as_mut().unwrap().sampling_rate = Some(96_000);
    deaf.send("a", Request::Start(request)).await;
    until(&engine, |counts| counts.syntheses.running == 1).await;
    // Meanwhile 100 seconds, 19 MB of it, have been made for the first, too: no socket buffers as much.
    let mut other = V1::open(&engine).await;
    other.start("b", &"a".repeat(1_400)).await;
    other.expects("b", Heard::Started).await;
    other.done("b").await;
    deaf.cancel("a").await;
    until(&engine, |counts| counts.syntheses.running == 0).await;
}

#[tokio::test]
async fn hundreds_of_sockets_speak_on_one_thread() {
    let engine = engine(settings()).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let mut v1 = V1::open(&engine).await;
        callers.spawn(async move {
            v1.start("a", TEXT).await;
            v1.expects("a", Heard::Started).await;
            v1.done("a").await
        });
    }
    let bytes = tokio::time::timeout(PATIENCE, callers.join_all()).await.unwrap();
    assert!(bytes.iter().all(|bytes| *bytes == TEXT_BYTES));
    assert_eq!(engine.counts().protocols.v1.completed, 300);
}

#[tokio::test]
async fn an_engine_that_stops_lets_contexts_end_and_closes_their_sockets_in_order() {
    let engine = engine(settings()).await;
    let mut busy = V1::open(&engine).await;
    let mut idle = V1::open(&engine).await;
    busy.start("a", "").await;
    busy.expects("a", Heard::Started).await;
    let stopping = tokio::spawn(engine.stop());
    assert_eq!(idle.caller.closed().await.0, 1001);
    busy.text("a", TEXT).await;
    busy.end("a").await;
    assert_eq!(busy.done("a").await, TEXT_BYTES);
    assert_eq!(busy.caller.closed().await.0, 1001);
    assert!(busy.caller.next().await.is_none());
    drop((busy, idle));
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn pings_are_answered_in_the_middle_of_everything() {
    let engine = engine(settings()).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", "").await;
    v1.expects("a", Heard::Started).await;
    v1.caller.send(Message::Ping("are you there".into())).await;
    assert_eq!(v1.caller.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));
}
