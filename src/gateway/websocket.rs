//! Connections that change their protocol: how long they may be silent then, and who ends them.

use std::time::Duration;

use crate::exchange::Exchange;
use crate::listen::Session;
use crate::telemetry::WebsocketEnd;

/// The bound on silence is one on both ways together; the client alone is given more time than any connection has.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long it may be silent, both ways.
pub(super) fn idle(exchange: &Exchange) -> Duration {
    exchange.forward().map_or(Duration::ZERO, |forward| forward.websocket_idle)
}

/// The protocol has changed.
pub(super) fn opened(session: &mut Session, exchange: &mut Exchange) {
    session.set_read_timeout(Some(UNBOUNDED));
    exchange.websocket = exchange.route.as_ref().map(|route| route.meters.websocket());
}

/// One side has said its last, or was silent for too long; what comes first has ended it.
pub(super) fn ended(exchange: &mut Exchange, by: WebsocketEnd) {
    if let Some(websocket) = &mut exchange.websocket {
        websocket.ended(by);
    }
}
