//! A gate in front of an engine, callers that speak raw HTTP, and an engine that a test scripts byte by byte.
//! The reader of HTTP here is the test's own, so that the gate is not judged by the library it is built on.

use std::fmt::Write as _;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use rime_gate::admin::Status;
use rime_gate::config::{Config, EngineUrl, QueueWaitMax, Threads};
use rime_gate::gate::Gate;
use rime_gate::sim::{self, Profile, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Waits for `future`, or fails.
#[track_caller]
pub(crate) fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{place}: {what} did not happen in time"),
        }
    }
}

/// Waits until `condition` holds, or fails.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    soon(what, async move {
        let mut looks = tokio::time::interval(LOOK);
        while !condition() {
            looks.tick().await;
        }
    })
}

/// A configuration on free ports of the loopback address, in front of `engine`.
pub(crate) fn config(engine: SocketAddr, limit: u32) -> Config {
    let mut config = Config::default();
    config.runtime.threads = Threads::Count(2.try_into().unwrap());
    config.listeners[0].address = LOCAL;
    config.metrics.address = LOCAL;
    config.admin.address = LOCAL;
    config.engine.http = EngineUrl::parse(&format!("http://{engine}")).unwrap();
    config.engine.concurrency_max = limit.try_into().unwrap();
    config.admission.queue_wait_max = QueueWaitMax::Fixed(PATIENCE);
    config
}

/// An engine that serves at once and never errs.
pub(crate) fn fast() -> Settings {
    Settings { profile: Profile::named("test-fast").unwrap(), ..Settings::default() }
}

/// Engines have a thread of their own, as processes have: what keeps callers busy does not keep an engine from noticing
/// that one of them has gone.
static ENGINES: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

pub(crate) async fn engine(settings: Settings) -> sim::Engine {
    ENGINES.spawn(sim::start(settings)).await.unwrap().unwrap()
}

pub(crate) fn start(config: Config) -> Gate {
    Gate::start(config).unwrap()
}

pub(crate) fn status(gate: &Gate) -> Status {
    gate.control().status()
}

/// The value of a gauge without regard to its labels.
pub(crate) fn gauge(gate: &Gate, name: &str) -> f64 {
    gauge_in(&gate.control().metrics(), name)
}

/// The same, in an exposition.
pub(crate) fn gauge_in(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    });
    let values: Vec<f64> =
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).collect();
    assert!(!values.is_empty(), "no {name} in\n{metrics}");
    values.iter().sum()
}

/// Waits until every slot is free and nobody waits, by the gate's state and by its metrics.
#[track_caller]
pub(crate) fn at_rest(gate: &Gate) -> impl Future<Output = ()> {
    until("all slots free", || {
        let status = status(gate);
        status.running == 0
            && status.waiting == 0
            && status.oldest_synthesis_age_seconds == 0.0
            && gauge(gate, "rime_gate_inflight_syntheses") == 0.0
            && gauge(gate, "rime_gate_queue_depth") == 0.0
            && gauge(gate, "rime_gate_oldest_synthesis_age_seconds") == 0.0
    })
}

/// A text's request body.
pub(crate) fn text(characters: usize) -> String {
    format!(r#"{{"text":"{}"}}"#, "a".repeat(characters))
}

/// A synthesis as bytes, its length declared.
pub(crate) fn say(characters: usize) -> Vec<u8> {
    post("/", &text(characters))
}

pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: gate\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// More audio than the sockets between engine and caller can hold: whoever does not read keeps its slot.
pub(crate) const ENDLESS: usize = 30_000;

/// One HTTP message, as its bytes were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Start line and fields, without the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// What followed the last chunk.
    pub(crate) trailers: String,
}

impl Message {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        self.line().split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Every value of a field, joined by `|`.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let values: Vec<_> =
            lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect();
        if values.is_empty() { None } else { Some(values.join("|")) }
    }

    /// Field names as written, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect()
    }

    pub(crate) fn reason(&self) -> String {
        self.field("x-rime-gate-reason").unwrap_or_default()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::over(soon("a connection", TcpStream::connect(address)).await.unwrap())
    }

    pub(crate) async fn to_gate(gate: &Gate) -> Self {
        Self::to(gate.addresses()[0]).await
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("sending", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// The connection, and what was read of it and not asked for.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Sends as far as the other end lets it.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon("sending", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Reads more; `false` at the end of the connection, however it came.
    async fn more(&mut self) -> bool {
        let mut space = [0; 16_384];
        let read = self.stream.read(&mut space).await.unwrap_or(0);
        self.buffer.extend_from_slice(&space[..read]);
        read > 0
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..end + 2).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn lines(&mut self) -> Option<String> {
        let mut lines = String::new();
        loop {
            match self.line().await?.as_str() {
                "" => return Some(lines),
                line => writeln!(lines, "{line}").unwrap(),
            }
        }
    }

    /// A message's head; `None` where the connection ended first.
    pub(crate) async fn try_head(&mut self) -> Option<Message> {
        Some(Message { head: self.lines().await?, ..Message::default() })
    }

    #[track_caller]
    pub(crate) fn head(&mut self) -> impl Future<Output = Message> {
        soon("a head", async { self.try_head().await.expect("a head, not the end of the connection") })
    }

    /// The rest of a message whose head was read; `None` where it broke off.
    pub(crate) async fn try_body(&mut self, mut message: Message) -> Option<Message> {
        let is_response = message.head.starts_with("HTTP/");
        let chunked = message.field("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let length = message.field("content-length");
        if chunked {
            while let Some(chunk) = self.chunk().await? {
                message.body.extend(chunk);
            }
            message.trailers = self.lines().await?;
        } else if let Some(length) = length {
            message.body = self.exactly(length.parse().unwrap()).await?;
        } else if is_response && message.status() != 304 && message.status() != 204 && message.status() > 199
        {
            while self.more().await {}
            message.body = std::mem::take(&mut self.buffer);
        }
        Some(message)
    }

    /// The next chunk; `Some(None)` at the last one.
    pub(crate) async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let size = self.line().await?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(None);
        }
        let chunk = self.exactly(size).await?;
        self.line().await?;
        Some(Some(chunk))
    }

    pub(crate) async fn try_message(&mut self) -> Option<Message> {
        let head = self.try_head().await?;
        self.try_body(head).await
    }

    #[track_caller]
    pub(crate) fn message(&mut self) -> impl Future<Output = Message> {
        soon("a message", async { self.try_message().await.expect("a whole message") })
    }

    #[track_caller]
    pub(crate) fn body(&mut self, head: Message) -> impl Future<Output = Message> {
        soon("a body", async { self.try_body(head).await.expect("a whole body") })
    }

    /// Sends a request and reads its whole answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.message().await
    }

    /// Everything until the other end closes.
    #[track_caller]
    pub(crate) fn ending(&mut self) -> impl Future<Output = Vec<u8>> {
        soon("the end of the connection", async {
            while self.more().await {}
            std::mem::take(&mut self.buffer)
        })
    }

    /// Closes with RST instead of FIN.
    pub(crate) fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// Sends a request on a connection of its own and reads its whole answer.
pub(crate) async fn ask(gate: &Gate, request: impl AsRef<[u8]>) -> Message {
    Wire::to_gate(gate).await.ask(request).await
}

/// A caller that has got its answer's head and reads no further: it holds a slot until it is dropped.
pub(crate) async fn hold(gate: &Gate) -> Wire {
    let mut wire = Wire::to_gate(gate).await;
    wire.send(say(ENDLESS)).await;
    assert_eq!(wire.head().await.status(), 200);
    wire
}

/// An engine whose every byte a test decides. Health checks are answered and not shown.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    exchanges: mpsc::Receiver<Exchange>,
    serving: JoinSet<()>,
}

/// A request's head that reached the engine, and the connection it came on.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Message,
    pub(crate) wire: Wire,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        Self::start_at(LOCAL).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, exchanges) = mpsc::channel(256);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let arrived = arrived.clone();
                connections.spawn(async move {
                    if let Some(exchange) = first(Wire::over(stream)).await {
                        let _ = arrived.send(exchange).await;
                    }
                });
            }
        });
        Self { address, exchanges, serving }
    }

    /// The first request of the next connection.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Exchange> {
        soon("a request at the engine", async { self.exchanges.recv().await.unwrap() })
    }

    /// Whether a connection has brought a request that nobody asked for yet.
    pub(crate) fn is_unasked(&mut self) -> bool {
        self.exchanges.try_recv().is_ok()
    }

    /// From now on answers every request alike, and writes down what it got.
    pub(crate) fn record(self) -> Recorder {
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let record = Arc::clone(&seen);
        let Self { address, mut exchanges, mut serving } = self;
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(exchange) = exchanges.recv().await {
                connections.spawn(answer_all(exchange, Arc::clone(&record)));
            }
        });
        Recorder { address, seen, _serving: serving }
    }
}

/// Answers health checks until another request comes.
async fn first(mut wire: Wire) -> Option<Exchange> {
    loop {
        let request = wire.try_head().await?;
        if request.line() != "GET /readyz HTTP/1.1" {
            return Some(Exchange { request, wire });
        }
        wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    }
}

async fn answer_all(exchange: Exchange, seen: Arc<Mutex<Vec<Message>>>) {
    let Exchange { mut request, mut wire } = exchange;
    loop {
        // What never gets a body is what was smuggled or cut off: it counts as seen with its head.
        let position = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let Some(whole) = wire.try_body(request).await else { return };
        seen.lock().unwrap()[position] = whole;
        wire.try_send("HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 2\r\n\r\nok").await;
        let Some(next) = wire.try_head().await else { return };
        request = next;
    }
}

/// An engine that says `ok` to everything.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    _serving: JoinSet<()>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        Scripted::start().await.record()
    }

    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }
}
