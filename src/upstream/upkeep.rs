//! What goes on in the background for an upstream: health checks, lookups, the ends of ejections.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::Upstream;
use super::breaker::Breaker;
use super::clock::Moment;
use super::endpoint::{Endpoint, Server, Spot};
use super::health::{self, Change, HealthCheck};
use super::names::Dns;
use super::resolve::{Answer, LookupFailed, Name, Resolution};

/// The background tasks of one upstream; all end with it.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<TaskTable>);

#[derive(Debug, Default)]
struct TaskTable {
    handles: HashMap<Job, AbortHandle>,
    ended: bool,
}

/// What a task is for; there is one of each at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    /// Checks whatever answers there.
    Check(Spot),
    /// Looks up the name of the server at this place of the configuration.
    Lookup(usize),
    /// Notices the ends of ejections.
    Ejections,
}

impl Tasks {
    fn ensure(&self, job: Job, work: impl Future<Output = ()> + Send + 'static) {
        let mut table = self.0.lock();
        if !table.ended {
            table.handles.entry(job).or_insert_with(|| tokio::spawn(work).abort_handle());
        }
    }

    /// Ends the checks of all others.
    fn keep_checks(&self, spots: &[Spot]) {
        self.0.lock().handles.retain(|job, handle| {
            let keep = !matches!(job, Job::Check(spot) if !spots.contains(spot));
            if !keep {
                handle.abort();
            }
            keep
        });
    }

    /// Whether the upstream was replaced.
    pub(super) fn have_ended(&self) -> bool {
        self.0.lock().ended
    }

    /// Ends all tasks, and lets no new ones begin.
    pub(super) fn end(&self) {
        let mut table = self.0.lock();
        table.ended = true;
        table.handles.drain().for_each(|(_, handle)| handle.abort());
    }
}

impl Upstream {
    /// Begins the checks and lookups, at once, on the present tokio runtime, and ends those of the upstream that this
    /// one was made from. They end when the upstream is dropped or replaced.
    pub fn start(self: &Arc<Self>) {
        if let Some(tls) = &self.settings().tls {
            tls.tell(self.name());
        }
        if let Some(former) = self.take_former() {
            former.tasks.end();
            let kept =
                |breaker: &Arc<Breaker>| self.breaker.as_ref().is_some_and(|own| Arc::ptr_eq(own, breaker));
            if let Some(breaker) = former.breaker.filter(|breaker| !kept(breaker)) {
                breaker.end();
            }
        }
        for (index, server) in self.servers().iter().enumerate() {
            if let Some(name) = &server.lookup {
                let dns = self.settings().dns.clone();
                let work = keep_resolved(Arc::downgrade(self), server.clone(), name.clone(), dns);
                self.tasks().ensure(Job::Lookup(index), work);
            }
        }
        if self.settings().outlier.is_some() {
            self.tasks().ensure(Job::Ejections, notice_returns(Arc::downgrade(self)));
        }
        self.take_stock(Moment::now());
        self.check_all();
    }

    /// Has every server of the group checked, and no other.
    fn check_all(&self) {
        let Some(rules) = &self.settings().health else { return };
        let rules = Arc::new(rules.clone());
        let group = self.group();
        let spots: Vec<Spot> = group.endpoints().iter().map(|endpoint| endpoint.spot()).collect();
        self.tasks().keep_checks(&spots);
        for endpoint in group.endpoints() {
            let work = keep_checking(endpoint.clone(), rules.clone());
            self.tasks().ensure(Job::Check(endpoint.spot()), work);
        }
    }
}

async fn keep_checking(endpoint: Arc<Endpoint>, rules: Arc<HealthCheck>) {
    loop {
        let result = health::check(endpoint.address(), endpoint.authority(), endpoint.way(), &rules).await;
        if result.of_tls {
            endpoint.server().counts.tls_errors.inc();
        }
        let failure = result.failure.clone();
        if let Some(change) = endpoint.vitals().health.note(result, &rules) {
            tell(&endpoint, change, failure.as_deref().unwrap_or_default());
            if change == Change::Up {
                endpoint.vitals().come_back(Moment::now());
            }
            if let Some(upstream) = endpoint.group() {
                upstream.take_stock(Moment::now());
            }
        }
        sleep(rules.pause(fastrand::f64())).await;
    }
}

fn tell(endpoint: &Endpoint, change: Change, reason: &str) {
    let (upstream, server, address) = (endpoint.upstream(), endpoint.name(), endpoint.address());
    match change {
        Change::Up => tracing::info!(upstream, server, %address, "server is up"),
        Change::Down => tracing::warn!(upstream, server, %address, reason, "server is down"),
        Change::NotYet => tracing::warn!(upstream, server, %address, reason, "server is not up yet"),
    }
}

/// Least time between two lookups of a name, however many connections to it fail.
const LOOKUP_GAP: Duration = Duration::from_secs(1);

/// Time to the second lookup of a name that does not resolve; doubles with each further one, up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

async fn keep_resolved(upstream: Weak<Upstream>, server: Arc<Server>, name: Name, dns: Dns) {
    let mut retry = FIRST_RETRY;
    loop {
        let known = server.resolution.load_full();
        let found = dns.lookup(&name, &known.places).await;
        let Some(upstream) = upstream.upgrade() else { return };
        let whole = found.as_ref().ok().filter(|answer| answer.trouble.is_none());
        let pause = whole.map_or(retry, |answer| answer.holds);
        retry = if whole.is_some() { FIRST_RETRY } else { (retry * 2).min(LAST_RETRY) };
        note_lookup(&upstream, &server, found);
        drop(upstream);

        sleep(LOOKUP_GAP).await;
        tokio::select! {
            // A little late, so that gateways do not ask in step, and none is told what it knows already.
            () = sleep(pause.mul_f64(1.0 + 0.1 * fastrand::f64()).saturating_sub(LOOKUP_GAP)) => {}
            () = server.hurry.notified() => {}
        }
    }
}

fn note_lookup(upstream: &Upstream, server: &Server, found: Result<Answer, LookupFailed>) {
    let before = server.resolution.load_full();
    let after = before.after(found);
    if after == *before {
        return;
    }
    let moved = after.places != before.places;
    if moved || after.has_failed() != before.has_failed() {
        tell_lookup(upstream.name(), server, &after);
    }
    server.resolution.store(Arc::new(after));
    if moved {
        upstream.publish();
        upstream.check_all();
    }
}

fn tell_lookup(upstream: &str, server: &Server, after: &Resolution) {
    let (server, addresses) = (&*server.name, after.addresses());
    match &after.trouble {
        Some(reason) if addresses.is_empty() => {
            tracing::warn!(upstream, server, %reason, "server is unresolved");
        }
        Some(reason) => {
            tracing::warn!(upstream, server, %reason, ?addresses, "server is not resolved anew: going on with what is known");
        }
        None => tracing::info!(upstream, server, ?addresses, "server is resolved"),
    }
}

/// How late the end of an ejection may be told and shown; the choice itself is exact.
const NOTICE: Duration = Duration::from_secs(1);

async fn notice_returns(upstream: Weak<Upstream>) {
    let mut out: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        sleep(NOTICE).await;
        let Some(upstream) = upstream.upgrade() else { return };
        let now = Moment::now();
        let (still_out, back) = out.drain(..).partition(|endpoint| endpoint.is_ejected(now));
        out = still_out;
        for endpoint in back {
            let (upstream_name, server) = (endpoint.upstream(), endpoint.name());
            tracing::info!(upstream = upstream_name, server, address = %endpoint.address(), "ejection is over");
        }
        upstream.take_stock(now);
        for endpoint in upstream.group().endpoints() {
            if endpoint.is_ejected(now) && !out.iter().any(|known| known.id() == endpoint.id()) {
                out.push(endpoint.clone());
            }
        }
    }
}
