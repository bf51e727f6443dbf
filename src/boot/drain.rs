//! The end: which signal asks for it, and waiting until the last request is done.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal as on};
use tokio::task::JoinHandle;

use crate::telemetry::Meters;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// `SIGTERM`: end when the requests in flight have.
    Terminate,
    /// `SIGINT`: end now.
    Interrupt,
}

/// Waits for a signal.
pub(super) async fn signal() -> io::Result<Signal> {
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok(Signal::Terminate),
        _ = interrupt.recv() => Ok(Signal::Interrupt),
    }
}

/// Waits until no listener accepts, no request is in flight and every connection is closed; `grace` at most. A second
/// `SIGTERM` or `SIGINT` ends the wait.
pub(super) async fn wait(accepting: Vec<JoinHandle<()>>, meters: &Meters, grace: Duration) {
    let end = Instant::now() + grace;
    let requests = meters.in_flight.with([]);
    let connections = ["https", "http"].map(|listener| meters.connections_open.with([listener]));
    let done = async {
        for service in accepting {
            // A panic in an accept loop was counted and logged; there is nothing more to wait for.
            let _ = service.await;
        }
        while requests.get() > 0 {
            tokio::time::sleep(STEP).await;
        }
        // Answers are written; clients may still be taking their last bytes.
        let flushed = Instant::now() + FLUSH;
        while Instant::now() < flushed && connections.iter().any(|open| open.get() > 0) {
            tokio::time::sleep(STEP).await;
        }
    };
    tokio::select! {
        () = done => tracing::info!("drained"),
        () = tokio::time::sleep_until(end.into()) => {
            tracing::warn!(requests = requests.get(), "the grace period is over; what is in flight is cut off");
        }
        _ = signal() => tracing::warn!(requests = requests.get(), "asked again; what is in flight is cut off"),
    }
}

const STEP: Duration = Duration::from_millis(10);

/// The longest that idle connections are waited for once no request is in flight.
const FLUSH: Duration = Duration::from_secs(2);

/// The admin listener serves to the last moment.
pub(super) async fn never() {
    std::future::pending::<()>().await;
}
