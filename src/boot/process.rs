//! The process: what lives as long as it does, from the first client to the last.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::desk::Desk;
use super::marker_key::MarkerKey;
use super::reload::{Reloader, Started};
use super::source::{Compiled, Source};
use super::{Failure, drain, fleet, follow, quotas, revoke, surroundings, tickets};
use crate::acme::Acme;
use crate::admin::{self, Admin, DrainDone, DrainOrder, Ready, Socket};
use crate::auth::TakenBack;
use crate::cache::Tiers;
use crate::cache::fleet::Joining;
use crate::cache::flight::Flights;
use crate::cache::held::Held;
use crate::config::AccessLog as Written;
use crate::feed::Feed;
use crate::gateway::{Connections, Fetching, Gateway};
use crate::listen::{self, Bound, CertWatch, Edge, Kind, Listener, Listeners};
use crate::plan::{AdminAddress, Plan};
use crate::redis::Redis;
use crate::telemetry::access::{AccessLog, Form};
use crate::telemetry::{Meters, RouteMeters};
use crate::upstream::Upstream;

/// A gateway with everything bound, about to serve.
pub(super) struct Process {
    source: Source,
    compiled: Compiled,
    meters: Arc<Meters>,
    threads: usize,
    listeners: Vec<Bound>,
    admin: Socket,
}

impl Process {
    pub(super) fn bind(
        source: Source,
        compiled: Compiled,
        meters: Arc<Meters>,
        threads: usize,
    ) -> Result<Self, Failure> {
        let plan = &compiled.plan;
        if let Some(acme) = &plan.acme {
            acme.prepare().map_err(|error| surroundings(format!("`tls.acme.storage`: {error}")))?;
        }
        let listeners = listen::bind(&plan.listeners).map_err(surroundings)?;
        let admin = match &plan.admin {
            AdminAddress::Tcp(address) => Socket::tcp(*address),
            AdminAddress::Unix(path) => Socket::unix(path),
        };
        let admin = admin.map_err(|error| {
            surroundings(format!("the admin listener cannot be bound to {}: {error}", plan.admin))
        })?;
        Ok(Self { source, compiled, meters, threads, listeners, admin })
    }

    /// Serves until a signal comes, then ends.
    pub(super) fn live(self, runtime: &Runtime) -> Result<ExitCode, Failure> {
        let form = match self.compiled.plan.config.log.access {
            Written::Json => Form::Json,
            Written::Text => Form::Text,
            Written::Off => Form::Off,
        };
        let access = AccessLog::start(form, self.meters.access_log_dropped.with([])).map_err(surroundings)?;
        let access = Arc::new(access);
        let code = runtime.block_on(self.serve(access.clone()));
        access.close();
        code
    }

    async fn serve(self, access: Arc<AccessLog>) -> Result<ExitCode, Failure> {
        // First of all: whoever reads where we listen may tell us to stop, or to read the configuration again.
        let mut signals = drain::Signals::listen().map_err(surroundings)?;
        let hangups = follow::hangups().map_err(surroundings)?;
        let Self { source, compiled: Compiled { plan, files }, meters, threads, listeners, admin } = self;
        let addresses: Vec<String> = listeners.iter().map(|bound| bound.listener.to_string()).collect();
        let admin_address = admin.address().map_err(surroundings)?;
        let ready = Arc::new(Ready::waiting_for(["listeners", "upstreams"]));

        let (plan, tls) = plan.split_tls();
        let edge = Edge::new(None, plan.bounds, &meters);
        edge.set_trusted(plan.trusted_proxies.clone());
        let certs = CertWatch::new(&edge, &meters);
        certs.hold(tls);
        let _certs = tokio::spawn(certs.clone().run());
        let fleet = plan.redis.as_ref().map(|redis| fleet::join(redis, &plan.cache, &meters));
        let redis = fleet.as_ref().map(|(redis, _)| redis.clone());
        if let Some(redis) = &redis {
            source.join(redis, &meters);
        }
        let _shared = source.keep();
        let taken_back = source.taken_back().clone();
        let acme = Acme::new(&edge, &certs, redis.clone(), &meters);
        acme.follow(plan.acme.clone(), || {}).await;
        let _acme = tokio::spawn(acme.clone().run());
        let shared = redis.clone().filter(|_| plan.config.tls.share_tickets);
        let _tickets = tokio::spawn(tickets::keep(source.ticketing().clone(), shared));
        let live = Arc::new(ArcSwap::from_pointee(plan));
        let upstreams: Vec<Arc<Upstream>> = live.load().upstreams.values().cloned().collect();
        upstreams.iter().for_each(Upstream::start);
        live.load().providers.values().for_each(|provider| provider.start());
        let fetching = fetching(&live.load(), fleet, &meters, threads);
        let (marker_key, _fleet) = meet(fetching.tiers, &live, redis).await;
        let feed = Feed::start(fetching.tiers, live.load().cache.invalidate.clone(), &meters);
        let https_port = Arc::new(AtomicU16::new(https_port(listeners.iter().map(|bound| bound.listener))));
        let gateway = Gateway {
            fetching: fetching.clone(),
            live: live.clone(),
            in_flight: meters.in_flight.with([]),
            unrouted: Arc::new(RouteMeters::new(&meters, "-")),
            access,
            edge: edge.clone(),
            https_port: https_port.clone(),
        };
        let listeners = Listeners::start(listeners, &edge, gateway);
        let counts = meters.clone();
        let started =
            Started { source, files, meters: counts, live, certs, acme, feed, marker_key, edge, https_port };
        let reloader = Reloader::new(started, listeners);
        let shown = admin_of(&reloader, &meters, &ready, fetching.tiers, &taken_back);
        let _admin = tokio::spawn(admin::serve(admin, shown, drain::never()));
        let _following = [
            tokio::spawn(follow::on_hangup(reloader.clone(), hangups)),
            tokio::spawn(follow::on_change(reloader.clone())),
        ];

        ready.has("listeners"); // before anybody is told where to ask for it
        announce(&addresses, &admin_address);
        tracing::info!(listening = addresses.join(" "), admin = %admin_address, "listening");
        let _starting = tokio::spawn(get_ready(ready.clone(), upstreams));

        match signals.next().await {
            drain::Signal::Interrupt => Ok(ExitCode::from(130)),
            drain::Signal::Terminate => {
                ready.drain();
                end(&reloader, &fetching, &meters, &mut signals).await;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Ends what is under way, within the time that it is given.
async fn end(reloader: &Reloader, fetching: &Fetching, meters: &Meters, signals: &mut drain::Signals) {
    let grace = reloader.plan().config.shutdown_grace.0;
    let left = drain::wait(reloader.stop(), meters, grace, signals).await;
    drain::share(fetching, left, signals).await;
    fetching.connections.close(drain::FAREWELL).await;
}

/// The longest that the first round of health checks is waited for; whoever has not passed by then is down.
pub(super) const FIRST_CHECKS: Duration = Duration::from_secs(5);

/// Notes what the first round of health checks says; a signal meanwhile is not kept waiting.
async fn get_ready(ready: Arc<Ready>, upstreams: Vec<Arc<Upstream>>) {
    checked(&upstreams, FIRST_CHECKS).await;
    ready.has("upstreams");
    tracing::info!("ready");
}

/// Waits until every upstream has a server to send requests to, or the time is up.
pub(super) async fn checked(upstreams: &[Arc<Upstream>], within: Duration) {
    let end = Instant::now() + within;
    while Instant::now() < end && !upstreams.iter().all(|upstream| upstream.is_available()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps in touch with the other nodes: what they store and purge, and the key of markers, which the first requests may need.
async fn meet(
    tiers: &'static Tiers,
    live: &Arc<ArcSwap<Plan>>,
    redis: Option<Redis>,
) -> (MarkerKey, [JoinHandle<()>; 2]) {
    let (key, sharing) = (MarkerKey::new(&tiers.marker_keys, redis), tokio::spawn(tiers.run()));
    key.begin(&live.load_full(), None).await;
    let keeping = tokio::spawn(key.clone().keep(live.clone()));
    (key, [sharing, keeping])
}

/// The store, and what fetches for it.
fn fetching(plan: &Plan, fleet: Option<(Redis, Joining)>, meters: &Meters, threads: usize) -> Arc<Fetching> {
    let memory = plan.cache.memory;
    Arc::new(Fetching {
        tiers: Tiers::new(memory, meters, fleet),
        // As much again in answers that are on their way.
        flights: Flights::new(Held::new(memory, meters.cache_filling_bytes.with([]))),
        connections: Connections::new(
            TransportConnector::new(Some(connector_options())),
            IDLE_SERVERS * threads,
        ),
        under_way: Arc::default(),
    })
}

fn connector_options() -> ConnectorOptions {
    ConnectorOptions {
        // TLS with servers is of our own, so no roots are needed here. Pingora would read the system's at start, and
        // panic where one of them cannot be read.
        ca_file: Some("/dev/null".to_owned()),
        // What is kept is kept by `Connections`.
        ..ConnectorOptions::new(1)
    }
}

/// Idle connections to servers, per thread, of all upstreams together.
const IDLE_SERVERS: usize = 512;

/// The port that plain HTTP is redirected to.
pub(super) fn https_port(mut listeners: impl Iterator<Item = Listener>) -> u16 {
    let secure = listeners.find(|listener| listener.kind == Kind::Https);
    secure.map_or(443, |listener| listener.address.port())
}

fn admin_of(
    reloader: &Arc<Reloader>,
    meters: &Arc<Meters>,
    ready: &Arc<Ready>,
    tiers: &'static Tiers,
    taken_back: &TakenBack,
) -> Admin {
    let live = reloader.live();
    let (config, upstreams, drained) = (live.clone(), live.clone(), live.clone());
    let desk = Desk { live: live.clone(), tiers };
    let (shown, ordered, heard) = (reloader.clone(), reloader.clone(), reloader.feed().clone());
    Admin {
        meters: meters.clone(),
        token: live.load().admin_token.clone(),
        ready: ready.clone(),
        config: Arc::new(move || serde_json::to_value(config.load().effective()).unwrap_or_default()),
        upstreams: Arc::new(move || {
            let plan = upstreams.load();
            let views: Vec<_> = plan.upstreams.values().map(|upstream| upstream.snapshot()).collect();
            serde_json::to_value(views).unwrap_or_default()
        }),
        drain: Arc::new(move |order| drain(&drained.load(), order)),
        quotas: quotas::list(live.clone()),
        settle: quotas::settle(live.clone()),
        revoke: revoke::orders(live.clone(), taken_back.clone()),
        cache: Arc::new(move || {
            let (entries, bytes) = tiers.held();
            let (redis, events) = (tiers.fleet().is_some(), heard.view());
            serde_json::json!({ "entries": entries, "bytes": bytes, "redis": redis, "invalidate": events })
        }),
        inspect: desk.inspects(),
        purge: desk.purges(),
        in_force: Arc::new(move || shown.in_force()),
        reload: Arc::new(move || {
            let reloader = ordered.clone();
            Box::pin(async move { reloader.reload().await })
        }),
    }
}

/// Has a server drained, or no longer.
fn drain(plan: &Plan, order: &DrainOrder) -> Result<DrainDone, String> {
    let DrainOrder { upstream, server, drain } = order;
    let Some(found) = plan.upstreams.get(upstream) else {
        let known: Vec<_> = plan.upstreams.keys().map(|name| format!("`{name}`")).collect();
        return Err(format!("there is no upstream `{upstream}`; there are {}", known.join(", ")));
    };
    let done = found.drain(server, *drain).ok_or_else(|| {
        let known: Vec<_> = found.settings().servers.iter().map(|server| &*server.place).collect();
        format!("upstream `{upstream}` has no server `{server}`; it has {}", known.join(", "))
    })?;
    Ok(DrainDone { in_flight: done.in_flight, usable: done.usable })
}

/// Tells on standard output where the gateway listens, as one JSON line: with port 0, nobody else knows.
fn announce(listening: &[String], admin: &str) {
    let line = serde_json::json!({ "listening": listening, "admin": admin });
    // A closed standard output is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{line}");
}
