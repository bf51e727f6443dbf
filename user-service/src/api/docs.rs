//! The description for people: a page in this binary that shows `/openapi.json`, and tries requests.
//!
//! It loads nothing from elsewhere, and its policy forbids that it could.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};

/// What the page may load and do: its own script and style, and requests to this service. Nobody may frame it, and what
/// it shows cannot become a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Adds the page and its parts.
pub fn add_to<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let html = include_str!("docs/page.html");
    let script = include_str!("docs/page.js");
    let style = include_str!("docs/page.css");
    router
        .route("/docs", get(async move || part("text/html; charset=utf-8", html)))
        .route("/docs/page.js", get(async move || part("text/javascript; charset=utf-8", script)))
        .route("/docs/page.css", get(async move || part("text/css; charset=utf-8", style)))
}

fn part(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        // Asked for each time, so that it is of this version.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
