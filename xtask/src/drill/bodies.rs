//! `large-bodies`: bodies that are larger than memory should be pass in both directions, framed in both ways, by both
//! protocols of clients; at full speed, with a reader that is slow for a while, and past a cache that may not keep them.
//! Promise: every byte arrives, and the gateway's memory stays as it was.

mod client;
mod far;
mod pattern;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::figures::Verdict;
use super::gateway::{self, Gateway};
use super::stage::{Stage, pause};
use crate::bench::cpu::{number, resident};
use crate::ports::free_address;
use crate::{Doing as _, Failure, Outcome};

use client::Client;
use pattern::{Check, Pattern, whole};

/// How much more memory the gateway may have in use at any time than before the first body.
const GROWTH_MIB: f64 = 32.0;
/// How often its memory is looked at.
const GLANCE: Duration = Duration::from_millis(10);
/// What a reader that is slow takes at once, and how long it rests then.
const SIP: usize = 64 << 10;
const BETWEEN_SIPS: Duration = Duration::from_millis(10);

/// From where to where a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the server to the client.
    Down,
    /// From the client to the server.
    Up,
}

/// How its end is told where HTTP/1.1 is spoken; over HTTP/2, whether its length is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
}

/// One transfer.
struct Case {
    way: Way,
    /// Of HTTP, that the client speaks; the server speaks 1.1.
    version: &'static str,
    framing: Framing,
    /// The first part of the path: past the cache, or not.
    route: &'static str,
    /// Whether whoever reads is slow at first.
    slow: bool,
}

/// All that there are, of the quick ones first.
fn cases() -> impl Iterator<Item = Case> {
    let versions = ["1.1", "2"];
    let framings = &[Framing::Length, Framing::Chunks];
    let kinds = [
        ("plain", Way::Down, false),
        ("plain", Way::Up, false),
        ("cached", Way::Down, false),
        ("plain", Way::Down, true),
        ("plain", Way::Up, true),
        ("cached", Way::Down, true),
    ];
    kinds.into_iter().flat_map(move |(route, way, slow)| {
        versions.into_iter().flat_map(move |version| {
            // A reader that is slow does not care how the end is told.
            let framings = &framings[..if slow { 1 } else { 2 }];
            framings.iter().map(move |&framing| Case { way, version, framing, route, slow })
        })
    })
}

/// One transfer after the other.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let (length, slow) = (stage.scale.pick(64, 1024) << 20, stage.scale.pick(500, 10_000));
    let pattern = Arc::new(Pattern::new());
    let far = far::start(&pattern)?;
    let folder = stage.room("certificate")?;
    gateway::certificate(&folder)?;
    let secure = free_address()?;
    let mut gateway =
        Gateway::start_as(stage, "tidegate", |address, admin| config(address, admin, secure, &folder, far))?;
    let (certificate, body) = (folder.join("cert.pem"), folder.join("body"));
    let mut file = File::create(&body).doing(|| body.display().to_string())?;
    pattern.send(length, |piece| file.write_all(piece)).doing(|| body.display().to_string())?;
    let client = Client { address: secure, certificate: &certificate, pattern: &pattern, body: &body };

    let mut verdict = Verdict::default();
    verdict.line("way   HTTP  route   framing  reader      MiB/s   most MiB");
    let before = number(resident(gateway.pid())?) / 1024.0;
    for case in cases() {
        stage.rest(Duration::ZERO)?;
        let slow = Duration::from_millis(if case.slow { slow } else { 0 });
        let began = Instant::now();
        let (said, most) = beside(gateway.pid(), || client.play(&case, length, slow));
        judge(&case, length, began.elapsed(), &said, most? - before, &mut verdict);
        gateway.still_there()?;
    }
    verdict.line(format!("in use before the first: {before:.1} MiB; each body: {} MiB", length >> 20));
    Ok(verdict)
}

/// Does something and tells the most memory that a process had in use meanwhile, in MiB.
fn beside<T>(pid: u32, work: impl FnOnce() -> T) -> (T, Outcome<f64>) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = resident(pid)?;
            while !over.load(Relaxed) {
                pause(GLANCE);
                most = most.max(resident(pid)?);
            }
            Ok(number(most) / 1024.0)
        });
        let done = work();
        over.store(true, Relaxed);
        (done, watch.join().unwrap_or_else(|_| Err(Failure::new("who looked at memory panicked"))))
    })
}

fn judge(
    case: &Case,
    length: u64,
    took: Duration,
    said: &Outcome<String>,
    grown: f64,
    verdict: &mut Verdict,
) {
    let Case { way, version, framing, route, slow } = case;
    let (way, framing) = (format!("{way:?}").to_lowercase(), format!("{framing:?}").to_lowercase());
    let reader = if *slow { "slow" } else { "quick" };
    let name = format!("{way:<5} {version:<5} {route:<7} {framing:<8} {reader}");
    let speed = number(length >> 20) / took.as_secs_f64();
    verdict.line(format!("{name:<35} {speed:>8.0} {grown:>10.1}"));
    match said {
        Ok(said) => verdict.promise(*said == whole(length), || format!("{name}: {said}")),
        Err(failure) => verdict.promise(false, || format!("{name}: {}", failure.0)),
    }
    verdict.promise(grown < GROWTH_MIB, || format!("{name}: the gateway grew by {grown:.1} MiB"));
}

/// Reads slowly for a while, then as quickly as it comes.
struct Pace {
    slow_until: Instant,
}

impl Pace {
    fn new(slow: Duration) -> Self {
        Self { slow_until: Instant::now() + slow }
    }

    /// Reads to the end.
    fn read(&self, from: &mut impl Read, check: &mut Check) -> io::Result<()> {
        let mut sip = vec![0; SIP];
        loop {
            let count = from.read(&mut sip)?;
            if count == 0 {
                return Ok(());
            }
            check.take(&sip[..count]);
            if Instant::now() < self.slow_until {
                pause(BETWEEN_SIPS);
            }
        }
    }
}

fn config(
    address: SocketAddr,
    admin: SocketAddr,
    secure: SocketAddr,
    folder: &Path,
    far: SocketAddr,
) -> String {
    let folder = folder.display();
    format!(
        r#"listen = ["https://{secure}", {{ url = "http://{address}", redirect = false }}]
admin = "{admin}"
log = {{ access = "off", level = "warn" }}
tls.certs = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]

[upstreams.far]
servers = ["{far}"]
health = false
timeouts.total = "5m"

[defaults]
max_body = "1GiB"

[routes.plain]
path = "/plain/*"
upstream = "far"

[routes.cached]
path = "/cached/*"
upstream = "far"
cache = true
"#
    )
}
