//! `h2-floods`: clients that send what costs a server more than them. Promise: honest clients are all served, nearly as
//! soon as those of another gateway on the same machine that nobody attacks, and the gateway's memory stays bounded.
//!
//! An attack that is one burst of requests and silence then is judged by what it costs to hold them: the burst is work like
//! any other.
//!
//! Honest clients are those of HTTP/1.1, in the clear, and of HTTP/2, under TLS like the attackers.
//!
//! The other gateway is the measure because the attackers, who encrypt whatever they send, take more of a small machine
//! than the gateway does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::figures::{Verdict, Window, number};
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ends, HEADERS, PING, Pipe, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, begin, fields, frame, get,
};
use super::gateway::{self, Gateway};
use super::http2::{Answers, Http2};
use super::load::{End, Load, Sample, Script};
use super::origin::{self, Origin, Reply};
use super::stage::{Stage, pause};
use crate::bench::cpu::{resident_kib, used_us};
use crate::ports::free_address;
use crate::{Failure, Outcome};

/// Connections that attack at a time.
const ATTACKERS: usize = 4;
/// Requests on each connection that takes nothing.
const STREAMS: u32 = 90;
/// Bytes of what they ask for: more than systems take of what nobody reads. It comes from a server of its own, as how that copes
/// with so many at once is not what is looked at.
const LARGE: usize = 1 << 20;
/// MiB that the gateway may grow by under an attack. Most of it is what honest requests on their way take as well: each
/// has a connection to its server, and what was read from it.
const GROWTH_MIB: f64 = 64.0;
/// How much later one in a hundred may be answered than where nobody attacks.
const LATER: f64 = 2.0;
/// Milliseconds below which no answer is late: a tick or two of the scheduler's.
const SOON_MS: f64 = 10.0;
/// How long an attacker who was cut off takes to come again. To shake hands without end is another attack.
const RESPITE: Duration = Duration::from_millis(100);

/// One attack.
struct Attack {
    name: &'static str,
    /// What is said first.
    first: fn() -> Vec<u8>,
    /// What is said again and again for the n-th time; nothing: the connection is held.
    again: fn(u32) -> Vec<u8>,
    /// Whether answers are left where they are.
    unread: bool,
}

const ATTACKS: [Attack; 10] = [
    attack("ping", || begin(1, 4096), |_| frame(PING, 0, 0, &[7; 8]).repeat(500)),
    Attack {
        unread: true,
        ..attack("ping, unread", || begin(1, 4096), |_| frame(PING, 0, 0, &[7; 8]).repeat(500))
    },
    attack("settings", || begin(1, 4096), |_| frame(SETTINGS, 0, 0, &[]).repeat(500)),
    Attack {
        unread: true,
        ..attack("settings, unread", || begin(1, 4096), |_| frame(SETTINGS, 0, 0, &[]).repeat(500))
    },
    attack(
        "rapid reset",
        || begin(1, 4096),
        |time| {
            let stream = 2 * time + 1;
            [get(stream, "/k/1"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        },
    ),
    attack(
        "made to reset",
        || begin(1, 4096),
        |time| {
            let stream = 2 * time + 1;
            [get(stream, "/k/1"), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
        },
    ),
    attack(
        "continuation",
        || [begin(1, 4096), frame(HEADERS, 0, 1, &fields("GET", "/k/1"))].concat(),
        |_| frame(CONTINUATION, 0, 1, &[]).repeat(500),
    ),
    // A field of 3 KB that is remembered, and then stands in one byte, thousands of times.
    attack(
        "hpack bomb",
        || begin(1, 4096),
        |time| frame(HEADERS, END_STREAM | END_HEADERS, 2 * time + 1, &bomb()),
    ),
    attack(
        "empty data",
        || [begin(1, 4096), frame(HEADERS, END_HEADERS, 1, &fields("POST", "/k/1"))].concat(),
        |_| frame(DATA, 0, 1, &[]).repeat(500),
    ),
    attack(
        "no room",
        || {
            let requests = (0..STREAMS).flat_map(|number| get(2 * number + 1, &format!("/big/{number}")));
            begin(4, 0).into_iter().chain(requests).collect()
        },
        |_| Vec::new(),
    ),
];

const fn attack(name: &'static str, first: fn() -> Vec<u8>, again: fn(u32) -> Vec<u8>) -> Attack {
    Attack { name, first, again, unread: false }
}

/// Packed fields of a request that stand for 36 MB (RFC 7541 sections 6.1 and 6.2.1).
fn bomb() -> Vec<u8> {
    let mut bomb = fields("GET", "/k/1");
    bomb.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    bomb.extend([b'a'; 3_000]);
    bomb.extend([0xbe; 12_000]);
    bomb
}

/// Looks at honest clients in calm, then beside each attack.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let origin = Origin::start(2, |question| {
        let (fields, body) = if question.path.starts_with("/big/") {
            ("Cache-Control: no-store\r\n", vec![7; LARGE])
        } else {
            ("Cache-Control: max-age=1\r\n", origin::content(question.path))
        };
        Reply { fields: fields.to_owned(), body }
    })?;
    let folder = stage.room("certificate")?;
    gateway::certificate(&folder)?;
    let start = |name, secure| {
        Gateway::start_as(stage, name, |address, admin| {
            config(address, admin, secure, &folder, [origin.door(0), origin.door(1)])
        })
    };
    let [secure, quiet] = [free_address()?, free_address()?];
    let mut gateway = start("tidegate", secure)?;
    let mut control = start("control", quiet)?;
    let time = stage.scale.time(Duration::from_secs(1), Duration::from_secs(10));
    let rate = stage.scale.pick(50, 200);
    let path = |number: u64| format!("/k/{}", number % 50);
    let right = |path: &str, answer: &super::wire::Answer| origin::is_content(path, &answer.body);
    let script = |gateway: &Gateway| Script { rate, targets: vec![gateway.address()], path, right };
    let (load, beside) = (Load::start(script(&gateway)), Load::start(script(&control)));
    stage.rest(Duration::from_secs(1))?;

    let asks = Asks { load: &load, http2: [secure, quiet], rate, time };
    let mut parts = vec![part(stage, &asks, &gateway, "calm", None)?];
    for attack in &ATTACKS {
        let attackers = Attackers::start(attack, secure);
        parts.push(part(stage, &asks, &gateway, attack.name, Some(&attackers))?);
        let connections = attackers.end()?;
        parts.last_mut().into_iter().for_each(|part| part.connections = connections);
        // What attackers left behind is over before the next come.
        stage.rest(Duration::from_millis(500))?;
    }
    let (samples, beside) = (load.end()?, beside.end()?);
    gateway.still_there()?;
    control.still_there()?;
    Ok(judge(&parts, &samples, &beside))
}

/// Who asks honestly.
struct Asks<'a> {
    /// Over HTTP/1.1, all the time.
    load: &'a Load,
    /// Where those of HTTP/2 ask that come for each part: of the gateway that is attacked, and of the other.
    http2: [SocketAddr; 2],
    /// How often in a second, each kind.
    rate: u32,
    /// How long a part lasts.
    time: Duration,
}

impl Asks<'_> {
    /// Those of HTTP/2, for as long as a part lasts.
    fn over_http2(&self, stage: &Stage) -> Outcome<[Http2; 2]> {
        let requests = self.rate * u32::try_from(self.time.as_secs()).unwrap_or(u32::MAX).max(1);
        let [one, other] = self.http2.map(|address| format!("https://{address}/k/1"));
        let start = |url: &str| Http2::start(stage, url, self.rate, requests);
        Ok([start(&one)?, start(&other)?])
    }
}

/// What was measured beside one attack.
struct Part {
    name: &'static str,
    from: Duration,
    /// From when on it is looked at how late honest requests are.
    judged: Duration,
    to: Duration,
    grown_mib: f64,
    cpu_percent: f64,
    connections: u64,
    /// How clients of HTTP/2 were served here, and by the other gateway.
    http2: [Answers; 2],
}

fn part(
    stage: &Stage,
    asks: &Asks<'_>,
    gateway: &Gateway,
    name: &'static str,
    attackers: Option<&Attackers>,
) -> Outcome<Part> {
    let Asks { load, time, .. } = *asks;
    let pids = [gateway.pid()];
    let (from, memory, cpu) = (load.now(), resident_kib(&pids)?, used_us(&pids)?);
    let mut most = memory;
    let hold = if attackers.is_some_and(Attackers::hold) { time / 5 } else { Duration::ZERO };
    stage.rest(hold)?;
    let http2 = asks.over_http2(stage)?;
    while load.now() < from + time {
        stage.rest(Duration::from_millis(100))?;
        most = most.max(resident_kib(&pids)?);
    }
    if attackers.is_some_and(|attackers| attackers.connections() == 0) {
        return Err(Failure(format!("{name}: nobody attacked")));
    }
    let to = load.now();
    let cpu_percent = (used_us(&pids)? - cpu) / to.saturating_sub(from).as_secs_f64() / 1e4;
    let [here, there] = http2;
    // The attack goes on until they have all been served.
    let http2 = [here.end(stage)?, there.end(stage)?];
    let (judged, grown_mib) = (from + hold, (most - memory) / 1024.0);
    Ok(Part { name, from, judged, to, grown_mib, cpu_percent, connections: 0, http2 })
}

/// Both loads began together, so that a time is the same for both.
fn judge(parts: &[Part], samples: &[Sample], beside: &[Sample]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.line(
        "                     honest      p99 ms  beside ms  h2 p99 ms  beside ms   CPU %   grown MiB   attackers' connections",
    );
    for part in parts {
        let Part { name, grown_mib, cpu_percent, connections, http2: [here, there], .. } = part;
        let window = Window::of(samples, part.from..part.to);
        let all = window.len();
        let p99 = |samples| Window::of(samples, part.judged..part.to).p99().unwrap_or_default();
        let (p99, other) = (p99(samples), p99(beside));
        let wrong = window.count(|end| !End::is_right(end));
        verdict.line(format!(
            "{name:<20} {all:>7} {p99:>11.1} {other:>10.1} {:>10.1} {:>10.1} {cpu_percent:>7.0} {grown_mib:>11.1} {connections:>12}",
            here.p99, there.p99
        ));
        verdict.promise(here.failed == 0, || {
            format!("{name}: {} honest requests over HTTP/2 were not served", here.failed)
        });
        verdict.soon(here.p99 < (there.p99 * LATER).max(SOON_MS), || {
            format!(
                "{name}: p99 of honest requests over HTTP/2 is {:.1} ms, where nobody attacks {:.1} ms",
                here.p99, there.p99
            )
        });
        verdict.promise(all > 0, || format!("{name}: nobody honest asked"));
        verdict.promise(wrong == 0, || format!("{name}: {wrong} of {all} honest requests were not served"));
        verdict
            .promise(*grown_mib < GROWTH_MIB, || format!("{name}: the gateway grew by {grown_mib:.0} MiB"));
        verdict.soon(p99 < (other * LATER).max(SOON_MS), || {
            format!("{name}: p99 of honest requests is {p99:.1} ms, where nobody attacks {other:.1} ms")
        });
    }
    let held = parts.iter().map(|part| part.grown_mib).fold(0.0, f64::max);
    let streams = number(ATTACKERS) * f64::from(STREAMS);
    verdict.line(format!(
        "most memory: {held:.1} MiB, {:.0} KiB for each of {streams} streams",
        held * 1024.0 / streams
    ));
    verdict
}

/// Clients that attack, each anew once it is cut off, until ended or dropped.
struct Attackers {
    siege: Arc<Siege>,
    threads: Vec<JoinHandle<Outcome>>,
}

/// What attackers share.
struct Siege {
    attack: &'static Attack,
    address: SocketAddr,
    over: AtomicBool,
    connections: AtomicU64,
    /// What ends the connection of each: who leaves answers unread may wait for good.
    ends: [Mutex<Option<Ends>>; ATTACKERS],
}

impl Attackers {
    fn start(attack: &'static Attack, address: SocketAddr) -> Self {
        let (over, connections) = (AtomicBool::new(false), AtomicU64::new(0));
        let siege = Arc::new(Siege { attack, address, over, connections, ends: Default::default() });
        let one = |number| {
            let siege = Arc::clone(&siege);
            std::thread::spawn(move || {
                while !siege.over.load(Relaxed) {
                    siege.strike(number)?;
                    pause(RESPITE);
                }
                Ok(())
            })
        };
        let threads = (0..ATTACKERS).map(one).collect();
        Self { siege, threads }
    }

    /// Whether they say all at once and wait then.
    fn hold(&self) -> bool {
        (self.siege.attack.again)(0).is_empty()
    }

    fn connections(&self) -> u64 {
        self.siege.connections.load(Relaxed)
    }

    /// How many connections they made.
    fn end(mut self) -> Outcome<u64> {
        self.siege.end();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| Failure::new("an attacker panicked"))??;
        }
        Ok(self.connections())
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.siege.end();
    }
}

impl Siege {
    /// One connection, until it is cut off.
    fn strike(&self, number: usize) -> Outcome {
        let mut pipe = Pipe::to(self.address, self.attack.unread)?;
        *self.ends(number) = Some(pipe.ends());
        let mut taken = pipe.send(&(self.attack.first)());
        self.connections.fetch_add(1, Relaxed);
        let mut time = 0;
        while taken && !self.over.load(Relaxed) && !pipe.is_over() {
            let bytes = (self.attack.again)(time);
            time += 1;
            if bytes.is_empty() {
                pause(Duration::from_millis(50));
            }
            taken = pipe.send(&bytes);
        }
        Ok(())
    }

    fn end(&self) {
        self.over.store(true, Relaxed);
        for number in 0..ATTACKERS {
            self.ends(number).take().iter().for_each(Ends::end);
        }
    }

    fn ends(&self, number: usize) -> std::sync::MutexGuard<'_, Option<Ends>> {
        self.ends[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn config(
    address: SocketAddr,
    admin: SocketAddr,
    secure: SocketAddr,
    folder: &Path,
    [origin, large]: [SocketAddr; 2],
) -> String {
    let folder = folder.display();
    format!(
        r#"listen = ["https://{secure}", {{ url = "http://{address}", redirect = false }}]
admin = "{admin}"
log = {{ access = "off", level = "error" }}
tls.certs = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]

[upstreams.origin]
servers = ["{origin}"]
health = false
outlier_detection = false

[upstreams.large]
servers = ["{large}"]
health = false
outlier_detection = false

[routes.all]
upstream = "origin"
cache = true

[routes.large]
path = "/big/*"
upstream = "large"
cache = true
"#
    )
}
