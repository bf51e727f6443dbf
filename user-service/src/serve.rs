//! Accepts connections, and ends them without loss when the process is told to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// Longest time from the end of an answer, or from the connection's begin, to the end of the next request's
    /// head. It is the idle time of a kept connection too, so it should exceed that of the balancer in front:
    /// who closes last never sends a request into a closing connection.
    pub head_timeout: Duration,
    /// How long requests in flight may take to end once a stop was asked for.
    pub shutdown_grace: Duration,
}

/// Largest head of a request; a larger one is answered 431.
const HEAD_BYTES: usize = 64 * 1024;

/// Serves until a signal asks to stop; then finishes what is in flight. Answers without an end are ended by `stopping`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    mut stop: Stop,
    stopping: impl FnOnce(),
) {
    let connections = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head_timeout).max_buf_size(HEAD_BYTES);

    loop {
        let (stream, slot) = tokio::select! {
            biased;
            () = stop.asked() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
            drop(slot);
        });
    }

    drop(listener);
    stopping();
    tracing::info!(open = bounds.connections - slots.available_permits(), "stopping");
    // Idle connections close at once, so with nothing in flight this ends at once.
    tokio::select! {
        () = connections.shutdown() => tracing::info!("every request was answered"),
        () = tokio::time::sleep(bounds.shutdown_grace) => tracing::warn!("requests still in flight are cut off"),
        () = stop.asked() => tracing::warn!("told again: requests still in flight are cut off"),
    }
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; if it were, connections would merely not be counted.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are written whole, so there is nothing to gain by waiting for more.
                let _ = stream.set_nodelay(true);
                return (stream, slot);
            }
            // A client that left again is no reason to wait; a lack of descriptors is, since some come back.
            Err(error) if is_clients(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted, trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The signals that ask to stop: SIGTERM and SIGINT.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Listens from now on, so that a signal right after the start is not lost.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
