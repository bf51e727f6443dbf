//! Under which URL an answer is kept, and what an unsafe request makes of it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use http::Method;
use http::header::HOST;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::invalidate::places;
use crate::cache::key::{self, Target};
use crate::cache::stored::Key;
use crate::cache::{self, Purge, Rules, Tiers, policy, tags};
use crate::exchange::{Asked, Exchange};
use crate::plan::Plan;
use crate::route::path;
use crate::telemetry::PurgeOrigin;

/// The scheme and the host under which answers are kept.
///
/// What a trusted proxy claims of its client goes upstream as it came, so answers may differ by it: whoever claims
/// something else is kept apart, and cannot put words of his own into an answer for others.
pub(super) fn origin<'a>(request: &RequestHeader, asked: &'a Asked) -> (&'static str, Cow<'a, str>) {
    let mut scheme = asked.scheme;
    let mut host = authority(request, asked);
    if asked.trusted {
        for (name, value) in &request.headers {
            match (name.as_str(), value.as_bytes()) {
                ("x-forwarded-for", _) => {}
                ("x-forwarded-proto", b"https") => scheme = "https",
                ("x-forwarded-proto", b"http") => scheme = "http",
                (name, claim) if name == "forwarded" || name.starts_with("x-forwarded-") => {
                    host.to_mut().extend(["|", name, "=", &claim.escape_ascii().to_string()]);
                }
                _ => {}
            }
        }
    }
    (scheme, host)
}

/// The host, with its port where that is not the scheme's own: two ports are two origins (RFC 9110 §4.3.2).
pub(super) fn authority<'a>(request: &RequestHeader, asked: &'a Asked) -> Cow<'a, str> {
    // Of the two that a request may name, the one that its host was taken from.
    let port = match request.uri.authority() {
        Some(authority) => authority.port_u16(),
        None => request.headers.get(HOST).and_then(|host| {
            let host = host.as_bytes();
            let port = &host[memchr::memrchr(b':', host)? + 1..];
            std::str::from_utf8(port).ok()?.parse().ok()
        }),
    };
    match (port, asked.scheme) {
        (None, _) | (Some(443), "https") | (Some(80), "http") => Cow::Borrowed(&asked.host),
        (Some(port), _) => {
            let mut host = String::with_capacity(asked.host.len() + ":65535".len());
            host.push_str(&asked.host);
            // Writing to a text cannot fail.
            let _ = write!(host, ":{port}");
            Cow::Owned(host)
        }
    }
}

/// The key of a request's URL, under the rules of its route.
pub(super) fn key_of(rules: &Rules, request: &RequestHeader, asked: &Asked) -> Key {
    let (scheme, host) = origin(request, asked);
    let target = Target { scheme, host: &host, path: &asked.path, query: request.uri.query() };
    key::of(rules, &target, &request.headers)
}

/// The URL in words.
pub(super) fn url_of(rules: &Rules, request: &RequestHeader, asked: &Asked) -> Arc<str> {
    let (scheme, host) = origin(request, asked);
    let target = Target { scheme, host: &host, path: &asked.path, query: request.uri.query() };
    key::url(&rules.query, &target).into()
}

/// The key in words.
pub(super) fn label_of(rules: &Rules, request: &RequestHeader, asked: &Asked) -> Box<str> {
    let (scheme, host) = origin(request, asked);
    let target = Target { scheme, host: &host, path: &asked.path, query: request.uri.query() };
    key::readable(&rules.query, &target).into()
}

/// The target of a request.
pub(super) fn target<'a>(request: &'a RequestHeader, asked: &'a Asked, authority: &'a str) -> Target<'a> {
    Target { scheme: asked.scheme, host: authority, path: &asked.path, query: request.uri.query() }
}

/// What an answer changes is forgotten before its client hears of it (RFC 9111 §4.4).
pub(super) fn invalidate(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &Exchange,
    tiers: &'static Tiers,
) {
    let Some(asked) = exchange.asked.as_ref().filter(|_| policy::invalidates(&request.method, answer.status))
    else {
        return;
    };
    let named = authority(request, asked);
    let (scheme, host) = origin(request, asked);
    for place in places(&self::target(request, asked, &named), &answer.headers) {
        let Ok(path) = path::normalise(&place.path) else { continue };
        let target = Target { scheme, host: &host, path: &path, query: place.query.as_deref() };
        if let Some(rules) = rules_of_a_get(&exchange.plan, asked, &path) {
            let purge = Purge { target: purge_target(rules, &target, &request.headers), soft: false };
            tiers.purge(&purge, PurgeOrigin::Unsafe);
        }
    }
}

/// What all answers of a URL have in common: their key or, where fields of the request are part of that, a tag of the
/// URL's own ([`tags::of_url`]).
pub(super) fn purge_target(rules: &Rules, target: &Target<'_>, request: &http::HeaderMap) -> cache::Target {
    if rules.keys_by_request() {
        cache::Target::Tag(tags::of_url(&key::url(&rules.query, target)))
    } else {
        cache::Target::Url(key::of(rules, target, request))
    }
}

/// How the route that a GET for this path takes would have stored its answer.
fn rules_of_a_get<'a>(plan: &'a Plan, asked: &Asked, path: &str) -> Option<&'a Arc<Rules>> {
    let route = plan.routes.find(&asked.host, path, &Method::GET).ok()?;
    route.cache.as_ref()
}
