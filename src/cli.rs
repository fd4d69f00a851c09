//! The commands and their arguments: what an operator types. Each command's work is done by its own room.

mod bench;
mod run;
mod status;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::check;
use crate::config::RunArguments;
use crate::demo;
use crate::sim;
use crate::tune;

/// It ran, and all is well.
pub const DONE: u8 = 0;
/// It ran, and the answer is no.
pub const NO: u8 = 1;
/// It was used in a wrong way.
pub const WRONG_USE: u8 = 2;

/// Admission gate for Rime's on-prem speech engine.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gate in front of an engine
    Run(RunArguments),
    /// Run the simulated engine
    Engine(Box<sim::arguments::Arguments>),
    /// Show what the gate is for: an overloaded simulated engine, without the gate and with it
    Demo(demo::DemoArguments),
    /// Find the most syntheses at once that keep a target, or measure one load
    Bench(Box<bench::BenchArguments>),
    /// Find the engine's variables and the limit: start it, measure it, change one thing, again
    Tune(Box<tune::TuneArguments>),
    /// Check a configuration file
    Check(CheckArguments),
    /// Show the state of a running gate
    Status(StatusArguments),
    /// Change the limit of a running gate
    Limit(LimitArguments),
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The file
    #[arg(default_value = "proxy.toml")]
    pub file: PathBuf,
}

/// Where a running gate is reached.
#[derive(Clone, Debug, Args)]
pub struct AdminArguments {
    /// The gate's admin address
    #[arg(long, value_name = "ADDR", env = "RIME_GATE_ADMIN_ADDRESS", default_value = "127.0.0.1:9465")]
    pub admin_address: SocketAddr,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `limit`.
#[derive(Debug, Args)]
pub struct LimitArguments {
    /// Syntheses in the engine at once; without it, the limit in force is printed
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    limit: Option<u32>,
    #[command(flatten)]
    admin: AdminArguments,
}

/// Runs a command to its exit code.
///
/// # Cancel safety
///
/// Dropping it stops whatever the command had started.
pub async fn execute(command: Command) -> ExitCode {
    let done = match command {
        Command::Engine(arguments) => return sim::arguments::run(*arguments).await,
        Command::Run(arguments) => Ok(run::run(&arguments).await),
        Command::Demo(arguments) => Ok(demonstrate(&arguments).await),
        Command::Bench(arguments) => Ok(bench::run(&arguments).await),
        Command::Tune(arguments) => Ok(tune::run(&arguments).await),
        Command::Check(arguments) => Ok(check::run(&arguments.file)),
        Command::Status(arguments) => status::show(&arguments).await,
        Command::Limit(arguments) => status::limit(&arguments).await,
    };
    // Standard output is gone: whoever read it has heard enough.
    ExitCode::from(done.unwrap_or(NO))
}

async fn demonstrate(arguments: &demo::DemoArguments) -> u8 {
    match demo::run(arguments).await {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: {error}");
            NO
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
