//! Calls and engines frame by frame, over the `h2` crate: what tonic hides.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message;
use rime_gate::protocol::grpc::framed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::common::{LOCAL, soon};
use crate::say;

/// A caller's connection.
pub(crate) struct Caller {
    sender: SendRequest<Bytes>,
    _connection: JoinSet<()>,
}

/// The end of a call: its status, wherever it stood, and all that was said.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) head: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// `None` where all was said in the head.
    pub(crate) trailers: Option<HeaderMap>,
}

impl End {
    pub(crate) fn field(&self, name: &str) -> &str {
        let trailers = self.trailers.as_ref().unwrap_or(&self.head);
        trailers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }
}

impl Caller {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = connection.await;
        });
        Self { sender, _connection: serving }
    }

    /// Begins a call with these metadata.
    pub(crate) async fn begin(
        &self,
        path: &str,
        metadata: &[(&str, &str)],
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut sender = soon("room for a call", self.sender.clone().ready()).await.unwrap();
        let request = Request::post(format!("http://gate{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        let request = metadata.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        sender.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// A whole call with one message.
    pub(crate) async fn call(&self, path: &str, metadata: &[(&str, &str)], message: &impl Message) -> End {
        let (response, mut stream) = self.begin(path, metadata).await;
        stream.send_data(framed(message).into(), true).unwrap();
        end(response.await.unwrap()).await.unwrap()
    }

    pub(crate) async fn synthesize(&self, metadata: &[(&str, &str)], characters: usize) -> End {
        soon("the end of a call", self.call(SYNTHESIZE, metadata, &say(characters))).await
    }
}

pub(crate) const SYNTHESIZE: &str = "/rime.TextToSpeech/Synthesize";

/// Reads an answer to its end.
pub(crate) async fn end(response: Response<RecvStream>) -> Result<End, h2::Error> {
    let (head, mut recv) = response.into_parts();
    assert_eq!(head.status, 200);
    let mut body = Vec::new();
    while let Some(bytes) = recv.data().await {
        let bytes = bytes?;
        recv.flow_control().release_capacity(bytes.len())?;
        body.extend_from_slice(&bytes);
    }
    Ok(End { head: head.headers, body, trailers: recv.trailers().await? })
}

/// A call that reached a scripted engine.
pub(crate) struct Arrived {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    /// Which connection it came on, in their order.
    pub(crate) connection: usize,
}

/// An engine whose every frame a test decides. HTTP health checks go to [`Scripted::http`], which says that it is well.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    calls: mpsc::Receiver<Arrived>,
    pub(crate) goodbyes: tokio::sync::broadcast::Sender<()>,
    _serving: JoinSet<()>,
}

impl Scripted {
    /// With room for so many calls on each connection.
    pub(crate) async fn start(streams_max: u32) -> Self {
        let listener = TcpListener::bind(LOCAL).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, calls) = mpsc::channel(256);
        let (goodbyes, _) = tokio::sync::broadcast::channel(4);
        let mut serving = JoinSet::new();
        let farewell = goodbyes.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, streams_max, number, arrived.clone(), farewell.subscribe()));
                number += 1;
            }
        });
        Self { address, calls, goodbyes, _serving: serving }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Arrived> {
        soon("a call at the engine", async { self.calls.recv().await.unwrap() })
    }

    pub(crate) fn is_unasked(&mut self) -> bool {
        self.calls.try_recv().is_ok()
    }
}

async fn serve(
    stream: TcpStream,
    streams_max: u32,
    number: usize,
    arrived: mpsc::Sender<Arrived>,
    mut goodbye: tokio::sync::broadcast::Receiver<()>,
) {
    let mut builder = server::Builder::new();
    let Ok(mut connection) = builder.max_concurrent_streams(streams_max).handshake(stream).await else {
        return;
    };
    let mut said = false;
    loop {
        tokio::select! {
            call = connection.accept() => match call {
                Some(Ok((request, respond))) => {
                    let _ = arrived.send(Arrived { request, respond, connection: number }).await;
                }
                _ => return,
            },
            Ok(()) = goodbye.recv(), if !said => {
                said = true;
                connection.graceful_shutdown();
            }
        }
    }
}
