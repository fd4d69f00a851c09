//! `rime-gate bench`: its arguments, its files, its exit code.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args};
use http::HeaderValue;

use super::{DONE, NO, WRONG_USE};
use crate::bench::gate::Counters;
use crate::bench::hunt::Level;
use crate::bench::load::Sessions;
use crate::bench::page::Page;
use crate::bench::report::{self, Report};
use crate::bench::statistics::{Confidence, Verdict};
use crate::bench::texts;
use crate::bench::view::View;
use crate::bench::{self, Bench, Load, Unit};
use crate::callers::Protocol;
use crate::target::Target;

/// Syntheses at level 1, where what is asked for is a mean.
const SAMPLES_OF_ONE: u64 = 50;

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("load"))]
pub struct BenchArguments {
    /// The engine, or a gate before it, with the path of a synthesis: http://127.0.0.1:8080/
    pub url: String,
    /// Measure so many syntheses at once, instead of searching for the most that keep the target
    #[arg(short = 'c', long, value_name = "N", group = "load")]
    pub in_flight: Option<NonZeroU32>,
    /// Measure so many of armchair's sessions, which think and listen between their turns; or search for the most
    #[arg(long, value_name = "N|auto", group = "load")]
    pub sessions: Option<SessionCount>,
    /// Measure arrivals at random, so many a second; TTFB counts from when a call was due
    #[arg(long, value_name = "R", group = "load", value_parser = positive)]
    pub rate: Option<f64>,
    /// What a level has to keep, in armchair's grammar
    #[arg(long, value_name = "TARGET", default_value = Target::GUIDE)]
    pub target: Target,
    /// How certain a verdict is to be, 0.5 to below 1
    #[arg(long, value_name = "SHARE", default_value = "0.95", value_parser = confidence)]
    pub confidence: Confidence,
    /// How the engine is asked
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,
    /// Say the lines of a file: plain text, or JSON Lines with `text` and perhaps `lang` and `speaker`
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Language of the built-in texts (eng, spa, fra, ger), several with commas; with --texts, of those that name none
    #[arg(long, value_name = "LANG", default_value = "eng", value_delimiter = ',')]
    pub lang: Vec<String>,
    /// The voice
    #[arg(long)]
    pub speaker: Option<String>,
    /// The model
    #[arg(long, value_name = "MODEL", default_value = "arcana")]
    pub model: String,
    /// Sent as `Authorization`
    #[arg(long, value_name = "VALUE", env = "RIME_GATE_AUTHORIZATION", hide_env_values = true)]
    pub authorization: Option<HeaderValue>,
    /// Write the figures to a file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with the curves
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The URL is a gate's: tell its queue wait and its refusals as well, from its admin address
    #[arg(long)]
    pub through: bool,
    #[command(flatten)]
    admin: super::AdminArguments,
    /// Measure an engine that others use
    #[arg(long)]
    pub allow_busy: bool,
    #[command(flatten)]
    means: Means,
}

/// Bounds, and what sessions are like.
#[derive(Clone, Debug, Args)]
pub(super) struct Means {
    /// The greatest level of a search
    #[arg(long, value_name = "N", default_value = "1024")]
    level_max: NonZeroU32,
    /// Syntheses at one level, after which it is not decided [default: 3000; 50 at one in flight]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    samples: Option<u64>,
    /// How long one look at a level may take, and how long calls arrive at a rate
    #[arg(long, value_name = "DUR", default_value = "15m", value_parser = humantime::parse_duration)]
    level_time: Duration,
    /// A synthesis that takes longer has failed
    #[arg(long, value_name = "DUR", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Between two looks
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = humantime::parse_duration)]
    pause: Duration,
    /// Playback starts so long after the first audio byte
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = humantime::parse_duration)]
    client_buffer: Duration,
    /// Fixes who says what, and when
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Turns of a session
    #[arg(short = 'n', long, value_name = "N", default_value = "5")]
    requests_per_session: NonZeroU32,
    /// Sessions that begin per second
    #[arg(long, value_name = "R", default_value = "5", value_parser = positive)]
    session_rate: f64,
    /// Think time between two turns: mean
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = humantime::parse_duration)]
    think_mean: Duration,
    /// Think time: standard deviation
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = humantime::parse_duration)]
    think_deviation: Duration,
    /// Think time: the most
    #[arg(long, value_name = "DUR", default_value = "20s", value_parser = humantime::parse_duration)]
    think_max: Duration,
}

/// How many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCount {
    /// Search for the most.
    Auto,
    /// So many.
    Fixed(NonZeroU32),
}

impl FromStr for SessionCount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Fixed).map_err(|_| "expected a number above 0, or `auto`"),
        }
    }
}

fn positive(text: &str) -> Result<f64, &'static str> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0);
    value.ok_or("expected a number above 0")
}

fn confidence(text: &str) -> Result<Confidence, &'static str> {
    text.parse().ok().and_then(Confidence::new).ok_or("expected a number from 0.5 to below 1")
}

/// Runs the benchmark to its exit code.
pub(super) async fn run(arguments: &BenchArguments) -> u8 {
    let bench = match prepared(arguments).await {
        Ok(bench) => bench,
        Err(why) => return fail(&why, WRONG_USE),
    };
    // Made before anything runs: the search is long for a mistyped name.
    let files =
        [arguments.json.as_deref(), arguments.report.as_deref()].map(|path| path.map(create).transpose());
    let [mut json, mut page] = match files {
        [Ok(json), Ok(page)] => [json, page],
        [Err(why), _] | [_, Err(why)] => return fail(&why, NO),
    };
    if !arguments.allow_busy {
        let busy = if arguments.through {
            gate_is_busy(arguments.admin.admin_address).await
        } else {
            bench.busy().await
        };
        if let Some(why) = busy {
            let why = format!("the engine seems busy: {why}; --allow-busy measures it all the same");
            return fail(&why, NO);
        }
    }
    let before = match arguments.through {
        true => Counters::read(arguments.admin.admin_address).await.map_err(note).ok(),
        false => None,
    };
    let (mut report, code) = match measured(arguments, &bench).await {
        Ok(measured) => measured,
        Err(error) => return fail(&error.to_string(), NO),
    };
    if let Some(before) = before {
        let after = Counters::read(arguments.admin.admin_address).await.map_err(note).ok();
        report.gate = after.map(|after| after.since(&before));
        print!("{}", report.gate.as_ref().map(report::of_gate).unwrap_or_default());
    }
    let written = write(&mut json, || Ok(serde_json::to_string_pretty(&report)? + "\n"))
        .and_then(|()| write(&mut page, || Ok(Page(&report).to_string())));
    match written {
        Ok(()) => code,
        Err(error) => fail(&error.to_string(), NO),
    }
}

async fn measured(arguments: &BenchArguments, bench: &Bench) -> Result<(Report, u8), bench::BenchError> {
    let load = match (arguments.in_flight, arguments.sessions, arguments.rate) {
        (Some(count), ..) => Some(Load::InFlight(count.get())),
        (_, Some(SessionCount::Fixed(count)), _) => Some(Load::Sessions(count.get())),
        (.., Some(rate)) => Some(Load::Rate(rate)),
        _ => None,
    };
    if let Some(load) = load {
        let view = View::of_level(&bench.quest);
        let level = bench::measure(bench, load, &mut |event| view.show(event)).await;
        view.end();
        print!("{}", report::of_level(load, &level, &bench.quest));
        return Ok((
            Report::of_level(&arguments.url, load, &bench.quest, &level),
            code(&level, &bench.quest.target),
        ));
    }
    let unit = if arguments.sessions.is_some() { Unit::Sessions } else { Unit::InFlight };
    println!("=== SEARCHING FOR THE MOST {} ===", unit.words().to_uppercase());
    let view = View::of_search(&bench.quest, unit);
    let found = bench::find_limit(bench, unit, &mut |event| view.show(event)).await?;
    view.end();
    print!("{}", report::of_search(unit, &found, &bench.quest));
    let code = if found.limit.is_some() { DONE } else { NO };
    Ok((Report::of_search(&arguments.url, unit, &bench.quest, &found), code))
}

/// Whether the level keeps the target: for certain, or else as far as was observed.
fn code(level: &Level, target: &Target) -> u8 {
    match level.judge.verdict() {
        Verdict::Met => DONE,
        Verdict::Undecided if level.samples.within(target) => DONE,
        _ => NO,
    }
}

async fn prepared(arguments: &BenchArguments) -> Result<Bench, String> {
    let mut bench = Bench::at(&arguments.url).await.map_err(|error| super::chain(&error))?;
    bench.texts = match &arguments.texts {
        Some(file) => {
            let content = std::fs::read_to_string(file);
            let content = content.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            texts::read(&content).map_err(|why| format!("{}: {why}", file.display()))?
        }
        None => {
            let texts = arguments.lang.iter().map(|lang| texts::built_in(lang));
            texts.collect::<Result<Vec<_>, _>>()?.concat()
        }
    };
    if arguments.texts.is_some() {
        bench.manner.lang = arguments.lang.first().filter(|lang| *lang != "eng").cloned();
    }
    let means = &arguments.means;
    bench.protocol = arguments.protocol;
    bench.manner.speaker.clone_from(&arguments.speaker);
    bench.manner.model = Some(arguments.model.clone());
    bench.manner.authorization.clone_from(&arguments.authorization);
    bench.manner.client_buffer = means.client_buffer;
    bench.quest.target = arguments.target;
    bench.quest.confidence = arguments.confidence;
    bench.quest.level_max = means.level_max.get();
    let alone = arguments.in_flight.is_some_and(|count| count.get() == 1);
    let samples_max = if alone { SAMPLES_OF_ONE } else { bench.quest.samples_max };
    bench.quest.samples_max = means.samples.unwrap_or(samples_max);
    bench.seed = means.seed;
    bench.timeout = means.timeout;
    bench.look_time_max = means.level_time;
    bench.pause = means.pause;
    bench.sessions = Sessions {
        turns: Some(means.requests_per_session.get()),
        starts_per_second: means.session_rate,
        think_mean: means.think_mean,
        think_deviation: means.think_deviation,
        think_min: Duration::ZERO,
        think_max: means.think_max,
    };
    Ok(bench)
}

async fn gate_is_busy(admin: SocketAddr) -> Option<String> {
    let (running, waiting) = bench::gate::load(admin).await.map_err(note).ok()?;
    (running + waiting > 0).then(|| format!("{running} run in the gate, and {waiting} wait"))
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn write(file: &mut Option<File>, text: impl FnOnce() -> io::Result<String>) -> io::Result<()> {
    file.as_mut().map_or(Ok(()), |file| file.write_all(text()?.as_bytes()))
}

fn fail(why: &str, code: u8) -> u8 {
    eprintln!("error: {why}");
    code
}

fn note(why: impl std::fmt::Display) {
    eprintln!("note: without the gate's own account: {why}");
}
