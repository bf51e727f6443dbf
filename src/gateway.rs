//! One request, top to bottom.
//!
//! What memory holds is sent by the connection itself, the short way ([`AtOnce`]). Every other request is a [`Session`], and
//! [`Gateway::answer`] names the stages in the order in which it meets them. What a stage refuses, [`Refusal`] answers.

mod at_hand;
mod admit;
mod identify;
mod charge;
mod answer;
mod beforehand;
mod serve;
mod conclude;
mod relay;
mod share;
mod renew;
mod fetch;
pub mod server;
mod trailers;
mod deadline;
mod settle;
mod confirm;
mod tally;
mod deliver;
mod encode;
mod past;
mod stand_in;
mod place;
mod claims;
mod by_url;
mod purge;
mod prove;
mod turn;
mod tries;
mod websocket;
mod affinity;
mod own_writes;
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType, Result};
use prometheus_client::metrics::gauge::Gauge;

use crate::exchange::Exchange;
use crate::limit::Moment;
use crate::listen::{self, AtOnce, BadHead, Connection, Edge, Ready, Sent, Session, head};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::telemetry::RouteMeters;
use crate::telemetry::access::AccessLog;

use record::Answered;

pub use by_url::ByUrl;
pub use fetch::Fetching;
pub use server::Connections;

/// The gateway: what all requests share.
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
impl HttpServerApp for Gateway {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // Connections have sessions of their own, and nothing of Pingora's to give back.
        if let ServerSession::Custom(mut session) = session {
            self.request(&mut *session).await;
        }
        None
    }
}

impl Gateway {
    /// One request, from its head to its line in the log.
    async fn request(&self, session: &mut Session) {
        let mut exchange = Exchange::begin(self.live.load_full(), &self.in_flight);
        let outcome = match self.answer(session, &mut exchange).await {
            Ok(()) => session.finish().await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            answer::failure(session, error, &mut exchange).await;
        }
        exchange.tries.end(outcome.is_ok());
        exchange.seats.clear();
        self.record(session, outcome.err().as_deref(), &exchange);
    }

    /// Pins down what is asked for, may it come in, and answers it: by itself, from the cache or by way of it, or from a
    /// server. An error is what is still to be told, if the client can be told at all.
    async fn answer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        admit::open(session, exchange);
        // What could be read in two ways is refused before anything else looks at it.
        let checked = head::check(session, exchange.plan.bounds.head());
        checked.map_err(|bad| refuse(exchange, Refusal::Head(bad)))?;
        if let Err(refusal) = admit::understand(session.req_header(), exchange) {
            return answer::refusal(session, exchange, refusal).await;
        }
        if prove::prove(session, exchange, &self.edge).await? {
            return Ok(());
        }
        let connection = listen::connection(session);
        if let Err(refusal) = admit::check_connection(connection, exchange) {
            return answer::refusal(session, exchange, refusal).await;
        }
        if connection.is_some_and(|connection| connection.redirects) {
            return answer::to_https(session, exchange, self.https_port.load(Ordering::Relaxed)).await;
        }
        if purge::purge(session, exchange, self.fetching.tiers).await? {
            return Ok(());
        }
        if beforehand::answer(session, exchange).await? {
            return Ok(());
        }
        if let Err(refusal) = admit::admit(session.req_header(), exchange).await {
            return answer::refusal(session, exchange, refusal).await;
        }
        identify::tell(session.req_header_mut(), exchange);
        if answer::at_once(session, exchange).await? {
            return Ok(());
        }
        affinity::take(session.req_header_mut(), exchange);
        own_writes::take(session.req_header_mut(), exchange, self.fetching.tiers);
        if serve::serve(session, exchange, &self.fetching).await? {
            return Ok(());
        }
        if let Err(refusal) = charge::charge(session.req_header(), exchange, Moment::Fetched).await {
            return answer::refusal(session, exchange, refusal).await;
        }
        relay::relay(session, exchange, &self.fetching).await
    }

    /// Counts, and one line.
    fn record(&self, session: &Session, error: Option<&Error>, exchange: &Exchange) {
        let answered = Answered::of(session, error);
        record::count(&answered, exchange, &self.unrouted);
        if self.access.is_on() {
            let connection = listen::connection(session);
            self.access.write(record::line(session.req_header(), connection, &answered, exchange));
        }
        admit::close(session);
    }
}

/// Ends the exchange with a "no", which [`answer::failure`] will tell.
fn refuse(exchange: &mut Exchange, refusal: Refusal) -> Box<Error> {
    let status = refusal.reason().status.as_u16();
    let error = Error::explain(ErrorType::HTTPStatus(status), refusal.reason().code);
    let is_of_server = matches!(refusal, Refusal::Failed(_));
    exchange.refusal = Some(refusal);
    if is_of_server { error.into_up() } else { error.into_in() }
}
