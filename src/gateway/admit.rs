//! May this request come in: its head understood, its route found, its limits charged.

use std::net::{IpAddr, Ipv4Addr};

use http::header;
use pingora::proxy::Session;

use crate::exchange::{Asked, Exchange};
use crate::forward::{self, request_id};
use crate::listen::{self, client};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::route::{host_of, path};

/// Understands the head: who asks, for which host and path.
pub(super) fn understand(session: &Session, plan: &Plan) -> Result<Asked, Refusal> {
    let request = session.req_header();
    let connection = listen::connection(session);
    let peer = connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |connection| connection.peer.ip());
    let trusted = client::is_trusted(peer, &plan.trusted_proxies);
    let secure = connection.is_some_and(|connection| connection.secure);

    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let from_field = || request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host_of(authority.or_else(from_field).unwrap_or_default()).map_err(|_| Refusal::Host)?;
    let path = path::normalise(request.uri.path()).map_err(Refusal::Path)?;

    Ok(Asked {
        peer,
        client: client::address(peer, &request.headers, &plan.trusted_proxies),
        trusted,
        scheme: if secure { "https" } else { "http" },
        port: connection.map_or(0, |connection| connection.local.port()),
        host: host.into_owned(),
        path: path.into_owned(),
        id: request_id::of(&request.headers, trusted),
    })
}

/// Finds the route and asks its limits, cheapest question first.
pub(super) fn admit(session: &Session, exchange: &mut Exchange, asked: &Asked) -> Result<(), Refusal> {
    let request = session.req_header();
    let plan = exchange.plan.clone();
    let route = plan.routes.find(&asked.host, &asked.path, &request.method).map_err(Refusal::NotFound)?;
    exchange.route = Some(route.clone());

    if let Some(limits) = &route.limits {
        let verdict = limits.charge(asked.client);
        exchange.standing = Some(verdict.as_ref().map_or_else(|no| no.standing.clone(), Clone::clone));
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
