//! `own-writes`: clients write at one of three gateways and read at once at another, while others fill the caches, and the
//! replicas of the database are two seconds behind. Promise: nobody is shown less than what they wrote; and once all
//! have written, nobody is shown anything else than the last.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::field::{Field, Shape};
use super::figures::{Verdict, number};
use super::gateway::Gateway;
use super::origin::drawn;
use super::stage::{Stage, pause};
use super::users::Users;
use super::wire::{Answer, Wire};
use crate::{Failure, Outcome};

const GATEWAYS: usize = 3;
const INSTANCES: usize = 2;
const LAG: &str = "2s";
/// Clients that write, each a user of its own; and those that only read.
const WRITERS: usize = 8;
const READERS: usize = 4;
/// One write in so many creates another user.
const CREATE_EVERY: u64 = 16;
/// Reads after each write.
const READS: usize = 3;
/// How soon every gateway has heard of the last write: less than replicas are behind.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

/// A user that a client writes.
struct Subject {
    path: String,
    search: String,
    /// The version that was written last.
    version: AtomicU64,
}

/// What was seen.
#[derive(Default)]
struct Book {
    pairs: AtomicU64,
    own_reads: AtomicU64,
    own_hits: AtomicU64,
    skipped: AtomicU64,
    stale: AtomicU64,
    reads: AtomicU64,
    hits: AtomicU64,
    asked_directly: AtomicU64,
    behind: AtomicU64,
    broken: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Book {
    fn found(&self, what: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// Writers, readers and the caches that they share.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let mut users = Users::start(stage, INSTANCES, LAG)?;
    let field = Field::start(stage, Shape::Alone)?;
    let servers = users.addresses();
    let start = |index| {
        let name = format!("tidegate-{}", index + 1);
        Gateway::start_as(stage, &name, |address, admin| config(address, admin, &field.url(), &servers))
    };
    let mut gateways = (0..GATEWAYS).map(start).collect::<Outcome<Vec<_>>>()?;
    for gateway in &gateways {
        hears(stage, gateway)?;
    }
    let sites: Vec<_> = gateways.iter().map(Gateway::address).collect();
    let subjects = (0..WRITERS).map(|writer| create(sites[0], writer)).collect::<Outcome<Vec<_>>>()?;

    let (book, began) = (Book::default(), Instant::now());
    let pairs = stage.scale.pick(400, 10_000);
    std::thread::scope(|scope| {
        let (book, sites, subjects, servers) = (&book, &sites, &subjects, &servers);
        for reader in 0..READERS {
            scope.spawn(move || read_on(book, sites, servers, subjects, reader as u64));
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write_and_read(book, sites, &subjects[writer], writer, pairs)))
            .collect();
        for writer in writers {
            // A panic there is told by the scope.
            let _ = writer.join();
        }
        book.over.store(true, SeqCst);
    });
    let took = began.elapsed();
    pause(HEARD_WITHIN);
    for site in &sites {
        look_at_the_last(&book, *site, &subjects);
    }
    gateways.iter_mut().try_for_each(Gateway::still_there)?;
    users.still_there()?;
    Ok(judge(&book, users.reads(), pairs, took))
}

fn config(address: SocketAddr, admin: SocketAddr, redis: &str, servers: &[SocketAddr]) -> String {
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    format!(
        r#"listen = ["http://{address}"]
admin = "{admin}"
redis = {{ url = "{redis}", timeout = "1s" }}
log = {{ access = "off", level = "warn" }}

[cache]
memory = "16MiB"
read_your_writes = "header"

[upstreams.users]
servers = {servers:?}
health = false
outlier_detection = false

[routes.all]
upstream = "users"
cache = {{ ttl = "60s", negative_ttl = "60s", stale_while_revalidate = "60s", ignore_origin = true }}
"#
    )
}

/// Waits until a gateway hears of the others, and has the key that they share.
fn hears(stage: &Stage, gateway: &Gateway) -> Outcome {
    let mut admin = Wire::to_admin(gateway.admin());
    let connected = "\ntidegate_cache_purge_log_connected{} 1\n";
    let hears =
        || admin.get("/metrics").is_ok_and(|it| String::from_utf8_lossy(&it.body).contains(connected));
    stage.until(Duration::from_secs(10), "a gateway hears of the others", hears).map(drop)
}

fn create(site: SocketAddr, writer: usize) -> Outcome<Subject> {
    let email = format!("writer{writer}@example.com");
    let answer = post(&mut Wire::to(site), &email).map_err(|error| Failure(error.to_string()))?;
    let path = answer.field("location").filter(|_| answer.status == 201);
    let path = path.ok_or_else(|| Failure(format!("a user is not created: {}", answer.status)))?.to_owned();
    Ok(Subject { path, search: format!("/users?email={email}"), version: AtomicU64::new(1) })
}

fn post(wire: &mut Wire, email: &str) -> std::io::Result<Answer> {
    wire.post("/users", &format!(r#"{{"email":"{email}","name":"nobody yet"}}"#))
}

/// One client: writes at one gateway, reads at others.
fn write_and_read(book: &Book, sites: &[SocketAddr], subject: &Subject, writer: usize, pairs: u64) {
    let mut wires: Vec<_> = sites.iter().map(|site| Wire::to(*site)).collect();
    for turn in 0.. {
        if book.pairs.fetch_add(1, SeqCst) >= pairs {
            return;
        }
        let draw = drawn((writer as u64) << 32 | turn);
        let wire = &mut wires[pick(draw, GATEWAYS)];
        let (path, marker, wanted) = if turn % CREATE_EVERY == CREATE_EVERY - 1 {
            let Some(written) = create_another(book, wire, writer, turn) else { return };
            written
        } else {
            let Some(written) = change(book, wire, subject, turn) else { return };
            written
        };
        for read in 0..READS {
            let draw = draw >> (8 * (read + 1));
            let searches = path == subject.path && draw >> 4 & 1 == 1;
            let path = if searches { &subject.search } else { &path };
            let node = pick(draw, GATEWAYS);
            own_read(book, &mut wires[node], path, &marker, wanted, node);
        }
    }
}

/// What was written where, with the marker and the version of that.
type Written = (String, String, u64);

fn change(book: &Book, wire: &mut Wire, subject: &Subject, turn: u64) -> Option<Written> {
    let fields = "Content-Type: application/merge-patch+json\r\n";
    let answer = wire.send("PATCH", &subject.path, fields, &format!(r#"{{"name":"turn {turn}"}}"#));
    let written = answer.as_ref().ok().filter(|answer| answer.status == 200).and_then(|answer| {
        Some((subject.path.clone(), answer.field("last-seen")?.to_owned(), version(answer)?))
    });
    match &written {
        Some((_, _, version)) => subject.version.store(*version, SeqCst),
        None => book.found(format!("a change is answered {answer:?}")),
    }
    written
}

fn create_another(book: &Book, wire: &mut Wire, writer: usize, turn: u64) -> Option<Written> {
    let answer = post(wire, &format!("another{writer}-{turn}@example.com"));
    let written = answer.as_ref().ok().filter(|answer| answer.status == 201).and_then(|answer| {
        Some((answer.field("location")?.to_owned(), answer.field("last-seen")?.to_owned(), 1))
    });
    if written.is_none() {
        book.found(format!("a creation is answered {answer:?}"));
    }
    written
}

fn own_read(book: &Book, wire: &mut Wire, path: &str, marker: &str, wanted: u64, node: usize) {
    let answer = wire.send("GET", path, &format!("Last-Seen: {marker}\r\n"), "");
    book.own_reads.fetch_add(1, SeqCst);
    let status =
        answer.as_ref().ok().and_then(|answer| answer.field("cache-status")).unwrap_or_default().to_owned();
    book.own_hits.fetch_add(u64::from(status.contains("; hit")), SeqCst);
    book.skipped.fetch_add(u64::from(status.contains("own-write")), SeqCst);
    match answer {
        Ok(answer) if answer.status == 200 && version(&answer).is_some_and(|version| version >= wanted) => {}
        Ok(answer) if matches!(answer.status, 200 | 404) => {
            book.stale.fetch_add(1, SeqCst);
            let found = version(&answer);
            book.found(format!("gateway {}: {path} has {found:?} after {wanted} ({status})", node + 1));
        }
        other => book.found(format!("gateway {}: {path} is answered {other:?}", node + 1)),
    }
}

/// One client that writes nothing and fills the caches; now and then it asks the service itself.
fn read_on(book: &Book, sites: &[SocketAddr], servers: &[SocketAddr], subjects: &[Subject], reader: u64) {
    let wire = |address: &SocketAddr| Wire::to(*address);
    let (mut wires, mut direct): (Vec<_>, Vec<_>) =
        (sites.iter().map(wire).collect(), servers.iter().map(wire).collect());
    for turn in 0.. {
        if book.over.load(SeqCst) {
            return;
        }
        let draw = drawn(reader << 40 | turn);
        let subject = &subjects[pick(draw >> 8, subjects.len())];
        if pick(draw, 8) == 0 {
            let before = subject.version.load(SeqCst);
            let answer = direct[pick(draw >> 16, servers.len())].get(&subject.path);
            book.asked_directly.fetch_add(1, SeqCst);
            let behind = answer.ok().and_then(|answer| version(&answer)).is_some_and(|found| found < before);
            book.behind.fetch_add(u64::from(behind), SeqCst);
        } else {
            let path = if draw & 8 == 0 { &subject.path } else { &subject.search };
            let answer = wires[pick(draw >> 16, sites.len())].get(path);
            book.reads.fetch_add(1, SeqCst);
            let hit = |answer: &Answer| answer.field("cache-status").is_some_and(|it| it.contains("; hit"));
            book.hits.fetch_add(u64::from(answer.is_ok_and(|answer| hit(&answer))), SeqCst);
        }
        pause(Duration::from_millis(1));
    }
}

/// All have written: nobody is shown anything but the last, with or without a marker.
fn look_at_the_last(book: &Book, site: SocketAddr, subjects: &[Subject]) {
    for subject in subjects {
        let found = Wire::to(site).get(&subject.path).ok().and_then(|answer| version(&answer));
        let wanted = subject.version.load(SeqCst);
        if found != Some(wanted) {
            book.found(format!("{site}: {} stays at {found:?}, though {wanted} was the last", subject.path));
        }
    }
}

fn pick(draw: u64, of: usize) -> usize {
    usize::try_from(draw % of as u64).unwrap_or_default()
}

/// The first version that an answer names.
fn version(answer: &Answer) -> Option<u64> {
    let text = String::from_utf8_lossy(&answer.body);
    let (_, rest) = text.split_once("\"version\":")?;
    rest.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

fn judge(book: &Book, (primary, replicas): (u64, u64), pairs: u64, took: Duration) -> Verdict {
    let count = |counter: &AtomicU64| counter.load(SeqCst);
    let mut verdict = Verdict::default();
    let seconds = took.as_secs_f64();
    verdict.line(format!("write-then-read pairs          {pairs:>8} in {seconds:.1} s"));
    verdict.line(format!("reads after writes             {:>8}", count(&book.own_reads)));
    verdict.line(format!("  from a cache                 {:>8}", count(&book.own_hits)));
    verdict.line(format!("  what was cached passed over  {:>8}", count(&book.skipped)));
    verdict.line(format!("  stale                        {:>8}", count(&book.stale)));
    let share = 100.0 * share(count(&book.hits), count(&book.reads));
    verdict
        .line(format!("reads of others                {:>8}, {share:.0} % from a cache", count(&book.reads)));
    let (asked, behind) = (count(&book.asked_directly), count(&book.behind));
    verdict.line(format!("the service asked without      {asked:>8}, {behind} of them behind"));
    verdict
        .line(format!("reads of the database          {primary:>8} at the primary, {replicas} at replicas"));
    let broken = book.broken.lock().unwrap_or_else(PoisonError::into_inner);
    for what in broken.iter().take(5) {
        verdict.promise(false, || what.clone());
    }
    verdict.promise(broken.len() <= 5, || format!("and {} more", broken.len() - 5));
    verdict.promise(count(&book.own_hits) > 0, || "no read after a write came from a cache".to_owned());
    verdict.promise(behind > 0, || "no replica was behind: nothing was tried".to_owned());
    verdict
}

fn share(part: u64, of: u64) -> f64 {
    let of = usize::try_from(of.max(1)).unwrap_or(usize::MAX);
    number(usize::try_from(part).unwrap_or(usize::MAX)) / number(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_a_user_and_in_a_page() {
        let answer = |body: &str| Answer { status: 200, head: String::new(), body: body.as_bytes().to_vec() };
        assert_eq!(version(&answer(r#"{"id":"7","version":12}"#)), Some(12));
        assert_eq!(version(&answer(r#"{"users":[{"version":3}],"next":null}"#)), Some(3));
        assert_eq!(version(&answer(r#"{"users":[]}"#)), None);
    }

    #[test]
    fn what_was_found_breaks_the_promise() {
        let book = Book::default();
        book.own_hits.store(1, SeqCst);
        book.behind.store(1, SeqCst);
        assert!(judge(&book, (1, 1), 1, Duration::from_secs(1)).broken.is_empty());
        book.found("stale".to_owned());
        assert_eq!(judge(&book, (1, 1), 1, Duration::from_secs(1)).broken, ["stale"]);
        let nothing_tried = judge(&Book::default(), (0, 0), 1, Duration::from_secs(1));
        assert_eq!(nothing_tried.broken.len(), 2);
    }
}
