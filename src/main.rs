//! The binary's door: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use rime_gate::cli::{self, Cli, WRONG_USE};
use tikv_jemallocator::Jemalloc;

// Thousands of streams whose buffers are mostly empty: it keeps them apart, so that what is empty takes no memory, and
// it is the quicker one for a request as well.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::execute(cli.command)),
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            ExitCode::from(WRONG_USE)
        }
    }
}
