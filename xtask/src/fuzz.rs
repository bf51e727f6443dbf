//! `cargo xtask fuzz`: every parser that reads what strangers write is given what no stranger has thought of yet.
//!
//! The targets are those of `cargo fuzz`, which hunts longer and needs its own tools. Here they are built with the stable
//! compiler, with every library but ours as the tests have it, and each is run for a bounded time from its seeds.

use std::path::Path;
use std::process::Command;

use crate::arguments::Arguments;
use crate::folder::Folder;
use crate::workspace::{binary, cargo, root, run as run_command};
use crate::{Doing as _, Failure, Outcome, packages};

/// How long each target is run, in seconds.
const SECS: u32 = 60;
const SECS_SHORT: u32 = 4;

/// An input that takes longer is a finding, in seconds; and so is one that takes more memory, in MiB.
const SLOW_SECS: u32 = 5;
const MEMORY_MIB: u32 = 1_024;

/// The longest input, in bytes.
const INPUT_MAX: u32 = 4_096;

/// Runs the target that is named, or all.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let secs = arguments.value("--secs", SECS)?;
    let name = arguments.word();
    arguments.end()?;
    let mut targets = targets()?;
    if let Some(name) = &name {
        targets.retain(|target| target == name);
    }
    if targets.is_empty() {
        return Err(Failure(format!(
            "no target `{}`; they are in fuzz/fuzz_targets",
            name.unwrap_or_default()
        )));
    }
    play(&targets, secs)
}

/// Every target for a few seconds.
pub(crate) fn all_short() -> Outcome {
    play(&targets()?, SECS_SHORT)
}

fn targets() -> Outcome<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&folder).doing(|| folder.display().to_string())?;
    let name = |path: &Path| Some(path.file_stem()?.to_str()?.to_owned());
    let mut targets: Vec<_> = entries.flatten().filter_map(|entry| name(&entry.path())).collect();
    targets.sort_unstable();
    Ok(targets)
}

fn play(targets: &[String], secs: u32) -> Outcome {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::FUZZ)?;
    let mut build = cargo(&["build", "--locked", "--package", "tidegate-fuzz", "--bins"]);
    run_command(build.env("RUSTC_WORKSPACE_WRAPPER", root().join("fuzz/instrument")))?;
    let folder = Folder::new("fuzz")?;
    let mut broken = Vec::new();
    for target in targets {
        println!("\n-- {target}");
        if run_command(&mut hunt(target, secs, folder.path())?).is_err() {
            broken.push(target.as_str());
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure(format!("findings in {}", broken.join(", ")))) }
}

/// The run of one target. What it finds is written to `fuzz/artifacts`, as `cargo fuzz` does.
fn hunt(target: &str, secs: u32, folder: &Path) -> Outcome<Command> {
    let seeds = root().join("fuzz/seeds").join(target);
    if !seeds.is_dir() {
        return Err(Failure(format!("{target} has no seeds: put some into {}", seeds.display())));
    }
    let [found, artifacts] = [folder.join(target), root().join("fuzz/artifacts").join(target)];
    for folder in [&found, &artifacts] {
        std::fs::create_dir_all(folder).doing(|| folder.display().to_string())?;
    }
    let mut hunt = Command::new(binary("dev", target));
    hunt.arg(found).arg(seeds).args([
        format!("-max_total_time={secs}"),
        format!("-max_len={INPUT_MAX}"),
        format!("-timeout={SLOW_SECS}"),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    Ok(hunt)
}
