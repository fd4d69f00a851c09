//! MPEG frames, looped from an encoded clip. Every frame stands alone (no bit reservoir), so that a loop of
//! them is a valid stream.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;

use super::Position;

/// A clip and where its frames begin; the last entry is its end.
#[derive(Debug)]
struct Clip {
    bytes: &'static [u8],
    header: Header,
    starts: Vec<usize>,
}

/// What a layer 3 frame header says (ISO 11172-3 and 13818-3; MPEG 2.5 is the encoders' own).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Header {
    rate: u32,
    samples: u32,
    bytes: usize,
}

static CLIPS: LazyLock<[Clip; 9]> = LazyLock::new(|| {
    [
        Clip::new(include_bytes!("../assets/tone-8000.mp3")),
        Clip::new(include_bytes!("../assets/tone-11025.mp3")),
        Clip::new(include_bytes!("../assets/tone-12000.mp3")),
        Clip::new(include_bytes!("../assets/tone-16000.mp3")),
        Clip::new(include_bytes!("../assets/tone-22050.mp3")),
        Clip::new(include_bytes!("../assets/tone-24000.mp3")),
        Clip::new(include_bytes!("../assets/tone-32000.mp3")),
        Clip::new(include_bytes!("../assets/tone-44100.mp3")),
        Clip::new(include_bytes!("../assets/tone-48000.mp3")),
    ]
});

impl Clip {
    fn new(bytes: &'static [u8]) -> Self {
        let header = Header::read(bytes).unwrap_or_default();
        let mut starts = vec![0];
        let mut at = 0;
        while let Some(frame) = bytes.get(at..).and_then(Header::read) {
            at += frame.bytes;
            starts.push(at);
        }
        Self { bytes, header, starts }
    }

    fn frames(&self) -> usize {
        self.starts.len() - 1
    }
}

impl Header {
    fn read(frame: &[u8]) -> Option<Self> {
        const MPEG1_KBPS: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
        const MPEG2_KBPS: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
        let &[0xFF, second, third, ..] = frame else { return None };
        let (slower, samples, kbps) = match (second >> 3) & 3 {
            3 => (1, 1_152, MPEG1_KBPS),
            2 => (2, 576, MPEG2_KBPS),
            0 => (4, 576, MPEG2_KBPS),
            _ => return None,
        };
        let rate = [44_100, 48_000, 32_000].get(usize::from((third >> 2) & 3))? / slower;
        let kbps = *kbps.get(usize::from(third >> 4))?;
        let padding = usize::from((third >> 1) & 1);
        let bytes = (samples / 8 * kbps * 1_000 / rate) as usize + padding;
        (kbps > 0 && frame.len() >= bytes).then_some(Self { rate, samples, bytes })
    }
}

/// One synthesis's frames.
#[derive(Debug)]
pub(super) struct Frames {
    clip: &'static Clip,
    position: Position,
    /// Frame of the clip that comes next.
    at: usize,
}

impl Frames {
    /// At the rate nearest to the one asked for.
    pub(super) fn new(rate: u32, audio: Option<Duration>) -> Self {
        let clips: &'static [Clip; 9] = &CLIPS;
        let nearest = clips.iter().min_by_key(|clip| clip.header.rate.abs_diff(rate));
        let clip = nearest.unwrap_or(&clips[0]);
        let per_second = f64::from(clip.header.rate) / f64::from(clip.header.samples);
        Self { clip, position: Position::new(audio, per_second, 0.0), at: 0 }
    }

    pub(super) fn next(&mut self, produced: Duration) -> Option<Bytes> {
        let most = self.clip.frames() - self.at;
        let taken = usize::try_from(self.position.take(produced, most as u64)).unwrap_or(0);
        if taken == 0 {
            return None;
        }
        let (from, to) = (self.clip.starts[self.at], self.clip.starts[self.at + taken]);
        self.at = (self.at + taken) % self.clip.frames();
        Some(Bytes::from_static(&self.clip.bytes[from..to]))
    }

    pub(super) fn end(&mut self, audio: Duration) {
        self.position.end(audio);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.position.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clip_is_frames_to_its_last_byte_at_a_rate_of_its_own() {
        for clip in CLIPS.iter() {
            assert_eq!(clip.starts.last(), Some(&clip.bytes.len()), "{:?}", clip.header);
            let seconds = clip.frames() as f64 * f64::from(clip.header.samples) / f64::from(clip.header.rate);
            assert!((2.0..2.3).contains(&seconds), "{:?}: {seconds} s", clip.header);
        }
        let rates = CLIPS.each_ref().map(|clip| clip.header.rate);
        assert_eq!(rates, [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]);
    }
}
