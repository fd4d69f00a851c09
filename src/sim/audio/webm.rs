//! Opus packets in WebM, as a live stream: segment and clusters of unknown size, no duration, no index.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::Position;
use super::opus::{self, CLIP, CLOCK, PACKET_SAMPLES, PACKETS_MAX};

// Element ids (RFC 9559 section 5.1 and RFC 8794 section 11.2).
const EBML: u32 = 0x1A45_DFA3;
const EBML_VERSION: u32 = 0x4286;
const EBML_READ_VERSION: u32 = 0x42F7;
const EBML_MAX_ID_LENGTH: u32 = 0x42F2;
const EBML_MAX_SIZE_LENGTH: u32 = 0x42F3;
const DOC_TYPE: u32 = 0x4282;
const DOC_TYPE_VERSION: u32 = 0x4287;
const DOC_TYPE_READ_VERSION: u32 = 0x4285;
const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_A966;
const TIMESTAMP_SCALE: u32 = 0x2A_D7B1;
const MUXING_APP: u32 = 0x4D80;
const WRITING_APP: u32 = 0x5741;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const TRACK_NUMBER: u32 = 0xD7;
const TRACK_UID: u32 = 0x73C5;
const TRACK_TYPE: u32 = 0x83;
const CODEC_ID: u32 = 0x86;
const CODEC_PRIVATE: u32 = 0x63A2;
const CODEC_DELAY: u32 = 0x56AA;
const SEEK_PRE_ROLL: u32 = 0x56BB;
const AUDIO: u32 = 0xE1;
const SAMPLING_FREQUENCY: u32 = 0xB5;
const CHANNELS: u32 = 0x9F;
const CLUSTER: u32 = 0x1F43_B675;
const TIMESTAMP: u32 = 0xE7;
const SIMPLE_BLOCK: u32 = 0xA3;

const UNKNOWN_SIZE: u64 = 0x01FF_FFFF_FFFF_FFFF;
const PACKET_MS: u64 = 1_000 * PACKET_SAMPLES as u64 / CLOCK as u64;
const _: () = assert!(PACKETS_MAX * PACKET_MS <= i16::MAX as u64, "a block's time is relative, in 16 bits");

/// One synthesis's clusters.
#[derive(Debug)]
pub(super) struct Clusters {
    position: Position,
    rate: u32,
    begun: bool,
}

impl Clusters {
    pub(super) fn new(rate: u32, audio: Option<Duration>) -> Self {
        Self { position: opus::position(audio), rate, begun: false }
    }

    pub(super) fn next(&mut self, produced: Duration) -> Option<Bytes> {
        let first = self.position.given;
        let taken = self.position.take(produced, PACKETS_MAX);
        if taken == 0 {
            return None;
        }
        let mut out = BytesMut::new();
        if !self.begun {
            self.begun = true;
            head(&mut out, self.rate);
        }
        id(&mut out, CLUSTER);
        out.put_u64(UNKNOWN_SIZE);
        unsigned(&mut out, TIMESTAMP, first * PACKET_MS);
        for index in 0..taken {
            let packet = CLIP.packet(first + index);
            id(&mut out, SIMPLE_BLOCK);
            size(&mut out, packet.len() + 4);
            out.put_u8(0x81); // track 1
            out.put_i16(i16::try_from(index * PACKET_MS).unwrap_or(i16::MAX));
            out.put_u8(0x80); // key frame
            out.put_slice(packet);
        }
        Some(out.freeze())
    }

    pub(super) fn end(&mut self, audio: Duration) {
        self.position.end(audio);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.position.is_finished()
    }
}

fn head(out: &mut BytesMut, rate: u32) {
    let mut ebml = BytesMut::new();
    unsigned(&mut ebml, EBML_VERSION, 1);
    unsigned(&mut ebml, EBML_READ_VERSION, 1);
    unsigned(&mut ebml, EBML_MAX_ID_LENGTH, 4);
    unsigned(&mut ebml, EBML_MAX_SIZE_LENGTH, 8);
    element(&mut ebml, DOC_TYPE, b"webm");
    unsigned(&mut ebml, DOC_TYPE_VERSION, 4);
    unsigned(&mut ebml, DOC_TYPE_READ_VERSION, 2);
    element(out, EBML, &ebml);

    id(out, SEGMENT);
    out.put_u64(UNKNOWN_SIZE);

    let mut info = BytesMut::new();
    unsigned(&mut info, TIMESTAMP_SCALE, 1_000_000);
    element(&mut info, MUXING_APP, b"rime-gate");
    element(&mut info, WRITING_APP, b"rime-gate");
    element(out, INFO, &info);

    let mut audio = BytesMut::new();
    element(&mut audio, SAMPLING_FREQUENCY, &f64::from(CLOCK).to_be_bytes());
    unsigned(&mut audio, CHANNELS, 1);
    let mut track = BytesMut::new();
    unsigned(&mut track, TRACK_NUMBER, 1);
    unsigned(&mut track, TRACK_UID, 1);
    unsigned(&mut track, TRACK_TYPE, 2); // audio
    element(&mut track, CODEC_ID, b"A_OPUS");
    element(&mut track, CODEC_PRIVATE, &CLIP.head(rate));
    unsigned(&mut track, CODEC_DELAY, u64::from(CLIP.pre_skip) * 1_000_000_000 / u64::from(CLOCK));
    unsigned(&mut track, SEEK_PRE_ROLL, 80_000_000); // RFC 7845 section 4.6
    element(&mut track, AUDIO, &audio);
    let mut tracks = BytesMut::new();
    element(&mut tracks, TRACK_ENTRY, &track);
    element(out, TRACKS, &tracks);
}

fn element(out: &mut BytesMut, name: u32, content: &[u8]) {
    id(out, name);
    size(out, content.len());
    out.put_slice(content);
}

fn unsigned(out: &mut BytesMut, name: u32, value: u64) {
    let bytes = value.to_be_bytes();
    let skip = bytes.iter().take_while(|byte| **byte == 0).count().min(7);
    element(out, name, &bytes[skip..]);
}

/// An id carries its length in its leading bits, so that it is written as it stands.
fn id(out: &mut BytesMut, name: u32) {
    let bytes = name.to_be_bytes();
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    out.put_slice(&bytes[skip..]);
}

/// A size in two bytes of variable length (RFC 8794 section 4): packets and heads are far below 16383.
fn size(out: &mut BytesMut, length: usize) {
    out.put_u16(0x4000 | u16::try_from(length).unwrap_or(0x3FFE).min(0x3FFE));
}
