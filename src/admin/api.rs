//! What the admin listener answers.

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use http::header::{ACCEPT, CONTENT_TYPE, LAST_MODIFIED, VARY};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::guard::{self, Problem};
use super::{Admin, drain, quota, reload, revoke, steer};

/// The pages, for the index.
const PAGES: [(&str, &str); 10] = [
    ("/metrics", "metrics, as OpenMetrics text"),
    ("/health", "200 while the process lives"),
    ("/ready", "200 while requests may be sent, 503 with what is missing else"),
    ("/config", "the configuration in force, without secrets; `Last-Modified` says since when"),
    (
        "/upstreams",
        "upstreams and their servers, as they are now; POST: has a server get no new requests, or some again",
    ),
    (
        "/cache",
        "what the cache holds; with `?url=URL`, what it holds of one URL, and why a request would hit or miss",
    ),
    (
        "/quotas",
        "which quotas there are; POST: what is left of one, forgets what was used of it (`reset`), or grants more (`grant`)",
    ),
    ("/revoked", "POST only: takes a token back, by its `provider` and `jti`, on all gateways"),
    ("/purge", "POST only: makes the cache forget a `url`, a `tag`, a `prefix` or `all`"),
    (
        "/reload",
        "which configuration is in force, since when, and what waits for a restart; POST: reads the files again",
    ),
];

/// All of the admin listener, one line per page.
pub(super) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/config", get(config))
        .route(
            guard::UPSTREAMS,
            get(upstreams).post(drain::drain).layer(DefaultBodyLimit::max(drain::ORDER_BYTES)),
        )
        .route(
            guard::QUOTAS,
            get(quota::list).post(quota::settle).layer(DefaultBodyLimit::max(quota::ORDER_BYTES)),
        )
        .route(guard::REVOKED, post(revoke::revoke).layer(DefaultBodyLimit::max(revoke::ORDER_BYTES)))
        .route("/cache", get(steer::cache))
        .route(guard::PURGE, post(steer::purge).layer(DefaultBodyLimit::max(steer::ORDER_BYTES)))
        .route(
            guard::RELOAD,
            get(reload::in_force).post(reload::reload).layer(DefaultBodyLimit::max(reload::ORDER_BYTES)),
        )
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such page; `/` lists those there are"))
        .layer(middleware::from_fn_with_state(admin.token.clone(), guard::check))
        .with_state(admin)
}

async fn index(headers: HeaderMap) -> Response {
    let accepts_html = headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains("text/html")));
    let body = if accepts_html { index_html().into_response() } else { index_json().into_response() };
    ([(VARY, "accept")], body).into_response()
}

fn index_html() -> Html<String> {
    let rows = PAGES.map(|(path, what)| format!("<li><a href=\"{path}\">{path}</a>: {what}</li>\n")).concat();
    Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<title>Tidegate</title>\n<h1>Tidegate</h1>\n<ul>\n{rows}</ul>\n</html>\n"
    ))
}

fn index_json() -> Json<Value> {
    let pages: Map<String, Value> =
        PAGES.iter().map(|(path, what)| ((*path).to_owned(), json!(what))).collect();
    Json(json!({ "name": "tidegate", "version": env!("CARGO_PKG_VERSION"), "pages": pages }))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], admin.meters.render())
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let missing = admin.ready.missing();
    let (status, word) = match missing.as_slice() {
        [] => (StatusCode::OK, "ready"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    (status, Json(json!({ "status": word, "missing": missing })))
}

async fn config(State(admin): State<Admin>) -> impl IntoResponse {
    let since = httpdate::fmt_http_date((admin.in_force)().since);
    ([(LAST_MODIFIED, since)], Json((admin.config)()))
}

async fn upstreams(State(admin): State<Admin>) -> Json<Value> {
    Json((admin.upstreams)())
}
