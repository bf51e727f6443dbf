//! The command line.
//!
//! What starts a gateway comes in from outside, as [`Hooks`]. `purge`, `reload`, `drain` and `warm` are clients of one
//! that runs already: they connect, ask and say what came of it, and share nothing with it but words.

mod drain;
mod purge;
mod quota;
mod reach;
mod reload;
mod revoke;
mod token;
mod warm;
mod wire;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::{Loaded, Rejected, reference};
use crate::refusal::reasons_reference;
use crate::telemetry::meters_reference;

/// Something failed that could have gone well.
const FAILED: u8 = 1;

/// Wrong usage or wrong configuration.
const WRONG: u8 = 2;

/// Stopped from the keyboard.
const INTERRUPTED: u8 = 130;

/// Where the development certificate and its authority are, unless another directory is named.
const DEV_CERTS: &str = "certs";

/// What the commands set going.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Serves until told to stop.
    pub run: fn(&Path) -> ExitCode,
    /// Reads a configuration and resolves every name in it, without serving anything.
    pub check: fn(&Path) -> Result<Loaded, Rejected>,
    /// Makes the development certificate under this directory; returns what to tell the user.
    pub make_dev_certs: fn(&Path) -> Result<String, String>,
}

/// A caching reverse-proxy gateway: one binary, one TOML file.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: File,
}

#[derive(Debug, Args)]
struct File {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG", default_value = "config/tidegate.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves; what is done when no command is given.
    Run(File),
    /// Reads a configuration and says everything that is wrong with it.
    Check(File),
    Purge(purge::Purge),
    Reload(reload::Reload),
    Drain(drain::Drain),
    Quota(quota::Quota),
    Revoke(revoke::Revoke),
    Warm(warm::Warm),
    Token(token::Token),
    /// Prints the JSON Schema of the configuration, for editors.
    Schema,
    /// Certificates.
    #[command(subcommand)]
    Certs(Certs),
    /// Writes the generated reference files below a directory, or says which are stale.
    #[command(hide = true)]
    Docs {
        /// Writes nothing; fails where a file is stale.
        #[arg(long)]
        check: bool,
        /// The project's root.
        #[arg(default_value = ".")]
        root: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Certs {
    /// Makes a development certificate for localhost, if there is none yet.
    Dev {
        /// Where it and its certificate authority are kept.
        #[arg(long, value_name = "DIRECTORY", default_value = DEV_CERTS)]
        dir: PathBuf,
    },
}

/// Does what the command line says; the exit code is 0 for fine, 1 for failed, 2 for wrong usage or configuration.
pub fn main(hooks: &Hooks) -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => dispatch(cli, hooks),
        Err(error) => usage(&error),
    }
}

fn dispatch(cli: Cli, hooks: &Hooks) -> ExitCode {
    match cli.command {
        None => (hooks.run)(&cli.file.config),
        Some(Command::Run(file)) => (hooks.run)(&file.config),
        Some(Command::Check(file)) => check(&file.config, hooks),
        Some(Command::Purge(words)) => ask(async { purge::run(&words).await.map(|line| print(&line)) }),
        Some(Command::Reload(words)) => ask(async { reload::run(&words).await.map(|text| print(&text)) }),
        Some(Command::Drain(words)) => ask(async { drain::run(&words).await.map(|text| print(&text)) }),
        Some(Command::Quota(words)) => ask(async { quota::run(&words).await.map(|line| print(&line)) }),
        Some(Command::Revoke(words)) => ask(async { revoke::run(&words).await.map(|line| print(&line)) }),
        Some(Command::Warm(words)) => ask(async {
            let warmed = warm::run(&words).await?;
            let printed = print(&warmed.summary);
            Ok(match warmed {
                warm::Warmed { interrupted: true, .. } => ExitCode::from(INTERRUPTED),
                warm::Warmed { well: false, .. } => ExitCode::from(FAILED),
                warm::Warmed { .. } => printed,
            })
        }),
        Some(Command::Token(words)) => match token::run(&words) {
            Ok(token) => print(&format!("{token}\n")),
            Err(failure) => failure.end(),
        },
        Some(Command::Schema) => print(&reference::json_schema()),
        Some(Command::Certs(Certs::Dev { dir })) => match (hooks.make_dev_certs)(&dir) {
            Ok(told) => print(&format!("{told}\n")),
            Err(error) => fail(&error),
        },
        Some(Command::Docs { check: true, root }) => stale_docs(&root),
        Some(Command::Docs { check: false, root }) => write_docs(&root),
    }
}

/// Why a command did not do what it was to do.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// It could have gone well.
    fn failed(message: impl Into<String>) -> Self {
        Self { message: format!("error: {}", message.into()), code: FAILED }
    }

    /// It was asked for wrongly.
    fn wrong(message: impl Into<String>) -> Self {
        Self { message: format!("error: {}", message.into()), code: WRONG }
    }

    /// Tells it; the exit code.
    fn end(&self) -> ExitCode {
        tell(self.message.trim_end());
        ExitCode::from(self.code)
    }

    /// The configuration is wrong.
    fn rejected(rejected: &Rejected) -> Self {
        Self { message: rendered(rejected), code: WRONG }
    }
}

/// Runs a conversation with a gateway to its end.
fn ask(conversation: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let code = runtime.block_on(conversation).unwrap_or_else(|failure| failure.end());
    // A name that is still being looked up need not be waited for.
    runtime.shutdown_background();
    code
}

/// A report for standard error.
fn rendered(rejected: &Rejected) -> String {
    rejected.render(io::stderr().is_terminal())
}

/// Where a listener is reached from this machine: one that is bound to every address, on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// Help and version were asked for; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody to tell when the terminal is gone.
    drop(error.print());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(WRONG),
    }
}

fn check(path: &Path, hooks: &Hooks) -> ExitCode {
    match (hooks.check)(path) {
        Ok(loaded) => print(&format!("{} is fine: {}\n", path.display(), summary(&loaded))),
        Err(rejected) => {
            tell(&rendered(&rejected));
            ExitCode::from(WRONG)
        }
    }
}

/// What a good configuration holds, in one line.
fn summary(loaded: &Loaded) -> String {
    let count = |number: usize, noun: &str| match number {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    };
    let config = &loaded.config;
    format!("{}, {}", count(config.routes.len(), "route"), count(config.upstreams.len(), "upstream"))
}

/// All generated files with their paths from the project's root.
pub fn generated_files() -> Vec<(&'static str, String)> {
    let mut files = reference::files();
    files.push(("docs/metrics.md", meters_reference()));
    files.push(("docs/reasons.md", reasons_reference()));
    files
}

fn write_docs(root: &Path) -> ExitCode {
    for (path, text) in generated_files() {
        let path = root.join(path);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(error) = folder.and_then(|()| fs::write(&path, text)) {
            return fail(&format!("cannot write {}: {error}", path.display()));
        }
    }
    ExitCode::SUCCESS
}

fn stale_docs(root: &Path) -> ExitCode {
    let stale =
        |(path, text): &(&str, String)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(text);
    let files: Vec<_> = generated_files().into_iter().filter(stale).map(|(path, _)| path).collect();
    if files.is_empty() {
        return ExitCode::SUCCESS;
    }
    fail(&format!("stale: {}; run `cargo xtask docs`", files.join(", ")))
}

/// Writes to standard output; a reader that went away is no failure of ours.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&format!("cannot print: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

fn fail(message: &str) -> ExitCode {
    tell(&format!("error: {message}"));
    ExitCode::FAILURE
}

fn tell(message: &str) {
    // Nobody to tell when standard error is gone.
    drop(writeln!(io::stderr(), "{message}"));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::config::load;

    use super::*;

    fn command(words: &[&str]) -> Cli {
        Cli::try_parse_from([&["tidegate"], words].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_runs() {
        assert!(command(&["--config", "x.toml"]).command.is_none());
        assert_eq!(command(&["--config", "x.toml"]).file.config, Path::new("x.toml"));
        assert!(
            matches!(command(&["run"]).command, Some(Command::Run(file)) if file.config.ends_with("tidegate.toml"))
        );
        assert!(matches!(command(&["check", "--config", "y"]).command, Some(Command::Check(_))));
        assert!(matches!(command(&["certs", "dev"]).command, Some(Command::Certs(Certs::Dev { .. }))));
    }

    #[test]
    fn a_good_file_passes_and_a_bad_one_is_wrong_configuration() {
        let hooks =
            Hooks { run: |_| ExitCode::FAILURE, check: load, make_dev_certs: |_| Err("not here".to_owned()) };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        fs::write(&file, "").unwrap();
        assert_eq!(check(&file, &hooks), ExitCode::SUCCESS);
        fs::write(&file, "lisen = []").unwrap();
        assert_eq!(check(&file, &hooks), ExitCode::from(WRONG));
        assert_eq!(check(&folder.path().join("none.toml"), &hooks), ExitCode::from(WRONG));
    }

    #[test]
    fn generated_files_are_written_and_then_fresh() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(stale_docs(folder.path()), ExitCode::FAILURE);
        assert_eq!(write_docs(folder.path()), ExitCode::SUCCESS);
        assert_eq!(stale_docs(folder.path()), ExitCode::SUCCESS);
    }
}
