//! The legacy WebSockets, JSON and binary.

use rime_gate::sim::counts::Syntheses;
use rime_gate::sim::{OnClear, Settings};
use tokio_tungstenite::tungstenite::Message;

use crate::common::{Caller, RATE, TEXT, TEXT_BYTES, Ws3, endless, engine, settings, until};

#[tokio::test]
async fn in_never_each_flush_is_a_run_and_gets_exactly_one_done() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "segment=never").await;
    for _ in 0..2 {
        ws3.say(TEXT, "a").await;
        ws3.operate("flush").await;
    }
    assert_eq!(ws3.done().await, TEXT_BYTES);
    assert_eq!(ws3.done().await, TEXT_BYTES);
    ws3.operate("eos").await;
    assert_eq!(ws3.0.closed().await.0, 1000);
    let counts = engine.counts().protocols.ws_json;
    assert_eq!(counts, Syntheses { peak: 1, total: 2, completed: 2, ..Syntheses::default() });
}

#[tokio::test]
async fn a_flush_with_an_empty_buffer_has_no_done() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say(TEXT, "a").await;
    ws3.operate("flush").await;
    assert_eq!(ws3.done().await, TEXT_BYTES);
    ws3.operate("flush").await;
    ws3.say(TEXT, "b").await;
    let (bytes, done) = ws3.next().await;
    assert_eq!((bytes, &done["contextId"]), (TEXT_BYTES, &"b".into()));
}

#[tokio::test]
async fn by_sentence_a_text_without_an_end_is_no_synthesis_yet() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say("It counts what it", "a").await;
    ws3.operate("dance").await;
    assert_eq!(ws3.next().await.1["type"], "error");
    assert_eq!(engine.counts().syntheses.total, 0);
    ws3.say(" speaks of.", "a").await;
    assert_eq!(ws3.done().await, TEXT_BYTES);
    assert_eq!(engine.counts().syntheses.total, 1);
}

#[tokio::test]
async fn a_run_is_not_done_before_its_buffer_is_empty() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say("One. Tw", "a").await;
    until(&engine, |counts| counts.syntheses.running == 1).await;
    ws3.say("o.", "a").await;
    ws3.done().await;
    let counts = engine.counts().syntheses;
    assert_eq!((counts.running, counts.total), (0, 1));
}

#[tokio::test]
async fn immediate_speaks_words_as_they_come() {
    let engine = engine(settings()).await;
    for parameters in ["segment=immediate", "immediate=true"] {
        let mut ws3 = Ws3::open(&engine, parameters).await;
        ws3.say("Well", "a").await;
        ws3.done().await;
    }
    let mut ws3 = Ws3::open(&engine, "segment=immediate").await;
    ws3.say("  ", "a").await;
    ws3.operate("eos").await;
    assert_eq!(ws3.0.closed().await.0, 1000);
    assert_eq!(engine.counts().syntheses.total, 2);
}

#[tokio::test]
async fn eos_speaks_the_rest_and_then_closes_in_order() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "segment=never").await;
    ws3.say(TEXT, "a").await;
    ws3.operate("eos").await;
    assert_eq!(ws3.done().await, TEXT_BYTES);
    assert_eq!(ws3.0.closed().await.0, 1000);
    assert!(ws3.0.next().await.is_none());
    until(&engine, |counts| counts.sockets.ws_json.open == 0).await;
}

#[tokio::test]
async fn a_label_stays_until_another_comes() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say(TEXT, "first").await;
    let chunk = loop {
        let message = ws3.message().await;
        if message["type"] == "chunk" {
            break message;
        }
        assert_eq!(message["type"], "timestamps");
        assert_eq!(message["word_timestamps"]["words"][0], "It");
    };
    assert_eq!(chunk["contextId"], "first");
    assert_eq!(ws3.next().await.1["contextId"], "first");
    ws3.0.send(serde_json::json!({ "text": TEXT }).to_string()).await;
    assert_eq!(ws3.next().await.1["contextId"], "first");
}

#[tokio::test]
async fn on_ws2_done_says_so_twice_over() {
    let engine = engine(settings()).await;
    let listeners = [engine.address(), engine.ws_json().unwrap()];
    for address in listeners {
        let mut ws2 = Ws3(Caller::open(address, "/ws2?audioFormat=pcm", &[]).await);
        ws2.say(TEXT, "a").await;
        let done = ws2.next().await.1;
        assert_eq!((&done["type"], &done["done"]), (&"done".into(), &true.into()));
        let mut ws3 = Ws3(Caller::open(address, "/ws3?audioFormat=pcm", &[]).await);
        ws3.say(TEXT, "a").await;
        assert!(ws3.next().await.1.get("done").is_none());
    }
}

#[tokio::test]
async fn nonsense_is_an_error_without_a_context_and_the_socket_stays() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.0.send("{").await;
    let error = ws3.message().await;
    assert_eq!((&error["type"], error.get("contextId")), (&"error".into(), None));
    ws3.say(TEXT, "a").await;
    assert_eq!(ws3.done().await, TEXT_BYTES);
}

#[tokio::test]
async fn parameters_that_cannot_be_close_the_socket_with_400_in_the_reason() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "segment=often").await;
    let (code, reason) = ws3.0.closed().await;
    assert_eq!(code, 1011);
    assert!(reason.starts_with("400: "), "{reason}");
}

#[tokio::test]
async fn an_idle_clear_costs_nothing_and_drops_what_waits() {
    for on_clear in [OnClear::StopDone, OnClear::Stop, OnClear::PlayOn] {
        let engine = engine(Settings { on_clear, ..settings() }).await;
        let mut ws3 = Ws3::open(&engine, "").await;
        ws3.operate("clear").await;
        ws3.say("Never spo", "a").await;
        ws3.operate("clear").await;
        ws3.say(TEXT, "b").await;
        assert_eq!(ws3.done().await, TEXT_BYTES);
        assert_eq!(engine.counts().syntheses.total, 1);
    }
}

#[tokio::test]
async fn clear_in_mid_run_does_as_it_is_told() {
    for (on_clear, dones) in [(OnClear::StopDone, 1), (OnClear::Stop, 0)] {
        let engine = engine(Settings { on_clear, ..settings() }).await;
        let mut ws3 = Ws3::open(&engine, "segment=never").await;
        ws3.say(&endless(), "a").await;
        ws3.operate("flush").await;
        until(&engine, |counts| counts.syntheses.running == 1).await;
        ws3.operate("clear").await;
        until(&engine, |counts| counts.syntheses.running == 0).await;
        ws3.operate("eos").await;
        for _ in 0..dones {
            ws3.done().await;
        }
        let last = loop {
            match ws3.0.next().await.unwrap().unwrap() {
                Message::Text(text) => assert!(!text.contains(r#""done""#)),
                other => break other,
            }
        };
        assert!(last.is_close());
        assert_eq!(engine.counts().protocols.ws_json.cancelled, 1);
    }
    let engine = engine(Settings { on_clear: OnClear::PlayOn, ..settings() }).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say(&format!("{TEXT} And mo"), "a").await;
    until(&engine, |counts| counts.syntheses.running == 1).await;
    ws3.operate("clear").await;
    assert_eq!(ws3.done().await, TEXT_BYTES);
}

#[tokio::test]
async fn the_binary_socket_sends_bare_audio_and_closes_after_eos() {
    let engine = engine(settings()).await;
    let path = format!("/any?audioFormat=pcm&samplingRate={RATE}");
    let mut caller = Caller::open(engine.ws_binary().unwrap(), &path, &[]).await;
    caller.send("Dropped<CLEAR>").await;
    caller.send(TEXT).await;
    caller.send("<FLUSH>").await;
    caller.send(&TEXT[..14]).await;
    caller.send(&TEXT[14..]).await;
    caller.send("<EOS>").await;
    let mut bytes = 0;
    let last = loop {
        match caller.next().await.unwrap().unwrap() {
            Message::Binary(piece) => bytes += piece.len(),
            other => break other,
        }
    };
    assert!(matches!(last, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
    assert_eq!(bytes, 2 * TEXT_BYTES);
    let counts = engine.counts();
    assert_eq!((counts.protocols.ws_binary.running, counts.protocols.ws_binary.peak), (0, 1));
    assert_eq!(counts.sockets.ws_binary.total, 1);
}

#[tokio::test]
async fn a_caller_of_a_legacy_socket_that_hangs_up_is_noticed_at_once() {
    let engine = engine(settings()).await;
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say(&endless(), "a").await;
    until(&engine, |counts| counts.protocols.ws_json.running == 1).await;
    drop(ws3);
    until(&engine, |counts| counts.protocols.ws_json.cancelled == 1).await;
}
