//! In what manner callers ask: for which voice, with whose name, and when their clock starts. Knows no load.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use crate::audio::{AudioClock, Hint};
use crate::meter::Meter;

/// What callers want to hear: it says its own rate.
pub(super) const AUDIO: &str = "audio/wav";

/// What is the same in every call.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The path of an HTTP request.
    pub path: String,
    /// `Host` and `:authority`, where that is not the address itself.
    pub host: Option<String>,
    /// `speaker`.
    pub speaker: Option<String>,
    /// `modelId`.
    pub model: Option<String>,
    /// `lang`.
    pub lang: Option<String>,
    /// `Authorization`, and what stands for it on other protocols.
    pub authorization: Option<HeaderValue>,
    /// How long playback waits after the first audio byte.
    pub client_buffer: Duration,
    /// When TTFB starts.
    pub clock_starts: ClockStarts,
}

/// What is said in one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The text.
    pub text: String,
    /// Its language, where it is not [`Manner::lang`]. Legacy sockets have one for all their turns.
    pub lang: Option<String>,
    /// Its voice, where it is not [`Manner::speaker`]. Legacy sockets have one for all their turns.
    pub speaker: Option<String>,
}

impl From<&str> for Words {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

/// When a call's clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockStarts {
    /// When the call was due: an open load, in which a stall hides nothing.
    Due,
    /// When the text is sent, on a connection that is open: what `armchair` measures.
    Sent,
}

/// What a voice agent asks of an engine.
impl Default for Manner {
    fn default() -> Self {
        Self {
            path: "/invocations".to_owned(),
            host: None,
            speaker: Some("luna".to_owned()),
            model: Some("arcana".to_owned()),
            lang: None,
            authorization: None,
            client_buffer: Duration::ZERO,
            clock_starts: ClockStarts::Due,
        }
    }
}

impl Manner {
    /// Where the clock of a call starts that was due at `due` and has its connection now.
    pub(super) fn start(&self, due: Instant) -> Instant {
        match self.clock_starts {
            ClockStarts::Due => due,
            ClockStarts::Sent => Instant::now(),
        }
    }

    /// A meter for sound of this type, whose clock started at `start`.
    pub(super) fn meter(&self, start: Instant, content_type: Option<&str>) -> Meter {
        let clock = AudioClock::for_answer(content_type, None, Hint::default());
        let start = start.into_std();
        Meter::new(start, Duration::ZERO, clock, self.client_buffer)
    }

    /// A meter for what callers ask for.
    pub(super) fn meter_of_audio(&self, start: Instant) -> Meter {
        self.meter(start, Some(AUDIO))
    }

    /// The voice of these words.
    pub(super) fn speaker_of<'a>(&'a self, words: &'a Words) -> Option<&'a str> {
        words.speaker.as_deref().or(self.speaker.as_deref())
    }

    /// The language of these words.
    pub(super) fn lang_of<'a>(&'a self, words: &'a Words) -> Option<&'a str> {
        words.lang.as_deref().or(self.lang.as_deref())
    }
}
