//! A request's dealings with stored answers.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use crate::cache::invalidate::places;
use crate::cache::key::{self, Target};
use crate::cache::{Asking, Tiers, policy};
use crate::exchange::{Asked, Exchange};
use crate::plan::{Plan, Route};
use crate::route::path;

/// Opens the cache to the request, where its route has one.
pub(super) fn open(session: &mut Session, exchange: &mut Exchange, tiers: &'static Tiers) {
    let (Some(route), Some(asked)) = (&exchange.route, &exchange.asked) else { return };
    let Some(rules) = &route.cache else { return };
    let uri = session.req_header().uri.clone();
    let (scheme, host) = origin(session, asked);
    let target = Target { scheme, host: &host, path: &asked.path, query: uri.query() };
    exchange.cache = Some(Asking::enable(session, rules, tiers, &target));
}

/// The dealings of a request for which the cache is open.
pub(super) fn asking(exchange: &mut Exchange) -> Result<&mut Asking> {
    exchange.cache.as_mut().ok_or_else(|| Error::explain(ErrorType::InternalError, "the cache is not open"))
}

/// The head of an answer came: noted for the store, and what it changes is forgotten before the client hears of it.
pub(super) fn answered(
    session: &mut Session,
    answer: &ResponseHeader,
    exchange: &mut Exchange,
    tiers: &'static Tiers,
) {
    if let Some(asking) = &mut exchange.cache {
        asking.answered(answer);
        // What is sure to be stored is read at the origin's pace, not at that of the client whose request it was: others
        // may follow. Otherwise that pace is what bounds the bytes held here. Pingora can do so for HTTP/1.1 alone.
        session.set_proxy_tasks_enabled(asking.fits(answer));
    }
    let request = session.req_header();
    let Some(asked) = exchange.asked.as_ref().filter(|_| policy::invalidates(&request.method, answer.status))
    else {
        return;
    };
    let named = authority(session, asked);
    let target = Target { scheme: asked.scheme, host: &named, path: &asked.path, query: request.uri.query() };
    let (scheme, host) = origin(session, asked);
    for place in places(&target, &answer.headers) {
        let Ok(path) = path::normalise(&place.path) else { continue };
        let target = Target { scheme, host: &host, path: &path, query: place.query.as_deref() };
        if let Some(rules) = rules_of_a_get(&exchange.plan, asked, &path) {
            tiers.purge(&key::of(&rules.query, &target));
        }
    }
}

/// How the route that a GET for this path takes would have stored its answer.
fn rules_of_a_get<'a>(plan: &'a Plan, asked: &Asked, path: &str) -> Option<&'a Arc<crate::cache::Rules>> {
    let route: &Arc<Route> = plan.routes.find(&asked.host, path, &Method::GET).ok()?;
    route.cache.as_ref()
}

/// The scheme and the host under which answers are kept.
///
/// What a trusted proxy claims of its client goes upstream as it came, so answers may differ by it: whoever claims
/// something else is kept apart, and cannot put words of his own into an answer for others.
fn origin(session: &Session, asked: &Asked) -> (&'static str, String) {
    let mut scheme = asked.scheme;
    let mut host = authority(session, asked).into_owned();
    if asked.trusted {
        for (name, value) in &session.req_header().headers {
            match (name.as_str(), value.as_bytes()) {
                ("x-forwarded-for", _) => {}
                ("x-forwarded-proto", b"https") => scheme = "https",
                ("x-forwarded-proto", b"http") => scheme = "http",
                (name, claim) if name == "forwarded" || name.starts_with("x-forwarded-") => {
                    host.extend(["|", name, "=", &claim.escape_ascii().to_string()]);
                }
                _ => {}
            }
        }
    }
    (scheme, host)
}

/// The host, with its port where that is not the scheme's own: two ports are two origins (RFC 9110 §4.3.2).
pub(super) fn authority<'a>(session: &Session, asked: &'a Asked) -> Cow<'a, str> {
    let request = session.req_header();
    // Of the two that a request may name, the one that its host was taken from.
    let port = match request.uri.authority() {
        Some(authority) => authority.port_u16(),
        None => request.headers.get(http::header::HOST).and_then(|host| {
            let (_, port) = host.to_str().ok()?.rsplit_once(':')?;
            port.parse().ok()
        }),
    };
    match (port, asked.scheme) {
        (None, _) | (Some(443), "https") | (Some(80), "http") => Cow::Borrowed(&asked.host),
        (Some(port), _) => Cow::Owned(format!("{}:{port}", asked.host)),
    }
}
