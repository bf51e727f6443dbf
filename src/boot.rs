//! From a configuration file to a running process, and to its end.
//!
//! Everything that can fail fails before the first client is accepted: the file is read and compiled, every
//! address is bound. Then listeners, health checks and the admin listener run on one runtime until a signal comes.
//! Pingora's own `Server` is not used: it stays up deaf when a listener fails, and sleeps its grace period out.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::cache::Tiers;
use crate::config::{self, Config, Loaded};
use crate::gateway::Gateway;
use crate::listen::{self, Bound, Edge, Ticketing};
use crate::plan::{self, Plan, Surroundings};
use crate::telemetry::access::AccessLog;
use crate::telemetry::{self, Meters, RouteMeters};

/// Runs the gateway until it is told to stop.
///
/// The exit code is 0 after a drain, 1 where something could not be started, 2 where the configuration is wrong.
pub fn run(path: &Path) -> ExitCode {
    match start(path) {
        Ok(code) => code,
        Err(failure) => {
            // Logs may not be up yet, and this is for the person at the terminal.
            let _ = writeln!(std::io::stderr(), "{}", failure.message.trim_end());
            ExitCode::from(failure.code)
        }
    }
}

/// Reads and compiles a configuration without running it; what it holds, in a few words.
///
/// # Errors
/// Every problem, as it is shown to the operator.
pub fn check(path: &Path) -> Result<String, String> {
    let loaded = config::load(path).map_err(|rejected| rejected.render(config::colored()))?;
    let meters = Meters::new();
    listen::install_crypto();
    let plan = compile(&loaded, path, &Ticketing::new(), &meters).map_err(|failure| failure.message)?;
    Ok(format!("{} routes, {} upstreams", loaded.config.routes.len(), plan.upstreams.len()))
}

/// Why the gateway could not run.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn start(message: impl std::fmt::Display) -> Self {
        Self { message: format!("error: {message}"), code: 1 }
    }

    fn config(message: String) -> Self {
        Self { message, code: 2 }
    }
}

fn start(path: &Path) -> Result<ExitCode, Failure> {
    listen::install_crypto();
    let loaded = config::load(path).map_err(|rejected| Failure::config(rejected.render(config::colored())))?;
    telemetry::start_logs(loaded.config.log.level);
    let meters = Arc::new(Meters::new());
    telemetry::count_panics(&meters);

    let plan = compile(&loaded, path, &Ticketing::new(), &meters)?;
    let bound = listen::bind(&plan.listeners).map_err(Failure::start)?;
    let admin = TcpListener::bind(plan.admin)
        .map_err(|error| Failure::start(format!("the admin listener cannot listen on {}: {error}", plan.admin)))?;

    let threads = plan.config.threads.map(usize::from).or_else(cores).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(Failure::start)?;
    let code = runtime.block_on(live(plan, bound, admin, threads, meters))?;
    // Whatever still runs was given its time.
    runtime.shutdown_background();
    Ok(code)
}

fn cores() -> Option<usize> {
    std::thread::available_parallelism().ok().map(std::num::NonZero::get)
}

fn compile(loaded: &Loaded, path: &Path, ticketing: &Ticketing, meters: &Meters) -> Result<Plan, Failure> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let around = Surroundings { directory: directory.to_owned(), dev_certs: PathBuf::from("certs") };
    plan::compile(&loaded.config, &around, ticketing, meters).map_err(|problems| {
        // A certificate that cannot be read is a fault of the surroundings, not of what was written.
        let surroundings = problems.iter().all(|problem| problem.place.starts_with(&["tls", "certs"]));
        let message = loaded.document.reject(problems).render(config::colored());
        Failure { message, code: if surroundings { 1 } else { 2 } }
    })
}

/// Serves until a signal comes, then drains.
async fn live(
    plan: Plan,
    bound: Vec<Bound>,
    admin: TcpListener,
    threads: usize,
    meters: Arc<Meters>,
) -> Result<ExitCode, Failure> {
    let grace = plan.config.shutdown_grace.0;
    let addresses: Vec<String> = bound.iter().map(|bound| bound.listener.to_string()).collect();
    let admin_address = admin.local_addr().map_err(Failure::start)?;
    let access = AccessLog::start(plan.config.log.access, meters.access_log_dropped.with([]));
    let live = Arc::new(ArcSwap::from_pointee(plan));
    let (ready, readiness) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);

    tokio::spawn(admin::serve(admin, admin_of(&live, &meters, readiness)));
    let edge = Edge::new(&live.load(), &meters);
    let gateway = Gateway {
        live: live.clone(),
        tiers: Tiers::new(live.load().config.cache.memory.0, &meters),
        meters: meters.clone(),
        access: access.clone(),
        unrouted: RouteMeters::new(&meters, "-"),
        https_port: https_port(&bound),
    };
    let serving = serve(gateway, bound, &edge, threads, stopping);

    announce(&addresses, admin_address);
    live.load().upstreams_checked(Duration::from_secs(5)).await;
    ready.send_replace(true);
    tracing::info!(listening = addresses.join(" "), admin = %admin_address, "ready");

    let code = match signal().await {
        Signal::Terminate => {
            ready.send_replace(false);
            stop.send_replace(true);
            drain(serving, &meters, grace).await
        }
        Signal::Interrupt => ExitCode::from(130),
    };
    access.close();
    Ok(code)
}
