//! What the figures mean, in stories and against `armchair`.

use proptest::prelude::*;

use super::*;
use crate::audio::Hint;

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
    Meter::new(start, ms(100), clock, client_buffer)
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
fn a_caller_who_takes_the_sound_late_is_no_fault_of_the_engine() {
    let start = start();
    // How late the third of four chunks of half a second was taken; what is known then, in hundredths; whether the third
    // and the fourth have a gap.
    for (late, rtf, between, gaps) in [
        (0, Ok(25), None, 3),
        (9, Ok(25), None, 3),
        (100, Ok(30), None, 2),
        (101, Err(Unknown::SlowCaller), Some((25, 30)), 2),
        (5_000, Err(Unknown::SlowCaller), Some((25, 275)), 2),
    ] {
        let mut meter = meter(start, pcm(), Duration::ZERO);
        let mut taken = Vec::new();
        for at in [200, 450, 450 + late, 700 + late] {
            if taken.len() == 2 {
                meter.held_up(Duration::MAX);
            }
            taken.push(meter.heard(start + ms(at), &[0; 500 * BYTES_PER_MS]));
        }
        assert_eq!(taken.iter().flatten().count(), gaps, "{late}");
        let measured = meter.end(start + ms(700 + late), Outcome::Ok);
        #[allow(clippy::cast_possible_truncation)]
        let hundredths = |rtf: f64| (rtf * 100.0) as i64;
        assert_eq!(measured.rtf.map(hundredths), rtf, "{late}");
        let bounds = measured.rtf_between.map(|(least, most)| (hundredths(least), hundredths(most)));
        assert_eq!(bounds, between, "{late}");
        // Of the third nobody knows whether it came before playback ran dry.
        assert_eq!(measured.underrun, (late < 5_000).then_some(false), "{late}");
    }
}

#[test]
fn only_the_time_in_which_nobody_was_there_is_excused() {
    let start = start();
    let mut meter = meter(start, pcm(), Duration::ZERO);
    meter.heard(start + ms(200), &[0; 100 * BYTES_PER_MS]);
    // Taken 1,000 ms later, of which the caller owes 40: the rest is a gap of the engine's, and playback ran dry in it.
    meter.held_up(ms(40));
    assert_eq!(meter.heard(start + ms(1_200), &[0; 900 * BYTES_PER_MS]), Some(ms(960)));
    // An empty piece uses the excuse up, and so does being told that all was read.
    meter.held_up(ms(500));
    meter.heard(start + ms(1_300), &[]);
    meter.held_up(ms(500));
    meter.held_up(Duration::ZERO);
    assert_eq!(meter.heard(start + ms(1_700), &[0; 1_000 * BYTES_PER_MS]), Some(ms(500)));
    let measured = meter.end(start + ms(1_700), Outcome::Ok);
    assert_eq!((measured.rtf, measured.underrun), (Ok(0.75), Some(true)));
}

#[test]
fn a_first_sound_that_waited_for_its_caller_has_the_ttfb_that_the_engine_may_have_had() {
    let start = start();
    let mut meter = meter(start, pcm(), Duration::ZERO);
    meter.held_up(ms(4_000));
    meter.heard(start + ms(4_300), &[0; 480]);
    assert_eq!(meter.upstream_ttfb(), Some(ms(200)));
    assert_eq!(meter.end(start + ms(4_300), Outcome::Ok).ttfb, Some(ms(300)));
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
        let engine = matches!(outcome, Outcome::EngineError | Outcome::EngineTimeout | Outcome::Truncated);
        assert_eq!(meter.end(start + ms(5_000), outcome).underrun, Some(engine), "{outcome:?}");
    }
}

#[test]
fn an_answer_that_cannot_be_read_still_has_a_ttfb() {
    let start = start();
    let mut meter = meter(start, AudioClock::for_answer(Some("text/plain"), None, Hint::default()), ms(0));
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
