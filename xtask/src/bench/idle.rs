//! What a TLS connection costs that waits for a request: the memory of a process with thousands of them, less that of
//! the process before, for each.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::cpu::{number, resident_kib};
use super::peers::Site;
use crate::children::Children;
use crate::workspace::output;
use crate::{Doing as _, Outcome};

/// What an idle connection of ours may cost at most.
pub(crate) const TARGET_KIB: f64 = 20.0;
const CONNECTIONS: u32 = 5_000;
/// Connections that are made in each tenth of a second. More at once would measure how well an allocator bears a thousand
/// handshakes at a time.
const RATE: u32 = 50;
const PERIOD: &str = "100ms";
/// By then all are there, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What was taken for the handshakes is given back to the system in a while: jemalloc takes ten seconds.
const SETTLE: Duration = Duration::from_secs(11);
/// Milliseconds until the next request of a connection: it is ended before.
const NEVER: u32 = 70_000;
const PATH: &str = "/hit/1k";

/// One way to be idle.
pub(crate) struct Idle {
    pub(crate) name: &'static str,
    /// HTTP/1.1 instead of HTTP/2.
    http1: bool,
    /// Whether each connection has asked for something.
    asked: bool,
}

/// All of them.
pub(crate) const IDLE: [Idle; 4] = [
    Idle { name: "idle TLS connection memory, h1, new", http1: true, asked: false },
    Idle { name: "idle TLS connection memory, h1, used", http1: true, asked: true },
    Idle { name: "idle TLS connection memory, h2, new", http1: false, asked: false },
    Idle { name: "idle TLS connection memory, h2, used", http1: false, asked: true },
];

impl Idle {
    /// KiB for each connection to the proxy that runs in these processes.
    pub(crate) fn measure(&self, children: &mut Children, site: &Site, pids: &[u32]) -> Outcome<f64> {
        let url = format!("https://{}{PATH}", site.address());
        let mut warm = self.command(site);
        output(warm.args(["-n2000", "-c50", &url]))?;
        let before = resident_kib(pids)?;

        let times = if self.asked { [0, NEVER] } else { [NEVER, NEVER + 1] };
        let script = times.map(|time| format!("{time}.0\t{url}\n")).concat();
        let script = site.write("idle.tsv", &script)?;
        let mut clients = self.command(site);
        clients.args([&format!("-c{CONNECTIONS}"), &format!("-r{RATE}"), &format!("--rate-period={PERIOD}")]);
        clients.arg(format!("--timing-script-file={}", script.display()));
        children.start("h2load", &mut clients)?;
        let all = || established(site.address()).is_ok_and(|count| count >= CONNECTIONS);
        children.wait_until(PATIENCE, "all connections are there", all)?;
        let began = std::time::Instant::now();
        children.wait_until(SETTLE * 2, "they are idle", || began.elapsed() >= SETTLE)?;
        let after = resident_kib(pids)?;
        children.end("h2load");
        Ok((after - before) / number(CONNECTIONS.into()))
    }

    fn command(&self, site: &Site) -> Command {
        let mut command = Command::new("h2load");
        command.arg("-t1").env("OPENSSL_CONF", site.client_settings());
        if self.http1 {
            command.arg("--h1");
        }
        command
    }
}

/// Connections that a server on this address has.
fn established(address: SocketAddr) -> Outcome<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").doing(|| "/proc/net/tcp".to_owned())?;
    Ok(count(&table, address.port()))
}

/// Lines of proc(5) with this local port and the state `01`.
fn count(table: &str, port: u16) -> u32 {
    let local = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace();
        words.nth(1).is_some_and(|address| address.ends_with(&local)) && words.nth(1) == Some("01")
    };
    table.lines().filter(is_one).fold(0, |count, _| count + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_own_end_of_open_connections_is_counted() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
             1: 0100007F:1F90 0100007F:C001 01 00000000:00000000\n   \
             2: 0100007F:C001 0100007F:1F90 01 00000000:00000000\n";
        assert_eq!(count(table, 8080), 1);
        assert_eq!(count(table, 80), 0);
    }
}
