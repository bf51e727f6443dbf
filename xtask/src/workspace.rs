//! Where the workspace lies, and cargo run on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::{Doing as _, Failure, Outcome};

/// The folder that holds the workspace's `Cargo.toml`.
///
/// The checkout whose cargo runs us, which with a shared target directory need not be the one that built us.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let crate_folder =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&crate_folder).parent().map(Path::to_owned);
        root.expect("the crate lies in a folder of the workspace")
    });
    &ROOT
}

/// The cargo that runs us, from the workspace's root.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(root());
    // What cargo tells the programs it runs is about us, not about what we ask of it: left in place it would
    // change the environment that build scripts watch, and rebuild for nothing.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end with this terminal; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let name = describe(command);
    let status = command.status().doing(|| format!("`{name}` could not be started"))?;
    if status.success() { Ok(()) } else { Err(Failure(format!("`{name}` failed ({status})"))) }
}

/// Runs a command to its end and gives what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let name = describe(command);
    let output = command.output().doing(|| format!("`{name}` could not be started"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failure(format!("`{name}` failed ({})\n{}", output.status, words.trim_end())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The file of a program that cargo built in `profile`.
pub(crate) fn binary(profile: &str, name: &str) -> PathBuf {
    let folder = if profile == "dev" { "debug" } else { profile };
    target().join(folder).join(name)
}

/// Cargo's target directory, wherever the environment put it.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The command as one would type it, for messages.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
