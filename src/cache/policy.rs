//! What may be stored, and on which terms (RFC 9111 §3, §4.2), as functions of plain headers.
//!
//! In doubt an answer is not stored: being wrong the other way shows one person another's page. Whether what is stored
//! serves a request is for [`super::reuse`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, ETAG, HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    SET_COOKIE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, request};

use super::directives::{RequestDirectives, ResponseDirectives, Scope, Seconds};
use super::freshness::{self, Times};
use super::heeded::Heeded;
use super::stored::Terms;
use super::targeted::Said;
use super::{Rules, SetCookie, dates, merge, parts, vary};

/// Why a request passes the cache by: nothing is looked up for it, and its answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// Its method is not one that the route answers from the store (§3, §4).
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
/// Requests with `Range`, `If-None-Match` or `If-Modified-Since` do not: a stored answer serves them. Content that
/// HTTP/2 announces with no field is not seen here.
pub fn bypass(
    request: &request::Parts,
    heeded: Heeded,
    directives: &RequestDirectives,
    rules: &Rules,
) -> Option<Bypass> {
    let headers = &request.headers;
    if !rules.methods.has(&request.method) {
        Some(Bypass::Method)
    } else if !heeded.may_pass() {
        directives.no_store.then_some(Bypass::NoStore)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|n| n != "0")
    {
        Some(Bypass::Content)
    } else if headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE) {
        Some(Bypass::Precondition)
    } else {
        directives.no_store.then_some(Bypass::NoStore)
    }
}

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// Its request's method is not one whose answers are stored, or not without an explicit lifetime (§3).
    Method,
    /// It says `no-store` (§5.2.2.5).
    NoStore,
    /// It says `private` (§5.2.2.7).
    Private,
    /// Its request says who its caller is, by `Authorization` or otherwise, and it does not say that it may be shared (§3.5).
    Authorization,
    /// It sets a cookie (§7.3).
    SetCookie,
    /// The request has a cookie, and only the route or a guess would make the answer fresh.
    Cookie,
    /// It is a part of something that cannot be stored as one (§3.3).
    Partial,
    /// Its status is not one that is stored, or only on the origin's explicit word (§3, §4.2.2).
    Status,
    /// Its `Vary` is not one that requests can be sorted by ([`vary::Unbounded`], §4.1).
    Vary,
    /// It is an event stream, which does not end.
    Stream,
    /// Its body is larger than the route or the memory tier takes.
    TooLarge,
    /// Nobody says how long it is fresh, or it never is, and it can neither be validated nor served stale (§3).
    NoLifetime,
    /// Its URL was purged while it was on its way.
    Purged,
    /// Its body did not come to the end that was announced (§3.3). Its head is gone by then: the metric alone says so.
    BrokenOff,
}

impl NotKept {
    /// The reason in one word, as `Cache-Status` and the access log show it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Method => "method",
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
            Self::BrokenOff => "broken-off",
        }
    }

    /// Whether the next answer of this URL is likely to have the same fate, so that nobody need wait for it. What is
    /// about one request says nothing of the next, and a failure passes.
    pub fn lasts(self, status: StatusCode) -> bool {
        match self {
            Self::Status => !status.is_server_error() && !never(status),
            Self::Method | Self::Partial | Self::Purged | Self::BrokenOff => false,
            _ => true,
        }
    }

    /// Whether it is for its request that an answer is not kept: others may still be served what is stored.
    pub fn is_of_request(self) -> bool {
        matches!(self, Self::Authorization | Self::Cookie)
    }

    /// Whether an answer with this status that is not kept for this reason takes the place of what is stored all the same:
    /// the stored one is then forgotten, as a newer one has the word (§4.3.3) that is not there to be served. In doubt
    /// it is forgotten, which costs a fetch; to keep it would show what the origin has withdrawn.
    ///
    /// It stays where the reason is one of the request ([`NotKept::is_of_request`]). So it does after a failure, for which it may stand in, after a part, and after statuses that
    /// blame the one request (400, 406, 412, 416, 429 and the like): anybody could make it go with a request gone wrong.
    /// 401 and 403 are about a caller who has said who he is; to others, they are about the URL.
    pub fn supersedes(self, status: StatusCode, request: &HeaderMap, authorized: bool) -> bool {
        let of_one = self.is_of_request() || matches!(self, Self::Method | Self::Partial | Self::Purged);
        let of_url = match status.as_u16() {
            206 | 304 => false,
            200..=399 | 404 | 405 | 410 | 451 => true,
            401 | 403 => !authorized && !request.contains_key(COOKIE),
            _ => false,
        };
        of_url && !of_one
    }
}

/// Whether an answer is stored, and on which terms.
///
/// `method` and `request` are those of the request that it answers, `authorized` whether that says who its caller is; `answer` has the fields as the origin sent them,
/// after a 304 those of [`merge::renewed`]. A POST is stored for later GETs only with an explicit lifetime, and the
/// caller sees to it that its `Content-Location` is its target ([`super::invalidate::is_of_target`], RFC 9110 §9.3.3).
pub fn keep(
    method: &Method,
    (request, authorized): (&HeaderMap, bool),
    status: StatusCode,
    answer: &HeaderMap,
    rules: &Rules,
    times: Times,
) -> Result<Terms, NotKept> {
    let said = Said::of(answer, &rules.targeted);
    let directives = &said.directives;
    may_store(authorized, status, answer, &said, rules)?;
    let named = freshness::lifetime(&said, answer, times.answered);
    if *method != Method::GET && (*method != Method::POST || named.is_none()) {
        return Err(NotKept::Method);
    }
    let terms = for_how_long(request, status, answer, &said, named, rules, times)?;
    // That a cookie is for everybody is for the origin to say, not for the route or a guess. No time at all says nothing.
    let by_itself = named.is_some_and(|lifetime| !lifetime.is_zero());
    if !by_itself && rules.set_cookie == SetCookie::Store && sets_cookie(answer, &directives.fields) {
        return Err(NotKept::SetCookie);
    }
    Ok(terms)
}

/// The lifetime (§4.2) that the origin has `named`, or that the route or a guess gives, and the terms that follow.
fn for_how_long(
    request: &HeaderMap,
    status: StatusCode,
    answer: &HeaderMap,
    said: &Said,
    named: Option<Duration>,
    rules: &Rules,
    times: Times,
) -> Result<Terms, NotKept> {
    let directives = &said.directives;
    let own = if is_negative(status) { rules.negative_ttl } else { rules.ttl.filter(|_| by_default(status)) };
    let guess = || {
        freshness::guess(answer, times.answered).filter(|_| rules.guesses() && may_guess(status, directives))
    };
    let aged = (freshness::initial_age(answer, times), freshness::age_value(answer));
    let before = |age: Duration| times.answered.checked_sub(age).unwrap_or(UNIX_EPOCH);
    let named = if directives.no_cache == Scope::Whole { Some(named.unwrap_or_default()) } else { named };
    let (lifetime, age) = match (named, own) {
        (_, Some(ttl)) if rules.ignore_origin => (ttl, aged.1),
        (Some(named), _) => (named, aged.0),
        // What nobody but the route or a guess calls fresh is for all alike, and a request with a cookie most often
        // is not.
        (None, _)
            if request.contains_key(COOKIE) && !(directives.shared() || rules.tells_cookies_apart()) =>
        {
            return Err(NotKept::Cookie);
        }
        (None, own) => match (guess().filter(|_| own.is_none() || rules.heuristic == Some(true)), own) {
            (Some(guess), _) => (guess, aged.0),
            (None, Some(ttl)) => (ttl, aged.1),
            // Nobody calls it fresh: it is used only where the origin says that it still holds.
            (None, None) if may_guess(status, directives) && validatable(answer) => {
                return Ok(Terms {
                    born: before(aged.0),
                    fresh_until: before(aged.0),
                    never_stale: true,
                    for_authorized: directives.shared(),
                    ..Terms::default()
                });
            }
            (None, None) if may_guess(status, directives) => return Err(NotKept::NoLifetime),
            (None, None) => return Err(NotKept::Status),
        },
    };
    let lifetime = rules.ttl_max.map_or(lifetime, |max| lifetime.min(max));
    let born = before(aged.0);
    let fresh_until = if lifetime.is_zero() { born } else { before(age) + lifetime };
    let terms = with_windows(born, fresh_until, directives, rules);
    if is_of_use(&terms, answer, !lifetime.is_zero(), times.answered) {
        Ok(terms)
    } else {
        Err(NotKept::NoLifetime)
    }
}

/// Everything but the lifetime (§3).
fn may_store(
    authorized: bool,
    status: StatusCode,
    answer: &HeaderMap,
    said: &Said,
    rules: &Rules,
) -> Result<(), NotKept> {
    let directives = &said.directives;
    let understood = is_understood(status);
    if never(status) || (directives.must_understand && !understood) {
        Err(NotKept::Status)
    } else if directives.no_store && !(directives.must_understand && understood) {
        Err(NotKept::NoStore)
    } else if directives.private == Scope::Whole {
        Err(NotKept::Private)
    } else if status == StatusCode::PARTIAL_CONTENT && parts::range_of(answer).is_none() {
        Err(NotKept::Partial)
    } else if rules.set_cookie == SetCookie::Bypass && sets_cookie(answer, &directives.fields) {
        Err(NotKept::SetCookie)
    } else if authorized && !directives.shared() {
        Err(NotKept::Authorization)
    } else if vary::fields(answer, rules).is_err() {
        Err(NotKept::Vary)
    } else if is_event_stream(answer) || is_grpc(answer) {
        Err(NotKept::Stream)
    } else if length(answer).is_some_and(|length| length > rules.max_object) {
        Err(NotKept::TooLarge)
    } else {
        Ok(())
    }
}

/// Whether a cookie would be stored with the answer: one that `private` or `no-cache` names is left out in any case.
fn sets_cookie(answer: &HeaderMap, left_out: &[HeaderName]) -> bool {
    merge::COOKIES.iter().any(|name| answer.contains_key(name) && !left_out.contains(name))
}

/// The terms, with the windows in which the answer may be served stale (§4.2.4, RFC 5861).
///
/// `s-maxage` forbids that like `proxy-revalidate` (§5.2.2.10), unless the same field names a window: its author has
/// said what is to hold then. Where the origin's lifetimes are ignored, so are these words about their end.
fn with_windows(
    born: SystemTime,
    fresh_until: SystemTime,
    directives: &ResponseDirectives,
    rules: &Rules,
) -> Terms {
    let ignored = rules.ignore_origin && rules.ttl.is_some();
    let demanding = if ignored {
        directives.must_revalidate || directives.proxy_revalidate
    } else {
        directives.demands_validation()
    };
    let never_stale = demanding || (!ignored && directives.forbids_stale());
    let window = |named: Seconds, own: Option<Duration>| match named.or_stale() {
        _ if demanding => Duration::ZERO,
        Some(seconds) => Duration::from_secs(seconds),
        None if never_stale => Duration::ZERO,
        None => own.unwrap_or_default(),
    };
    Terms {
        born,
        fresh_until,
        validate_always: directives.no_cache == Scope::Whole && !ignored,
        never_stale,
        while_revalidate: window(directives.while_revalidate, rules.stale_while_revalidate),
        if_error: window(directives.if_error, rules.stale_if_error),
        if_unreachable: if never_stale { Duration::ZERO } else { rules.stale_if_unreachable },
        for_authorized: directives.shared(),
        immutable: directives.immutable,
    }
}

/// Whether there will ever be a request that the answer can serve.
fn is_of_use(terms: &Terms, answer: &HeaderMap, was_fresh: bool, now: SystemTime) -> bool {
    let fresh = terms.fresh_until > now && !terms.validate_always;
    let window = terms.while_revalidate.max(terms.if_error).max(terms.if_unreachable);
    let stale = terms.fresh_until + window > now && !terms.validate_always;
    fresh || stale || validatable(answer) || (was_fresh && !terms.never_stale)
}

/// Server-sent events: an answer that goes on for as long as somebody listens.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    is_of_type(headers, b"text/event-stream")
}

/// Answers to calls of gRPC: they mean nothing without what stands behind them.
fn is_grpc(headers: &HeaderMap) -> bool {
    is_of_type(headers, b"application/grpc")
}

fn is_of_type(headers: &HeaderMap, media_type: &[u8]) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..media_type.len()).is_some_and(|start| start.eq_ignore_ascii_case(media_type))
}

/// Statuses whose answers are never stored: interim ones and 304 are no answers to store; others tell of the one
/// request or of its client (RFC 9110 §15.5, RFC 6585, RFC 8470 §5.2).
fn never(status: StatusCode) -> bool {
    status.is_informational()
        || matches!(status.as_u16(), 304 | 407 | 412 | 416 | 417 | 421 | 425 | 428 | 429 | 431 | 511)
}

/// Statuses to which the route's own `ttl` applies. Errors are not among them: they have a `negative_ttl`.
fn by_default(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308)
}

/// Statuses to which the route's `negative_ttl` applies: failures that are the same for everybody.
pub fn is_negative(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 405 | 410 | 414 | 451 | 500..=504)
}

/// Whether a lifetime may be guessed (§4.2.2): for statuses that are "heuristically cacheable" (RFC 9110 §15.1), and
/// for all others where the answer is `public` (§5.2.2.9).
fn may_guess(status: StatusCode, directives: &ResponseDirectives) -> bool {
    let heuristically =
        matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501);
    heuristically || directives.public
}

/// Statuses whose requirements on caches are kept here, for `must-understand` (§5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=206 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 451 | 500..=505)
}

/// Whether the origin can be asked if the answer still holds (§4.3.1).
pub fn validatable(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.get(LAST_MODIFIED).and_then(dates::read).is_some()
}

/// `Content-Length`, where it is one number.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    let digits = headers.get(CONTENT_LENGTH)?.as_bytes().trim_ascii();
    // `parse` alone would take a sign.
    digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// The fields that are stored of an answer (§3.1): without those of the connection, without `Age`, without those that
/// `private` or `no-cache` name (§5.2.2.4, §5.2.2.7), without cookies unless the route stores them (§7.3), and without what it
/// says of writes where clients are shown their own: to all who come later it would be wrong. `Date` is
/// added where the origin has not sent it (RFC 9110 §6.6.1).
pub fn stored_headers(answer: &HeaderMap, rules: &Rules, answered: SystemTime) -> HeaderMap {
    let said = Said::of(answer, &rules.targeted);
    let mut kept =
        merge::without(answer, &said.directives.fields, rules.set_cookie == SetCookie::Store, answered);
    if rules.own_writes {
        kept.remove(super::marker::LAST_SEEN);
    }
    kept
}

/// Whether an answer sets a cookie that is not stored with it: it is then for the one client that caused it.
pub fn keeps_cookies_back(answer: &HeaderMap, rules: &Rules) -> bool {
    rules.set_cookie != SetCookie::Store && answer.contains_key(SET_COOKIE)
}

/// Whether an answer to this method means that what is stored of its target no longer holds (§4.4).
///
/// Methods that nobody has told us to be safe count as unsafe.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// Methods that change nothing (RFC 9110 §9.2.1, RFC 4918 §9.1, RFC 3253 §3.6, RFC 5323 §2, QUERY).
pub fn is_safe(method: &Method) -> bool {
    method.is_safe() || matches!(method.as_str(), "PROPFIND" | "REPORT" | "SEARCH" | "QUERY")
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
