//! Counts MPEG audio layer III frames by their headers. Decodes nothing, and ignores gapless-playback trimming.
//!
//! A frame counts when its last byte has come. ID3v2 tags are skipped and Xing, Info and VBRI frames, which
//! carry tables instead of sound, are not counted, wherever they stand (answers may be joined from several
//! files). Where the next header is not in its place, the stream is searched for two headers in a row that
//! agree; a search that finds nothing at all for [`SEARCH_BYTES_MAX`] ends as malformed.

use super::{Unknown, time};
use std::time::Duration;

/// How far the first frame may be.
const SEARCH_BYTES_MAX: u32 = 64 * 1024;
/// Where a VBRI tag ends; the side information in front of a Xing tag is shorter.
const TAG_END_MAX: u32 = 40;
/// Bytes of an ID3v2 header, and of its footer.
const ID3_BYTES: u32 = 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Mp3 {
    /// Audio at rates before the present one.
    past: Duration,
    samples: u64,
    rate: u32,
    /// The last four bytes.
    window: u32,
    /// Bytes of the current part seen, the header's four included.
    at: u32,
    searched: u32,
    part: Part,
    frame: Frame,
    /// The last frame that was complete.
    trusted: Option<Frame>,
    /// Whether the frame before was doubtful and waits for this one to confirm it.
    pending: bool,
    started: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A header where one must be.
    Head,
    /// The search for a header.
    Search,
    Frame {
        /// Found by searching: believed when a second one follows.
        doubtful: bool,
        tag: bool,
    },
    Id3Head {
        size: u32,
        footer: bool,
    },
    Id3 {
        end: u32,
    },
    Bad(Unknown),
}

/// What a frame header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Frame {
    bytes: u32,
    samples: u32,
    rate: u32,
    /// Where a Xing or Info tag ends.
    tag_end: u32,
}

enum Header {
    Frame(Frame),
    Unsupported,
    None,
}

impl Mp3 {
    pub(super) fn new() -> Self {
        Self {
            past: Duration::ZERO,
            samples: 0,
            rate: 0,
            window: 0,
            at: 0,
            searched: 0,
            part: Part::Head,
            frame: Frame::default(),
            trusted: None,
            pending: false,
            started: false,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.part {
                Part::Frame { .. } if self.at >= TAG_END_MAX => {
                    bytes = self.pass(bytes, self.frame.bytes);
                    if self.at == self.frame.bytes {
                        self.frame_end();
                    }
                    continue;
                }
                Part::Id3 { end } => {
                    bytes = self.pass(bytes, end);
                    if self.at == end {
                        self.expect_header();
                    }
                    continue;
                }
                Part::Bad(_) => return,
                _ => {}
            }
            bytes = rest;
            self.window = self.window << 8 | u32::from(byte);
            self.at = self.at.saturating_add(1);
            self.byte(byte);
        }
    }

    /// Skips towards byte `end` of the current part.
    fn pass<'a>(&mut self, bytes: &'a [u8], end: u32) -> &'a [u8] {
        let taken = bytes.len().min((end - self.at) as usize);
        // At most `end`, which is 32 bits.
        self.at += u32::try_from(taken).unwrap_or(0);
        &bytes[taken..]
    }

    fn byte(&mut self, byte: u8) {
        match self.part {
            Part::Head if self.at == 4 => self.head(),
            Part::Search if self.at >= 4 => self.search(),
            Part::Frame { doubtful, tag } => self.frame_byte(doubtful, tag),
            Part::Id3Head { size, footer } => self.id3_byte(size, footer, byte),
            _ => {}
        }
    }

    fn head(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if self.window >> 8 == u32::from_be_bytes(*b"\0ID3") {
            self.part = Part::Id3Head { size: 0, footer: false };
            return;
        }
        match header(self.window) {
            // A first header is believed. Later ones must go on as the stream began, and what does not
            // has to prove itself like anything found by search.
            Header::Frame(frame) if self.trusted.is_none_or(|before| before.agrees(frame)) => {
                if pending {
                    self.count(self.frame);
                    self.started = true;
                }
                self.begin(frame, false);
            }
            Header::Unsupported if self.trusted.is_none() => self.part = Part::Bad(Unknown::Unsupported),
            _ => self.search(),
        }
    }

    fn search(&mut self) {
        if let Header::Frame(frame) = header(self.window) {
            self.begin(frame, true);
            return;
        }
        self.part = Part::Search;
        self.searched = self.searched.saturating_add(1);
        if self.searched > SEARCH_BYTES_MAX && !self.started {
            self.part = Part::Bad(Unknown::Malformed);
        }
    }

    fn begin(&mut self, frame: Frame, doubtful: bool) {
        self.frame = frame;
        self.part = Part::Frame { doubtful, tag: false };
        self.at = 4;
    }

    /// A byte of the frame's first [`TAG_END_MAX`], where a tag may show.
    fn frame_byte(&mut self, doubtful: bool, tag: bool) {
        let xing = self.at == self.frame.tag_end && matches!(&self.window.to_be_bytes(), b"Xing" | b"Info");
        let vbri = self.at == TAG_END_MAX && self.window.to_be_bytes() == *b"VBRI";
        let tag = tag || xing || vbri;
        self.part = Part::Frame { doubtful, tag };
        if self.at == self.frame.bytes.min(TAG_END_MAX) {
            self.started |= !tag && !doubtful;
        }
        if self.at == self.frame.bytes {
            self.frame_end();
        }
    }

    fn frame_end(&mut self) {
        if let Part::Frame { doubtful, tag } = self.part {
            self.pending = doubtful && !tag;
            if !tag && !doubtful {
                self.count(self.frame);
            }
            self.trusted = Some(self.frame);
        }
        self.expect_header();
    }

    fn count(&mut self, frame: Frame) {
        if frame.rate != self.rate {
            self.past = self.audio();
            self.samples = 0;
            self.rate = frame.rate;
        }
        self.samples += u64::from(frame.samples);
    }

    fn expect_header(&mut self) {
        self.part = Part::Head;
        self.at = 0;
    }

    /// The ID3v2 header after `ID3` and its version byte: revision, flags, and four times seven bits of size.
    fn id3_byte(&mut self, size: u32, footer: bool, byte: u8) {
        let footer = if self.at == 6 { byte & 0x10 != 0 } else { footer };
        let size = if self.at > 6 { size << 7 | u32::from(byte & 0x7F) } else { size };
        self.part = Part::Id3Head { size, footer };
        if self.at == ID3_BYTES {
            let end = ID3_BYTES + size + if footer { ID3_BYTES } else { 0 };
            self.part = Part::Id3 { end };
            if self.at == end {
                self.expect_header();
            }
        }
    }

    pub(super) fn audio(&self) -> Duration {
        self.past.saturating_add(time(self.samples, self.rate))
    }

    pub(super) fn started(&self) -> bool {
        self.started || matches!(self.part, Part::Bad(_))
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        if let Part::Bad(why) = self.part { Some(why) } else { None }
    }
}

impl Frame {
    /// Whether a frame like `other` may follow: bit rate and padding vary, version and rate do not.
    fn agrees(self, other: Self) -> bool {
        self.rate == other.rate && self.samples == other.samples
    }
}

/// Reads a frame header: ISO/IEC 11172-3 section 2.4.1.3 and 13818-3 section 2.4.1.3; MPEG-2.5 is Fraunhofer's.
fn header(word: u32) -> Header {
    const RATES: [u32; 3] = [44_100, 48_000, 32_000];
    const MPEG1_KBPS: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const MPEG2_KBPS: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

    let [sync, kind, rates, mode] = word.to_be_bytes();
    let (version, layer, kbps, rate) = (kind >> 3 & 3, kind >> 1 & 3, rates >> 4, rates >> 2 & 3);
    let impossible = version == 1 || layer == 0 || kbps == 15 || rate == 3 || mode & 3 == 2;
    if sync != 0xFF || kind & 0xE0 != 0xE0 || impossible {
        return Header::None;
    }
    if layer != 1 || kbps == 0 {
        return Header::Unsupported;
    }
    let mpeg1 = version == 3;
    let rate = RATES[usize::from(rate)] >> [2, 0, 1, 0][usize::from(version)];
    let kbps = if mpeg1 { MPEG1_KBPS } else { MPEG2_KBPS }[usize::from(kbps)];
    let samples = if mpeg1 { 1152 } else { 576 };
    let bytes = samples / 8 * kbps * 1000 / rate + u32::from(rates >> 1 & 1);
    let side = match (mpeg1, mode >> 6 == 3) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    Header::Frame(Frame { bytes, samples, rate, tag_end: 4 + side + 4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MPEG-2 layer III, mono, 24 kHz, 64 kbit/s: 192 bytes and 24 ms.
    fn frame() -> Vec<u8> {
        let mut frame = vec![0xFF, 0xF3, 0x84, 0xC4];
        frame.resize(192, 0x55);
        frame
    }

    fn tagged(at: usize, tag: &[u8; 4]) -> Vec<u8> {
        let mut frame = frame();
        frame[at..at + 4].copy_from_slice(tag);
        frame
    }

    fn fed(bytes: &[u8]) -> Mp3 {
        let mut mp3 = Mp3::new();
        mp3.feed(bytes);
        mp3
    }

    fn ms(mp3: &Mp3) -> u128 {
        mp3.audio().as_millis()
    }

    #[test]
    fn a_frame_counts_when_it_is_complete() {
        assert_eq!(ms(&fed(&frame().repeat(10))), 240);
        assert_eq!(ms(&fed(&frame().repeat(10)[..1919])), 216);
    }

    #[test]
    fn tag_frames_are_not_audio() {
        for (at, tag) in [(13, b"Xing"), (13, b"Info"), (36, b"VBRI")] {
            let mp3 = fed(&[tagged(at, tag), frame()].concat());
            assert_eq!(ms(&mp3), 24);
            assert!(!fed(&tagged(at, tag)).started());
        }
    }

    #[test]
    fn an_id3_tag_is_skipped_even_when_it_looks_like_frames() {
        let mut bytes = b"ID3\x04\0\x10\0\0\x03\0".to_vec();
        bytes.extend(frame().repeat(2));
        bytes.extend(b"3DI\x04\0\x10\0\0\x03\0");
        bytes.extend(frame());
        assert_eq!(ms(&fed(&bytes)), 24);
    }

    #[test]
    fn after_garbage_two_frames_in_a_row_are_believed_and_one_is_not() {
        let garbage = vec![0xAA; 100];
        assert_eq!(ms(&fed(&[garbage.clone(), frame()].concat())), 0);
        assert_eq!(ms(&fed(&[garbage.clone(), frame().repeat(2)].concat())), 48);
        assert_eq!(ms(&fed(&[frame(), garbage.clone(), frame().repeat(3)].concat())), 96);
        assert_eq!(ms(&fed(&[frame(), garbage.clone(), frame(), garbage].concat())), 24);
    }

    #[test]
    fn a_stream_without_frames_becomes_malformed_and_other_layers_are_unsupported() {
        assert_eq!(fed(&vec![0xAA; 70_000]).unknown(), Some(Unknown::Malformed));
        assert_eq!(fed(&[0xFF, 0xFD, 0x84, 0xC4]).unknown(), Some(Unknown::Unsupported));
        let free_format = [0xFF, 0xF3, 0x04, 0xC4];
        assert_eq!(fed(&free_format).unknown(), Some(Unknown::Unsupported));
    }
}
