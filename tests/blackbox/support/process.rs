//! A real process: started, listened to, and ended by its own handle.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::{PATIENCE, eventually, must};

/// A running program of ours, killed when dropped. What it wrote is printed when its test fails.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it and waits for its first line on standard output, which is one JSON object.
    pub(crate) async fn start(name: &str, command: &mut Command) -> (Self, serde_json::Value) {
        let (sender, first) = oneshot::channel();
        let process = Self::spawn(name, command, Some(sender));
        let Ok(line) = must(&format!("{name} says where it listens"), first).await else {
            panic!("{name} ended before it listened");
        };
        let object =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{name} began with no JSON: {line}"));
        (process, object)
    }

    /// Starts it, and waits for nothing.
    pub(crate) fn launch(name: &str, command: &mut Command) -> Self {
        Self::spawn(name, command, None)
    }

    /// Runs it to its end and gives the status and all that it wrote.
    pub(crate) async fn run(name: &str, command: &mut Command) -> (ExitStatus, String) {
        let mut process = Self::spawn(name, command, None);
        let status = process.ended().await;
        for reader in process.readers.drain(..) {
            // Its pipe is closed, so that it has read everything or is about to.
            reader.join().unwrap();
        }
        (status, process.output())
    }

    fn spawn(name: &str, command: &mut Command, mut first: Option<oneshot::Sender<String>>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let output = Arc::new(Mutex::new(String::new()));
        let say_first = move |line: &str| {
            // A test that gave up waiting has said so itself.
            let _ = first.take().map(|first| first.send(line.to_owned()));
        };
        let readers = vec![
            read(child.stdout.take().unwrap(), Arc::clone(&output), say_first),
            read(child.stderr.take().unwrap(), Arc::clone(&output), |_| ()),
        ];
        Self { name: name.to_owned(), child, output, readers }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        // Fails only for a process that has ended. The handle is not waited for, so the number is no other's.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        let what = format!("{} ends", self.name);
        eventually(PATIENCE, &what, async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }

    /// Asks for a graceful end (SIGTERM) and waits for it.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Ends it now, without a word (SIGKILL).
    pub(crate) fn kill(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that it has in use now.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Everything it wrote so far, both pipes in the order the lines came.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- {} wrote:\n{}----", self.name, self.output());
        }
    }
}

/// Reads a pipe on a thread of its own, so that a full pipe never stops the program.
fn read(
    pipe: impl Read + Send + 'static,
    output: Arc<Mutex<String>>,
    mut each: impl FnMut(&str) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            output.lock().unwrap().extend([&line, "\n"]);
            each(&line);
        }
    })
}
