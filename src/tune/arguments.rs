//! The arguments of `rime-gate tune`, and the operator's consent to run them. Decides nothing else.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::bench::statistics::Confidence;
use crate::callers::Protocol;
use crate::target::Target;

/// Arguments of `tune`. The engine's command finds DECODER_MAX_BATCH, DECODER_NUM_SESSIONS, GENERATOR_MAX_BATCH and
/// GENERATOR_GPU_MEMORY_UTILIZATION in its environment.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("how").required(true).args(["engine_cmd", "apply_cmd"])))]
pub struct TuneArguments {
    /// Where the engine is called: http://127.0.0.1:8080
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// Starts the engine and stays with it; ended with SIGTERM. In the end no engine runs, and what starts it is printed
    #[arg(long, value_name = "CMD")]
    pub(super) engine_cmd: Option<String>,
    /// Makes whoever runs the engine restart it with the env file (Compose, Kubernetes, systemd), and ends when the old one
    /// is gone. In the end the engine runs with what was found, after a failure with what the env file held before
    #[arg(long, value_name = "CMD")]
    pub(super) apply_cmd: Option<String>,
    /// Answers 2xx once the engine is ready [default: /readyz of the URL's host; a gRPC port has none]
    #[arg(long, value_name = "URL")]
    pub(super) ready_url: Option<String>,
    /// How the engine is asked
    #[arg(long, value_enum, default_value_t)]
    pub(super) protocol: Protocol,
    /// Where the variables are written for --apply-cmd, and the result for all
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Option<PathBuf>,
    /// The configuration that gets the limit and how it was found
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// What was tried, so that a search that was killed goes on
    #[arg(long, value_name = "FILE", default_value = "rime-gate-tune.jsonl")]
    pub(super) journal: PathBuf,
    /// What a level has to keep
    #[arg(long, value_name = "TARGET", default_value = Target::GUIDE)]
    pub(super) target: Target,
    /// DECODER_MAX_BATCH to start from
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) decoder_max_batch: u32,
    /// DECODER_NUM_SESSIONS to start from
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) decoder_num_sessions: u32,
    /// GENERATOR_MAX_BATCH to start from
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) generator_max_batch: u32,
    /// GENERATOR_GPU_MEMORY_UTILIZATION to start from, in hundredths
    #[arg(long, value_name = "N", default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) utilization_percent: u32,
    /// Greatest batch to try
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) batch_max: u32,
    /// Most decoder sessions to try
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) sessions_max: u32,
    /// Longest start of the engine; one that takes longer is taken to be out of memory
    #[arg(long, value_name = "DUR", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(super) start_timeout: Duration,
    /// Most starts of the engine
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(super) runs_max: usize,
    /// Longest search, from this start on
    #[arg(long, value_name = "DUR", default_value = "8h", value_parser = humantime::parse_duration)]
    pub(super) time_max: Duration,
    /// How certain a level's verdict is
    #[arg(long, value_name = "SHARE", default_value = "0.95", value_parser = confidence)]
    pub(super) confidence: Confidence,
    /// Most syntheses at one level
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    pub(super) samples_max: u64,
    /// Greatest level to try
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    pub(super) level_max: u32,
    /// Between two levels
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(super) pause: Duration,
    /// What is said instead of the built-in texts; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(super) text: Vec<String>,
    /// The model to ask for, and to write down
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// The image, to be written down
    #[arg(long, value_name = "NAME")]
    pub(super) image: Option<String>,
    /// The GPU, to be written down
    #[arg(long, value_name = "NAME")]
    pub(super) gpu: Option<String>,
    /// Show the plan and start nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Start and restart the engine without asking
    #[arg(long)]
    pub(super) yes: bool,
}

impl TuneArguments {
    /// Whether the engine may be started and restarted: so the flags say, or somebody at a terminal.
    pub(super) fn consents(&self) -> bool {
        if self.yes {
            return true;
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return false;
        }
        let command = self.engine_cmd.as_ref().or(self.apply_cmd.as_ref());
        eprint!("`{}` will be run up to {} times. Go on? [y/N] ", command.map_or("", |it| it), self.runs_max);
        let _ = io::stderr().flush();
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

fn confidence(text: &str) -> Result<Confidence, String> {
    let value = text.parse().ok().and_then(Confidence::new);
    value.ok_or_else(|| "must be at least 0.5 and below 1".to_owned())
}
