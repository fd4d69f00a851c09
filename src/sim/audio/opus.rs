//! Opus packets, looped from an encoded clip, and their Ogg pages (RFC 7845).

use std::borrow::Cow;
use std::io::Cursor;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use ogg::{PacketReader, PacketWriteEndInfo, PacketWriter};

use super::Position;

/// Opus counts samples at this rate, whatever the sound's own.
pub(super) const CLOCK: u32 = 48_000;
/// Samples of one packet: 20 ms.
pub(super) const PACKET_SAMPLES: u32 = 960;
/// Packets in one page or cluster at most: a second.
pub(super) const PACKETS_MAX: u64 = 50;

const TAGS: &[u8] = b"OpusTags\x09\0\0\0rime-gate\0\0\0\0";
const SERIAL: u32 = 0x5249_4D45;

/// The clip's packets.
#[derive(Debug)]
pub(super) struct Clip {
    packets: Vec<Vec<u8>>,
    /// Samples at the start that belong to the encoder, not to the sound.
    pub(super) pre_skip: u16,
}

pub(super) static CLIP: LazyLock<Clip> = LazyLock::new(|| {
    let mut reader = PacketReader::new(Cursor::new(&include_bytes!("../assets/tone.opus")[..]));
    let mut packets = Vec::new();
    // The asset is compiled in and read whole by a test: an error here is its end.
    while let Ok(Some(packet)) = reader.read_packet() {
        packets.push(packet.data);
    }
    let head = packets.first().and_then(|head| head.get(10..12));
    let pre_skip = head.map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let packets = packets.split_off(packets.len().min(2));
    Clip { packets, pre_skip }
});

impl Clip {
    /// The packet at `index` of an endless stream.
    pub(super) fn packet(&self, index: u64) -> &[u8] {
        let count = self.packets.len() as u64;
        usize::try_from(index % count)
            .ok()
            .and_then(|index| self.packets.get(index))
            .map_or(&[], Vec::as_slice)
    }

    /// The `OpusHead` of a stream whose sound had `rate` before it was encoded.
    pub(super) fn head(&self, rate: u32) -> Vec<u8> {
        let mut head = b"OpusHead\x01\x01".to_vec();
        head.extend_from_slice(&self.pre_skip.to_le_bytes());
        head.extend_from_slice(&rate.to_le_bytes());
        head.extend_from_slice(&[0, 0, 0]); // gain, mapping family
        head
    }
}

/// Packets of 20 ms for `audio`, with those that the encoder's delay adds.
pub(super) fn position(audio: Option<Duration>) -> Position {
    let packet = f64::from(PACKET_SAMPLES);
    Position::new(audio, f64::from(CLOCK) / packet, f64::from(CLIP.pre_skip) / packet)
}

/// The granule position at which `audio` ends.
fn granule(audio: Duration) -> u64 {
    super::count((audio.as_secs_f64() * f64::from(CLOCK)).round()) + u64::from(CLIP.pre_skip)
}

/// One synthesis's pages.
pub(super) struct OggPages {
    writer: PacketWriter<'static, Vec<u8>>,
    position: Position,
    rate: u32,
    begun: bool,
    /// Granule position of the sound's end, which cuts the last packet to size.
    end: u64,
}

impl std::fmt::Debug for OggPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OggPages").field("position", &self.position).finish_non_exhaustive()
    }
}

impl OggPages {
    pub(super) fn new(rate: u32, audio: Option<Duration>) -> Self {
        Self {
            writer: PacketWriter::new(Vec::new()),
            position: position(audio),
            rate,
            begun: false,
            end: audio.map_or(u64::MAX, granule),
        }
    }

    pub(super) fn next(&mut self, produced: Duration) -> Option<Bytes> {
        let clip: &'static Clip = &CLIP;
        let first = self.position.given;
        let taken = self.position.take(produced, PACKETS_MAX);
        if taken == 0 {
            return None;
        }
        if !self.begun {
            self.begun = true;
            self.write(Cow::Owned(clip.head(self.rate)), PacketWriteEndInfo::EndPage, 0);
            self.write(Cow::Borrowed(TAGS), PacketWriteEndInfo::EndPage, 0);
        }
        for index in first..first + taken {
            let kind = match index + 1 {
                next if next == self.position.total => PacketWriteEndInfo::EndStream,
                next if next == first + taken => PacketWriteEndInfo::EndPage,
                _ => PacketWriteEndInfo::NormalPacket,
            };
            let granule = ((index + 1) * u64::from(PACKET_SAMPLES)).min(self.end);
            self.write(Cow::Borrowed(clip.packet(index)), kind, granule);
        }
        Some(std::mem::take(self.writer.inner_mut()).into())
    }

    fn write(&mut self, packet: Cow<'static, [u8]>, kind: PacketWriteEndInfo, granule: u64) {
        // Writing to a `Vec` cannot fail.
        let _ = self.writer.write_packet(packet, SERIAL, kind, granule);
    }

    pub(super) fn end(&mut self, audio: Duration) {
        self.position.end(audio);
        self.end = granule(audio);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.position.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clip_is_two_seconds_of_packets_of_20_ms() {
        assert_eq!(CLIP.pre_skip, 312);
        assert!((100..=102).contains(&CLIP.packets.len()));
        // RFC 6716 section 3.1: configurations 1, 5, 9, 13, 15, 19, 23, 27, 31 are 20 ms; code 0 is one frame.
        assert!(CLIP.packets.iter().all(|packet| {
            let (configuration, code) = (packet[0] >> 3, packet[0] & 3);
            code == 0 && [1, 5, 9, 13, 15, 19, 23, 27, 31].contains(&configuration)
        }));
    }
}
