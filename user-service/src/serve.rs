//! Accepts connections, and ends them without loss when the process is told to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
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
    /// Longest time in which a client takes nothing of what it is sent; then its connection ends.
    pub stalled: Duration,
    /// How long requests in flight may take to end once a stop was asked for.
    pub shutdown_grace: Duration,
}

/// Longest time in which whoever takes an answer, or sends a request, lets it stand still.
pub const STALLED: Duration = Duration::from_secs(60);

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
            accepted = accept(&listener, &slots, bounds.stalled) => accepted,
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
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stalled: Duration,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; if it were, connections would merely not be counted.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are written whole, so there is nothing to gain by waiting for more.
                let _ = stream.set_nodelay(true);
                // Nobody looks at the connection while its client takes nothing, so the kernel keeps the time (RFC 5482).
                let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(stalled));
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Its place is free for the next one.
    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let parts = || {
            tokio_stream::iter(std::iter::repeat_with(|| {
                Ok::<_, Infallible>(Bytes::from(vec![b'x'; 65_536]))
            }))
        };
        let router = Router::new()
            .route("/endless", get(move || async move { Body::from_stream(parts()) }))
            .route("/", get(|| async { "here" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let second = Duration::from_secs(1);
        let bounds =
            Bounds { connections: 1, head_timeout: second * 60, stalled: second, shutdown_grace: second };
        let serving = tokio::spawn(serve(listener, router, bounds, Stop::listen().unwrap(), || {}));

        let mut stalls = TcpStream::connect(address).await.unwrap();
        stalls.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stalls.read_exact(&mut [0; 64]).await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(second * 30, next.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        serving.abort();
    }
}
