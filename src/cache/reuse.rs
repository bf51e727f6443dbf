//! Whether a stored answer serves a request (RFC 9111 §4, RFC 5861). Nothing here parses or allocates: what the answer
//! permits was worked out when it was stored.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::directives::RequestDirectives;
use super::freshness::age;
use super::stored::Terms;

/// What may be done with a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it.
    Serve,
    /// Serve it though it is stale, and ask the origin for a newer one meanwhile (RFC 5861 §3).
    ServeStaleAndRefresh,
    /// Serve it though it is stale: the client permits it and the origin does not forbid it (§4.2.4).
    ServeStale,
    /// Ask the origin whether it still holds (§4.3).
    Validate(Why),
}

/// Why a stored answer is not served as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is stale.
    Stale,
    /// It is fresh, but its origin wants each use validated (§5.2.2.4).
    NoCache,
    /// It is fresh, but the request asks for better (§5.2.1).
    Request,
}

/// Whether a stored answer serves a request that arrived at `arrived`, now that it is `now` (§4, §5.2.1).
///
/// `soft_purged`: somebody has called the answer stale before its time. An answer that was asked for after this request
/// had arrived is as new as any that this request could cause: it serves a request for validation as well, so that
/// those who waited for one validation need not repeat it.
pub fn reuse(
    asked: &RequestDirectives,
    terms: &Terms,
    soft_purged: bool,
    arrived: SystemTime,
    now: SystemTime,
) -> Reuse {
    if terms.validate_always {
        return Reuse::Validate(Why::NoCache);
    }
    // Never fresh is what has no lifetime, wherever a clock that was set back puts it.
    let left = terms.fresh_until.duration_since(now).unwrap_or_default();
    if soft_purged || left.is_zero() || terms.fresh_until <= terms.born {
        return reuse_stale(asked, terms, now);
    }
    if asked.nothing || terms.born >= arrived {
        return Reuse::Serve;
    }
    let reloads = asked.no_cache || (!terms.immutable && too_old(asked, terms, now));
    let too_near = asked.min_fresh.or_stale().is_some_and(|min| left < Duration::from_secs(min));
    if reloads || too_near { Reuse::Validate(Why::Request) } else { Reuse::Serve }
}

/// Whether the request wants a younger answer (§5.2.1.1); with `max-age=0`, none that is stored.
fn too_old(asked: &RequestDirectives, terms: &Terms, now: SystemTime) -> bool {
    asked.max_age.or_stale().is_some_and(|max| max == 0 || age(terms, now) > max)
}

/// Within the window of the origin or the route (RFC 5861 §3), or at the client's word (`max-stale`, §5.2.1.2); never
/// where the request asks for better as well: whoever names a `max-age` takes nothing stale, unless it says so.
fn reuse_stale(asked: &RequestDirectives, terms: &Terms, now: SystemTime) -> Reuse {
    let stale_by = now.duration_since(terms.fresh_until).unwrap_or_default();
    let wants_fresh = asked.max_age.or_stale().is_some() && asked.max_stale.is_none();
    let better =
        asked.no_cache || wants_fresh || too_old(asked, terms, now) || asked.min_fresh.or_stale().is_some();
    let beyond = asked.max_stale.is_some_and(|bound| stale_by > Duration::from_secs(bound));
    if better || beyond {
        Reuse::Validate(Why::Stale)
    } else if !terms.while_revalidate.is_zero() && stale_by <= terms.while_revalidate {
        Reuse::ServeStaleAndRefresh
    } else if asked.max_stale.is_some() && !terms.never_stale {
        Reuse::ServeStale
    } else {
        Reuse::Validate(Why::Stale)
    }
}

/// How the origin failed to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection was had.
    Unreachable,
    /// The connection ended before the head of an answer came.
    BrokeOff,
    /// The head of an answer did not come in time.
    TimedOut,
    /// It answered with this status.
    Status(StatusCode),
}

/// Whether a stored answer may be served in place of an answer that could not be had (RFC 5861 §4, §4.2.4).
///
/// `stale-if-error` covers 500, 502, 503, 504 and all failures without an answer; the route's `stale_if_unreachable`
/// connections alone: one that was not had, or that ended without an answer. A request that wants validation, or something younger, gets the failure, unless it says itself
/// what it would take (`stale-if-error` of the request).
pub fn may_stand_in(asked: &RequestDirectives, terms: &Terms, failure: Failure, now: SystemTime) -> bool {
    if terms.validate_always || asked.no_cache {
        return false;
    }
    let counts = match failure {
        Failure::Status(status) => is_stood_in_for(status),
        _ => true,
    };
    let better = too_old(asked, terms, now) || asked.min_fresh.or_stale().is_some();
    let granted = asked.if_error.filter(|_| !terms.never_stale).map(Duration::from_secs).unwrap_or_default();
    let window = match failure {
        _ if better => granted,
        Failure::Status(_) | Failure::TimedOut => granted.max(terms.if_error),
        Failure::Unreachable | Failure::BrokeOff => granted.max(terms.if_error).max(terms.if_unreachable),
    };
    let stale_by = now.duration_since(terms.fresh_until).unwrap_or_default();
    counts && !window.is_zero() && stale_by <= window
}

/// Whether a stored answer may be served in place of one with this status (RFC 5861 §4).
pub fn is_stood_in_for(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

#[cfg(test)]
#[path = "reuse_tests.rs"]
mod tests;
