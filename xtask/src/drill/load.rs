//! An open-loop load: requests are due at fixed times whatever becomes of those before, and each is timed from when it
//! was due.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::stage::pause;
use super::wire::{Answer, Wire};
use crate::{Failure, Outcome};

/// How long one answer may take before those after it are late for want of a connection.
const SLOWEST: Duration = Duration::from_millis(125);
/// Connections per target at the least.
const WORKERS_MIN: u32 = 32;

/// What is asked, and of whom.
pub(crate) struct Script {
    /// Requests a second, all targets together.
    pub(crate) rate: u32,
    /// The gateways, taken in turn.
    pub(crate) targets: Vec<SocketAddr>,
    /// The path of the n-th request.
    pub(crate) path: fn(u64) -> String,
    /// Whether an answer of 200 is the right one for its path.
    pub(crate) right: fn(&str, &Answer) -> bool,
}

/// One request, as it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// When it was due, since the load began.
    pub(crate) due: Duration,
    /// From when it was due to the last byte of its answer.
    pub(crate) took: Duration,
    /// How it ended.
    pub(crate) end: End,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A right answer from a gateway's memory.
    Memory,
    /// A right answer from Redis.
    Redis,
    /// A right answer that the origin had to be asked for.
    Origin,
    /// A 200 that is not the answer to this request.
    Wrong,
    /// Any other status.
    Status(u16),
    /// No answer.
    Broken,
}

impl End {
    /// Whether the client got what it asked for.
    pub(crate) fn is_right(self) -> bool {
        matches!(self, Self::Memory | Self::Redis | Self::Origin)
    }
}

/// A load under way.
pub(crate) struct Load {
    began: Instant,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Vec<Sample>>>,
}

struct Shared {
    script: Script,
    began: Instant,
    next: AtomicU64,
    over: AtomicBool,
    /// Targets that are left out, because they are known to be gone.
    gone: Vec<AtomicBool>,
}

impl Load {
    /// Begins at once, and goes on until ended or dropped.
    pub(crate) fn start(script: Script) -> Self {
        let (began, rate) = (Instant::now(), script.rate);
        let gone = script.targets.iter().map(|_| AtomicBool::new(false)).collect();
        let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { script, began, next, over, gone });
        let worker = || {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared))
        };
        let in_flight = u32::try_from(SLOWEST.as_millis()).unwrap_or(u32::MAX).saturating_mul(rate) / 1_000;
        let workers = (0..in_flight.max(WORKERS_MIN)).map(|_| worker()).collect();
        Self { began, shared, workers }
    }

    /// Since the load began.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asks one target no more, as a balancer does that sees it gone.
    pub(crate) fn leave_out(&self, target: usize) {
        self.shared.gone[target].store(true, Relaxed);
    }

    /// Waits for the answers that are due and gives all samples in order.
    pub(crate) fn end(mut self) -> Outcome<Vec<Sample>> {
        self.shared.over.store(true, Relaxed);
        let mut samples = Vec::new();
        for worker in self.workers.drain(..) {
            samples.extend(worker.join().map_err(|_| Failure::new("a worker of the load panicked"))?);
        }
        samples.sort_by_key(|sample| sample.due);
        Ok(samples)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
    }
}

fn work(shared: &Shared) -> Vec<Sample> {
    let targets = &shared.script.targets;
    let mut wires: Vec<Wire> = targets.iter().map(|&address| Wire::to(address)).collect();
    let mut samples = Vec::new();
    while !shared.over.load(Relaxed) {
        let number = shared.next.fetch_add(1, Relaxed);
        // In whole nanoseconds, so that no rate drifts.
        let due = Duration::from_nanos(number * 1_000_000_000 / u64::from(shared.script.rate));
        pause(due.saturating_sub(shared.began.elapsed()));
        let Some(target) = shared.target(number) else { continue };
        let path = (shared.script.path)(number);
        let end = match wires[target].get(&path) {
            Ok(answer) => judge(&shared.script, &path, &answer),
            Err(_) => End::Broken,
        };
        samples.push(Sample { due, took: shared.began.elapsed().saturating_sub(due), end });
    }
    samples
}

impl Shared {
    /// Whose turn it is: the n-th target, or the next one that is there.
    fn target(&self, number: u64) -> Option<usize> {
        let count = self.gone.len();
        let first = usize::try_from(number % u64::try_from(count).ok()?).ok()?;
        (first..first + count).map(|index| index % count).find(|&index| !self.gone[index].load(Relaxed))
    }
}

fn judge(script: &Script, path: &str, answer: &Answer) -> End {
    if answer.status != 200 {
        return End::Status(answer.status);
    }
    if !(script.right)(path, answer) {
        return End::Wrong;
    }
    source(answer)
}

/// Where an answer came from, as its `Cache-Status` says (RFC 9211).
pub(crate) fn source(answer: &Answer) -> End {
    // Ours is the last member: the one nearest to the client.
    let member = answer.field("cache-status").and_then(|list| list.rsplit(',').next()).unwrap_or_default();
    let has = |word| member.split(';').any(|part| part.trim() == word);
    match (has("hit"), has("detail=redis")) {
        (true, true) => End::Redis,
        (true, false) => End::Memory,
        (false, _) => End::Origin,
    }
}

#[cfg(test)]
mod tests {
    use super::super::origin::{Origin, Reply};
    use super::*;

    fn answer(cache_status: &str) -> Answer {
        let head = format!("HTTP/1.1 200 OK\r\nCache-Status: {cache_status}\r\n\r\n");
        Answer { status: 200, head, body: Vec::new() }
    }

    #[test]
    fn the_source_is_read_from_the_last_member() {
        assert_eq!(source(&answer("tidegate; hit; ttl=7")), End::Memory);
        assert_eq!(source(&answer("tidegate; hit; detail=redis")), End::Redis);
        assert_eq!(source(&answer("other; hit, tidegate; fwd=uri-miss; stored")), End::Origin);
    }

    #[test]
    fn requests_are_timed_from_when_they_were_due() {
        let origin = Origin::start(1, |_| {
            pause(Duration::from_millis(30));
            Reply { fields: String::new(), body: b"a".to_vec() }
        })
        .unwrap();
        let load = Load::start(Script {
            rate: 200,
            targets: vec![origin.door(0)],
            path: |number| format!("/{number}"),
            right: |_, answer| answer.body == b"a",
        });
        pause(Duration::from_millis(300));
        let samples = load.end().unwrap();
        assert!(samples.len() >= 40, "{}", samples.len());
        assert!(samples.iter().all(|sample| sample.end == End::Origin));
        assert!(samples.iter().all(|sample| sample.took >= Duration::from_millis(30)));
    }
}
