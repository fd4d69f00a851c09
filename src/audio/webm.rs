//! Reads the time of Opus in WebM (RFC 8794, RFC 9559) from block headers and Opus TOC bytes (RFC 6716
//! section 3.1). Decodes no packet and ignores timestamps, cues and every size that a live writer leaves open.
//!
//! Containers are entered and never left: after the last child the next sibling's header follows anyway, so
//! segments and clusters of unknown size need no stack. The encoder's delay (`CodecDelay`) and the padding of
//! the last block (`DiscardPadding`) are not audio, as in Ogg.

use super::{Unknown, time};
use std::time::Duration;

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const CLUSTER: u32 = 0x1F43_B675;
const BLOCK_GROUP: u32 = 0xA0;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const CODEC_ID: u32 = 0x86;
const CODEC_DELAY: u32 = 0x56AA;
const DISCARD_PADDING: u32 = 0x75A2;
const SIMPLE_BLOCK: u32 = 0xA3;
const BLOCK: u32 = 0xA1;

const OPUS_RATE: u32 = 48_000;
/// The longest Opus packet: 120 ms.
const PACKET_SAMPLES_MAX: u32 = 5760;
/// An element header is at most 4 + 8 bytes; what is read of a payload is shorter.
const CARRY_MAX: usize = 12;
/// Block header after the track number: timestamp and flags.
const BLOCK_HEAD_BYTES: usize = 3;
/// `CodecDelay` and `DiscardPadding` are integers of at most this many bytes.
const INTEGER_BYTES_MAX: u64 = 8;

#[derive(Clone, Debug)]
pub(super) struct Webm {
    /// Samples in complete blocks, at 48 kHz.
    samples: u64,
    /// Nanoseconds that are decoded but not played.
    silent: u64,
    /// Payload bytes left of the current element.
    left: u64,
    /// Samples of the block that is passing.
    block: u32,
    carry: [u8; CARRY_MAX],
    carried: u8,
    part: Part,
    started: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The first element's header, which must be EBML's.
    First,
    Head,
    /// A payload whose beginning is carried to be read.
    Read(u32),
    Skip,
    Bad(Unknown),
}

/// What the carried bytes amount to.
enum Read<T> {
    /// More bytes are needed.
    More,
    Done(T),
    Bad(Unknown),
}

impl Webm {
    pub(super) fn new() -> Self {
        Self {
            samples: 0,
            silent: 0,
            left: 0,
            block: 0,
            carry: [0; CARRY_MAX],
            carried: 0,
            part: Part::First,
            started: false,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.part {
                Part::Skip => {
                    bytes = self.skip(bytes);
                    continue;
                }
                Part::Bad(_) => return,
                _ => {}
            }
            bytes = rest;
            self.carry[usize::from(self.carried)] = byte;
            self.carried += 1;
            match self.part {
                Part::Read(id) => {
                    self.left -= 1;
                    self.payload(id);
                }
                _ => self.head(),
            }
        }
    }

    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if (bytes.len() as u64) < self.left {
            self.left -= bytes.len() as u64;
            return &[];
        }
        let (_, rest) = bytes.split_at(usize::try_from(self.left).unwrap_or(bytes.len()));
        self.element_end();
        rest
    }

    fn element_end(&mut self) {
        self.samples += u64::from(std::mem::take(&mut self.block));
        (self.left, self.carried) = (0, 0);
        self.part = Part::Head;
    }

    fn carried(&self) -> &[u8] {
        &self.carry[..usize::from(self.carried)]
    }

    fn head(&mut self) {
        match element_head(self.carried()) {
            Read::More => {}
            Read::Bad(why) => self.part = Part::Bad(why),
            Read::Done((id, _)) if self.part == Part::First && id != EBML => {
                self.part = Part::Bad(Unknown::Malformed);
            }
            Read::Done((id, size)) => {
                self.carried = 0;
                self.enter(id, size);
            }
        }
    }

    /// `size` is `None` where the writer left it open.
    fn enter(&mut self, id: u32, size: Option<u64>) {
        self.part = match (id, size) {
            (SEGMENT | CLUSTER | BLOCK_GROUP | TRACKS | TRACK_ENTRY, _) => Part::Head,
            (_, None) => Part::Bad(Unknown::Malformed),
            (_, Some(0)) => Part::Head,
            (CODEC_DELAY | DISCARD_PADDING, Some(size)) if size > INTEGER_BYTES_MAX => {
                Part::Bad(Unknown::Malformed)
            }
            (CODEC_ID | CODEC_DELAY | DISCARD_PADDING | SIMPLE_BLOCK | BLOCK, Some(size)) => {
                self.left = size;
                Part::Read(id)
            }
            (_, Some(size)) => {
                self.left = size;
                Part::Skip
            }
        };
    }

    /// Reads what is carried of the payload of `id`, as soon as it is enough.
    fn payload(&mut self, id: u32) {
        let read =
            match id {
                SIMPLE_BLOCK | BLOCK => block(self.carried()),
                CODEC_ID if "A_OPUS".as_bytes().starts_with(self.carried()) => {
                    if self.carried() == b"A_OPUS" { Read::Done(0) } else { Read::More }
                }
                CODEC_ID => Read::Bad(Unknown::Unsupported),
                _ if self.left > 0 => Read::More,
                _ => {
                    self.silent = self.silent.saturating_add(integer(self.carried()));
                    Read::Done(0)
                }
            };
        match read {
            Read::Bad(why) => self.part = Part::Bad(why),
            Read::More if self.left == 0 => self.part = Part::Bad(Unknown::Malformed),
            Read::More => {}
            Read::Done(samples) => {
                self.block = samples;
                self.started |= samples > 0;
                self.part = Part::Skip;
                if self.left == 0 {
                    self.element_end();
                }
            }
        }
    }

    pub(super) fn audio(&self) -> Duration {
        time(self.samples, OPUS_RATE).saturating_sub(Duration::from_nanos(self.silent))
    }

    pub(super) fn started(&self) -> bool {
        self.started || matches!(self.part, Part::Bad(_))
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        if let Part::Bad(why) = self.part { Some(why) } else { None }
    }
}

/// An element's identifier and size (RFC 8794 sections 4 and 5).
fn element_head(carried: &[u8]) -> Read<(u32, Option<u64>)> {
    let id_bytes = carried[0].leading_zeros() as usize + 1;
    if id_bytes > 4 {
        return Read::Bad(Unknown::Malformed);
    }
    if carried.len() <= id_bytes {
        return Read::More;
    }
    let (id, size) = carried.split_at(id_bytes);
    let size_bytes = size[0].leading_zeros() as usize + 1;
    if size_bytes > 8 {
        return Read::Bad(Unknown::Malformed);
    }
    if size.len() < size_bytes {
        return Read::More;
    }
    let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    let value_bits = 7 * size_bytes;
    let open = (1 << value_bits) - 1;
    let size = integer(size) & open;
    Read::Done((id, (size != open).then_some(size)))
}

fn integer(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The samples of the Opus packet at the start of a block, at 48 kHz.
fn block(carried: &[u8]) -> Read<u32> {
    let track_bytes = carried[0].leading_zeros() as usize + 1;
    if track_bytes > 4 {
        return Read::Bad(Unknown::Malformed);
    }
    let Some([.., flags, toc]) = carried.get(..track_bytes + BLOCK_HEAD_BYTES + 1) else { return Read::More };
    let laced = flags & 0x06 != 0;
    if laced {
        return Read::Bad(Unknown::Unsupported);
    }
    let frames = match (toc & 3, carried.get(track_bytes + BLOCK_HEAD_BYTES + 1)) {
        (0, _) => 1,
        (1 | 2, _) => 2,
        (_, Some(count)) => u32::from(count & 0x3F),
        (_, None) => return Read::More,
    };
    let config = toc >> 3;
    let samples = frames
        * match config {
            0..12 => [480, 960, 1920, 2880][usize::from(config & 3)],
            12..16 => [480, 960][usize::from(config & 1)],
            _ => [120, 240, 480, 960][usize::from(config & 3)],
        };
    let possible = (1..=PACKET_SAMPLES_MAX).contains(&samples);
    if possible { Read::Done(samples) } else { Read::Bad(Unknown::Malformed) }
}
