//! `cargo xtask bench`: requests per second and CPU time per request of the whole process, beside nginx.
//!
//! Everything is on loopback and on free ports, one proxy at a time, pinned to one core while load and origin
//! have the others. CPU time per request is the figure to trust: it does not depend on who waits for whom.
//! Rounds interleave the proxies, and medians are taken, since a busy machine drifts. Differences under a tenth
//! are not resolved.

mod cases;
pub(crate) mod cpu;
mod database;
mod idle;
mod load;
mod origin;
mod peers;
mod perf;
mod saving;
mod table;
pub(crate) mod users;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::children::Children;
use crate::drill::redis::Redis;
use crate::drill::stage::{Scale, Stage};
use crate::folder::Folder;
use crate::workspace::{self, binary, cargo};
use crate::{Doing as _, Failure, Outcome, packages};

use cases::{CASES, Case, Kind, Reach};
use cpu::{number, used_us};
use idle::{IDLE, Idle};
use origin::Origin;
use peers::{Peer, Site};
use table::{Figure, Row, table};

/// Seconds of load before a measurement, so that connections, caches and pools are warm.
const WARM_SECS: u32 = 1;
/// How often at most a proxy is warmed up until it asks the origin no more.
const WARM_UPS_MAX: u32 = 10;
const START_WITHIN: Duration = Duration::from_secs(30);

/// How much is measured.
struct Scope {
    secs: u32,
    rounds: u32,
    cases: Vec<&'static Case>,
    idle: Vec<&'static Idle>,
    perf: bool,
    /// Another build of ours, to be measured in the same rounds.
    before: Option<PathBuf>,
}

/// Builds what ships, runs every round, prints the table.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    if arguments.flag("cache-saving") {
        return saving::run(arguments);
    }
    let secs = arguments.value("--secs", 3_u32)?.clamp(1, 60);
    let rounds = arguments.value("--rounds", 3_u32)?.clamp(1, 100);
    let profile = arguments.value("--profile", "dist".to_owned())?;
    let there = arguments.value("--binary", PathBuf::new())?;
    let before = arguments.value("--before", PathBuf::new())?;
    let wanted = arguments.value("--case", String::new())?;
    let perf = arguments.flag("--perf");
    arguments.end()?;
    let cases: Vec<_> = CASES.iter().filter(|case| case.name.contains(&wanted)).collect();
    let idle: Vec<_> = IDLE.iter().filter(|idle| idle.name.contains(&wanted)).collect();
    if cases.is_empty() && idle.is_empty() {
        let all: Vec<_> =
            CASES.iter().map(|case| case.name).chain(IDLE.iter().map(|idle| idle.name)).collect();
        return Err(Failure(format!(
            "no case has `{wanted}` in its name; there are\n  {}",
            all.join("\n  ")
        )));
    }
    packages::ensure(packages::BENCH)?;
    let binary = program(&profile, &there)?;
    let before = given(&before)?;
    measure_all(&Scope { secs, rounds, cases, idle, perf, before }, binary)
}

/// The program that an option names, if it is given.
fn given(there: &Path) -> Outcome<Option<PathBuf>> {
    if there.as_os_str().is_empty() {
        return Ok(None);
    }
    there.canonicalize().doing(|| there.display().to_string()).map(Some)
}

fn program(profile: &str, there: &Path) -> Outcome<PathBuf> {
    if let Some(there) = given(there)? {
        return Ok(there);
    }
    packages::ensure(packages::BUILD)?;
    println!("building tidegate ({profile} profile; the dist profile takes minutes)");
    let words = ["build", "--locked", "--profile", profile, "--package", "tidegate", "--bins"];
    workspace::run(&mut cargo(&words))?;
    Ok(binary(profile, "tidegate"))
}

fn measure_all(scope: &Scope, binary: PathBuf) -> Outcome {
    let folder = Folder::new("bench")?;
    let origin = Origin::start()?;
    let site = Site::prepare(folder.path(), origin.address())?;
    let stage = Stage::new(binary, Scale { short: false, secs: None })?;
    let redis = Redis::start(&stage, &[])?;
    let plays = |peer: &Peer| {
        scope.cases.iter().any(|case| peer.is_for(case.site))
            || (!scope.idle.is_empty() && peer.is_for(Kind::Edge))
    };
    let peers: Vec<_> = Peer::here(stage.binary(), scope.before.as_deref(), redis.address())
        .into_iter()
        .filter(plays)
        .collect();
    for (program, flag) in [("nginx", "-v"), ("varnishd", "-V")] {
        if let Some(file) = packages::find(program) {
            println!("beside {}", packages::version(&file, flag)?);
        }
    }

    let core = spare_core();
    let names = |case: &&Case| {
        peers.iter().filter(|peer| peer.is_for(case.site)).map(|peer| (peer.name(), Vec::new())).collect()
    };
    let mut rows: Vec<Row> = scope.cases.iter().map(|case| (*case, names(case))).collect();
    let mut children = Children::new()?;
    let rounds = if scope.cases.is_empty() { 0 } else { scope.rounds };
    for round in 0..rounds {
        let mut order: Vec<&Peer> = peers.iter().collect();
        // Whoever comes first in one round comes last in the next, so that a drifting machine favours nobody.
        order.rotate_left(round as usize % peers.len());
        for peer in order {
            let pids = start(&mut children, peer, &site, core)?;
            for (case, results) in rows.iter_mut().filter(|(case, _)| peer.is_for(case.site)) {
                let figure = measure(case, &site, &origin, &pids, scope)?;
                let Figure { per_second, cpu_us } = figure;
                let (number, name) = (round + 1, peer.name());
                let case = case.name;
                println!(
                    "round {number}  {name:<9} {case:<23} {per_second:>9.0} req/s {cpu_us:>7.1} us CPU/request"
                );
                results.iter_mut().filter(|(found, _)| *found == name).for_each(|(_, all)| all.push(figure));
                if children.stopping() {
                    return Err(Failure::new("stopped"));
                }
            }
            children.end(peer.name());
        }
    }
    if !scope.cases.is_empty() {
        print!("{}", table(&rows));
    }
    // Once: what a connection holds does not depend on what else the machine does.
    for idle in &scope.idle {
        for peer in peers.iter().filter(|peer| peer.is_for(Kind::Edge)) {
            // Each begins with an empty process.
            let pids = start(&mut children, peer, &site, core)?;
            let kib = idle.measure(&mut children, &site, &pids)?;
            let above = kib > idle::TARGET_KIB && peer.name() == "tidegate";
            let note = if above { format!("  above {:.0}", idle::TARGET_KIB) } else { String::new() };
            println!("{:<37} {:<9} {kib:>6.1} KiB{note}", idle.name, peer.name());
            children.end(peer.name());
        }
    }
    Ok(())
}

/// Starts all parts of a proxy and waits until it accepts connections; gives their numbers.
fn start(children: &mut Children, peer: &Peer, site: &Site, core: Option<usize>) -> Outcome<Vec<u32>> {
    let mut pids = Vec::new();
    for program in peer.commands(site)? {
        pids.push(children.start(peer.name(), &mut pinned(core, &program))?);
    }
    let accepts = || std::net::TcpStream::connect(site.address()).is_ok();
    children.wait_until(START_WITHIN, &format!("{} accepts connections", peer.name()), accepts)?;
    Ok(pids)
}

fn measure(case: &Case, site: &Site, origin: &Origin, pids: &[u32], scope: &Scope) -> Outcome<Figure> {
    let server = site.server(case.site);
    for _ in 0..WARM_UPS_MAX {
        let before = origin.requests();
        case.load.run(&server, case.path, WARM_SECS, site)?;
        if case.reach == Reach::Origin || origin.requests() == before {
            break;
        }
    }
    let (asked, cpu) = (origin.requests(), used_us(pids)?);
    let profile = if scope.perf { perf::start(pids, scope.secs, case.name)? } else { None };
    let answers = case.load.run(&server, case.path, scope.secs, site)?;
    let (asked, cpu) = (origin.requests() - asked, used_us(pids)? - cpu);
    profile.map_or(Ok(()), perf::Profile::print)?;

    let share = number(asked) / answers.requests.max(1.0);
    if !case.reach.is_as_meant(share) {
        let percent = share * 100.0;
        return Err(Failure(format!("{}: {percent:.0} % of the requests reached the origin", case.name)));
    }
    Ok(Figure { per_second: answers.per_second, cpu_us: cpu / answers.requests.max(1.0) })
}

/// The core that proxies get, with this process and what it starts moved off it; none where there is only one.
fn spare_core() -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = cores.checked_sub(1).filter(|&core| core > 0)?;
    let rest = format!("0-{}", core - 1);
    let me = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-a", "-c", "-p", &rest, &me]).output();
    moved.is_ok_and(|output| output.status.success()).then_some(core)
}

fn pinned(core: Option<usize>, program: &Command) -> Command {
    let Some(core) = core else {
        let mut command = Command::new(program.get_program());
        command.args(program.get_args());
        return command;
    };
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program.get_program()).args(program.get_args());
    command
}
