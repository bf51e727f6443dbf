//! May this request come in: its head understood, its route found, its address let in, its caller known, its limits charged.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{Method, header, uri};
use pingora::http::RequestHeader;

use crate::exchange::{Asked, Exchange};
use crate::forward::{self, hop, request_id};
use crate::limit::Moment;
use crate::listen::{self, Connection, MinVersion, Session, client};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::route::{NotFound, host_of, path};

use super::{charge, identify};

/// A request's head is whole: ends its deadline, notes who asks, and sets the bounds on what follows.
pub(super) fn open(session: &mut Session, exchange: &mut Exchange) {
    let connection = listen::connection(session);
    if let Some(connection) = connection {
        connection.request_begins();
    }
    exchange.asked = Some(Arc::new(who_asks(session.req_header(), connection, &exchange.plan)));
    exchange.upgrades = hop::is_websocket(session.req_header());
    let bounds = &exchange.plan.bounds;
    session.set_read_timeout(Some(bounds.body_timeout));
    session.set_write_timeout(Some(bounds.send_timeout));
    // What is left of a body after an early answer is read for this long, so that the client sees the answer.
    session.set_total_drain_timeout(Some(bounds.body_timeout.min(DRAIN)));
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
pub(super) fn who_asks(request: &RequestHeader, connection: Option<&Connection>, plan: &Plan) -> Asked {
    let fields = &request.headers;
    let peer = connection.map_or(NOBODY, |connection| connection.peer.ip());
    let trusted = client::is_trusted(peer, &plan.trusted_proxies);
    Asked {
        peer,
        client: client::address(peer, fields, &plan.trusted_proxies),
        trusted,
        scheme: if connection.is_some_and(|connection| connection.secure) { "https" } else { "http" },
        peer_port: connection.map_or(0, |connection| connection.peer.port()),
        local: connection.map_or(NOBODY, |connection| connection.local.ip()),
        port: connection.map_or(0, |connection| connection.local.port()),
        certificate: connection.and_then(|connection| connection.tls.as_ref()?.client.clone()),
        caller: None,
        host: String::new(),
        path: String::new(),
        id: request_id::of(fields, trusted),
    }
}

/// Understands the head: which host and path are asked for.
pub(super) fn understand(request: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    let asked = exchange.asked.as_mut().and_then(Arc::get_mut).ok_or(Refusal::Internal)?;
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

/// Asks whether the connection is one as its host wants it: another may have been made for a host that asks for less, or
/// for other certificates (RFC 9110 §7.4). Comes before the route, whose rules count on it.
pub(super) fn check_connection(connection: Option<&Connection>, exchange: &Exchange) -> Result<(), Refusal> {
    let (Some(connection), Some(asked)) = (connection, &exchange.asked) else { return Ok(()) };
    let policy = exchange.plan.connections.of(&asked.host);
    match &connection.tls {
        Some(tls) if tls.clients != policy.clients => Err(Refusal::Misdirected),
        // It would not be let in if it came now. Another connection may be, by a certificate that is still good.
        Some(_) if !connection.is_let_in() => Err(Refusal::Misdirected),
        Some(tls) if tls.version == "1.2" && policy.min > MinVersion::Tls12 => Err(Refusal::Misdirected),
        None if policy.clients.as_ref().is_some_and(|clients| !clients.optional) && !connection.redirects => {
            Err(Refusal::NoClientCert)
        }
        _ => Ok(()),
    }
}

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Finds the route and asks its limits, cheapest question first.
pub(super) async fn admit(request: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    find_route(request, exchange)?;
    check_address(exchange)?;
    check_client(exchange)?;
    charge::charge(request, exchange, Moment::Came).await?;
    charge::enter(request, exchange, Moment::Came)?;
    // Limits may be by caller, so it is found out who that is. A "no" to it comes after them: who guesses pays for each guess.
    let admitted = identify::identify(request, exchange).await;
    charge::charge(request, exchange, Moment::Known).await?;
    admitted?;
    charge::enter(request, exchange, Moment::Known)?;
    if forward::loops(request) {
        return Err(Refusal::Loop);
    }
    let Some(route) = &exchange.route else { return Err(Refusal::Internal) };
    match content_length(request) {
        Some(length) if length > route.max_body => Err(Refusal::BodyTooLarge { limit: route.max_body }),
        _ => Ok(()),
    }
}

/// Finds the route that takes the request.
pub(super) fn find_route(request: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    let Some(asked) = &exchange.asked else { return Err(Refusal::Internal) };
    let found = exchange.plan.routes.find(&asked.host, &asked.path, &request.method);
    let route = found.map_err(Refusal::NotFound)?.clone();
    exchange.reader = route.cors.as_ref().and_then(|cors| cors.reader(&request.headers));
    exchange.route = Some(route);
    Ok(())
}

/// Asks whether the route is for clients at this address. Before the limits: who may not come in is not counted there.
pub(super) fn check_address(exchange: &Exchange) -> Result<(), Refusal> {
    let (Some(asked), Some(route)) = (&exchange.asked, &exchange.route) else {
        return Err(Refusal::Internal);
    };
    match &route.addresses {
        Some(addresses) if !addresses.admit(asked.client) => Err(Refusal::Address),
        _ => Ok(()),
    }
}

/// Asks whether the route is for the client, by the certificate that it has shown.
pub(super) fn check_client(exchange: &Exchange) -> Result<(), Refusal> {
    let (Some(asked), Some(route)) = (&exchange.asked, &exchange.route) else {
        return Err(Refusal::Internal);
    };
    match (&route.client_cert, &asked.certificate) {
        (Some(_), None) => Err(Refusal::NoClientCert),
        (Some(rule), Some(client)) if !rule.admits(client) => Err(Refusal::ClientCert),
        _ => Ok(()),
    }
}

fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
