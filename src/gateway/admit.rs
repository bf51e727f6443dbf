//! May this request come in: its head understood, its route found, its limits charged.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{Method, header, uri};
use pingora::proxy::Session;

use crate::exchange::{Asked, Exchange};
use crate::forward::{self, hop, request_id};
use crate::listen::{self, client};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::route::{NotFound, host_of, path};

/// A request's head is whole: ends its deadline, notes who asks, and sets the bounds on what follows.
pub(super) fn open(session: &mut Session, exchange: &mut Exchange) {
    if let Some(connection) = listen::connection(session) {
        connection.request_begins();
    }
    exchange.asked = Some(Arc::new(who_asks(session, &exchange.plan)));
    exchange.upgrades = hop::is_websocket(session.req_header());
    let bounds = &exchange.plan.bounds;
    if session.get_keepalive().is_some() {
        session.set_keepalive(Some(bounds.idle_timeout.as_secs().max(1)));
    }
    session.set_read_timeout(Some(bounds.body_timeout));
    session.set_write_timeout(Some(bounds.send_timeout));
    // What is left of a body after an early answer is read for this long, so that the client sees the answer.
    session.set_total_drain_timeout(Some(bounds.body_timeout.min(DRAIN)));
    // Clients may send the next request before this one is answered (RFC 9112 §9.3.2).
    session.set_pipelining_enabled(true);
}

const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The request is answered: the deadline of the next head counts from its first byte.
pub(super) fn close(session: &Session) {
    if let Some(connection) = listen::connection(session) {
        connection.request_ends();
    }
}

/// Who asks, and under which id: known of every request, so that even one refused for its head has them in its answer
/// and its access line.
fn who_asks(session: &Session, plan: &Plan) -> Asked {
    let fields = &session.req_header().headers;
    let connection = listen::connection(session);
    let peer = connection.map_or(NOBODY, |connection| connection.peer.ip());
    let trusted = client::is_trusted(peer, &plan.trusted_proxies);
    Asked {
        peer,
        client: client::address(peer, fields, &plan.trusted_proxies),
        trusted,
        scheme: if connection.is_some_and(|connection| connection.secure) { "https" } else { "http" },
        port: connection.map_or(0, |connection| connection.local.port()),
        host: String::new(),
        path: String::new(),
        id: request_id::of(fields, trusted),
    }
}

/// Understands the head: which host and path are asked for.
pub(super) fn understand(session: &Session, exchange: &mut Exchange) -> Result<(), Refusal> {
    let asked = exchange.asked.as_mut().and_then(Arc::get_mut).ok_or(Refusal::Internal)?;
    let request = session.req_header();
    if matches!(request.method, Method::CONNECT | Method::TRACE) {
        // A tunnel would pass everything by; a trace would show the server's view of cookies (RFC 9110 §9.3.8).
        return Err(Refusal::NotFound(NotFound::Method { allow: Vec::new() }));
    }
    let authority = request.uri.authority().map(uri::Authority::as_str);
    let field = || request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = authority.or_else(field).unwrap_or_default();
    asked.host = host_of(authority).map_err(|_| Refusal::Host)?.into_owned();
    if !request.raw_path_is_utf8() {
        return Err(Refusal::Path(path::BadPath::Control));
    }
    asked.path = path::normalise(request.uri.path()).map_err(Refusal::Path)?.into_owned();
    Ok(())
}

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Finds the route and asks its limits, cheapest question first.
pub(super) fn admit(session: &Session, exchange: &mut Exchange) -> Result<(), Refusal> {
    let Some(asked) = &exchange.asked else { return Err(Refusal::Internal) };
    let request = session.req_header();
    let found = exchange.plan.routes.find(&asked.host, &asked.path, &request.method);
    let route = exchange.route.insert(found.map_err(Refusal::NotFound)?.clone());

    if let Some(limits) = &route.limits {
        let verdict = limits.charge(asked.client);
        let standing = verdict.as_ref().unwrap_or_else(|no| &no.standing);
        exchange.standing = Some(standing.clone());
        verdict.map_err(Refusal::Exceeded)?;
    }
    if forward::loops(request) {
        return Err(Refusal::Loop);
    }
    match content_length(session) {
        Some(length) if length > route.max_body => Err(Refusal::BodyTooLarge { limit: route.max_body }),
        _ => Ok(()),
    }
}

fn content_length(session: &Session) -> Option<u64> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
