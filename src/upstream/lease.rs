//! One request in flight to a server, and the servers that one request has tried.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::breaker::Probe;
use super::clock::Moment;
use super::endpoint::Endpoint;
use super::retry::Failure;

/// One request in flight to a server; dropping it ends the count, also when the request is cancelled.
///
/// Say how the try went with [`Lease::succeeded`] or [`Lease::failed`], once; later words are not heard. A head alone
/// is no success yet: an answer may break off after it. A lease that is dropped without a word says nothing of the
/// server: its client went away.
#[derive(Debug)]
#[must_use = "a dropped lease counts no request"]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    taken: Moment,
    /// Where the circuit breaker learns from this try.
    probe: Option<Probe>,
    settled: bool,
}

/// For the average of a server's times, a try that failed took so long at least: what fails at once is not fast.
const FAILED: Duration = Duration::from_secs(1);

impl Lease {
    pub(super) fn take(endpoint: Arc<Endpoint>, now: Moment) -> Self {
        endpoint.vitals().in_flight.fetch_add(1, Relaxed);
        endpoint.server().counts.in_flight.inc();
        endpoint.server().group_counts.in_flight.fetch_add(1, Relaxed);
        Self { endpoint, taken: now, probe: None, settled: false }
    }

    pub(super) fn probing(mut self, probe: Option<Probe>) -> Self {
        self.probe = probe;
        self
    }

    /// The server it is for.
    pub const fn server(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The answer's head came, this long after the server was chosen.
    pub fn answered(&mut self, elapsed: Duration) {
        // What streams for hours would keep a breaker half-open: its head is enough.
        if let Some(probe) = self.probe.take() {
            probe.passed();
        }
        let server = self.endpoint.server();
        server.group_counts.seconds.observe(elapsed.as_secs_f64());
        if let Some(decay) = server.decay {
            self.endpoint.vitals().latency.note(elapsed, decay, Moment::now());
        }
    }

    /// The answer came whole.
    pub fn succeeded(&mut self) {
        if self.settle() {
            let (server, now) = (self.endpoint.server(), Moment::now());
            server.counts.ok.inc();
            if server.ejectable {
                self.endpoint.vitals().conduct.succeeded(now);
            }
            match (self.probe.take(), &server.breaker) {
                (Some(probe), _) => probe.passed(),
                (None, Some(breaker)) => breaker.note(false, now),
                (None, None) => {}
            }
        }
    }

    /// The try failed; enough of these in a row eject the server.
    pub fn failed(&mut self, failure: Failure) {
        self.failed_at(failure, Moment::now());
    }

    pub(super) fn failed_at(&mut self, failure: Failure, now: Moment) {
        if !self.settle() {
            return;
        }
        let server = self.endpoint.server();
        server.counts.error.inc();
        match (self.probe.take(), &server.breaker) {
            (Some(probe), _) => probe.failed(now),
            (None, Some(breaker)) => breaker.note(true, now),
            (None, None) => {}
        }
        if let Some(decay) = server.decay {
            let took = now.since(self.taken).max(FAILED);
            self.endpoint.vitals().latency.note(took, decay, now);
        }
        if failure == Failure::Connect {
            // The name may stand for other addresses by now.
            server.hurry.notify_one();
        }
        if server.ejectable
            && let Some(group) = self.endpoint.group()
        {
            group.note_failure(&self.endpoint, now);
        }
    }

    fn settle(&mut self) -> bool {
        !std::mem::replace(&mut self.settled, true)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.vitals().in_flight.fetch_sub(1, Relaxed);
        self.endpoint.server().counts.in_flight.dec();
        self.endpoint.server().group_counts.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The servers that a request was sent to already. Part of the request's state: no allocation.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    ids: [u64; MOST_TRIED],
    /// Which of them say nothing against their servers, a bit for each.
    harmless: u16,
    count: usize,
    /// How many of them were made when the request began anew.
    before: usize,
    spared: usize,
}

/// As many as a request may have tries; of more, the earliest are forgotten.
const MOST_TRIED: usize = 10;

/// What a server has been to a request, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Met {
    /// It was not asked.
    Never,
    /// Connections to it had been closed meanwhile, and no more.
    Closed,
    /// It failed.
    Failed,
}

impl Tried {
    /// Remembers the server of this lease.
    pub fn add(&mut self, lease: &Lease) {
        let slot = self.count % MOST_TRIED;
        self.ids[slot] = lease.endpoint.id();
        self.harmless &= !(1 << slot);
        self.count += 1;
    }

    /// The last try says nothing against its server: the connection for it had been closed meanwhile.
    pub fn found_closed(&mut self) {
        if let Some(last) = self.last() {
            self.harmless |= 1 << last;
        }
    }

    /// The same, and it is none of the tries that a request may have: the server left without a look at it.
    pub fn spare(&mut self) {
        self.found_closed();
        self.spared += 1;
    }

    /// The request is sent as if for the first time, though nothing failed: its tries are only counted.
    pub fn begin_anew(&mut self) {
        *self = Self { count: self.count, before: self.count, ..Self::default() };
    }

    /// Whether the last try says nothing against its server.
    pub fn last_was_harmless(&self) -> bool {
        self.last().is_some_and(|last| self.is_harmless(last))
    }

    /// How many tries there were.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// How many of them are among those that a request may have.
    pub const fn counted(&self) -> usize {
        self.count - self.before - self.spared
    }

    /// Whether there was none yet, since it began.
    pub const fn is_empty(&self) -> bool {
        self.count == self.before
    }

    /// Whether this server was among them.
    pub fn contains(&self, endpoint: &Endpoint) -> bool {
        self.met(endpoint) > Met::Never
    }

    /// What this server has been to the request: of several tries, the worst.
    pub(super) fn met(&self, endpoint: &Endpoint) -> Met {
        if self.is_empty() {
            return Met::Never;
        }
        let slots = (0..MOST_TRIED).filter(|slot| self.ids[*slot] == endpoint.id());
        let met = slots.map(|slot| if self.is_harmless(slot) { Met::Closed } else { Met::Failed });
        met.max().unwrap_or(Met::Never)
    }

    const fn is_harmless(&self, slot: usize) -> bool {
        self.harmless & (1 << slot) != 0
    }

    const fn last(&self) -> Option<usize> {
        if self.is_empty() { None } else { Some((self.count - 1) % MOST_TRIED) }
    }
}
