//! A real name server: dnsmasq, with records of the test's own.

use std::process::Command;

use tokio::net::TcpStream;

use super::ports::free_port;
use super::process::Process;
use super::{PATIENCE, eventually};

/// Listens on a free port until dropped, and knows nothing but what it is told.
pub(crate) struct Names {
    port: u16,
    running: Option<Process>,
}

impl Names {
    /// One that has no records yet, and is not there.
    pub(crate) fn absent() -> Self {
        Self { port: free_port(), running: None }
    }

    /// One with these records, each as an option of dnsmasq: `host-record=web.test,127.0.0.2`. They hold a second.
    pub(crate) async fn with(records: &[&str]) -> Self {
        let mut names = Self::absent();
        names.now(records).await;
        names
    }

    /// Has these records from now on, and no others.
    pub(crate) async fn now(&mut self, records: &[&str]) {
        self.go().await;
        let running = self.launch(records);
        // Its own word, as a connection may be to somebody else.
        let there = async || running.output().contains("started, version");
        eventually(PATIENCE, "the name server listens", there).await;
        self.running = Some(running);
    }

    fn launch(&self, records: &[&str]) -> Process {
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--log-facility=-", "--pid-file", "--user=", "--group="]);
        command.args(["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/"]);
        command.args(["--bind-interfaces", "--listen-address=127.0.0.1", &format!("--port={}", self.port)]);
        command.arg("--local-ttl=1");
        command.args(records.iter().map(|record| format!("--{record}")));
        Process::launch("dnsmasq (Debian: dnsmasq-base)", &mut command)
    }

    /// Is away from now on.
    pub(crate) async fn go(&mut self) {
        if self.running.take().is_none() {
            return;
        }
        let port = self.port;
        let gone = async || TcpStream::connect(("127.0.0.1", port)).await.is_err();
        eventually(PATIENCE, "the name server is away", gone).await;
    }

    /// The line of an upstream that asks it.
    pub(crate) fn setting(&self) -> String {
        format!("dns.nameservers = [\"127.0.0.1:{}\"]\n", self.port)
    }
}
