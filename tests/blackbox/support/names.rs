//! A real name server: dnsmasq, with records of the test's own.

use std::net::UdpSocket;
use std::process::Command;

use tokio::net::TcpStream;

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
        let port = UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        Self { port, running: None }
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
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file",
        ]);
        command.args([
            "--user=",
            "--group=",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--local-ttl=1",
        ]);
        command.args([
            "--auth-ttl=1",
            "--local=/test/",
            "--log-facility=-",
            &format!("--port={}", self.port),
        ]);
        command.args(records.iter().map(|record| format!("--{record}")));
        self.running = Some(Process::launch("dnsmasq (Debian: dnsmasq-base)", &mut command));
        let port = self.port;
        let there = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        eventually(PATIENCE, "the name server listens", there).await;
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
