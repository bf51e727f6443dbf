//! `certificates`: files of certificates are swapped in all the ways in which they are in life, while clients shake hands.
//! Promise: no handshake fails, and each new certificate is shown soon after it is whole.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::figures::Verdict;
use super::stage::{Server, Stage};
use super::wire::{HOST, Wire};
use crate::ports::free_address;
use crate::workspace::{self, binary, cargo};
use crate::{Doing as _, Failure, Outcome};

/// How soon a new certificate must be shown, on a machine that is busy too: it takes two looks, a second apart.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);
/// How long a bad pair lies there: it is looked at, and must not be shown.
const BAD_FOR: Duration = Duration::from_millis(1_300);
/// How long half of a pair lies there.
const HALF_FOR: Duration = Duration::from_millis(300);

/// How a pair takes the place of another.
#[derive(Clone, Copy, Debug)]
enum Swap {
    /// The folder is a symbolic link, which is swapped for another.
    Link,
    /// The certificate is renamed into place, and the key a while later.
    Halves,
    /// The files are written over where they are, the first in two pieces.
    InPlace,
    /// A pair that is none is there for a while; then the link is swapped.
    BadFirst,
}

const SWAPS: [Swap; 4] = [Swap::Link, Swap::Halves, Swap::InPlace, Swap::BadFirst];

/// Swap after swap under handshakes.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let (swaps, rate) = stage.scale.pick((4, 50_u32), (100, 500));
    // As optimised as the gateway: at the high rate they would be what is measured otherwise.
    let profile = stage.scale.pick("dev", "dist");
    let words = ["build", "--locked", "--workspace", "--profile", profile, "--example", "handshakes"];
    workspace::run(&mut cargo(&words))?;
    let shelf = Shelf::new(stage.room("certificates")?, swaps)?;
    let mut gateway = Gateway::start(stage, &shelf)?;
    let mut load = Load::start(stage, gateway.address, &shelf, rate, profile)?;
    load.shows(stage, 0)?;

    let mut verdict = Verdict::default();
    let began = std::time::Instant::now();
    let mut longest = Duration::ZERO;
    for number in 1..=swaps {
        let swap = SWAPS[number % SWAPS.len()];
        shelf.swap(stage, swap, number)?;
        match load.shows(stage, number) {
            Ok(took) => longest = longest.max(took),
            Err(failure) => verdict.promise(false, || format!("swap {number} ({swap:?}): {}", failure.0)),
        }
    }
    let lasted = began.elapsed();
    let (said, count, p99) = load.end()?;
    gateway.server.still_there()?;

    let failed: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("failed ")).collect();
    verdict.promise(failed.is_empty(), || {
        format!("{} handshakes failed, the first: {}", failed.len(), failed[0])
    });
    let loaded = gateway.loaded()?;
    verdict.promise(loaded == swaps, || format!("{swaps} swaps, and {loaded} were taken"));
    let per_second = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / lasted.as_secs_f64();
    verdict.soon(per_second > f64::from(rate) * 0.9, || format!("{per_second:.0} handshakes/s came about"));
    verdict.line(format!("swaps                   {swaps}"));
    verdict.line(format!("handshakes              {count}, {per_second:.0}/s, p99 {p99} ms"));
    verdict.line(format!("failed                  {}", failed.len()));
    verdict.line(format!("longest until shown     {:.1} s", longest.as_secs_f64()));
    Ok(verdict)
}

/// Where the pairs lie: one folder for each, and `live`, which the gateway reads.
struct Shelf {
    room: PathBuf,
}

impl Shelf {
    fn new(room: PathBuf, swaps: usize) -> Outcome<Self> {
        let shelf = Self { room };
        let ca = ["req", "-x509", "-subj", "/CN=drill", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
        shelf.openssl(&ca)?;
        for number in 0..=swaps {
            fs::create_dir(shelf.folder(number)).doing(|| "a folder for a pair".to_owned())?;
            let (serial, names) = ((number + 1).to_string(), format!("subjectAltName=DNS:{HOST}"));
            let (key, cert) = (format!("{number}/key.pem"), format!("{number}/cert.pem"));
            shelf.openssl(&[
                "req",
                "-x509",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-subj",
                "/CN=drill leaf",
                "-days",
                "2",
                "-addext",
                &names,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-set_serial",
                &serial,
                "-keyout",
                &key,
                "-out",
                &cert,
            ])?;
        }
        shelf.link(&shelf.folder(0))?;
        Ok(shelf)
    }

    fn openssl(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new("openssl");
        command.args(words).args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        workspace::output(command.current_dir(&self.room)).map(drop)
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.room.join(number.to_string())
    }

    fn live(&self, name: &str) -> PathBuf {
        self.room.join("live").join(name)
    }

    /// Makes `live` lead to another folder, at once.
    fn link(&self, to: &Path) -> Outcome {
        let draft = self.room.join("draft");
        let linked = symlink(to, &draft).and_then(|()| fs::rename(&draft, self.room.join("live")));
        linked.doing(|| "a symbolic link".to_owned())
    }

    fn swap(&self, stage: &Stage, swap: Swap, number: usize) -> Outcome {
        let next = self.folder(number);
        match swap {
            Swap::Link => self.link(&next),
            Swap::Halves => {
                self.put(&next, "cert.pem")?;
                stage.rest(HALF_FOR)?;
                self.put(&next, "key.pem")
            }
            Swap::InPlace => {
                let text = fs::read(next.join("cert.pem")).doing(|| "a certificate".to_owned())?;
                fs::write(self.live("cert.pem"), &text[..text.len() / 2]).doing(|| "half".to_owned())?;
                stage.rest(HALF_FOR)?;
                fs::write(self.live("cert.pem"), &text).doing(|| "a certificate".to_owned())?;
                fs::copy(next.join("key.pem"), self.live("key.pem")).doing(|| "a key".to_owned())?;
                Ok(())
            }
            Swap::BadFirst => {
                let bad = self.room.join(format!("bad-{number}"));
                fs::create_dir(&bad).doing(|| "a folder".to_owned())?;
                let copy = |from: &Path, name: &str| fs::copy(from.join(name), bad.join(name));
                copy(&next, "cert.pem")
                    .and(copy(&self.folder(0), "key.pem"))
                    .doing(|| "a bad pair".to_owned())?;
                self.link(&bad)?;
                stage.rest(BAD_FOR)?;
                self.link(&next)
            }
        }
    }

    /// Renames a copy into place.
    fn put(&self, from: &Path, name: &str) -> Outcome {
        let draft = self.live("draft");
        let put = fs::copy(from.join(name), &draft).and_then(|_| fs::rename(&draft, self.live(name)));
        put.doing(|| format!("a new {name}"))
    }
}

/// A gateway that shows what is on the shelf.
struct Gateway {
    server: Server,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start(stage: &Stage, shelf: &Shelf) -> Outcome<Self> {
        let room = stage.room("tidegate")?;
        let (address, admin) = (free_address()?, free_address()?);
        let (cert, key) = (shelf.live("cert.pem"), shelf.live("key.pem"));
        let config = format!(
            r#"listen = ["https://{address}"]
admin = "{admin}"
log = {{ access = "off", level = "warn" }}
downstream.max_connections_per_ip = 20000
tls.certs = [{{ cert = "{}", key = "{}" }}]

[routes.all]
respond = {{ body = "fine" }}
"#,
            cert.display(),
            key.display(),
        );
        let file = room.join("tidegate.toml");
        fs::write(&file, config).doing(|| file.display().to_string())?;
        let mut command = Command::new(stage.binary());
        command.args(["run", "--config"]).arg(&file).current_dir(&room);
        let mut server = Server::start("tidegate", &room, &mut command)?;
        let ready = || Wire::to_admin(admin).get("/ready").is_ok_and(|answer| answer.status == 200);
        server.wait(stage, "is ready", ready)?;
        Ok(Self { server, address, admin })
    }

    /// How many changes of files it has taken.
    fn loaded(&self) -> Outcome<usize> {
        let metrics = Wire::to_admin(self.admin).get("/metrics").doing(|| "metrics".to_owned())?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let series = "tidegate_certificate_reloads_total{result=\"loaded\"} ";
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| Failure::new("no count of reloads"))
    }
}

/// Clients that shake hands at a fixed rate. Ends with its input, which goes with the drill whatever becomes of it.
struct Load {
    child: Child,
    log: PathBuf,
}

impl Load {
    fn start(stage: &Stage, address: SocketAddr, shelf: &Shelf, rate: u32, profile: &str) -> Outcome<Self> {
        let log = stage.room("handshakes")?.join("log");
        let file = fs::File::create(&log).doing(|| log.display().to_string())?;
        let mut command = Command::new(binary(profile, "examples/handshakes"));
        command.args([&address.to_string(), HOST]).arg(shelf.room.join("ca.pem")).arg(rate.to_string());
        command.stdin(Stdio::piped()).stdout(file);
        let child = command.spawn().doing(|| "the clients could not be started".to_owned())?;
        Ok(Self { child, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the certificate of that number is shown.
    fn shows(&self, stage: &Stage, number: usize) -> Outcome<Duration> {
        let line = format!("shown {}", number + 1);
        let shown = || self.said().lines().any(|said| said == line);
        stage.until(SHOWN_WITHIN, "the new certificate is shown", shown)
    }

    /// Ends it: what it said, how many handshakes came about, and how long one in a hundred took, in milliseconds.
    fn end(&mut self) -> Outcome<(String, usize, String)> {
        let stdin = self.child.stdin.take();
        if let Some(mut stdin) = stdin {
            // It may have ended by itself, which shows below.
            let _ = stdin.write_all(b"\n");
        }
        self.child.wait().doing(|| "the clients".to_owned())?;
        let said = self.said();
        let last = said.lines().find_map(|line| line.strip_prefix("done ")?.split_once(' '));
        let (count, p99) = last.ok_or_else(|| Failure(format!("the clients broke off\n{said}")))?;
        let count = count.parse().map_err(|_| Failure::new("the clients count wrongly"))?;
        let p99 = p99.to_owned();
        Ok((said, count, p99))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
