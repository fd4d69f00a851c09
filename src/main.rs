//! The binary's door.

use std::process::ExitCode;

use clap::Parser;
use rime_gate::sim::arguments::{self, Arguments};

#[derive(Debug, Parser)]
enum Command {
    /// Run a simulated Rime engine
    Engine(Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Command::parse() {
        Command::Engine(arguments) => arguments::run(arguments).await,
    }
}
