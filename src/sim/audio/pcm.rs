//! Samples: a tone with the melody and the syllables of speech, computed once for each rate and looped.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::Position;

/// The tone repeats after this many seconds; all of its parts have a whole number of periods in it.
const LOOP_SECONDS: u32 = 2;
/// Loops kept; a server is asked for a handful of rates.
const LOOPS_MAX: usize = 32;
/// A WAV header with one `fmt ` and one `data` chunk (Microsoft's RIFF MCI, PCM).
const WAV_HEADER_BYTES: u32 = 44;

/// One synthesis's samples.
#[derive(Debug)]
pub(super) struct Samples {
    header: Option<Bytes>,
    position: Position,
    sound: Bytes,
    sample_bytes: usize,
    /// Byte of the loop that comes next.
    at: usize,
}

impl Samples {
    pub(super) fn pcm(rate: u32, audio: Option<Duration>) -> Self {
        Self::new(Coding::Linear, rate, audio)
    }

    pub(super) fn mulaw(rate: u32, audio: Option<Duration>) -> Self {
        Self::new(Coding::Mulaw, rate, audio)
    }

    pub(super) fn wav(rate: u32, audio: Option<Duration>, exact: bool) -> Self {
        let mut samples = Self::new(Coding::Linear, rate, audio);
        let bytes =
            (exact && audio.is_some()).then(|| u32::try_from(samples.position.total * 2).unwrap_or(u32::MAX));
        samples.header = Some(wav_header(rate, bytes));
        samples
    }

    fn new(coding: Coding, rate: u32, audio: Option<Duration>) -> Self {
        let sample_bytes = if coding == Coding::Linear { 2 } else { 1 };
        let position = Position::new(audio, f64::from(rate), 0.0);
        Self { header: None, position, sound: tone(coding, rate), sample_bytes, at: 0 }
    }

    pub(super) fn next(&mut self, produced: Duration) -> Option<Bytes> {
        let most = (self.sound.len() - self.at) / self.sample_bytes;
        let samples = self.position.take(produced, most as u64);
        let bytes = usize::try_from(samples).unwrap_or(0) * self.sample_bytes;
        if bytes == 0 {
            return None;
        }
        let piece = self.sound.slice(self.at..self.at + bytes);
        self.at = (self.at + bytes) % self.sound.len();
        match self.header.take() {
            Some(header) => Some([header, piece].concat().into()),
            None => Some(piece),
        }
    }

    pub(super) fn end(&mut self, audio: Duration) {
        self.position.end(audio);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.position.is_finished()
    }
}

/// Bytes of a whole WAV file.
pub(super) fn wav_bytes(rate: u32, audio: Duration) -> u64 {
    u64::from(WAV_HEADER_BYTES) + 2 * Position::new(Some(audio), f64::from(rate), 0.0).total
}

/// How a sample becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Coding {
    Linear,
    Mulaw,
}

/// `bytes` of samples follow; `None`, when that is not known yet, is written as Rime does, 0xFFFFFFFF.
fn wav_header(rate: u32, bytes: Option<u32>) -> Bytes {
    let mut header = BytesMut::with_capacity(WAV_HEADER_BYTES as usize);
    header.put_slice(b"RIFF");
    header.put_u32_le(bytes.map_or(u32::MAX, |bytes| bytes.saturating_add(WAV_HEADER_BYTES - 8)));
    header.put_slice(b"WAVEfmt ");
    header.put_u32_le(16);
    header.put_u16_le(1); // PCM
    header.put_u16_le(1); // mono
    header.put_u32_le(rate);
    header.put_u32_le(rate * 2);
    header.put_u16_le(2); // bytes of a frame
    header.put_u16_le(16); // bits of a sample
    header.put_slice(b"data");
    header.put_u32_le(bytes.unwrap_or(u32::MAX));
    header.freeze()
}

fn tone(coding: Coding, rate: u32) -> Bytes {
    static LOOPS: LazyLock<Mutex<HashMap<(Coding, u32), Bytes>>> = LazyLock::new(Mutex::default);
    // A panic elsewhere cannot leave a half-made loop behind: loops are inserted whole.
    let mut loops = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sound) = loops.get(&(coding, rate)) {
        return sound.clone();
    }
    let sound: Bytes = (0..rate * LOOP_SECONDS)
        .flat_map(|index| {
            let sample = sample(f64::from(index) / f64::from(rate));
            let [low, high] = sample.to_le_bytes();
            match coding {
                Coding::Linear => [Some(low), Some(high)],
                Coding::Mulaw => [Some(mulaw(sample)), None],
            }
        })
        .flatten()
        .collect();
    if loops.len() < LOOPS_MAX {
        loops.insert((coding, rate), sound.clone());
    }
    sound
}

/// Four syllables a second on a gliding pitch. The encoded assets hold the same tone (`assets/README.md`).
fn sample(t: f64) -> i16 {
    let syllable = 0.5 - 0.5 * (TAU * 4.0 * t).cos();
    let glide = (TAU * 2.0 * t).sin();
    let voice = 0.30 * (TAU * 140.0 * t + 2.0 * glide).sin()
        + 0.15 * (TAU * 420.0 * t + 4.0 * glide).sin()
        + 0.08 * (TAU * 1260.0 * t).sin();
    #[expect(clippy::cast_possible_truncation, reason = "at most 0.53 of the range")]
    let sample = (syllable * voice * f64::from(i16::MAX)) as i16;
    sample
}

/// One sample in µ-law (ITU-T G.711, table 2a): sign, exponent and mantissa of the magnitude, inverted.
fn mulaw(sample: i16) -> u8 {
    const BIAS: u16 = 0x84;
    const CLIP: u16 = 32_635;
    let sign: u8 = if sample < 0 { 0x80 } else { 0 };
    let magnitude = sample.unsigned_abs().min(CLIP) + BIAS;
    // The bias makes bit 7 or a higher one the leading bit.
    let exponent = 8 - magnitude.leading_zeros();
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    #[expect(clippy::cast_possible_truncation, reason = "three and four bits")]
    let code = sign | ((exponent as u8) << 4) | mantissa as u8;
    !code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mulaw_codes_are_those_of_g711() {
        for (sample, code) in [(0, 0xFF), (-1, 0x7F), (32_767, 0x80), (-32_768, 0x00), (1_000, 0xCE)] {
            assert_eq!(mulaw(sample), code, "{sample}");
        }
    }

    #[test]
    fn a_streamed_header_declares_no_size_and_an_exact_one_the_true_size() {
        assert_eq!(&wav_header(24_000, None)[40..], [0xFF; 4]);
        let exact = wav_header(24_000, Some(1_000));
        assert_eq!(exact[40..44], 1_000u32.to_le_bytes());
        assert_eq!(exact[4..8], 1_036u32.to_le_bytes());
    }

    #[test]
    fn the_loop_joins_without_a_click() {
        assert_eq!(sample(0.0), 0);
        assert!(sample(1.9999).abs() < 10);
    }
}
