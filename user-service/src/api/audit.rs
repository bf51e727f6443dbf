//! The audit trail of one user.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::failure::{Failure, Problem};
use super::last_seen::Seen;
use super::users::Id;
use crate::audit::{After, Entry, TrailPage};

/// A page of a trail.
#[derive(Serialize, ToSchema)]
pub struct Trail {
    /// The entries, oldest first.
    entries: Vec<Entry>,
    /// What to ask for as `after` to get the next page. Absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<i64>,
}

/// Shows who changed what of a user, and when
///
/// The trail is written in the transaction of each change, is never altered, and outlives its user. Values are not
/// in it.
#[utoipa::path(get, path = "/users/{id}/audit", tag = "users", operation_id = "auditUser", params(
        ("id" = crate::user::UserId, Path, description = "Id of the user"),
        TrailPage,
        ("Last-Seen" = Option<String>, Header, description = "Tokens of writes that the answer must show"),
    ), responses(
    (status = 200, description = "A page", body = Trail),
    (status = 400, description = "A query parameter is unknown or out of bounds", body = Problem,
        content_type = "application/problem+json"),
    (status = 404, description = "No such user, now or before", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn trail(
    State(app): State<Arc<App>>,
    Id(id): Id,
    uri: Uri,
    Seen(seen): Seen,
) -> Result<Json<Trail>, Failure> {
    let Query(page): Query<TrailPage> =
        Query::try_from_uri(&uri).map_err(|rejection| Failure::Query(rejection.body_text()))?;
    let limit = page.limit.count();
    let after = page.after.map_or(0, |After(number)| number);
    // One more than asked for tells whether there is a next page.
    let mut entries = app.store.trail(id, after, limit + 1, seen).await?;
    if entries.is_empty() {
        is_known(&app, id, after, seen).await?;
    }
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|entry| entry.number);
    Ok(Json(Trail { entries, next }))
}

/// Users who are older than the trail have none yet, and the last page may have been read already.
async fn is_known(
    app: &App,
    id: crate::user::UserId,
    after: i64,
    seen: crate::store::seen::Position,
) -> Result<(), Failure> {
    if after > 0 && !app.store.trail(id, 0, 1, seen).await?.is_empty() {
        return Ok(());
    }
    app.store.find(id, seen).await?;
    Ok(())
}
