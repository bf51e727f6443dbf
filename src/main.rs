//! The gateway's binary: a start button.

use std::process::ExitCode;

use tidegate::cli::Hooks;
use tidegate::{boot, cli};

fn main() -> ExitCode {
    cli::main(&Hooks { run: boot::run, check: boot::check, make_dev_certs: boot::make_dev_certs })
}
