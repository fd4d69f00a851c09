//! The simulated engine over loopback: what it sends can be played, and what it counts is true.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rime_gate::sim::{self, Counts, Engine, Faults, Profile, Settings, Style};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// 84 characters: 6 seconds.
const TEXT: &str = "A gate counts what it lets in, and what it let in it has to hear until the very end.";
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn settings() -> Settings {
    Settings { profile: Profile::named("test-fast").unwrap(), ..Settings::default() }
}

async fn engine(settings: Settings) -> Engine {
    sim::start(settings).await.unwrap()
}

fn ask(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "engine").body(Full::new(body.into())).unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "engine").body(Full::default()).unwrap()
}

fn say(text: &str) -> Request<Full<Bytes>> {
    ask("/", format!(r#"{{"text":"{text}"}}"#))
}

/// Far longer than any test: hours of speech.
fn say_for_long() -> Request<Full<Bytes>> {
    say(&"a".repeat(1_000_000))
}

/// A caller with a connection of its own. Dropping it hangs up.
struct Caller {
    wire: Wire,
    connection: JoinHandle<()>,
}

enum Wire {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Caller {
    async fn http1(engine: &Engine) -> Self {
        let stream = TcpStream::connect(engine.address()).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self { wire: Wire::Http1(sender), connection }
    }

    async fn http2(engine: &Engine) -> Self {
        let stream = TcpStream::connect(engine.address()).await.unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self { wire: Wire::Http2(sender), connection }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let response = async {
            match &mut self.wire {
                Wire::Http1(sender) => sender.send_request(request).await,
                Wire::Http2(sender) => {
                    let (mut head, body) = request.into_parts();
                    head.headers.remove("host");
                    head.uri = format!("http://engine{}", head.uri).parse().unwrap();
                    sender.send_request(Request::from_parts(head, body)).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, response).await.expect("the engine answers")
    }

    async fn hear(&mut self, request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, Bytes) {
        let response = self.send(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("the body ends").unwrap();
        (head.status, head.headers, body.to_bytes())
    }
}

async fn until(engine: &Engine, holds: impl Fn(&Counts) -> bool) {
    let wait = async {
        while !holds(&engine.counts()) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never so: {:?}", engine.counts());
}

/// What ffmpeg makes of the bytes, in seconds.
fn played(bytes: &[u8], container: &[&str]) -> f64 {
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-v", "fatal"])
        .args(container)
        .args(["-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "48000", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs ffmpeg on the PATH");
    let mut stdin = ffmpeg.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes));
        ffmpeg.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "ffmpeg reads {container:?}");
    assert!(output.stdout.iter().any(|byte| *byte != 0), "there is sound in it");
    output.stdout.len() as f64 / 96_000.0
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

#[tokio::test]
async fn every_format_plays_for_as_long_as_the_text_takes() {
    let engine = engine(settings()).await;
    let mut caller = Caller::http1(&engine).await;
    for rate in ["8000", "16000", "22050", "24000", "44100", "48000"] {
        let raw = |coding| vec!["-f", coding, "-ar", rate, "-ac", "1"];
        let formats = [
            ("audio/wav", "audio/wav", vec!["-f", "wav"], 0.001),
            ("audio/L16", "audio/L16", raw("s16le"), 0.001),
            ("audio/pcm", "audio/L16", raw("s16le"), 0.001),
            ("audio/PCMU", "audio/PCMU", raw("mulaw"), 0.001),
            // A frame is 72 ms at most, and decoders differ in whether they cut the encoder's delay.
            ("audio/mp3", "audio/mpeg", vec!["-f", "mp3"], 0.14),
            ("audio/ogg", "audio/ogg;codecs=opus", vec!["-f", "ogg"], 0.001),
            ("audio/webm", "audio/webm;codecs=opus", vec!["-f", "webm"], 0.021),
        ];
        for (accept, content_type, container, tolerance) in formats {
            let mut request = ask("/", format!(r#"{{"text":"{TEXT}","samplingRate":{rate}}}"#));
            request.headers_mut().insert("accept", accept.parse().unwrap());
            let (status, headers, body) = caller.hear(request).await;
            assert_eq!((status, headers["content-type"].to_str().unwrap()), (StatusCode::OK, content_type));
            let seconds = played(&body, &container);
            assert!((seconds - 6.0).abs() <= tolerance, "{accept} at {rate}: {seconds} s");
        }
    }
}

#[tokio::test]
async fn events_carry_samples_then_timestamps_and_done() {
    let engine = engine(settings()).await;
    let mut request = ask("/v1/rime-tts", format!(r#"{{"text":"{TEXT}","modelId":"mistv2"}}"#));
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    let (_, headers, body) = Caller::http1(&engine).await.hear(request).await;
    assert_eq!(headers["content-type"], "text/event-stream");
    let events: Vec<_> = std::str::from_utf8(&body).unwrap().split_terminator("\n\n").collect();
    let names: Vec<_> = events.iter().map(|event| event.lines().next().unwrap()).collect();
    let (chunks, last) = names.split_at(names.len() - 2);
    assert_eq!(last, ["event: timestamps", "event: done"]);
    assert!(chunks.len() >= 2 && chunks.iter().all(|name| *name == "event: chunk"));
    let samples: usize = events[..chunks.len()]
        .iter()
        .map(|event| {
            let data = event.lines().nth(1).unwrap().strip_prefix("data: ").unwrap();
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            decode(data["data"].as_str().unwrap()).len() / 2
        })
        .sum();
    assert_eq!(samples, 6 * 22_050);
}

#[tokio::test]
async fn the_json_envelope_has_both_shapes() {
    let flat = engine(settings()).await;
    let style = Style { nested_json: true, ..Style::default() };
    let nested = engine(Settings { style, ..settings() }).await;
    let request = || ask("/", format!(r#"{{"text":"{TEXT}","modelId":"mistv2"}}"#));
    let (_, _, body) = Caller::http1(&flat).await.hear(request()).await;
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let sound = decode(json["audioContent"].as_str().unwrap());
    assert!((played(&sound, &["-f", "wav"]) - 6.0).abs() < 0.001);
    let (_, _, body) = Caller::http1(&nested).await.hear(request()).await;
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(decode(json["audioContent"]["model_output"].as_str().unwrap()), sound);
}

#[tokio::test]
async fn wav_is_streamed_without_a_size_unless_asked_to_be_exact() {
    let streamed = engine(settings()).await;
    let style = Style { exact_wav: true, ..Style::default() };
    let exact = engine(Settings { style, ..settings() }).await;
    let (_, headers, body) = Caller::http1(&streamed).await.hear(say(TEXT)).await;
    assert!(!headers.contains_key("content-length"));
    assert_eq!(body[40..44], [0xFF; 4]);
    let (_, headers, body) = Caller::http1(&exact).await.hear(say(TEXT)).await;
    assert_eq!(headers["content-length"], body.len().to_string());
    assert_eq!(body[40..44], 288_000u32.to_le_bytes());
}

#[tokio::test]
async fn every_path_answers_over_both_versions_of_http() {
    let engine = engine(settings()).await;
    for mut caller in [Caller::http1(&engine).await, Caller::http2(&engine).await] {
        for path in ["/", "/invocations", "/v1/rime-tts"] {
            let mut request = ask(path, format!(r#"{{"text":"{TEXT}"}}"#));
            request.headers_mut().insert("x-request-id", "one".parse().unwrap());
            let (status, headers, body) = caller.hear(request).await;
            assert_eq!((status, body.len()), (StatusCode::OK, 44 + 288_000));
            assert_eq!(headers["x-request-id"], "one");
            assert_eq!(headers["endpoint-load-metrics"], "TEXT application_utilization=0.0312");
        }
        for path in ["/livez", "/readyz"] {
            assert_eq!(caller.hear(get(path)).await.2, "ok");
        }
        let health: serde_json::Value = serde_json::from_slice(&caller.hear(get("/health")).await.2).unwrap();
        assert_eq!((&health["apiStatus"], &health["modelReachable"]), (&"ok".into(), &true.into()));
        assert_eq!(caller.hear(get("/elsewhere")).await.0, StatusCode::NOT_FOUND);
        assert_eq!(caller.hear(get("/")).await.0, StatusCode::METHOD_NOT_ALLOWED);
        let (status, headers, body) = caller.hear(ask("/", "{")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain"));
        assert!(body.starts_with(b"invalid JSON"));
    }
}

#[tokio::test]
async fn statusz_is_the_engines_own_count_and_can_be_reset() {
    let engine = engine(settings()).await;
    let mut caller = Caller::http1(&engine).await;
    caller.hear(say(TEXT)).await;
    caller.hear(say(TEXT)).await;
    let read = |body: &Bytes| serde_json::from_slice::<serde_json::Value>(body).unwrap();
    let status = read(&caller.hear(get("/statusz")).await.2);
    let expected = serde_json::json!(
        {"running": 0, "peak": 1, "total": 2, "completed": 2, "cancelled": 0, "failed": 0}
    );
    assert_eq!(status["syntheses"], expected);
    assert_eq!(status["requests"]["/"], 2);
    caller.hear(ask("/statusz/reset", "")).await;
    let status = read(&caller.hear(get("/statusz")).await.2);
    assert_eq!((&status["syntheses"]["peak"], &status["syntheses"]["total"]), (&0.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_up_is_let_go_at_once() {
    let engine = engine(settings()).await;
    let mut one = Caller::http1(&engine).await;
    let mut other = Caller::http2(&engine).await;
    let playing = one.send(say_for_long()).await.unwrap();
    let also_playing = other.send(say_for_long()).await.unwrap();
    assert_eq!(engine.counts().syntheses.running, 2);
    drop((one, playing));
    until(&engine, |counts| counts.syntheses.running == 1).await;
    // On HTTP/2 the stream is reset; the connection lives on.
    drop(also_playing);
    until(&engine, |counts| counts.syntheses.running == 0).await;
    other.hear(say(TEXT)).await;
    let syntheses = engine.counts().syntheses;
    assert_eq!((syntheses.peak, syntheses.cancelled, syntheses.completed), (2, 2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_up_before_the_first_byte_is_let_go_too() {
    // An envelope is sent when all of it is there, which takes minutes.
    let engine = engine(settings()).await;
    for mut caller in [Caller::http1(&engine).await, Caller::http2(&engine).await] {
        let mut request = say_for_long();
        request.headers_mut().insert("accept", "application/json".parse().unwrap());
        let waiting = tokio::spawn(async move { caller.send(request).await.is_ok() });
        until(&engine, |counts| counts.syntheses.running == 1).await;
        waiting.abort();
        until(&engine, |counts| counts.syntheses.running == 0).await;
    }
    assert_eq!(engine.counts().syntheses.cancelled, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_engine_counts_a_cancelled_synthesis_until_it_notices() {
    let late = engine(Settings { cancel_delay: PATIENCE, ..settings() }).await;
    let soon = engine(Settings { cancel_delay: Duration::from_millis(50), ..settings() }).await;
    for engine in [&late, &soon] {
        let mut caller = Caller::http1(engine).await;
        let playing = caller.send(say_for_long()).await.unwrap();
        drop((caller, playing));
        until(engine, |counts| counts.connections.open == 0).await;
    }
    assert_eq!(late.counts().syntheses.running, 1, "it has not noticed yet");
    until(&soon, |counts| counts.syntheses.cancelled == 1 && counts.syntheses.running == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_are_a_peak_of_a_hundred() {
    let engine = engine(settings()).await;
    let mut playing = Vec::new();
    for _ in 0..100 {
        let mut caller = Caller::http1(&engine).await;
        let response = caller.send(say_for_long()).await.unwrap();
        playing.push((caller, response));
    }
    let syntheses = engine.counts().syntheses;
    assert_eq!((syntheses.running, syntheses.peak, syntheses.total), (100, 100, 100));
    playing.truncate(40);
    until(&engine, |counts| counts.syntheses.running == 40).await;
    engine.reset();
    assert_eq!(engine.counts().syntheses.peak, 40);
}

#[tokio::test]
async fn faults_happen_as_ordered() {
    let all = |faults| Settings { faults, ..settings() };
    let error = engine(all(Faults { error_rate: 1.0, ..Faults::default() })).await;
    let (status, headers, body) = Caller::http1(&error).await.hear(say(TEXT)).await;
    assert_eq!((status, body), (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from("inference failed")));
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(error.counts().syntheses.failed, 1);

    let refuse = engine(all(Faults { refuse: Some(429), ..Faults::default() })).await;
    assert_eq!(Caller::http1(&refuse).await.hear(say(TEXT)).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refuse.counts().syntheses.total, 0);

    let cut = engine(all(Faults { cut_rate: 1.0, ..Faults::default() })).await;
    for mut caller in [Caller::http1(&cut).await, Caller::http2(&cut).await] {
        let response = caller.send(say(TEXT)).await.unwrap();
        assert!(response.into_body().collect().await.is_err(), "the body breaks off");
    }
    assert_eq!((cut.counts().syntheses.failed, cut.counts().syntheses.running), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_synthesis_sends_some_and_runs_until_the_caller_gives_up() {
    let faults = Faults { stall_rate: 1.0, ..Faults::default() };
    let engine = engine(Settings { faults, ..settings() }).await;
    let mut caller = Caller::http1(&engine).await;
    let mut body = caller.send(say(TEXT)).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"RIFF"));
    // Silence tells: the whole text takes this engine a few milliseconds.
    let mut heard = first.len();
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_millis(300), body.frame()).await {
        heard += frame.unwrap().into_data().unwrap().len();
    }
    assert!(heard < 288_044, "{heard}");
    assert_eq!(engine.counts().syntheses.running, 1);
    drop((caller, body));
    until(&engine, |counts| counts.syntheses.running == 0).await;
}

#[tokio::test]
async fn an_early_head_comes_before_the_first_audio() {
    // The first byte of this envelope would take minutes.
    let engine = engine(Settings { early_head: true, ..settings() }).await;
    let mut request = say_for_long();
    request.headers_mut().insert("accept", "application/json".parse().unwrap());
    let response = Caller::http1(&engine).await.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_api_container_asks_for_its_key() {
    let engine = engine(Settings { api_key: Some("secret".into()), ..settings() }).await;
    let mut caller = Caller::http1(&engine).await;
    let cases = [
        (None, StatusCode::UNAUTHORIZED, "missing headers"),
        (Some("Bearer other"), StatusCode::UNAUTHORIZED, "invalid api key"),
        (Some("secret"), StatusCode::UNAUTHORIZED, "invalid api key"),
        (Some("Bearer secret"), StatusCode::OK, "RIFF"),
        (Some("Api-Key secret"), StatusCode::OK, "RIFF"),
    ];
    for (key, expected, begins) in cases {
        let mut request = say(TEXT);
        if let Some(key) = key {
            request.headers_mut().insert("authorization", key.parse().unwrap());
        }
        let (status, _, body) = caller.hear(request).await;
        assert_eq!(status, expected, "{key:?}");
        assert!(body.starts_with(begins.as_bytes()), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_engine_ends_what_runs_and_a_killed_one_does_not() {
    let stopped = engine(settings()).await;
    let address = stopped.address();
    let mut caller = Caller::http1(&stopped).await;
    let response = caller.send(say(&"a".repeat(14_000))).await.unwrap();
    let stopping = tokio::spawn(stopped.stop());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 44 + 48_000_000);
    stopping.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");

    let killed = engine(settings()).await;
    let mut caller = Caller::http1(&killed).await;
    let response = caller.send(say_for_long()).await.unwrap();
    killed.kill().await;
    assert!(response.into_body().collect().await.is_err());
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rime-gate"));
    command.args(["engine", "--listen", "127.0.0.1:0"]);
    command
}

#[test]
fn the_command_says_where_it_listens_and_stops_when_told_to() {
    let mut engine = command().stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(engine.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert!(Command::new("kill").args(["-TERM", &engine.id().to_string()]).status().unwrap().success());
    assert_eq!(engine.wait().unwrap().code(), Some(0));
}

#[test]
fn out_of_memory_is_said_as_cuda_says_it_before_the_engine_listens() {
    let output = command().env("DECODER_MAX_BATCH", "64").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("torch.OutOfMemoryError: CUDA out of memory."));
}

#[test]
fn a_variable_that_is_no_number_is_wrong_use() {
    let output = command().env("GENERATOR_MAX_BATCH", "many").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("GENERATOR_MAX_BATCH"));
}
