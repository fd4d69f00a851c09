//! Real files, made by the tools people use, and the duration those tools tell: every way of splitting a file
//! gives the same figure at every byte, and the figure is the tool's, to the sample.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use std::time::Duration;

use proptest::prelude::*;
use rime_gate::audio::{AudioClock, Format, Hint, Unknown};

use samples::{SAMPLES, expected};

/// What a clock tells.
type State = (Duration, bool, Option<Unknown>);

fn state(clock: &AudioClock) -> State {
    (clock.audio(), clock.started(), clock.unknown())
}

/// The state after each byte, fed one by one: entry n is the state after n bytes.
fn states(mut clock: AudioClock, bytes: &[u8]) -> Vec<State> {
    let mut states = vec![state(&clock)];
    for byte in bytes {
        clock.feed(std::slice::from_ref(byte));
        states.push(state(&clock));
    }
    states
}

#[test]
fn the_duration_is_the_tools_to_the_sample() {
    let mut wrong = Vec::new();
    for sample in SAMPLES.iter() {
        let mut clock = sample.clock();
        clock.feed(&sample.bytes);
        assert_eq!(clock.format(), sample.format, "{}", sample.name);
        if state(&clock) != (expected(sample), true, None) {
            wrong.push(format!("{}: {:?}, not {:?}", sample.name, state(&clock), expected(sample)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), SAMPLES.len(), wrong.join("\n"));
}

#[test]
fn every_split_in_two_gives_the_same_state_before_and_after() {
    for sample in SAMPLES.iter() {
        let states = states(sample.clock(), &sample.bytes);
        let end = states.last().unwrap();
        let mut before = sample.clock();
        for (cut, expected) in states.iter().enumerate() {
            // The part before the cut, in one piece where that is affordable.
            if cut % 16 == 0 {
                before = sample.clock();
                before.feed(&sample.bytes[..cut]);
            } else {
                before.feed(&sample.bytes[cut - 1..cut]);
            }
            assert_eq!(state(&before), *expected, "{} before byte {cut}", sample.name);
            let mut after = before.clone();
            after.feed(&sample.bytes[cut..]);
            assert_eq!(state(&after), *end, "{} split at byte {cut}", sample.name);
        }
    }
}

#[test]
fn audio_begins_with_its_first_byte_and_only_grows() {
    for sample in SAMPLES.iter() {
        let states = states(sample.clock(), &sample.bytes);
        for pair in states.windows(2) {
            // The last block of WebM takes back the padding that it carries, 120 ms at most.
            let grace = Duration::from_millis(if sample.format == Format::WebmOpus { 120 } else { 0 });
            let json = sample.format == Format::Json;
            assert!(json || pair[1].0 + grace >= pair[0].0, "{}", sample.name);
            assert!(pair[1].1 >= pair[0].1, "{}: started is for ever", sample.name);
            assert!(pair[1].1 || pair[1].0.is_zero(), "{}: no audio before it started", sample.name);
        }
    }
}

#[test]
fn mp3_files_and_ogg_streams_joined_end_to_end_add_up() {
    for format in [Format::Mp3, Format::OggOpus] {
        let all: Vec<_> = SAMPLES.iter().filter(|sample| sample.format == format).collect();
        for pair in all.windows(2) {
            let mut clock = pair[0].clock();
            clock.feed(&pair[0].bytes);
            clock.feed(&pair[1].bytes);
            let both = expected(pair[0]) + expected(pair[1]);
            let apart = clock.audio().abs_diff(both);
            assert!(apart <= Duration::from_nanos(1), "{} + {}: {apart:?}", pair[0].name, pair[1].name);
            assert_eq!(clock.unknown(), None);
        }
    }
}

/// No format here packs more than 120 ms (an empty Opus packet) into a byte.
fn audio_max(bytes: &[u8]) -> Duration {
    Duration::from_millis(120) * u32::try_from(bytes.len()).unwrap()
}

fn check_any_split(
    clock: &AudioClock,
    bytes: &[u8],
    cuts: &[prop::sample::Index],
) -> Result<(), TestCaseError> {
    let states = states(clock.clone(), bytes);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let (mut clock, mut from) = (clock.clone(), 0);
    for cut in cuts {
        clock.feed(&bytes[from..cut]);
        prop_assert_eq!(state(&clock), states[cut]);
        prop_assert!(clock.audio() <= audio_max(&bytes[..cut]));
        from = cut;
    }
    Ok(())
}

const CONTENT_TYPES: [&str; 9] = [
    "audio/wav",
    "audio/L16",
    "audio/PCMU",
    "audio/mpeg",
    "audio/ogg;codecs=opus",
    "audio/webm;codecs=opus",
    "text/event-stream",
    "application/json",
    "text/plain",
];

/// Beginnings that get garbage past the first check of a parser.
const BEGINNINGS: [&[u8]; 9] = [
    b"",
    b"RIFF\xFF\xFF\xFF\xFFWAVE",
    b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x01\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\x10\0",
    b"ID3\x04\0\0\0\0\0\0",
    b"\xFF\xFB\x10\xC4",
    b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\x38\x01\xC0\x5D\0\0\0\0\0",
    b"\x1A\x45\xDF\xA3\x80\x18\x53\x80\x67\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x1F\x43\xB6\x75\xFF",
    b"event: chunk\ndata: {\"data\":\"",
    b"{\"audioContent\":\"",
];

/// Bytes that mean something to the parsers, so that random ones get deep into them.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => any::<u8>(),
        1 => prop::sample::select(&b"\n\r:{}[]\",\\u/AZaz09+=\x00\x01\x02\xA1\xA3\xA0\xFF\xFE\xFB\xF3OgSdata"[..]),
    ];
    let body = prop::collection::vec(byte, 0..600);
    (prop::sample::select(&BEGINNINGS[..]), body).prop_map(|(beginning, body)| [beginning, &body].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn real_files_give_the_same_state_however_they_are_split(
        sample in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let sample = sample.get(&SAMPLES);
        check_any_split(&sample.clock(), &sample.bytes, &cuts)?;
    }

    #[test]
    fn broken_files_neither_panic_nor_count_differently_by_split(
        sample in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let sample = sample.get(&SAMPLES);
        let mut bytes = sample.bytes.clone();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        check_any_split(&sample.clock(), &bytes, &cuts)?;
    }

    #[test]
    fn garbage_neither_panics_nor_counts_differently_by_split(
        content_type in prop::sample::select(&CONTENT_TYPES[..]),
        bytes in garbage(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        check_any_split(&AudioClock::for_answer(Some(content_type), None, Hint::default()), &bytes, &cuts)?;
    }

    #[test]
    fn any_headers_make_a_clock(content_type in "\\PC{0,40}", encoding in prop::option::of("\\PC{0,8}")) {
        let mut clock = AudioClock::for_answer(Some(&content_type), encoding.as_deref(), Hint::default());
        clock.feed(&[0]);
    }
}
