//! Samples of every format, made and measured by the tools people use.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rime_gate::audio::{AudioClock, Format, Hint};
use tempfile::TempDir;

/// An answer's body, how it is announced, and the audio it holds by the account of the tool that made or read it.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    content_type: String,
    hint: Hint,
    pub(crate) format: Format,
    pub(crate) bytes: Vec<u8>,
    /// Samples and their rate.
    expected: (u64, u32),
}

impl Sample {
    fn new(name: &str, content_type: &str, format: Format, bytes: Vec<u8>, expected: (u64, u32)) -> Self {
        let (name, content_type) = (name.to_owned(), content_type.to_owned());
        Self { name, content_type, hint: Hint::default(), format, bytes, expected }
    }

    pub(crate) fn clock(&self) -> AudioClock {
        AudioClock::for_answer(Some(&self.content_type), None, self.hint)
    }
}

pub(crate) fn expected(sample: &Sample) -> Duration {
    let (samples, rate) = sample.expected;
    Duration::from_nanos(samples * 1_000_000_000 / u64::from(rate))
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

pub(crate) static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
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
