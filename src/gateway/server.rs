//! A server while it answers one request: the same for a request that is passed on and for a fetch.
//!
//! ```text
//! request ── sending ──►┐
//!                       ├── connection
//! answer ◄─ receiving ──┘
//!           head, chunks
//! ```
//!
//! Both ways move at the same time, so that an answer is heard while its request is still on its way. Who waits knows what
//! for, and may let go of it at any time, as nothing is lost then.

mod connecting;
pub mod chunks;
pub mod head;
mod receiving;
mod sending;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use tokio::time::{Instant, timeout_at};

use crate::exchange::{Asked, Exchange};
use crate::forward::hop;
use crate::refusal::{Fault, Refusal};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::{Client, Timeouts, tls};

use self::receiving::Receiving;
use self::sending::Sending;
use super::tries;

/// The most interim answers before the final one. Those who wait for a fetch may be slow, so they are held.
const INTERIM_MAX: usize = 32;

/// A connection to a server.
pub(super) struct Server {
    stream: Stream,
    peer: Box<HttpPeer>,
    endpoint: Arc<Endpoint>,
    request: Sending,
    method: Method,
    answer: Receiving,
    /// Whether it has answered other requests before.
    pub(super) reused: bool,
    /// How long each step may take.
    pub(super) timeouts: Timeouts,
    /// When the time for the whole exchange is over.
    pub(super) end: Option<Instant>,
    /// Whether the head of the answer has come.
    pub(super) answered: bool,
    interim: usize,
    /// Whether the server will answer another request.
    is_kept: bool,
}

/// What happens at a server.
pub(super) enum News {
    /// It took what it was sent, or never will.
    Taken,
    /// An interim head, or the final one.
    Head(Box<ResponseHeader>),
    /// A piece of the body; `None` at its end.
    Piece(Option<Bytes>),
}

impl Server {
    /// Connects to one server after the other, until there is a connection.
    pub(super) async fn connect(
        request: &RequestHeader,
        exchange: &mut Exchange,
        connector: &TransportConnector,
    ) -> Result<Self, Refusal> {
        loop {
            let peer = tries::next_server(request, exchange).await?;
            let Some(lease) = &exchange.tries.lease else { return Err(Refusal::Internal) };
            let endpoint = lease.server().clone();
            let client = exchange.asked.as_deref().and_then(|asked| client_of(asked, &endpoint));
            match connecting::connect(connector, &peer, &endpoint, client).await {
                Ok((stream, reused)) => return Self::new(stream, peer, endpoint, reused, exchange),
                Err(fault) => tries::not_connected(exchange, fault)?,
            }
        }
    }

    fn new(
        stream: Stream,
        peer: Box<HttpPeer>,
        endpoint: Arc<Endpoint>,
        reused: bool,
        exchange: &Exchange,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            stream,
            peer,
            endpoint,
            request: Sending::default(),
            method: Method::GET,
            answer: Receiving::new(),
            reused,
            timeouts: exchange.timeouts().ok_or(Refusal::Internal)?,
            end: exchange.time_left().map(|left| Instant::now() + left),
            answered: false,
            interim: 0,
            is_kept: false,
        })
    }

    // ── the request: what is left here to be sent goes out while somebody waits for news ────────────────────────

    /// Leaves the head to be sent.
    pub(super) fn send_head(&mut self, request: &RequestHeader) -> Result<(), Refusal> {
        self.method = request.method.clone();
        self.request.put_head(request)
    }

    /// Leaves a piece of the body to be sent, or of what follows a change of protocol.
    pub(super) fn send(&mut self, piece: Bytes) {
        self.request.put(piece);
    }

    /// Leaves the end of the body to be sent.
    pub(super) fn send_end(&mut self) {
        self.request.put_end();
    }

    /// Whether something waits to be sent.
    pub(super) fn is_busy(&self) -> bool {
        self.request.waits()
    }

    /// Whether it takes no more of the request.
    pub(super) fn is_stuck(&self) -> bool {
        self.request.stuck().is_some()
    }

    /// It has had its time to take what waits to be sent.
    pub(super) fn give_up_sending(&mut self) {
        self.request.give_up(Fault::Timeout);
    }

    /// Sends all that waits to be sent, within the time for it.
    async fn send_in_time(&mut self) {
        let until = self.until(self.timeouts.idle);
        let sent = poll_fn(|cx| self.request.poll_send(&mut self.stream, cx));
        if timeout_at(until, sent).await.is_err() {
            self.give_up_sending();
        }
    }

    // ── its answer ──────────────────────────────────────────────────────────────────────────────────────────────

    /// What happens next. `upgrades`: whether the request asks to change the protocol.
    pub(super) async fn news(&mut self, upgrades: bool) -> Result<News, Fault> {
        poll_fn(|cx| self.poll_news(upgrades, cx)).await
    }

    fn poll_news(&mut self, upgrades: bool, cx: &mut Context<'_>) -> Poll<Result<News, Fault>> {
        if self.request.waits() && self.request.poll_send(&mut self.stream, cx).is_ready() {
            return Poll::Ready(Ok(News::Taken));
        }
        if self.answered {
            self.poll_piece(cx).map_ok(News::Piece)
        } else {
            self.poll_head(upgrades, cx).map_ok(News::Head)
        }
    }

    /// The next head: an interim one, or the final one if it may be passed on.
    fn poll_head(
        &mut self,
        upgrades: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<ResponseHeader>, Fault>> {
        let head = ready!(self.answer.poll_head(&mut self.stream, cx));
        Poll::Ready(head.map_err(|fault| self.fault(fault)).and_then(|head| self.received(head, upgrades)))
    }

    fn received(
        &mut self,
        mut head: Box<ResponseHeader>,
        upgrades: bool,
    ) -> Result<Box<ResponseHeader>, Fault> {
        self.endpoint.is_heard();
        if is_interim(head.status) {
            self.interim += 1;
            hop::strip_response(&mut head);
            return if self.interim > INTERIM_MAX { Err(Fault::Invalid) } else { Ok(head) };
        }
        self.answered = true;
        self.answer.begin_body(&mut head, &self.method)?;
        self.is_kept = head::is_kept(&head);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.request.change_protocol();
        }
        if hop::is_sound(&head, upgrades) { Ok(head) } else { Err(Fault::Invalid) }
    }

    /// The next head, for who cannot change the protocol and has nothing more to send, within the time for it.
    pub(super) async fn head_in_time(&mut self) -> Result<Box<ResponseHeader>, Fault> {
        self.send_in_time().await;
        let until = self.until(self.timeouts.first_byte);
        let head = timeout_at(until, poll_fn(|cx| self.poll_head(false, cx))).await;
        head.unwrap_or_else(|_elapsed| Err(self.fault(Fault::Timeout)))
    }

    /// The next piece of the body, within the time for it.
    pub(super) async fn piece_in_time(&mut self) -> Result<Option<Bytes>, Fault> {
        let until = self.until(self.timeouts.idle);
        timeout_at(until, poll_fn(|cx| self.poll_piece(cx))).await.unwrap_or(Err(Fault::Timeout))
    }

    /// The next piece of the body; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let piece = self.answer.poll_piece(&mut self.stream, cx);
        piece.map_err(|fault| self.fault(fault))
    }

    /// That the server took no more of the request says more of a failure than how its answer ended.
    pub(super) fn fault(&self, fault: Fault) -> Fault {
        self.request.stuck().unwrap_or(fault)
    }

    /// Whether all of the answer has come.
    pub(super) fn is_done(&self) -> bool {
        self.answered && self.answer.is_done()
    }

    /// The fields behind the body, if there are any, once all of the answer has come.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.answer.take_trailers()
    }

    // ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The answer has come to its end. If nothing is left of it or of its request, and both sides will, the connection is free
    /// for the next one. Who does not get here closes it by letting go of it, which waits for nobody.
    pub(super) fn done(self, connector: &TransportConnector) {
        let is_kept = self.is_kept && !self.endpoint.way().is_for_one_client();
        if is_kept && self.request.is_done() && self.is_done() && !self.answer.has_more() {
            let keep = self.peer.options.idle_timeout;
            connector.release_stream(self.stream, self.peer.reuse_hash(), keep);
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

/// Whose request it is, for servers that are told so on the way.
fn client_of(asked: &Asked, server: &Endpoint) -> Option<Client> {
    // Of a client behind a proxy, only its address is known.
    let port = if asked.client == asked.peer { asked.peer_port } else { 0 };
    server.way().is_for_one_client().then(|| Client {
        from: SocketAddr::new(asked.client, port),
        to: SocketAddr::new(asked.local, asked.port),
    })
}

/// How a connection ended.
fn io_fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::Timeout,
        _ if tls::ended_by_tls(error) => Fault::Tls,
        _ => Fault::BrokeOff,
    }
}
