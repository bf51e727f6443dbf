//! What is counted of connections that have changed their protocol.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::meters::{Meters, Metric};

/// Who ended one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebsocketEnd {
    /// The client, or it is gone.
    Client,
    /// The server, or it is gone.
    Server,
    /// Neither said anything for too long.
    Idle,
}

impl WebsocketEnd {
    /// Its label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Idle => "idle",
        }
    }
}

/// The metrics of all such connections; a route's rows begin with its first.
#[derive(Clone, Debug)]
pub(super) struct WebsocketMeters {
    opened: Metric<Counter, 1>,
    open: Metric<Gauge, 1>,
    closed: Metric<Counter, 2>,
}

impl WebsocketMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            opened: meters.websockets.clone(),
            open: meters.websockets_open.clone(),
            closed: meters.websockets_closed.clone(),
        }
    }

    /// Counts one that opens on a route.
    pub(super) fn open(&self, route: &str) -> Websocket {
        self.opened.with([route]).inc();
        let open = self.open.with([route]);
        open.inc();
        Websocket { open, closed: self.closed.clone(), route: route.into(), ended: None }
    }
}

/// One that is open, and counted as such until it is dropped.
#[derive(Debug)]
pub struct Websocket {
    open: Gauge,
    closed: Metric<Counter, 2>,
    route: Box<str>,
    ended: Option<WebsocketEnd>,
}

impl Websocket {
    /// Notes who ends it; whoever comes later follows.
    pub fn ended(&mut self, by: WebsocketEnd) {
        self.ended.get_or_insert(by);
    }

    /// Who did, if it is known.
    pub fn end(&self) -> Option<WebsocketEnd> {
        self.ended
    }
}

impl Drop for Websocket {
    fn drop(&mut self) {
        self.open.dec();
        let by = self.ended.unwrap_or(WebsocketEnd::Client);
        self.closed.with([&self.route, by.name()]).inc();
    }
}
