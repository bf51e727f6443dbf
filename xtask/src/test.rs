//! `cargo xtask test`: everything the project proves about itself, step by step, ending with the counts.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::workspace::{cargo, run as run_command};
use crate::{Doing as _, Failure, Outcome, demo, drill, fuzz, licences, packages, properties, provider};

/// Runs the steps in order and stops at the first that fails.
///
/// Ends with a table of what ran and how long it took, and a last line `N passed, M failed`.
pub(crate) fn run() -> ExitCode {
    let mut report = Report::default();
    let outcome = steps(&mut report);
    report.print();
    // A step that failed without a failing test (a warning, a licence, code that does not compile) fails too.
    let failed = if outcome.is_err() { report.counts.failed.max(1) } else { report.counts.failed };
    println!("{} passed, {failed} failed", report.counts.passed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Quick and telling before slow. Lints come before the build: they need no code to be generated, so a mistake
/// shows in half the time.
fn steps(report: &mut Report) -> Outcome {
    report.step("packages", |_| {
        packages::ensure(packages::BUILD)?;
        packages::ensure(packages::TEST)?;
        // Lints look at all that is in the workspace.
        packages::ensure(packages::FUZZ)?;
        packages::ensure_rust_components()
    })?;
    report.step("format", |_| run_command(&mut cargo(&["fmt", "--all", "--check"])))?;
    // For this platform only; later steps then need no network.
    report.step("download", |_| {
        run_command(cargo(&["fetch", "--locked", "--target"]).arg(packages::host()?))
    })?;
    report.step("licences and sources", |_| licences::check())?;
    if packages::present("cargo-deny") {
        report.step("cargo deny", |_| deny())?;
    } else {
        report.skip("cargo deny", "not installed: advisories not checked, licences and sources were");
    }
    report.step("clippy", |_| {
        run_command(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    // `--all-targets` here and the tests below ask for the same features, so each dependency is built once; a
    // plain build would leave out those that tests add, and the tests would build half the tree again.
    // What is fuzzed is built in its own way.
    report.step("build", |_| {
        let words = ["build", "--workspace", "--exclude", "tidegate-fuzz", "--all-targets", "--locked"];
        run_command(&mut cargo(&words))
    })?;
    report.step("tests", runners)?;
    report.step("provider", |_| provider::play())?;
    report.step("properties", |_| properties::short())?;
    report.step("fuzz", |_| fuzz::all_short())?;
    report.step("drills", |_| drill::all_short())?;
    report.step("demo", |_| demo::once())
}

/// `cargo deny` where somebody installed it; the licences were checked without it.
fn deny() -> Outcome {
    run_command(&mut cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    if !advisories_present() {
        println!("advisories not checked: no database here (`cargo deny fetch` brings it)");
        return Ok(());
    }
    run_command(&mut cargo(&["deny", "--offline", "check", "advisories"]))
}

fn advisories_present() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(Into::into);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    home.is_some_and(|home| ["advisory-dbs", "advisory-db"].iter().any(|name| filled(&home.join(name))))
}

fn filled(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Every test runner of the workspace, one after the other, even when one of them fails.
fn runners(counts: &mut Counts) -> Outcome {
    let mut command =
        cargo(&["test", "--workspace", "--exclude", "tidegate-fuzz", "--locked", "--no-fail-fast"]);
    // Snapshots are compared, never written.
    command.env("INSTA_UPDATE", "no").env("INSTA_WORKSPACE_ROOT", crate::workspace::root());
    let mut child = command.stdout(Stdio::piped()).spawn().doing(|| "cargo test".to_owned())?;
    let output = child.stdout.take().expect("standard output is piped");
    for line in BufReader::new(output).split(b'\n') {
        let line = line.doing(|| "output of cargo test".to_owned())?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait().doing(|| "cargo test".to_owned())?;
    match (status.success(), counts.passed) {
        (false, _) => Err(Failure(format!("`cargo test` failed ({status})"))),
        (true, 0) => Err(Failure::new("`cargo test` ran no test")),
        (true, _) => Ok(()),
    }
}

/// Tests that passed and failed, summed over runners.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Adds what a runner's last line says: `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// What ran, how long it took and how it ended.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Duration, &'static str)>,
    counts: Counts,
}

impl Report {
    fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Counts) -> Outcome) -> Outcome {
        println!("\n== {name}");
        let began = Instant::now();
        let outcome = work(&mut self.counts);
        self.steps.push((name, began.elapsed(), if outcome.is_ok() { "ok" } else { "FAILED" }));
        if let Err(failure) = &outcome {
            eprintln!("error: {name}: {}", failure.0);
        }
        outcome
    }

    fn skip(&mut self, name: &'static str, why: &'static str) {
        println!("\n== {name}\n{why}");
        self.steps.push((name, Duration::ZERO, why));
    }

    fn print(&self) {
        println!();
        for (name, took, verdict) in &self.steps {
            println!("{name:<24}{:>8.1} s  {verdict}", took.as_secs_f64());
        }
        let whole: Duration = self.steps.iter().map(|(_, took, _)| *took).sum();
        println!("{:<24}{:>8.1} s", "in all", whole.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_runners() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test route::finds ... ok");
        assert_eq!(counts, Counts { passed: 15, failed: 2 });
    }

    #[test]
    fn a_failed_step_is_in_the_report() {
        let mut report = Report::default();
        assert!(report.step("one", |_| Ok(())).is_ok());
        assert!(report.step("two", |_| Err(Failure::new("no"))).is_err());
        report.skip("three", "not here");
        let ended: Vec<_> = report.steps.iter().map(|(name, _, verdict)| (*name, *verdict)).collect();
        assert_eq!(ended, [("one", "ok"), ("two", "FAILED"), ("three", "not here")]);
    }
}
