//! The user-service program: configuration, store, socket, and then requests until a signal.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use serde_json::json;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;
use user_service::access::{self, Access};
use user_service::api::{self, failure::chain};
use user_service::config::{Command, Config, ConfigError, Flags};
use user_service::feed::Feed;
use user_service::load::load;
use user_service::metrics::Meters;
use user_service::relay::Relay;
use user_service::seed::seed;
use user_service::serve::{Stop, serve};
use user_service::store::Store;
use user_service::worker::{self, Worker};

/// Wrong usage or configuration. `clap` ends the program with the same code.
const WRONG: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    // Of those that a build may have, the one for TLS to the database. Fails only where one was chosen before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let flags = Flags::parse();
    let configured =
        Config::load(&flags).map_err(Into::into).and_then(|config| start_logs(&config).map(|()| config));
    let config = match configured {
        Ok(config) => config,
        Err(error) => return fail(&*error, WRONG),
    };
    let outcome = match flags.command {
        Some(Command::Import { file }) => import(&config, &file).await,
        Some(Command::Worker { .. }) => work(&config).await,
        Some(Command::Seed { count }) => add_examples(&config, count).await,
        None => run(&config).await,
    };
    outcome.map_or_else(|error| fail(&*error, 1), |()| ExitCode::SUCCESS)
}

async fn run(config: &Config) -> Result<(), Box<dyn Error>> {
    let stop = Stop::listen()?;
    let mut meters = Meters::new();
    let relay_meters = config.broker.as_ref().map(|_| meters.relay());
    let meters = Arc::new(meters);
    let store = Arc::new(Store::open(&config.store, &meters).await?);
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", config.listen))?;
    let bound = listener.local_addr()?;
    let feed = Arc::new(Feed::start(store.clone(), config.retention, meters.clone()));
    let relay = match config.broker.clone().zip(relay_meters) {
        Some((broker, meters)) => Some(Relay::start(store.clone(), broker, feed.follow(), meters).await?),
        None => None,
    };
    if matches!(config.access, access::Settings::Open) {
        tracing::warn!(%bound, "open: whoever reaches this address may read and change all users");
    }
    let access = Access::start(config.access.clone());
    let router = api::router(store.clone(), feed.clone(), meters, access, config.api(bound))?;

    announce(bound)?;
    serve(listener, router, config.bounds, stop, || feed.end()).await;
    if let Some(relay) = relay {
        relay.end().await;
    }
    store.close().await;
    Ok(())
}

async fn import(config: &Config, file: &Path) -> Result<(), Box<dyn Error>> {
    let store = Arc::new(Store::open(&config.store, &Meters::new()).await?);
    let loaded = load(store.clone(), file).await;
    store.close().await;
    let tally = loaded?;
    print_line(&json!(tally))?;
    if tally.refused == 0 { Ok(()) } else { Err(format!("{} lines were refused", tally.refused).into()) }
}

async fn work(config: &Config) -> Result<(), Box<dyn Error>> {
    let broker = config.broker.clone().ok_or(ConfigError::NoBroker)?;
    let stop = Stop::listen()?;
    let mut meters = Meters::new();
    let counts = meters.worker();
    let store = Arc::new(Store::open(&config.store, &meters).await?);
    let watched = match config.worker.metrics {
        Some(address) => Some(worker::watch::serve(address, Arc::new(meters), store.clone()).await?),
        None => None,
    };
    let worker = Worker::new(store.clone(), broker, config.sink.clone(), config.worker.clone(), counts);
    let begun = || {
        let mut line = json!({ "consuming": config.worker.queue.name });
        if let Some(bound) = watched {
            line["metrics"] = format!("http://{bound}/metrics").into();
        }
        // Whoever does not read it wants the work all the same.
        let _ = print_line(&line);
    };
    worker.run(stop, begun).await;
    store.close().await;
    Ok(())
}

async fn add_examples(config: &Config, count: u32) -> Result<(), Box<dyn Error>> {
    let store = Store::open(&config.store, &Meters::new()).await?;
    let created = seed(&store, count).await?;
    store.close().await;
    print_line(&json!({ "created": created, "present": u64::from(count) - created }))
}

/// Tells where we listen, for scripts that left the port to us.
fn announce(bound: SocketAddr) -> Result<(), Box<dyn Error>> {
    tracing::info!(%bound, "listening");
    print_line(&json!({ "listening": format!("http://{bound}") }))
}

fn print_line(line: &serde_json::Value) -> Result<(), Box<dyn Error>> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

fn start_logs(config: &Config) -> Result<(), Box<dyn Error>> {
    // The client of RabbitMQ says what we say better, and shows bodies; who wants to hear it names it.
    let filter = format!("lapin=off,{}", config.log);
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log `{}`: {error}", config.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

fn fail(error: &dyn Error, code: u8) -> ExitCode {
    eprintln!("user-service: {}", chain(error));
    ExitCode::from(code)
}
