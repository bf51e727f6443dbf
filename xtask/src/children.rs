//! Processes started here, watched together and ended together.
//!
//! Each child runs in a process group of its own, so that a Ctrl-C in the terminal reaches this program alone
//! and it ends them in order. Only children that this program holds a handle of are ever signalled.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Doing as _, Failure, Outcome};

/// How often children and signals are looked at while nothing is printed.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a child may take to end once asked; then it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Becomes true when SIGINT, SIGTERM or SIGHUP asks for the end, which they no longer cause from here on.
pub(crate) fn asked_to_stop() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).doing(|| "signal handler".to_owned())?;
    }
    Ok(stop)
}

/// Running children, oldest first, and the lines they print. Dropping it ends them all.
pub(crate) struct Children {
    running: Vec<(String, Child)>,
    lines: Receiver<String>,
    printer: Sender<String>,
    stop: Arc<AtomicBool>,
}

impl Children {
    /// None yet. From here on SIGINT, SIGTERM and SIGHUP ask for the end instead of causing it.
    pub(crate) fn new() -> Outcome<Self> {
        let stop = asked_to_stop()?;
        let (printer, lines) = channel();
        Ok(Self { running: Vec::new(), lines, printer, stop })
    }

    /// Starts a child whose lines are printed with its name before them.
    pub(crate) fn start(&mut self, name: &str, command: &mut Command) -> Outcome<u32> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().doing(|| format!("{name} could not be started"))?;
        forward(name, child.stdout.take(), &self.printer);
        forward(name, child.stderr.take(), &self.printer);
        let id = child.id();
        self.running.push((name.to_owned(), child));
        Ok(id)
    }

    /// Ends one child by its name, such as before its place is given to another.
    pub(crate) fn end(&mut self, name: &str) {
        while let Some(index) = self.running.iter().position(|(running, _)| running == name) {
            let (_, mut child) = self.running.remove(index);
            ask(&child);
            self.bury(&mut child);
        }
    }

    /// Waits until `ready` says yes, printing what the children say.
    ///
    /// An error when the time is over, when a child ends, or when somebody asks for the end.
    pub(crate) fn wait_until(
        &mut self,
        within: Duration,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> Outcome {
        let began = Instant::now();
        while !ready() {
            self.glance()?;
            if self.stopping() {
                return Err(Failure(format!("stopped while waiting until {what}")));
            }
            if began.elapsed() > within {
                return Err(Failure(format!("waited {} s in vain until {what}", within.as_secs())));
            }
        }
        Ok(())
    }

    /// Prints what the children say until somebody asks for the end; an error when a child ends by itself.
    pub(crate) fn watch(&mut self) -> Outcome {
        while !self.stopping() {
            self.glance()?;
        }
        Ok(())
    }

    /// Whether somebody asked for the end.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Prints lines for a moment, then looks whether all children still run.
    fn glance(&mut self) -> Outcome {
        self.print_for(GLANCE);
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait().doing(|| name.clone())? {
                let failure = Failure(format!("{name} ended by itself ({status})"));
                self.print_for(GLANCE);
                return Err(failure);
            }
        }
        Ok(())
    }

    fn print_for(&self, moment: Duration) {
        let until = Instant::now() + moment;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            println!("{line}");
        }
    }

    /// Waits for a child that was asked to end; kills it when it takes too long.
    fn bury(&self, child: &mut Child) {
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            self.print_for(GLANCE);
        }
        // Both fail only for a child that is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Children {
    /// Newest first: what was started last leans on what was started before it.
    fn drop(&mut self) {
        while let Some((_, mut child)) = self.running.pop() {
            ask(&child);
            self.bury(&mut child);
        }
        self.print_for(GLANCE);
    }
}

/// Asks a child of ours to end. Its number cannot be another process's: it has not been waited for.
fn ask(child: &Child) {
    // Fails only for a child that ended already, which is what was wanted.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

/// Sends each line of a pipe to the printer until the child closes it.
fn forward(name: &str, pipe: Option<impl Read + Send + 'static>, printer: &Sender<String>) {
    let pipe = pipe.expect("standard output and error are piped");
    let (name, printer) = (name.to_owned(), printer.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if printer.send(format!("{name:>8} | {}", line.trim_end())).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_child_that_ends_by_itself_is_named() {
        let mut children = Children::new().unwrap();
        children.start("short", &mut shell("exit 3")).unwrap();
        let failure = children.wait_until(Duration::from_secs(10), "never", || false).unwrap_err();
        assert!(failure.0.starts_with("short ended by itself"), "{}", failure.0);
    }

    #[test]
    fn waiting_has_an_end() {
        let mut children = Children::new().unwrap();
        children.start("idle", &mut shell("exec sleep 60")).unwrap();
        let failure = children.wait_until(Duration::ZERO, "pigs fly", || false).unwrap_err();
        assert!(failure.0.ends_with("until pigs fly"), "{}", failure.0);
    }

    #[test]
    fn children_are_gone_once_dropped() {
        let mut children = Children::new().unwrap();
        let id = children.start("idle", &mut shell("exec sleep 60")).unwrap();
        let alive = format!("/proc/{id}");
        assert!(std::path::Path::new(&alive).exists());
        drop(children);
        assert!(!std::path::Path::new(&alive).exists(), "neither running nor a zombie");
    }
}
