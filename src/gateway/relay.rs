//! A request that goes straight to a server, and its answer straight back.
//!
//! ```text
//!          ── a piece ──►          ── a piece ──►
//! client                 session                  server
//!          ◄── a piece ──          ◄── a piece ──
//! ```
//!
//! One loop moves both. A piece is asked for when the one before it was taken, so that no more than one of each direction is
//! held here, however slow a side is; a server that takes nothing is heard all the same. What its client sent so far is kept by
//! the session, up to a bound, for another try.

use std::pin::pin;

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::{Error, Result};
use tokio::time::{Instant, sleep_until};

use crate::cache::reuse::Failure;
use crate::exchange::Exchange;
use crate::forward::hop;
use crate::listen::Session;
use crate::refusal::{Fault, Refusal};
use crate::telemetry::WebsocketEnd;
use crate::upstream::Timeouts;

use super::fetch::{self, Fetching};
use super::server::{News, Sends, Server, before, is_interim};
use super::stand_in::StandIn;
use super::turn::Stop;
use super::{answer, deadline, encode, own_writes, past, refuse, trailers, tries, websocket};

/// Asks one server after the other, until the client has an answer.
pub(super) async fn relay(session: &mut Session, exchange: &mut Exchange, fetching: &Fetching) -> Result<()> {
    session.enable_retry_buffering();
    exchange.deadline = deadline::of(&session.req_header().headers);
    loop {
        exchange.body_bytes = 0; // what was sent is sent again, and counted again
        let server = match Server::connect(session, exchange, &fetching.connections).await {
            Ok(server) => server,
            Err(Stop::Refused(refusal)) => return refused(session, exchange, fetching, refusal).await,
            Err(Stop::Left(error)) => return Err(error),
        };
        let reused = server.reused;
        let relay = Relay { session, exchange, fetching, server, sent: false };
        let again = match relay.run().await {
            Ok(()) => return Ok(()),
            Err(Cut::Client(error)) => {
                websocket::ended(exchange, WebsocketEnd::Client);
                return Err(error);
            }
            Err(Cut::Inside(error)) => return Err(error),
            Err(Cut::Refused(refusal)) => Err(refusal),
            Err(Cut::Again) => Ok(()),
            Err(Cut::InPlace(stand_in)) => return stand_in.serve(session, exchange, fetching.tiers).await,
            Err(Cut::Server(fault)) => {
                websocket::ended(exchange, WebsocketEnd::Server);
                tries::broken(exchange, fault, reused, tries::is_repeatable(session, Some(fault)))
            }
        };
        if let Err(refusal) = again {
            return refused(session, exchange, fetching, refusal).await;
        }
    }
}

/// Ends with a "no", unless what is stored may be served in its place.
async fn refused(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Fetching,
    refusal: Refusal,
) -> Result<()> {
    match StandIn::of(session, exchange, fetching.tiers, fetch::failure(&refusal)) {
        Some(stand_in) => stand_in.serve(session, exchange, fetching.tiers).await,
        None => Err(refuse(exchange, refusal)),
    }
}

/// One try.
struct Relay<'a> {
    session: &'a mut Session,
    exchange: &'a mut Exchange,
    fetching: &'a Fetching,
    server: Server,
    /// Whether the client has nothing more to say.
    sent: bool,
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
    /// Its answer is a failure, for which there is something better.
    InPlace(StandIn),
}

/// What happens next.
enum Event {
    /// Nothing has, for too long.
    Overdue,
    Server(Result<News, Fault>),
    Client(Result<Option<Bytes>>),
}

impl Relay<'_> {
    async fn run(mut self) -> Result<(), Cut> {
        self.begin()?;
        let mut overdue = pin!(sleep_until(self.due()));
        let last = loop {
            overdue.as_mut().reset(self.due());
            let event = tokio::select! {
                biased;
                () = &mut overdue => Event::Overdue,
                event = self.event() => event,
            };
            let tasks = match event {
                Event::Overdue => {
                    self.overdue()?;
                    continue;
                }
                Event::Client(piece) => self.client_sent(piece)?,
                Event::Server(Ok(News::Taken)) => continue,
                Event::Server(Ok(News::Head(head))) => vec![self.head(*head).await?],
                Event::Server(Ok(News::Piece(piece))) => self.piece(piece)?,
                Event::Server(Err(fault)) => return Err(Cut::Server(fault)),
            };
            match tasks.last() {
                Some(last) if last.is_end() => break tasks,
                Some(_) => self.tell(tasks).await?,
                None => {}
            }
        };
        // The server is free, whatever its client still has to read. Its connection first, for the one whose turn comes.
        self.server.done(&self.fetching.connections);
        self.exchange.tries.end(true);
        self.session.response_duplex_vec(last).await.map(drop).map_err(Cut::Client)
    }

    async fn event(&mut self) -> Event {
        let idle = !self.wants_more();
        let is_last = self.sent || self.server.is_stuck();
        let news = self.server.news(self.exchange.upgrades);
        let piece = self.session.read_body_or_idle(idle);
        if is_last {
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

    /// Whether the client may say more.
    fn wants_more(&self) -> bool {
        !self.sent && !self.server.is_busy() && !self.server.is_stuck()
    }

    // ── the request ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Begins with the head, and what has come of the body before.
    fn begin(&mut self) -> Result<(), Cut> {
        let came = self.session.req_header();
        own_writes::before(came, self.exchange, self.fetching.tiers);
        let mut request = tries::to_send(came, self.exchange).map_err(Cut::Refused)?;
        deadline::write(&mut request, self.exchange).map_err(Cut::Refused)?;
        let wants_trailers = trailers::are_wanted(came);
        let sends = Sends { body: !self.session.is_body_empty(), wants_trailers };
        self.server.send_head(request, sends).map_err(Cut::Refused)?;
        if let Some(kept) = self.session.get_retry_buffer() {
            self.send(kept)?;
        }
        if self.session.is_body_done() {
            self.send_end();
        }
        Ok(())
    }

    /// The client said more of its request; after a change of protocol, the end of that is the end of all.
    fn client_sent(&mut self, piece: Result<Option<Bytes>>) -> Result<Vec<HttpTask>, Cut> {
        let piece = piece.map_err(|error| Cut::Client(error.into_down()))?;
        if piece.is_none() && self.exchange.changed_protocol {
            websocket::ended(self.exchange, WebsocketEnd::Client);
            return Ok(vec![HttpTask::Done]);
        }
        let end = piece.is_none() || self.session.is_body_done();
        self.send(piece.unwrap_or_default())?;
        if end {
            self.send_end();
        }
        Ok(Vec::new())
    }

    fn send(&mut self, piece: Bytes) -> Result<(), Cut> {
        self.exchange.body_bytes += piece.len() as u64;
        tries::within_bounds(self.exchange).map_err(Cut::Refused)?;
        self.server.send(piece);
        Ok(())
    }

    fn send_end(&mut self) {
        self.server.send_end(trailers::of_request(self.session, self.exchange));
        self.sent = true;
    }

    // ── its answer ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Settles the try by the head of its answer; what the answer changes is forgotten before the client hears of it.
    async fn head(&mut self, mut head: ResponseHeader) -> Result<HttpTask, Cut> {
        if is_interim(head.status) {
            self.exchange.tries.heard = true;
            return Ok(HttpTask::Header(Box::new(head), false));
        }
        let repeatable = tries::is_repeatable(self.session, None);
        if tries::answered(self.exchange, &head, repeatable) {
            return Err(Cut::Again);
        }
        let failure = Failure::Status(head.status);
        if let Some(stand_in) = StandIn::of(self.session, self.exchange, self.fetching.tiers, failure) {
            return Err(Cut::InPlace(stand_in));
        }
        if self.exchange.lasting {
            self.server.end = None;
        }
        hop::strip_response(&mut head);
        let marker =
            own_writes::outdate(self.session.req_header(), &head, self.exchange, self.fetching.tiers).await;
        past::answered(self.session.req_header(), &head, self.exchange, self.fetching);
        own_writes::give(self.session.req_header(), &mut head, self.exchange, marker);
        answer::finish(self.session, self.exchange, &mut head);
        if self.exchange.changed_protocol {
            websocket::opened(self.session, self.exchange);
            self.sent = false;
        }
        // What is put in a coding has an end, though it is empty.
        let end = self.server.is_done() && self.exchange.encoder.is_none();
        if end {
            past::copy(None, true, self.exchange, self.fetching);
        }
        Ok(HttpTask::Header(Box::new(head), end))
    }

    fn piece(&mut self, mut piece: Option<Bytes>) -> Result<Vec<HttpTask>, Cut> {
        let end = piece.is_none() || self.server.is_done();
        past::copy(piece.as_ref(), end, self.exchange, self.fetching);
        encode::pass(self.exchange, &mut piece, end).map_err(Cut::Inside)?;
        if !end {
            return Ok(vec![HttpTask::Body(piece, false)]);
        }
        websocket::ended(self.exchange, WebsocketEnd::Server);
        Ok(match self.server.take_trailers().and_then(trailers::to_pass_on) {
            Some(trailers) => vec![HttpTask::Body(piece, false), HttpTask::Trailer(Some(Box::new(trailers)))],
            None => vec![HttpTask::Body(piece, true)],
        })
    }

    /// Has the client take what is not the last of the answer: the time for the whole counts on.
    async fn tell(&mut self, tasks: Vec<HttpTask>) -> Result<(), Cut> {
        let told = before(self.server.end, self.session.response_duplex_vec(tasks)).await;
        let told = told.map_err(|fault| Cut::Refused(Refusal::Failed(fault)))?;
        told.map(drop).map_err(Cut::Client)
    }

    // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Until when something has to happen, as nothing does now.
    fn due(&self) -> Instant {
        let Timeouts { first_byte, idle, .. } = self.server.timeouts;
        self.server.until(if self.exchange.changed_protocol {
            websocket::idle(self.exchange)
        } else if self.server.answered || self.server.is_busy() {
            idle
        } else if self.wants_more() {
            first_byte.max(idle) // the server may have to wait for more of the request
        } else {
            first_byte
        })
    }

    /// Nothing has happened for too long.
    fn overdue(&mut self) -> Result<(), Cut> {
        tries::given_up(self.exchange, Fault::Timeout).map_err(Cut::Refused)?;
        let answered = self.server.answered;
        let uploads = self.wants_more() && !self.exchange.changed_protocol;
        let is_over = self.server.is_over();
        if is_over && (answered || uploads) {
            return Err(Cut::Refused(Refusal::Failed(Fault::Timeout)));
        }
        if uploads && !answered {
            // The server waits for the rest of the request as we do: nothing is said of it.
            self.exchange.tries.lease = None;
            return Err(Cut::Refused(Refusal::BodyStalled));
        }
        if self.exchange.lasting {
            self.exchange.tries.lease = None; // silence is what lasts, and no failure
            websocket::ended(self.exchange, WebsocketEnd::Idle);
            return Err(Cut::Refused(Refusal::Failed(Fault::Timeout)));
        }
        if !answered && !is_over && self.server.is_busy() {
            self.server.give_up_sending(); // it may answer all the same
            return Ok(());
        }
        Err(Cut::Server(self.server.fault(Fault::Timeout)))
    }
}
