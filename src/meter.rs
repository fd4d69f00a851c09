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
//! A chunk's time is when it could be read. Where its caller was not there to take it, it may have come earlier: TTFB, gap
//! and underrun are told as if it had come at the first moment that it may have, and where so much of the time is in doubt
//! that the RTF is too, it is unknown but for its bounds.
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
    /// For how many microseconds nobody has been there to take the next chunk.
    held: u32,
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
    /// The least and the greatest that an RTF may be which is unknown for a slow caller.
    pub rtf_between: Option<(f64, f64)>,
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
            rtf_between: None,
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
            held: 0,
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
        let held = std::mem::take(&mut self.held);
        if length == 0 {
            return None;
        }
        let at = self.since_arrival(now);
        let held = (u64::from(held) * 1_000).min(at - self.last);
        // The first moment at which it may have come.
        let came = if held < nanos(HELD_UP_MIN) { at } else { at - held };
        let gap = self.first.map(|_| Duration::from_nanos(came - self.last));
        let gap = gap.filter(|gap| came == at || !gap.is_zero());
        if let Some(dry) = self.dry_since(at) {
            match self.dry_since(came) {
                Some(_) => self.text.ran_dry(),
                None => self.text.may_have_run_dry(),
            }
            self.stood += at - dry;
        }
        self.doubt = self.doubt.saturating_add(micros(Duration::from_nanos(at - came)));
        self.last = at;
        self.bytes += length;
        feed(&mut self.clock);
        if self.first.is_none() && self.clock.started() {
            self.first = Some(came);
        }
        if self.text.awaited() {
            self.text.heard(at, nanos(self.clock.audio()));
        }
        gap
    }

    /// Takes note that for so long nobody has been there to take the next chunk: it may have come meanwhile.
    pub fn held_up(&mut self, held: Duration) {
        self.held = micros(held);
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
        let (rtf, rtf_between) = self.rtf(outcome, unknown);
        Measured {
            outcome,
            format: self.clock.format(),
            queue_wait: Duration::from_nanos(self.queue_wait),
            ttfb: after(self.text.spoken()),
            upstream_ttfb: after(self.queue_wait.max(self.text.spoken())),
            rtf,
            rtf_between,
            audio: self.clock.audio(),
            bytes: self.bytes,
            underrun: self.text.underrun().filter(|_| unknown.is_none()),
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

    /// The RTF, and where it is unknown for a slow caller its bounds.
    fn rtf(&self, outcome: Outcome, unknown: Option<Unknown>) -> (Result<f64, Unknown>, Option<(f64, f64)>) {
        if outcome != Outcome::Ok {
            return (Err(Unknown::Incomplete), None);
        }
        if let Some(why) = unknown {
            return (Err(why), None);
        }
        match self.text.stretch(self.first, self.clock.audio()) {
            Ok((Some(first), audio)) if self.last > first => {
                let took = Duration::from_nanos(self.last - first);
                let doubt = Duration::from_micros(self.doubt.into());
                let rtf = took.div_duration_f64(audio);
                if doubt <= audio / DOUBT_SHARE {
                    return (Ok(rtf), None);
                }
                let least = took.saturating_sub(doubt).div_duration_f64(audio);
                (Err(Unknown::SlowCaller), Some((least, rtf)))
            }
            Ok(_) => (Err(Unknown::NotStreamed), None),
            Err(why) => (Err(why), None),
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

/// In 32 bits: 71 minutes, and whatever is longer.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// In 64 bits: 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
