//! What goes wrong, when it is asked for.

use rime_gate::sim::{Faults, OnDuplicateStart, Settings};
use tokio_tungstenite::tungstenite::Message;

use crate::common::{Heard, TEXT, TEXT_BYTES, V1, Ws3, engine, settings, until};

fn faulty(faults: Faults) -> Settings {
    Settings { faults, ..settings() }
}

fn error(kind: &str) -> Heard {
    Heard::Error(kind.to_owned())
}

#[tokio::test]
async fn a_refusal_names_its_kind_and_the_socket_stays() {
    let cases = [(429, "resource_exhausted"), (503, "unavailable"), (500, "internal")];
    for (status, kind) in cases {
        let engine = engine(faulty(Faults { refuse: Some(status), ..Faults::default() })).await;
        let mut v1 = V1::open(&engine).await;
        for _ in 0..2 {
            v1.start("a", TEXT).await;
            v1.expects("a", error(kind)).await;
        }
        let mut ws3 = Ws3::open(&engine, "").await;
        ws3.say(TEXT, "a").await;
        assert_eq!(ws3.message().await["message"], "no capacity");
        ws3.say(TEXT, "a").await;
        assert_eq!(ws3.message().await["type"], "error");
        assert_eq!(engine.counts().syntheses.total, 0);
    }
}

#[tokio::test]
async fn a_failure_before_the_first_byte_or_in_the_middle_is_an_error_of_its_context() {
    let early = Faults { error_rate: 1.0, ..Faults::default() };
    let middle = Faults { mid_error_rate: 1.0, ..Faults::default() };
    for (faults, sounds) in [(early, false), (middle, true)] {
        let engine = engine(faulty(faults)).await;
        let mut v1 = V1::open(&engine).await;
        v1.start("a", TEXT).await;
        v1.expects("a", Heard::Started).await;
        let (context, bytes, heard) = v1.next().await;
        assert_eq!((context.as_str(), bytes > 0, heard), ("a", sounds, error("internal")));
        assert!(bytes < TEXT_BYTES);
        v1.start("a", TEXT).await;
        v1.expects("a", Heard::Started).await;
        assert_eq!(engine.counts().protocols.v1.failed, 1);
    }
}

#[tokio::test]
async fn after_the_error_of_a_legacy_run_done_follows_only_if_asked_for() {
    for done_after_error in [false, true] {
        let faults = Faults { error_rate: 1.0, ..Faults::default() };
        let engine = engine(Settings { done_after_error, ..faulty(faults) }).await;
        let mut ws3 = Ws3::open(&engine, "").await;
        ws3.say(TEXT, "a").await;
        let (_, failed) = ws3.next().await;
        assert_eq!((&failed["type"], failed.get("contextId")), (&"error".into(), None));
        if done_after_error {
            assert_eq!(ws3.done().await, 0);
        }
        ws3.operate("eos").await;
        assert_eq!(ws3.0.closed().await.0, 1000);
    }
}

#[tokio::test]
async fn done_may_never_come_although_the_engine_has_finished() {
    let engine = engine(faulty(Faults { no_done_rate: 1.0, ..Faults::default() })).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", TEXT).await;
    v1.expects("a", Heard::Started).await;
    assert_eq!(v1.sounds(TEXT_BYTES).await, TEXT_BYTES);
    until(&engine, |counts| counts.syntheses.completed == 1).await;
    v1.cancel("a").await;
    v1.expects("a", Heard::Cancelled).await;
}

#[tokio::test]
async fn done_may_come_twice() {
    let engine = engine(faulty(Faults { double_done_rate: 1.0, ..Faults::default() })).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", TEXT).await;
    v1.expects("a", Heard::Started).await;
    assert_eq!(v1.done("a").await, TEXT_BYTES);
    assert_eq!(v1.done("a").await, 0);
    let mut ws3 = Ws3::open(&engine, "").await;
    ws3.say(TEXT, "a").await;
    assert_eq!(ws3.done().await, TEXT_BYTES);
    assert_eq!(ws3.done().await, 0);
}

#[tokio::test]
async fn a_cut_breaks_the_connection_in_the_middle_of_a_frame() {
    let engine = engine(faulty(Faults { cut_rate: 1.0, ..Faults::default() })).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", TEXT).await;
    let mut bytes = 0;
    let end = loop {
        match v1.caller.next().await {
            Some(Ok(Message::Binary(piece))) => bytes += piece.len(),
            other => break other,
        }
    };
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    assert!((1..TEXT_BYTES).contains(&bytes));
    until(&engine, |counts| counts.syntheses.failed == 1 && counts.sockets.v1.open == 0).await;
}

#[tokio::test]
async fn a_stalled_context_lasts_until_it_is_cancelled() {
    let engine = engine(faulty(Faults { stall_rate: 1.0, ..Faults::default() })).await;
    let mut v1 = V1::open(&engine).await;
    v1.start("a", TEXT).await;
    v1.expects("a", Heard::Started).await;
    let (_, Heard::Audio(_)) = v1.heard().await else { panic!("no audio") };
    assert_eq!(engine.counts().syntheses.running, 1);
    v1.cancel("a").await;
    assert_eq!(v1.next().await.2, Heard::Cancelled);
    assert_eq!(engine.counts().syntheses.running, 0);
}

#[tokio::test]
async fn a_slow_synthesis_starts_late() {
    let slow_start = std::time::Duration::from_secs(3_600);
    let engine = engine(faulty(Faults { slow_rate: 1.0, slow_start, ..Faults::default() })).await;
    let mut v1 = V1::open(&engine).await;
    let began = tokio::time::Instant::now();
    v1.start("a", TEXT).await;
    v1.expects("a", Heard::Started).await;
    tokio::time::pause();
    // The clock is stopped, and moves on by itself to the next thing that is awaited: that is an hour away.
    let (_, first) = v1.heard_at_last().await;
    assert!(matches!(first, Heard::Audio(_)));
    assert!(began.elapsed() >= slow_start);
}

#[tokio::test]
async fn a_second_start_of_an_open_context_does_as_it_is_told() {
    use OnDuplicateStart::{Fail, Ignore, Reject, Replace};
    for on_duplicate_start in [Fail, Reject, Replace, Ignore] {
        let engine = engine(Settings { on_duplicate_start, ..settings() }).await;
        let mut v1 = V1::open(&engine).await;
        v1.start("a", "").await;
        v1.expects("a", Heard::Started).await;
        v1.start("a", "").await;
        match on_duplicate_start {
            Fail => v1.expects("a", error("invalid_input")).await,
            Reject => v1.expects("", error("invalid_input")).await,
            Replace => v1.expects("a", Heard::Started).await,
            Ignore => {}
        }
        v1.text("a", TEXT).await;
        v1.end("a").await;
        if on_duplicate_start == Fail {
            v1.expects("a", error("invalid_input")).await;
        } else {
            assert_eq!(v1.done("a").await, TEXT_BYTES);
        }
        assert_eq!((engine.counts().syntheses.running, engine.counts().syntheses.peak), (0, 1));
    }
}
