//! The user-service under test: the real binary over a database of the test's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use super::process::Process;

/// A database file that several instances may share; gone when dropped.
pub(crate) struct Database(TempDir);

impl Database {
    /// A new one, empty.
    pub(crate) fn new() -> Self {
        Self(TempDir::with_prefix("tidegate-users").unwrap())
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.0.path().join("users.db").display())
    }
}

/// One running instance, ended when dropped. What it wrote is printed when its test fails.
pub(crate) struct Service {
    process: Process,
    address: SocketAddr,
    words: Vec<String>,
}

impl Service {
    /// Starts an instance over the database, on a free port.
    pub(crate) async fn start(database: &Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// The same with more words of the command line.
    pub(crate) async fn start_with(database: &Database, words: &[&str]) -> Self {
        let words = of(database).into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect();
        Self::at("127.0.0.1:0", words).await
    }

    /// The same, which lets in those alone who prove that they may: a gateway by this secret.
    pub(crate) async fn closed(database: &Database, secret: &str) -> Self {
        let mut command = Command::new(binary());
        command.env("USER_SERVICE_GATEWAY_SECRET", secret);
        Self::spawn(command, "127.0.0.1:0", of(database).into()).await
    }

    async fn at(listen: &str, words: Vec<String>) -> Self {
        Self::spawn(Command::new(binary()), listen, words).await
    }

    async fn spawn(mut command: Command, listen: &str, words: Vec<String>) -> Self {
        command.args(["--listen", listen]).args(&words);
        let (process, said) = Process::start("user-service", &mut command).await;
        let url = said["listening"].as_str().expect("`listening` is a URL");
        let address =
            url.strip_prefix("http://").expect("plain HTTP").parse().expect("an address with its port");
        Self { process, address, words }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it now, without a word, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end gracefully and waits for it.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Starts it again at the same address over another database, once it was stopped or killed.
    pub(crate) async fn restart_over(&mut self, database: &Database) {
        self.words = of(database).into();
        self.restart().await;
    }

    /// Starts it again at the same address over the same database, once it was stopped or killed.
    pub(crate) async fn restart(&mut self) {
        *self = Self::at(&self.address.to_string(), self.words.clone()).await;
    }
}

/// The words that name a database.
fn of(database: &Database) -> [String; 2] {
    ["--database".to_owned(), database.url()]
}

/// The user-service beside the gateway in the target directory.
///
/// Cargo names the binaries of other packages to no test, and builds them only when asked for the workspace.
fn binary() -> PathBuf {
    let file = Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("user-service");
    assert!(
        file.is_file(),
        "{} is not built: run `cargo build --workspace --all-targets` first, or `cargo xtask test`",
        file.display()
    );
    file
}
