//! The simulated engine's gRPC surface over loopback, through the published proto's own client.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream;
use rime_gate::sim::counts::Syntheses;
use rime_gate::sim::{self, Counts, Engine, Faults, Profile, Settings};
use rimelabs_api::streaming_synthesis_request::Payload as Said;
use rimelabs_api::synthesis_response_stream::Payload as Spoken;
use rimelabs_api::text_to_speech_client::TextToSpeechClient;
use rimelabs_api::{
    AudioParameters, GetSupportedLanguagesRequest, GetSupportedSpeakersRequest, NormalizeTextRequest,
    SplitStrategy, StreamingSynthesisRequest, SynthesisRequest, SynthesisResponseStream, TimestampOptions,
};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// 28 characters: 2 seconds.
const TEXT: &str = "It counts what it speaks of.";
/// Bytes of [`TEXT`] as 16 bit samples, 16000 of them a second.
const TEXT_BYTES: usize = 2 * 2 * 16_000;

fn settings() -> Settings {
    let loopback = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    Settings { profile: Profile::named("test-fast").unwrap(), grpc: loopback, ..Settings::default() }
}

fn faulty(faults: Faults) -> Settings {
    Settings { faults, ..settings() }
}

async fn engine(settings: Settings) -> Engine {
    sim::start(settings).await.unwrap()
}

async fn client(engine: &Engine) -> TextToSpeechClient<Channel> {
    TextToSpeechClient::connect(format!("http://{}", engine.grpc().unwrap())).await.unwrap()
}

fn request(text: &str) -> SynthesisRequest {
    let audio_parameters = AudioParameters {
        audio_format: Some("audio/pcm".to_owned()),
        sampling_rate: Some(16_000),
        ..AudioParameters::default()
    };
    SynthesisRequest {
        text: text.to_owned(),
        audio_parameters: Some(audio_parameters),
        ..SynthesisRequest::default()
    }
}

/// Hours of speech.
fn endless() -> SynthesisRequest {
    request(&"a".repeat(1_000_000))
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("the engine answers")
}

async fn until(engine: &Engine, holds: impl Fn(&Counts) -> bool) {
    within(async {
        while !holds(&engine.counts()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The bytes of audio and how the stream ended.
async fn hear(stream: &mut Streaming<SynthesisResponseStream>) -> (usize, Result<Option<Spoken>, Status>) {
    let mut bytes = 0;
    loop {
        match within(stream.message()).await {
            Ok(Some(message)) => match message.payload.unwrap() {
                Spoken::Audio(piece) => bytes += piece.len(),
                trailer => return (bytes, Ok(Some(trailer))),
            },
            Ok(None) => return (bytes, Ok(None)),
            Err(status) => return (bytes, Err(status)),
        }
    }
}

/// A caller who streams text, and the way to it.
async fn streaming(engine: &Engine) -> (mpsc::Sender<Said>, Streaming<SynthesisResponseStream>) {
    let (sender, receiver) = mpsc::channel(16);
    let texts = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Said>| {
        let payload = receiver.recv().await?;
        Some((StreamingSynthesisRequest { payload: Some(payload) }, receiver))
    });
    sender.send(Said::Header(request(""))).await.unwrap();
    let mut client = client(engine).await;
    let answer = within(client.synthesize_streaming(texts)).await.unwrap();
    assert_eq!(answer.metadata().get("x-rime-audio-content-type").unwrap(), "audio/pcm");
    (sender, answer.into_inner())
}

#[tokio::test]
async fn a_synthesis_is_spoken_and_counted_and_its_head_names_the_format() {
    let engine = engine(settings()).await;
    let mut call = tonic::Request::new(request(TEXT));
    call.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    let answer = client(&engine).await.synthesize(call).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "mine");
    assert_eq!(answer.metadata().get("x-rime-audio-content-type").unwrap(), "audio/pcm");
    let (bytes, end) = hear(&mut answer.into_inner()).await;
    assert_eq!((bytes, end.unwrap()), (TEXT_BYTES, None));
    let counts = engine.counts().protocols;
    assert_eq!(counts.grpc, Syntheses { peak: 1, total: 1, completed: 1, ..Syntheses::default() });
    assert_eq!(counts.http, Syntheses::default());
}

#[tokio::test]
async fn a_request_without_an_id_gets_one() {
    let engine = engine(settings()).await;
    let answer = client(&engine).await.synthesize(request(TEXT)).await.unwrap();
    assert!(!answer.metadata().get("x-request-id").unwrap().is_empty());
}

#[tokio::test]
async fn streamed_text_is_spoken_as_it_comes_and_a_half_close_ends_it() {
    let engine = engine(settings()).await;
    let (texts, mut answer) = streaming(&engine).await;
    assert_eq!(engine.counts().protocols.grpc.running, 1);
    texts.send(Said::TextChunk(TEXT.to_owned())).await.unwrap();
    let first = within(answer.message()).await.unwrap().unwrap().payload;
    let Some(Spoken::Audio(first)) = first else { panic!("no audio") };
    assert_eq!(engine.counts().syntheses.running, 1);
    texts.send(Said::TextChunk(TEXT.to_owned())).await.unwrap();
    drop(texts);
    let (bytes, end) = hear(&mut answer).await;
    assert_eq!((first.len() + bytes, end.unwrap()), (2 * TEXT_BYTES, None));
    assert_eq!(engine.counts().protocols.grpc.completed, 1);
}

#[tokio::test]
async fn the_first_message_of_a_stream_is_its_header() {
    let engine = engine(settings()).await;
    let texts = [StreamingSynthesisRequest { payload: Some(Said::TextChunk(TEXT.to_owned())) }];
    let status = client(&engine).await.synthesize_streaming(stream::iter(texts)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(engine.counts().syntheses.total, 0);
}

#[tokio::test]
async fn what_cannot_be_spoken_is_an_invalid_argument() {
    let engine = engine(settings()).await;
    let mut client = client(&engine).await;
    let format = |name: &str| {
        let mut request = request(TEXT);
        request.audio_parameters.as_mut().unwrap().audio_format = Some(name.to_owned());
        request
    };
    let split_strategy = Some(SplitStrategy::AccumulateSentence.into());
    for wrong in [request(" "), format("audio/flac"), SynthesisRequest { split_strategy, ..request(TEXT) }] {
        assert_eq!(client.synthesize(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_caller_that_cancels_is_noticed_at_once() {
    let engine = engine(settings()).await;
    let mut client = client(&engine).await;
    let answer = client.synthesize(endless()).await.unwrap();
    let (texts, streamed) = streaming(&engine).await;
    until(&engine, |counts| counts.protocols.grpc.running == 2).await;
    drop((answer, texts, streamed));
    until(&engine, |counts| counts.protocols.grpc.cancelled == 2).await;
    // The connection is as good as before.
    client.synthesize(request(TEXT)).await.unwrap();
    assert_eq!(engine.counts().connections.total, 2);
}

#[tokio::test]
async fn statuses_are_those_of_the_http_surface() {
    let cases = [
        (429, Code::ResourceExhausted),
        (503, Code::Unavailable),
        (401, Code::Unauthenticated),
        (500, Code::Internal),
    ];
    for (status, code) in cases {
        let engine = engine(faulty(Faults { refuse: Some(status), ..Faults::default() })).await;
        let refusal = client(&engine).await.synthesize(request(TEXT)).await.unwrap_err();
        assert_eq!((refusal.code(), refusal.message()), (code, "no capacity"));
    }
    let engine = engine(Settings { api_key: Some("secret".to_owned()), ..settings() }).await;
    let mut client = client(&engine).await;
    let refusal = client.synthesize(request(TEXT)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
    let mut call = tonic::Request::new(request(TEXT));
    call.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    client.synthesize(call).await.unwrap();
}

#[tokio::test]
async fn faults_end_a_stream_with_a_status_or_break_it_off() {
    let early = engine(faulty(Faults { error_rate: 1.0, ..Faults::default() })).await;
    let status = client(&early).await.synthesize(request(TEXT)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "inference failed"));

    let middle = engine(faulty(Faults { mid_error_rate: 1.0, ..Faults::default() })).await;
    let answer = client(&middle).await.synthesize(request(TEXT)).await.unwrap();
    let (bytes, end) = hear(&mut answer.into_inner()).await;
    assert!((1..TEXT_BYTES).contains(&bytes));
    assert_eq!(end.unwrap_err().message(), "inference failed");

    let cut = engine(faulty(Faults { cut_rate: 1.0, ..Faults::default() })).await;
    let answer = client(&cut).await.synthesize(request(TEXT)).await.unwrap();
    let (bytes, end) = hear(&mut answer.into_inner()).await;
    assert!((1..TEXT_BYTES).contains(&bytes));
    // A reset of the stream, of which the engine said nothing.
    assert!(end.unwrap_err().message().contains("error"));
    assert_eq!(cut.counts().protocols.grpc.failed, 1);
}

#[tokio::test]
async fn what_is_no_synthesis_is_answered_and_never_counted() {
    let engine = engine(settings()).await;
    let mut client = client(&engine).await;
    let languages = client.get_supported_languages(GetSupportedLanguagesRequest {}).await.unwrap();
    assert!(languages.into_inner().languages.contains(&"en".to_owned()));
    let speakers = client.get_supported_speakers(GetSupportedSpeakersRequest::default()).await.unwrap();
    assert!(!speakers.into_inner().speakers.is_empty());
    let text = "It counts. And so".to_owned();
    let normalized = client
        .normalize_text(NormalizeTextRequest { text, ..NormalizeTextRequest::default() })
        .await
        .unwrap();
    assert_eq!(normalized.into_inner().normalized_sentences, ["It counts.", "And so"]);
    assert_eq!(engine.counts().syntheses.total, 0);
    assert_eq!(engine.counts().requests["/rime.TextToSpeech/NormalizeText"], 1);
}

#[tokio::test]
async fn timestamps_come_in_a_trailer_for_whoever_asked() {
    let engine = engine(settings()).await;
    let timestamps = Some(TimestampOptions { enable: true });
    let request = SynthesisRequest { timestamps, ..request(TEXT) };
    let answer = client(&engine).await.synthesize(request).await.unwrap();
    let (bytes, end) = hear(&mut answer.into_inner()).await;
    assert_eq!(bytes, TEXT_BYTES);
    let Some(Spoken::Trailer(trailer)) = end.unwrap() else { panic!("no trailer") };
    assert_eq!(trailer.timestamps.unwrap().spans.len(), 6);
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let engine = engine(settings()).await;
    let client = client(&engine).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut client = client.clone();
        callers.spawn(async move {
            let answer = client.synthesize(request(TEXT)).await.unwrap();
            hear(&mut answer.into_inner()).await.0
        });
    }
    let bytes = within(callers.join_all()).await;
    assert!(bytes.iter().all(|bytes| *bytes == TEXT_BYTES));
    assert_eq!((engine.counts().protocols.grpc.completed, engine.counts().connections.total), (100, 1));
}
