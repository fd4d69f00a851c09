//! `rime-gate demo`: one simulated engine after the other, the same callers, first without the gate, then with it.
//! Decides how the two are compared and what is said about it; measures as a caller hears it.

mod capacity;
mod report;
mod view;

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

pub use capacity::capacity_per_second;
pub use report::{Phase, Report};

use crate::callers::{Callers, Load, Protocol, SENTENCES, Tally};
use crate::config::{Config, EngineUrl, Surface};
use crate::gate::{Gate, StartError};
use crate::sim::{self, Engine, Profile, Settings};
use crate::target::Target;

/// A port of the system's choice.
const ANYWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
/// The most syntheses at once that the default profile serves within the target: Rime's published reference, which
/// the simulation reproduces.
const LIMIT: NonZeroU32 = NonZeroU32::new(32).expect("not zero");
/// Callers arrive so many times faster than the engine can serve them.
const OVERLOAD: f64 = 1.5;
/// The first third of the arrivals, and at most this much of it, fills the engine and is not counted: some times
/// as long as a synthesis of [`SENTENCES`] takes.
const WARM_UP_MAX: Duration = Duration::from_secs(5);
/// Fewer seconds of arrivals, and the engine is hardly full before they end.
const ARRIVING_MIN: Duration = Duration::from_secs(3);
/// Callers who keep a line open, on a protocol that has one: 120 calls go on, and now and then somebody speaks.
const AGENTS: usize = 120;
/// Fixes arrivals, texts and the engine's deviations, in both phases alike.
const SEED: u64 = 7;
/// The shortest demonstration, in seconds: below it the callers do not pile up.
const SECONDS_MIN: u64 = 10;
/// The longest: those who pile up all hold sockets of this one process.
const SECONDS_MAX: u64 = 90;
/// How long the last call of a phase takes, once nobody is piled up before it.
const CALLS_SECONDS: f64 = 2.0;
/// How long the last calls of a phase are waited for, in times of the phase. It bounds; it is not expected to pass.
const PATIENCE: f64 = 3.0;
/// The least of it.
const PATIENCE_MIN: Duration = Duration::from_secs(15);

/// Flags of `rime-gate demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArguments {
    /// About how long it takes in all; at least 10, at most 90
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub seconds: u64,
    /// How the callers ask
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,
    /// Write the figures to a file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs both phases; shows them as they run on standard error, the table on standard output.
///
/// # Errors
/// Something could not be started or written.
///
/// # Cancel safety
/// Dropping it stops engine, gate and callers.
pub async fn run(arguments: &DemoArguments) -> Result<(), Box<dyn Error>> {
    let json = arguments.json.as_deref().map(create).transpose()?;
    let profile = Profile::default();
    let capacity = capacity_per_second(&profile, profile.variables, LIMIT.get(), &SENTENCES, SEED);
    let rate = capacity * OVERLOAD;
    let seconds = arriving(arguments.seconds);
    view::opening(&profile.name, LIMIT.get(), capacity, rate, seconds);
    let protocol = arguments.protocol;
    let without = phase(false, protocol, &profile, rate, seconds).await?;
    let with = phase(true, protocol, &profile, rate, seconds).await?;
    let report = Report {
        protocol,
        limit: LIMIT.get(),
        profile: profile.name,
        target: Target::default().to_string(),
        capacity_per_second: capacity,
        offered_per_second: rate,
        warm_up_seconds: warm_up(seconds).as_secs_f64(),
        counted_seconds: seconds.saturating_sub(warm_up(seconds)).as_secs_f64(),
        seed: SEED,
        without,
        with,
    };
    if let Some(mut file) = json {
        file.write_all((serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
    }
    view::closing(&report)?;
    Ok(())
}

/// Made before anything runs: a minute is long for a mistyped name.
fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// How long callers arrive in each of two phases that take `seconds` together. Without the gate, those piled up at the
/// end of the arrivals take half as long again.
fn arriving(seconds: u64) -> Duration {
    let seconds = seconds.clamp(SECONDS_MIN, SECONDS_MAX);
    let seconds = f64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
    Duration::from_secs_f64((seconds - 2.0 * CALLS_SECONDS) / (1.0 + OVERLOAD)).max(ARRIVING_MIN)
}

fn warm_up(arriving: Duration) -> Duration {
    (arriving / 3).min(WARM_UP_MAX)
}

async fn phase(
    gated: bool,
    protocol: Protocol,
    profile: &Profile,
    rate: f64,
    seconds: Duration,
) -> Result<Phase, Box<dyn Error>> {
    let grpc = (protocol == Protocol::Grpc).then_some(ANYWHERE);
    let settings = Settings { grpc, profile: profile.clone(), seed: SEED, ..Settings::default() };
    let engine = sim::start(settings).await?;
    let gate = if gated { Some(gate(&engine)?) } else { None };
    let address = match &gate {
        Some(gate) => *gate.addresses().first().ok_or("the gate listens nowhere")?,
        None => engine.grpc().unwrap_or(engine.address()),
    };
    let warm_up = warm_up(seconds);
    let patience = seconds.mul_f64(PATIENCE).max(PATIENCE_MIN);
    let callers = Callers::new(Load {
        address,
        protocol,
        agents: AGENTS,
        rate,
        warm_up,
        duration: seconds.saturating_sub(warm_up),
        patience,
        seed: SEED,
        target: Target::default(),
        texts: &SENTENCES,
    });
    let tally = watched(gated, &engine, &callers, seconds).await;
    let peak = engine.counts().syntheses.peak;
    if let Some(gate) = gate {
        gate.drain().await;
    }
    engine.kill().await;
    Ok(Phase::new(&tally, peak))
}

/// A gate with its defaults but for the limit, on ports of the system's choice.
fn gate(engine: &Engine) -> Result<Gate, Box<dyn Error>> {
    let mut config = Config::default();
    for listener in &mut config.listeners {
        listener.address = ANYWHERE;
        if engine.grpc().is_some() {
            listener.surface = Surface::Grpc;
        }
    }
    config.admin.address = ANYWHERE;
    config.metrics.address = ANYWHERE;
    config.engine.http = EngineUrl::parse(&format!("http://{}", engine.address()))?;
    if let Some(grpc) = engine.grpc() {
        config.engine.grpc = EngineUrl::parse(&format!("http://{grpc}"))?;
    }
    config.engine.concurrency_max = LIMIT;
    Ok(Gate::start(config).map_err(|error| cause(&error))?)
}

/// The error and why.
fn cause(error: &StartError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

async fn watched(gated: bool, engine: &Engine, callers: &Arc<Callers>, seconds: Duration) -> Tally {
    let mut view = view::Live::new(gated, seconds);
    let mut looks = tokio::time::interval(view.interval());
    let mut run = std::pin::pin!(callers.run());
    loop {
        tokio::select! {
            tally = run.as_mut() => {
                view.end(&tally, engine.counts().syntheses.running);
                return tally;
            }
            _ = looks.tick() => view.show(&callers.tally(), engine.counts().syntheses.running),
        }
    }
}
