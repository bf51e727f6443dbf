//! From a configuration file to a running process, and to its end.
//!
//! Everything that can fail fails before the first client is accepted: the file is read and compiled, every
//! address is bound. Then listeners, health checks and the admin listener run on one runtime until a signal comes, and
//! the configuration is read again whenever it changes.
//! Pingora's own `Server` is not used: it lives on deaf when a listener fails, and sleeps its grace period out.
//!
//! ```text
//! boot ── source ── process ─┬─ desk ── fleet    what lives as long as the process
//!                            ├─ reload ── follow  from one configuration to the next
//!                            └─ drain             the end
//! ```

mod desk;
mod drain;
pub(crate) mod fleet;
mod tickets;
mod marker_key;
mod follow;
mod process;
mod quotas;
mod reload;
mod revoke;
mod source;

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::Builder;

use crate::config::{Loaded, LogLevel, Rejected};
use crate::listen;
use crate::listen::Ticketing;
use crate::plan::Running;
use crate::telemetry::{self, Meters};
use process::Process;
use source::{Source, Unusable};

/// Runs the gateway until it is told to stop.
///
/// The exit code is 0 after a drain, 130 after an interrupt, 1 where something could not be started, 2 where the
/// configuration is wrong.
pub fn run(path: &Path) -> ExitCode {
    start(path).unwrap_or_else(|failure| {
        // The log may not have started yet, and this is for the person at the terminal.
        let _ = writeln!(std::io::stderr(), "{}", failure.message.trim_end());
        ExitCode::from(failure.code)
    })
}

/// Reads and compiles a configuration without running it.
///
/// # Errors
/// Every problem that can be found, each with its place: where the shape is wrong, also those of names in the rest.
pub fn check(path: &Path) -> Result<Loaded, Rejected> {
    source::check(path)
}

/// Why the gateway does not run.
struct Failure {
    message: String,
    code: u8,
}

/// Something outside the configuration is in the way.
fn surroundings(error: impl std::fmt::Display) -> Failure {
    Failure { message: format!("error: {error}"), code: 1 }
}

impl From<Unusable> for Failure {
    fn from(Unusable { rejected, wrong, .. }: Unusable) -> Self {
        let message = rejected.render(std::io::stderr().is_terminal());
        Self { message, code: if wrong { 2 } else { 1 } }
    }
}

fn start(path: &Path) -> Result<ExitCode, Failure> {
    listen::tls::install_provider();
    let ticketing = Ticketing::new().map_err(surroundings)?;
    let source = Source::new(path, ticketing);
    let loaded = source.load()?;
    telemetry::start_logs(level(loaded.config.log.level)).map_err(surroundings)?;
    let meters = Arc::new(Meters::new());
    telemetry::count_panics(&meters);
    let compiled = source.compile(loaded, &meters, Running::default())?;

    let threads = compiled.plan.config.threads.map_or_else(cores, usize::from);
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(surroundings)?;
    let process = Process::bind(source, compiled, meters, threads)?;
    let code = process.live(&runtime);
    // Whatever still runs was given its time.
    runtime.shutdown_background();
    code
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn level(written: LogLevel) -> tracing::level_filters::LevelFilter {
    match written {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    }
    .into()
}

/// Makes the development certificate below `directory` if need be, and says where it is.
///
/// # Errors
/// Why it could not be made.
pub fn make_dev_certs(directory: &Path) -> Result<String, String> {
    listen::tls::install_provider();
    let files = listen::dev::ensure(directory).map_err(|error| error.to_string())?;
    let (cert, key, ca) = (files.cert.display(), files.key.display(), files.ca.display());
    Ok(format!("certificate  {cert}\nkey          {key}\nto trust     {ca}, as in curl --cacert {ca}"))
}
