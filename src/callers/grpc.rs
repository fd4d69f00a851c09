//! Turns over gRPC: a call each, on a connection of the agent's own.

use std::net::SocketAddr;

use rimelabs_api::synthesis_response_stream::Payload;
use rimelabs_api::text_to_speech_client::TextToSpeechClient;
use rimelabs_api::{AudioParameters, SynthesisRequest};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::call::{Heard, Trouble, ended};
use super::manner::{AUDIO, Manner, Words};
use super::turn::Turn;
use crate::meter::{Meter, Outcome};

/// An open connection.
#[derive(Debug)]
pub(super) struct Line(TextToSpeechClient<Channel>);

impl Line {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Trouble> {
        Ok(Self(TextToSpeechClient::connect(format!("http://{address}")).await?))
    }

    pub(super) async fn turn(&mut self, manner: &Manner, started: Instant, words: &Words) -> Turn {
        let mut meter = manner.meter_of_audio(started);
        match self.listen(manner, words, &mut meter).await {
            Ok(()) => Turn::ended(ended(meter, Outcome::Ok)),
            Err(status) => Turn::ended(match status.code() {
                Code::ResourceExhausted | Code::Unavailable => Heard::Refusal(status.message().to_owned()),
                _ => Heard::failure(status),
            }),
        }
    }

    async fn listen(&mut self, manner: &Manner, words: &Words, meter: &mut Meter) -> Result<(), Status> {
        let text = words.text.clone();
        let mut request = Request::new(SynthesisRequest { text, ..order(manner, words) });
        if let Some(authorization) = &manner.authorization {
            let value = authorization.as_bytes().try_into();
            let value = value.map_err(|_| Status::invalid_argument("the authorization is not ASCII"))?;
            request.metadata_mut().insert("authorization", value);
        }
        let mut answer = self.0.synthesize(request).await?.into_inner();
        while let Some(message) = answer.message().await? {
            if let Some(Payload::Audio(bytes)) = message.payload {
                meter.heard(Instant::now().into_std(), &bytes);
            }
        }
        Ok(())
    }
}

/// What is asked for with these words; the text comes by itself.
pub(super) fn order(manner: &Manner, words: &Words) -> SynthesisRequest {
    let audio_format = Some(AUDIO.to_owned());
    SynthesisRequest {
        language: manner.lang_of(words).map(str::to_owned),
        speaker: manner.speaker_of(words).map(str::to_owned),
        audio_parameters: Some(AudioParameters { audio_format, ..AudioParameters::default() }),
        ..SynthesisRequest::default()
    }
}
