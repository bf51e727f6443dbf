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
use crate::cache::{self, Rules, policy, tags};
use crate::exchange::{Asked, Exchange};
use crate::plan::Plan;
use crate::route::path;

use super::claims::{self, Says};

/// Under what answers to a request are kept, besides its path and query.
pub(super) struct Origin<'a> {
    scheme: &'static str,
    host: Cow<'a, str>,
    /// What a trusted proxy claims of its client goes upstream as it came, so answers may differ by it: whoever claims
    /// something else is kept apart, and cannot put words of his own into an answer for others.
    claims: String,
}

impl<'a> Origin<'a> {
    /// Of a request.
    pub(super) fn of(request: &'a RequestHeader, asked: &'a Asked) -> Self {
        let host = authority(request, asked);
        if !asked.trusted {
            return Self { scheme: asked.scheme, host, claims: String::new() };
        }
        let scheme = claims::scheme(&request.headers).unwrap_or(asked.scheme);
        let says = Says { scheme, host: &asked.host, authority: &host };
        let claims = claims::beyond(&request.headers, &says);
        Self { scheme, host, claims }
    }

    /// Of a request under the rules of its route, by which clients may be kept apart.
    fn under(rules: &Rules, request: &'a RequestHeader, asked: &'a Asked) -> Self {
        let mut origin = Self::of(request, asked);
        if let (Some(true), Some(client)) = (rules.key_client, &asked.certificate) {
            origin.claims.extend(["\nclient-certificate ", &client.fingerprint]);
        }
        if let (true, Some(caller)) = (rules.key_caller, &asked.caller) {
            origin.claims.extend(["\ncaller ", caller.print()]);
        }
        origin
    }

    /// What is kept under a key of its own.
    fn target<'t>(&'t self, path: &'t str, query: Option<&'t str>) -> Target<'t> {
        Target { scheme: self.scheme, host: &self.host, claims: &self.claims, path, query }
    }

    /// The same in the words of people, who make no claims and leave out the port of the scheme.
    pub(super) fn in_words<'t>(&'t self, path: &'t str, query: Option<&'t str>) -> Target<'t> {
        let port = if self.scheme == "https" { ":443" } else { ":80" };
        let host = self.host.strip_suffix(port).unwrap_or(&self.host);
        Target { host, claims: "", ..self.target(path, query) }
    }

    /// Whether what is kept lies under another key than that of the URL in words.
    fn is_apart(&self) -> bool {
        !self.claims.is_empty() || self.in_words("", None).host.len() != self.host.len()
    }
}

/// The host, with its port where that is not the scheme's own: two ports are two origins (RFC 9110 §4.3.2).
pub(super) fn authority<'a>(request: &'a RequestHeader, asked: &'a Asked) -> Cow<'a, str> {
    // Of the two that a request may name, the one that its host was taken from.
    let written = match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let digits = memchr::memrchr(b':', written.as_bytes()).map_or("", |colon| &written[colon + 1..]);
    match (digits.parse::<u16>().ok(), asked.scheme) {
        (None, _) | (Some(443), "https") | (Some(80), "http") => Cow::Borrowed(&asked.host),
        // As it is from every usual client: the host in its normal form, and a port without zeros before it.
        (Some(_), _) if is_normal(written, &asked.host, digits) => Cow::Borrowed(written),
        (Some(port), _) => {
            let mut host = String::with_capacity(asked.host.len() + ":65535".len());
            host.push_str(&asked.host);
            // Writing to a text cannot fail.
            let _ = write!(host, ":{port}");
            Cow::Owned(host)
        }
    }
}

fn is_normal(written: &str, host: &str, digits: &str) -> bool {
    written.len() == host.len() + ":".len() + digits.len()
        && written.starts_with(host)
        && digits.starts_with(|digit| matches!(digit, '1'..='9'))
}

/// The key of a request's URL, under the rules of its route.
pub(super) fn key_of(rules: &Rules, request: &RequestHeader, asked: &Asked) -> Key {
    let origin = Origin::under(rules, request, asked);
    key::of(rules, &origin.target(&asked.path, request.uri.query()), &request.headers)
}

/// A URL in words.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) url: Arc<str>,
    /// Whether its answers lie under more keys than one: they carry a tag of the URL's own ([`tags::of_url`]), so that
    /// a purge of the URL meets them all.
    pub(super) tagged: bool,
}

/// The URL in words.
pub(super) fn url_of(rules: &Rules, request: &RequestHeader, asked: &Asked) -> Named {
    let origin = Origin::under(rules, request, asked);
    let url = key::url(&rules.query, &origin.in_words(&asked.path, request.uri.query())).into();
    Named { url, tagged: rules.keys_by_request() || origin.is_apart() }
}

/// The key in words.
pub(super) fn label_of(rules: &Rules, request: &RequestHeader, asked: &Asked) -> Box<str> {
    let origin = Origin::under(rules, request, asked);
    key::readable(&rules.query, &origin.target(&asked.path, request.uri.query())).into()
}

/// What an answer changes is to be forgotten before its client hears of it (RFC 9111 §4.4); what that is.
pub(super) fn outdated(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &Exchange,
) -> Vec<cache::Target> {
    let Some(asked) = exchange.asked.as_ref().filter(|_| policy::invalidates(&request.method, answer.status))
    else {
        return Vec::new();
    };
    let mut outdated = Vec::new();
    let origin = Origin::of(request, asked);
    for place in places(&origin.in_words(&asked.path, request.uri.query()), &answer.headers) {
        let Ok(path) = path::normalise(&place.path) else { continue };
        let Some(rules) = rules_of_a_get(&exchange.plan, asked, &path) else { continue };
        let target = origin.in_words(&path, place.query.as_deref());
        outdated.extend(purge_targets(rules, &exchange.plan, &target, &request.headers));
    }
    outdated
}

/// What all answers of a URL have in common: their key or, where fields of the request are part of that, a tag of the
/// URL's own ([`tags::of_url`]). Where proxies are trusted, some have the one and others, by what was claimed of their
/// clients, the other.
pub(super) fn purge_targets(
    rules: &Rules,
    plan: &Plan,
    target: &Target<'_>,
    request: &http::HeaderMap,
) -> Vec<cache::Target> {
    let tag = || cache::Target::Tag(tags::of_url(&key::url(&rules.query, target)));
    if rules.keys_by_request() {
        return vec![tag()];
    }
    let url = cache::Target::Url(key::of(rules, target, request));
    if plan.trusted_proxies.is_empty() { vec![url] } else { vec![url, tag()] }
}

/// How the route that a GET for this path takes would have stored its answer.
fn rules_of_a_get<'a>(plan: &'a Plan, asked: &Asked, path: &str) -> Option<&'a Arc<Rules>> {
    let route = plan.routes.find(&asked.host, path, &Method::GET).ok()?;
    route.cache.as_ref()
}
