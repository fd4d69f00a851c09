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
//! Where text is streamed in, the engine may have to wait for words. TTFB counts from the first of them. When text
//! still comes after the first audio byte, RTF and underrun count only over what sounds after the last of it, and
//! an RTF takes half a second of that: see [`Meter::text`].

use crate::audio::{AudioClock, Format, Unknown};
use std::time::{Duration, Instant};

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
    queue_wait: u64,
    dispatched: u64,
    /// First audio byte.
    first: Option<u64>,
    /// Last byte of any kind.
    last: u64,
    client_buffer: u64,
    bytes: u64,
    ran_dry: bool,
    /// Of streamed text only.
    texted: bool,
    /// Text came after the first audio byte.
    prolonged: bool,
    /// No audio has come since the last text.
    awaiting: bool,
    /// The first text; 0 where it came with the request.
    spoken: u64,
    /// For how long playback has stood still, all in all.
    stood: u64,
    /// The audio that was there when the last text came, in nanoseconds.
    before: u64,
    /// First audio byte after the last text.
    resumed: u64,
    clock: AudioClock,
}

/// Less audio than this after the last text makes no RTF.
const STRETCH_MIN: Duration = Duration::from_millis(500);

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
    pub fn new(
        arrived: Instant,
        dispatched: Instant,
        queue_wait: Duration,
        clock: AudioClock,
        client_buffer: Duration,
    ) -> Self {
        Self {
            arrived,
            queue_wait: nanos(queue_wait),
            dispatched: nanos(dispatched.saturating_duration_since(arrived)),
            first: None,
            last: 0,
            client_buffer: nanos(client_buffer),
            bytes: 0,
            ran_dry: false,
            texted: false,
            prolonged: false,
            awaiting: false,
            spoken: 0,
            stood: 0,
            before: 0,
            resumed: 0,
            clock,
        }
    }

    /// Takes a chunk that arrived from the engine at `now`.
    ///
    /// Returns the gap since the chunk before, from the second chunk with audio on.
    pub fn heard(&mut self, now: Instant, bytes: &[u8]) -> Option<Duration> {
        self.heard_as(now, bytes.len() as u64, |clock| clock.feed(bytes))
    }

    /// Takes a chunk of `length` bytes that arrived from the engine at `now`, and that `feed` shows to the clock:
    /// for what is not one slice of plain bytes on the wire.
    ///
    /// Returns the gap since the chunk before, from the second chunk with audio on.
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
        let gap = self.first.map(|_| Duration::from_nanos(at - self.last));
        if let Some(dry) = self.dry_since(at) {
            self.ran_dry |= !self.awaiting;
            self.stood += at - dry;
        }
        self.last = at;
        self.bytes += length;
        feed(&mut self.clock);
        if self.first.is_none() && self.clock.started() {
            self.first = Some(at);
        }
        if self.awaiting && nanos(self.clock.audio()) > self.before {
            (self.awaiting, self.resumed) = (false, at);
        }
        gap
    }

    /// Takes note that text which can be spoken reached the engine at `now`, apart from what came with the request.
    ///
    /// The first one starts TTFB. One that comes after the first audio byte begins RTF and underrun anew, at the
    /// audio that follows: before it the engine may have been waiting for words.
    pub fn text(&mut self, now: Instant) {
        let at = self.since_arrival(now);
        if self.first.is_some() {
            self.before = nanos(self.clock.audio());
            (self.prolonged, self.awaiting, self.ran_dry) = (true, true, false);
        } else if !self.texted {
            self.spoken = at;
        }
        self.texted = true;
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
        if matches!(outcome, Outcome::EngineError | Outcome::EngineTimeout | Outcome::Truncated) {
            self.ran_dry |= !self.awaiting && self.dry_since(ended).is_some();
        }
        let after = |start: u64| self.first.map(|first| Duration::from_nanos(first.saturating_sub(start)));
        Measured {
            outcome,
            format: self.clock.format(),
            queue_wait: Duration::from_nanos(self.queue_wait),
            ttfb: after(self.spoken),
            upstream_ttfb: after(self.dispatched.max(self.spoken)),
            rtf: self.rtf(outcome),
            audio: self.clock.audio(),
            bytes: self.bytes,
            underrun: self.clock.unknown().is_none().then_some(self.ran_dry),
            duration: Duration::from_nanos(ended),
        }
    }

    /// Dispatch to the first audio byte; `None` while none has come.
    #[must_use]
    pub fn upstream_ttfb(&self) -> Option<Duration> {
        let from = self.dispatched.max(self.spoken);
        self.first.map(|first| Duration::from_nanos(first.saturating_sub(from)))
    }

    /// The audio clock, for whoever needs more than the figures.
    #[must_use]
    pub const fn clock(&self) -> &AudioClock {
        &self.clock
    }

    fn rtf(&self, outcome: Outcome) -> Result<f64, Unknown> {
        if outcome != Outcome::Ok {
            return Err(Unknown::Incomplete);
        }
        if let Some(why) = self.clock.unknown() {
            return Err(why);
        }
        let (first, audio) = if self.prolonged {
            let audio = self.clock.audio().saturating_sub(Duration::from_nanos(self.before));
            if audio < STRETCH_MIN {
                return Err(Unknown::StreamedInput);
            }
            (Some(self.resumed), audio)
        } else {
            (self.first, self.clock.audio())
        };
        match first {
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

#[cfg(test)]
mod streamed_text;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Hint;
    use proptest::prelude::*;

    /// 24 kHz, 16 bit: 48 bytes a millisecond.
    pub(super) const BYTES_PER_MS: usize = 48;

    pub(super) fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    pub(super) fn pcm() -> AudioClock {
        AudioClock::for_answer(Some("audio/L16;rate=24000"), None, Hint::default())
    }

    /// A meter whose request arrived at `start` and waited 100 ms.
    pub(super) fn meter(start: Instant, clock: AudioClock, client_buffer: Duration) -> Meter {
        Meter::new(start, start + ms(100), ms(100), clock, client_buffer)
    }

    pub(super) fn start() -> Instant {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        Instant::now()
    }

    #[test]
    fn ttfb_counts_the_wait_and_upstream_ttfb_does_not() {
        let start = start();
        let mut meter = meter(start, pcm(), Duration::ZERO);
        meter.heard(start + ms(350), &[0; 480]);
        let measured = meter.end(start + ms(400), Outcome::Ok);
        assert_eq!(measured.ttfb, Some(ms(350)));
        assert_eq!(measured.upstream_ttfb, Some(ms(250)));
        assert_eq!((measured.queue_wait, measured.duration), (ms(100), ms(400)));
    }

    #[test]
    fn a_wav_header_sent_ahead_starts_neither_ttfb_nor_playback() {
        let start = start();
        let clock = AudioClock::for_answer(Some("audio/wav"), None, Hint::default());
        let mut meter = meter(start, clock, Duration::ZERO);
        let header = wav_header();
        assert_eq!(meter.heard(start + ms(150), &header), None);
        assert_eq!(meter.heard(start + ms(400), &[0; 500 * BYTES_PER_MS]), None);
        assert_eq!(meter.heard(start + ms(650), &[0; 500 * BYTES_PER_MS]), Some(ms(250)));
        let measured = meter.end(start + ms(660), Outcome::Ok);
        assert_eq!(measured.ttfb, Some(ms(400)));
        assert_eq!((measured.rtf, measured.underrun), (Ok(0.25), Some(false)));
        assert_eq!((measured.audio, measured.bytes), (ms(1000), 44 + 48_000));
    }

    #[test]
    fn a_chunk_after_the_buffer_ran_dry_is_an_underrun_and_a_client_buffer_forgives_it() {
        let start = start();
        for (client_buffer, underrun) in [(ms(0), true), (ms(49), true), (ms(50), false)] {
            let mut meter = meter(start, pcm(), client_buffer);
            meter.heard(start + ms(200), &[0; 100 * BYTES_PER_MS]);
            meter.heard(start + ms(350), &[0; 100 * BYTES_PER_MS]);
            assert_eq!(meter.end(start + ms(350), Outcome::Ok).underrun, Some(underrun));
        }
    }

    #[test]
    fn an_envelope_is_heard_when_it_is_complete_and_has_no_rtf() {
        let start = start();
        let hint = Hint { format: Some(Format::Pcm), ..Hint::default() };
        let mut meter = meter(start, AudioClock::for_answer(Some("application/json"), None, hint), ms(0));
        meter.heard(start + ms(200), br#"{"audioContent":"AAAA"#);
        meter.heard(start + ms(900), br#"AAAA"}"#);
        let measured = meter.end(start + ms(901), Outcome::Ok);
        assert_eq!(measured.ttfb, Some(ms(900)));
        assert_eq!((measured.rtf, measured.underrun), (Err(Unknown::NotStreamed), Some(false)));
        assert_eq!(measured.audio, Duration::from_nanos(3 * 1_000_000_000 / 24_000));
    }

    #[test]
    fn only_a_complete_synthesis_has_an_rtf() {
        let start = start();
        for outcome in Outcome::ALL {
            let mut meter = meter(start, pcm(), Duration::ZERO);
            meter.heard(start + ms(200), &[0; 100 * BYTES_PER_MS]);
            meter.heard(start + ms(250), &[0; 100 * BYTES_PER_MS]);
            let rtf = meter.end(start + ms(250), outcome).rtf;
            assert_eq!(rtf, if outcome == Outcome::Ok { Ok(0.25) } else { Err(Unknown::Incomplete) });
        }
    }

    #[test]
    fn silence_before_the_engine_failed_is_an_underrun_and_a_caller_who_left_is_not() {
        let start = start();
        for outcome in Outcome::ALL {
            let mut meter = meter(start, pcm(), Duration::ZERO);
            meter.heard(start + ms(200), &[0; 100 * BYTES_PER_MS]);
            let engine =
                matches!(outcome, Outcome::EngineError | Outcome::EngineTimeout | Outcome::Truncated);
            assert_eq!(meter.end(start + ms(5_000), outcome).underrun, Some(engine), "{outcome:?}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_still_has_a_ttfb() {
        let start = start();
        let mut meter =
            meter(start, AudioClock::for_answer(Some("text/plain"), None, Hint::default()), ms(0));
        meter.heard(start + ms(300), b"hello");
        meter.heard(start + ms(400), b"hello");
        let measured = meter.end(start + ms(400), Outcome::Ok);
        assert_eq!(measured.ttfb, Some(ms(300)));
        assert_eq!((measured.rtf, measured.underrun), (Err(Unknown::ContentType), None));
    }

    #[test]
    fn every_outcome_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<_> = Outcome::ALL.iter().map(|o| o.label()).collect();
        assert_eq!(labels.len(), Outcome::ALL.len());
    }

    /// `armchair` 0.4.0, `compute_buffer_underrun` in `src/main.rs`, without its client buffer and header.
    fn armchair_underrun(chunks: &[(Duration, usize)], bytes_per_second: f64) -> bool {
        let (mut playing, mut before, mut buffer) = (false, Duration::ZERO, 0.0);
        for (at, size) in chunks.iter().copied() {
            if playing {
                let consumed = at.saturating_sub(before).as_secs_f64() * bytes_per_second;
                if consumed > buffer + 1e-9 {
                    return true;
                }
                buffer -= consumed;
            }
            playing = true;
            before = at;
            buffer += size as f64;
        }
        false
    }

    proptest! {
        #[test]
        fn underrun_and_rtf_are_those_of_armchair(
            // Gap before a chunk and audio in it, in milliseconds: dry and not dry are both common.
            chunks in prop::collection::vec((0_u64..60, 1_usize..100), 1..40)
        ) {
            let start = start();
            let mut meter = meter(start, pcm(), Duration::ZERO);
            let (mut at, mut events, mut audio) = (ms(200), Vec::new(), Duration::ZERO);
            for (gap, length) in chunks {
                at += ms(gap);
                events.push((at, length * BYTES_PER_MS));
                audio += ms(length as u64);
                meter.heard(start + at, &vec![0; length * BYTES_PER_MS]);
            }
            let measured = meter.end(start + at, Outcome::Ok);
            prop_assert_eq!(measured.underrun, Some(armchair_underrun(&events, 48_000.0)));
            prop_assert_eq!(measured.audio, audio);
            // (elapsed - ttfb) / audio_duration, dropped where nothing passed between first and last.
            let streaming = at - events[0].0;
            let rtf = (!streaming.is_zero()).then(|| streaming.as_secs_f64() / audio.as_secs_f64());
            match rtf {
                Some(rtf) => prop_assert!((measured.rtf.unwrap() - rtf).abs() < 1e-12),
                None => prop_assert_eq!(measured.rtf, Err(Unknown::NotStreamed)),
            }
        }
    }

    fn wav_header() -> Vec<u8> {
        let mut header = b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        header.extend(24_000_u32.to_le_bytes());
        header.extend(48_000_u32.to_le_bytes());
        header.extend(b"\x02\0\x10\0data\xFF\xFF\xFF\xFF");
        header
    }
}
