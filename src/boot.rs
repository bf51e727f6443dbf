//! From a configuration file to a running process, and to its end.
//!
//! Everything that can fail fails before the first client is accepted: the file is read and compiled, every
//! address is bound. Then listeners, health checks and the admin listener run on one runtime until a signal comes.
//! Pingora's own `Server` is not used: it lives on deaf when a listener fails, and sleeps its grace period out.

mod desk;
mod drain;
pub(crate) mod fleet;
mod tickets;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::services::Service as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::acme::Acme;
use crate::admin::{self, Admin, Ready, Socket};
use crate::cache::Tiers;
use crate::cache::fleet::Joining;
use crate::cache::flight::Flights;
use crate::cache::held::Held;
use crate::config::{self, AccessLog as Written, Loaded, LogLevel, Problem, Rejected};
use crate::gateway::{Fetching, Gateway};
use crate::listen::{self, Bound, CertWatch, Edge, Kind, Ticketing};
use crate::place;
use crate::plan::{self, AdminAddress, Plan, Surroundings};
use crate::redis::Redis;
use crate::telemetry::access::{AccessLog, Form};
use crate::telemetry::{self, Meters, RouteMeters};
use crate::upstream::Upstream;
use desk::Desk;

/// Where development certificates are made, from where the process was started.
const DEV_CERTS: &str = "certs";

/// Runs the gateway until it is told to stop.
///
/// The exit code is 0 after a drain, 130 after an interrupt, 1 where something could not be started, 2 where the
/// configuration is wrong.
pub fn run(path: &Path) -> ExitCode {
    start(path).unwrap_or_else(|failure| {
        // The log may not have started yet, and this is for the person at the terminal.
        let _ = writeln!(std::io::stderr(), "{}", failure.message.trim_end());
        ExitCode::from(failure.code)
    })
}

/// Reads and compiles a configuration without running it.
///
/// # Errors
/// Every problem that can be found, each with its place: where the shape is wrong, also those of names in the rest.
pub fn check(path: &Path) -> Result<Loaded, Rejected> {
    let loaded = load(path)?;
    let problems = problems(&loaded, path);
    if problems.is_empty() { Ok(loaded) } else { Err(loaded.document.reject(problems)) }
}

fn load(path: &Path) -> Result<Loaded, Rejected> {
    config::load(path).map_err(|rejected| match rejected.rest().map(|rest| problems(rest, path)) {
        Some(more) => rejected.and(more),
        None => rejected,
    })
}

fn problems(loaded: &Loaded, path: &Path) -> Vec<Problem> {
    listen::tls::install_provider();
    match Ticketing::new() {
        Ok(ticketing) => plan::compile(&loaded.config, &around(path), &ticketing, &Meters::new()).err(),
        Err(error) => {
            Some(vec![Problem::new(place!["tls"], error.to_string(), "this system has no randomness")])
        }
    }
    .unwrap_or_default()
}

/// Why the gateway does not run.
struct Failure {
    message: String,
    code: u8,
}

/// Something outside the configuration is in the way.
fn surroundings(error: impl std::fmt::Display) -> Failure {
    Failure { message: format!("error: {error}"), code: 1 }
}

fn start(path: &Path) -> Result<ExitCode, Failure> {
    listen::tls::install_provider();
    let loaded = load(path).map_err(|rejected| {
        let message = rejected.render(std::io::stderr().is_terminal());
        Failure { message, code: 2 }
    })?;
    telemetry::start_logs(level(loaded.config.log.level)).map_err(surroundings)?;
    let meters = Arc::new(Meters::new());
    telemetry::count_panics(&meters);
    let ticketing = Ticketing::new().map_err(surroundings)?;
    let plan = compile(&loaded, path, &ticketing, &meters)?;

    let threads = plan.config.threads.map_or_else(cores, usize::from);
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(surroundings)?;
    let process = Process::bind(plan, ticketing, meters, threads)?;
    let code = process.live(&runtime);
    // Whatever still runs was given its time.
    runtime.shutdown_background();
    code
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn level(written: LogLevel) -> tracing::level_filters::LevelFilter {
    match written {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    }
    .into()
}

fn compile(loaded: &Loaded, path: &Path, ticketing: &Ticketing, meters: &Meters) -> Result<Plan, Failure> {
    plan::compile(&loaded.config, &around(path), ticketing, meters).map_err(|problems| {
        // A certificate that cannot be used is a fault of the surroundings, not of what was written.
        let outside = problems.iter().all(|problem| problem.place.starts_with(&["tls", "certs"]));
        let report = loaded.document.reject(problems).render(std::io::stderr().is_terminal());
        Failure { message: report, code: if outside { 1 } else { 2 } }
    })
}

fn around(path: &Path) -> Surroundings {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Surroundings { directory: directory.to_owned(), dev_certs: PathBuf::from(DEV_CERTS) }
}

/// A gateway with everything bound, about to serve.
struct Process {
    plan: Plan,
    ticketing: Ticketing,
    meters: Arc<Meters>,
    threads: usize,
    listeners: Vec<Bound>,
    admin: Socket,
}

impl Process {
    fn bind(plan: Plan, ticketing: Ticketing, meters: Arc<Meters>, threads: usize) -> Result<Self, Failure> {
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
        Ok(Self { plan, ticketing, meters, threads, listeners, admin })
    }

    /// Serves until a signal comes, then ends.
    fn live(self, runtime: &Runtime) -> Result<ExitCode, Failure> {
        let form = match self.plan.config.log.access {
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
        // First of all: whoever reads where we listen may tell us to stop.
        let mut signals = drain::Signals::listen().map_err(surroundings)?;
        let Self { plan, ticketing, meters, threads, listeners, admin } = self;
        let addresses: Vec<String> = listeners.iter().map(|bound| bound.listener.to_string()).collect();
        let admin_address = admin.address().map_err(surroundings)?;
        let grace = plan.config.shutdown_grace.0;
        let ready = Arc::new(Ready::waiting_for(["listeners", "upstreams"]));
        let (stop, stopping) = watch::channel(false);

        let (plan, tls) = plan.split_tls();
        let edge = Edge::new(None, plan.bounds, &meters);
        edge.set_trusted(plan.trusted_proxies.clone());
        let certs = CertWatch::new(&edge, &meters);
        certs.hold(tls);
        let _certs = tokio::spawn(certs.clone().run());
        let fleet = plan.redis.as_ref().map(|redis| fleet::join(redis, &plan.cache, &meters));
        let acme = Acme::new(&edge, &certs, fleet.as_ref().map(|(redis, _)| redis.clone()), &meters);
        acme.follow(plan.acme.clone()).await;
        let _acme = tokio::spawn(acme.run());
        let live = Arc::new(ArcSwap::from_pointee(plan));
        let upstreams: Vec<Arc<Upstream>> = live.load().upstreams.values().cloned().collect();
        upstreams.iter().for_each(Upstream::start);
        let shares_tickets = live.load().config.tls.share_tickets;
        let redis = fleet.as_ref().filter(|_| shares_tickets).map(|(redis, _)| redis.clone());
        let _tickets = tokio::spawn(tickets::keep(ticketing, redis));
        let fetching = fetching(&live.load(), fleet, &meters, threads);
        let shown = admin_of(&live, &meters, &ready, fetching.tiers);
        let _admin = tokio::spawn(admin::serve(admin, shown, drain::never()));
        let _fleet = tokio::spawn(fetching.tiers.run());
        let gateway = Gateway {
            fetching: fetching.clone(),
            live,
            in_flight: meters.in_flight.with([]),
            unrouted: Arc::new(RouteMeters::new(&meters, "-")),
            access,
            edge: edge.clone(),
            https_port: https_port(&listeners),
        };
        let serving = accept(gateway, listeners, &edge, &meters, threads, &stopping);

        announce(&addresses, &admin_address);
        tracing::info!(listening = addresses.join(" "), admin = %admin_address, "listening");
        ready.has("listeners");
        let _starting = tokio::spawn(get_ready(ready.clone(), upstreams));

        match signals.next().await {
            drain::Signal::Interrupt => Ok(ExitCode::from(130)),
            drain::Signal::Terminate => {
                ready.drain();
                stop.send_replace(true);
                let left = drain::wait(serving, &meters, grace, &mut signals).await;
                drain::share(&fetching, left, &mut signals).await;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The longest that readiness waits for the first round of health checks; whoever has not passed by then is down.
const FIRST_CHECKS: Duration = Duration::from_secs(5);

/// Notes what the first round of health checks says; a signal meanwhile is not kept waiting.
async fn get_ready(ready: Arc<Ready>, upstreams: Vec<Arc<Upstream>>) {
    checked(&upstreams, FIRST_CHECKS).await;
    ready.has("upstreams");
    tracing::info!("ready");
}

/// Waits until every upstream has a server to send requests to, or the time is up.
async fn checked(upstreams: &[Arc<Upstream>], within: Duration) {
    let end = Instant::now() + within;
    while Instant::now() < end && !upstreams.iter().all(|upstream| upstream.is_available()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts accepting clients on every listener.
fn accept(
    gateway: Gateway,
    listeners: Vec<Bound>,
    edge: &Arc<Edge>,
    meters: &Meters,
    threads: usize,
    stopping: &watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    let at_once = Arc::new(gateway.clone());
    let proxy = http_proxy(&Arc::new(pingora_settings(threads)), gateway);
    let serving = listen::serve(listeners, edge, &Arc::new(proxy), &at_once, meters);
    let fds = serving.fds;
    let start = |mut service: pingora::services::listening::Service<_>| {
        let (fds, stopping) = (fds.clone(), stopping.clone());
        tokio::spawn(async move { service.start_service(Some(fds), stopping, 1).await })
    };
    serving.services.into_iter().map(start).collect()
}

/// The store, and what fetches for it.
fn fetching(plan: &Plan, fleet: Option<(Redis, Joining)>, meters: &Meters, threads: usize) -> Arc<Fetching> {
    let memory = plan.cache.memory;
    Arc::new(Fetching {
        tiers: Tiers::new(memory, meters, fleet),
        // As much again in answers that are on their way.
        flights: Flights::new(Held::new(memory, meters.cache_filling_bytes.with([]))),
        connector: Connector::new(Some(ConnectorOptions::from_server_conf(&pingora_settings(threads)))),
        under_way: Arc::default(),
    })
}

fn pingora_settings(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        // More than any upstream's `attempts`: those decide.
        max_retries: 16,
        // Idle connections to servers, per thread, of all upstreams together.
        upstream_keepalive_pool_size: 512,
        // Servers are spoken to without TLS, so no roots are needed. Pingora would read the system's at start, and
        // panic where one of them cannot be read.
        ca_file: Some("/dev/null".to_owned()),
        ..ServerConf::default()
    }
}

fn https_port(listeners: &[Bound]) -> u16 {
    let secure = listeners.iter().find(|bound| bound.listener.kind == Kind::Https);
    secure.map_or(443, |bound| bound.listener.address.port())
}

fn admin_of(
    live: &Arc<ArcSwap<Plan>>,
    meters: &Arc<Meters>,
    ready: &Arc<Ready>,
    tiers: &'static Tiers,
) -> Admin {
    let (config, upstreams) = (live.clone(), live.clone());
    let desk = Desk { live: live.clone(), tiers };
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
        cache: Arc::new(move || {
            let (entries, bytes) = tiers.held();
            serde_json::json!({ "entries": entries, "bytes": bytes, "redis": tiers.fleet().is_some() })
        }),
        inspect: desk.inspects(),
        purge: desk.purges(),
    }
}

/// Tells on standard output where the gateway listens, as one JSON line: with port 0, nobody else knows.
fn announce(listening: &[String], admin: &str) {
    let line = serde_json::json!({ "listening": listening, "admin": admin });
    // A closed standard output is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Makes the development certificate below `directory` if need be, and says where it is.
///
/// # Errors
/// Why it could not be made.
pub fn make_dev_certs(directory: &Path) -> Result<String, String> {
    listen::tls::install_provider();
    let files = listen::dev::ensure(directory).map_err(|error| error.to_string())?;
    let (cert, key, ca) = (files.cert.display(), files.key.display(), files.ca.display());
    Ok(format!("certificate  {cert}\nkey          {key}\nto trust     {ca}, as in curl --cacert {ca}"))
}
