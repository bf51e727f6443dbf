//! The end: which signal asks for it, and waiting until the last request is done and the fleet has been told.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal as Listened, SignalKind, signal as on};

use crate::gateway::Fetching;
use crate::telemetry::Meters;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// `SIGTERM`: end when the requests in flight have.
    Terminate,
    /// `SIGINT`: end now.
    Interrupt,
}

/// The signals of the process. From when this is made, a signal waits here instead of killing.
pub(super) struct Signals {
    terminate: Listened,
    interrupt: Listened,
}

impl Signals {
    /// Fails only where the system has no room for a handler.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

/// Has all listeners `stop`, and waits until none accepts, no request is in flight and every connection is closed; `grace` at most. A second
/// `SIGTERM` or `SIGINT` ends the wait. What is left of `grace`: nothing where the wait was cut short.
pub(super) async fn wait(
    stop: impl Future<Output = ()>,
    meters: &Meters,
    grace: Duration,
    signals: &mut Signals,
) -> Duration {
    let end = Instant::now() + grace;
    let requests = meters.in_flight.with([]);
    let connections = ["https", "http"].map(|listener| meters.connections_open.with([listener]));
    let done = async {
        stop.await;
        while requests.get() > 0 {
            tokio::time::sleep(STEP).await;
        }
        // Answers are written; clients may still be taking their last bytes, and who had begun to ask is answered.
        let (sending, arriving) = (meters.connections_sending.with([]), meters.connections_arriving.with([]));
        let mut quiet = Instant::now();
        let is_open = || arriving.get() > 0 || connections.iter().any(|open| open.get() > 0);
        while quiet.elapsed() < FLUSH && is_open() {
            tokio::time::sleep(STEP).await;
            if requests.get() > 0 || sending.get() > 0 || arriving.get() > 0 {
                quiet = Instant::now();
            }
        }
    };
    tokio::select! {
        () = done => {
            tracing::info!("drained");
            return end.saturating_duration_since(Instant::now());
        }
        () = tokio::time::sleep_until(end.into()) => {
            tracing::warn!(requests = requests.get(), "the grace period is over; what is in flight is cut off");
        }
        _ = signals.next() => tracing::warn!(requests = requests.get(), "asked again; what is in flight is cut off"),
    }
    Duration::ZERO
}

/// Waits for what the fleet is owed: the purges of this node, which nobody else knows of once it has ended, and the
/// answers of its last fetches; no longer than `left`, and not for a Redis that stays away. Another signal ends the wait.
pub(super) async fn share(fetching: &Fetching, left: Duration, signals: &mut Signals) {
    let within = left.min(SHARING);
    let shared = tokio::time::timeout(within, async {
        // Fetches whose clients have left, or that had none.
        while fetching.tiers.fleet().is_some() && Arc::strong_count(&fetching.under_way) > 1 {
            tokio::time::sleep(STEP).await;
        }
        fetching.tiers.drained(within).await
    });
    let shared = tokio::select! {
        shared = shared => shared.unwrap_or(false),
        _ = signals.next() => false,
    };
    if !shared {
        tracing::warn!("ended before the fleet had every purge and answer of this node");
    }
}

/// The longest that the fleet is waited for.
const SHARING: Duration = Duration::from_secs(2);

const STEP: Duration = Duration::from_millis(10);

/// The longest that servers are told farewell.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// The longest that connections are waited for on which no request is in flight.
const FLUSH: Duration = Duration::from_secs(2);

/// The admin listener serves to the last moment.
pub(super) async fn never() {
    std::future::pending::<()>().await;
}
