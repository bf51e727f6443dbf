//! What every answer gets: headers of this instance, a count, a time. And what operators ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::failure::{Failure, Problem};
use crate::metrics::OPENMETRICS;
use crate::store::{ServerReport, ServerState, StoreError};

const X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// Longest wait for the database before this instance calls itself not ready.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// Counts and times a request, and finishes its answer.
pub async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let in_flight = app.meters.begin();

    let mut response = next.run(request).await;

    drop(in_flight);
    finish(response.headers_mut(), &app.settings.name);
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let (status, elapsed) = (response.status(), begun.elapsed());
    app.meters.answered(&method, route, status, elapsed);
    let elapsed_ms = elapsed.as_millis();
    tracing::debug!(target: "access", %method, route, status = status.as_u16(), elapsed_ms, "answered");
    response
}

/// Who answered, that the type is meant, and that nobody keeps what did not say that it may be kept.
fn finish(headers: &mut HeaderMap, name: &HeaderValue) {
    headers.insert(X_SERVED_BY, name.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// Gives up on a request that takes too long. A change whose commit has not begun by then is never made; one that was being
/// committed may have happened, as when the database is lost at that moment.
pub async fn in_time(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    tokio::time::timeout(app.settings.request_timeout, next.run(request))
        .await
        .unwrap_or_else(|_| Failure::Timeout.into_response())
}

/// How this instance is.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`; a worse state is a problem.
    #[schema(value_type = String, examples("ok"))]
    status: &'static str,
}

/// Whether this instance can answer, and from where.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// `ok`, or `read-only` while there is no primary; a worse state is a problem.
    #[schema(value_type = String, examples("ok"))]
    status: &'static str,
    /// The servers of the database, the primary first. Absent for a file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    servers: Vec<Server>,
}

/// One server of the database.
#[derive(Serialize, ToSchema)]
pub struct Server {
    /// `primary`, or `replica-` and its place in the configuration.
    #[schema(examples("replica-1"))]
    name: String,
    /// `up`, `lagging`, `away` or `wrong role`.
    #[schema(value_type = String, examples("up"))]
    state: &'static str,
    /// How far behind the primary it is, in milliseconds. Absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples(0))]
    lag_ms: Option<u64>,
}

impl Readiness {
    fn of(reports: Vec<ServerReport>) -> Self {
        let writes = reports.first().is_none_or(|primary| primary.state == ServerState::Up);
        let server = |ServerReport { name, state, lag }| Server {
            name,
            state: state.word(),
            lag_ms: lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        };
        let servers = reports.into_iter().map(server).collect();
        Self { status: if writes { "ok" } else { "read-only" }, servers }
    }
}

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", tag = "operation", operation_id = "healthz",
    responses((status = 200, description = "It is", body = Health)))]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the database answers within a second
#[utoipa::path(get, path = "/readyz", tag = "operation", operation_id = "readyz",
    responses(
        (status = 200, description = "It does", body = Readiness),
        (status = 503, description = "It does not", body = Problem, content_type = "application/problem+json"),
    ))]
pub async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Readiness>, Failure> {
    match tokio::time::timeout(READY_WITHIN, app.store.ping()).await {
        Ok(Ok(())) => Ok(Json(Readiness::of(app.store.servers()))),
        // Not ready is a passing state, whatever the reason: the balancer asks again.
        Ok(Err(StoreError::Broken(source))) => Err(StoreError::Away(source).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::Timeout),
    }
}

/// All metrics as OpenMetrics text
#[utoipa::path(get, path = "/metrics", tag = "operation", operation_id = "metrics",
    responses((status = 200, description = "The metrics", body = String,
        content_type = "application/openmetrics-text")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let page = app
        .meters
        .page(&app.store.pools(), &app.store.servers())
        .map_err(|error| Failure::Write(error.into()))?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], page).into_response())
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "operation", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn openapi(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, super::body::JSON)], app.document.clone()).into_response()
}
