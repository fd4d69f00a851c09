//! `rime-gate engine`: reads flags and the image's variables, runs the simulated engine until it is told to
//! stop. Decides nothing about the engine itself.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Faults, OnClear, OnDuplicateStart, Profile, Settings, StartError, Style, Variables};

/// Flags of `rime-gate engine`. `DECODER_MAX_BATCH`, `DECODER_NUM_SESSIONS`, `GENERATOR_MAX_BATCH`,
/// `GENERATOR_GPU_MEMORY_UTILIZATION` and `INFERENCE_CONCURRENCY_CAPACITY` are read from the environment, as
/// Rime's image does.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where to listen for gRPC, without TLS
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<SocketAddr>,
    /// Where to listen for the legacy JSON WebSocket, at any path; it is at /ws3 and /ws2 of --listen too
    #[arg(long, value_name = "ADDR")]
    pub ws_json: Option<SocketAddr>,
    /// Where to listen for the legacy binary WebSocket, at any path
    #[arg(long, value_name = "ADDR")]
    pub ws_binary: Option<SocketAddr>,
    /// Simulated hardware: h100-arcana-v2, edge-20, small-24, few-sessions, test-fast, or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "h100-arcana-v2")]
    pub profile: String,
    /// Fixes every chance, so that a run can be repeated
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Share of syntheses that fail instead of sending audio, with 500 or an error
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub error_rate: f64,
    /// Share of syntheses that stop in the middle and never end
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub stall_rate: f64,
    /// Share of syntheses whose connection is closed in the middle
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub cut_rate: f64,
    /// Share of syntheses that fail in the middle
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub mid_error_rate: f64,
    /// Share of syntheses that send all of their audio, and never that it was all
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub no_done_rate: f64,
    /// Share of syntheses that send `done` twice
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub double_done_rate: f64,
    /// Share of syntheses that start late, by --slow-start
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub slow_rate: f64,
    /// How late a slow synthesis starts
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = humantime::parse_duration)]
    pub slow_start: Duration,
    /// What `clear` does to the run of a legacy WebSocket
    #[arg(long, value_enum, default_value_t)]
    pub on_clear: OnClear,
    /// What starting an open context of a WebSocket v1 again does
    #[arg(long, value_enum, default_value_t)]
    pub on_duplicate_start: OnDuplicateStart,
    /// Send `done` after the `error` of a failed run, on a legacy JSON WebSocket
    #[arg(long)]
    pub done_after_error: bool,
    /// Refuse every synthesis, with this status or what a protocol has for it
    #[arg(long, value_name = "STATUS", num_args = 0..=1, default_missing_value = "503",
          value_parser = clap::value_parser!(u16).range(400..=599))]
    pub refuse: Option<u16>,
    /// How long a synthesis works on after its caller has gone
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = humantime::parse_duration)]
    pub cancel_delay: Duration,
    /// Send the response head at once, not with the first audio
    #[arg(long)]
    pub early_head: bool,
    /// Declare true sizes in WAV headers, and a content length
    #[arg(long)]
    pub exact_wav: bool,
    /// Answer JSON as the API container does, with `model_output` inside `audioContent`
    #[arg(long)]
    pub nested_json: bool,
    /// Ask callers for this API key, as the API container does without a RIME_API_KEY of its own
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1".to_owned()) }
}

/// Runs an engine until SIGINT or SIGTERM. Prints where it listens to standard output, and why it did not
/// start to standard error. Exit codes: 0 stopped when told to, 1 did not start, 2 wrong flags or variables.
///
/// # Cancel safety
/// Dropping it kills the engine.
pub async fn run(arguments: Arguments) -> ExitCode {
    let settings = match arguments.settings(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => return fail(&*error, 2),
    };
    let engine = match super::start(settings).await {
        Ok(engine) => engine,
        Err(error @ StartError::OutOfMemory(_)) => {
            eprintln!("INFO: loading model\nTraceback (most recent call last):\n  ...\n{error}");
            return ExitCode::from(1);
        }
        Err(error @ StartError::Listen { .. }) => return fail(&error, 1),
        Err(error) => return fail(&error, 2),
    };
    // Before the line is printed: whoever reads it may tell the engine to stop at once.
    let mut signals = match [SignalKind::terminate(), SignalKind::interrupt()].map(signal) {
        [Ok(terminate), Ok(interrupt)] => [terminate, interrupt],
        [Err(error), _] | [_, Err(error)] => return fail(&error, 1),
    };
    println!("listening on http://{}", engine.address());
    let further = [("grpc", engine.grpc()), ("ws-json", engine.ws_json()), ("ws-binary", engine.ws_binary())];
    for (surface, address) in further {
        if let Some(address) = address {
            println!("listening for {surface} on {address}");
        }
    }
    told_to_stop(&mut signals).await;
    // Told twice, it does not wait for what still runs.
    tokio::select! {
        () = engine.stop() => {}
        () = told_to_stop(&mut signals) => {}
    }
    ExitCode::SUCCESS
}

impl Arguments {
    /// The settings that flags and environment make. `lookup` reads an environment variable.
    ///
    /// # Errors
    /// The profile cannot be read, or a variable is no number.
    pub fn settings(self, lookup: impl Fn(&str) -> Option<String>) -> Result<Settings, Box<dyn Error>> {
        let capacity = match lookup("INFERENCE_CONCURRENCY_CAPACITY") {
            Some(capacity) => {
                capacity.parse().map_err(|_| "INFERENCE_CONCURRENCY_CAPACITY is not a number")?
            }
            None => Settings::default().capacity,
        };
        Ok(Settings {
            listen: self.listen,
            grpc: self.grpc,
            ws_json: self.ws_json,
            ws_binary: self.ws_binary,
            profile: profile(&self.profile)?,
            variables: Variables::read(lookup)?,
            seed: self.seed,
            faults: Faults {
                error_rate: self.error_rate,
                stall_rate: self.stall_rate,
                cut_rate: self.cut_rate,
                mid_error_rate: self.mid_error_rate,
                no_done_rate: self.no_done_rate,
                double_done_rate: self.double_done_rate,
                slow_rate: self.slow_rate,
                slow_start: self.slow_start,
                refuse: self.refuse,
            },
            cancel_delay: self.cancel_delay,
            early_head: self.early_head,
            style: Style { exact_wav: self.exact_wav, nested_json: self.nested_json },
            api_key: self.api_key,
            capacity,
            on_clear: self.on_clear,
            on_duplicate_start: self.on_duplicate_start,
            done_after_error: self.done_after_error,
        })
    }
}

/// A name of a built-in profile, or a file: what has a dot or a slash in it.
fn profile(name: &str) -> Result<Profile, Box<dyn Error>> {
    if !name.contains(['.', '/']) {
        return Ok(Profile::named(name)?);
    }
    let text =
        std::fs::read_to_string(Path::new(name)).map_err(|error| format!("cannot read {name}: {error}"))?;
    Ok(Profile::from_toml(&text)?)
}

async fn told_to_stop([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn fail(error: &dyn Error, code: u8) -> ExitCode {
    let mut message = format!("rime-gate engine: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    eprintln!("{message}");
    ExitCode::from(code)
}
