//! `cargo xtask conformance`: the public suite for HTTP caches, played through the gateway.
//!
//! The suite is http-tests/cache-tests, from npm under `target/`. It brings an origin and a client; between them
//! stands a gateway with one route that stores what the standard lets a cache store.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::children::Children;
use crate::packages::{NODE, ensure};
use crate::ports::free_address;
use crate::workspace::{binary, cargo, output, run as carry_out, target};
use crate::{Doing as _, Failure, Outcome};

/// The suite as npm has it.
const SUITE: &str = "http-cache-tests@0.4.5";
/// What this version of the suite asks for and its later ones do not, each with the reason.
const OUTDATED: [(&str, &[&str]); 3] = [
    (
        "an Age that is no number counts for nothing, and of several the first counts (RFC 9111 section 5.1)",
        &[
            "age-parse-nonnumeric",
            "age-parse-negative",
            "age-parse-float",
            "age-parse-prefix",
            "age-parse-prefix-twoline",
            "age-parse-dup-0",
            "age-parse-dup-0-twoline",
            "age-parse-dup-old",
            "age-parse-parameter",
            "age-parse-numeric-parameter",
        ],
    ),
    (
        "a 304 replaces every field that section 3.2 does not except",
        &[
            "304-etag-update-response-Content-Encoding",
            "304-etag-update-response-Content-MD5",
            "304-etag-update-response-Content-Range",
            "304-etag-update-response-ETag",
        ],
    ),
    (
        "an error of the gateway's own is taken for an answer out of the cache",
        &[
            "stale-close-must-revalidate",
            "stale-close-proxy-revalidate",
            "stale-close-no-cache",
            "stale-close-s-maxage=2",
        ],
    ),
];
/// Fewer optimal ones passed than this is a step back.
const OPTIMAL_LEAST: usize = 80;
/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays the suite and prints the table; an error unless every required test is passed, and enough optimal ones.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let suite: String = arguments.value("--suite", String::new())?;
    let optimal_least = arguments.value("--optimal", OPTIMAL_LEAST)?;
    arguments.end()?;
    ensure(NODE)?;
    let suite = if suite.is_empty() { install()? } else { PathBuf::from(suite) };
    carry_out(&mut cargo(&["build", "--quiet", "--package", "tidegate"]))?;
    let gateway = binary("dev", "tidegate");

    let folder = target().join("conformance");
    fs::create_dir_all(&folder).doing(|| folder.display().to_string())?;
    let results = play(&gateway, &suite, &folder)?;
    let verdicts = judge(&suite, &folder, &results)?;
    println!("{}", table(&verdicts));
    fall_short(&verdicts, optimal_least).map_or(Ok(()), |words| Err(Failure(words)))
}

/// The suite's folder, with all that it needs; from npm the first time.
fn install() -> Outcome<PathBuf> {
    let folder = target().join("conformance/npm");
    let suite = folder.join("node_modules/http-cache-tests");
    if !suite.join("cli.mjs").is_file() {
        fs::create_dir_all(&folder).doing(|| folder.display().to_string())?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
            .arg(&folder)
            .arg(SUITE);
        carry_out(&mut npm)?;
    }
    Ok(suite)
}

/// Plays the suite; gives the file that its client wrote.
fn play(gateway: &Path, suite: &Path, folder: &Path) -> Outcome<PathBuf> {
    let (origin, front) = (free_address()?, free_address()?);
    let config = folder.join("tidegate.toml");
    fs::write(&config, configuration(origin, front)).doing(|| config.display().to_string())?;

    let mut children = Children::new()?;
    let mut server = Command::new("node");
    server.args(["--no-warnings", "server/server.mjs"]).current_dir(suite);
    server.env("npm_config_protocol", "http").env("npm_config_port", origin.port().to_string());
    server.env("npm_config_pidfile", folder.join("origin.pid"));
    children.start("origin", &mut server)?;
    children.start("gateway", Command::new(gateway).args(["run", "--config"]).arg(&config))?;
    children.wait_until(PATIENCE, "both listen", || listens(origin) && listens(front))?;

    let mut client = Command::new("node");
    client.args(["--no-warnings", "cli.mjs"]).current_dir(suite);
    client.env("npm_config_base", format!("http://{front}"));
    // Both are looked at, and the empty one only counts where the other is empty too.
    client.env("npm_config_id", "").env("npm_package_config_id", "");
    let results = folder.join("results.json");
    fs::write(&results, output(&mut client)?).doing(|| results.display().to_string())?;
    Ok(results)
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// One route that keeps what the standard lets a shared cache keep.
fn configuration(origin: SocketAddr, front: SocketAddr) -> String {
    format!(
        "listen = [{{ url = \"http://{front}\", redirect = false }}]\nadmin = \"127.0.0.1:0\"\nlog.access = \"off\"\n\
         [routes.all]\nupstream = \"{origin}\"\n\
         cache = {{ set_cookie = \"store\", stale_if_unreachable = \"1h\" }}\n"
    )
}

/// How one test ended.
#[derive(Debug, PartialEq)]
struct Verdict {
    kind: String,
    id: String,
    /// `pass`, `fail`, `setup`, `retry`, `untested`, or `needs ID` where what it builds on was not passed.
    end: String,
    words: String,
}

/// Lets the suite's own definitions say what each result means: four words a line, parted by tabs.
fn judge(suite: &Path, folder: &Path, results: &Path) -> Outcome<Vec<Verdict>> {
    let script = folder.join("judge.mjs");
    fs::write(&script, JUDGE).doing(|| script.display().to_string())?;
    let mut node = Command::new("node");
    node.arg("--no-warnings").arg(&script).arg(suite).arg(results);
    let lines = output(&mut node)?;
    let verdicts: Vec<_> = lines.lines().filter_map(verdict).collect();
    if verdicts.is_empty() { Err(Failure::new("the suite has no tests")) } else { Ok(verdicts) }
}

fn verdict(line: &str) -> Option<Verdict> {
    let mut words = line.split('\t').map(str::to_owned);
    let (kind, id) = (words.next()?, words.next()?);
    let outdated = OUTDATED.iter().any(|(_, ids)| ids.contains(&id.as_str()));
    let kind = if outdated { "outdated".to_owned() } else { kind };
    Some(Verdict { kind, id, end: words.next()?, words: words.next()? })
}

/// Of `Surrogate-Control`, which the npm package plays besides, the gateway takes no notice.
///
/// A test that builds on another counts only where that one is passed; set-up that failed is told apart.
const JUDGE: &str = r"
import fs from 'node:fs'
import { pathToFileURL } from 'node:url'
const [suite, file] = process.argv.slice(2)
const load = async name => (await import(pathToFileURL(`${suite}/tests/${name}.mjs`))).default
const groups = [...await load('index')]
const results = JSON.parse(fs.readFileSync(file, 'utf8'))
const tests = new Map(groups.flatMap(group => group.tests.map(test => [test.id, test])))
const end = id => {
  const result = results[id]
  if (result === undefined) return 'untested'
  const needs = (tests.get(id).depends_on ?? []).find(other => end(other) !== 'pass')
  if (needs) return `needs ${needs}`
  if (result[0] === 'Setup') return result[1] === 'retry' ? 'retry' : 'setup'
  return result === true ? 'pass' : 'fail'
}
for (const [id, test] of tests) {
  if (test.browser_only) continue
  const words = Array.isArray(results[id]) ? String(results[id][1]).replace(/\s+/g, ' ') : ''
  console.log([test.kind ?? 'required', id, end(id), words].join('\t'))
}
";

/// The kinds of tests, and what one that is not passed is called.
const KINDS: [(&str, &str); 4] = [
    ("required", "not passed"),
    ("optimal", "not passed"),
    ("check", "answered with no"),
    ("outdated", "not passed, and not wanted"),
];

/// The counts, and below them what was not passed.
fn table(verdicts: &[Verdict]) -> String {
    let mut text = "\nkind      passed  of\n".to_owned();
    for (kind, _) in KINDS {
        let (passed, all) = count(verdicts, kind);
        writeln!(text, "{kind:<9} {passed:>6} {all:>3}").expect("a string takes it");
    }
    for (kind, called) in KINDS {
        let rest: Vec<_> = verdicts.iter().filter(|it| it.kind == kind && it.end != "pass").collect();
        if !rest.is_empty() {
            writeln!(text, "\n{kind}, {called}:").expect("a string takes it");
        }
        for it in rest {
            writeln!(text, "  {:<58} {:<10} {}", it.id, it.end, it.words).expect("a string takes it");
        }
    }
    text
}

fn count(verdicts: &[Verdict], kind: &str) -> (usize, usize) {
    let of_kind = || verdicts.iter().filter(|it| it.kind == kind);
    (of_kind().filter(|it| it.end == "pass").count(), of_kind().count())
}

/// Why these verdicts are not good enough; nothing where they are.
fn fall_short(verdicts: &[Verdict], optimal_least: usize) -> Option<String> {
    let (required, all) = count(verdicts, "required");
    let (optimal, _) = count(verdicts, "optimal");
    if required < all {
        return Some(format!("{required} of {all} required tests are passed"));
    }
    (optimal < optimal_least)
        .then(|| format!("{optimal} optimal tests are passed; {optimal_least} are the least"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(lines: &str) -> Vec<Verdict> {
        lines.lines().filter_map(verdict).collect()
    }

    #[test]
    fn all_required_ones_and_enough_optimal_ones_must_be_passed() {
        let good = "required\ta\tpass\t\noptimal\tb\tpass\t\noptimal\tc\tfail\twords\ncheck\td\tsetup\twords";
        assert_eq!(fall_short(&verdicts(good), 1), None);
        assert!(fall_short(&verdicts(good), 2).is_some());
        assert!(fall_short(&verdicts(&good.replace("a\tpass", "a\tneeds x")), 0).is_some());
    }

    #[test]
    fn the_table_counts_and_names_what_is_missing() {
        let text = table(&verdicts("required\ta\tpass\t\nrequired\tb\tneeds a\twords\noptimal\tc\tpass\t"));
        assert!(text.contains("required       1   2\n") && text.contains("optimal        1   1\n"), "{text}");
        assert!(text.contains("  b ") && text.contains("needs a"), "{text}");
        assert!(!text.contains("  a ") && !text.contains("optimal, "), "{text}");
    }
}
