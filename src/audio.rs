//! Turns the bytes of an engine's answer into audio time, as they pass. Decides which parser reads an answer.
//! Ignores clocks, callers and what the sound says; it never alters, keeps or decodes a sound.
//!
//! Every parser is a push state machine: bytes may arrive in chunks of any size, split anywhere, and the
//! result never depends on where. What is carried from one chunk to the next is bounded by a fixed array;
//! nothing is allocated. Garbage makes an answer [`Unknown`], never a panic.
//!
//! ```
//! use rime_gate::audio::{AudioClock, Hint};
//!
//! let mut clock = AudioClock::for_answer(Some("audio/L16;rate=16000"), None, Hint::default());
//! clock.feed(&[0; 32_000]);
//! assert_eq!(clock.audio().as_secs_f64(), 1.0);
//! ```

mod answer;
mod grpc;
mod json;
mod mp3;
mod ogg;
mod pcm;
mod scan;
mod sniff;
mod sse;
mod wav;
mod webm;

use std::{ops::RangeInclusive, time::Duration};

pub use answer::Hint;
use grpc::Grpc;
use json::Json;
use mp3::Mp3;
use ogg::Ogg;
use pcm::Pcm;
use sniff::Sniff;
use sse::Sse;
use wav::Wav;
use webm::Webm;

/// Sample rates that are believed. Beyond them a broken header could put years of audio on a counter.
const RATES: RangeInclusive<u32> = 1_000..=768_000;

/// How an answer's audio is packed. A closed set: the `format` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// RIFF WAVE: PCM, float, A-law or µ-law samples; exact, zero and `0xFFFFFFFF` sizes.
    Wav,
    /// Headerless signed 16-bit little-endian samples (`audio/L16`, `audio/pcm`).
    Pcm,
    /// Headerless µ-law samples, one byte each (`audio/PCMU`, `audio/x-mulaw`).
    Mulaw,
    /// MPEG-1, 2 and 2.5 audio layer III frames.
    Mp3,
    /// Opus in Ogg (RFC 7845).
    OggOpus,
    /// Opus in WebM.
    WebmOpus,
    /// Server-sent events of base64 PCM (Mist v2).
    Sse,
    /// One JSON object with base64 audio. Not streamed: nothing is playable before its end.
    Json,
    /// Anything else.
    Unknown,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 9] = [
        Self::Wav,
        Self::Pcm,
        Self::Mulaw,
        Self::Mp3,
        Self::OggOpus,
        Self::WebmOpus,
        Self::Sse,
        Self::Json,
        Self::Unknown,
    ];

    /// The label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Pcm => "pcm",
            Self::Mulaw => "mulaw",
            Self::Mp3 => "mp3",
            Self::OggOpus => "ogg_opus",
            Self::WebmOpus => "webm_opus",
            Self::Sse => "sse",
            Self::Json => "json",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a synthesis has no audio time or no RTF. A closed set: the `reason` label of `rtf_unknown_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// The answer's content type names no audio that the gate reads.
    ContentType,
    /// The answer is compressed (`Content-Encoding`), so its bytes are not audio.
    ContentEncoding,
    /// The bytes are not what the content type says.
    Malformed,
    /// The container is right, but what is in it has no fixed bytes-to-time rule here
    /// (ADPCM in WAV, free-format MP3, Vorbis in Ogg, …).
    Unsupported,
    /// Headerless samples, and neither the answer nor the request tells their rate.
    Rate,
    /// Nothing that sounds arrived.
    NoAudio,
    /// All audio became playable at one instant, so it has no speed. `armchair` leaves these out as well.
    NotStreamed,
    /// The synthesis did not end as `ok`, so its audio is not all that was asked for.
    Incomplete,
    /// Text still came while it sounded, and too little sounded after the last of it.
    StreamedInput,
    /// The caller took the sound so slowly that nobody knows when the engine brought it.
    SlowCaller,
}

impl Unknown {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Malformed,
        Self::Unsupported,
        Self::Rate,
        Self::NoAudio,
        Self::NotStreamed,
        Self::Incomplete,
        Self::StreamedInput,
        Self::SlowCaller,
    ];

    /// The label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Rate => "rate",
            Self::NoAudio => "no_audio",
            Self::NotStreamed => "not_streamed",
            Self::Incomplete => "incomplete",
            Self::StreamedInput => "streamed_input",
            Self::SlowCaller => "slow_caller",
        }
    }
}

/// The audio time of one answer, counted while its bytes pass.
#[derive(Clone, Debug)]
pub struct AudioClock {
    format: Format,
    parser: Parser,
}

#[derive(Clone, Copy, Debug)]
enum Parser {
    Sound(Sound),
    Sse(Sse),
    Json(Json),
    Grpc(Grpc),
}

/// A parser of bytes that are themselves the sound, whatever carried them here.
#[derive(Clone, Copy, Debug)]
enum Sound {
    Wav(Wav),
    Pcm(Pcm),
    Mp3(Mp3),
    Ogg(Ogg),
    Webm(Webm),
    Sniff(Sniff),
    /// Bytes that will not be read, why, and whether any came.
    Unread(Unknown, bool),
}

// What is `Copy` owns no heap: however long an answer is, its clock takes this much and no more.
const CLOCK_BYTES_MAX: usize = 192;
const _: () = assert!(size_of::<AudioClock>() <= CLOCK_BYTES_MAX, "one is held per running synthesis");
const _: fn(Parser) = |parser| {
    fn owns_no_heap<T: Copy>(_: T) {}
    owns_no_heap(parser);
};

impl AudioClock {
    /// The clock for an answer with these headers to a request that asked for `hint`.
    ///
    /// The content type rules, its `rate` and `channels` parameters included; `hint` fills what it leaves
    /// open. An answer in any `Content-Encoding` but `identity` is unknown.
    #[must_use]
    pub fn for_answer(content_type: Option<&str>, content_encoding: Option<&str>, hint: Hint) -> Self {
        answer::clock(content_type, content_encoding, hint)
    }

    /// The clock for a gRPC answer of `rime.SynthesisResponseStream` messages, whose audio is `content_type`
    /// (`x-rime-audio-content-type`); `hint` is what the request's `audio_parameters` asked for.
    #[must_use]
    pub fn for_grpc(content_type: Option<&str>, hint: Hint) -> Self {
        answer::clock_in_messages(content_type, hint)
    }

    /// Takes the next bytes of the answer's body.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.parser {
            Parser::Sound(sound) => sound.feed(bytes),
            Parser::Sse(sse) => sse.feed(bytes),
            Parser::Json(json) => json.feed(bytes),
            Parser::Grpc(grpc) => grpc.feed(bytes),
        }
    }

    /// Takes the next `length` bytes of the answer's body unseen. `false`, and nothing taken, where their values
    /// matter and they must be [fed](Self::feed).
    pub fn pass(&mut self, length: u64) -> bool {
        let Parser::Sound(sound) = &mut self.parser else { return false };
        match sound {
            Sound::Pcm(pcm) => pcm.feed(length),
            Sound::Wav(wav) => return wav.pass_unseen(length),
            Sound::Unread(_, started) => *started |= length > 0,
            _ => return false,
        }
        true
    }

    /// The audio heard so far: whole samples, frames or packets only.
    #[must_use]
    pub fn audio(&self) -> Duration {
        match &self.parser {
            Parser::Sound(sound) => sound.audio(),
            Parser::Sse(sse) => sse.audio(),
            Parser::Json(json) => json.sound.audio(),
            Parser::Grpc(grpc) => grpc.sound.audio(),
        }
    }

    /// Whether a byte of audio (not of a header) was seen; for an answer that cannot be read, any byte.
    #[must_use]
    pub fn started(&self) -> bool {
        match &self.parser {
            Parser::Sound(sound) => sound.started(),
            Parser::Sse(sse) => sse.started(),
            Parser::Json(json) => json.sound.started(),
            Parser::Grpc(grpc) => grpc.sound.started(),
        }
    }

    /// The format that is read.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether the caller can play the beginning before the end has come.
    #[must_use]
    pub fn streamed(&self) -> bool {
        self.format != Format::Json
    }

    /// Why [`audio`](Self::audio) does not tell this answer's length, if the answer ended here.
    #[must_use]
    pub fn unknown(&self) -> Option<Unknown> {
        match &self.parser {
            Parser::Sound(sound) => sound.unknown(),
            Parser::Sse(sse) => sse.unknown(),
            Parser::Json(json) => json.unknown(),
            Parser::Grpc(grpc) => grpc.unknown(),
        }
        .or_else(|| self.audio().is_zero().then_some(Unknown::NoAudio))
    }
}

impl Sound {
    fn feed(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Wav(wav) => wav.feed(bytes),
            Self::Pcm(pcm) => pcm.feed(bytes.len() as u64),
            Self::Mp3(mp3) => mp3.feed(bytes),
            Self::Ogg(ogg) => ogg.feed(bytes),
            Self::Webm(webm) => webm.feed(bytes),
            Self::Sniff(sniff) => {
                if let Some((sound, head)) = sniff.feed(&mut bytes) {
                    *self = sound;
                    self.feed(&head);
                    self.feed(bytes);
                }
            }
            Self::Unread(_, started) => *started |= !bytes.is_empty(),
        }
    }

    fn audio(&self) -> Duration {
        match self {
            Self::Wav(wav) => wav.audio(),
            Self::Pcm(pcm) => pcm.audio(),
            Self::Mp3(mp3) => mp3.audio(),
            Self::Ogg(ogg) => ogg.audio(),
            Self::Webm(webm) => webm.audio(),
            Self::Sniff(_) => Duration::ZERO,
            Self::Unread(..) => Duration::ZERO,
        }
    }

    fn started(&self) -> bool {
        match self {
            Self::Wav(wav) => wav.started(),
            Self::Pcm(pcm) => pcm.started(),
            Self::Mp3(mp3) => mp3.started(),
            Self::Ogg(ogg) => ogg.started(),
            Self::Webm(webm) => webm.started(),
            Self::Sniff(_) => false,
            Self::Unread(_, started) => *started,
        }
    }

    fn unknown(&self) -> Option<Unknown> {
        match self {
            Self::Wav(wav) => wav.unknown(),
            Self::Pcm(pcm) => pcm.unknown(),
            Self::Mp3(mp3) => mp3.unknown(),
            Self::Ogg(ogg) => ogg.unknown(),
            Self::Webm(webm) => webm.unknown(),
            Self::Sniff(_) => None,
            Self::Unread(why, _) => Some(*why),
        }
    }
}

/// The time that `samples` take at `rate` per second, to the nanosecond; nothing at rate 0.
fn time(samples: u64, rate: u32) -> Duration {
    if rate == 0 {
        return Duration::ZERO;
    }
    let rate = u64::from(rate);
    // The remainder is below 2^32, so times 10^9 it fits, and the quotient is below 10^9.
    #[allow(clippy::cast_possible_truncation)]
    let nanos = (samples % rate * 1_000_000_000 / rate) as u32;
    Duration::new(samples / rate, nanos)
}
