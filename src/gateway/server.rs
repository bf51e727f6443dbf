//! A server while it answers one request: the same for a request that is passed on and for a fetch.
//!
//! What is sent is bounded here. What is read is not: who reads knows what it waits for, and may let go of it at any time, as
//! nothing is lost then.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use tokio::time::{Instant, timeout_at};

use crate::exchange::Exchange;
use crate::forward::hop;
use crate::refusal::{Fault, Refusal};
use crate::upstream::Timeouts;

use super::tries;

/// The most interim answers before the final one. Those who wait for a fetch may be slow, so they are held.
const INTERIM_MAX: usize = 32;

/// A connection to a server.
pub(super) struct Server {
    http: HttpSession,
    peer: Box<HttpPeer>,
    /// Whether it has answered other requests before.
    pub(super) reused: bool,
    /// How long each step may take.
    pub(super) timeouts: Timeouts,
    /// When the time for the whole exchange is over.
    pub(super) end: Option<Instant>,
    /// Whether the head of the answer has come.
    pub(super) answered: bool,
    interim: usize,
    /// Whether all of the request was sent.
    sent: bool,
}

/// What comes of an answer.
pub(super) enum News {
    /// An interim head, or the final one.
    Head(Box<ResponseHeader>),
    /// A piece of the body; `None` at its end.
    Piece(Option<Bytes>),
}

impl Server {
    /// Connects to one server after the other, until there is a connection.
    pub(super) async fn connect(exchange: &mut Exchange, connector: &Connector) -> Result<Self, Refusal> {
        loop {
            let peer = tries::next_server(exchange).await?;
            match connector.get_http_session(&*peer).await {
                Ok((http, reused)) => return Self::new(http, peer, reused, exchange),
                Err(error) => tries::not_connected(exchange, &error)?,
            }
        }
    }

    fn new(
        mut http: HttpSession,
        peer: Box<HttpPeer>,
        reused: bool,
        exchange: &Exchange,
    ) -> Result<Self, Refusal> {
        let timeouts = exchange.timeouts().ok_or(Refusal::Internal)?;
        let end = exchange.time_left().map(|left| Instant::now() + left);
        // One bound on each read, and the same for all, is not what is wanted.
        http.set_read_timeout(None);
        http.set_write_timeout(None);
        Ok(Self { http, peer, reused, timeouts, end, answered: false, interim: 0, sent: false })
    }

    // ── the request ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends the head.
    pub(super) async fn send_head(&mut self, request: RequestHeader) -> Result<(), Fault> {
        let until = self.until(self.timeouts.idle);
        by(until, self.http.write_request_header(Box::new(request))).await
    }

    /// Sends a piece of the body, or what follows a change of protocol.
    pub(super) async fn send(&mut self, piece: Bytes) -> Result<(), Fault> {
        if piece.is_empty() {
            return Ok(()); // an empty chunk would be the last
        }
        if let HttpSession::H1(http) = &mut self.http {
            http.maybe_upgrade_body_writer();
        }
        let until = self.until(self.timeouts.idle);
        by(until, self.http.write_request_body(piece, false)).await
    }

    /// Ends the body.
    pub(super) async fn send_end(&mut self) -> Result<(), Fault> {
        let until = self.until(self.timeouts.idle);
        by(until, self.http.finish_request_body()).await?;
        self.sent = true;
        Ok(())
    }

    // ── its answer ──────────────────────────────────────────────────────────────────────────────────────────────

    /// What comes next. `upgrades`: whether the request asks to change the protocol.
    pub(super) async fn news(&mut self, upgrades: bool) -> Result<News, Fault> {
        if self.answered {
            self.piece().await.map(News::Piece)
        } else {
            self.head(upgrades).await.map(News::Head)
        }
    }

    /// The next head: an interim one, or the final one if it may be passed on.
    async fn head(&mut self, upgrades: bool) -> Result<Box<ResponseHeader>, Fault> {
        self.http.read_response_header().await.map_err(|error| tries::fault(error.etype()))?;
        let mut head = Box::new(self.http.response_header().ok_or(Fault::BrokeOff)?.clone());
        if is_interim(head.status) {
            self.interim += 1;
            hop::strip_response(&mut head);
            return if self.interim > INTERIM_MAX { Err(Fault::Invalid) } else { Ok(head) };
        }
        self.answered = true;
        if hop::is_sound(&head, upgrades) { Ok(head) } else { Err(Fault::Invalid) }
    }

    /// The next head, for who cannot change the protocol, within the time for it.
    pub(super) async fn head_in_time(&mut self) -> Result<Box<ResponseHeader>, Fault> {
        let until = self.until(self.timeouts.first_byte);
        timeout_at(until, self.head(false)).await.unwrap_or(Err(Fault::Timeout))
    }

    /// The next piece of the body, within the time for it.
    pub(super) async fn piece_in_time(&mut self) -> Result<Option<Bytes>, Fault> {
        let until = self.until(self.timeouts.idle);
        timeout_at(until, self.piece()).await.unwrap_or(Err(Fault::Timeout))
    }

    /// The next piece of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        self.http.read_response_body().await.map_err(|error| tries::fault(error.etype()))
    }

    /// Whether all of the answer has come.
    pub(super) fn is_done(&mut self) -> bool {
        self.answered && self.http.response_done()
    }

    // ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The answer has come to its end. If nothing is left of it or of its request, the connection is free for the next one.
    /// Who does not get here closes it by letting go of it, which waits for nobody.
    pub(super) async fn done(mut self, connector: &Connector) {
        if self.sent && self.is_done() {
            let keep = self.peer.options.idle_timeout;
            connector.release_http_session(self.http, &*self.peer, keep).await;
        }
    }

    /// The end of a step that begins now and takes so long at most.
    pub(super) fn until(&self, most: Duration) -> Instant {
        let until = Instant::now() + most;
        self.end.map_or(until, |end| end.min(until))
    }
}

/// Whether another head follows.
pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// A step with a server that is to be over by then.
async fn by<T>(until: Instant, step: impl Future<Output = pingora::Result<T>>) -> Result<T, Fault> {
    match timeout_at(until, step).await {
        Ok(done) => done.map_err(|error| tries::fault(error.etype())),
        Err(_elapsed) => Err(Fault::Timeout),
    }
}
