//! What tonic's client hears through a gate, at every stage of a synthesis' life.

use std::time::Duration;

use base64::Engine as _;
use rime_gate::config::WhenFull;
use rime_gate::gate::Gate;
use rime_gate::sim::{Engine, Settings};
use rimelabs_api::rime::streaming_synthesis_request::Payload as Said;
use rimelabs_api::rime::synthesis_response_stream::Payload;
use rimelabs_api::rime::{
    NormalizeTextRequest, StreamingSynthesisRequest, SynthesisRequest, SynthesisResponseStream,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

use crate::common::{ENDLESS, at_rest, fast, soon, start, status, until};
use crate::{Client, Written, client, config, door, engine, say};

/// Every byte of audio of an answer.
pub(crate) async fn audio(answer: &mut Streaming<SynthesisResponseStream>) -> Result<Vec<u8>, Status> {
    let mut heard = Vec::new();
    while let Some(message) = answer.message().await? {
        if let Some(Payload::Audio(bytes)) = message.payload {
            heard.extend(bytes);
        }
    }
    Ok(heard)
}

async fn spoken(client: &mut Client, request: SynthesisRequest) -> Result<Vec<u8>, Status> {
    let answer = soon("a head", client.synthesize(request)).await?;
    soon("the end", audio(&mut answer.into_inner())).await
}

/// A gate in front of a fast engine, and a caller before it.
async fn served(limit: u32) -> (Engine, Gate, Client) {
    let engine = engine(fast()).await;
    let gate = start(config(&engine, limit));
    let caller = client(door(&gate)).await;
    (engine, gate, caller)
}

/// The same with one slot, which is held: whoever comes is refused at once.
async fn full() -> (Engine, Gate, Client, Streaming<SynthesisResponseStream>) {
    let engine = engine(fast()).await;
    let mut settings = config(&engine, 1);
    settings.admission.when_full = WhenFull::Reject;
    let gate = start(settings);
    let mut caller = client(door(&gate)).await;
    let held = hold(&mut caller).await;
    (engine, gate, caller, held)
}

/// A call that has its slot, and is read no further.
async fn hold(client: &mut Client) -> Streaming<SynthesisResponseStream> {
    soon("a head", client.synthesize(say(ENDLESS))).await.unwrap().into_inner()
}

fn header(text: &str) -> StreamingSynthesisRequest {
    let header = SynthesisRequest { text: text.into(), ..say(0) };
    StreamingSynthesisRequest { payload: Some(Said::Header(header)) }
}

fn chunk(text: &str) -> StreamingSynthesisRequest {
    StreamingSynthesisRequest { payload: Some(Said::TextChunk(text.into())) }
}

/// A caller that writes text while it listens.
struct Writer {
    texts: mpsc::Sender<StreamingSynthesisRequest>,
    answer: tokio::task::JoinHandle<Result<Streaming<SynthesisResponseStream>, Status>>,
}

impl Writer {
    fn start(client: &Client) -> Self {
        let (texts, written) = mpsc::channel(16);
        let mut client = client.clone();
        let answer =
            tokio::spawn(
                async move { Ok(client.synthesize_streaming(Written(written)).await?.into_inner()) },
            );
        Self { texts, answer }
    }

    async fn write(&self, message: StreamingSynthesisRequest) {
        self.texts.send(message).await.unwrap();
    }

    async fn head(&mut self) -> Streaming<SynthesisResponseStream> {
        soon("a head", &mut self.answer).await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synthesis_sounds_through_the_gate_as_it_does_around_it() {
    let (engine, gate, mut through) = served(4).await;
    let around = spoken(&mut client(engine.grpc().unwrap()).await, say(400)).await.unwrap();
    assert!(around.len() > 10_000);
    let answer = through.synthesize(say(400)).await.unwrap();
    assert_eq!(answer.metadata().get("x-rime-audio-content-type").unwrap(), "audio/pcm");
    assert!(answer.metadata().contains_key("x-request-id"));
    assert_eq!(audio(&mut answer.into_inner()).await.unwrap(), around);
    at_rest(&gate).await;
    let seconds = around.len() as f64 / 48_000.0;
    let metrics = gate.control().metrics();
    let counted = r#"rime_gate_requests_total{code="200",model="other",outcome="ok",protocol="grpc"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    let measured = metrics.lines().find(|line| {
        line.starts_with("rime_gate_audio_seconds_total")
            && line.contains(r#"format="pcm""#)
            && line.contains(r#"protocol="grpc""#)
            && line.contains("other")
    });
    let measured: f64 = measured.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((measured - seconds).abs() < 0.001, "{measured} s of {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_the_limit_is_refused_with_details_or_waits_its_turn() {
    let (engine, gate, mut caller, held) = full().await;
    let refused = spoken(&mut caller, say(40)).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "Currently at synthesis limit")
    );
    assert_eq!(refused.metadata().get("x-rime-gate-reason").unwrap(), "limit_reached");
    assert!(!refused.details().is_empty());
    drop(held);
    at_rest(&gate).await;

    let gate = start(config(&engine, 1));
    let mut caller = client(door(&gate)).await;
    let held = hold(&mut caller).await;
    let mut waiting = caller.clone();
    let waiting = tokio::spawn(async move { spoken(&mut waiting, say(40)).await });
    until("one waiting", || status(&gate).waiting == 1).await;
    assert_eq!(engine.counts().protocols.grpc.running, 1);
    drop(held);
    assert!(soon("its turn", waiting).await.unwrap().is_ok());
    assert_eq!(engine.counts().syntheses.peak, 1);
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_cancels_gives_its_place_or_slot_back_at_every_stage() {
    let engine = engine(Settings { early_head: false, ..fast() }).await;
    let gate = start(config(&engine, 1));
    let mut caller = client(door(&gate)).await;
    let mut held = hold(&mut caller).await;
    // In the queue.
    let mut queued = caller.clone();
    let queued = tokio::spawn(async move { spoken(&mut queued, say(40)).await });
    until("one waiting", || status(&gate).waiting == 1).await;
    queued.abort();
    until("nobody waiting", || status(&gate).waiting == 0).await;
    assert_eq!(engine.counts().syntheses.total, 1, "the engine never saw it");
    // In the middle of the audio.
    soon("a message", held.message()).await.unwrap();
    drop(held);
    at_rest(&gate).await;
    until("the engine knows", || engine.counts().syntheses.cancelled == 1).await;
    // Before and around the head, at any moment.
    for turns in 0..40 {
        let mut caller = caller.clone();
        let call = tokio::spawn(async move { spoken(&mut caller, say(ENDLESS)).await });
        for _ in 0..turns * 25 {
            tokio::task::yield_now().await;
        }
        call.abort();
    }
    at_rest(&gate).await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    assert_eq!(engine.counts().syntheses.peak, 1);
    assert!(spoken(&mut caller, say(40)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_text_takes_its_slot_with_the_first_words_and_keeps_it_to_the_end() {
    let (engine, gate, caller) = served(1).await;
    let mut writer = Writer::start(&caller);
    writer.write(header("")).await;
    writer.write(chunk("  ")).await;
    // Silence holds no slot: another is served meanwhile.
    assert!(spoken(&mut caller.clone(), say(40)).await.is_ok());
    assert_eq!(engine.counts().syntheses.total, 1);
    writer.write(chunk("Hello there.")).await;
    let mut answer = writer.head().await;
    soon("a message", answer.message()).await.unwrap().unwrap();
    assert_eq!(status(&gate).running, 1);
    // While the writer thinks, the slot is its own.
    until("all spoken that was written", || status(&gate).running == 1).await;
    writer.write(chunk(" And some more words.")).await;
    soon("a message", answer.message()).await.unwrap().unwrap();
    let Writer { texts, .. } = writer;
    drop(texts);
    assert!(!soon("the end", audio(&mut answer)).await.unwrap().is_empty());
    at_rest(&gate).await;
    assert_eq!((engine.counts().protocols.grpc.completed, engine.counts().syntheses.cancelled), (2, 0));
    assert!(gate.control().metrics().contains(r#"outcome="ok",protocol="grpc"} 2"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_stops_writing_loses_its_slot_and_the_engine_is_not_blamed() {
    let engine = engine(fast()).await;
    let mut settings = config(&engine, 1);
    settings.engine.stall_timeout = Duration::from_millis(200);
    let gate = start(settings);
    let mut writer = Writer::start(&client(door(&gate)).await);
    writer.write(header("Hello there.")).await;
    let mut answer = writer.head().await;
    let error = soon("the end", audio(&mut answer)).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    at_rest(&gate).await;
    assert!(gate.control().metrics().contains(r#"outcome="caller_gone",protocol="grpc"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_synthesis_passes_a_full_gate_and_an_unknown_method_is_the_engines_to_refuse() {
    let (_engine, gate, mut caller, _held) = full().await;
    let request = NormalizeTextRequest { text: "One. Two.".into(), ..NormalizeTextRequest::default() };
    let answer = soon("an answer", caller.normalize_text(request)).await.unwrap().into_inner();
    assert_eq!(answer.normalized_text, "One. Two.");
    let speakers = soon(
        "an answer",
        caller.get_supported_speakers(rimelabs_api::rime::GetSupportedSpeakersRequest::default()),
    )
    .await
    .unwrap();
    assert!(!speakers.into_inner().speakers.is_empty());
    assert_eq!((status(&gate).running, status(&gate).waiting), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_blocks_no_neighbour_and_is_ended_in_time() {
    let engine = engine(fast()).await;
    let mut settings = config(&engine, 8);
    settings.limits.caller_stall_timeout = Duration::from_millis(1_500);
    let gate = start(settings);
    let mut caller = client(door(&gate)).await;
    // Several that take nothing, on the same connection: their windows are full.
    let mut still = Vec::new();
    for _ in 0..4 {
        still.push(hold(&mut caller).await);
    }
    let mut neighbours = JoinSet::new();
    for _ in 0..30 {
        let mut caller = caller.clone();
        neighbours.spawn(async move { spoken(&mut caller, say(400)).await.unwrap().len() });
    }
    let heard = soon("the neighbours", neighbours.join_all()).await;
    assert!(heard.iter().all(|length| *length > 10_000 && *length == heard[0]), "{heard:?}");
    at_rest(&gate).await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    for answer in &mut still {
        assert!(soon("the end", audio(answer)).await.is_err(), "broken audio does not look whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_down_is_unavailable_at_once_and_comes_back_without_a_new_gate() {
    let (engine, gate, mut caller) = served(2).await;
    let (http, grpc) = (engine.address(), engine.grpc().unwrap());
    let mut held = hold(&mut caller).await;
    engine.kill().await;
    let broken = soon("the end", audio(&mut held)).await.unwrap_err();
    assert_eq!(broken.code(), Code::Unavailable, "{broken:?}");
    let down = spoken(&mut caller, say(40)).await.unwrap_err();
    assert_eq!((down.code(), down.message()), (Code::Unavailable, "Engine unavailable"));
    assert_eq!(down.metadata().get("x-rime-gate-reason").unwrap(), "engine_unavailable");
    at_rest(&gate).await;
    let again = Settings { listen: http, grpc: Some(grpc), ..fast() };
    let engine = crate::common::engine(again).await;
    assert!(spoken(&mut caller, say(40)).await.is_ok());
    assert_eq!(engine.counts().protocols.grpc.total, 1);
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_gate_ends_what_runs_and_refuses_what_waits() {
    let (engine, gate, mut caller) = served(1).await;
    let mut running = soon("a head", caller.synthesize(say(6_000))).await.unwrap().into_inner();
    let mut waiting = client(door(&gate)).await;
    let waiting = tokio::spawn(async move { spoken(&mut waiting, say(40)).await });
    until("one waiting", || status(&gate).waiting == 1).await;
    let draining = tokio::spawn(gate.drain());
    let refused = soon("a refusal", waiting).await.unwrap().unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "Shutting down"));
    assert!(soon("the end", audio(&mut running)).await.unwrap().len() > 100_000);
    drop((running, caller));
    soon("the drain", draining).await.unwrap();
    assert_eq!(engine.counts().syntheses.completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn details_of_a_refusal_are_googles_status_with_when_to_come_again() {
    let (_engine, _gate, mut caller, _held) = full().await;
    let refused = spoken(&mut caller, say(40)).await.unwrap_err();
    let details: rimelabs_api::google::rpc::Status = prost::Message::decode(refused.details()).unwrap();
    assert_eq!(details.code, Code::ResourceExhausted as i32);
    let kinds: Vec<_> = details.details.iter().map(|any| any.type_url.rsplit('.').next().unwrap()).collect();
    assert_eq!(kinds, ["ErrorInfo", "RetryInfo"]);
    // The same bytes, as they stand in the trailer: no padding, as gRPC asks.
    let encoded = base64::prelude::BASE64_STANDARD_NO_PAD.encode(refused.details());
    assert!(!encoded.ends_with('='));
}
