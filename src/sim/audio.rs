//! Turns a stretch of time into playable sound in every format that Rime serves. Knows no HTTP and no clock:
//! the caller says how much audio has been produced, and gets the bytes that were not handed out before.

mod mp3;
mod opus;
mod pcm;
mod webm;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Lowest sampling rate that a request may ask for.
pub const RATE_MIN: u32 = 4_000;
/// Highest sampling rate that a request may ask for.
pub const RATE_MAX: u32 = 96_000;

/// How the sound travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 16 bit mono WAV whose header declares sizes of 0xFFFFFFFF, or the true ones if `exact`.
    Wav {
        /// Whether the header declares the true sizes.
        exact: bool,
    },
    /// Headerless 16 bit mono samples, little endian (also when asked for as `audio/L16`).
    Pcm,
    /// Headerless µ-law samples, one byte each (ITU-T G.711).
    Mulaw,
    /// MPEG audio layer 3, constant bit rate, mono. The rate is the nearest one that MPEG knows.
    Mp3,
    /// Opus in Ogg (RFC 7845), one page for each piece.
    OggOpus,
    /// Opus in WebM, segment and clusters of unknown size.
    WebmOpus,
    /// Server-sent events: `chunk`s of base64 samples as [`Format::Pcm`], then `timestamps` and `done`.
    Events,
    /// One JSON object with base64 audio, when all of it is there.
    Json {
        /// What the base64 holds.
        inner: Inner,
        /// `{"audioContent":{"model_output":..}}` rather than `{"audioContent":..}`.
        nested: bool,
    },
}

/// What the JSON envelope wraps (`audioFormat` of the request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inner {
    /// WAV with true sizes.
    Wav,
    /// As [`Format::Pcm`].
    Pcm,
    /// As [`Format::Mulaw`].
    Mulaw,
    /// As [`Format::Mp3`].
    Mp3,
    /// As [`Format::OggOpus`].
    Ogg,
}

impl Format {
    /// The `content-type` of a response.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Wav { .. } => "audio/wav",
            Self::Pcm => "audio/L16",
            Self::Mulaw => "audio/PCMU",
            Self::Mp3 => "audio/mpeg",
            Self::OggOpus => "audio/ogg;codecs=opus",
            Self::WebmOpus => "audio/webm;codecs=opus",
            Self::Events => "text/event-stream",
            Self::Json { .. } => "application/json",
        }
    }
}

impl Inner {
    fn format(self) -> Format {
        match self {
            Self::Wav => Format::Wav { exact: true },
            Self::Pcm => Format::Pcm,
            Self::Mulaw => Format::Mulaw,
            Self::Mp3 => Format::Mp3,
            Self::Ogg => Format::OggOpus,
        }
    }
}

/// Bytes of a whole WAV file with true sizes.
#[must_use]
pub fn wav_bytes(rate: u32, audio: Duration) -> u64 {
    pcm::wav_bytes(rate, audio)
}

/// Hands out one synthesis's bytes, in order, as its audio is produced.
#[derive(Debug)]
pub struct Encoder {
    /// Length of the sound, once it is known.
    audio: Option<Duration>,
    track: Track,
    events: bool,
    envelope: Option<bool>,
    finished: bool,
}

#[derive(Debug)]
enum Track {
    Samples(pcm::Samples),
    Mp3(mp3::Frames),
    Ogg(opus::OggPages),
    Webm(webm::Clusters),
}

impl Encoder {
    /// An encoder for `audio` of sound at `rate` samples a second.
    #[must_use]
    pub fn new(format: Format, rate: u32, audio: Duration) -> Self {
        Self::make(format, rate, Some(audio))
    }

    /// An encoder for sound whose length is not known before [`Encoder::end`] says so.
    #[must_use]
    pub fn open(format: Format, rate: u32) -> Self {
        Self::make(format, rate, None)
    }

    /// Says how long the sound of an [`Encoder::open`] turned out to be: at least what was produced so far.
    pub fn end(&mut self, audio: Duration) {
        self.audio = Some(audio);
        match &mut self.track {
            Track::Samples(samples) => samples.end(audio),
            Track::Mp3(frames) => frames.end(audio),
            Track::Ogg(pages) => pages.end(audio),
            Track::Webm(clusters) => clusters.end(audio),
        }
    }

    fn make(format: Format, rate: u32, audio: Option<Duration>) -> Self {
        let (carried, events, envelope) = match format {
            Format::Events => (Format::Pcm, true, None),
            Format::Json { inner, nested } => (inner.format(), false, Some(nested)),
            other => (other, false, None),
        };
        let track = match carried {
            Format::Wav { exact } => Track::Samples(pcm::Samples::wav(rate, audio, exact)),
            Format::Mulaw => Track::Samples(pcm::Samples::mulaw(rate, audio)),
            Format::Mp3 => Track::Mp3(mp3::Frames::new(rate, audio)),
            Format::OggOpus => Track::Ogg(opus::OggPages::new(rate, audio)),
            Format::WebmOpus => Track::Webm(webm::Clusters::new(rate, audio)),
            Format::Pcm | Format::Events | Format::Json { .. } => {
                Track::Samples(pcm::Samples::pcm(rate, audio))
            }
        };
        Self { audio, track, events, envelope, finished: false }
    }

    /// The next bytes, if `produced` of the audio yields any that were not handed out before. Call it until it
    /// returns `None`.
    pub fn next(&mut self, produced: Duration) -> Option<Bytes> {
        if self.finished {
            return None;
        }
        let complete = self.audio.filter(|audio| produced >= *audio);
        if let Some(nested) = self.envelope {
            return complete.map(|audio| self.envelope(nested, audio));
        }
        let piece = self.track.next(produced);
        self.finished = complete.is_some() && self.track.is_finished();
        if !self.events {
            return piece;
        }
        let mut event = piece.map(|piece| chunk_event(&piece)).unwrap_or_default();
        if self.finished {
            event.push_str(LAST_EVENTS);
        }
        (!event.is_empty()).then(|| event.into())
    }

    /// Whether every byte has been handed out.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn envelope(&mut self, nested: bool, audio: Duration) -> Bytes {
        let mut sound = Vec::new();
        while let Some(piece) = self.track.next(audio) {
            sound.extend_from_slice(&piece);
        }
        self.finished = true;
        let sound = STANDARD.encode(sound);
        let json = if nested {
            format!(r#"{{"audioContent":{{"model_output":"{sound}"}}}}"#)
        } else {
            format!(r#"{{"audioContent":"{sound}"}}"#)
        };
        json.into()
    }
}

const LAST_EVENTS: &str = concat!(
    "event: timestamps\ndata: {\"word_timestamps\":{\"words\":[],\"start\":[],\"end\":[]}}\n\n",
    "event: done\ndata: {\"done\":true}\n\n"
);

fn chunk_event(samples: &[u8]) -> String {
    let mut event = String::from("event: chunk\ndata: {\"data\":\"");
    STANDARD.encode_string(samples, &mut event);
    event.push_str("\"}\n\n");
    event
}

impl Track {
    fn next(&mut self, produced: Duration) -> Option<Bytes> {
        match self {
            Self::Samples(samples) => samples.next(produced),
            Self::Mp3(frames) => frames.next(produced),
            Self::Ogg(pages) => pages.next(produced),
            Self::Webm(clusters) => clusters.next(produced),
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Self::Samples(samples) => samples.is_finished(),
            Self::Mp3(frames) => frames.is_finished(),
            Self::Ogg(pages) => pages.is_finished(),
            Self::Webm(clusters) => clusters.is_finished(),
        }
    }
}

/// Counts units of sound (samples, frames, packets) that have been handed out.
#[derive(Debug)]
struct Position {
    audio: Option<Duration>,
    per_second: f64,
    lead: f64,
    given: u64,
    total: u64,
}

impl Position {
    /// `audio` at `per_second` units, the last one only begun if need be. `lead` are units that hold no sound
    /// of their own (an encoder's delay).
    fn new(audio: Option<Duration>, per_second: f64, lead: f64) -> Self {
        let mut position = Self { audio: None, per_second, lead, given: 0, total: u64::MAX };
        if let Some(audio) = audio {
            position.end(audio);
        }
        position
    }

    fn end(&mut self, audio: Duration) {
        self.audio = Some(audio);
        self.total = count((audio.as_secs_f64() * self.per_second + self.lead - ROUNDING).ceil()).max(1);
    }

    /// How many units have come due and were not handed out, at most `most`.
    fn take(&mut self, produced: Duration, most: u64) -> u64 {
        let whole = count(produced.as_secs_f64() * self.per_second + ROUNDING);
        let due = match self.audio {
            Some(audio) if produced >= audio => self.total,
            Some(_) => whole.min(self.total),
            // Containers mark their last unit, so that one stays back until it is known whether more follows.
            None => whole.saturating_sub(1),
        };
        let taken = due.saturating_sub(self.given).min(most);
        self.given += taken;
        taken
    }

    fn is_finished(&self) -> bool {
        self.audio.is_some() && self.given == self.total
    }
}

/// A time that stands for a whole number of units may fall short of it by the last bit of a float.
const ROUNDING: f64 = 1e-6;

/// Audio is hours at most, so that its units fit.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, below 2^53")]
fn count(units: f64) -> u64 {
    units as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(format: Format, rate: u32, audio: Duration, steps: &[Duration]) -> Vec<u8> {
        let mut encoder = Encoder::new(format, rate, audio);
        let mut bytes = Vec::new();
        for produced in steps.iter().chain([&audio]) {
            assert!(!encoder.is_finished());
            while let Some(piece) = encoder.next(*produced) {
                assert!(!piece.is_empty());
                bytes.extend_from_slice(&piece);
            }
        }
        assert!(encoder.is_finished());
        bytes
    }

    #[test]
    fn sound_of_a_length_not_known_before_is_the_same_in_the_end() {
        let audio = Duration::from_millis(1_234);
        for format in [Format::Wav { exact: false }, Format::Pcm, Format::Mulaw, Format::Mp3] {
            let mut encoder = Encoder::open(format, 24_000);
            let mut bytes = Vec::new();
            for produced in [audio / 3, audio, audio] {
                while let Some(piece) = encoder.next(produced) {
                    bytes.extend_from_slice(&piece);
                }
                assert!(!encoder.is_finished());
            }
            encoder.end(audio);
            while let Some(piece) = encoder.next(audio) {
                bytes.extend_from_slice(&piece);
            }
            assert!(encoder.is_finished());
            assert_eq!(bytes, whole(format, 24_000, audio, &[]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_sound_is_the_same_in_whatever_steps_it_is_made(
            rate in prop::sample::select(vec![RATE_MIN, 8_000, 11_025, 16_000, 22_050, 24_000, 44_100]),
            audio in 200u64..6_000,
            mut steps in prop::collection::vec(0.0..0.999f64, 0..20),
        ) {
            steps.sort_by(f64::total_cmp);
            let audio = Duration::from_millis(audio);
            let steps: Vec<Duration> = steps.iter().map(|share| audio.mul_f64(*share)).collect();
            for format in [Format::Wav { exact: true }, Format::Wav { exact: false }, Format::Mulaw, Format::Mp3] {
                prop_assert_eq!(whole(format, rate, audio, &steps), whole(format, rate, audio, &[]));
            }
            let samples = u64::from(rate) * u64::try_from(audio.as_millis()).unwrap();
            let pcm = whole(Format::Pcm, rate, audio, &steps).len() as u64;
            prop_assert_eq!(pcm, 2 * samples.div_ceil(1_000));
            prop_assert_eq!(whole(Format::Wav { exact: true }, rate, audio, &[]).len() as u64, wav_bytes(rate, audio));
        }
    }
}
