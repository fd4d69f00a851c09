//! `rime-gate tune`: the four steps of Rime's guide as a machine that can be left alone. Starts the engine, measures it, asks
//! [`mod@search`] what to try next, writes everything into a [`journal`], and in the end writes down what was found. Decides
//! nothing about variables or levels.

pub mod engine;
pub mod journal;
pub mod result;
pub mod search;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Uri;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::bench::statistics::Confidence;
use crate::bench::{self, Bench, Unit};
use crate::cli::{DONE, NO, WRONG_USE};
use crate::target::Target;
use engine::{How, Running, Starter};
use journal::{Begun, Journal, Try};
use result::Provenance;
use search::{Bounds, Found, Need, Outcome, Variables, search};

/// Arguments of `tune`. The engine's command finds DECODER_MAX_BATCH, DECODER_NUM_SESSIONS, GENERATOR_MAX_BATCH and
/// GENERATOR_GPU_MEMORY_UTILIZATION in its environment.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("how").required(true).args(["engine_cmd", "apply_cmd"])))]
pub struct TuneArguments {
    /// Where the engine is called: http://127.0.0.1:8080
    #[arg(value_name = "URL")]
    url: String,
    /// Starts the engine and stays with it; ended with SIGTERM
    #[arg(long, value_name = "CMD")]
    engine_cmd: Option<String>,
    /// Makes whoever runs the engine restart it with the env file, and ends (Compose, Kubernetes, systemd)
    #[arg(long, value_name = "CMD")]
    apply_cmd: Option<String>,
    /// Answers 2xx once the engine is ready [default: the URL's /readyz]
    #[arg(long, value_name = "URL")]
    ready_url: Option<String>,
    /// Where the variables are written for --apply-cmd, and the result for all
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The configuration that gets the limit and how it was found
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What was tried, so that a search that was killed goes on
    #[arg(long, value_name = "FILE", default_value = "rime-gate-tune.jsonl")]
    journal: PathBuf,
    /// What a level has to keep
    #[arg(long, value_name = "TARGET", default_value = Target::GUIDE)]
    target: Target,
    /// DECODER_MAX_BATCH to start from
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    decoder_max_batch: u32,
    /// DECODER_NUM_SESSIONS to start from
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    decoder_num_sessions: u32,
    /// GENERATOR_MAX_BATCH to start from
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    generator_max_batch: u32,
    /// GENERATOR_GPU_MEMORY_UTILIZATION to start from, in hundredths
    #[arg(long, value_name = "N", default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100))]
    utilization_percent: u32,
    /// Greatest batch to try
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_max: u32,
    /// Most decoder sessions to try
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    sessions_max: u32,
    /// Longest start of the engine; one that takes longer is taken to be out of memory
    #[arg(long, value_name = "DUR", default_value = "10m", value_parser = humantime::parse_duration)]
    start_timeout: Duration,
    /// Most starts of the engine
    #[arg(long, value_name = "N", default_value_t = 60)]
    runs_max: usize,
    /// Longest search, from this start on
    #[arg(long, value_name = "DUR", default_value = "8h", value_parser = humantime::parse_duration)]
    time_max: Duration,
    /// How certain a level's verdict is
    #[arg(long, value_name = "SHARE", default_value = "0.95", value_parser = confidence)]
    confidence: Confidence,
    /// Most syntheses at one level
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    samples_max: u64,
    /// Greatest level to try
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    level_max: u32,
    /// Between two levels
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = humantime::parse_duration)]
    pause: Duration,
    /// What is said instead of the built-in texts; may be repeated
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// The model to ask for, and to write down
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The image, to be written down
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// The GPU, to be written down
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// Show the plan and start nothing
    #[arg(long)]
    dry_run: bool,
    /// Start and restart the engine without asking
    #[arg(long)]
    yes: bool,
}

fn confidence(text: &str) -> Result<Confidence, String> {
    let value = text.parse().ok().and_then(Confidence::new);
    value.ok_or_else(|| "must be at least 0.5 and below 1".to_owned())
}

/// Why a search ended without a result.
#[derive(Debug, thiserror::Error)]
enum TuneError {
    #[error("cannot use {0} as a URL")]
    Url(String),
    #[error("cannot write or read {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot measure: {0}")]
    Measure(#[from] bench::BenchError),
    #[error("the engine did not start with its own variables: {0}")]
    Start(String),
    #[error("{0}; what was tried is in the journal, and the same command goes on")]
    Budget(&'static str),
    #[error("{0}")]
    Result(String),
}

/// Runs `rime-gate tune` to its exit code.
///
/// # Cancel safety
/// Dropping it kills the engine's own process; the journal has every try that ended.
pub async fn run(arguments: &TuneArguments) -> u8 {
    let tuner = match Tuner::new(arguments) {
        Ok(tuner) => tuner,
        Err(error) => return complain(&error, WRONG_USE),
    };
    if arguments.dry_run {
        tuner.show_plan();
        return DONE;
    }
    if !arguments.yes && !consents(arguments) {
        eprintln!("nothing was started: say --yes, or agree at a terminal");
        return WRONG_USE;
    }
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else { return NO };
    let mut running = None;
    let done = tokio::select! {
        done = tuner.search(&mut running) => done,
        _ = terminate.recv() => Err(TuneError::Budget("told to stop")),
        _ = interrupt.recv() => Err(TuneError::Budget("told to stop")),
    };
    if let Some(mut running) = running {
        running.end().await;
    }
    match done {
        Ok(()) => DONE,
        Err(error) => {
            tuner.restore().await;
            complain(&error, NO)
        }
    }
}

fn complain(error: &TuneError, code: u8) -> u8 {
    let source = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    eprintln!("error: {error}{source}");
    code
}

fn consents(arguments: &TuneArguments) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let command = arguments.engine_cmd.as_ref().or(arguments.apply_cmd.as_ref());
    eprint!(
        "`{}` will be run up to {} times. Go on? [y/N] ",
        command.map_or("", |it| it),
        arguments.runs_max
    );
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

struct Tuner<'a> {
    arguments: &'a TuneArguments,
    start: Variables,
    bounds: Bounds,
    starter: Starter,
    env_before: Option<String>,
}

impl<'a> Tuner<'a> {
    fn new(arguments: &'a TuneArguments) -> Result<Self, TuneError> {
        let start = Variables {
            decoder_max_batch: arguments.decoder_max_batch,
            decoder_num_sessions: arguments.decoder_num_sessions,
            generator_max_batch: arguments.generator_max_batch,
            utilization_percent: arguments.utilization_percent,
        };
        let (batch_max, sessions_max) = (arguments.batch_max, arguments.sessions_max);
        let bounds = Bounds { batch_max, sessions_max, ..Bounds::default() };
        let ready = arguments
            .ready_url
            .clone()
            .unwrap_or_else(|| format!("{}/readyz", arguments.url.trim_end_matches('/')));
        let uri: Uri = ready.parse().map_err(|_| TuneError::Url(ready.clone()))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(TuneError::Url(ready));
        }
        let how = match (&arguments.engine_cmd, &arguments.apply_cmd) {
            (Some(command), _) => How::Child(command.clone()),
            (_, command) => How::Apply(command.clone().unwrap_or_default()),
        };
        let env_before = match &arguments.env_file {
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(source) => return Err(TuneError::File { path: path.clone(), source }),
            },
            None => None,
        };
        let starter = Starter { how, ready: uri, start_timeout: arguments.start_timeout, extra: Vec::new() };
        Ok(Self { arguments, start, bounds, starter, env_before })
    }

    fn show_plan(&self) {
        let Self { arguments, start, bounds, .. } = self;
        let (least, greatest) = bounds.utilization_percent;
        println!(
            "target    {}\nstart     {start}\nbounds    batches up to {}, decoder sessions up to {}, memory share \
             0.{least} to 0.{greatest}\nbudget    {} starts, {}\njournal   {}",
            arguments.target,
            bounds.batch_max,
            bounds.sessions_max,
            arguments.runs_max,
            humantime::format_duration(arguments.time_max),
            arguments.journal.display(),
        );
        let (verb, How::Child(command) | How::Apply(command)) =
            (if matches!(self.starter.how, How::Child(_)) { "start" } else { "apply" }, &self.starter.how);
        println!("{verb}     {command}\nready     {}", self.starter.ready);
        println!(
            "steps     1. start; out of memory lowers GENERATOR_GPU_MEMORY_UTILIZATION\n          \
             2. find the greatest number in flight that keeps the target\n          \
             3. raise both batches by half while it rises, then try other numbers of decoder sessions\n          \
             4. until no step raises it; then write {} and {}",
            arguments.env_file.as_ref().map_or("no env file".to_owned(), |path| path.display().to_string()),
            arguments
                .config
                .as_ref()
                .map_or("no configuration".to_owned(), |path| path.display().to_string()),
        );
    }

    fn open(&self) -> Result<Journal, TuneError> {
        let begun = Begun {
            url: self.arguments.url.clone(),
            target: self.arguments.target.to_string(),
            start: self.start,
            bounds: self.bounds,
            env_file_before: self.env_before.clone(),
        };
        let path = &self.arguments.journal;
        Journal::open(path, begun).map_err(|source| TuneError::File { path: path.clone(), source })
    }

    async fn search(&self, running: &mut Option<Running>) -> Result<(), TuneError> {
        let mut journal = self.open()?;
        if let Some(group) = journal.engine {
            engine::end_left_behind(group).await;
        }
        if !journal.tries.is_empty() {
            eprintln!("going on after {} tries, from {}", journal.tries.len(), journal.path().display());
        }
        let deadline = Instant::now() + self.arguments.time_max;
        loop {
            let tries: Vec<_> =
                journal.tries.iter().map(|one| (one.variables, one.outcome.clone())).collect();
            match search(self.start, &self.bounds, &tries) {
                Ok(found) => return self.finish(&journal, &found),
                Err(Need { variables, why }) => {
                    if journal.tries.len() >= self.arguments.runs_max {
                        self.keep_best(&journal);
                        return Err(TuneError::Budget("the budget of starts is used up"));
                    }
                    if Instant::now() >= deadline {
                        self.keep_best(&journal);
                        return Err(TuneError::Budget("the budget of time is used up"));
                    }
                    eprintln!("{:>3}  {variables}  ({why})", journal.tries.len() + 1);
                    let one = self.attempt(variables, why, &mut journal, running).await?;
                    eprintln!("     {}", told(&one));
                    self.note(&mut journal, one)?;
                }
            }
        }
    }

    fn note(&self, journal: &mut Journal, one: Try) -> Result<(), TuneError> {
        // The engine's own variables are known to work: one that fails with them fails for another reason.
        let first = journal.tries.is_empty();
        if let (true, Outcome::Failed(why)) = (first, &one.outcome) {
            return Err(TuneError::Start(why.clone()));
        }
        let path = self.arguments.journal.clone();
        journal.tried(one).map_err(|source| TuneError::File { path, source })
    }

    /// Starts the engine with these variables, measures it, and ends it.
    async fn attempt(
        &self,
        variables: Variables,
        why: String,
        journal: &mut Journal,
        running: &mut Option<Running>,
    ) -> Result<Try, TuneError> {
        let began = Instant::now();
        if let (How::Apply(_), Some(path)) = (&self.starter.how, &self.arguments.env_file) {
            self.write(path, &result::env_file(self.env_before.as_deref().unwrap_or_default(), &variables))?;
        }
        let mut one = Try {
            variables,
            why,
            outcome: Outcome::Level(0),
            ttfb_p99_seconds: None,
            rtf_p99: None,
            samples: 0,
            seconds: 0.0,
        };
        let mut noted = Ok(());
        match self.starter.start(&variables, &mut |group| noted = journal.started(group)).await {
            Ok(engine) => {
                *running = Some(engine);
                self.measure(&mut one).await?;
                if let Some(mut engine) = running.take() {
                    engine.end().await;
                }
            }
            Err(outcome) => one.outcome = outcome,
        }
        noted.map_err(|source| TuneError::File { path: self.arguments.journal.clone(), source })?;
        one.seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        Ok(one)
    }

    async fn measure(&self, one: &mut Try) -> Result<(), TuneError> {
        let arguments = self.arguments;
        let mut bench = Bench::at(&arguments.url).await?;
        bench.pause = arguments.pause;
        bench.quest.target = arguments.target;
        bench.quest.confidence = arguments.confidence;
        bench.quest.samples_max = arguments.samples_max;
        bench.quest.level_max = arguments.level_max;
        if arguments.model.is_some() {
            bench.manner.model.clone_from(&arguments.model);
        }
        if !arguments.text.is_empty() {
            bench.texts = bench::texts::read(&arguments.text.join("\n")).map_err(TuneError::Result)?;
        }
        let found = bench::find_limit(&bench, Unit::InFlight, &mut |_| {}).await?;
        one.outcome = Outcome::Level(found.limit.unwrap_or(0));
        if let Some(level) = found.at_limit() {
            one.ttfb_p99_seconds = level.samples.ttfb().p99;
            one.rtf_p99 = level.samples.rtf().p99;
            one.samples = level.samples.count();
        }
        Ok(())
    }

    fn write(&self, path: &std::path::Path, text: &str) -> Result<(), TuneError> {
        result::replace(path, text).map_err(|source| TuneError::File { path: path.to_owned(), source })
    }

    fn finish(&self, journal: &Journal, found: &Found) -> Result<(), TuneError> {
        table(journal);
        println!("{}", found.why);
        let Some((variables, level)) = found.best.filter(|(_, level)| *level > 0) else {
            return Err(TuneError::Result(
                "no level keeps the target, with any of the variables tried".to_owned(),
            ));
        };
        println!("best: {variables}: concurrency_max = {level}");
        if let Some(path) = &self.arguments.env_file {
            let before = journal.begun.env_file_before.as_deref().unwrap_or_default();
            self.write(path, &result::env_file(before, &variables))?;
            println!("wrote {}", path.display());
        }
        let (Some(path), Some(one)) = (&self.arguments.config, journal.known(&variables)) else {
            return Ok(());
        };
        let before = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(TuneError::File { path: path.clone(), source }),
        };
        let provenance = self.provenance(one, level);
        let after = result::proxy_toml(&before, &provenance)
            .map_err(|why| TuneError::Result(format!("cannot edit {}: {why}", path.display())))?;
        self.write(path, &after)?;
        println!("wrote {}", path.display());
        Ok(())
    }

    fn provenance(&self, one: &Try, level: u32) -> Provenance {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        Provenance {
            level,
            target: self.arguments.target.to_string(),
            model: self.arguments.model.clone(),
            image: self.arguments.image.clone(),
            gpu: self.arguments.gpu.clone(),
            variables: one.variables,
            ttfb_p99_seconds: one.ttfb_p99_seconds,
            rtf_p99: one.rtf_p99,
            samples: one.samples,
            confidence: self.arguments.confidence.get(),
            date: now.split('T').next().unwrap_or_default().to_owned(),
        }
    }

    /// Says what the best is so far, where the budget ends the search.
    fn keep_best(&self, journal: &Journal) {
        table(journal);
        let level = |one: &&Try| if let Outcome::Level(level) = one.outcome { level } else { 0 };
        if let Some(best) = journal.tries.iter().max_by_key(level) {
            println!("best so far: {}: {}", best.variables, told(best));
        }
    }

    /// After a failure: the env file as it was, and whoever runs the engine is told to run it so.
    async fn restore(&self) {
        let (How::Apply(_), Some(path)) = (&self.starter.how, &self.arguments.env_file) else { return };
        let before = self.open().ok().and_then(|journal| journal.begun.env_file_before);
        let restored = match &before {
            Some(text) => self.write(path, text),
            None => {
                std::fs::remove_file(path).map_err(|source| TuneError::File { path: path.clone(), source })
            }
        };
        match restored {
            Ok(()) => eprintln!("{} is as it was", path.display()),
            Err(error) => drop(complain(&error, NO)),
        }
        if let Err(outcome) = self.starter.start(&self.start, &mut |_| {}).await {
            eprintln!("the engine could not be brought back: {outcome:?}");
        }
    }
}

/// What came of a try, in a few words.
fn told(one: &Try) -> String {
    match &one.outcome {
        Outcome::Level(0) => "no level keeps the target".to_owned(),
        Outcome::Level(level) => format!(
            "{level} in flight, TTFB p99 {:.3} s, RTF p99 {:.3} ({} samples, {:.0} s)",
            one.ttfb_p99_seconds.unwrap_or(f64::NAN),
            one.rtf_p99.unwrap_or(f64::NAN),
            one.samples,
            one.seconds
        ),
        Outcome::OutOfMemory(search::Short::Generator) => {
            "out of memory: the generator's share is too small".to_owned()
        }
        Outcome::OutOfMemory(search::Short::Rest) => "out of memory at start".to_owned(),
        Outcome::Failed(why) => format!("did not start: {why}"),
    }
}

/// What was tried, and why.
fn table(journal: &Journal) {
    println!("what was tried:");
    for (index, one) in journal.tries.iter().enumerate() {
        println!("{:>3}  {}\n     {}: {}", index + 1, one.variables, one.why, told(one));
    }
}
