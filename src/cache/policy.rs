//! What may be stored, for how long, and when a stored answer may be used (RFC 9111), as functions of plain headers.
//!
//! In doubt an answer is not stored, and a stored one is not used: being wrong the other way shows one person
//! another's page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, ETAG, IF_MATCH, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, SET_COOKIE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, request, response};

use super::directives::{RequestDirectives, ResponseDirectives};
use super::freshness::{self, Times};
use super::{Rules, vary};

/// Why a request passes the cache by: nothing is looked up for it, and its answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// Its method is neither GET nor HEAD (§3, §4).
    Method,
    /// It says `no-store` (§5.2.1.5).
    NoStore,
    /// It says `If-Match` or `If-Unmodified-Since`, which only the origin may judge (§4.3.2).
    Precondition,
    /// It would leave HTTP for another protocol (RFC 9110 §7.8).
    Upgrade,
    /// It has content, which is not part of the key and which some origins answer by (RFC 9110 §9.3.1).
    Content,
}

impl Bypass {
    /// The reason in one word, as `Cache-Status` and the access log show it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::NoStore => "no-store",
            Self::Precondition => "precondition",
            Self::Upgrade => "upgrade",
            Self::Content => "content",
        }
    }
}

/// Whether a request passes the cache by, and why.
///
/// Requests with `Range`, `If-None-Match` or `If-Modified-Since` do not: a stored answer serves them.
pub fn bypass(request: &request::Parts) -> Option<Bypass> {
    let headers = &request.headers;
    if request.method != Method::GET && request.method != Method::HEAD {
        Some(Bypass::Method)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|n| n != "0")
    {
        Some(Bypass::Content)
    } else if headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE) {
        Some(Bypass::Precondition)
    } else if RequestDirectives::of(headers).no_store {
        Some(Bypass::NoStore)
    } else {
        None
    }
}

/// How long a stored answer is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Fresh up to then; [`NEVER_FRESH`] where each use needs validation.
    pub fresh_until: SystemTime,
    /// When the answer's age was 0: `Age` on a hit is the time since then (§4.2.3).
    pub born: SystemTime,
}

/// The `fresh_until` of answers that are stored only to be validated on each use (`no-cache`, `max-age=0`).
pub const NEVER_FRESH: SystemTime = UNIX_EPOCH;

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// It says `no-store` (§5.2.2.5).
    NoStore,
    /// It says `private` (§5.2.2.7).
    Private,
    /// Its request carried `Authorization`, and it does not say that it may be shared (§3.5).
    Authorization,
    /// It sets a cookie (§7.3).
    SetCookie,
    /// The request has a cookie, and only the route's own `ttl` would keep the answer.
    Cookie,
    /// It is a part of something (§3.3).
    Partial,
    /// Its status is not one that is stored, or only on the origin's explicit word (§3, §4.2.2).
    Status,
    /// Its `Vary` is not one that requests can be sorted by ([`vary::Unbounded`], §4.1).
    Vary,
    /// It is an event stream, which does not end.
    Stream,
    /// Its body is larger than the route or the memory tier takes.
    TooLarge,
    /// Nobody says how long it is fresh, or it never is and cannot be validated (§3).
    NoLifetime,
    /// Its URL was purged while it was on its way.
    Purged,
}

impl NotKept {
    /// The reason in one word, as `Cache-Status` and the access log show it.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::Cookie => "cookie",
            Self::Partial => "partial",
            Self::Status => "status",
            Self::Vary => "vary",
            Self::Stream => "stream",
            Self::TooLarge => "too-large",
            Self::NoLifetime => "no-lifetime",
            Self::Purged => "purged",
        }
    }

    /// Whether the next answer of this URL is likely to have the same fate, so that nobody need wait for it.
    pub fn lasts(self) -> bool {
        !matches!(self, Self::Partial | Self::Status | Self::Purged | Self::Cookie)
    }
}

/// Whether an answer is stored, and how long it is fresh.
pub fn keep(
    request: &request::Parts,
    response: &response::Parts,
    rules: &Rules,
    times: Times,
) -> Result<Lifetime, NotKept> {
    let directives = ResponseDirectives::of(&response.headers);
    may_store(request, response, &directives, rules)?;
    let headers = &response.headers;
    let named = if directives.no_cache {
        Some(Duration::ZERO)
    } else {
        freshness::lifetime(&directives, headers, times.answered)
    };
    let own = rules.ttl.filter(|_| by_default(response.status));
    let (lifetime, age) = match (named, own) {
        (_, Some(ttl)) if rules.ignore_origin => (ttl, freshness::age_value(headers)),
        (Some(named), _) => (named, freshness::initial_age(headers, times)),
        // The route's word is for what is alike for all, and a request with a cookie most often is not.
        (None, Some(_))
            if request.headers.contains_key(COOKIE) && !speaks_for_cookies(&directives, rules) =>
        {
            return Err(NotKept::Cookie);
        }
        (None, Some(ttl)) => (ttl, freshness::age_value(headers)),
        (None, None) => {
            return Err(if by_default(response.status) { NotKept::NoLifetime } else { NotKept::Status });
        }
    };
    let lifetime = rules.ttl_max.map_or(lifetime, |max| lifetime.min(max));
    if lifetime <= age && !validatable(headers) {
        return Err(NotKept::NoLifetime);
    }
    let born = times.answered.checked_sub(freshness::initial_age(headers, times)).unwrap_or(UNIX_EPOCH);
    let since = times.answered.checked_sub(age).unwrap_or(UNIX_EPOCH);
    let fresh_until = if lifetime.is_zero() { NEVER_FRESH } else { since + lifetime };
    Ok(Lifetime { fresh_until, born })
}

/// Everything but the lifetime (§3).
fn may_store(
    request: &request::Parts,
    response: &response::Parts,
    directives: &ResponseDirectives,
    rules: &Rules,
) -> Result<(), NotKept> {
    let headers = &response.headers;
    if response.status == StatusCode::PARTIAL_CONTENT || headers.contains_key(CONTENT_RANGE) {
        Err(NotKept::Partial)
    } else if directives.no_store {
        Err(NotKept::NoStore)
    } else if directives.private {
        Err(NotKept::Private)
    } else if headers.contains_key(SET_COOKIE) {
        Err(NotKept::SetCookie)
    } else if request.headers.contains_key(AUTHORIZATION) && !directives.shared() {
        Err(NotKept::Authorization)
    } else if !by_default(response.status) && !on_word(response.status) {
        Err(NotKept::Status)
    } else if vary::fields(headers, &rules.vary).is_err() {
        Err(NotKept::Vary)
    } else if is_event_stream(headers) {
        Err(NotKept::Stream)
    } else if length(headers).is_some_and(|length| length > rules.max_object) {
        Err(NotKept::TooLarge)
    } else {
        Ok(())
    }
}

/// Whether somebody said that answers to requests with cookies may be shared: the origin, or the route by telling
/// them apart.
fn speaks_for_cookies(directives: &ResponseDirectives, rules: &Rules) -> bool {
    directives.shared() || rules.vary.contains(&COOKIE)
}

/// Server-sent events: an answer that goes on for as long as somebody listens.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    const MEDIA_TYPE: &[u8] = b"text/event-stream";
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..MEDIA_TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Statuses to which the route's own `ttl` applies. Errors are not among them: they are stored on the origin's word.
fn by_default(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// Further statuses that are stored where the origin names a lifetime.
fn on_word(status: StatusCode) -> bool {
    matches!(status.as_u16(), 302 | 307 | 404 | 405 | 410 | 414 | 451 | 501)
}

/// Whether the origin can be asked if the answer still holds (§4.3.1).
fn validatable(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.get(LAST_MODIFIED).and_then(freshness::date).is_some()
}

/// `Content-Length`, where it is one number.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// A stored answer, as far as its reuse is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// When its age was 0.
    pub born: SystemTime,
    /// Up to when it is fresh.
    pub fresh_until: SystemTime,
}

/// What may be done with a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it.
    Serve,
    /// Serve it though it is stale: the client permits it and the origin does not forbid it (§4.2.4).
    ServeStale,
    /// Ask the origin whether it still holds (§4.3).
    Validate,
}

/// Whether a stored answer serves a request that arrived at `arrived`, now that it is `now` (§4, §5.2.1).
///
/// An answer that was asked for after this request had arrived is as new as any that this request could cause:
/// it serves a request for validation as well, so that those who waited for one validation need not repeat it.
pub fn reuse(asked: &RequestDirectives, stored: &Stored<'_>, arrived: SystemTime, now: SystemTime) -> Reuse {
    if stored.fresh_until == NEVER_FRESH {
        return Reuse::Validate;
    }
    let Ok(left) = stored.fresh_until.duration_since(now) else {
        return reuse_stale(asked, stored, now);
    };
    if asked.nothing || stored.born >= arrived {
        return Reuse::Serve;
    }
    let age = now.duration_since(stored.born).unwrap_or_default().as_secs();
    let too_old = asked.no_cache || asked.max_age.or_stale().is_some_and(|max| max == 0 || age > max);
    let too_near = asked.min_fresh.or_stale().is_some_and(|min| left.as_secs() < min);
    if too_old || too_near { Reuse::Validate } else { Reuse::Serve }
}

/// `max-stale` (§5.2.1.2), unless the request asks for better as well or the answer forbids it.
fn reuse_stale(asked: &RequestDirectives, stored: &Stored<'_>, now: SystemTime) -> Reuse {
    let Some(bound) = asked.max_stale else { return Reuse::Validate };
    let stale_by = now.duration_since(stored.fresh_until).unwrap_or_default();
    let age = now.duration_since(stored.born).unwrap_or_default().as_secs();
    let too_old = asked.no_cache || asked.max_age.or_stale().is_some_and(|max| max == 0 || age > max);
    let better = too_old || asked.min_fresh.or_stale().is_some();
    let forbidden = ResponseDirectives::of(stored.headers).forbids_stale();
    if better || forbidden || stale_by > Duration::from_secs(bound) {
        Reuse::Validate
    } else {
        Reuse::ServeStale
    }
}

/// Whether a stored answer may serve a request that carries `Authorization`.
///
/// The RFC permits it for any answer that is stored (§3.5 is about storing). Here it takes the origin's word that
/// the answer is for all, since an origin that never thought of caches may answer a known caller differently.
pub fn serves_authorized(stored: &HeaderMap) -> bool {
    ResponseDirectives::of(stored).shared()
}

/// Whether an answer to this method means that what is stored of its target no longer holds (§4.4).
///
/// Methods that nobody has told us to be safe count as unsafe.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
