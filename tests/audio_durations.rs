//! Real files, made by the tools people use, and the duration those tools tell: every way of splitting a file
//! gives the same figure at every byte, and the figure is the tool's, to the sample.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use rime_gate::audio::{AudioClock, Format, Hint, Unknown};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

/// An answer's body, how it is announced, and the audio it holds by the account of the tool that made or read it.
#[derive(Debug)]
struct Sample {
    name: String,
    content_type: String,
    hint: Hint,
    format: Format,
    bytes: Vec<u8>,
    /// Samples and their rate.
    expected: (u64, u32),
}

/// What a clock tells.
type State = (Duration, bool, Option<Unknown>);

impl Sample {
    fn new(name: &str, content_type: &str, format: Format, bytes: Vec<u8>, expected: (u64, u32)) -> Self {
        let (name, content_type) = (name.to_owned(), content_type.to_owned());
        Self { name, content_type, hint: Hint::default(), format, bytes, expected }
    }

    fn clock(&self) -> AudioClock {
        AudioClock::for_answer(Some(&self.content_type), None, self.hint)
    }
}

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

/// Runs a tool and returns what it printed.
fn tool(name: &str, arguments: &[&str], stdin: &[u8]) -> Vec<u8> {
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run {name} ({error}): install sox libsox-fmt-all ffmpeg lame opus-tools (Debian)")
        });
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // On a thread of its own: the tool may print before it has read everything.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?} failed: {errors}");
    output.stdout
}

fn number(printed: &[u8]) -> u64 {
    String::from_utf8_lossy(printed).trim().trim_end_matches(',').parse().unwrap()
}

/// Something like speech in level changes, so that variable bit rates vary.
fn synth(dir: &Path, rate: u32, channels: u32, seconds: &str) -> PathBuf {
    let path = dir.join(format!("{rate}-{channels}-{seconds}.wav"));
    let (rate, channels) = (rate.to_string(), channels.to_string());
    let out = path.to_str().unwrap();
    let mut arguments = vec!["-R", "-n", "-r", &rate, "-b", "16", "-c", &channels, out];
    arguments.extend(["synth", seconds, "sine", "200-3000", "tremolo", "7", "90"]);
    tool("sox", &arguments, &[]);
    path
}

/// Sample frames by `soxi`.
fn soxi(path: &Path) -> u64 {
    number(&tool("soxi", &["-s", path.to_str().unwrap()], &[]))
}

/// Frames of an MP3 by `ffprobe`, which leaves out tags as well.
fn ffprobe_frames(mp3: &[u8]) -> u64 {
    let arguments = "-v error -count_packets -show_entries stream=nb_read_packets -of csv=p=0 -i pipe:0";
    number(&tool("ffprobe", &arguments.split(' ').collect::<Vec<_>>(), mp3))
}

/// Samples of an Opus file at 48 kHz, decoded by `ffmpeg`.
fn ffmpeg_samples(opus: &[u8]) -> u64 {
    let arguments = "-v error -i pipe:0 -f s16le -ac 1 -ar 48000 pipe:1";
    tool("ffmpeg", &arguments.split(' ').collect::<Vec<_>>(), opus).len() as u64 / 2
}

fn ffmpeg(input: &Path, arguments: &str) -> Vec<u8> {
    let mut all = vec!["-v", "error", "-i", input.to_str().unwrap()];
    all.extend(arguments.split(' '));
    all.push("pipe:1");
    tool("ffmpeg", &all, &[])
}

fn wavs(dir: &Path) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |name: String, bytes, count, rate| {
        samples.push(Sample::new(&name, "audio/wav", Format::Wav, bytes, (count, rate)));
    };
    for rate in [8_000, 16_000, 22_050, 24_000, 44_100, 48_000] {
        let source = synth(dir, rate, 1, "0.0331");
        let count = soxi(&source);
        add(format!("wav {rate} exact"), std::fs::read(&source).unwrap(), count, rate);
        // A pipe cannot be rewound: ffmpeg leaves 0xFFFFFFFF, and writes a LIST chunk first.
        add(format!("wav {rate} streamed"), ffmpeg(&source, "-f wav"), count, rate);
    }
    let source = synth(dir, 24_000, 1, "0.0331");
    let count = soxi(&source);
    for codec in ["pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_mulaw", "pcm_alaw"] {
        add(format!("wav {codec}"), ffmpeg(&source, &format!("-c:a {codec} -f wav")), count, 24_000);
    }
    add("wav rf64".into(), ffmpeg(&source, "-rf64 always -f wav"), count, 24_000);
    let stereo = synth(dir, 24_000, 2, "0.0331");
    add("wav stereo".into(), ffmpeg(&stereo, "-f wav"), soxi(&stereo), 24_000);
    // An odd number of data bytes is padded, and a chunk may follow the data.
    let out = dir.join("tail.wav");
    let arguments = "-af atrim=end_sample=501 -c:a pcm_u8 -y";
    let mut all = vec!["-v", "error", "-i", source.to_str().unwrap()];
    all.extend(arguments.split(' '));
    all.push(out.to_str().unwrap());
    tool("ffmpeg", &all, &[]);
    let mut bytes = std::fs::read(&out).unwrap();
    assert_eq!(bytes.len() % 2, 0, "the odd data chunk is padded");
    bytes.extend(b"LIST\x04\0\0\0INFO");
    add("wav odd with a chunk after".into(), bytes, 501, 24_000);
    samples
}

fn headerless(dir: &Path) -> Vec<Sample> {
    let mut samples = Vec::new();
    for rate in [8_000_u32, 16_000, 22_050, 24_000, 44_100] {
        let source = synth(dir, rate, 1, "0.0331");
        let count = soxi(&source);
        let pcm = ffmpeg(&source, "-f s16le");
        samples.push(Sample::new(
            &format!("pcm {rate}"),
            &format!("audio/L16;rate={rate};channels=1"),
            Format::Pcm,
            pcm.clone(),
            (count, rate),
        ));
        let asked = Hint { rate: Some(rate), ..Hint::default() };
        let mulaw = ffmpeg(&source, "-f mulaw");
        let sample = Sample::new("mulaw", "audio/x-mulaw", Format::Mulaw, mulaw, (count, rate));
        samples.push(Sample { hint: asked, ..sample });
        let sample = Sample::new("sse", "text/event-stream", Format::Sse, sse(&pcm), (count, rate));
        samples.push(Sample { hint: asked, ..sample });
        let hint = Hint { format: Some(Format::Pcm), ..asked };
        let body = format!(r#"{{"audioContent":"{}"}}"#, STANDARD.encode(&pcm)).into_bytes();
        let sample = Sample::new("json pcm", "application/json", Format::Json, body, (count, rate));
        samples.push(Sample { hint, ..sample });
    }
    samples
}

/// Mist v2's stream: chunks of uneven size, then timestamps and the end.
fn sse(pcm: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, chunk) in pcm.chunks(641).enumerate() {
        let data = STANDARD.encode(chunk);
        let end = if index % 2 == 0 { "\n" } else { "\r\n" };
        write!(body, "event: chunk{end}data: {{\"data\":\"{data}\"}}{end}{end}").unwrap();
    }
    let timestamps = r#"{"word_timestamps":{"words":["a\"data"],"start":[0.1]},"data":"AAAA"}"#;
    write!(body, "event: timestamps\r\ndata: {timestamps}\r\n\r\nevent: done\ndata: {{\"done\":true}}\n\n")
        .unwrap();
    body
}

fn mp3s(dir: &Path) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>, rate: u32| {
        let frames = ffprobe_frames(&bytes);
        assert!(frames > 0, "{name}");
        let per_frame = if rate >= 32_000 { 1152 } else { 576 };
        samples.push(Sample::new(&name, "audio/mpeg", Format::Mp3, bytes, (frames * per_frame, rate)));
    };
    // MPEG-2.5, MPEG-2 and MPEG-1.
    for rate in [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000] {
        let source = synth(dir, rate, 1, "0.21");
        let khz = (f64::from(rate) / 1000.0).to_string();
        let variants = if matches!(rate, 24_000 | 44_100) { 8 } else { 2 };
        let all = [
            ("cbr no tag", "-b 32 -t"),
            ("vbr", "-V 6"),
            ("cbr", "-b 32"),
            ("vbr no tag", "-V 6 -t"),
            ("abr", "--abr 40"),
            ("id3", "-b 24 --add-id3v2 --pad-id3v2 --tt title"),
            ("id3 both", "-b 32 -t --id3v2-only --tt title --ta artist"),
            ("crc", "-b 32 -p -t"),
        ];
        for (name, options) in &all[..variants] {
            let mut arguments = vec!["--quiet", "--resample", &khz];
            arguments.extend(options.split(' '));
            arguments.extend([source.to_str().unwrap(), "-"]);
            add(format!("mp3 {rate} {name}"), tool("lame", &arguments, &[]), rate);
        }
        add(format!("mp3 {rate} piped"), ffmpeg(&source, "-c:a libmp3lame -b:a 32k -f mp3"), rate);
    }
    let stereo = synth(dir, 44_100, 2, "0.21");
    add("mp3 stereo".into(), ffmpeg(&stereo, "-c:a libmp3lame -b:a 64k -f mp3"), 44_100);
    samples
}

fn opus(dir: &Path) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |name: String, content_type: &str, format, bytes: Vec<u8>| {
        let expected = (ffmpeg_samples(&bytes), 48_000);
        assert!(expected.0 > 0, "{name}");
        samples.push(Sample::new(&name, content_type, format, bytes, expected));
    };
    for (rate, channels, frames) in
        [(16_000, 1, &["20"][..]), (24_000, 1, &["2.5", "5", "10", "20", "40", "60"]), (48_000, 2, &["20"])]
    {
        let source = synth(dir, rate, channels, "0.33");
        let path = source.to_str().unwrap();
        for frame in frames {
            let arguments =
                ["--quiet", "--bitrate", "24", "--framesize", frame, "--max-delay", "100", path, "-"];
            let bytes = tool("opusenc", &arguments, &[]);
            add(format!("opusenc {rate} {frame}"), "audio/ogg;codecs=opus", Format::OggOpus, bytes);
            let encode = format!("-c:a libopus -b:a 24k -frame_duration {frame}");
            let bytes = ffmpeg(&source, &format!("{encode} -f ogg"));
            add(format!("ffmpeg ogg {rate} {frame}"), "audio/opus", Format::OggOpus, bytes);
            let bytes = ffmpeg(&source, &format!("{encode} -f webm"));
            add(format!("webm {rate} {frame}"), "audio/webm;codecs=opus", Format::WebmOpus, bytes);
            let bytes = ffmpeg(&source, &format!("{encode} -live 1 -cluster_time_limit 100 -f webm"));
            add(format!("webm live {rate} {frame}"), "audio/webm", Format::WebmOpus, bytes);
        }
    }
    samples
}

/// A JSON envelope around each of a few samples, in both of Rime's shapes.
fn envelopes(inner: &[&Sample]) -> Vec<Sample> {
    let wrap = |sample: &&Sample| {
        let data = STANDARD.encode(&sample.bytes);
        let shapes = [
            format!(r#"{{"audioContent":"{data}"}}"#),
            format!(
                r#"{{"took": [0.2, {{"audioContent":"AA"}}], "audioContent": {{"model_output": "{data}", "n": 1}} }}"#
            ),
            format!(r#"{{"audioContent":"{}"}}"#, data.replace('/', "\\/").replace('+', "\\u002b")),
        ];
        let name = format!("json of {}", sample.name);
        shapes.map(|body| {
            Sample::new(&name, "application/json", Format::Json, body.into_bytes(), sample.expected)
        })
    };
    inner.iter().flat_map(wrap).collect()
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let mut samples = wavs(dir.path());
    samples.extend(headerless(dir.path()));
    samples.extend(mp3s(dir.path()));
    samples.extend(opus(dir.path()));
    let one_of_each: Vec<_> = [Format::Wav, Format::Mp3, Format::OggOpus, Format::WebmOpus]
        .map(|format| samples.iter().rfind(|sample| sample.format == format).unwrap())
        .to_vec();
    let envelopes = envelopes(&one_of_each);
    samples.extend(envelopes);
    samples
});

fn expected(sample: &Sample) -> Duration {
    let (samples, rate) = sample.expected;
    Duration::from_nanos(samples * 1_000_000_000 / u64::from(rate))
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
