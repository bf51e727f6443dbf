//! Choosing a server: groups of interchangeable servers, and a lease for each request sent to one.

mod settings;
mod pick;
mod group;
pub mod balance;
pub mod affinity;
mod lease;
mod changes;
mod assembly;
pub mod address;
pub mod endpoint;
pub mod health;
pub mod outlier;
mod breaker;
pub mod retry;
mod retry_after;
mod again;
mod window;
pub mod limits;
pub mod split;
pub mod peer;
pub mod way;
pub mod tls;
mod introduction;
pub mod resolve;
mod names;
pub mod view;
mod upkeep;
mod counts;
pub mod clock;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::telemetry::Meters;

use self::breaker::Breaker;
use self::clock::Moment;
use self::counts::GroupCounts;
use self::endpoint::Server;
use self::group::Group;
use self::limits::Admission;
use self::retry::Budget;
use self::upkeep::Tasks;

pub use self::address::Address;
pub use self::affinity::{Affinity, HashKey, Sticky, StickySecret};
pub use self::again::Failed;
pub use self::balance::Balance;
pub use self::breaker::CircuitBreaker;
pub use self::changes::Drained;
pub use self::health::HealthCheck;
pub use self::introduction::{Client, ProxyProtocol};
pub use self::lease::{Lease, Tried};
pub use self::limits::{Limits, Permit, Saturated};
pub use self::names::Dns;
pub use self::outlier::Outlier;
pub use self::peer::{Overrides, Timeouts};
pub use self::pick::NoServer;
pub use self::retry::{Backoff, Failure, Failures, Retries};
pub use self::retry_after::retry_after;
pub use self::settings::{Protocol, ServerSettings, Settings};
pub use self::split::Split;
pub use self::tls::Tls;
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
    /// Whether all servers are used whatever their state, for want of enough that are up.
    panics: AtomicBool,
    /// Held while the group is made anew or a server ejected; never for a choice.
    changing: Mutex<()>,
    /// Held while stock is taken, so that the last to count saw the last change; never for a choice.
    counting: Mutex<()>,
    tasks: Arc<Tasks>,
    former: Mutex<Option<Former>>,
    me: Weak<Self>,
}

/// What ends once another is in force in its place.
#[derive(Debug)]
struct Former {
    tasks: Arc<Tasks>,
    breaker: Option<Arc<Breaker>>,
}

impl Former {
    fn of(upstream: &Upstream) -> Self {
        Self { tasks: upstream.tasks.clone(), breaker: upstream.breaker.clone() }
    }
}

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
        let first = settings.balance.first_turn();

        Arc::new_cyclic(|me| {
            let known = running.map(Self::group);
            let upstream = Self {
                group: ArcSwap::from_pointee(assembly::group(&servers, known.as_deref(), &settings, me)),
                servers,
                name,
                settings,
                turn: AtomicUsize::new(running.map_or(first, |running| running.turn.load(Relaxed))),
                budget: running.map(|running| running.budget.clone()).unwrap_or_default(),
                admission,
                breaker,
                counts,
                panics: AtomicBool::new(running.is_some_and(|running| running.panics.load(Relaxed))),
                changing: Mutex::new(()),
                counting: Mutex::new(()),
                tasks: Arc::default(),
                former: Mutex::new(running.map(Former::of)),
                me: me.clone(),
            };
            let now = Moment::now();
            if running.is_none() {
                upstream.take_stock(now);
            } else {
                // Shown once it is in force.
                upstream.group.load().take_stock(upstream.settings.panic_below, now);
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

    /// Whether a server could be chosen now.
    pub fn is_available(&self) -> bool {
        let now = Moment::now();
        self.group.load().endpoints().iter().any(|endpoint| endpoint.is_usable(now))
    }

    /// How it stands.
    pub fn snapshot(&self) -> UpstreamView {
        UpstreamView::of(self, Moment::now())
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

    fn take_former(&self) -> Option<Former> {
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
