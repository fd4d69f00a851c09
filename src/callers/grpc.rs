//! Turns over gRPC: a call each, on a connection of the agent's own.

use std::net::SocketAddr;

use rimelabs_api::synthesis_response_stream::Payload;
use rimelabs_api::text_to_speech_client::TextToSpeechClient;
use rimelabs_api::{AudioParameters, SynthesisRequest};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::agents::Turn;
use super::call::{AUDIO, Heard, Trouble, ended, meter};
use crate::meter::{Meter, Outcome};

/// An open connection.
#[derive(Debug)]
pub(super) struct Line(TextToSpeechClient<Channel>);

impl Line {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Trouble> {
        Ok(Self(TextToSpeechClient::connect(format!("http://{address}")).await?))
    }

    pub(super) async fn turn(&mut self, scheduled: Instant, text: &str) -> Turn {
        let mut meter = meter(scheduled, Some(AUDIO));
        match self.listen(text, &mut meter).await {
            Ok(()) => Turn::ended(ended(meter, Outcome::Ok)),
            Err(status) => Turn::ended(match status.code() {
                Code::ResourceExhausted | Code::Unavailable => Heard::Refusal,
                _ => Heard::Failure,
            }),
        }
    }

    async fn listen(&mut self, text: &str, meter: &mut Meter) -> Result<(), Status> {
        let audio_format = Some(AUDIO.to_owned());
        let request = SynthesisRequest {
            speaker: Some("luna".to_owned()),
            text: text.to_owned(),
            audio_parameters: Some(AudioParameters { audio_format, ..AudioParameters::default() }),
            ..SynthesisRequest::default()
        };
        let mut answer = self.0.synthesize(request).await?.into_inner();
        while let Some(message) = answer.message().await? {
            if let Some(Payload::Audio(bytes)) = message.payload {
                meter.heard(Instant::now().into_std(), &bytes);
            }
        }
        Ok(())
    }
}
