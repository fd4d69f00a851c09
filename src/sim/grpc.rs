//! The engine's gRPC surface, `rime.TextToSpeech`. Decides what each call means; knows no frames and no GPU.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use rimelabs_api::streaming_synthesis_request::Payload as Said;
use rimelabs_api::synthesis_response_stream::Payload as Spoken;
use rimelabs_api::text_to_speech_server::{TextToSpeech, TextToSpeechServer};
use rimelabs_api::{
    GetSupportedLanguagesRequest, GetSupportedLanguagesResponse, GetSupportedSpeakersRequest,
    GetSupportedSpeakersResponse, NormalizeTextRequest, NormalizeTextResponse, SplitStrategy,
    StreamingSynthesisRequest, SynthesisRequest, SynthesisResponseStream, SynthesisResponseTrailer,
};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status, Streaming};

use super::counts::Protocol;
use super::reply::{Answer, Cut, Reply};
use super::request::Voice;
use super::speech::{Speech, Struck};
use super::surface::Surface;
use super::text::{Input, take_all, take_sentences};
use super::timestamps::{Words, wanted};
use super::v1::LANGUAGES;

/// Speakers that the engine says it has, in every language.
const SPEAKERS: [&str; 4] = ["astra", "celeste", "luna", "orion"];

/// Paths by which calls are counted; what is none of them is `other`.
const PATHS: [&str; 5] = [
    "/rime.TextToSpeech/Synthesize",
    "/rime.TextToSpeech/SynthesizeStreaming",
    "/rime.TextToSpeech/NormalizeText",
    "/rime.TextToSpeech/GetSupportedLanguages",
    "/rime.TextToSpeech/GetSupportedSpeakers",
];

/// Answers one call.
///
/// # Cancel safety
/// Dropping it before the answer cancels the synthesis.
pub(super) async fn answer<B>(surface: Arc<Surface>, mut request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let path = PATHS.iter().find(|path| **path == request.uri().path());
    surface.witness.request(path.unwrap_or(&"other"));
    let cut = Cut::default();
    request.extensions_mut().insert(cut.clone());
    let mut server = TextToSpeechServer::new(Calls(surface));
    let Ok(response) = server.call(request).await;
    response.map(|body| Reply::Grpc(Box::new(Answer::new(body, cut))))
}

#[derive(Debug)]
struct Calls(Arc<Surface>);

/// A synthesis on its way to the caller, and its text on its way to the GPU.
struct Voiced {
    speech: Speech,
    input: Input,
    texts: Option<Streaming<StreamingSynthesisRequest>>,
    words: Option<Words>,
    cut: Cut,
    over: bool,
}

impl Calls {
    fn authenticate(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let header = metadata.as_ref().get(http::header::AUTHORIZATION);
        self.0.authenticate(header).map_err(Status::unauthenticated)
    }

    /// Takes in a synthesis with its parameters; its text comes later.
    fn open(&self, request: &SynthesisRequest, cut: Cut) -> Result<Voiced, Status> {
        let voice = Voice::from_proto(request)
            .map_err(|complaint| Status::invalid_argument(complaint.to_string()))?;
        if let Some(status) = self.0.refuse {
            return Err(Status::new(code(status), "no capacity"));
        }
        Ok(Voiced {
            speech: self.0.open(voice, Protocol::Grpc),
            input: Input::new(request),
            texts: None,
            words: wanted(request).then(Words::default),
            cut,
            over: false,
        })
    }

    fn head(
        &self,
        voiced: Voiced,
        request: &SynthesisRequest,
        metadata: &HeaderMap,
    ) -> tonic::Response<Voices> {
        let mut response = tonic::Response::new(voiced.boxed());
        let id = metadata.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let format = request.audio_parameters.as_ref().and_then(|parameters| parameters.audio_format.clone());
        let entries = [
            ("x-request-id", id.unwrap_or_else(|| self.0.next_request_id())),
            // As it was asked for, letter by letter: Rime's SDK compares.
            ("x-rime-audio-content-type", format.unwrap_or_else(|| "audio/wav".to_owned())),
        ];
        for (name, value) in entries {
            if let Ok(value) = value.parse() {
                response.metadata_mut().insert(name, value);
            }
        }
        response
    }
}

type Voices = stream::BoxStream<'static, Result<SynthesisResponseStream, Status>>;
type Answered<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl TextToSpeech for Calls {
    type SynthesizeStream = Voices;
    type SynthesizeStreamingStream = Voices;

    async fn synthesize(&self, request: tonic::Request<SynthesisRequest>) -> Answered<Voices> {
        let (metadata, extensions, request) = request.into_parts();
        self.authenticate(&metadata)?;
        if request.text.trim().is_empty() {
            return Err(Status::invalid_argument("text is required"));
        }
        if request.split_strategy == Some(SplitStrategy::AccumulateSentence.into()) {
            return Err(Status::invalid_argument("accumulating sentences needs a streaming request"));
        }
        let mut voiced = self.open(&request, extensions.get().cloned().unwrap_or_default())?;
        voiced.say(&request.text);
        voiced.end();
        if !self.0.early_head && voiced.speech.begins().await == Err(Struck::Error) {
            return Err(Status::internal("inference failed"));
        }
        Ok(self.head(voiced, &request, metadata.as_ref()))
    }

    async fn synthesize_streaming(
        &self,
        request: tonic::Request<Streaming<StreamingSynthesisRequest>>,
    ) -> Answered<Voices> {
        let (metadata, extensions, mut texts) = request.into_parts();
        self.authenticate(&metadata)?;
        let first = texts.message().await?.and_then(|message| message.payload);
        let Some(Said::Header(request)) = first else {
            return Err(Status::invalid_argument("the first message must be the header"));
        };
        let mut voiced = self.open(&request, extensions.get().cloned().unwrap_or_default())?;
        voiced.hear(&request.text);
        voiced.texts = Some(texts);
        // Not with the first audio: a caller may wait for the head before it sends text.
        Ok(self.head(voiced, &request, metadata.as_ref()))
    }

    async fn normalize_text(
        &self,
        request: tonic::Request<NormalizeTextRequest>,
    ) -> Answered<NormalizeTextResponse> {
        self.authenticate(request.metadata())?;
        let mut rest = request.into_inner().text;
        let parts = [take_sentences(&mut rest), take_all(&mut rest)];
        let normalized_sentences: Vec<_> =
            parts.into_iter().flatten().map(|part| part.trim().to_owned()).collect();
        let normalized_text = normalized_sentences.concat();
        Ok(tonic::Response::new(NormalizeTextResponse { normalized_text, normalized_sentences }))
    }

    async fn get_supported_languages(
        &self,
        request: tonic::Request<GetSupportedLanguagesRequest>,
    ) -> Answered<GetSupportedLanguagesResponse> {
        self.authenticate(request.metadata())?;
        let languages = LANGUAGES.map(str::to_owned).to_vec();
        Ok(tonic::Response::new(GetSupportedLanguagesResponse { languages }))
    }

    async fn get_supported_speakers(
        &self,
        request: tonic::Request<GetSupportedSpeakersRequest>,
    ) -> Answered<GetSupportedSpeakersResponse> {
        self.authenticate(request.metadata())?;
        let speakers = SPEAKERS.map(str::to_owned).to_vec();
        Ok(tonic::Response::new(GetSupportedSpeakersResponse { speakers }))
    }
}

impl Voiced {
    fn say(&mut self, text: &str) {
        let length = self.speech.say(text);
        if let (Some(words), Some(length)) = (&mut self.words, length) {
            words.push(text, length);
        }
    }

    fn hear(&mut self, text: &str) {
        if let Some(Some(ready)) = self.input.hear(text) {
            self.say(&ready);
        }
    }

    fn end(&mut self) {
        if let Some(rest) = self.input.end() {
            self.say(&rest);
        }
        self.speech.hold(false);
    }

    /// Takes in the text that has come. Fails when the caller has broken off, or the rules.
    fn listen(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        while let Some(texts) = &mut self.texts {
            match texts.poll_next_unpin(context) {
                Poll::Ready(Some(message)) => match message?.payload {
                    Some(Said::TextChunk(text)) => self.hear(&text),
                    Some(Said::Header(_)) => return Err(Status::invalid_argument("one header is enough")),
                    None => {}
                },
                Poll::Ready(None) => {
                    self.texts = None;
                    self.end();
                }
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

impl Stream for Voiced {
    type Item = Result<SynthesisResponseStream, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if let Err(status) = this.listen(context) {
            this.over = true;
            return Poll::Ready(Some(Err(status)));
        }
        let Poll::Ready(piece) = this.speech.poll_bytes(context) else { return Poll::Pending };
        let payload = match piece {
            Some(Ok(bytes)) => Spoken::Audio(bytes.into()),
            Some(Err(Struck::Error)) => {
                this.over = true;
                return Poll::Ready(Some(Err(Status::internal("inference failed"))));
            }
            Some(Err(Struck::Cut)) => {
                this.cut.set();
                return Poll::Pending;
            }
            None => {
                this.over = true;
                let Some(words) = this.words.take() else { return Poll::Ready(None) };
                Spoken::Trailer(SynthesisResponseTrailer { timestamps: Some(words.into_timestamps()) })
            }
        };
        Poll::Ready(Some(Ok(SynthesisResponseStream { payload: Some(payload) })))
    }
}

/// The code that stands for an HTTP status.
fn code(status: StatusCode) -> Code {
    match super::refusal_kind(status) {
        "invalid_input" => Code::InvalidArgument,
        "unauthenticated" => Code::Unauthenticated,
        "permission_denied" => Code::PermissionDenied,
        "not_found" => Code::NotFound,
        "resource_exhausted" => Code::ResourceExhausted,
        "unimplemented" => Code::Unimplemented,
        "unavailable" => Code::Unavailable,
        "timeout" => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}
