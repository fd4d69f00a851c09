//! MPEG frames, looped from an encoded clip. Every frame stands alone (no bit reservoir), so that a loop of
//! them is a valid stream.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;

use super::Position;

/// A clip and where its frames begin; the last entry is its end.
#[derive(Debug)]
struct Clip {
    rate: u32,
    bytes: &'static [u8],
    starts: Vec<usize>,
}

static CLIPS: LazyLock<[Clip; 9]> = LazyLock::new(|| {
    [
        Clip::new(8_000, include_bytes!("../assets/tone-8000.mp3")),
        Clip::new(11_025, include_bytes!("../assets/tone-11025.mp3")),
        Clip::new(12_000, include_bytes!("../assets/tone-12000.mp3")),
        Clip::new(16_000, include_bytes!("../assets/tone-16000.mp3")),
        Clip::new(22_050, include_bytes!("../assets/tone-22050.mp3")),
        Clip::new(24_000, include_bytes!("../assets/tone-24000.mp3")),
        Clip::new(32_000, include_bytes!("../assets/tone-32000.mp3")),
        Clip::new(44_100, include_bytes!("../assets/tone-44100.mp3")),
        Clip::new(48_000, include_bytes!("../assets/tone-48000.mp3")),
    ]
});

impl Clip {
    fn new(rate: u32, bytes: &'static [u8]) -> Self {
        let mut starts = vec![0];
        let mut at = 0;
        while let Some(length) = bytes.get(at..).and_then(|rest| frame_bytes(rate, rest)) {
            at += length;
            starts.push(at);
        }
        Self { rate, bytes, starts }
    }

    fn frames(&self) -> usize {
        self.starts.len() - 1
    }
}

/// Length of the layer 3 frame that `rest` begins with (ISO 11172-3 and 13818-3). The clips' rate is known;
/// only bit rate and padding are read.
fn frame_bytes(rate: u32, rest: &[u8]) -> Option<usize> {
    const MPEG1_KBPS: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const MPEG2_KBPS: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let &[0xFF, _, third, _, ..] = rest else { return None };
    let table = if rate >= 32_000 { MPEG1_KBPS } else { MPEG2_KBPS };
    let kbps = *table.get(usize::from(third >> 4))?;
    let padding = usize::from((third >> 1) & 1);
    let length = frame_samples(rate) / 8 * kbps * 1_000 / rate;
    let length = length as usize + padding;
    (kbps > 0 && rest.len() >= length).then_some(length)
}

fn frame_samples(rate: u32) -> u32 {
    if rate >= 32_000 { 1_152 } else { 576 }
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
    pub(super) fn new(rate: u32, audio: Duration) -> Self {
        let clips: &'static [Clip; 9] = &CLIPS;
        let nearest = clips.iter().min_by_key(|clip| clip.rate.abs_diff(rate));
        let clip = nearest.unwrap_or(&clips[0]);
        let per_second = f64::from(clip.rate) / f64::from(frame_samples(clip.rate));
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

    pub(super) fn is_finished(&self) -> bool {
        self.position.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clip_is_frames_to_its_last_byte() {
        for clip in CLIPS.iter() {
            assert_eq!(clip.starts.last(), Some(&clip.bytes.len()), "{} Hz", clip.rate);
            assert!(clip.frames() > 20, "{} Hz", clip.rate);
        }
    }
}
