//! A request that goes straight to a server, and its answer straight back.
//!
//! ```text
//!          ── a piece ──►          ── a piece ──►
//! client                 session                  server
//!          ◄── a piece ──          ◄── a piece ──
//! ```
//!
//! One loop moves both. A piece is asked for when the one before it was taken, so that no more than one of each direction is
//! held here, however slow a side is. What its client sent so far is kept by the session, up to a bound, for another try.

use std::pin::pin;

use bytes::Bytes;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::{Error, Result};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::exchange::Exchange;
use crate::forward::hop;
use crate::listen::Session;
use crate::refusal::{Fault, Refusal};
use crate::telemetry::WebsocketEnd;
use crate::upstream::Timeouts;

use super::fetch::Fetching;
use super::server::{News, Server, is_interim};
use super::{answer, encode, past, place, refuse, tries, websocket};

/// Asks one server after the other, until the client has an answer.
pub(super) async fn relay(session: &mut Session, exchange: &mut Exchange, fetching: &Fetching) -> Result<()> {
    session.enable_retry_buffering();
    loop {
        exchange.body_bytes = 0; // what was sent is sent again, and counted again
        let server = Server::connect(exchange, &fetching.connector).await;
        let server = server.map_err(|refusal| refuse(exchange, refusal))?;
        let reused = server.reused;
        let relay = Relay { session, exchange, fetching, server, sending: Sending::Body };
        let again = match relay.run().await {
            Ok(()) => return Ok(()),
            Err(Cut::Client(error)) => {
                websocket::ended(exchange, WebsocketEnd::Client);
                return Err(error);
            }
            Err(Cut::Inside(error)) => return Err(error),
            Err(Cut::Refused(refusal)) => Err(refusal),
            Err(Cut::Again) => Ok(()),
            Err(Cut::Server(fault)) => {
                websocket::ended(exchange, WebsocketEnd::Server);
                tries::broken(exchange, fault, reused, tries::is_repeatable(session))
            }
        };
        again.map_err(|refusal| refuse(exchange, refusal))?;
    }
}

/// One try.
struct Relay<'a> {
    session: &'a mut Session,
    exchange: &'a mut Exchange,
    fetching: &'a Fetching,
    server: Server,
    sending: Sending,
}

/// How far the request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// The client has more to say.
    Body,
    /// All of it was sent.
    Done,
    /// The server takes no more of it; it may answer all the same.
    Stuck(Fault),
}

/// Why a try ended before its answer did.
enum Cut {
    /// The gateway ends the exchange.
    Refused(Refusal),
    /// The client does.
    Client(Box<Error>),
    /// The gateway cannot go on.
    Inside(Box<Error>),
    /// The server failed.
    Server(Fault),
    /// Its answer is worth another try.
    Again,
}

/// What happens next.
enum Event {
    Server(Result<News, Fault>),
    Client(Result<Option<Bytes>>),
}

impl Relay<'_> {
    async fn run(mut self) -> Result<(), Cut> {
        self.send_head().await?;
        let mut overdue = pin!(sleep_until(self.due()));
        let last = loop {
            overdue.as_mut().reset(self.due());
            let event = tokio::select! {
                biased;
                () = &mut overdue => return Err(self.overdue()),
                event = self.event() => event,
            };
            let task = match event {
                Event::Client(piece) => self.sent(piece).await?,
                Event::Server(Ok(News::Head(head))) => Some(self.head(*head)?),
                Event::Server(Ok(News::Piece(piece))) => Some(self.piece(piece)?),
                Event::Server(Err(fault)) => return Err(self.failed(fault)),
            };
            match task {
                Some(task) if task.is_end() => break task,
                Some(task) => self.tell(task).await?,
                None => {}
            }
        };
        // The server is free, whatever its client still has to read.
        self.exchange.tries.end(true);
        self.server.done(&self.fetching.connector).await;
        self.session.response_duplex_vec(vec![last]).await.map(drop).map_err(Cut::Client)
    }

    async fn event(&mut self) -> Event {
        let idle = self.sending != Sending::Body;
        let news = self.server.news(self.exchange.upgrades);
        let piece = self.session.read_body_or_idle(idle);
        if idle {
            // The client is asked last: that sends what was written to it, as there is nothing more to go with it.
            tokio::select! {
                biased;
                news = news => Event::Server(news),
                piece = piece => Event::Client(piece),
            }
        } else {
            // Who always has something more to say does not keep the other from being heard.
            tokio::select! {
                news = news => Event::Server(news),
                piece = piece => Event::Client(piece),
            }
        }
    }

    // ── the request ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends the head, and what has come of the body before.
    async fn send_head(&mut self) -> Result<(), Cut> {
        let request = self.request().map_err(Cut::Refused)?;
        self.server.send_head(request).await.map_err(Cut::Server)?;
        if let Some(kept) = self.session.get_retry_buffer() {
            self.send(kept).await?;
        }
        if self.session.is_body_done() {
            self.send_end().await;
        }
        Ok(())
    }

    /// The head as the server is to see it.
    fn request(&mut self) -> Result<RequestHeader, Refusal> {
        let mut request = tries::to_send(self.session.req_header(), self.exchange)?;
        if !self.session.is_body_empty() && !request.headers.contains_key(header::CONTENT_LENGTH) {
            let chunked = request.insert_header(header::TRANSFER_ENCODING, "chunked");
            chunked.map_err(|_| Refusal::Internal)?;
        }
        Ok(request)
    }

    /// The client said more of its request; after a change of protocol, the end of that is the end of all.
    async fn sent(&mut self, piece: Result<Option<Bytes>>) -> Result<Option<HttpTask>, Cut> {
        let piece = piece.map_err(|error| Cut::Client(error.into_down()))?;
        if piece.is_none() && self.exchange.changed_protocol {
            websocket::ended(self.exchange, WebsocketEnd::Client);
            return Ok(Some(HttpTask::Done));
        }
        // Trailers may follow the end of a body; nobody is told of them.
        let end = piece.is_none() || self.session.is_body_done();
        self.send(piece.unwrap_or_default()).await?;
        if end {
            self.send_end().await;
        }
        Ok(None)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), Cut> {
        self.exchange.body_bytes += piece.len() as u64;
        tries::within_bounds(self.exchange).map_err(Cut::Refused)?;
        if let Err(fault) = self.server.send(piece).await {
            self.sending = Sending::Stuck(fault);
        }
        Ok(())
    }

    async fn send_end(&mut self) {
        if self.sending == Sending::Body {
            self.sending = match self.server.send_end().await {
                Ok(()) => Sending::Done,
                Err(fault) => Sending::Stuck(fault),
            };
        }
    }

    // ── its answer ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Settles the try by the head of its answer; what the answer changes is forgotten before the client hears of it.
    fn head(&mut self, mut head: ResponseHeader) -> Result<HttpTask, Cut> {
        if is_interim(head.status) {
            return Ok(HttpTask::Header(Box::new(head), false));
        }
        let repeatable = tries::is_repeatable(self.session);
        if tries::answered(self.exchange, &head, repeatable) {
            return Err(Cut::Again);
        }
        if self.exchange.lasting {
            self.server.end = None;
        }
        hop::strip_response(&mut head);
        place::invalidate(self.session.req_header(), &head, self.exchange, self.fetching.tiers);
        past::answered(self.session.req_header(), &head, self.exchange, self.fetching);
        answer::finish(self.session, self.exchange, &mut head);
        if self.exchange.changed_protocol {
            websocket::opened(self.session, self.exchange);
            self.sending = Sending::Body;
        }
        // What is put in a coding has an end, though it is empty.
        let end = self.server.is_done() && self.exchange.encoder.is_none();
        if end {
            past::copy(None, true, self.exchange, self.fetching);
        }
        Ok(HttpTask::Header(Box::new(head), end))
    }

    fn piece(&mut self, mut piece: Option<Bytes>) -> Result<HttpTask, Cut> {
        let end = piece.is_none() || self.server.is_done();
        past::copy(piece.as_ref(), end, self.exchange, self.fetching);
        encode::pass(self.exchange, &mut piece, end).map_err(Cut::Inside)?;
        if end {
            websocket::ended(self.exchange, WebsocketEnd::Server);
        }
        Ok(HttpTask::Body(piece, end))
    }

    /// Has the client take what is not the last of the answer: the time for the whole counts on.
    async fn tell(&mut self, task: HttpTask) -> Result<(), Cut> {
        let told = self.session.response_duplex_vec(vec![task]);
        let told = match self.server.end {
            None => told.await,
            Some(end) => match timeout_at(end, told).await {
                Ok(told) => told,
                Err(_elapsed) => return Err(Cut::Refused(Refusal::Failed(Fault::Timeout))),
            },
        };
        told.map(drop).map_err(Cut::Client)
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Until when something has to happen, as nothing does now.
    fn due(&self) -> Instant {
        let Timeouts { first_byte, idle, .. } = self.server.timeouts;
        self.server.until(match self.sending {
            _ if self.exchange.changed_protocol => websocket::idle(self.exchange),
            _ if self.server.answered => idle,
            // The server may have to wait for more of the request.
            Sending::Body => first_byte.max(idle),
            Sending::Done | Sending::Stuck(_) => first_byte,
        })
    }

    /// Nothing has happened for too long.
    fn overdue(&mut self) -> Cut {
        let answered = self.server.answered;
        let uploads = self.sending == Sending::Body && !self.exchange.changed_protocol;
        let is_over = self.server.end.is_some_and(|end| end <= Instant::now());
        if is_over && (answered || uploads) {
            return Cut::Refused(Refusal::Failed(Fault::Timeout));
        }
        if uploads && !answered {
            // The server waits for the rest of the request as we do: nothing is said of it.
            self.exchange.tries.lease = None;
            return Cut::Refused(Refusal::BodyStalled);
        }
        if self.exchange.lasting {
            self.exchange.tries.lease = None; // silence is what lasts, and no failure
            websocket::ended(self.exchange, WebsocketEnd::Idle);
            return Cut::Refused(Refusal::Failed(Fault::Timeout));
        }
        self.failed(Fault::Timeout)
    }

    /// That the server took no more of the request says more of a failure than how its answer ended.
    fn failed(&self, fault: Fault) -> Cut {
        match self.sending {
            Sending::Stuck(before) => Cut::Server(before),
            Sending::Body | Sending::Done => Cut::Server(fault),
        }
    }
}
