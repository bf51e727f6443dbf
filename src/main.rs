//! The gateway's binary: a start button.

use std::process::ExitCode;

use tidegate::cli::Hooks;
use tidegate::{boot, cli};

/// A hit takes and gives back memory some fifty times, which costs less here than with the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::main(&Hooks { run: boot::run, check: boot::check, make_dev_certs: boot::make_dev_certs })
}
