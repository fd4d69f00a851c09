//! The promise on every protocol at once: never more syntheses in the engine than the limit, whatever is said on
//! sockets and however they end; and every slot, place and socket comes back. The witness is the engine's own count.
//!
//! `RIME_GATE_TEST_SEED=n` runs the schedule of one seed alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rime_gate::admin::Control;
use rime_gate::config::{Config, EngineUrl, Listener, QueueWaitMax, Surface};
use rime_gate::sim::{Engine, Faults, OnClear, OnDuplicateStart, Settings};
use rimelabs_api::rime::text_to_speech_client::TextToSpeechClient;
use rimelabs_api::web_socket_request::Payload;
use rimelabs_api::web_socket_response::Payload as Answer;
use rimelabs_api::{SynthesisRequest, WebSocketCancel, WebSocketEnd, WebSocketRequest, WebSocketResponse};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tonic::transport::{Channel, Endpoint};

use crate::common::{LOCAL, PATIENCE, Wire, config, engine, fast, gauge_in, soon, start, until};
use crate::promise;
use crate::sockets::upgrade;

const SEEDS: std::ops::Range<u64> = 0..12;
const LANES: usize = 2;
const CALLERS: usize = 200;
const LIMIT_MAX: u32 = 12;
/// A caller who has not heard what it waits for leaves then.
const LIFE: Duration = Duration::from_secs(3);
/// Audio of a text of so many characters is more than the connections on its way can hold, if its caller does not read.
const ENDLESS: usize = 1_500;

/// What a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    V1Json,
    V1Binary,
    Ws3,
    Ws2,
    Ws3Never,
    Binary,
    Grpc,
}

/// How often each is drawn. A further protocol is a further line here.
const TABLE: [(Speaks, u32); 8] = [
    (Speaks::Http, 3),
    (Speaks::V1Json, 4),
    (Speaks::V1Binary, 4),
    (Speaks::Ws3, 4),
    (Speaks::Ws2, 2),
    (Speaks::Ws3Never, 2),
    (Speaks::Binary, 2),
    (Speaks::Grpc, 3),
];

/// How a caller on a socket leaves, wherever it is then.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// Closes, and waits for the answer.
    Properly,
    /// Closes, and does not wait.
    InItsClose,
    Reset,
    /// Stops in the middle of a frame and resets.
    InAFrame,
    /// FIN without a close frame.
    Fin,
    /// Says nothing and reads nothing any more, until the gate notices.
    HalfOpen,
}

/// What a caller does within a turn.
#[derive(Clone, Copy, Debug)]
enum Whim {
    None,
    /// `cancel` or `clear` after so long.
    Stops(Duration),
    /// Starts the same again at once; on a legacy socket, flushes again.
    Repeats,
    /// Reads nothing for so long.
    Interrupts(Duration),
}

/// One caller's life, all of it decided before it begins.
#[derive(Clone, Debug)]
struct Caller {
    speaks: Speaks,
    arrives: Duration,
    turns: Vec<Turn>,
    /// When it leaves, at the latest.
    life: Duration,
    leaves: Leaves,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Side by side on a v1 socket.
    contexts: usize,
    characters: usize,
    whim: Whim,
    /// Says that its text is all there.
    ends: bool,
}

impl Turn {
    fn random(random: &mut StdRng) -> Self {
        let millis = |random: &mut StdRng, most| Duration::from_millis(random.random_range(0..most));
        let whim = match random.random_range(0..10) {
            0..=1 => Whim::Stops(millis(random, 40)),
            2 => Whim::Repeats,
            3 if random.random_bool(0.3) => Whim::Interrupts(Duration::from_millis(600)),
            _ => Whim::None,
        };
        let long = matches!(whim, Whim::Interrupts(_));
        Self {
            contexts: random.random_range(1..4),
            characters: if long { ENDLESS } else { random.random_range(1..60) },
            whim,
            ends: random.random_bool(0.9),
        }
    }
}

impl Caller {
    fn random(random: &mut StdRng) -> Self {
        let (speaks, _) = *TABLE.choose_weighted(random, |(_, weight)| *weight).unwrap();
        let early = random.random_bool(0.3);
        let leaves = match random.random_range(0..10) {
            0 => Leaves::InItsClose,
            1..=2 => Leaves::Reset,
            3 => Leaves::InAFrame,
            4 => Leaves::Fin,
            5 if random.random_bool(0.5) => Leaves::HalfOpen,
            _ => Leaves::Properly,
        };
        Self {
            speaks,
            arrives: Duration::from_micros(random.random_range(0..1_200_000)),
            turns: (0..random.random_range(1..4)).map(|_| Turn::random(random)).collect(),
            life: if early { Duration::from_micros(random.random_range(0..120_000)) } else { LIFE },
            leaves,
        }
    }

    /// What a half-open end still holds.
    async fn live(self, doors: Doors, grpc: Grpc) -> Option<TcpStream> {
        sleep(self.arrives).await;
        let ends = Instant::now() + self.life;
        if self.speaks == Speaks::Grpc {
            let _ = timeout_at(ends, call(grpc, &self.turns)).await;
            return None;
        }
        let mut socket = timeout_at(ends, Socket::open(self.speaks, doors)).await.ok()??;
        let _ = timeout_at(ends, socket.talk(self.speaks, &self.turns)).await;
        socket.leave(self.leaves).await
    }
}

type Grpc = TextToSpeechClient<Channel>;

/// One synthesis after the other. Dropped, its stream is reset.
async fn call(mut grpc: Grpc, turns: &[Turn]) {
    for turn in turns {
        let text = SynthesisRequest { text: words(turn.characters), ..SynthesisRequest::default() };
        let Ok(answer) = grpc.synthesize(text).await else { continue };
        let mut audio = answer.into_inner();
        if let Whim::Interrupts(time) = turn.whim {
            sleep(time).await;
        }
        while let Ok(Some(_)) = audio.message().await {}
    }
}

/// The gate's addresses.
#[derive(Clone, Copy, Debug)]
struct Doors {
    http: SocketAddr,
    json: SocketAddr,
    binary: SocketAddr,
}

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(speaks: Speaks, doors: Doors) -> Option<Self> {
        let v1 = |encoding| format!("Sec-WebSocket-Protocol: {encoding}\r\nAuthorization: Bearer k\r\n");
        let (door, target, more) = match speaks {
            Speaks::Http | Speaks::Grpc => return None,
            Speaks::V1Json => (doors.http, "/ws", v1("rime.v1.json")),
            Speaks::V1Binary => (doors.http, "/ws", v1("rime.v1.binary")),
            Speaks::Ws3 => (doors.http, "/ws3?audioFormat=pcm", String::new()),
            Speaks::Ws2 => (doors.json, "/ws2?segment=immediate", String::new()),
            Speaks::Ws3Never => (doors.json, "/ws3?segment=never", String::new()),
            Speaks::Binary => (doors.binary, "/ws?audioFormat=pcm", String::new()),
        };
        let socket = TcpSocket::new_v4().ok()?;
        // Little room on the way: who does not read is noticed soon.
        socket.set_recv_buffer_size(16 * 1024).ok()?;
        let mut wire = Wire::over(socket.connect(door).await.ok()?);
        wire.try_send(upgrade("GET", target, &more)).await;
        let head = wire.try_head().await?;
        if head.status() != 101 {
            return None;
        }
        let (stream, read) = wire.into_parts();
        Some(Self(WebSocketStream::from_partially_read(stream, read, Role::Client, None).await))
    }

    async fn talk(&mut self, speaks: Speaks, turns: &[Turn]) -> Option<()> {
        for (number, turn) in turns.iter().enumerate() {
            match speaks {
                Speaks::V1Json | Speaks::V1Binary => self.v1_turn(speaks, number, turn).await?,
                _ => self.legacy_turn(speaks, number, turn).await?,
            }
        }
        match speaks {
            Speaks::V1Json | Speaks::V1Binary => return Some(()),
            Speaks::Binary => self.say("<EOS>").await?,
            _ => self.say(r#"{"operation":"eos"}"#).await?,
        }
        loop {
            self.hear().await?;
        }
    }

    async fn say(&mut self, message: impl Into<Message>) -> Option<()> {
        self.0.send(message.into()).await.ok()
    }

    async fn hear(&mut self) -> Option<Message> {
        self.0.next().await?.ok()
    }

    /// Reads for so long and forgets it.
    async fn hear_for(&mut self, time: Duration) {
        let _ = timeout(time, async { while self.hear().await.is_some() {} }).await;
    }

    async fn v1_turn(&mut self, speaks: Speaks, number: usize, turn: &Turn) -> Option<()> {
        let mut open = Vec::new();
        for context in 0..turn.contexts {
            // An id may come again in the next turn.
            let id = format!("c{}", context + number % 2);
            self.request(speaks, &id, Payload::Start(SynthesisRequest::default())).await?;
            if matches!(turn.whim, Whim::Repeats) {
                self.request(speaks, &id, Payload::Start(SynthesisRequest::default())).await?;
            }
            self.request(speaks, &id, Payload::Text(words(turn.characters))).await?;
            if turn.ends {
                self.request(speaks, &id, Payload::End(WebSocketEnd {})).await?;
            }
            open.push(id);
        }
        match turn.whim {
            Whim::Stops(after) => {
                self.hear_for(after).await;
                for id in &open {
                    self.request(speaks, id, Payload::Cancel(WebSocketCancel {})).await?;
                }
            }
            Whim::Interrupts(time) => sleep(time).await,
            Whim::None | Whim::Repeats => {}
        }
        if !turn.ends {
            // It leaves with its contexts open.
            self.hear_for(Duration::from_millis(50)).await;
            return None;
        }
        while !open.is_empty() {
            let message = self.hear().await?;
            let Some(answer) = read_v1(&message) else { continue };
            if let Some(Answer::Done(_) | Answer::Cancelled(_) | Answer::Error(_)) = answer.payload {
                open.retain(|id| *id != answer.context_id);
            }
        }
        Some(())
    }

    async fn request(&mut self, speaks: Speaks, context: &str, payload: Payload) -> Option<()> {
        let request = WebSocketRequest { context_id: context.to_owned(), payload: Some(payload) };
        match speaks {
            Speaks::V1Binary => self.say(request.encode_to_vec()).await,
            _ => self.say(serde_json::to_string(&request).unwrap()).await,
        }
    }

    async fn legacy_turn(&mut self, speaks: Speaks, number: usize, turn: &Turn) -> Option<()> {
        let bare = speaks == Speaks::Binary;
        let operation = |name: &str| match bare {
            true => format!("<{}>", name.to_uppercase()),
            false => format!(r#"{{"operation":"{name}"}}"#),
        };
        for piece in [words(turn.characters / 2), words(turn.characters.div_ceil(2))] {
            let message = serde_json::json!({"text": piece, "contextId": format!("turn{number}")});
            self.say(if bare { piece } else { message.to_string() }).await?;
            self.hear_for(Duration::from_millis(3)).await;
        }
        if turn.ends {
            self.say(operation("flush")).await?;
        }
        match turn.whim {
            Whim::Stops(after) => {
                self.hear_for(after).await;
                self.say(operation("clear")).await?;
            }
            Whim::Repeats => self.say(operation("flush")).await?,
            Whim::Interrupts(time) => sleep(time).await,
            Whim::None => {}
        }
        // Nobody tells the end of a bare text, and after `clear` perhaps nobody tells any.
        let enough = if bare || !turn.ends || matches!(turn.whim, Whim::Stops(_)) { 30 } else { 600 };
        let told = async {
            loop {
                let message = self.hear().await?;
                if message.to_text().is_ok_and(|text| text.contains(r#""done""#)) {
                    return Some(());
                }
            }
        };
        match timeout(Duration::from_millis(enough), told).await {
            Ok(told) => told,
            // pipecat clears after every turn.
            Err(_) => self.say(operation("clear")).await,
        }
    }

    async fn leave(mut self, how: Leaves) -> Option<TcpStream> {
        match how {
            Leaves::Properly => {
                let _ = timeout(LIFE, async {
                    self.0.close(None).await.ok()?;
                    while self.hear().await.is_some() {}
                    Some(())
                })
                .await;
            }
            Leaves::InItsClose => drop(timeout(LIFE, self.0.send(Message::Close(None))).await),
            Leaves::InAFrame => {
                // 4096 bytes are announced.
                let _ = timeout(LIFE, self.0.get_mut().write_all(b"\x81\xfe\x10\x00\x00\x00\x00\x00{")).await;
            }
            Leaves::HalfOpen => return Some(self.0.into_inner()),
            Leaves::Reset | Leaves::Fin => {}
        }
        if matches!(how, Leaves::Reset | Leaves::InAFrame) {
            Wire::over(self.0.into_inner()).reset();
        }
        None
    }
}

fn words(characters: usize) -> String {
    let mut text = "Some words of it. ".repeat(characters / 18 + 1);
    text.truncate(characters);
    text
}

fn read_v1(message: &Message) -> Option<WebSocketResponse> {
    match message {
        Message::Text(text) => serde_json::from_str(text).ok(),
        Message::Binary(bytes) => WebSocketResponse::decode(bytes.clone()).ok(),
        _ => None,
    }
}

/// An engine with a will of its own. Its silences are shorter than what the gate takes for an end: beyond that nobody
/// can tell an engine that is done from one that pauses.
fn engine_of(random: &mut StdRng, seed: u64) -> Settings {
    let on_clear = [OnClear::StopDone, OnClear::Stop, OnClear::PlayOn][random.random_range(0..3)];
    let on_duplicate_start = [
        OnDuplicateStart::Fail,
        OnDuplicateStart::Reject,
        OnDuplicateStart::Replace,
        OnDuplicateStart::Ignore,
    ][random.random_range(0..4)];
    let faults = match seed % 3 {
        0 => Faults::default(),
        1 => Faults {
            error_rate: 0.05,
            cut_rate: 0.05,
            mid_error_rate: 0.05,
            no_done_rate: 0.02,
            double_done_rate: 0.1,
            ..Faults::default()
        },
        _ => Faults { cut_rate: 0.05, double_done_rate: 0.1, stall_rate: 0.03, ..Faults::default() },
    };
    // Long enough for every slot to be taken at once.
    let faults = Faults { slow_rate: 0.5, slow_start: Duration::from_millis(600), ..faults };
    Settings {
        seed,
        grpc: Some(LOCAL),
        ws_json: Some(LOCAL),
        ws_binary: Some(LOCAL),
        // What was told to play on, and stalls, is silent and yet counted.
        on_clear: if faults.stall_rate > 0.0 { OnClear::StopDone } else { on_clear },
        on_duplicate_start,
        done_after_error: random.random_bool(0.5),
        early_head: random.random_bool(0.5),
        // Long enough for whoever comes next to be there too early, and shorter than what the gate waits.
        cancel_delay: Duration::from_millis(random.random_range(0..500)),
        faults,
        ..fast()
    }
}

fn gate_of(random: &mut StdRng, engine: &Engine, limit: u32) -> Config {
    let mut config = config(engine.address(), limit);
    let url =
        |address: Option<SocketAddr>| EngineUrl::parse(&format!("http://{}", address.unwrap())).unwrap();
    config.engine.ws_json = url(engine.ws_json());
    config.engine.ws_binary = url(engine.ws_binary());
    config.engine.grpc = url(engine.grpc());
    for surface in [Surface::WsJson, Surface::WsBinary, Surface::Grpc] {
        config.listeners.push(Listener { address: LOCAL, surface, ..Listener::default() });
    }
    config.engine.stall_timeout = Duration::from_millis(500);
    config.engine.first_byte_timeout = Duration::from_secs(5);
    config.engine.health_interval = Duration::from_millis(50);
    config.limits.caller_stall_timeout = Duration::from_millis(150);
    // A busy machine leaves an engine without a turn for some 400 ms. That is no matter of the promise here, and so
    // everything by which the gate takes an engine to have noticed, or to be silent, is longer.
    config.engine.cancel_linger = Duration::from_millis(1_200);
    config.websocket.clear_release = Duration::from_millis(1_400);
    config.websocket.binary_quiet = Duration::from_millis(1_400);
    config.websocket.ping_interval = Duration::from_millis(400);
    config.websocket.pong_timeout = Duration::from_millis(800);
    config.admission.queue_max = random.random_range(1..64);
    config.admission.queue_wait_max = if random.random_bool(0.3) {
        QueueWaitMax::Auto
    } else {
        QueueWaitMax::Fixed(Duration::from_millis(random.random_range(50..1_500)))
    };
    config
}

/// Waits until everything has come back, by the gate's word and by the engine's.
async fn all_back(seed: u64, control: &Control, engine: &Engine) {
    let gives_up = Instant::now() + PATIENCE;
    loop {
        let (status, counts, metrics) = (control.status(), engine.counts(), control.metrics());
        let gauges = [
            "rime_gate_inflight_syntheses",
            "rime_gate_queue_depth",
            "rime_gate_websocket_sessions",
            "rime_gate_oldest_synthesis_age_seconds",
        ]
        .map(|name| gauge_in(&metrics, name));
        let slots = (status.running, status.waiting, status.websocket_sessions);
        let sockets = [counts.sockets.v1, counts.sockets.ws_json, counts.sockets.ws_binary];
        let at_the_engine = (counts.syntheses.running, sockets.map(|socket| socket.open));
        if slots == (0, 0, 0) && gauges == [0.0; 4] && at_the_engine == (0, [0; 3]) {
            return;
        }
        assert!(Instant::now() < gives_up, "seed {seed}: {slots:?} {gauges:?} {at_the_engine:?} are left");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn any_schedule_keeps_the_promise(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let settings = engine_of(&mut random, seed);
    let stalls = settings.faults.stall_rate > 0.0;
    let engine = engine(settings).await;
    let first_limit = random.random_range(1..=LIMIT_MAX);
    let gate = start(gate_of(&mut random, &engine, first_limit));
    let control = Arc::clone(gate.control());
    let doors = Doors { http: gate.addresses()[0], json: gate.addresses()[1], binary: gate.addresses()[2] };
    until("the engine up", || control.status().engine.up).await;
    let grpc = Endpoint::from_shared(format!("http://{}", gate.addresses()[3])).unwrap();
    let grpc = Grpc::new(soon("a connection", grpc.connect()).await.unwrap());

    let (mut callers, mut half_open) = (JoinSet::new(), Vec::new());
    for _ in 0..CALLERS {
        let (mut caller, http) = (Caller::random(&mut random), promise::Caller::random(&mut random));
        if stalls && caller.speaks == Speaks::Binary {
            // Nobody tells an engine that stalls from one that has spoken: this protocol has no end.
            caller.speaks = Speaks::Ws3;
        }
        match caller.speaks {
            Speaks::Http => callers.spawn(async move {
                http.live(doors.http, None).await;
                None
            }),
            _ => callers.spawn(caller.live(doors, grpc.clone())),
        };
    }
    let greatest = Arc::new(AtomicU32::new(first_limit));
    // Every other schedule leaves the limit alone, so that it is met exactly.
    let resizes = seed % 2 == 1;
    let operator = resizes.then(|| tokio::spawn(resize(Arc::clone(&control), Arc::clone(&greatest), seed)));
    let mut gate = Some(gate);
    let mut draining = None;
    while let Some(ended) = soon("the callers' end", callers.join_next()).await {
        half_open.extend(ended.unwrap());
        if seed % 4 == 2 && callers.len() < CALLERS / 2 {
            draining = draining.or_else(|| gate.take().map(|gate| tokio::spawn(gate.drain())));
        }
    }
    if let Some(operator) = operator {
        operator.abort();
        let _ = operator.await;
    }

    let counts = engine.counts();
    let (peak, greatest) = (counts.syntheses.peak, greatest.load(Relaxed));
    println!("seed {seed}: {:?} under {greatest}", counts.syntheses);
    assert!(peak <= u64::from(greatest), "seed {seed}: {peak} at once, and the limit never above {greatest}");
    all_back(seed, &control, &engine).await;
    drop((half_open, grpc));
    let drained = draining.or_else(|| gate.take().map(|gate| tokio::spawn(gate.drain())));
    soon("the drain's end: no task is left", drained.unwrap()).await.unwrap();
}

async fn resize(control: Arc<Control>, greatest: Arc<AtomicU32>, seed: u64) {
    let mut random = StdRng::seed_from_u64(!seed);
    loop {
        sleep(Duration::from_millis(random.random_range(1..40))).await;
        let limit = random.random_range(1..=LIMIT_MAX);
        greatest.fetch_max(limit, Relaxed);
        control.set_limit(limit.try_into().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_said_on_sockets_the_engine_never_runs_more_than_the_limit_and_everything_comes_back() {
    let one = std::env::var("RIME_GATE_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = one.map_or(SEEDS, |seed| seed..seed + 1);
    // A few at a time: most of a schedule is waiting.
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let seeds = seeds.clone().skip(lane).step_by(LANES);
        lanes.spawn(async move {
            for seed in seeds {
                any_schedule_keeps_the_promise(seed).await;
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
}
