//! The metrics of a worker, for this machine alone: it serves nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::net::TcpListener;

use crate::metrics::{Meters, OPENMETRICS};
use crate::store::Store;

/// Serves them at `/metrics` until the process ends; tells where.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(address: SocketAddr, meters: Arc<Meters>, store: Arc<Store>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let router = Router::new().route("/metrics", get(metrics)).with_state((meters, store));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(bound)
}

async fn metrics(State((meters, store)): State<(Arc<Meters>, Arc<Store>)>) -> Response {
    match meters.page(&store.pools(), &store.servers()) {
        Ok(page) => ([(CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
