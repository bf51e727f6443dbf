//! Which configuration is in force, and having it read again.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::guard::Problem;
use super::{Admin, steer};
use crate::plan::Change;
use crate::telemetry::timestamp::Timestamp;

/// The largest order, in bytes: there is nothing in it.
pub(super) const ORDER_BYTES: usize = 64;

/// Reads the configuration again, and puts it in force if all of it can be. Must be finished once it has begun, whether
/// or not somebody waits for it.
pub type Reload =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(InForce, Change), Refused>> + Send>> + Send + Sync>;

/// Which configuration is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Counts those that were, from 1.
    pub generation: u64,
    /// Since when.
    pub since: SystemTime,
    /// What was changed in the files and waits for a restart, as `table.key`.
    pub restart: Vec<String>,
    /// Why the files as they were at the last try are not in force.
    pub refused: Option<Refused>,
}

/// Why a configuration was not put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Every problem, with its place and remedy, and what stays in force: for people.
    pub report: String,
    /// Whether what was written is wrong; else it could not be had, such as an address that is in use.
    pub wrong: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

/// What is in force, and what is not.
pub(super) async fn in_force(State(admin): State<Admin>) -> Json<Value> {
    let InForce { generation, since, restart, refused } = (admin.in_force)();
    let since = Timestamp(since).to_string();
    Json(json!({ "generation": generation, "since": since, "restart": restart, "refused": refused }))
}

/// Has the configuration read again; says what changed, or every problem.
pub(super) async fn reload(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Response> {
    steer::must_be_json(&headers).map_err(IntoResponse::into_response)?;
    let empty = body.is_ok_and(|body| matches!(body.trim_ascii(), b"" | b"{}"));
    if !empty {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "this order is an empty object: `{}`");
        return Err(problem.into_response());
    }
    let (in_force, change) = (admin.reload)().await.map_err(refusal)?;
    let since = Timestamp(in_force.since).to_string();
    Ok(Json(json!({ "generation": in_force.generation, "since": since, "change": change })))
}

/// The problem document of a refusal, with the report and whose fault it is.
fn refusal(refused: Refused) -> Response {
    let status = if refused.wrong { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::CONFLICT };
    let title = status.canonical_reason().unwrap_or_default();
    let Refused { report, wrong } = refused;
    let body = json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": report,
        "wrong": wrong,
    });
    (status, [(http::header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
}
