//! `cargo xtask properties`: the user-service against its own description.
//!
//! Schemathesis, from `PyPI` under `target/`, makes up requests by the OpenAPI document, good ones and bad ones, alone and in
//! chains, and holds each answer to what the document says of it. It does so over SQLite and over PostgreSQL.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::children::Children;
use crate::packages::{PYTHON, ensure, ensure_python_environments};
use crate::ports::free_address;
use crate::postgres::Server;
use crate::workspace::{binary, cargo, run as carry_out, target};
use crate::{Doing as _, Failure, Outcome, http};

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// Cases over each database: what the long form plays, and what the tests do.
const CASES: u64 = 5_000;
const CASES_SHORT: u64 = 300;

/// Examples of one operation and phase in a round.
const EXAMPLES_MOST: u64 = 60;

/// The gateway that the tester plays: the service is closed, and the tester sees to it that it is.
const SECRET: &str = "a-secret-of-the-tester-0123456789abcdef";

/// The tester and all that it needs, byte for byte.
const REQUIREMENTS: &str = include_str!("properties/requirements.txt");
/// What the tester is told beside that, by the names of the files.
const BESIDE: [(&str, &str); 2] = [
    ("schemathesis.toml", include_str!("properties/schemathesis.toml")),
    ("hooks.py", include_str!("properties/hooks.py")),
];

/// Paths that are left out, each with the reason.
const LEFT_OUT: [(&str, &str); 1] =
    [("/events", "its answer does not end, and the tester waits for the end")];

/// Builds the service and plays the long form, or as many cases as are asked for.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let cases = arguments.value("--cases", CASES)?;
    let seed = arguments.value("--seed", 1)?;
    arguments.end()?;
    carry_out(&mut cargo(&["build", "--quiet", "--package", "user-service"]))?;
    play(cases, seed)
}

/// The short form, with the service that is built.
pub(crate) fn short() -> Outcome {
    play(CASES_SHORT, 1)
}

fn play(cases: u64, seed: u64) -> Outcome {
    ensure(PYTHON)?;
    ensure_python_environments()?;
    let folder = target().join("properties");
    install(&folder)?;
    for (path, reason) in LEFT_OUT {
        println!("left out {path}: {reason}");
    }
    let file = folder.join("users.db");
    for left in [file.clone(), folder.join("users.db-wal"), folder.join("users.db-shm")] {
        let _ = fs::remove_file(left);
    }
    over("SQLite", &format!("sqlite://{}", file.display()), &folder, cases, seed)?;
    let server = Server::start("");
    over("PostgreSQL", &server.url("postgres"), &folder, cases, seed)
}

/// Puts the tester into an environment of its own; from `PyPI` the first time, and when its version changes.
fn install(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).doing(|| folder.display().to_string())?;
    let (environment, wanted) = (folder.join("venv"), folder.join("requirements.txt"));
    let installed = environment.join("requirements.txt");
    for (name, text) in BESIDE {
        fs::write(folder.join(name), text).doing(|| name.to_owned())?;
    }
    if fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(());
    }
    fs::write(&wanted, REQUIREMENTS).doing(|| wanted.display().to_string())?;
    carry_out(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-r",
    ]);
    carry_out(pip.arg(&wanted))?;
    // Written once all is there, so that an install that broke off is made again.
    fs::write(&installed, REQUIREMENTS).doing(|| installed.display().to_string())
}

/// Plays rounds over one database until there were enough cases; an error at the first that fails.
fn over(name: &str, database: &str, folder: &Path, cases: u64, seed: u64) -> Outcome {
    let mut children = Children::new()?;
    let address = free_address()?;
    let mut service = Command::new(binary("dev", "user-service"));
    service.args(["--listen", &address.to_string()]).env("USER_SERVICE_DATABASE", database);
    service.env("USER_SERVICE_GATEWAY_SECRET", SECRET).env("USER_SERVICE_LOG", "error");
    children.start("user-service", &mut service)?;
    let ready = || http::status(&address.to_string(), "/readyz") == Some(200);
    children.wait_until(PATIENCE, "the user-service is ready", ready)?;
    let (mut played, mut round) = (0, seed);
    while played < cases {
        // Each round begins anew with what is fixed; what is drawn by lot is another each time.
        let told = test(folder, address, (cases - played).div_ceil(20).clamp(1, EXAMPLES_MOST), round)?;
        played += cases_of(&told).ok_or_else(|| Failure(format!("{name}: nothing was played\n{told}")))?;
        round += 1;
    }
    println!("passed   {played} cases over {name}");
    Ok(())
}

/// One round; what the tester says.
fn test(folder: &Path, address: SocketAddr, examples: u64, seed: u64) -> Outcome<String> {
    let tester = folder.join("venv/bin/schemathesis");
    let mut command = Command::new(&tester);
    command.current_dir(folder).env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", folder);
    command
        .args(["--config-file", "schemathesis.toml"])
        .arg("run")
        .arg(format!("http://{address}/openapi.json"))
        .arg("--no-color");
    command.args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string()]);
    // What was found before must not decide what is looked for now.
    command.args(["--generation-database", "none", "--request-timeout", "10", "--continue-on-failure"]);
    command.env("GATEWAY_SECRET", SECRET).args(["--generation-with-security-parameters", "false"]);
    for field in ["X-User-Id: tester", "X-Scopes: users:admin"] {
        command.args(["--header", field]);
    }
    for (path, _) in LEFT_OUT {
        command.args(["--exclude-path", path]);
    }
    let output = command.output().doing(|| tester.display().to_string())?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(told);
    }
    Err(Failure(format!("round {seed}:\n{told}\n{}", String::from_utf8_lossy(&output.stderr))))
}

/// How many cases a round has had: `1234 generated` of its summary.
fn cases_of(told: &str) -> Option<u64> {
    let count =
        told.lines().find_map(|line| line.trim().split_once(" generated, ").map(|(count, _)| count))?;
    count.replace(',', "").parse().ok().filter(|cases| *cases > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let warned = "1 operation mostly rejected generated data, it says\n";
        assert_eq!(cases_of(&format!("{warned}Test cases:\n  1,234 generated, 1,234 passed")), Some(1_234));
        assert_eq!(cases_of("Test cases:\n  0 generated, 0 passed"), None);
        assert_eq!(cases_of("no cases"), None);
    }

    #[test]
    fn every_package_is_pinned_with_its_hashes() {
        let packages = REQUIREMENTS.lines().filter(|line| line.contains("=="));
        assert!(packages.clone().count() > 10);
        assert!(REQUIREMENTS.contains("schemathesis==") && !REQUIREMENTS.contains("://"));
        assert!(packages.into_iter().all(|line| line.ends_with('\\')), "each is followed by a hash");
    }
}
