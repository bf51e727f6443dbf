//! The admin listener's connections: one request each, all of it bounded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::guard::Local;
use super::socket::{Accepted, Listener, Socket};
use super::{Admin, api};
use crate::telemetry::{Condition, chain};

/// Connections served at once; further ones wait to be accepted.
const CONNECTIONS: usize = 64;

/// From the first byte of a request head to its last.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// A whole connection: head, body, answer. Who reads or writes slower than this is cut off.
const CONNECTION_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a request head, and of what is read ahead.
const HEAD_BYTES: usize = 16 * 1024;

/// What connections get to end after the shutdown began.
const END_WITHIN: Duration = Duration::from_secs(2);

/// After a failed accept, for which the cause (no file descriptors) needs time to pass.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves the admin pages until `shutdown` completes, then gives open connections two seconds.
///
/// Each connection serves one request: that keeps idle ones from piling up, and one deadline bounds all of it.
///
/// Fails only if the listener cannot be handed to the runtime.
pub async fn serve(
    socket: Socket,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let listener = socket.listen()?;
    let router = api::router(admin);
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(&listener, &router, &mut connections) => {}
        () = shutdown => {}
    }
    drop(listener);
    // Whoever is not done by then is aborted with the set.
    let _ = timeout(END_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Accepts for ever.
async fn accept(listener: &Listener, router: &Router, connections: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let failing = Condition::default();
    loop {
        while connections.try_join_next().is_some() {}
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = listener.accept().await;
        let changed = failing.changed(accepted.is_err());
        match accepted {
            Ok(accepted) => {
                connections.spawn(converse(accepted, router.clone(), place));
            }
            Err(error) => {
                if changed {
                    tracing::warn!(error = chain(&error), "admin listener cannot accept, trying on");
                }
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection; its place is free again when this ends, however it does.
async fn converse((stream, local): Accepted, router: Router, _place: OwnedSemaphorePermit) {
    let service = TowerToHyperService::new(router.layer(Extension(Local(local))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_WITHIN, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = chain(&error), "admin connection ended early"),
        Err(_) => tracing::debug!("admin connection cut off, too slow"),
    }
}
