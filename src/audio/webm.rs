//! Reads the time of Opus in WebM (RFC 8794, RFC 9559) from block headers and Opus TOC bytes (RFC 6716
//! section 3.1). Decodes no packet and ignores timestamps, cues and every size that a live writer leaves open.
//!
//! Containers are entered and never left: after the last child the next sibling's header follows anyway, so
//! segments and clusters of unknown size need no stack. The encoder's delay and the padding of the last block
//! (`DiscardPadding`) are not audio, as in Ogg. The delay is `OpusHead`'s pre-skip, which decoders go by, and not
//! `CodecDelay`, which ought to say the same: FFmpeg 5.1 writes it wrong for input that is not at 48 kHz.

use super::{Unknown, time};
use std::time::Duration;

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const CLUSTER: u32 = 0x1F43_B675;
const BLOCK_GROUP: u32 = 0xA0;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const CODEC_ID: u32 = 0x86;
const CODEC_PRIVATE: u32 = 0x63A2;
const DISCARD_PADDING: u32 = 0x75A2;
const SIMPLE_BLOCK: u32 = 0xA3;
const BLOCK: u32 = 0xA1;

const OPUS_RATE: u32 = 48_000;
/// The longest Opus packet: 120 ms.
const PACKET_SAMPLES_MAX: u32 = 5760;
/// An element header is at most 4 + 8 bytes; what is read of a payload is shorter.
const CARRY_MAX: usize = 12;
/// `OpusHead` up to its pre-skip.
const OPUS_HEAD_BYTES: usize = 10;
/// Block header after the track number: timestamp and flags.
const BLOCK_HEAD_BYTES: usize = 3;
/// `DiscardPadding` is an integer of at most this many bytes.
const INTEGER_BYTES_MAX: u64 = 8;

#[derive(Clone, Copy, Debug)]
pub(super) struct Webm {
    /// Samples in complete blocks, at 48 kHz.
    samples: u64,
    /// Nanoseconds of padding, decoded but not played.
    padding: u64,
    /// Payload bytes left of the current element.
    left: u64,
    /// Samples of the block that is passing.
    block: u32,
    /// Samples that are decoded before the first one that is played.
    pre_skip: u16,
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
            padding: 0,
            pre_skip: 0,
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
            (DISCARD_PADDING, Some(size)) if size > INTEGER_BYTES_MAX => Part::Bad(Unknown::Malformed),
            (CODEC_ID | CODEC_PRIVATE | DISCARD_PADDING | SIMPLE_BLOCK | BLOCK, Some(size)) => {
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
                CODEC_PRIVATE => match self.carried() {
                    [head @ .., low, high] if head.len() == OPUS_HEAD_BYTES => {
                        self.pre_skip = u16::from_le_bytes([*low, *high]);
                        Read::Done(0)
                    }
                    _ => Read::More,
                },
                _ if self.left > 0 => Read::More,
                _ => {
                    self.padding = self.padding.saturating_add(integer(self.carried()));
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
        let played = self.samples.saturating_sub(u64::from(self.pre_skip));
        time(played, OPUS_RATE).saturating_sub(Duration::from_nanos(self.padding))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// EBML header, a segment and a cluster of unknown size.
    const START: &[u8] =
        b"\x1A\x45\xDF\xA3\x80\x18\x53\x80\x67\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x1F\x43\xB6\x75\xFF";

    fn fed(parts: &[&[u8]]) -> Webm {
        let mut webm = Webm::new();
        webm.feed(&[START, &parts.concat()].concat());
        webm
    }

    /// A block of one track, no lacing, whose packet begins so.
    fn block_of(packet: &[u8]) -> Vec<u8> {
        let size = 0x80 | u8::try_from(4 + packet.len()).unwrap();
        [&[0xA3, size, 0x81, 0, 0, 0x80], packet].concat()
    }

    #[test]
    fn every_toc_has_its_duration() {
        // RFC 6716 table 2: SILK 10-60 ms, hybrid 10 and 20 ms, CELT 2.5-20 ms; then two frames, then counted.
        for (packet, micros) in [
            (&[0 << 3][..], 10_000),
            (&[3 << 3], 60_000),
            (&[12 << 3], 10_000),
            (&[15 << 3], 20_000),
            (&[16 << 3], 2_500),
            (&[31 << 3], 20_000),
            (&[31 << 3 | 1], 40_000),
            (&[31 << 3 | 2], 40_000),
            (&[31 << 3 | 3, 6], 120_000),
        ] {
            assert_eq!(fed(&[&block_of(packet)]).audio(), Duration::from_micros(micros), "{packet:?}");
        }
    }

    #[test]
    fn pre_skip_and_padding_are_not_audio() {
        let delay = b"\x16\x54\xAE\x6B\x8F\x63\xA2\x8COpusHead\x01\x01\x38\x01";
        let grouped = b"\xA0\x8D\xA1\x85\x81\0\0\x80\xF8\x75\xA2\x83\x0F\x42\x40";
        // 2 x 20 ms less 6.5 ms less 1 ms.
        let webm = fed(&[delay, &block_of(&[31 << 3]), b"\x1F\x43\xB6\x75\xFF", grouped]);
        assert_eq!(webm.audio(), Duration::from_micros(32_500));
    }

    #[test]
    fn what_cannot_be_timed_says_why() {
        assert_eq!(fed(&[b"\x86\x88A_VORBIS"]).unknown(), Some(Unknown::Unsupported));
        let laced = b"\xA3\x85\x81\0\0\x82\xF8";
        assert_eq!(fed(&[laced]).unknown(), Some(Unknown::Unsupported));
        let too_long = block_of(&[3 << 3 | 3, 63]);
        assert_eq!(fed(&[&too_long]).unknown(), Some(Unknown::Malformed));
        let mut webm = Webm::new();
        webm.feed(b"RIFF....");
        assert_eq!(webm.unknown(), Some(Unknown::Malformed));
    }

    #[test]
    fn a_block_starts_the_sound_and_counts_when_it_is_complete() {
        let block = block_of(&[31 << 3, 1, 2, 3]);
        let webm = fed(&[&block[..block.len() - 1]]);
        assert_eq!((webm.started(), webm.audio()), (true, Duration::ZERO));
        assert!(!fed(&[]).started());
    }
}
