//! Choosing a server: groups of interchangeable servers, and a lease for each request sent to one.

mod settings;
pub mod balance;
mod lease;
mod assembly;
pub mod address;
pub mod endpoint;
pub mod health;
pub mod outlier;
mod breaker;
pub mod retry;
mod retry_after;
mod window;
pub mod limits;
pub mod split;
pub mod peer;
pub mod resolve;
mod names;
pub mod view;
mod upkeep;
mod counts;
pub mod clock;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use fastrand::Rng;
use parking_lot::Mutex;
use thiserror::Error;

use crate::telemetry::Meters;

use self::balance::Group;
use self::breaker::Breaker;
use self::clock::Moment;
use self::counts::GroupCounts;
use self::endpoint::{Endpoint, Server};
use self::limits::Admission;
use self::retry::Budget;
use self::upkeep::Tasks;

pub use self::address::Address;
pub use self::balance::Balance;
pub use self::breaker::CircuitBreaker;
pub use self::health::HealthCheck;
pub use self::lease::{Lease, Tried};
pub use self::limits::{Limits, Permit, Saturated};
pub use self::names::Dns;
pub use self::outlier::Outlier;
pub use self::peer::{Overrides, Timeouts};
pub use self::retry::{Backoff, Failure, Failures, Retries};
pub use self::retry_after::retry_after;
pub use self::settings::{ServerSettings, Settings};
pub use self::split::Split;
pub use self::view::UpstreamView;

/// A group of interchangeable servers.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    settings: Settings,
    servers: Box<[Arc<Server>]>,
    group: ArcSwap<Group>,
    turn: AtomicUsize,
    budget: Arc<Budget>,
    breaker: Option<Arc<Breaker>>,
    admission: Arc<Admission>,
    counts: Arc<GroupCounts>,
    /// Held while the group is made anew or a server ejected; never for a choice.
    changing: Mutex<()>,
    tasks: Arc<Tasks>,
    former: Mutex<Option<Arc<Tasks>>>,
    me: Weak<Self>,
}

/// No server may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoServer {
    /// Every server is down by its health checks, or some are and the rest are ejected.
    #[error("every server of upstream `{0}` is down")]
    Down(Arc<str>),
    /// Every server is ejected for its failing answers.
    #[error("every server of upstream `{0}` is ejected")]
    Ejected(Arc<str>),
    /// No server has an address.
    #[error("no server of upstream `{0}` is resolved")]
    Unresolved(Arc<str>),
    /// The circuit breaker lets nothing through.
    #[error("the circuit breaker of upstream `{upstream}` is open for another {wait:?}")]
    Open {
        /// The upstream's name.
        upstream: Arc<str>,
        /// How long it lets nothing through; above 0.
        wait: Duration,
    },
}

/// A try that failed, and what there is to know for another.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// How it failed.
    pub failure: Failure,
    /// The servers that were tried, the one that failed included.
    pub tried: &'a Tried,
    /// How long the server asks to be left alone (`Retry-After`).
    pub told: Option<Duration>,
    /// What is left of the time for the whole exchange; `None` for as long as it takes.
    pub left: Option<Duration>,
}

/// The longest that a client is kept waiting because a server asked to be left alone.
const LONGEST_TOLD: Duration = Duration::from_secs(30);

impl Upstream {
    /// An upstream that is ready to be asked; [`Upstream::start`] begins its checks and lookups.
    ///
    /// `running` is the upstream of the same name in the configuration in force, if there is one: health, requests in
    /// flight and ejections are carried over by address, the retry budget and metrics by name. It is not changed, so
    /// a configuration that is refused after all leaves no trace.
    pub fn new(settings: Settings, running: Option<&Self>, meters: &Meters) -> Arc<Self> {
        let running = running.filter(|running| running.settings.name == settings.name);
        let name: Arc<str> = settings.name.as_str().into();
        let counts = running
            .map_or_else(|| Arc::new(GroupCounts::new(&name, meters)), |running| running.counts.clone());
        let admission =
            running.map(|running| &running.admission).filter(|door| *door.limits() == settings.limits);
        let admission = admission.cloned().unwrap_or_else(|| {
            Arc::new(Admission::new(name.clone(), settings.limits, counts.pending.clone()))
        });
        let breaker = assembly::breaker(&settings, &name, &counts, running);
        let servers = assembly::servers(&settings, &name, &counts, breaker.as_ref(), running, meters);

        Arc::new_cyclic(|me| {
            let known = running.map(Self::group);
            let upstream = Self {
                group: ArcSwap::from_pointee(assembly::group(&servers, known.as_deref(), me)),
                servers,
                name,
                settings,
                turn: AtomicUsize::new(running.map_or(0, |running| running.turn.load(Relaxed))),
                budget: running.map(|running| running.budget.clone()).unwrap_or_default(),
                admission,
                breaker,
                counts,
                changing: Mutex::new(()),
                tasks: Arc::default(),
                former: Mutex::new(running.map(|running| running.tasks.clone())),
                me: me.clone(),
            };
            if running.is_none() {
                upstream.show_up(Moment::now());
            }
            upstream
        })
    }

    /// The upstream of these settings: `running`, the one of the same name in force, where nothing has changed.
    pub fn follow(settings: Settings, running: Option<&Arc<Self>>, meters: &Meters) -> Arc<Self> {
        match running.filter(|running| running.settings == settings) {
            Some(same) => same.clone(),
            None => Self::new(settings, running.map(AsRef::as_ref), meters),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, to keep.
    pub fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// What it was made from.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Waits for a turn to have a request in flight.
    pub async fn admit(&self) -> Result<Permit, Saturated> {
        self.admission.admit().await
    }

    /// Why a request that came now would be sent nowhere, before it waits for its turn.
    ///
    /// # Errors
    /// The circuit breaker is open.
    pub fn would_send(&self) -> Result<(), NoServer> {
        let wait = self.breaker.as_ref().and_then(|breaker| breaker.refuses(Moment::now()));
        wait.map_or(Ok(()), |wait| Err(NoServer::Open { upstream: self.shared_name(), wait }))
    }

    /// Chooses a server for one try, in constant time, without a lock or an allocation.
    ///
    /// Never one that is down or ejected. One that was tried only if no other is left: a connection that the server
    /// closed while it was idle says nothing against the server, and it may be the only one.
    pub fn pick(&self, tried: &Tried) -> Result<Lease, NoServer> {
        self.pick_with(tried, Moment::now(), &mut Rng::new())
    }

    /// The same at this moment by this source of chance.
    pub fn pick_with(&self, tried: &Tried, now: Moment, rng: &mut Rng) -> Result<Lease, NoServer> {
        if tried.is_empty() {
            self.budget.request(now);
        }
        let probe = self.breaker.as_ref().map_or(Ok(None), |breaker| breaker.enter(now));
        let probe = probe.map_err(|wait| NoServer::Open { upstream: self.shared_name(), wait })?;
        let group = self.group.load();
        let balance = self.settings.balance;
        let untried = |endpoint: &Endpoint| endpoint.is_usable(now) && !tried.contains(endpoint);
        let mut chosen = group.choose(balance, &self.turn, rng, untried);
        if chosen.is_none() && !tried.is_empty() {
            chosen = group.choose(balance, &self.turn, rng, |endpoint| endpoint.is_usable(now));
        }
        chosen
            .map(|endpoint| Lease::take(endpoint.clone()).probing(probe))
            .ok_or_else(|| self.why_none(&group, now))
    }

    /// Whether to try once more after this failure, and after what wait; takes the retry out of the budget.
    ///
    /// Whether the request may be repeated at all (an idempotent method, or nothing sent) is for the caller to know first.
    pub fn may_retry(&self, failed: &Failed<'_>) -> Option<Duration> {
        self.may_retry_at(failed, Moment::now(), fastrand::f64())
    }

    fn may_retry_at(&self, failed: &Failed<'_>, now: Moment, random: f64) -> Option<Duration> {
        let retries = &self.settings.retries;
        let tries = failed.tried.count();
        if tries >= usize::from(retries.attempts) || !retries.on.contains(failed.failure) {
            return None;
        }
        let wait = retries.backoff.wait(u32::try_from(tries).unwrap_or(u32::MAX), random);
        // One server's word on when to ask it again is nothing to the others.
        let told = failed.told.filter(|_| !self.has_untried(failed.tried, now));
        let wait = wait.max(told.unwrap_or_default());
        let in_time =
            failed.left.is_none_or(|left| wait < left) && told.is_none_or(|told| told <= LONGEST_TOLD);
        if !in_time || self.breaker.as_ref().is_some_and(|breaker| breaker.refuses(now).is_some()) {
            return None;
        }
        if !self.budget.spend(retries.budget, now) {
            self.counts.denied.inc();
            return None;
        }
        self.counts.retries(failed.failure).inc();
        Some(wait)
    }

    fn has_untried(&self, tried: &Tried, now: Moment) -> bool {
        let group = self.group.load();
        group.endpoints().iter().any(|endpoint| endpoint.is_usable(now) && !tried.contains(endpoint))
    }

    /// Whether a server could be chosen now.
    pub fn is_available(&self) -> bool {
        let now = Moment::now();
        self.group.load().endpoints().iter().any(|endpoint| endpoint.is_usable(now))
    }

    /// How it stands.
    pub fn snapshot(&self) -> UpstreamView {
        UpstreamView::of(self, Moment::now())
    }

    fn why_none(&self, group: &Group, now: Moment) -> NoServer {
        let name = self.name.clone();
        match group.endpoints() {
            [] => NoServer::Unresolved(name),
            all if all.iter().all(|endpoint| endpoint.is_up() && endpoint.is_ejected(now)) => {
                NoServer::Ejected(name)
            }
            _ => NoServer::Down(name),
        }
    }
}

/// What the parts of an upstream do to it.
impl Upstream {
    /// Counts a failure against a server, and ejects it when it is due and the group can spare it.
    fn note_failure(&self, endpoint: &Endpoint, now: Moment) {
        let Some(rules) = &self.settings.outlier else { return };
        let conduct = &endpoint.vitals().conduct;
        if !conduct.failed(rules, now) {
            return;
        }
        // Of two servers ejected at once, each might have counted on the other. Who finds the door taken does not
        // wait: the next failure comes back.
        let Some(_guard) = self.changing.try_lock() else { return };
        let group = self.group.load();
        let ejected = group.endpoints().iter().filter(|other| other.is_ejected(now)).count();
        let others_usable =
            group.endpoints().iter().any(|other| other.id() != endpoint.id() && other.is_usable(now));
        if conduct.is_ejected(now) || !rules.permits(group.endpoints().len(), ejected, others_usable) {
            return;
        }
        let time = conduct.eject(rules, now);
        endpoint.server().counts.ejections.inc();
        self.show_up(now);
        let (upstream, server, address) = (self.name(), endpoint.name(), endpoint.address());
        tracing::warn!(upstream, server, %address, ?time, "server is ejected for its failing answers");
    }

    /// Makes the group anew from what its names stand for now.
    fn publish(&self) {
        let guard = self.changing.lock();
        let group = assembly::group(&self.servers, Some(&self.group.load()), &self.me);
        self.group.store(Arc::new(group));
        drop(guard);
        self.show_up(Moment::now());
    }

    /// Shows in the metrics which servers may be chosen; once it is replaced, that is its successor's to say.
    fn show_up(&self, now: Moment) {
        if self.tasks.have_ended() {
            return;
        }
        self.counts.breaker.set(self.breaker.as_ref().map_or(0, |breaker| breaker.shown(now)));
        let group = self.group.load();
        let usable = group.endpoints().iter().filter(|endpoint| endpoint.is_usable(now));
        let mut usable = usable.map(|endpoint| endpoint.server()).peekable();
        // Endpoints stand in the order of their servers.
        for server in &self.servers {
            let mut up = 0;
            while usable.next_if(|next| Arc::ptr_eq(next, server)).is_some() {
                up = 1;
            }
            server.counts.up.set(up);
        }
    }

    fn group(&self) -> Arc<Group> {
        self.group.load_full()
    }

    fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    fn take_former(&self) -> Option<Arc<Tasks>> {
        self.former.lock().take()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.end();
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
