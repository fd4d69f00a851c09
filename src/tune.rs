//! `rime-gate tune`: the four steps of Rime's guide as a machine that can be left alone. Starts the engine, measures it, asks
//! [`mod@search`] what to try next, writes everything into a [`journal`], and in the end writes down what was found and puts
//! it in force. Decides nothing about variables or levels.

mod arguments;
pub mod engine;
pub mod journal;
mod report;
pub mod result;
pub mod search;

use std::io;
use std::path::{Path, PathBuf};

use http::Uri;
use http::uri::PathAndQuery;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

pub use arguments::TuneArguments;

use crate::bench::{self, Bench, Unit};
use crate::callers::Protocol;
use crate::cli::{DONE, NO, WRONG_USE};
use engine::{How, Running, Starter};
use journal::{Begun, Journal, Try};
use report::{table, told};
use result::Provenance;
use search::{Bounds, Found, Need, Outcome, Variables, search};

/// Why a search ended without a result.
#[derive(Debug, thiserror::Error)]
enum TuneError {
    #[error("cannot use {0} as a URL")]
    Url(String),
    #[error("a gRPC port has no /readyz: say --ready-url")]
    NoReadyUrl,
    #[error("cannot write or read {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot measure: {0}")]
    Measure(#[from] bench::BenchError),
    #[error("the engine did not start with its own variables: {0}")]
    Start(String),
    #[error("the engine did not start with what was found: {0:?}")]
    LastStart(Outcome),
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
    if !arguments.consents() {
        eprintln!("nothing was started: say --yes, or agree at a terminal");
        return WRONG_USE;
    }
    let mut journal = match tuner.editable().and_then(|()| tuner.open()) {
        Ok(journal) => journal,
        Err(error) => return complain(&error, NO),
    };
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else { return NO };
    let mut running = None;
    let done = tokio::select! {
        done = tuner.search(&mut journal, &mut running) => done,
        _ = terminate.recv() => Err(TuneError::Budget("told to stop")),
        _ = interrupt.recv() => Err(TuneError::Budget("told to stop")),
    };
    // From here on signals are not heard: whoever was told to stop still leaves things as they were.
    if let Some(mut running) = running {
        running.end().await;
    }
    match done {
        Ok(()) => DONE,
        Err(error) => {
            tuner.restore(&journal.begun).await;
            complain(&error, NO)
        }
    }
}

fn complain(error: &TuneError, code: u8) -> u8 {
    let source = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    eprintln!("error: {error}{source}");
    code
}

/// A URL that readiness can be asked of.
fn callable(url: &str) -> Result<Uri, TuneError> {
    let uri: Option<Uri> = url.parse().ok();
    uri.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some())
        .ok_or_else(|| TuneError::Url(url.to_owned()))
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
        let ready = match &arguments.ready_url {
            Some(url) => callable(url)?,
            None if arguments.protocol == Protocol::Grpc => return Err(TuneError::NoReadyUrl),
            None => {
                let mut parts = callable(&arguments.url)?.into_parts();
                parts.path_and_query = Some(PathAndQuery::from_static("/readyz"));
                Uri::from_parts(parts).map_err(|_| TuneError::Url(arguments.url.clone()))?
            }
        };
        let how = match (&arguments.engine_cmd, &arguments.apply_cmd) {
            (Some(command), _) => How::Child(command.clone()),
            (_, command) => How::Apply(command.clone().unwrap_or_default()),
        };
        let env_before = arguments.env_file.as_deref().map(read).transpose()?.flatten();
        let starter = Starter { how, ready, start_timeout: arguments.start_timeout, extra: Vec::new() };
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
            protocol: self.arguments.protocol,
            target: self.arguments.target.to_string(),
            start: self.start,
            bounds: self.bounds,
            env_file_before: self.env_before.clone(),
        };
        let path = &self.arguments.journal;
        Journal::open(path, begun).map_err(|source| TuneError::File { path: path.clone(), source })
    }

    async fn search(&self, journal: &mut Journal, running: &mut Option<Running>) -> Result<(), TuneError> {
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
                Ok(found) => return self.finish(journal, &found, running).await,
                Err(Need { variables, why }) => {
                    if journal.tries.len() >= self.arguments.runs_max {
                        self.keep_best(journal);
                        return Err(TuneError::Budget("the budget of starts is used up"));
                    }
                    if Instant::now() >= deadline {
                        self.keep_best(journal);
                        return Err(TuneError::Budget("the budget of time is used up"));
                    }
                    eprintln!("{:>3}  {variables}  ({why})", journal.tries.len() + 1);
                    let one = self.attempt(variables, why, journal, running).await?;
                    eprintln!("     {}", told(&one));
                    self.note(journal, one)?;
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
            write(path, &result::env_file(journal.env_file_before(), &variables))?;
        }
        let mut one = Try::new(variables, why);
        let mut noted = Ok(());
        match self.starter.start(&variables, running, &mut |group| noted = journal.started(group)).await {
            Ok(()) => {
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
        bench.protocol = arguments.protocol;
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

    /// Writes down what was found and puts it in force.
    async fn finish(
        &self,
        journal: &Journal,
        found: &Found,
        running: &mut Option<Running>,
    ) -> Result<(), TuneError> {
        table(journal);
        println!("{}", found.why);
        let Some((variables, level)) = found.best.filter(|(_, level)| *level > 0) else {
            return Err(TuneError::Result(
                "no level keeps the target, with any of the variables tried".to_owned(),
            ));
        };
        println!("best: {variables}: concurrency_max = {level}");
        let configuration = match journal.known(&variables) {
            Some(one) => self.configuration(one, level)?,
            None => None,
        };
        if let Some(path) = &self.arguments.env_file {
            write(path, &result::env_file(journal.env_file_before(), &variables))?;
            println!("wrote {}", path.display());
        }
        if let How::Apply(command) = &self.starter.how {
            eprintln!("     a last time: {command}");
            let started = self.starter.start(&variables, running, &mut |_| {}).await;
            started.map_err(TuneError::LastStart)?;
            println!("the engine runs with it");
        }
        if let Some((path, text)) = configuration {
            write(path, &text)?;
            println!("wrote {}", path.display());
        }
        if let How::Child(command) = &self.starter.how {
            println!("no engine runs now; this starts it as it was measured:");
            println!("  {}", result::command_line(&variables, command));
        }
        Ok(())
    }

    /// Whether the configuration can be edited: to be known before the search, not after hours of it.
    fn editable(&self) -> Result<(), TuneError> {
        self.configuration(&Try::new(self.start, String::new()), 1).map(drop)
    }

    /// The configuration as it is to be.
    fn configuration(&self, one: &Try, level: u32) -> Result<Option<(&Path, String)>, TuneError> {
        let Some(path) = &self.arguments.config else { return Ok(None) };
        let before = read(path)?.unwrap_or_default();
        let after = result::proxy_toml(&before, &self.provenance(one, level))
            .map_err(|why| TuneError::Result(format!("cannot edit {}: {why}", path.display())))?;
        Ok(Some((path, after)))
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
    async fn restore(&self, begun: &Begun) {
        if let Some(path) = &self.arguments.env_file {
            let restored = match (read(path), &begun.env_file_before) {
                (Ok(now), before) if now == *before => Ok(()),
                (_, Some(before)) => write(path, before),
                (_, None) => std::fs::remove_file(path)
                    .map_err(|source| TuneError::File { path: path.clone(), source }),
            };
            match restored {
                Ok(()) => eprintln!("{} is as it was", path.display()),
                Err(error) => drop(complain(&error, NO)),
            }
        }
        let How::Apply(command) = &self.starter.how else { return };
        eprintln!("     as it was: {command}");
        let before = result::variables_in(begun.env_file_before.as_deref().unwrap_or_default(), self.start);
        match self.starter.start(&before, &mut None, &mut |_| {}).await {
            Ok(()) => eprintln!("the engine runs as it did"),
            Err(outcome) => eprintln!("the engine could not be brought back: {outcome:?}"),
        }
    }
}

/// A file's text; nothing where there is no file.
fn read(path: &Path) -> Result<Option<String>, TuneError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TuneError::File { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), TuneError> {
    result::replace(path, text).map_err(|source| TuneError::File { path: path.to_owned(), source })
}
