//! Where the time goes: `perf` on a proxy while it is measured.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::workspace::output;
use crate::{Doing as _, Outcome, packages};

/// Lines of the profile that are printed.
const LINES: usize = 40;

/// A recording under way.
pub(crate) struct Profile {
    child: Child,
    file: PathBuf,
    case: &'static str,
}

/// Records these processes for some seconds; nothing where `perf` is not here.
pub(crate) fn start(pids: &[u32], secs: u32, case: &'static str) -> Outcome<Option<Profile>> {
    if !packages::present("perf") {
        println!("no profile: `perf` is not here (Debian: linux-perf)");
        return Ok(None);
    }
    let file = std::env::temp_dir().join(format!("tidegate-perf-{}.data", std::process::id()));
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let mut command = Command::new("perf");
    command.args(["record", "--quiet", "-F", "997", "-g", "-p", &pids.join(","), "-o"]).arg(&file);
    // It ends with the sleep.
    command.args(["--", "sleep", &secs.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().doing(|| "perf".to_owned())?;
    Ok(Some(Profile { child, file, case }))
}

impl Profile {
    /// Waits for its end and prints what takes most time, callers aside.
    pub(crate) fn print(mut self) -> Outcome {
        self.child.wait().doing(|| "perf".to_owned())?;
        let mut command = Command::new("perf");
        command.args(["report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.5", "-i"]);
        let text = output(command.arg(&self.file));
        println!("\n{}", self.case);
        for line in text?.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).take(LINES) {
            println!("{line}");
        }
        Ok(())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Both fail only where it is over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}
