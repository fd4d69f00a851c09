//! One synthesis' clock: TTFB, RTF, underrun, gaps and outcome. Decides what they mean, once.
//! Knows no wire and no metric; instants and bytes are arguments.
//!
//! The definitions are `armchair`'s (crate 0.4.0, `src/main.rs`), so that the live figures can be compared with
//! the benchmark that found the limit:
//!
//! - RTF is the time from the first audio byte to the last byte, divided by the audio's duration. `armchair`
//!   takes the first body byte and the end of the body; the gate takes the first byte that sounds, so that a
//!   WAV header sent ahead starts neither the clock nor the playback. Where everything arrives at one instant
//!   there is no speed to tell, and `armchair` drops the value as well.
//! - Underrun is its playback simulation (`compute_buffer_underrun`): playback starts, the buffer drains in
//!   real time, and a chunk that arrives after the buffer ran dry is an underrun. With no client buffer the two
//!   agree exactly. With one, `armchair` starts when that much audio has arrived and then takes it out of the
//!   buffer; the gate starts that long after the first audio byte, which is what a player's fixed delay does.
//!
//! An RTF is told only for a synthesis that ended `ok`. One cut short, by whomever, has paid its start-up
//! but not brought all its audio, and a caller who stopped reading slows the stream without the engine's fault.
//!
//! A chunk's time is when it could be read. Where its caller was not there to take it, it may have come at any moment
//! since the chunk before: that is no gap and no underrun of the engine's, and where so much of the time is in doubt
//! that the RTF is too, it is unknown.
//!
//! Where text is streamed in, the engine may have to wait for words. TTFB counts from the first of them. When text
//! still comes after the first audio byte, RTF and underrun count only over what sounds after the last of it, and
//! an RTF takes half a second of that: see [`Meter::text`].

mod streamed_text;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::audio::{AudioClock, Format, Unknown};
use streamed_text::StreamedText;

/// How a synthesis ended. A closed set: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The engine ended it in its protocol's own way, and the caller was there.
    Ok,
    /// The gate did not let it in.
    Refused,
    /// The caller went away before the end.
    CallerGone,
    /// The engine answered with an error, or could not be reached.
    EngineError,
    /// The engine did not begin, or fell silent for too long.
    EngineTimeout,
    /// The engine's answer broke off.
    Truncated,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Refused, Self::CallerGone, Self::EngineError, Self::EngineTimeout, Self::Truncated];

    /// The label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::CallerGone => "caller_gone",
            Self::EngineError => "engine_error",
            Self::EngineTimeout => "engine_timeout",
            Self::Truncated => "truncated",
        }
    }
}

/// The clock of one running synthesis. Instants are kept as nanoseconds since arrival: thousands may be alive.
#[derive(Clone, Debug)]
pub struct Meter {
    arrived: Instant,
    /// From arrival to dispatch.
    queue_wait: u64,
    /// First audio byte.
    first: Option<u64>,
    /// Last byte of any kind.
    last: u64,
    client_buffer: u64,
    bytes: u64,
    /// For how long playback has stood still, all in all.
    stood: u64,
    /// For how many microseconds nobody was there to take a chunk, all in all: so much earlier it may have come.
    doubt: u32,
    /// The next chunk may have come before it is taken.
    held_up: bool,
    text: StreamedText,
    clock: AudioClock,
}

/// Chunks that were taken one right after the other arrived together.
const HELD_UP_MIN: Duration = Duration::from_millis(10);

/// The greatest part of the audio's duration by which an RTF may be wrong: 0.05 of the 1.0 that is real time.
const DOUBT_SHARE: u32 = 20;

const METER_BYTES_MAX: usize = 288;
const _: () = assert!(size_of::<Meter>() <= METER_BYTES_MAX, "one is held per running synthesis");

/// What one synthesis came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// How it ended.
    pub outcome: Outcome,
    /// How its answer was packed.
    pub format: Format,
    /// The wait for a slot.
    pub queue_wait: Duration,
    /// Arrival to the first audio byte: what the caller hears, wait included. Of an answer that cannot be
    /// read, the first byte; of one that is not streamed, the last.
    pub ttfb: Option<Duration>,
    /// Dispatch to the first audio byte: what the benchmark sees.
    pub upstream_ttfb: Option<Duration>,
    /// (Last byte - first audio byte) / audio, or why it is unknown. 1.0 is the edge of real time.
    pub rtf: Result<f64, Unknown>,
    /// Audio heard, whatever the outcome. Zero where it cannot be read.
    pub audio: Duration,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Whether playback ran dry before the end; `None` where the audio cannot be read.
    pub underrun: Option<bool>,
    /// Arrival to end.
    pub duration: Duration,
}

impl Measured {
    /// A synthesis that ended at `now` before an answer began: refused, caller gone, engine down.
    #[must_use]
    pub fn unanswered(arrived: Instant, now: Instant, queue_wait: Duration, outcome: Outcome) -> Self {
        Self {
            outcome,
            format: Format::Unknown,
            queue_wait,
            ttfb: None,
            upstream_ttfb: None,
            rtf: Err(Unknown::Incomplete),
            audio: Duration::ZERO,
            bytes: 0,
            underrun: None,
            duration: now.saturating_duration_since(arrived),
        }
    }
}

impl Meter {
    /// A meter for a synthesis that arrived, waited `queue_wait` for its slot, and was then sent to the engine,
    /// whose answer `clock` reads. Playback is taken to start `client_buffer` after the first audio byte.
    #[must_use]
    pub fn new(arrived: Instant, queue_wait: Duration, clock: AudioClock, client_buffer: Duration) -> Self {
        Self {
            arrived,
            queue_wait: nanos(queue_wait),
            first: None,
            last: 0,
            client_buffer: nanos(client_buffer),
            bytes: 0,
            stood: 0,
            doubt: 0,
            held_up: false,
            text: StreamedText::default(),
            clock,
        }
    }

    /// Takes a chunk that arrived from the engine at `now`.
    ///
    /// Returns the gap since the chunk before, from the second chunk with audio on, where it is the engine's.
    pub fn heard(&mut self, now: Instant, bytes: &[u8]) -> Option<Duration> {
        self.heard_as(now, bytes.len() as u64, |clock| clock.feed(bytes))
    }

    /// Takes a chunk of `length` bytes that arrived from the engine at `now`, and that `feed` shows to the clock:
    /// for what is not one slice of plain bytes on the wire.
    ///
    /// Returns the gap since the chunk before, from the second chunk with audio on, where it is the engine's.
    pub fn heard_as(
        &mut self,
        now: Instant,
        length: u64,
        feed: impl FnOnce(&mut AudioClock),
    ) -> Option<Duration> {
        if length == 0 {
            return None;
        }
        let at = self.since_arrival(now);
        let held_up =
            std::mem::take(&mut self.held_up) && self.first.is_some() && at - self.last >= nanos(HELD_UP_MIN);
        if let Some(dry) = self.dry_since(at) {
            if !held_up {
                self.text.ran_dry();
            }
            self.stood += at - dry;
        }
        if held_up {
            let micros = u32::try_from((at - self.last) / 1_000).unwrap_or(u32::MAX);
            self.doubt = self.doubt.saturating_add(micros);
        }
        let gap = self.first.filter(|_| !held_up).map(|_| Duration::from_nanos(at - self.last));
        self.last = at;
        self.bytes += length;
        feed(&mut self.clock);
        if self.first.is_none() && self.clock.started() {
            self.first = Some(at);
        }
        if self.text.awaited() {
            self.text.heard(at, nanos(self.clock.audio()));
        }
        gap
    }

    /// Takes note that the caller was not there to take more: the next chunk may come at once, or be waiting already.
    pub const fn held_up(&mut self) {
        self.held_up = true;
    }

    /// Takes note that text which can be spoken reached the engine at `now`, apart from what came with the request.
    ///
    /// The first one starts TTFB. One that comes after the first audio byte begins RTF and underrun anew, at the
    /// audio that follows: before it the engine may have been waiting for words.
    pub fn text(&mut self, now: Instant) {
        let at = self.since_arrival(now);
        let sounding = self.first.map(|_| nanos(self.clock.audio()));
        self.text.came(at, sounding);
        self.doubt = 0;
    }

    /// Ends the synthesis at `now`.
    #[must_use]
    pub fn end(mut self, now: Instant, outcome: Outcome) -> Measured {
        let ended = self.since_arrival(now);
        if !self.clock.streamed() {
            self.first = self.first.map(|_| self.last);
        }
        // Only the engine's own failures owe the caller sound beyond the last byte. A caller who left may
        // have stopped listening long before.
        let engines = matches!(outcome, Outcome::EngineError | Outcome::EngineTimeout | Outcome::Truncated);
        if engines && self.dry_since(ended).is_some() {
            self.text.ran_dry();
        }
        let after = |start: u64| self.first.map(|first| Duration::from_nanos(first.saturating_sub(start)));
        let unknown = self.clock.unknown();
        Measured {
            outcome,
            format: self.clock.format(),
            queue_wait: Duration::from_nanos(self.queue_wait),
            ttfb: after(self.text.spoken()),
            upstream_ttfb: after(self.queue_wait.max(self.text.spoken())),
            rtf: self.rtf(outcome, unknown),
            audio: self.clock.audio(),
            bytes: self.bytes,
            underrun: unknown.is_none().then_some(self.text.underrun()),
            duration: Duration::from_nanos(ended),
        }
    }

    /// Dispatch to the first audio byte; `None` while none has come.
    #[must_use]
    pub fn upstream_ttfb(&self) -> Option<Duration> {
        let from = self.queue_wait.max(self.text.spoken());
        self.first.map(|first| Duration::from_nanos(first.saturating_sub(from)))
    }

    /// The audio clock, for whoever needs more than the figures.
    #[must_use]
    pub const fn clock(&self) -> &AudioClock {
        &self.clock
    }

    fn rtf(&self, outcome: Outcome, unknown: Option<Unknown>) -> Result<f64, Unknown> {
        if outcome != Outcome::Ok {
            return Err(Unknown::Incomplete);
        }
        if let Some(why) = unknown {
            return Err(why);
        }
        let (first, audio) = self.text.stretch(self.first, self.clock.audio())?;
        match first {
            Some(_) if Duration::from_micros(self.doubt.into()) > audio / DOUBT_SHARE => {
                Err(Unknown::SlowCaller)
            }
            Some(first) if self.last > first => {
                Ok(Duration::from_nanos(self.last - first).div_duration_f64(audio))
            }
            _ => Err(Unknown::NotStreamed),
        }
    }

    /// When playback used up all the audio heard so far, if that was before `at`.
    fn dry_since(&self, at: u64) -> Option<u64> {
        let first = self.first.filter(|_| self.clock.streamed())?;
        let played = self.client_buffer.saturating_add(self.stood).saturating_add(nanos(self.clock.audio()));
        Some(first.saturating_add(played)).filter(|dry| at > *dry)
    }

    /// Nanoseconds since arrival; never before the last byte, whatever the clock does.
    fn since_arrival(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.arrived)).max(self.last)
    }
}

/// In 64 bits: 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
