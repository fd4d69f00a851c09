//! gRPC through the gate: real callers (tonic), the simulated engine and its own counts, and an engine whose every frame a
//! test decides.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
#[path = "../gate/common.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod common;
mod promise;
mod raw;
mod relay;
mod side;

use rime_gate::config::{Config, EngineUrl, Listener, Surface};
use rime_gate::gate::Gate;
use rime_gate::sim::{self, Settings};
use rimelabs_api::rime::text_to_speech_client::TextToSpeechClient;
use rimelabs_api::rime::{AudioParameters, StreamingSynthesisRequest, SynthesisRequest};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

use futures_util::Stream;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = TextToSpeechClient<Channel>;

/// A simulated engine that serves gRPC too.
pub(crate) async fn engine(settings: Settings) -> sim::Engine {
    common::engine(Settings { grpc: Some(common::LOCAL), ..settings }).await
}

/// A configuration with an HTTP listener and a gRPC one, in front of `engine`.
pub(crate) fn config(engine: &sim::Engine, limit: u32) -> Config {
    config_for(engine.address(), engine.grpc().unwrap(), limit)
}

pub(crate) fn config_for(http: SocketAddr, grpc: SocketAddr, limit: u32) -> Config {
    let mut config = common::config(http, limit);
    config.engine.grpc = EngineUrl::parse(&format!("http://{grpc}")).unwrap();
    config.listeners.push(Listener { address: common::LOCAL, surface: Surface::Grpc, ..Listener::default() });
    config
}

/// Where gRPC callers come in.
pub(crate) fn door(gate: &Gate) -> SocketAddr {
    gate.addresses()[1]
}

/// A caller with a connection of its own.
pub(crate) async fn client(address: SocketAddr) -> Client {
    // Tonic's own connection window is no larger than a stream's: one that nobody reads would use up both.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.initial_connection_window_size(1 << 24);
    TextToSpeechClient::new(common::soon("a connection", endpoint.connect()).await.unwrap())
}

/// A text of so many characters, as headerless PCM.
pub(crate) fn say(characters: usize) -> SynthesisRequest {
    SynthesisRequest {
        text: "a".repeat(characters),
        audio_parameters: Some(AudioParameters {
            audio_format: Some("audio/pcm".into()),
            sampling_rate: Some(24_000),
            ..AudioParameters::default()
        }),
        ..SynthesisRequest::default()
    }
}

/// Text on its way, as tonic wants it.
pub(crate) struct Written(pub(crate) mpsc::Receiver<StreamingSynthesisRequest>);

impl Stream for Written {
    type Item = StreamingSynthesisRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
