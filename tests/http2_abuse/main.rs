//! HTTP/2 as an attacker writes it, frame by frame over TCP, on both surfaces that speak it: memory and time stay bounded,
//! the offender is refused or its connection ends, the others are served, and every slot comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacker;
#[path = "../gate/common.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod common;

use std::time::Duration;

use attacker::{
    ACK, Attacker, CONTINUATION, DATA, Door, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, field, frame,
};
use common::{LOCAL, at_rest, config, fast, soon, start, status, until};
use rime_gate::config::{EngineUrl, Listener, Surface};
use rime_gate::gate::Gate;
use rime_gate::sim::{Engine, Settings};

/// More of the process' memory than this is not for one attack.
const MEMORY_BYTES_MAX: u64 = 192 << 20;
/// Much less than a million frames take when each is remembered, and more than what the other tests need beside it.
const FRAMES_BYTES_MAX: u64 = 96 << 20;

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

#[tokio::test(flavor = "multi_thread")]
async fn frames_with_little_or_nothing_in_them_for_a_synthesis_that_waits_fill_no_memory() {
    let (engine, gate, doors) = gate(|config| {
        config.engine.concurrency_max = 1.try_into().unwrap();
        config.limits.caller_stall_timeout = Duration::from_secs(600);
    })
    .await;
    let before = memory();
    let held = common::hold(&gate).await;
    for door in doors {
        for piece in [&b""[..], b"a"] {
            let mut attacker = Attacker::to(door, &[]).await;
            // Longer than what is read before it waits: nobody reads what follows.
            let body = door.body(200_000);
            let pieces = body.chunks(16_000).map(|piece| frame(DATA, 0, 1, piece)).collect::<Vec<_>>();
            let head = frame(HEADERS, END_HEADERS, 1, &door.head());
            assert!(attacker.write(&[head, pieces[..3].concat()].concat()).await);
            attacker.has_room(1).await;
            assert!(attacker.write(&pieces[3..5].concat()).await);
            until("it waits", || status(&gate).waiting == 1).await;
            let burst = frame(DATA, 0, 1, piece).repeat(50_000);
            for _ in 0..20 {
                if !attacker.write(&burst).await {
                    break;
                }
            }
            let grown = memory().saturating_sub(before);
            assert!(grown < FRAMES_BYTES_MAX, "{grown} bytes more than before, for {} a frame", piece.len());
            drop(attacker);
            until("it waits no more", || status(&gate).waiting == 0).await;
        }
    }
    drop(held);
    is_unharmed(&engine, &gate, doors, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_comes_to_its_text_costs_little_however_it_is_cut() {
    let (engine, gate, doors) = gate(|_| {}).await;
    let before = memory();
    let door = doors[1];
    let mut attacker = Attacker::to(door, &[]).await;
    let head = door.head_to("/rime.TextToSpeech/SynthesizeStreaming");
    // A header without text, then blanks: each message in a frame of its own.
    let header = frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 0x0a, 0]);
    let blank = [0, 0, 0, 0, 3, 0x12, 1, b' '];
    for stream in (1..160).step_by(2) {
        let mut frames = frame(HEADERS, END_HEADERS, stream, &head);
        frames.extend(&header[..5]);
        frames.extend(stream.to_be_bytes());
        frames.extend(&header[9..]);
        frames.extend(frame(DATA, 0, stream, &blank).repeat(1_500));
        if !attacker.write(&frames).await {
            break;
        }
    }
    assert_eq!((status(&gate).running, status(&gate).waiting), (0, 0), "nothing is to be spoken");
    is_served(door).await;
    drop(attacker);
    is_unharmed(&engine, &gate, doors, before).await;
    assert_eq!(engine.counts().syntheses.total, 3, "nothing of it reached the engine");
}
