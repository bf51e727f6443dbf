//! `cargo xtask drill`: what the gateway promises, with real processes, under load, while something goes wrong.
//!
//! Each drill starts its own origin, gateways and Redis on free ports of the loopback, plays for a bounded time, prints
//! what it measured and ends what it started. A broken promise on *what* is answered always fails it. One on *how soon*
//! fails the long form only: the short form is for machines that do other things meanwhile.

pub(crate) mod stage;
pub(crate) mod wire;
mod origin;
mod load;
mod figures;
pub(crate) mod gateway;
mod http2;
mod metrics;
pub(crate) mod redis;
mod rabbit;
pub(crate) mod service;
mod relay;
mod field;
mod bodies;
mod certificates;
mod chaos;
mod deaths;
mod feed;
mod fleet;
mod limits;
mod own_writes;
mod floods;
mod frames;
mod purge;
mod reload;
mod restart;
mod tested;
mod users;

use std::path::PathBuf;
use std::time::Instant;

use crate::arguments::Arguments;
use crate::workspace::{self, binary, cargo};
use crate::{Doing as _, Failure, Outcome, packages};

use figures::Verdict;
use stage::{Scale, Stage};

/// A drill: its name, what it promises, and how it is played.
struct Drill {
    name: &'static str,
    promise: &'static str,
    play: fn(&Stage) -> Outcome<Verdict>,
}

const DRILLS: [Drill; 14] = [
    Drill {
        name: "certificates",
        promise: "no handshake fails while certificates are swapped, and each is shown",
        play: certificates::run,
    },
    Drill {
        name: "cold-restart",
        promise: "a gateway that comes back answers from Redis at once",
        play: restart::run,
    },
    Drill {
        name: "feed",
        promise: "what is written at the service is seen on three gateways, though the broker is killed",
        play: feed::run,
    },
    Drill {
        name: "fleet-expiry",
        promise: "three gateways ask the origin once per expiry, even when one dies over it",
        play: fleet::run,
    },
    Drill {
        name: "fleet-limits",
        promise: "gateways admit together what one would, and their part each while Redis is away",
        play: limits::run,
    },
    Drill {
        name: "h2-floods",
        promise: "whatever clients send over HTTP/2, others are served as before, and memory stays bounded",
        play: floods::run,
    },
    Drill {
        name: "large-bodies",
        promise: "bodies larger than memory should be arrive whole, and memory stays as it was",
        play: bodies::run,
    },
    Drill {
        name: "own-writes",
        promise: "whoever wrote reads it at any gateway, though replicas lag two seconds behind",
        play: own_writes::run,
    },
    Drill {
        name: "purge-races",
        promise: "after a purge nobody is answered with what was fetched before it",
        play: purge::run,
    },
    Drill {
        name: "redis-chaos",
        promise: "whatever happens to Redis, every answer is right and few are later",
        play: chaos::run,
    },
    Drill { name: "reload", promise: "no change of the configuration costs a request", play: reload::run },
    Drill {
        name: "server-deaths",
        promise: "servers that are killed in turn cost no request, and few retries",
        play: deaths::run,
    },
    Drill {
        name: tested::CHAOS,
        promise: "whichever process is killed, users, trail, events, a consumer's ledger and welcomes agree",
        play: |stage| tested::run(stage, tested::CHAOS),
    },
    Drill {
        name: tested::KILLS,
        promise: "services killed at any moment leave users, events and trail alike, and lose no answered write",
        play: |stage| tested::run(stage, tested::KILLS),
    },
];

/// Plays the drill that is named, or all; without a name, lists them.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let short = arguments.flag("--short");
    let secs = arguments.value("--secs", 0_u32)?.min(3_600);
    let scale = Scale { short, secs: (secs > 0).then_some(secs) };
    // Without optimisation a gateway takes ten times as long: enough for what is answered, useless for how soon.
    let profile = arguments.value("--profile", scale.pick("dev", "dist").to_owned())?;
    let there = arguments.value("--binary", PathBuf::new())?;
    let Some(name) = arguments.word() else {
        arguments.end()?;
        list();
        return Ok(());
    };
    arguments.end()?;
    let drills = named(&name)?;
    if !there.as_os_str().is_empty() {
        let there = there.canonicalize().doing(|| there.display().to_string())?;
        return play(&drills, there, scale);
    }
    packages::ensure(packages::BUILD)?;
    println!("building tidegate and user-service ({profile} profile)");
    let words =
        ["build", "--locked", "--profile", &profile, "--package", "tidegate", "--package", "user-service"];
    workspace::run(cargo(&words).arg("--bins"))?;
    play(&drills, binary(&profile, "tidegate"), scale)
}

/// Every drill in its short form, with the binary that is there from the tests.
pub(crate) fn all_short() -> Outcome {
    let mut drills = named("all")?;
    drills.retain(|drill| !tested::NAMES.contains(&drill.name));
    play(&drills, binary("dev", "tidegate"), Scale { short: true, secs: None })
}

fn named(name: &str) -> Outcome<Vec<&'static Drill>> {
    let drills: Vec<_> = DRILLS.iter().filter(|drill| name == "all" || drill.name == name).collect();
    if drills.is_empty() {
        return Err(Failure(format!("no drill `{name}`; `cargo xtask drill` lists them")));
    }
    Ok(drills)
}

fn list() {
    println!("cargo xtask drill NAME|all [--short] [--secs N] [--profile NAME | --binary FILE]\n");
    for Drill { name, promise, .. } in &DRILLS {
        println!("  {name:<14} {promise}");
    }
}

/// Plays all of them, whatever becomes of the first.
fn play(drills: &[&Drill], binary: PathBuf, scale: Scale) -> Outcome {
    packages::ensure(packages::DRILL)?;
    let stage = Stage::new(binary, scale)?;
    let mut failed = Vec::new();
    for drill in drills {
        println!("\n{}: {}", drill.name, drill.promise);
        let began = Instant::now();
        let kept = match (drill.play)(&stage) {
            Ok(verdict) => report(&verdict, scale),
            Err(failure) => {
                println!("error: {}", failure.0);
                false
            }
        };
        let word = if kept { "kept" } else { "BROKEN" };
        println!("{}: {word} ({:.1} s)", drill.name, began.elapsed().as_secs_f64());
        if !kept {
            failed.push(drill.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure(format!("broken: {}", failed.join(", ")))) }
}

/// Prints what was found, and says whether the promise was kept.
fn report(verdict: &Verdict, scale: Scale) -> bool {
    print!("{}", verdict.table);
    for broken in &verdict.broken {
        println!("broken: {broken}");
    }
    let excused = if scale.short { " (not counted in the short form)" } else { "" };
    for late in &verdict.late {
        println!("late: {late}{excused}");
    }
    verdict.broken.is_empty() && (scale.short || verdict.late.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drills_are_found_by_name_and_all_together() {
        assert_eq!(named("all").unwrap().len(), DRILLS.len());
        assert_eq!(named("purge-races").unwrap()[0].name, "purge-races");
        assert!(named("pruge-races").is_err_and(|failure| failure.0.contains("no drill `pruge-races`")));
    }

    #[test]
    fn lateness_counts_in_the_long_form_alone() {
        let late = Verdict { late: vec!["p99".to_owned()], ..Verdict::default() };
        let broken = Verdict { broken: vec!["wrong".to_owned()], ..Verdict::default() };
        for short in [true, false] {
            let scale = Scale { short, secs: None };
            assert_eq!(report(&late, scale), short);
            assert!(!report(&broken, scale));
        }
    }
}
