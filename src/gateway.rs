//! One request, top to bottom.
//!
//! What memory holds is sent by the connection itself, the short way ([`AtOnce`]). For every other request the methods
//! of [`ProxyHttp`] stand in the order in which it meets them; each is a few lines that name the stage which does the
//! work. What a stage refuses, [`Refusal`] answers.

mod at_hand;
mod admit;
mod answer;
mod serve;
mod conclude;
mod share;
mod renew;
mod fetch;
mod settle;
mod confirm;
mod tally;
mod deliver;
mod encode;
mod past;
mod place;
mod claims;
mod by_url;
mod purge;
mod prove;
mod tries;
mod websocket;
mod affinity;
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use prometheus_client::metrics::gauge::Gauge;

use crate::exchange::Exchange;
use crate::forward::hop;
use crate::listen::{self, AtOnce, BadHead, Connection, Edge, Ready, Sent, head};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::telemetry::access::AccessLog;
use crate::telemetry::{RouteMeters, WebsocketEnd};

use record::Answered;

pub use by_url::ByUrl;
pub use fetch::Fetching;

/// The gateway: what all requests share.
#[derive(Clone)]
pub struct Gateway {
    /// The rules in force; a request keeps those that it began with.
    pub live: Arc<ArcSwap<Plan>>,
    /// Where answers are kept, and what is being fetched. Outlives every plan.
    pub fetching: Arc<Fetching>,
    /// How many requests are here.
    pub in_flight: Gauge,
    /// The metrics of requests that found no route.
    pub unrouted: Arc<RouteMeters>,
    /// One line per request.
    pub access: Arc<AccessLog>,
    /// Who knows what is to be proved to certification authorities.
    pub edge: Arc<Edge>,
    /// The port that plain HTTP is redirected to.
    pub https_port: Arc<AtomicU16>,
}

/// The short way.
impl AtOnce for Gateway {
    type Exchange = Exchange;

    /// Plays the stages up to the look into the store; what is there is the answer.
    fn at_once(&self, request: &RequestHeader, connection: &Connection) -> Option<(Ready, Exchange)> {
        at_hand::answer(self, request, connection)
    }

    /// The "no" to a head that breaks the rules.
    fn refused(
        &self,
        request: &RequestHeader,
        connection: &Connection,
        why: BadHead,
    ) -> Option<(Ready, Exchange)> {
        at_hand::refused(self, request, connection, why)
    }

    /// Counts, and one line.
    fn sent(&self, request: &RequestHeader, connection: &Connection, exchange: Exchange, sent: Sent) {
        at_hand::sent(self, request, connection, &exchange, sent);
    }
}

/// The long way.
#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    // ── a request begins ────────────────────────────────────────────────────────────────────────────────────────

    /// Pins the plan and reads the clock.
    fn new_ctx(&self) -> Exchange {
        Exchange::begin(self.live.load_full(), &self.in_flight)
    }

    /// Refuses what could be read in two ways, before anything else looks at it.
    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        admit::open(session, exchange);
        head::check(session, exchange.plan.bounds.head()).map_err(|bad| refuse(exchange, Refusal::Head(bad)))
    }

    /// Admits the request: host, path, route, limits, size. Answers it where that needs no upstream, and from the cache
    /// or by way of it where its route has one; what is left goes straight to an upstream.
    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if let Err(refusal) = admit::understand(session.req_header(), exchange) {
            return answer::refusal(session, exchange, refusal).await;
        }
        if prove::prove(session, exchange, &self.edge).await? {
            return Ok(true);
        }
        if let Err(refusal) = admit::check_connection(listen::connection(session), exchange) {
            return answer::refusal(session, exchange, refusal).await;
        }
        if listen::connection(session).is_some_and(|connection| connection.redirects) {
            return answer::to_https(session, exchange, self.https_port.load(Ordering::Relaxed)).await;
        }
        if purge::purge(session, exchange, self.fetching.tiers).await? {
            return Ok(true);
        }
        if let Err(refusal) = admit::admit(session.req_header(), exchange) {
            return answer::refusal(session, exchange, refusal).await;
        }
        if answer::at_once(session, exchange).await? {
            return Ok(true);
        }
        affinity::take(session.req_header_mut(), exchange);
        serve::serve(session, exchange, &self.fetching).await
    }

    // ── the upstream ────────────────────────────────────────────────────────────────────────────────────────────

    /// Chooses a server, for the first try and for each that follows.
    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        exchange.body_bytes = 0; // what was sent is sent again, and counted again
        let peer = tries::next_server(session.req_header(), exchange).await;
        let mut peer = peer.map_err(|refusal| refuse(exchange, refusal))?;
        websocket::bound_word(session, exchange, &mut peer);
        Ok(peer)
    }

    /// No connection: perhaps another server.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        exchange: &mut Exchange,
        error: Box<Error>,
    ) -> Box<Error> {
        tries::not_connected(exchange, error)
    }

    /// Writes the request as the server is to see it.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        tries::pass_on(session.req_header(), request, exchange).map_err(|refusal| refuse(exchange, refusal))
    }

    /// Counts the body against the route's bound, and the time against the exchange's.
    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        // An empty frame that ends an HTTP/2 body would end the chunks twice: once as data, once as the end.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        if end {
            websocket::ended(exchange, WebsocketEnd::Client);
        }
        exchange.body_bytes += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        tries::within_bounds(exchange).map_err(|refusal| refuse(exchange, refusal))
    }

    /// Settles the try by the answer's status; what the answer changes is forgotten before the client hears of it.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        tries::sound(exchange, answer)?;
        tries::answered(session, exchange, answer)?;
        hop::strip_response(answer);
        place::invalidate(session.req_header(), answer, exchange, self.fetching.tiers);
        past::answered(session.req_header(), answer, exchange, &self.fetching);
        Ok(())
    }

    /// Holds the answer to the time for the whole; at its end the server is free, whatever its client still has to read.
    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        tries::within_bounds(exchange).map_err(|refusal| refuse(exchange, refusal))?;
        past::copy(body.as_ref(), end, exchange, &self.fetching);
        if end {
            exchange.tries.end(true);
            websocket::ended(exchange, WebsocketEnd::Server);
        }
        Ok(None)
    }

    /// The server failed in mid-exchange: perhaps another.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        tries::broken(session, exchange, error, reused)
    }

    // ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Fields on the way out.
    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        answer::finish(session, exchange, answer);
        Ok(())
    }

    /// Compresses the body, where its client takes that.
    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        encode::pass(exchange, body, end)?;
        Ok(None)
    }

    /// What is left of a compressed body comes before the trailers.
    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<Option<Bytes>> {
        Ok(Some(encode::finish(exchange)?).filter(|rest| !rest.is_empty()))
    }

    /// Went wrong: the client is told, if it still can be.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let error_code = answer::failure(session, error, exchange).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    // ── a request ends ──────────────────────────────────────────────────────────────────────────────────────────

    /// Counts, and one line.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.tries.end(error.is_none());
        if let Some(error) = error {
            websocket::failed(exchange, error);
        }
        let answered = Answered::of(session, error);
        record::count(&answered, exchange, &self.unrouted);
        if self.access.is_on() {
            let connection = listen::connection(session);
            self.access.write(record::line(session.req_header(), connection, &answered, exchange));
        }
        admit::close(session);
    }

    /// The access line says it all; Pingora's own would say it again, once for each client that goes away.
    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    /// No modules: there is nothing here that a request does not need.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}
}

/// Ends the exchange with a "no", which `fail_to_proxy` will answer.
fn refuse(exchange: &mut Exchange, refusal: Refusal) -> Box<Error> {
    let status = refusal.reason().status.as_u16();
    let error = Error::explain(ErrorType::HTTPStatus(status), refusal.reason().code);
    exchange.refusal = Some(refusal);
    error.into_in()
}
