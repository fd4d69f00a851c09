//! Reads the time of Opus in Ogg (RFC 3533, RFC 7845) from page headers. Decodes no packet, checks no CRC.
//!
//! The time is the granule position of the last complete page less the pre-skip, at 48 kHz; streams chained
//! one after another add up. A granule that its page's packets cannot reach is garbage, and makes the answer
//! malformed: one bad page must not add years of audio to a counter.
//!
//! The pages are parsed here and not by the `ogg` crate because its reader assembles packets in growing
//! buffers; lengths are all that is needed.

use super::{Unknown, time};
use std::time::Duration;

/// Fixed part of a page header; the segment table follows.
const HEAD_BYTES: usize = 27;
/// How much of `OpusHead` is read: magic, version, channels, pre-skip.
const ID_BYTES: u16 = 12;
/// The longest Opus packet: 120 ms at 48 kHz.
const PACKET_SAMPLES_MAX: u64 = 5760;
const OPUS_RATE: u32 = 48_000;
/// `OpusHead` and `OpusTags`.
const HEADER_PACKETS: u8 = 2;
/// The granule position of a page on which no packet ends.
const NO_GRANULE: u64 = u64::MAX;
const FLAG_FIRST: u8 = 0x02;

#[derive(Clone, Copy, Debug)]
pub(super) struct Ogg {
    /// Samples of the streams that were before this one in the chain.
    past: u64,
    /// Granule position after the last complete page of this stream.
    granule: u64,
    /// Granule position of the page that is being read.
    page: u64,
    /// The Opus stream that is counted; `None` before its first page.
    serial: Option<u32>,
    /// Whose the page is that is being read.
    page_serial: u32,
    pre_skip: u16,
    /// Bytes of body left. At most 255 segments of 255 bytes.
    body: u16,
    /// Header packets of this stream still to come.
    headers: u8,
    /// Segments whose lengths are still to come.
    segments: u8,
    /// Packets that end on this page.
    packets: u8,
    carried: u8,
    carry: [u8; HEAD_BYTES],
    part: Part,
    started: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    Table {
        /// Whether a stream begins on this page.
        first: bool,
    },
    /// The start of a stream's first body.
    Id,
    Body,
    Bad(Unknown),
}

impl Ogg {
    pub(super) fn new() -> Self {
        Self {
            past: 0,
            granule: 0,
            page: NO_GRANULE,
            serial: None,
            page_serial: 0,
            pre_skip: 0,
            body: 0,
            headers: HEADER_PACKETS,
            segments: 0,
            packets: 0,
            carried: 0,
            carry: [0; HEAD_BYTES],
            part: Part::Head,
            started: false,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::Head => self.collect(bytes, HEAD_BYTES),
                Part::Table { first } => self.table(bytes, first),
                Part::Id => self.collect(bytes, ID_BYTES.into()),
                Part::Body => self.body(bytes),
                Part::Bad(_) => return,
            };
        }
    }

    /// Carries bytes until `need` are there, then reads them.
    fn collect<'a>(&mut self, bytes: &'a [u8], need: usize) -> &'a [u8] {
        let have = usize::from(self.carried);
        let (taken, rest) = bytes.split_at(bytes.len().min(need - have));
        self.carry[have..have + taken.len()].copy_from_slice(taken);
        // At most `need`, which fits.
        self.carried = u8::try_from(have + taken.len()).unwrap_or(0);
        if usize::from(self.carried) == need {
            self.carried = 0;
            if self.part == Part::Head { self.head() } else { self.id() }
        }
        rest
    }

    fn head(&mut self) {
        let [b'O', b'g', b'g', b'S', 0, flags, page @ ..] = &self.carry else {
            self.part = Part::Bad(Unknown::Malformed);
            return;
        };
        let [g0, g1, g2, g3, g4, g5, g6, g7, s0, s1, s2, s3, .., segments] = *page;
        self.page = u64::from_le_bytes([g0, g1, g2, g3, g4, g5, g6, g7]);
        self.page_serial = u32::from_le_bytes([s0, s1, s2, s3]);
        self.segments = segments;
        (self.body, self.packets) = (0, 0);
        let first = flags & FLAG_FIRST != 0;
        self.part = Part::Table { first };
        if segments == 0 {
            self.table_end(first);
        }
    }

    fn table<'a>(&mut self, bytes: &'a [u8], first: bool) -> &'a [u8] {
        let (lengths, rest) = bytes.split_at(bytes.len().min(usize::from(self.segments)));
        for length in lengths {
            self.body += u16::from(*length);
            self.packets += u8::from(*length < u8::MAX);
            self.segments -= 1;
        }
        if self.segments == 0 {
            self.table_end(first);
        }
        rest
    }

    fn table_end(&mut self, first: bool) {
        self.part = match () {
            () if first && self.body >= ID_BYTES => Part::Id,
            () if self.serial.is_none() => Part::Bad(Unknown::Unsupported),
            () => Part::Body,
        };
        if self.part == Part::Body && self.body == 0 {
            self.page_end();
        }
    }

    /// A stream begins. One that is not Opus is no business of ours, unless there is nothing else.
    fn id(&mut self) {
        if &self.carry[..8] == b"OpusHead" {
            self.past = self.samples();
            self.granule = 0;
            self.serial = Some(self.page_serial);
            self.headers = HEADER_PACKETS;
            self.pre_skip = u16::from_le_bytes([self.carry[10], self.carry[11]]);
        } else if self.serial.is_none() {
            self.part = Part::Bad(Unknown::Unsupported);
            return;
        }
        self.body -= ID_BYTES;
        self.part = Part::Body;
        if self.body == 0 {
            self.page_end();
        }
    }

    fn body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let taken = u16::try_from(bytes.len()).unwrap_or(u16::MAX).min(self.body);
        self.body -= taken;
        self.started |= self.is_ours() && self.headers == 0;
        if self.body == 0 {
            self.page_end();
        }
        &bytes[usize::from(taken)..]
    }

    fn page_end(&mut self) {
        self.part = Part::Head;
        if !self.is_ours() {
            return;
        }
        let headers = self.headers.min(self.packets);
        self.headers -= headers;
        if self.page == NO_GRANULE {
            return;
        }
        let reach = self.granule.saturating_add(u64::from(self.packets - headers) * PACKET_SAMPLES_MAX);
        if self.page < self.granule || self.page > reach {
            self.part = Part::Bad(Unknown::Malformed);
            return;
        }
        self.granule = self.page;
    }

    fn is_ours(&self) -> bool {
        self.serial == Some(self.page_serial)
    }

    fn samples(&self) -> u64 {
        self.past.saturating_add(self.granule.saturating_sub(u64::from(self.pre_skip)))
    }

    pub(super) fn audio(&self) -> Duration {
        time(self.samples(), OPUS_RATE)
    }

    pub(super) fn started(&self) -> bool {
        self.started || matches!(self.part, Part::Bad(_))
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        if let Part::Bad(why) = self.part { Some(why) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(serial: u32, flags: u8, granule: u64, lengths: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend(granule.to_le_bytes());
        page.extend(serial.to_le_bytes());
        page.extend([0; 8]);
        page.push(u8::try_from(lengths.len()).unwrap());
        page.extend(lengths);
        let length: usize = lengths.iter().map(|length| usize::from(*length)).sum();
        page.extend(body);
        page.resize(page.len() + length - body.len(), 0);
        page
    }

    fn headers(serial: u32) -> Vec<u8> {
        let id = page(serial, FLAG_FIRST, 0, &[19], b"OpusHead\x01\x01\x38\x01\xC0\x5D\0\0\0\0\0");
        [id, page(serial, 0, 0, &[16], b"OpusTags")].concat()
    }

    fn fed(pages: &[Vec<u8>]) -> Ogg {
        let mut ogg = Ogg::new();
        ogg.feed(&pages.concat());
        ogg
    }

    #[test]
    fn the_last_complete_page_tells_the_time_less_the_pre_skip() {
        let page = page(1, 0, 48_312, &[10; 50], b"");
        assert_eq!(fed(&[headers(1), page.clone()]).audio(), Duration::from_secs(1));
        let cut = fed(&[headers(1), page[..page.len() - 1].to_vec()]);
        assert_eq!((cut.audio(), cut.started()), (Duration::ZERO, true));
    }

    #[test]
    fn headers_alone_have_not_started() {
        assert!(!fed(&[headers(1)]).started());
    }

    #[test]
    fn chained_streams_add_up_and_foreign_ones_are_ignored() {
        let sound = |serial| page(serial, 0, 48_312, &[10; 50], b"");
        let foreign = page(9, 0, 1 << 60, &[10], b"");
        let ogg = fed(&[headers(1), sound(1), foreign, headers(2), sound(2)]);
        assert_eq!((ogg.audio(), ogg.unknown()), (Duration::from_secs(2), None));
    }

    #[test]
    fn a_granule_that_the_packets_cannot_reach_is_malformed() {
        let ogg = fed(&[headers(1), page(1, 0, 1 << 60, &[10; 50], b"")]);
        assert_eq!((ogg.audio(), ogg.unknown()), (Duration::ZERO, Some(Unknown::Malformed)));
    }

    #[test]
    fn a_page_on_which_no_packet_ends_has_no_time() {
        let open = page(1, 0, NO_GRANULE, &[255], b"");
        let ogg = fed(&[headers(1), page(1, 0, 1_272, &[10], b""), open]);
        assert_eq!((ogg.audio(), ogg.unknown()), (Duration::from_millis(20), None));
    }

    #[test]
    fn another_codec_is_unsupported() {
        let vorbis = page(1, FLAG_FIRST, 0, &[30], b"\x01vorbis");
        assert_eq!(fed(&[vorbis]).unknown(), Some(Unknown::Unsupported));
        assert_eq!(fed(&[vec![0; 40]]).unknown(), Some(Unknown::Malformed));
    }
}
