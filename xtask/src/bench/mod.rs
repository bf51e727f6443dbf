//! `cargo xtask bench`: requests per second and CPU time per request of the whole process, beside nginx.
//!
//! Everything is on loopback and on free ports, one proxy at a time, pinned to one core while load and origin
//! have the others. CPU time per request is the figure to trust: it does not depend on who waits for whom.
//! Rounds interleave the proxies, and medians are taken, since a busy machine drifts. Differences under a tenth
//! are not resolved.

mod load;
mod origin;
mod peers;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::children::Children;
use crate::workspace::{self, binary, cargo};
use crate::{Doing as _, Failure, Outcome, packages};

use load::Load;
use origin::Origin;
use peers::{Peer, Site};

/// Seconds of load before a measurement, so that connections, caches and pools are warm.
const WARM_SECS: u32 = 1;
const START_WITHIN: Duration = Duration::from_secs(30);
/// Linux accounts in hundredths of a second towards programs, whatever the kernel's own tick.
const TICKS_PER_SEC: f64 = 100.0;

/// One thing that is measured: a path, spoken in one version of HTTP.
struct Case {
    name: &'static str,
    path: &'static str,
    load: Load,
    /// Whether every request is to reach the origin, or none.
    passes: bool,
}

const CASES: [Case; 4] = [
    Case { name: "h1 pass-through 1 KiB", path: "/pass/1k", load: Load::Http1, passes: true },
    Case { name: "h2 pass-through 1 KiB", path: "/pass/1k", load: Load::Http2, passes: true },
    Case { name: "h1 memory hit 1 KiB", path: "/hit/1k", load: Load::Http1, passes: false },
    Case { name: "h2 memory hit 1 KiB", path: "/hit/1k", load: Load::Http2, passes: false },
];

/// What one measurement gave.
#[derive(Clone, Copy)]
struct Figure {
    per_second: f64,
    cpu_us: f64,
}

/// Builds what ships, runs every round, prints the table.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let secs = arguments.value("--secs", 3_u32)?.clamp(1, 60);
    let rounds = arguments.value("--rounds", 3_u32)?.clamp(1, 100);
    let profile = arguments.value("--profile", "dist".to_owned())?;
    arguments.end()?;
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::BENCH)?;
    println!("building tidegate ({profile} profile; the dist profile takes minutes)");
    workspace::run(&mut cargo(&[
        "build",
        "--locked",
        "--profile",
        &profile,
        "--package",
        "tidegate",
        "--bins",
    ]))?;

    let folder = Folder::new()?;
    let origin = Origin::start()?;
    let site = Site::prepare(&folder.0, origin.address())?;
    let nginx = packages::find("nginx").ok_or_else(|| Failure::new("nginx is not here"))?;
    println!("beside {}", packages::version(&nginx, "-v")?);
    let peers = [Peer::Tidegate(binary(&profile, "tidegate")), Peer::Nginx(nginx)];

    let core = spare_core();
    let mut figures = vec![vec![Vec::new(); peers.len()]; CASES.len()];
    let mut children = Children::new()?;
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..peers.len()).collect();
        // Whoever comes first in one round comes last in the next, so that a drifting machine favours nobody.
        order.rotate_left(round as usize % peers.len());
        for peer in order {
            let pid = start(&mut children, &peers[peer], &site, core)?;
            for (case, results) in CASES.iter().zip(&mut figures) {
                let figure = measure(case, &site, &origin, pid, secs)?;
                let name = peers[peer].name();
                println!(
                    "round {}  {name:<9} {:<22} {:>9.0} req/s {:>7.1} us CPU/request",
                    round + 1,
                    case.name,
                    figure.per_second,
                    figure.cpu_us
                );
                results[peer].push(figure);
                if children.stopping() {
                    return Err(Failure::new("stopped"));
                }
            }
            children.end(peers[peer].name());
        }
    }
    print!("{}", table(&peers, &figures));
    Ok(())
}

fn start(children: &mut Children, peer: &Peer, site: &Site, core: Option<usize>) -> Outcome<u32> {
    let program = peer.command(site)?;
    let mut command = pinned(core, &program);
    let id = children.start(peer.name(), &mut command)?;
    let accepts = || std::net::TcpStream::connect(site.address()).is_ok();
    children.wait_until(START_WITHIN, &format!("{} accepts connections", peer.name()), accepts)?;
    Ok(id)
}

fn measure(case: &Case, site: &Site, origin: &Origin, pid: u32, secs: u32) -> Outcome<Figure> {
    let url = format!("https://{}{}", site.address(), case.path);
    case.load.run(&url, WARM_SECS, site)?;
    let (asked, cpu) = (origin.requests(), cpu_ticks(pid)?);
    let answers = case.load.run(&url, secs, site)?;
    let (asked, cpu) = (origin.requests() - asked, cpu_ticks(pid)? - cpu);

    let reached = number(asked) / answers.requests.max(1.0);
    let as_meant = if case.passes { reached > 0.95 } else { reached < 0.02 };
    if !as_meant {
        let share = reached * 100.0;
        return Err(Failure(format!("{}: {share:.0} % of the requests reached the origin", case.name)));
    }
    let cpu_us = number(cpu) / TICKS_PER_SEC * 1e6 / answers.requests.max(1.0);
    Ok(Figure { per_second: answers.per_second, cpu_us })
}

#[expect(clippy::cast_precision_loss, reason = "a bench counts far fewer than 2^52 of anything")]
fn number(count: u64) -> f64 {
    count as f64
}

/// CPU time that all threads of a process have used so far, in ticks (proc(5): `utime` and `stime`).
fn cpu_ticks(pid: u32) -> Outcome<u64> {
    let file = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&file).doing(|| file.clone())?;
    ticks_of(&text).ok_or_else(|| Failure(format!("{file} is not as expected")))
}

fn ticks_of(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything; count from its end.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
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

fn table(peers: &[Peer], figures: &[Vec<Vec<Figure>>]) -> String {
    let mut text =
        format!("\n{:<22} {:<9} {:>9} {:>15} {:>8}\n", "median", "", "req/s", "us CPU/request", "x nginx");
    for (case, results) in CASES.iter().zip(figures) {
        // nginx is the last of the peers.
        let base = results.last().map_or(f64::NAN, |results| median(results, |figure| figure.cpu_us));
        for (peer, results) in peers.iter().zip(results) {
            let (per_second, cpu) =
                (median(results, |figure| figure.per_second), median(results, |figure| figure.cpu_us));
            let _ = writeln!(
                text,
                "{:<22} {:<9} {per_second:>9.0} {cpu:>15.1} {:>8.2}",
                case.name,
                peer.name(),
                cpu / base
            );
        }
    }
    text
}

fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// A folder of our own under the system's temporary one, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
        std::fs::create_dir(&path).doing(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        eprintln!("{} is left behind: {error}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_program_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 106 0 0 0 25 17 0 0 20 0 1 0 1 1 1";
        assert_eq!(ticks_of(stat), Some(42));
        assert_eq!(ticks_of("7 (x) S 1"), None);
    }

    #[test]
    fn this_process_has_a_cpu_time() {
        assert!(cpu_ticks(std::process::id()).is_ok());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let figures = [1.0, 9.0, 3.0, 5.0].map(|cpu_us| Figure { per_second: 0.0, cpu_us });
        assert!((median(&figures, |figure| figure.cpu_us) - 4.0).abs() < f64::EPSILON);
    }
}
