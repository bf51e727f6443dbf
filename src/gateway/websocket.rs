//! Connections that change their protocol: how long they wait for it, how long they may be silent then, and who ends them.

use std::time::Duration;

use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use crate::exchange::Exchange;
use crate::telemetry::WebsocketEnd;

/// Sets the bounds on the word of a server on another protocol. Pingora has one for its connection, for good, so that is
/// as long as the new protocol may be silent; the session's ends the wait before.
pub(super) fn bound_word(session: &mut Session, exchange: &Exchange, peer: &mut HttpPeer) {
    if !session.is_upgrade_req() {
        return;
    }
    let mut within = peer.options.read_timeout;
    if exchange.upgrades {
        peer.options.read_timeout = within.max(idle(exchange));
        within = exchange.timeouts().map(|timeouts| within.unwrap_or(Duration::MAX).min(timeouts.first_byte));
    }
    session.set_read_timeout(within);
}

/// How long it may be silent, both ways.
fn idle(exchange: &Exchange) -> Option<Duration> {
    exchange.forward().map(|forward| forward.websocket_idle)
}

/// The protocol has changed.
pub(super) fn opened(session: &mut Session, exchange: &mut Exchange) {
    session.set_read_timeout(idle(exchange));
    exchange.websocket = exchange.route.as_ref().map(|route| route.meters.websocket());
}

/// One side has said its last; the first of them has ended it.
pub(super) fn ended(exchange: &mut Exchange, by: WebsocketEnd) {
    if let Some(websocket) = &mut exchange.websocket {
        websocket.ended(by);
    }
}

/// It ended in an error.
pub(super) fn failed(exchange: &mut Exchange, error: &Error) {
    ended(
        exchange,
        match (error.etype(), error.esource()) {
            (ErrorType::ReadTimedout, _) => WebsocketEnd::Idle,
            (_, ErrorSource::Upstream) => WebsocketEnd::Server,
            _ => WebsocketEnd::Client,
        },
    );
}
