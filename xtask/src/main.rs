//! What `cargo xtask …` runs: the demo, the tests, the drills, the bench, the public suite, the generated pages.
//!
//! Built before anything else on a fresh machine, so it leans on the standard library, plain threads and two
//! small crates. It ends nothing but the processes that it started itself.

mod arguments;
mod test;
mod licences;
mod demo;
mod docs;
mod bench;
mod drill;
mod fuzz;
mod children;
mod conformance;
mod folder;
mod http;
mod packages;
mod ports;
mod properties;
mod provider;
mod rabbit;
mod workspace;

/// Servers as the service's own tests start them.
#[path = "../../user-service/tests/postgres/server.rs"]
#[expect(dead_code, reason = "tests need more of it")]
#[expect(clippy::unwrap_used, reason = "a fixture of tests, which end where they cannot go on")]
mod postgres;

use std::process::ExitCode;

use arguments::Arguments;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--release]     build, start three user-services and Tidegate in front of them, say what to try
  demo --full [--once] the same with PostgreSQL and replicas, RabbitMQ, Redis, a worker and two gateways; with `--once`
                       a write and reads by both in place of that
  test                 everything the project proves about itself; ends with the counts
  docs [--check]       write the generated pages again, or only say which are stale
  conformance [--suite FOLDER] [--optimal N]
                       the public suite for HTTP caches; every required test must pass, and N optimal ones
  provider             the gateway before a real, certified OpenID Connect provider, from npm
  properties [--cases N] [--seed N]
                       the user-service against its own description, over SQLite and PostgreSQL, by a tester from PyPI
  drill [NAME|all] [--short] [--secs N] [--profile NAME | --binary FILE]
                       what holds while Redis, gateways, servers and purges go wrong, over a reload, and with large
                       bodies; alone, lists the drills
  fuzz [NAME] [--secs N]
                       every parser that reads what strangers write, or one, for so long each
  bench-users [--users N] [--secs N] [--profile NAME | --binary FILE]
                       the user-service alone: an import, an export, pages, reads and writes, over SQLite and
                       PostgreSQL
  bench [--secs N] [--rounds N] [--profile NAME | --binary FILE] [--before FILE] [--case WORDS] [--perf]
                       requests per second and CPU time per request, beside nginx (and Varnish where it is, and
                       an earlier build where one is named)
  bench cache-saving [--requests N] [--profile NAME | --binaries FOLDER]
                       what the cache spares a PostgreSQL while 1 % of the requests write
";

/// Why a command ended early: words for the person who ran it.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

/// What a command comes to.
type Outcome<T = ()> = Result<T, Failure>;

/// Says what was being done when an error came up.
trait Doing<T> {
    /// Puts `what` before the error.
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{}: {error}", what())))
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::of_this_process();
    let outcome = match arguments.word().as_deref() {
        // Its last line is the count, so it prints its own failure.
        Some("test") => return arguments.end().map_or_else(complain, |()| test::run()),
        Some("demo") => demo::run(arguments),
        Some("docs") => docs::run(arguments),
        Some("bench") => bench::run(arguments),
        Some("bench-users") => bench::users::run(arguments),
        Some("conformance") => conformance::run(arguments),
        Some("provider") => provider::run(arguments),
        Some("properties") => properties::run(arguments),
        Some("drill") => drill::run(arguments),
        Some("fuzz") => fuzz::run(arguments),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(Failure(format!("no command `{other}`\n\n{USAGE}"))),
        None => Err(Failure(format!("which command?\n\n{USAGE}"))),
    };
    outcome.map_or_else(complain, |()| ExitCode::SUCCESS)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_or_else` asks for")]
fn complain(failure: Failure) -> ExitCode {
    eprintln!("error: {}", failure.0);
    ExitCode::FAILURE
}
