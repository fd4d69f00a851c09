//! What metering costs per chunk that passes: the whole meter, clock, gap and playback included.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use base64::{Engine, engine::general_purpose::STANDARD};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rime_gate::audio::{AudioClock, Format, Hint};
use rime_gate::meter::Meter;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// 40 ms of 24 kHz PCM.
const CHUNK_BYTES: usize = 1_920;

fn chunks(c: &mut Criterion) {
    let sound: Vec<u8> = (0..CHUNK_BYTES).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    let wav = b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x01\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\x10\0data\xFF\xFF\xFF\xFF";
    let base64 = STANDARD.encode(&sound);
    let event = format!("event: chunk\ndata: {{\"data\":\"{base64}\"}}\n\n");
    let pcm = Hint { format: Some(Format::Pcm), ..Hint::default() };

    let cases: [(&str, &str, &[u8], Vec<u8>); 8] = [
        ("wav", "audio/wav", wav, sound.clone()),
        ("pcm", "audio/L16", b"", sound.clone()),
        ("mp3", "audio/mpeg", b"", mp3()),
        ("ogg", "audio/ogg", OGG_START, ogg()),
        ("webm", "audio/webm", b"\x1A\x45\xDF\xA3\x80", webm()),
        ("sse", "text/event-stream", b"", event.into_bytes()),
        ("json", "application/json", b"{\"audioContent\":\"", base64.into_bytes()),
        ("unknown", "text/plain", b"", sound),
    ];
    let mut group = c.benchmark_group("chunk");
    for (name, content_type, start, chunk) in cases {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        let origin = Instant::now();
        let clock = AudioClock::for_answer(Some(content_type), None, pcm);
        let mut meter = Meter::new(origin, Duration::ZERO, clock, Duration::ZERO);
        meter.heard(origin, start);
        let mut now = origin;
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                now += Duration::from_millis(20);
                meter.heard(now, black_box(&chunk))
            });
        });
        assert!(meter.clock().started(), "{name} is not read");
        assert!(name == "unknown" || meter.clock().unknown().is_none(), "{name} is not read");
    }
    group.finish();
}

/// MPEG-2 layer III at 24 kHz and 64 kbit/s: ten frames of 192 bytes, 240 ms.
fn mp3() -> Vec<u8> {
    let mut frame = vec![0xFF, 0xF3, 0x84, 0xC4];
    frame.resize(192, 0x55);
    frame.repeat(10)
}

/// `OpusHead` and `OpusTags`, a page each.
const OGG_START: &[u8] =
    b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\0\0\xC0\x5D\0\0\0\0\0\
    OggS\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x01\x10OpusTags\0\0\0\0\0\0\0\0";

/// A page of ten packets of 190 bytes; its granule position stands still, which costs the same.
fn ogg() -> Vec<u8> {
    let mut page = b"OggS\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x0A".to_vec();
    page.extend([190; 10]);
    page.resize(page.len() + 1_900, 0x55);
    // One sample, so that there is audio to tell.
    page[6] = 1;
    page
}

/// Ten simple blocks of 190 bytes, 20 ms each.
fn webm() -> Vec<u8> {
    let mut block = b"\xA3\x40\xBE\x81\0\0\x80\x48".to_vec();
    block.resize(3 + 190, 0x55);
    block.repeat(10)
}

criterion_group!(benches, chunks);
criterion_main!(benches);
