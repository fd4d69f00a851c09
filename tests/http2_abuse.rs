//! HTTP/2 as an attacker writes it, frame by frame over TCP, on both surfaces that speak it: memory and time stay bounded,
//! the offender is refused or its connection ends, the others are served, and every slot comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "gate/common.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{LOCAL, at_rest, config, fast, soon, start, status, until};
use rime_gate::config::{EngineUrl, Listener, Surface};
use rime_gate::gate::Gate;
use rime_gate::sim::{Engine, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// More of the process' memory than this is not for one attack.
const MEMORY_BYTES_MAX: u64 = 192 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header field that no table remembers (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        // Lengths of 127 and more take more than one byte.
        let length = text.len();
        if length < 127 {
            field.push(u8::try_from(length).unwrap());
        } else {
            field.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
        field.extend_from_slice(text.as_bytes());
    }
    field
}

/// A way into the gate, and what a synthesis looks like on it.
#[derive(Clone, Copy, Debug)]
struct Door {
    address: SocketAddr,
    grpc: bool,
}

impl Door {
    fn head(self) -> Vec<u8> {
        let (path, kind) = match self.grpc {
            true => ("/rime.TextToSpeech/Synthesize", "application/grpc"),
            false => ("/", "application/json"),
        };
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "gate"),
            ("content-type", kind),
            ("te", "trailers"),
        ];
        fields.iter().flat_map(|(name, value)| field(name, value)).collect()
    }

    fn body(self, characters: usize) -> Vec<u8> {
        if !self.grpc {
            return common::text(characters).into_bytes();
        }
        // Field 4 is the text.
        let text = "a".repeat(characters);
        let mut message = vec![0x22];
        let mut length = text.len();
        while length >= 128 {
            message.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        message.push(u8::try_from(length).unwrap());
        message.extend_from_slice(text.as_bytes());
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed
    }

    /// The frames of a whole synthesis.
    fn synthesis(self, stream: u32, characters: usize) -> Vec<u8> {
        let mut frames = frame(HEADERS, END_HEADERS, stream, &self.head());
        for (number, piece) in self.body(characters).chunks(16_000).enumerate() {
            let last = (number + 1) * 16_000 >= self.body(characters).len();
            frames.extend(frame(DATA, if last { END_STREAM } else { 0 }, stream, piece));
        }
        frames
    }
}

/// An attacker's connection.
struct Attacker(TcpStream);

impl Attacker {
    /// With these settings.
    async fn to(door: Door, settings: &[(u16, u32)]) -> Self {
        let mut stream = soon("a connection", TcpStream::connect(door.address)).await.unwrap();
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        stream.write_all(&hello).await.unwrap();
        Self(stream)
    }

    /// Writes, reading what comes meanwhile; `false` once the gate has had enough.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        let (mut from, mut to) = self.0.split();
        let reading = async {
            let mut space = [0; 65_536];
            while from.read(&mut space).await.is_ok_and(|read| read > 0) {}
        };
        tokio::select! {
            written = to.write_all(bytes) => written.is_ok(),
            () = reading => false,
        }
    }

    /// Writes and never reads; `false` once the gate has had enough, or takes no more.
    async fn push(&mut self, bytes: &[u8]) -> bool {
        let patience = Duration::from_millis(500);
        matches!(tokio::time::timeout(patience, self.0.write_all(bytes)).await, Ok(Ok(())))
    }

    /// The next frame: its kind, flags, stream and payload. `None` at the connection's end.
    async fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// The gate ends the connection, or says that it will.
    #[track_caller]
    fn is_thrown_out(&mut self) -> impl Future<Output = ()> {
        soon("the end of the attack", async {
            while let Some((kind, ..)) = self.read().await {
                if kind == GOAWAY {
                    return;
                }
            }
        })
    }
}

async fn gate(change: impl FnOnce(&mut rime_gate::config::Config)) -> (Engine, Gate, [Door; 2]) {
    let engine = common::engine(Settings { grpc: Some(LOCAL), ..fast() }).await;
    let mut config = config(engine.address(), 4);
    config.engine.grpc = EngineUrl::parse(&format!("http://{}", engine.grpc().unwrap())).unwrap();
    config.listeners.push(Listener { address: LOCAL, surface: Surface::Grpc, ..Listener::default() });
    change(&mut config);
    let gate = start(config);
    let [http, grpc] = *gate.addresses() else { panic!("two listeners") };
    let doors = [Door { address: http, grpc: false }, Door { address: grpc, grpc: true }];
    (engine, gate, doors)
}

/// The process' memory, the engine's included.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Another caller, on a connection of its own, is served on this door.
async fn is_served(door: Door) {
    // With windows for all of it.
    let mut caller = Attacker::to(door, &[(4, 1 << 24)]).await;
    assert!(caller.write(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes())).await);
    assert!(caller.write(&door.synthesis(1, 40)).await);
    let end = soon("the others' answer", async {
        loop {
            let (kind, flags, stream, _) =
                caller.read().await.expect("an answer, not the end of the connection");
            assert!(kind != RST_STREAM && kind != GOAWAY, "{kind}");
            if stream == 1 && flags & END_STREAM != 0 && kind != SETTINGS {
                return kind;
            }
        }
    });
    // An HTTP answer ends with its data; a gRPC one with its trailers.
    assert!(matches!((door.grpc, end.await), (false, DATA) | (true, HEADERS)));
}

/// After an attack: all as before.
async fn is_unharmed(engine: &Engine, gate: &Gate, doors: [Door; 2], before: u64) {
    for door in doors {
        is_served(door).await;
    }
    at_rest(gate).await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    assert!(engine.counts().syntheses.peak <= 4, "{:?}", engine.counts().syntheses);
    let grown = memory().saturating_sub(before);
    assert!(grown < MEMORY_BYTES_MAX, "{grown} bytes more than before");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_reset_at_once_end_the_connection_and_cost_no_slot() {
    let (engine, gate, doors) = gate(|_| {}).await;
    let before = memory();
    for door in doors {
        let mut attacker = Attacker::to(door, &[]).await;
        let mut burst = Vec::new();
        for number in 0..5_000 {
            burst.extend(door.synthesis(1 + 2 * number, 40));
            burst.extend(frame(RST_STREAM, 0, 1 + 2 * number, &[0, 0, 0, 8]));
        }
        if attacker.write(&burst).await {
            attacker.is_thrown_out().await;
        }
    }
    is_unharmed(&engine, &gate, doors, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_cut_off() {
    let (engine, gate, doors) = gate(|_| {}).await;
    let before = memory();
    for door in doors {
        // Of bytes, and of frames without any.
        for piece in [field("x-a", &"a".repeat(8_000)), Vec::new()] {
            let mut attacker = Attacker::to(door, &[]).await;
            let mut written = attacker.write(&frame(HEADERS, 0, 1, &door.head())).await;
            let burst = frame(CONTINUATION, 0, 1, &piece).repeat(1 + 2_000_000 / (piece.len() + 200));
            for _ in 0..20 {
                written = written && attacker.write(&burst).await;
            }
            if written {
                attacker.is_thrown_out().await;
            }
        }
    }
    is_unharmed(&engine, &gate, doors, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_settings_and_pings_that_nobody_reads_the_answers_to_fill_no_memory() {
    let (engine, gate, doors) = gate(|_| {}).await;
    let before = memory();
    for door in doors {
        let floods = [
            frame(PING, 0, 0, &[7; 8]),
            frame(SETTINGS, 0, 0, &[]),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ];
        for flood in floods {
            let mut attacker = Attacker::to(door, &[]).await;
            let burst = flood.repeat(50_000);
            for _ in 0..20 {
                if !attacker.push(&burst).await {
                    break;
                }
            }
            // While it goes on, the others are served.
            is_served(door).await;
        }
    }
    is_unharmed(&engine, &gate, doors, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_unfolds_to_megabytes_is_refused() {
    let (engine, gate, doors) = gate(|_| {}).await;
    let before = memory();
    for door in doors {
        let mut attacker = Attacker::to(door, &[]).await;
        // One long field into the table (RFC 7541 section 6.2.1), then a byte for each time that it is meant.
        let mut bomb = door.head();
        let mut long = field("x-bomb", &"b".repeat(3_900));
        long[0] = 0x40;
        bomb.extend(long);
        bomb.extend(std::iter::repeat_n(0x80 | 62, 12_000 - bomb.len() % 1_000));
        for stream in 0..40 {
            let mut frames = frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * stream, &bomb);
            if stream > 0 {
                // The table has it already.
                frames = frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * stream, &[0x80 | 62; 12_000]);
            }
            if !attacker.write(&frames).await {
                break;
            }
        }
        is_served(door).await;
    }
    is_unharmed(&engine, &gate, doors, before).await;
    assert_eq!(engine.counts().syntheses.total, 4, "nothing of it reached the engine");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_fields_are_refused_in_the_callers_own_protocol() {
    let (engine, gate, doors) = gate(|_| {}).await;
    for door in doors {
        let mut caller = Attacker::to(door, &[]).await;
        let mut head = door.head();
        for number in 0..100 {
            head.extend(field(&format!("x-{number}"), "1"));
        }
        caller.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
        let answer = soon("a refusal", async {
            loop {
                match caller.read().await.unwrap() {
                    (HEADERS, _, 1, payload) => return payload,
                    (kind, ..) => assert!(kind != GOAWAY && kind != RST_STREAM, "{kind}"),
                }
            }
        });
        let answer = answer.await;
        // The first field is the status: 200 is in HPACK's own table, 431 is not.
        assert_eq!(answer[0] == 0x88, door.grpc, "{answer:?}");
        is_served(door).await;
    }
    at_rest(&gate).await;
    assert_eq!(engine.counts().syntheses.total, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_window_are_ended_in_time_and_their_neighbours_are_served() {
    let (engine, gate, doors) = gate(|config| {
        config.limits.caller_stall_timeout = Duration::from_millis(400);
    })
    .await;
    let before = memory();
    for door in doors {
        // SETTINGS_INITIAL_WINDOW_SIZE: not one byte.
        let mut attacker = Attacker::to(door, &[(4, 0)]).await;
        let mut frames = Vec::new();
        for number in 0..40 {
            frames.extend(door.synthesis(1 + 2 * number, 2_000));
        }
        assert!(attacker.write(&frames).await);
        // All of them are reset, for want of a window or of a slot; the connection may stay.
        let mut ended = std::collections::BTreeSet::new();
        soon("the end of all streams", async {
            while ended.len() < 40 {
                let Some((kind, flags, stream, _)) = attacker.read().await else { return };
                if kind == RST_STREAM || (stream > 0 && flags & END_STREAM != 0) {
                    ended.insert(stream);
                }
            }
        })
        .await;
    }
    is_unharmed(&engine, &gate, doors, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_passes_through_is_not_held_for_a_caller_that_does_not_read() {
    let (engine, gate, doors) = gate(|config| {
        config.limits.caller_stall_timeout = Duration::from_millis(300);
    })
    .await;
    let door = doors[0];
    let mut attacker = Attacker::to(door, &[(4, 0)]).await;
    let get: Vec<u8> =
        [(":method", "GET"), (":scheme", "http"), (":path", "/statusz"), (":authority", "gate")]
            .iter()
            .flat_map(|(name, value)| field(name, value))
            .collect();
    assert!(attacker.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get)).await);
    soon("a reset", async {
        loop {
            let (kind, _, stream, _) = attacker.read().await.unwrap();
            if (kind, stream) == (RST_STREAM, 1) {
                return;
            }
        }
    })
    .await;
    // The connection itself lives on.
    assert!(attacker.write(&frame(PING, 0, 0, &[1; 8])).await);
    soon("a pong", async {
        loop {
            let (kind, flags, ..) = attacker.read().await.unwrap();
            if kind == PING && flags & ACK != 0 {
                return;
            }
        }
    })
    .await;
    at_rest(&gate).await;
    assert_eq!(engine.counts().syntheses.total, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_refused_and_the_allowed_ones_go_on() {
    let (engine, gate, doors) = gate(|config| config.admission.queue_max = 64).await;
    let before = memory();
    for door in doors {
        let mut attacker = Attacker::to(door, &[]).await;
        let mut frames = Vec::new();
        for number in 0..2_000 {
            // A head without an end: the stream stays open.
            frames.extend(frame(HEADERS, END_HEADERS, 1 + 2 * number, &door.head()));
        }
        attacker.push(&frames).await;
        let refused = soon("a refusal", async {
            loop {
                match attacker.read().await {
                    None | Some((GOAWAY, ..)) => return true,
                    // REFUSED_STREAM.
                    Some((RST_STREAM, _, stream, payload)) => return stream > 500 && payload == [0, 0, 0, 7],
                    Some(_) => {}
                }
            }
        });
        assert!(refused.await);
        is_served(door).await;
    }
    assert_eq!((status(&gate).running, status(&gate).waiting), (0, 0), "who uploads nothing holds nothing");
    is_unharmed(&engine, &gate, doors, before).await;
}
