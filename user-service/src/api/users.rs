//! The users: list, create, show, replace, patch, remove.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LINK, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use serde::Serialize;
use utoipa::ToSchema;

use super::body::{Document, JSON, MergePatch};
use super::caller::Caller;
use super::conditional::{Conditions, EntityTag, Reading};
use super::failure::{Failure, Problem};
use super::idempotency::{IDEMPOTENT_REPLAYED, RequestKey};
use super::last_seen::{self, Seen};
use super::{App, NoQuery};
use crate::audit::Act;
use crate::page::{Cursor, Page};
use crate::profile::{Profile, ProfilePatch};
use crate::store::{Created, StoreError, Written};
use crate::user::{User, UserId};

/// Names what a cached answer holds, so that it can be purged by name. Tags are parted by commas.
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// Pages of more users are tagged `users` alone: some proxies hold no more than 4 KiB of headers.
const MAX_TAGGED: usize = 20;

/// Lists users in the order of their ids, emails or names, page by page
#[utoipa::path(get, path = "/users", tag = "users", operation_id = "listUsers", params(
        Page,
        ("If-Match" = Option<String>, Header, description = "Only `*` holds: pages have weak tags"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of copies that the caller has"),
        ("Last-Seen" = Option<String>, Header, description = "Tokens of writes that the answer must show"),
    ), responses(
    (status = 200, description = "A page", body = Users, headers(
        ("ETag" = String, description = "Weak tag of the page"),
        ("Link" = String, description = "The next page, as `rel=\"next\"`; absent on the last one"),
        ("Cache-Control" = String, description = "Who may keep the page, and for how long"),
        ("Cache-Tag" = String, description = "`users`, and `user:ID` of each user if the page has at most 20"),
    )),
    (status = 304, description = "The caller has this page"),
    (status = 400, description = "A query parameter is unknown or out of bounds", body = Problem,
        content_type = "application/problem+json"),
    (status = 412, description = "Not in a state that If-Match names", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<Arc<App>>,
    Seen(seen): Seen,
    conditions: Conditions,
    uri: Uri,
) -> Result<Response, Failure> {
    let page = page(&uri)?;
    let limit = page.limit.count();
    // One more than asked for tells whether there is a next page.
    let search = page.search().map_err(|why| Failure::Query(why.into()))?;
    let mut users = app.store.search(&search, page.after.as_ref(), limit + 1, seen).await?;
    let more = users.len() > limit;
    users.truncate(limit);
    let next = users.last().filter(|_| more).map(|user| Cursor::behind(user, search.sort).encode());

    let mut headers = vec![(CACHE_TAG, value(&tags(&users))?)];
    if let Some(cursor) = &next {
        headers.push((LINK, value(&format!("</users?{}>; rel=\"next\"", page.query_after(cursor)))?));
    }
    let body = json(&Users { users, next })?;
    readable(&app, &conditions, &EntityTag::of_page(&body), headers, body)
}

/// Creates a user
///
/// With an `Idempotency-Key`, repeating the request within 24 hours answers the same and creates nothing.
/// Refusals are not remembered: they changed nothing.
#[utoipa::path(post, path = "/users", tag = "users", operation_id = "createUser", request_body = Profile, params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; best a UUID"),
    ), responses(
    (status = 201, description = "Created, now or by the same request before", body = User, headers(
        ("Location" = String, description = "Path of the user"),
        ("ETag" = String, description = "Strong tag of the user"),
        ("Idempotent-Replayed" = String, description = "`true` if the same request created it before"),
        ("Last-Seen" = String, description = "Token of this write, for reads that must show it"),
    )),
    (status = 400, description = "Not JSON, or not a key", body = Problem, content_type = "application/problem+json"),
    (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The email is taken, or a request with this key is being answered",
        body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is over 64 KiB", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "The body is not `application/json`", body = Problem,
        content_type = "application/problem+json"),
    (status = 422, description = "Fields are wrong, or the key was used with another body", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn create(
    State(app): State<Arc<App>>,
    _: NoQuery,
    Caller(caller): Caller,
    RequestKey(key): RequestKey,
    Document(body): Document,
) -> Result<Response, Failure> {
    let profile = Profile::parse(body).map_err(Failure::Invalid)?;
    let key = key.map(|key| key.of(caller.text().as_deref()));
    let _in_use = key.as_ref().map(|key| app.keys.take(key)).transpose()?;
    let Written { outcome, token } = app.store.create(&profile, key.as_ref(), &Act::now(caller)).await?;
    let (user, replayed) = match outcome {
        Created::Now(user) => (user, None),
        Created::Before(user) => (user, Some((IDEMPOTENT_REPLAYED, HeaderValue::from_static("true")))),
    };
    let mut response = (StatusCode::CREATED, changed(&user, token.as_deref())?).into_response();
    response.headers_mut().insert(LOCATION, value(&format!("/users/{}", user.id))?);
    response.headers_mut().extend(replayed);
    Ok(response)
}

/// Shows a user
#[utoipa::path(get, path = "/users/{id}", tag = "users", operation_id = "showUser", params(
        ("id" = UserId, Path, description = "Id of the user"),
        ("If-Match" = Option<String>, Header, description = "Entity tags of which the user must have one"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of copies that the caller has"),
        ("Last-Seen" = Option<String>, Header, description = "Tokens of writes that the answer must show"),
    ), responses(
    (status = 200, description = "The user", body = User, headers(
        ("ETag" = String, description = "Strong tag of the user"),
        ("Cache-Control" = String, description = "Who may keep the user, and for how long"),
        ("Cache-Tag" = String, description = "`user:ID`"),
    )),
    (status = 304, description = "The caller has this version"),
    (status = 400, description = "The path takes no query", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such user", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "Not in a state that If-Match names", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id,
    _: NoQuery,
    Seen(seen): Seen,
    conditions: Conditions,
) -> Result<Response, Failure> {
    let user = app.store.find(id, seen).await?;
    let headers = vec![(CACHE_TAG, value(&format!("user:{id}"))?)];
    readable(&app, &conditions, &EntityTag::of(&user), headers, json(&user)?)
}

/// Replaces what callers decide about a user
///
/// A user that does not exist is not created: ids are set by the service. Replacing a user by the same changes
/// nothing, not even the version.
#[utoipa::path(put, path = "/users/{id}", tag = "users", operation_id = "replaceUser", request_body = Profile, params(
        ("id" = UserId, Path, description = "Id of the user"),
        ("If-Match" = Option<String>, Header, description = "Entity tags of which the user must have one"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of which the user must have none"),
    ), responses(
    (status = 200, description = "The user as it is now", body = User,
        headers(("ETag" = String, description = "Strong tag of the user"),
            ("Last-Seen" = String, description = "Token of this write, for reads that must show it"))),
    (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such user", body = Problem, content_type = "application/problem+json"),
    (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The email is taken", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "A precondition does not hold", body = Problem,
        content_type = "application/problem+json"),
    (status = 413, description = "The body is over 64 KiB", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "The body is not `application/json`", body = Problem,
        content_type = "application/problem+json"),
    (status = 422, description = "Fields are wrong", body = Problem, content_type = "application/problem+json"),
))]
pub async fn replace(
    State(app): State<Arc<App>>,
    Id(id): Id,
    _: NoQuery,
    Caller(caller): Caller,
    conditions: Conditions,
    Document(body): Document,
) -> Result<Response, Failure> {
    let profile = Profile::parse(body).map_err(Failure::Invalid)?;
    let decide = |present: &User| conditions.write(&EntityTag::of(present)).map(|()| profile.clone());
    let Written { outcome, token } = app.store.change(id, &Act::now(caller), decide).await?;
    changed(&outcome, token.as_deref())
}

/// Changes some of what callers decide about a user
#[utoipa::path(patch, path = "/users/{id}", tag = "users", operation_id = "patchUser",
    request_body(content = ProfilePatch, content_type = "application/merge-patch+json",
        description = "RFC 7396: the fields to change"),
    params(
        ("id" = UserId, Path, description = "Id of the user"),
        ("If-Match" = Option<String>, Header, description = "Entity tags of which the user must have one"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of which the user must have none"),
    ), responses(
    (status = 200, description = "The user as it is now", body = User,
        headers(("ETag" = String, description = "Strong tag of the user"),
            ("Last-Seen" = String, description = "Token of this write, for reads that must show it"))),
    (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such user", body = Problem, content_type = "application/problem+json"),
    (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The email is taken", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "A precondition does not hold", body = Problem,
        content_type = "application/problem+json"),
    (status = 413, description = "The body is over 64 KiB", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "The body is not `application/merge-patch+json`", body = Problem,
        content_type = "application/problem+json"),
    (status = 422, description = "The user would have wrong fields", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn patch(
    State(app): State<Arc<App>>,
    Id(id): Id,
    _: NoQuery,
    Caller(caller): Caller,
    conditions: Conditions,
    patch: MergePatch,
) -> Result<Response, Failure> {
    let strange = ProfilePatch::unknown_in(&patch.0);
    let decide = |present: &User| {
        conditions.write(&EntityTag::of(present))?;
        let before = serde_json::to_value(present.profile()).map_err(|error| Failure::Write(error.into()))?;
        match Profile::parse(patch.apply(before)) {
            Ok(_) if !strange.is_empty() => Err(Failure::Invalid(strange.clone())),
            parsed => parsed.map_err(Failure::Invalid),
        }
    };
    let Written { outcome, token } = app.store.change(id, &Act::now(caller), decide).await?;
    changed(&outcome, token.as_deref())
}

/// Removes a user
#[utoipa::path(delete, path = "/users/{id}", tag = "users", operation_id = "removeUser", params(
        ("id" = UserId, Path, description = "Id of the user"),
        ("If-Match" = Option<String>, Header, description = "Entity tags of which the user must have one"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of which the user must have none"),
    ), responses(
    (status = 204, description = "Removed", headers(("Last-Seen" = String, description = "Token of this write, for reads that must show it"))),
    (status = 400, description = "The path takes no query", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such user", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "A precondition does not hold", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn remove(
    State(app): State<Arc<App>>,
    Id(id): Id,
    _: NoQuery,
    Caller(caller): Caller,
    conditions: Conditions,
) -> Result<Response, Failure> {
    let decide = |present: &User| conditions.write(&EntityTag::of(present));
    let removed = app.store.remove(id, &Act::now(caller), decide).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().extend(last_seen::field(removed.token.as_deref()));
    Ok(response)
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub struct Users {
    /// The users, in the order of their ids.
    users: Vec<User>,
    /// What to ask for as `after` to get the next page. Absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
}

/// The id in a path. What cannot be an id is nobody's.
pub struct Id(pub UserId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await.ok();
        path.and_then(|Path(text)| UserId::parse(&text)).map(Self).ok_or(StoreError::NoSuchUser.into())
    }
}

/// Which page the query asks for.
fn page(uri: &Uri) -> Result<Page, Failure> {
    let Query(page) = Query::try_from_uri(uri).map_err(|rejection| Failure::Query(rejection.body_text()))?;
    Ok(page)
}

/// Answers a read with what the caller lacks, and says how long it may be kept.
fn readable(
    app: &App,
    conditions: &Conditions,
    tag: &EntityTag,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
) -> Result<Response, Failure> {
    let mut response = match conditions.read(tag)? {
        Reading::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Reading::Whole => ([(CONTENT_TYPE, JSON)], body).into_response(),
    };
    response.headers_mut().insert(CACHE_CONTROL, app.settings.cache_control.clone());
    response.headers_mut().insert(ETAG, tag.header());
    response.headers_mut().extend(headers);
    Ok(response)
}

/// Answers a write with the user as it is now. Nobody keeps it: it answers the write, not a read.
fn changed(user: &User, token: Option<&str>) -> Result<Response, Failure> {
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(JSON)), (ETAG, EntityTag::of(user).header())];
    let mut response = (headers, json(user)?).into_response();
    response.headers_mut().extend(last_seen::field(token));
    Ok(response)
}

fn tags(users: &[User]) -> String {
    let mut tags = String::from("users");
    if users.len() <= MAX_TAGGED {
        tags.extend(users.iter().map(|user| format!(",user:{}", user.id)));
    }
    tags
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| Failure::Write(error.into()))
}

fn value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(text).map_err(|error| Failure::Write(error.into()))
}
