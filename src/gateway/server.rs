//! A server while it answers one request: the same for a request that is passed on and for a fetch, and whatever version of
//! HTTP is spoken to it.
//!
//! ```text
//! connections ── h1   a connection of its own
//!             └─ h2   a stream, on a connection with others
//!
//! request ──►┐
//!            ├── line
//! answer ◄───┘
//! ```
//!
//! Both ways move at the same time, so that an answer is heard while its request is still on its way. Who waits knows what
//! for, and may let go of it at any time, as nothing is lost then.

mod connections;
mod connecting;
mod idle;
mod line;
pub mod h1;
mod h2;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use tokio::time::{Instant, timeout_at};

use crate::exchange::{Asked, Exchange};
use crate::forward::hop;
use crate::refusal::{Fault, Refusal};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::{Client, Timeouts};

pub use self::connections::Connections;
use self::h1::Http1;
use self::h2::Http2;
use self::line::Line;
pub(super) use self::line::Sends;
use super::tries;
use super::turn::{Stop, Waiting};

/// The most interim answers before the final one. Those who wait for a fetch may be slow, so they are held.
const INTERIM_MAX: usize = 32;

/// The way to a server.
pub(super) struct Server {
    way: Way,
    endpoint: Arc<Endpoint>,
    /// Whether its connection has answered other requests before.
    pub(super) reused: bool,
    /// How long each step may take.
    pub(super) timeouts: Timeouts,
    /// When the time for the whole exchange is over.
    pub(super) end: Option<Instant>,
    /// Whether the head of the answer has come.
    pub(super) answered: bool,
    interim: usize,
}

/// How it is spoken to.
enum Way {
    Http1(Http1),
    Http2(Http2),
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
    /// Connects to one server after the other, until there is a way.
    pub(super) async fn connect<W: Waiting + ?Sized>(
        waiting: &mut W,
        exchange: &mut Exchange,
        connections: &Connections,
    ) -> Result<Self, Stop<W::Left>> {
        loop {
            let peer = tries::next_server(waiting, exchange).await?;
            let Some(lease) = &exchange.tries.lease else { return Err(Refusal::Internal.into()) };
            let endpoint = lease.server().clone();
            let client = exchange.asked.as_deref().and_then(|asked| client_of(asked, &endpoint));
            match connections.way(peer, &endpoint, client, exchange.upgrades).await {
                Ok((way, reused)) => return Ok(Self::new(way, endpoint, reused, exchange)?),
                Err(fault) => tries::not_connected(exchange, fault)?,
            }
        }
    }

    fn new(way: Way, endpoint: Arc<Endpoint>, reused: bool, exchange: &Exchange) -> Result<Self, Refusal> {
        Ok(Self {
            way,
            endpoint,
            reused,
            timeouts: exchange.timeouts().ok_or(Refusal::Internal)?,
            end: exchange.time_left().map(|left| Instant::now() + left),
            answered: false,
            interim: 0,
        })
    }

    fn line(&self) -> &dyn Line {
        match &self.way {
            Way::Http1(line) => line,
            Way::Http2(line) => line,
        }
    }

    fn line_mut(&mut self) -> &mut dyn Line {
        match &mut self.way {
            Way::Http1(line) => line,
            Way::Http2(line) => line,
        }
    }

    // ── the request: what is left here to be sent goes out while somebody waits for news ────────────────────────

    /// Leaves the head to be sent.
    pub(super) fn send_head(&mut self, request: RequestHeader, sends: Sends) -> Result<(), Refusal> {
        self.line_mut().send_head(request, sends)
    }

    /// Leaves a piece of the body to be sent, or of what follows a change of protocol.
    pub(super) fn send(&mut self, piece: Bytes) {
        self.line_mut().send(piece);
    }

    /// Leaves the end of the body to be sent, with the fields behind it.
    pub(super) fn send_end(&mut self, trailers: Option<HeaderMap>) {
        self.line_mut().send_end(trailers);
    }

    /// Whether something waits to be sent.
    pub(super) fn is_busy(&self) -> bool {
        self.line().is_busy()
    }

    /// Whether it takes no more of the request.
    pub(super) fn is_stuck(&self) -> bool {
        self.line().is_stuck()
    }

    /// It has had its time to take what waits to be sent.
    pub(super) fn give_up_sending(&mut self) {
        self.line_mut().give_up_sending();
    }

    /// Sends all that waits to be sent, within the time for it.
    async fn send_in_time(&mut self) {
        let until = self.until(self.timeouts.idle);
        let sent = poll_fn(|cx| self.line_mut().poll_send(cx));
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
        if self.is_busy() && self.line_mut().poll_send(cx).is_ready() {
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
        let head = ready!(self.line_mut().poll_head(cx));
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
        self.line_mut().begin_body(&mut head)?;
        if hop::is_sound(&head, upgrades) { Ok(head) } else { Err(Fault::Invalid) }
    }

    /// The next head, for who cannot change the protocol and has nothing more to send, within the time for it.
    pub(super) async fn head_in_time(&mut self) -> Result<Box<ResponseHeader>, Fault> {
        self.send_in_time().await;
        let until = self.until(self.timeouts.first_byte);
        let head = timeout_at(until, poll_fn(|cx| self.poll_head(false, cx))).await;
        head.unwrap_or_else(|_elapsed| Err(self.fault(Fault::Timeout)))
    }

    /// The next piece of the body, within the time for it; none after the time for the whole, though it is there.
    pub(super) async fn piece_in_time(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.is_over() {
            return Err(Fault::Timeout);
        }
        let until = self.until(self.timeouts.idle);
        timeout_at(until, poll_fn(|cx| self.poll_piece(cx))).await.unwrap_or(Err(Fault::Timeout))
    }

    /// The next piece of the body; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let piece = self.line_mut().poll_piece(cx);
        piece.map_err(|fault| self.fault(fault))
    }

    /// What a failure is to be called, with what else is known.
    pub(super) fn fault(&self, fault: Fault) -> Fault {
        self.line().fault(fault)
    }

    /// Whether all of the answer has come.
    pub(super) fn is_done(&self) -> bool {
        self.answered && self.line().is_done()
    }

    /// The fields behind the body, if there are any, once all of the answer has come.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.line_mut().take_trailers()
    }

    // ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The answer has come to its end: the connection is free for the next request, if it can be. Who does not get here lets go
    /// of it, which waits for nobody: that closes a connection of HTTP/1, and resets a stream of HTTP/2 that is not over.
    pub(super) fn done(self, connections: &Connections) {
        match self.way {
            Way::Http1(line) => line.done(connections),
            Way::Http2(line) => drop(line),
        }
    }

    /// Whether the time for the whole exchange is over.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some_and(|end| end <= Instant::now())
    }

    /// The end of a step that begins now and takes so long at most.
    pub(super) fn until(&self, most: Duration) -> Instant {
        let until = Instant::now() + most;
        self.end.map_or(until, |end| end.min(until))
    }
}

/// What comes of this, unless the time for the whole exchange is over before.
pub(super) async fn before<T>(end: Option<Instant>, outcome: impl Future<Output = T>) -> Result<T, Fault> {
    match end {
        None => Ok(outcome.await),
        Some(end) => timeout_at(end, outcome).await.map_err(|_elapsed| Fault::Timeout),
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
