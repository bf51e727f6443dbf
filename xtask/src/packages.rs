//! Debian packages that a command needs and the machine lacks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::workspace::{output, run};
use crate::{Doing as _, Failure, Outcome};

/// A program and the Debian packages that bring it.
pub(crate) struct Tool {
    program: &'static str,
    packages: &'static [&'static str],
}

const fn tool(program: &'static str, packages: &'static [&'static str]) -> Tool {
    Tool { program, packages }
}

/// What building needs: parts of zlib-ng, zstd, aws-lc and `SQLite` are C. (Without `cc` even this program is
/// not built, but a machine may have one compiler and not the name that build scripts ask for.)
pub(crate) const BUILD: &[Tool] =
    &[tool("cc", &["gcc", "libc6-dev"]), tool("make", &["make"]), tool("cmake", &["cmake"])];

/// What the tests need on top: servers that are started for a test and ended with it.
pub(crate) const TEST: &[Tool] = &[
    tool("redis-server", &["redis-server"]),
    tool("redis-sentinel", &["redis-sentinel"]),
    tool("redis-cli", &["redis-tools"]),
    tool("pebble", &["pebble"]),
    tool("pebble-challtestsrv", &["pebble"]),
    tool("openssl", &["openssl"]),
    tool("dnsmasq", &["dnsmasq-base"]),
    tool("pg_ctl", &["postgresql"]),
    tool("rabbitmq-server", &["rabbitmq-server"]),
    tool("chromium-headless-shell", &["chromium-headless-shell"]),
];

/// What the full demo needs on top.
pub(crate) const DEMO: &[Tool] = &[
    tool("redis-server", &["redis-server"]),
    tool("pg_ctl", &["postgresql"]),
    tool("psql", &["postgresql-client"]),
    tool("rabbitmq-server", &["rabbitmq-server"]),
    tool("curl", &["curl"]),
    tool("openssl", &["openssl"]),
];

/// What the fuzzer needs on top: it is C++.
pub(crate) const FUZZ: &[Tool] = &[tool("c++", &["g++"])];

/// What the bench needs on top: load from outside, a certificate, and the peer.
pub(crate) const BENCH: &[Tool] = &[
    tool("wrk", &["wrk"]),
    tool("h2load", &["nghttp2-client"]),
    tool("openssl", &["openssl"]),
    tool("nginx", &["nginx"]),
];

/// What the bench of the user-service needs: load from outside, and a server.
pub(crate) const USERS: &[Tool] =
    &[tool("wrk", &["wrk"]), tool("initdb", &["postgresql"]), tool("psql", &["postgresql-client"])];

/// What the public suite for HTTP caches and the OpenID Connect provider run on.
pub(crate) const NODE: &[Tool] = &[tool("node", &["nodejs"]), tool("npm", &["npm"])];
/// What the tester of properties runs on, and what it tests the service over.
pub(crate) const PYTHON: &[Tool] = &[tool("python3", &["python3"]), tool("pg_ctl", &["postgresql"])];
/// The part of Python that makes environments, which Debian has apart.
const ENVIRONMENTS: Tool = tool("python3", &["python3-venv"]);
/// What the drills need on top. Redis brings its Sentinel and its client; OpenSSL puts frames under TLS.
pub(crate) const DRILL: &[Tool] = &[
    tool("redis-server", &["redis-server"]),
    tool("redis-cli", &["redis-tools"]),
    tool("openssl", &["openssl"]),
    tool("h2load", &["nghttp2-client"]),
    tool("curl", &["curl"]),
    tool("pg_ctl", &["postgresql"]),
    tool("rabbitmq-server", &["rabbitmq-server"]),
];

/// What the bench of the cache's saving needs on top.
pub(crate) const SAVING: &[Tool] = &[
    tool("redis-server", &["redis-server"]),
    tool("initdb", &["postgresql"]),
    tool("psql", &["postgresql-client"]),
];

/// Installs the packages of every tool that is not there.
///
/// As root directly, else through `sudo`. No service that a package brings is started.
pub(crate) fn ensure(tools: &[Tool]) -> Outcome {
    let missing: Vec<_> = tools.iter().filter(|tool| !present(tool.program)).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// Installs what Python makes environments with, where it is not there.
pub(crate) fn ensure_python_environments() -> Outcome {
    let asked = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    if asked.is_ok_and(|status| status.success()) { Ok(()) } else { install(&[&ENVIRONMENTS]) }
}

fn install(missing: &[&Tool]) -> Outcome {
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let packages: Vec<_> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    println!("installing {} for {}", packages.join(" "), programs.join(", "));

    let by_hand = format!("install by hand: apt-get install {}", packages.join(" "));
    if !present("apt-get") {
        return Err(Failure(format!("{} missing and no apt-get here; {by_hand}", programs.join(", "))));
    }
    let mut command = as_root().ok_or_else(|| Failure(format!("neither root nor sudo; {by_hand}")))?;
    command.args(["sh", "-c", INSTALL, "install"]).args(&packages).stdin(Stdio::null());
    run(&mut command).map_err(|failure| Failure(format!("{}\n{by_hand}", failure.0)))?;

    match missing.iter().find(|tool| !present(tool.program)) {
        None => Ok(()),
        Some(tool) => Err(Failure(format!("`{}` is still missing after the install", tool.program))),
    }
}

/// Installs the parts of the Rust toolchain that minimal installs leave out.
pub(crate) fn ensure_rust_components() -> Outcome {
    let missing: Vec<_> = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !works(program))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !present("rustup") {
        return Err(Failure(format!(
            "the Rust toolchain lacks {}, and there is no rustup",
            missing.join(", ")
        )));
    }
    run(Command::new("rustup").args(["component", "add"]).args(missing))
}

/// Whether there is a program of that name.
pub(crate) fn present(program: &str) -> bool {
    find(program).is_some()
}

/// The file of a program on the search path, or where Debian keeps servers, PostgreSQL's with each version apart.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .chain(postgresql())
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn postgresql() -> impl Iterator<Item = PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin"))
}

// A rustup shim is there even where its component is not, so that presence alone says nothing.
fn works(program: &str) -> bool {
    let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

// `policy-rc.d` answering 101 is Debian's way to say "start nothing" while packages are set up. One that is
// there already is left alone, and ours goes away however the script ends.
const INSTALL: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
"#;

/// A command that runs what follows as root: as it is, or through `sudo`. None where neither can be.
fn as_root() -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        return Some(Command::new("env"));
    }
    present("sudo").then(|| Command::new("sudo"))
}

/// The version line of a program, for reports.
pub(crate) fn version(program: &Path, flag: &str) -> Outcome<String> {
    let text = Command::new(program).arg(flag).output().doing(|| program.display().to_string())?;
    let words = [text.stdout, text.stderr].concat();
    Ok(String::from_utf8_lossy(&words).lines().next().unwrap_or_default().to_owned())
}

/// The machine's name for the platform Rust builds for, such as `x86_64-unknown-linux-gnu`.
pub(crate) fn host() -> Outcome<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| Failure::new("`rustc -vV` names no host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_there_installs_nothing() {
        assert!(ensure(&[tool("sh", &["a-package-that-does-not-exist"])]).is_ok());
    }

    #[test]
    fn a_program_is_present_when_it_lies_on_the_path() {
        assert!(present("sh"));
        assert!(!present("no-such-program-anywhere"));
    }
}
