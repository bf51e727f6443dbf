//! What is said of an exchange when it ends: an access line, and counts.

use std::time::SystemTime;

use pingora::http::RequestHeader;
use pingora::{Error, ErrorSource};

use crate::cache::Asking;
use crate::exchange::Exchange;
use crate::listen::{Connection, Sent, Session};
use crate::refusal::{Fault, Refusal};
use crate::telemetry::access::{Record, Text};
use crate::telemetry::{RouteMeters, Websocket, WebsocketEnd};

use super::tries::final_head;

/// What its client got of an answer.
pub(super) struct Answered {
    /// 0: nothing.
    pub(super) status: u16,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// Why it is not whole.
    pub(super) broken: Option<&'static str>,
}

impl Answered {
    /// By a session.
    pub(super) fn of(session: &Session, error: Option<&Error>) -> Self {
        Self {
            status: final_head(session).map_or(0, |answer| answer.status.as_u16()),
            request_bytes: session.body_bytes_read() as u64,
            response_bytes: session.body_bytes_sent() as u64,
            broken: error.map(reason),
        }
    }
}

impl From<Sent> for Answered {
    fn from(sent: Sent) -> Self {
        let broken = (!sent.whole).then_some(CLIENT_LEFT);
        Self { status: sent.status, request_bytes: 0, response_bytes: sent.bytes, broken }
    }
}

/// Counts the exchange on its route, or on the row of those that found none.
pub(super) fn count(answered: &Answered, exchange: &Exchange, unrouted: &RouteMeters) {
    let meters = exchange.route.as_ref().map_or(unrouted, |route| &route.meters);
    meters.answered(answered.status, exchange.began.elapsed());
    if let Some(refusal) = &exchange.refusal {
        meters.refused(refusal.reason().code);
    }
    if let Some(asking) = &exchange.cache {
        asking.count(&meters.cache);
    }
}

/// The access line.
pub(super) fn line(
    request: &RequestHeader,
    connection: Option<&Connection>,
    answered: &Answered,
    exchange: &Exchange,
) -> Record {
    let asked = exchange.asked.as_ref();
    let tries = &exchange.tries;
    let elapsed = exchange.began.elapsed();
    let refused = exchange.refusal.as_ref().map(|refusal| refusal.reason().code);
    let ended = exchange.websocket.as_ref().and_then(Websocket::end);
    let idle = (ended == Some(WebsocketEnd::Idle)).then_some(IDLE);
    Record {
        time: SystemTime::now() - elapsed,
        client: asked.map(|asked| asked.client).or_else(|| connection.map(|c| c.peer.ip())).unwrap_or(NOBODY),
        method: request.method.clone(),
        host: Text::from(asked.map_or("", |asked| &asked.host)),
        path: Text::from(request.uri.path()),
        query: request.uri.query().map(Text::from),
        protocol: request.version,
        tls: connection.and_then(|connection| connection.tls.as_ref()).map(|tls| tls.version),
        tls_client: asked
            .and_then(|asked| asked.certificate.as_ref())
            .map(|client| Text::from(&*client.subject)),
        caller: asked.and_then(|asked| asked.caller.as_ref()?.subject()).map(Text::from),
        provider: asked.and_then(|asked| asked.caller.as_ref()).map(|caller| Text::from(caller.provider())),
        route: exchange.route.as_ref().map(|route| route.name.clone()),
        upstream: tries.upstream.as_ref().map(|upstream| upstream.shared_name()),
        server: tries.server.clone(),
        status: answered.status,
        reason: refused.or(idle).or(answered.broken),
        cache: exchange.cache.as_ref().map(Asking::outcome),
        attempts: u32::try_from(tries.tried.count()).unwrap_or(u32::MAX),
        request_bytes: answered.request_bytes,
        response_bytes: answered.response_bytes,
        elapsed,
        upstream_elapsed: tries.waited,
        request_id: Text::from(exchange.id()),
    }
}

/// Why an answer that had begun did not end.
fn reason(error: &Error) -> &'static str {
    match error.esource() {
        ErrorSource::Upstream => Refusal::Failed(Fault::BrokeOff).reason().code,
        _ => CLIENT_LEFT,
    }
}

/// Neither side of a connection that had changed its protocol said anything for too long.
const IDLE: &str = "websocket-idle";
const CLIENT_LEFT: &str = "client-left";
const NOBODY: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
