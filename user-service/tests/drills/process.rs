//! Processes that are killed, held up and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::ports::free_port;

/// A program with its words, and the process that runs it, killed when dropped.
pub(crate) struct Process {
    program: PathBuf,
    words: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts it; what it writes goes to a file in `folder`.
    pub(crate) fn start(name: &str, program: &Path, words: &[&str], folder: &Path) -> Self {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let log = folder.join(format!("{name}.log"));
        let child = spawn(program, &words, &log);
        Self { program: program.to_owned(), words, log, child }
    }

    /// Ends it as a power cut would.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again as it was.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.words, &self.log);
    }

    /// Sends a signal, such as `-STOP`.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the process runs").to_string();
        assert!(Command::new("/bin/kill").args([signal, &id]).status().await.unwrap().success());
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

fn spawn(program: &Path, words: &[String], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(program);
    command.args(words).env_clear().stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.kill_on_drop(true).spawn().unwrap()
}

/// An instance of the service at a port of its own, with this configuration.
pub(crate) fn instance(name: &str, config: &str, folder: &Path) -> (Process, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let file = write(folder, &format!("{name}.toml"), config);
    let program = Path::new(env!("CARGO_BIN_EXE_user-service"));
    let words = ["--listen", &address, "--log", "warn", "--config", &file];
    (Process::start(name, program, &words, folder), format!("http://{address}"))
}

/// Writes a file, and gives its path.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}
