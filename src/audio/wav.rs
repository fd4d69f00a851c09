//! Finds the samples in a RIFF WAVE stream and counts them. Ignores their values and every other chunk.
//!
//! A streaming writer cannot know the sizes, so they are often 0, `0xFFFFFFFF` or simply too large. The
//! rule is `armchair`'s: such a `data` chunk lasts to the end of the answer.

use super::{RATES, Unknown, time};
use std::time::Duration;

/// The `fmt ` fields that matter are the first 16 bytes; the other headers are 12 and 8.
const CARRY_MAX: usize = 16;

/// Format tags whose samples are of one size: PCM, IEEE float, A-law, µ-law and the extensible form.
const FIXED_SIZE_TAGS: [u16; 5] = [1, 3, 6, 7, 0xFFFE];

#[derive(Clone, Copy, Debug)]
pub(super) struct Wav {
    /// Bytes of `data` heard.
    bytes: u64,
    /// What is left of the `data` chunk, or of what is being skipped.
    left: u64,
    carry: [u8; CARRY_MAX],
    carried: u8,
    part: Part,
    /// 0 until `fmt ` was read.
    rate: u32,
    frame: u32,
    /// Size of the rest of `fmt `, padding included.
    rest: u32,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Riff,
    ChunkHead,
    Format,
    Skip,
    Data,
    Bad(Unknown),
}

impl Wav {
    pub(super) fn new() -> Self {
        Self {
            bytes: 0,
            left: 0,
            carry: [0; CARRY_MAX],
            carried: 0,
            part: Part::Riff,
            rate: 0,
            frame: 1,
            rest: 0,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::Data => {
                    let rest = self.pass(bytes);
                    self.bytes += (bytes.len() - rest.len()) as u64;
                    rest
                }
                Part::Skip => self.pass(bytes),
                Part::Riff => self.collect::<12>(bytes),
                Part::ChunkHead => self.collect::<8>(bytes),
                Part::Format => self.collect::<16>(bytes),
                Part::Bad(_) => return,
            };
        }
    }

    /// Takes bytes unseen, if they are all samples.
    pub(super) fn pass_unseen(&mut self, length: u64) -> bool {
        let samples = self.part == Part::Data && length < self.left;
        if samples {
            self.left -= length;
            self.bytes += length;
        }
        samples
    }

    /// Goes on through the current chunk's payload; at its end a new chunk begins.
    fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if (bytes.len() as u64) < self.left {
            self.left -= bytes.len() as u64;
            return &[];
        }
        let (_, rest) = bytes.split_at(usize::try_from(self.left).unwrap_or(bytes.len()));
        // An odd chunk is padded to an even length.
        self.left = u64::from(self.rest);
        self.rest = 0;
        self.part = if self.left > 0 { Part::Skip } else { Part::ChunkHead };
        rest
    }

    /// Carries bytes until `NEED` are there, then reads them.
    fn collect<'a, const NEED: usize>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let have = usize::from(self.carried);
        let rest = match bytes.split_first_chunk::<NEED>() {
            // All of it at once, as mostly.
            Some((all, rest)) if have == 0 => {
                self.carry[..NEED].copy_from_slice(all);
                rest
            }
            _ => {
                let (taken, rest) = bytes.split_at(bytes.len().min(NEED - have));
                self.carry[have..have + taken.len()].copy_from_slice(taken);
                self.carried += u8::try_from(taken.len()).unwrap_or(0);
                if usize::from(self.carried) < NEED {
                    return rest;
                }
                rest
            }
        };
        self.carried = 0;
        self.part = match self.part {
            Part::Riff => self.riff(),
            Part::ChunkHead => self.chunk_head(),
            _ => self.format(),
        };
        rest
    }

    fn riff(&self) -> Part {
        let known = matches!(&self.carry[..4], b"RIFF" | b"RF64") && &self.carry[8..12] == b"WAVE";
        if known { Part::ChunkHead } else { Part::Bad(Unknown::Malformed) }
    }

    fn chunk_head(&mut self) -> Part {
        let size = self.u32_at(4);
        let pad = size % 2;
        match &self.carry[..4] {
            b"fmt " if size < 16 => Part::Bad(Unknown::Malformed),
            b"fmt " => {
                self.rest = (size - 16).saturating_add(pad);
                Part::Format
            }
            b"data" if self.rate == 0 => Part::Bad(Unknown::Malformed),
            b"data" => {
                self.left = if size == 0 || size == u32::MAX { u64::MAX } else { u64::from(size) };
                self.rest = pad;
                Part::Data
            }
            _ => {
                self.left = u64::from(size) + u64::from(pad);
                if self.left > 0 { Part::Skip } else { Part::ChunkHead }
            }
        }
    }

    fn format(&mut self) -> Part {
        let (tag, channels, bits) = (self.u16_at(0), self.u16_at(2), self.u16_at(14));
        if !FIXED_SIZE_TAGS.contains(&tag) {
            return Part::Bad(Unknown::Unsupported);
        }
        let (rate, frame) = (self.u32_at(4), u32::from(channels) * u32::from(bits.div_ceil(8)));
        // What was heard before a format that is none was heard in the one before it.
        if !RATES.contains(&rate) || frame == 0 {
            return Part::Bad(Unknown::Malformed);
        }
        (self.rate, self.frame) = (rate, frame);
        self.left = u64::from(self.rest);
        self.rest = 0;
        if self.left > 0 { Part::Skip } else { Part::ChunkHead }
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.carry[at], self.carry[at + 1]])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }

    pub(super) fn audio(&self) -> Duration {
        time(self.bytes / u64::from(self.frame), self.rate)
    }

    pub(super) fn started(&self) -> bool {
        self.bytes > 0 || matches!(self.part, Part::Bad(_))
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        if let Part::Bad(why) = self.part { Some(why) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(parts: &[&[u8]]) -> Wav {
        let mut wav = Wav::new();
        parts.iter().for_each(|part| wav.feed(part));
        wav
    }

    const HEAD: &[u8] = b"RIFF\xFF\xFF\xFF\xFFWAVE";
    /// 16-bit mono at 24 kHz.
    const FORMAT: &[u8] = b"fmt \x10\0\0\0\x01\0\x01\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\x10\0";

    #[test]
    fn a_data_chunk_of_no_size_or_of_all_ones_lasts_to_the_end() {
        for size in [0_u32, u32::MAX, 0x7FFF_F000] {
            let wav = fed(&[HEAD, FORMAT, b"data", &size.to_le_bytes(), &[0; 48_000], &[0; 48_000]]);
            assert_eq!(wav.audio(), Duration::from_secs(2));
        }
    }

    #[test]
    fn other_chunks_are_not_audio_wherever_they_stand() {
        let list = b"LIST\x03\0\0\0abc\0";
        let wav =
            fed(&[HEAD, list, FORMAT, list, b"data\x02\0\0\0", &[0; 2], list, b"data\x02\0\0\0", &[0; 2]]);
        assert_eq!(wav.audio(), time(2, 24_000));
        assert_eq!(wav.unknown(), None);
    }

    #[test]
    fn a_header_alone_has_not_started() {
        let mut wav = fed(&[HEAD, FORMAT, b"data\xFF\xFF\xFF\xFF"]);
        assert!(!wav.started());
        wav.feed(&[0]);
        assert!(wav.started());
    }

    #[test]
    fn a_format_without_channels_or_bits_is_malformed_and_leaves_what_was_heard_before_it() {
        let no_channels = b"fmt \x10\0\0\0\x01\0\0\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\x10\0";
        let no_bits = b"fmt \x10\0\0\0\x01\0\x01\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\0\0";
        for format in [no_channels, no_bits] {
            for (before, audio) in [(&[][..], 0), (&[FORMAT, b"data\x02\0\0\0", &[0; 2]][..], 1)] {
                let mut wav = fed(&[HEAD]);
                before.iter().for_each(|part| wav.feed(part));
                wav.feed(format);
                assert_eq!((wav.audio(), wav.unknown()), (time(audio, 24_000), Some(Unknown::Malformed)));
            }
        }
    }

    #[test]
    fn what_cannot_be_timed_says_why() {
        let adpcm = b"fmt \x10\0\0\0\x11\0\x01\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\x04\0";
        let rate_zero = b"fmt \x10\0\0\0\x01\0\x01\0\0\0\0\0\x80\xBB\0\0\x02\0\x10\0";
        let rate_one = b"fmt \x10\0\0\0\x01\0\x01\0\x01\0\0\0\x80\xBB\0\0\x02\0\x10\0";
        assert_eq!(fed(&[HEAD, adpcm]).unknown(), Some(Unknown::Unsupported));
        assert_eq!(fed(&[HEAD, rate_zero]).unknown(), Some(Unknown::Malformed));
        assert_eq!(fed(&[HEAD, rate_one]).unknown(), Some(Unknown::Malformed));
        assert_eq!(fed(&[HEAD, b"data\xFF\xFF\xFF\xFF"]).unknown(), Some(Unknown::Malformed));
        assert_eq!(fed(&[b"Bad request."]).unknown(), Some(Unknown::Malformed));
    }
}
