//! Decides what text that comes apart from its request changes: from when TTFB counts, and over which stretch of the
//! sound RTF and underrun do. Reads no audio; instants are nanoseconds since arrival.

use std::time::Duration;

use crate::audio::Unknown;

/// Less audio than this after the last text makes no RTF.
const STRETCH_MIN: Duration = Duration::from_millis(500);

/// What is remembered of the text.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamedText {
    /// There is any.
    any: bool,
    /// Some came after the first audio byte.
    prolonged: bool,
    awaited: bool,
    underrun: bool,
    /// Nobody knows whether there was one.
    doubtful: bool,
    spoken: u64,
    /// The audio that was there when the last of it came, in nanoseconds.
    before: u64,
    /// First audio byte after the last of it.
    resumed: u64,
}

impl StreamedText {
    /// Some came at `at`, when so much audio was `sounding`: `None` before the first audio byte.
    pub(super) fn came(&mut self, at: u64, sounding: Option<u64>) {
        if let Some(audio) = sounding {
            (self.prolonged, self.awaited) = (true, true);
            (self.underrun, self.doubtful) = (false, false);
            self.before = audio;
        } else if !self.any {
            self.spoken = at;
        }
        self.any = true;
    }

    /// A chunk came at `at`, and made the audio so long.
    pub(super) fn heard(&mut self, at: u64, audio: u64) {
        if self.awaited && audio > self.before {
            (self.awaited, self.resumed) = (false, at);
        }
    }

    /// Playback ran dry: an underrun, unless no audio has come since the last text. The engine may have been waiting
    /// for words.
    pub(super) fn ran_dry(&mut self) {
        self.underrun |= !self.awaited;
    }

    /// Playback ran dry, unless what came next had been there for some time.
    pub(super) fn may_have_run_dry(&mut self) {
        self.doubtful |= !self.awaited;
    }

    /// Whether the last text came after other audio, and nothing has been heard of it yet.
    pub(super) const fn awaited(&self) -> bool {
        self.awaited
    }

    /// Whether playback ran dry after the last text; `None` where nobody knows.
    pub(super) fn underrun(&self) -> Option<bool> {
        Some(self.underrun).filter(|underrun| *underrun || !self.doubtful)
    }

    /// When the first text came; 0 where it came with the request.
    pub(super) const fn spoken(&self) -> u64 {
        self.spoken
    }

    /// What an RTF counts over: from when, and how much audio. That is all of it, from the `first` byte on, unless
    /// text came after that.
    pub(super) fn stretch(
        &self,
        first: Option<u64>,
        audio: Duration,
    ) -> Result<(Option<u64>, Duration), Unknown> {
        if !self.prolonged {
            return Ok((first, audio));
        }
        let audio = audio.saturating_sub(Duration::from_nanos(self.before));
        if audio < STRETCH_MIN { Err(Unknown::StreamedInput) } else { Ok((Some(self.resumed), audio)) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::tests::{BYTES_PER_MS, meter, ms, pcm, start};
    use super::super::{Outcome, Unknown};

    #[test]
    fn ttfb_of_streamed_text_counts_from_the_first_of_it_and_not_before_dispatch() {
        let start = start();
        for (text, ttfb, upstream) in [(50, 300, 250), (250, 100, 100)] {
            let mut meter = meter(start, pcm(), Duration::ZERO);
            meter.text(start + ms(text));
            meter.text(start + ms(text + 10));
            meter.heard(start + ms(350), &[0; 480]);
            assert_eq!(meter.upstream_ttfb(), Some(ms(upstream)));
            let measured = meter.end(start + ms(400), Outcome::Ok);
            assert_eq!((measured.ttfb, measured.upstream_ttfb), (Some(ms(ttfb)), Some(ms(upstream))));
        }
    }

    #[test]
    fn rtf_and_underrun_count_only_after_the_last_text_and_never_blame_the_engine_for_a_slow_writer() {
        let start = start();
        let mut meter = meter(start, pcm(), Duration::ZERO);
        meter.heard(start + ms(200), &[0; 100 * BYTES_PER_MS]);
        // The writer thinks for five seconds; playback has run dry long before.
        meter.text(start + ms(5_200));
        meter.heard(start + ms(5_500), &[0; 500 * BYTES_PER_MS]);
        meter.heard(start + ms(5_750), &[0; 500 * BYTES_PER_MS]);
        let measured = meter.end(start + ms(5_760), Outcome::Ok);
        assert_eq!((measured.rtf, measured.underrun), (Ok(0.25), Some(false)));
        assert_eq!(measured.audio, ms(1_100));
    }

    #[test]
    fn playback_that_stood_still_for_want_of_words_can_run_dry_after_them() {
        let start = start();
        for (gap, underrun) in [(500, false), (501, true)] {
            let mut meter = meter(start, pcm(), Duration::ZERO);
            meter.heard(start + ms(200), &[0; 100 * BYTES_PER_MS]);
            meter.text(start + ms(5_200));
            meter.heard(start + ms(5_500), &[0; 500 * BYTES_PER_MS]);
            meter.heard(start + ms(5_500 + gap), &[0; 500 * BYTES_PER_MS]);
            assert_eq!(meter.end(start + ms(6_100), Outcome::Ok).underrun, Some(underrun), "{gap}");
        }
    }

    #[test]
    fn less_than_half_a_second_after_the_last_text_makes_no_rtf() {
        let start = start();
        for (left, rtf) in
            [(0, Err(Unknown::StreamedInput)), (499, Err(Unknown::StreamedInput)), (500, Ok(0.2))]
        {
            let mut meter = meter(start, pcm(), Duration::ZERO);
            meter.heard(start + ms(200), &[0; 2_000 * BYTES_PER_MS]);
            meter.text(start + ms(300));
            if left > 0 {
                meter.heard(start + ms(400), &[0; 100 * BYTES_PER_MS]);
                meter.heard(start + ms(500), &vec![0; (left - 100) * BYTES_PER_MS]);
            }
            assert_eq!(meter.end(start + ms(600), Outcome::Ok).rtf, rtf, "{left}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_writer_does_before_his_last_text_the_figures_are_those_of_what_follows(
            // What the engine is heard to do before the last text, and whether a text comes with it.
            before in prop::collection::vec((0_u64..300, 1_usize..100, any::<bool>()), 1..20),
            after in prop::collection::vec((0_u64..60, 100_usize..200), 5..20),
            pause in 10_000_u64..20_000,
        ) {
            let start = start();
            let mut streamed = meter(start, pcm(), Duration::ZERO);
            let mut alone = meter(start, pcm(), Duration::ZERO);
            let mut at = ms(200);
            for (gap, length, text) in before {
                at += ms(gap);
                if text {
                    streamed.text(start + at);
                }
                streamed.heard(start + at, &vec![0; length * BYTES_PER_MS]);
            }
            at += ms(pause);
            streamed.text(start + at);
            for (gap, length) in after {
                at += ms(gap);
                let chunk = vec![0; length * BYTES_PER_MS];
                streamed.heard(start + at, &chunk);
                alone.heard(start + at, &chunk);
            }
            let (streamed, alone) = (streamed.end(start + at, Outcome::Ok), alone.end(start + at, Outcome::Ok));
            prop_assert_eq!((streamed.rtf, streamed.underrun), (alone.rtf, alone.underrun));
        }
    }
}
