//! Lets in who may: each path asks for a scope, and what is not listed here for the highest.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method};

use super::App;
use super::body;
use super::failure::Failure;
use crate::access::{Identity, Proof, Scope, Unproven};

/// Paths for everybody: they tell nothing of users.
const FOR_ALL: &[&str] =
    &["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/page.js", "/docs/page.css"];

/// What a request needs; nothing where everybody may.
pub fn needed(path: &str, method: &Method) -> Option<Scope> {
    match path {
        "/users" | "/users/{id}" if method.is_safe() => Some(Scope::Read),
        "/users" | "/users/{id}" => Some(Scope::Write),
        path if FOR_ALL.contains(&path) => None,
        _ => Some(Scope::Admin),
    }
}

/// Finds out who asks, and answers those who may not.
pub async fn admit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    // A path that is not there needs nothing.
    let path = request.extensions().get::<MatchedPath>();
    let needed = path.and_then(|path| needed(path.as_str(), request.method()));
    let Some(needed) = needed else { return next.run(request).await };
    let denied = match app.access.identify(request.headers()).await {
        Ok(None) => return next.run(request).await,
        Ok(Some(identity)) if identity.scopes.allow(needed) => {
            let own = identity.proof == Proof::Token;
            request.extensions_mut().insert(identity);
            let response = next.run(request).await;
            return if own { for_one(response) } else { response };
        }
        Ok(Some(Identity { proof: Proof::None, .. })) => Failure::NoProof(needed),
        Ok(Some(Identity { proof: Proof::Gateway, actor, .. })) if actor.text().is_none() => {
            Failure::NoProof(needed)
        }
        Ok(Some(_)) => Failure::Scope(needed),
        Err(Unproven::Caller) => Failure::Caller,
        Err(unproven) => Failure::Unproven(unproven),
    };
    body::discard_unless_waited(request).await;
    denied.into_response()
}

/// What one caller was answered for a token of theirs is not for others, whatever is right behind a gateway that asks
/// each of its callers before it looks into its cache.
fn for_one(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let said = headers.get(CACHE_CONTROL).and_then(|control| control.to_str().ok());
    let kept =
        said.is_some_and(|said| !said.split(',').any(|rule| rule.trim().eq_ignore_ascii_case("no-store")));
    if kept {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_kept_is_kept_for_one_and_what_may_not_is_not() {
        for (said, wanted) in [
            ("max-age=60", "private, no-cache"),
            ("public, max-age=60", "private, no-cache"),
            ("no-store", "no-store"),
            ("private, No-Store , max-age=0", "private, No-Store , max-age=0"),
        ] {
            let answer = for_one(([(CACHE_CONTROL, said)], "").into_response());
            assert_eq!(answer.headers()[CACHE_CONTROL], wanted, "{said}");
        }
    }

    #[test]
    fn every_path_of_the_description_is_for_all_or_asks_for_a_scope() {
        let mut seen = Vec::new();
        for (path, item) in super::super::document::whole().paths.paths {
            let methods = [(Method::GET, item.get), (Method::POST, item.post), (Method::PUT, item.put)];
            let more = [(Method::PATCH, item.patch), (Method::DELETE, item.delete)];
            for (method, _) in methods.into_iter().chain(more).filter(|(_, operation)| operation.is_some()) {
                seen.push(format!("{method} {path} {}", needed(&path, &method).map_or("-", Scope::word)));
            }
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                "DELETE /users/{id} users:write",
                "GET /events users:admin",
                "GET /healthz -",
                "GET /metrics -",
                "GET /openapi.json -",
                "GET /readyz -",
                "GET /users users:read",
                "GET /users/{id} users:read",
                "GET /users/{id}/audit users:admin",
                "GET /users:export users:admin",
                "PATCH /users/{id} users:write",
                "POST /users users:write",
                "POST /users:import users:admin",
                "PUT /users/{id} users:write",
            ]
        );
    }
}
