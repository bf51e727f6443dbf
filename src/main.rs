//! The gateway's binary: a start button.
use std::process::ExitCode;
fn main() -> ExitCode {
    tidegate::boot::run(std::path::Path::new(&std::env::args().nth(1).unwrap_or("config/tidegate.toml".into())))
}
