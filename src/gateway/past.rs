//! Answers that go past the cache: what it learns of them all the same.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::copy::Copy;
use crate::cache::freshness::Times;
use crate::cache::policy::{Bypass, NotKept};
use crate::cache::stored::{Stamp, Terms};
use crate::cache::{Asking, Pass, Rules, Went, invalidate, policy};
use crate::exchange::Exchange;

use super::fetch::Fetching;
use super::{place, settle};

/// The head of an answer came that went past the cache.
pub(super) fn answered(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &mut Exchange,
    fetching: &Fetching,
) {
    if let Some(Asking { went: Went::Past { status, .. }, .. }) = &mut exchange.cache {
        *status = Some(answer.status.as_u16());
    }
    let Some(asking) = &exchange.cache else { return };
    // A condition of the client's own, confirmed by the origin, says nothing of what is stored or could be.
    if answer.status == StatusCode::NOT_MODIFIED {
        return;
    }
    let times = Times { asked: asking.arrived, answered: SystemTime::now() };
    match (&request.method, &asking.went) {
        // Of a request that says so, nothing is stored, its answer included (§5.2.1.5).
        _ if asking.directives.no_store => {}
        // With content or a precondition it tells of this one request.
        (&Method::HEAD, Went::Past { pass: Pass::Head | Pass::Bypass(Bypass::Method), .. }) => {
            fetching.tiers.told_by_head(asking, &request.headers, answer.status, &answer.headers, times);
        }
        (&Method::POST, _) if answer.status != StatusCode::PARTIAL_CONTENT => {
            exchange.copy = result_of_post(request, answer, exchange, asking, fetching, times);
        }
        (_, Went::Past { pass: Pass::Unstored, .. }) => {
            look_again(request, answer, exchange, fetching, times);
        }
        _ => {}
    }
}

/// The first answer of a URL that could be stored ends its days of passing; others say why they could not.
fn look_again(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &mut Exchange,
    fetching: &Fetching,
    times: Times,
) {
    let Some(asking) = &mut exchange.cache else { return };
    let (method, headers) = (&request.method, (&request.headers, asking.authorized));
    let kept = policy::keep(method, headers, answer.status, &answer.headers, &asking.rules, times);
    let kept = kept.and_then(|terms| {
        let too_large = |length| length > asking.rules.max_object.min(fetching.tiers.largest());
        let too_large = policy::length(&answer.headers).is_some_and(too_large);
        if too_large { Err(NotKept::TooLarge) } else { Ok(terms) }
    });
    match (kept, &mut asking.went) {
        (Ok(terms), _) => {
            fetching.tiers.unstored.clear(&asking.key, asking.authorized);
            exchange.copy = copy_of(request, answer, exchange, fetching, terms);
        }
        (Err(reason), Went::Past { not_kept, .. }) => *not_kept = Some(reason),
        _ => {}
    }
}

/// A copy of a whole answer to a GET.
fn copy_of(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &Exchange,
    fetching: &Fetching,
    terms: Terms,
) -> Option<Box<Copy>> {
    let (asking, asked) = (exchange.cache.as_ref()?, exchange.asked.as_ref()?);
    let url = place::url_of(&asking.rules, request, asked);
    let whole = answer.status != StatusCode::PARTIAL_CONTENT;
    let stored =
        settle::to_store(request, answer, &asking.rules, terms, (asking.stamp, Stamp::default()), url).ok();
    let copy = |stored| Copy::new(stored, asking.rules.max_object, fetching.flights.held());
    stored.filter(|_| whole).map(|stored| Box::new(copy(stored)))
}

/// The answer to a POST is stored for later GETs where the origin says explicitly for how long, and that it is what a
/// GET would get (`Content-Location`, RFC 9110 §9.3.3).
fn result_of_post(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &Exchange,
    asking: &Asking,
    fetching: &Fetching,
    times: Times,
) -> Option<Box<Copy>> {
    let asked = exchange.asked.as_ref()?;
    let origin = place::Origin::of(request, asked);
    if !invalidate::is_of_target(&origin.in_words(&asked.path, request.uri.query()), &answer.headers) {
        return None;
    }
    let rules = Rules { ttl: None, heuristic: Some(false), negative_ttl: None, ..(*asking.rules).clone() };
    let terms = policy::keep(
        &request.method,
        (&request.headers, asking.authorized),
        answer.status,
        &answer.headers,
        &rules,
        times,
    )
    .ok()?;
    let url = place::url_of(&rules, request, asked);
    // That it has what others wrote is not known.
    let stood = (fetching.tiers.purges.stamp(), Stamp::default());
    let stored = settle::to_store(request, answer, &rules, terms, stood, url).ok()?;
    let size_max = rules.max_object.min(fetching.tiers.largest());
    Some(Box::new(Copy::new(stored, size_max, fetching.flights.held())))
}

/// A piece of an answer that is copied goes by; at its end the copy is stored.
pub(super) fn copy(piece: Option<&Bytes>, end: bool, exchange: &mut Exchange, fetching: &Fetching) {
    if let (Some(copy), Some(piece)) = (&mut exchange.copy, piece) {
        copy.add(piece);
    }
    if end
        && let Some(stored) = exchange.copy.take().and_then(|copy| copy.whole())
        && let Some(asking) = &exchange.cache
    {
        fetching.tiers.store(asking.key, &Arc::new(stored));
    }
}
