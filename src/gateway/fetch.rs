//! A fetch from the origin: a task of its own, whoever waits for it.
//!
//! It looks where the fleet keeps its answers, tries servers as any request does, and writes what comes into a
//! [`Pilot`]; what becomes of an answer is decided in [`settle`](super::settle).

use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, header};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::conditional;
use crate::cache::directives::RequestDirectives;
use crate::cache::flight::{Flights, From, Pilot, Verdict};
use crate::cache::freshness::Times;
use crate::cache::policy::NotKept;
use crate::cache::reuse;
use crate::cache::stored::{Body, Key, Stamp, Stored};
use crate::cache::{Rules, Tiers, range};
use crate::exchange::{Exchange, Tries};
use crate::limit::{Moment, Standing};
use crate::refusal::{Fault, Refusal};
use crate::telemetry::Background;

use super::renew::Held;
use super::server::{Connections, Sends, Server, is_interim};
use super::turn::Stop;
use super::{affinity, charge, own_writes, place, settle, share, tally, tries};

/// What all fetches share.
pub struct Fetching {
    /// Where answers are kept.
    pub tiers: &'static Tiers,
    /// The fetches under way.
    pub flights: Arc<Flights<Tale>>,
    /// Connections to servers.
    pub connections: Connections,
    /// A share of it is held by each fetch that is under way.
    pub under_way: Arc<()>,
}

/// What a fetch has to tell of its journey, for access lines and refusals.
#[derive(Clone, Debug)]
pub struct Tale {
    /// Why there is no answer.
    pub refusal: Option<Refusal>,
    /// With what status the origin answered.
    pub status: Option<u16>,
    /// Whether the answer is stored, and why not.
    pub kept: Result<(), NotKept>,
    /// How the client that it was made for stands with the limits that count fetches.
    pub standing: Option<Standing>,
    /// What was stored for its request, here or in the fleet: it may stand in where the origin fails.
    pub stored: Option<Arc<Stored>>,
    pub(super) journey: Arc<Tries>,
}

impl Tale {
    /// How the fetch failed, as far as stale answers are concerned.
    pub fn failure(&self) -> reuse::Failure {
        self.refusal.as_ref().map_or(reuse::Failure::BrokeOff, failure)
    }

    /// Tells the exchange which way its answer came; the tries count for the request that caused the fetch.
    pub fn tell(&self, exchange: &mut Exchange, leads: bool) {
        exchange.tries.upstream.clone_from(&self.journey.upstream);
        if leads {
            if let Some(standing) = &self.standing {
                exchange.standing = Some(standing.clone().or_tighter(exchange.standing.take()));
            }
            exchange.tries.server.clone_from(&self.journey.server);
            exchange.tries.tried.clone_from(&self.journey.tried);
            exchange.tries.waited = self.journey.waited;
            exchange.tries.fault = self.journey.fault;
            // What is stored is for all, this client included: nobody is brought to the server that it came from.
            exchange.tries.cookie = self.journey.cookie.clone().filter(|_| self.kept.is_err());
        }
    }
}

/// How the origin failed where there is this to say instead, as far as stale answers are concerned.
pub(super) fn failure(refusal: &Refusal) -> reuse::Failure {
    match refusal {
        Refusal::Failed(Fault::Unreachable | Fault::ConnectTimeout | Fault::Tls | Fault::Certificate)
        | Refusal::NoServer(_)
        | Refusal::Saturated(_) => reuse::Failure::Unreachable,
        Refusal::Failed(Fault::Timeout) => reuse::Failure::TimedOut,
        _ => reuse::Failure::BrokeOff,
    }
}

/// One fetch that is to be made.
pub(super) struct Errand {
    pub(super) fetching: Arc<Fetching>,
    /// Of its own: the plan, the route and the client of the request that caused it, and tries.
    pub(super) exchange: Exchange,
    /// The request as its client sent it.
    pub(super) request: RequestHeader,
    pub(super) rules: Arc<Rules>,
    pub(super) key: Key,
    pub(super) url: place::Named,
    pub(super) authorized: bool,
    /// Of which kind its request is, as far as this node knows ([`Tiers::kind`]).
    pub(super) kind: u64,
    pub(super) pilot: Pilot<Tale>,
    /// What the request says of answers that it would take, and when it came.
    pub(super) asked: RequestDirectives,
    pub(super) arrived: SystemTime,
    /// Whether what is stored is fresh still.
    pub(super) ahead: bool,
    /// Whether it is charged to a client, which waits for it.
    pub(super) charged: bool,
    /// The right to fetch for all nodes.
    pub(super) lease: Option<Held>,
    /// When the request went to the origin.
    pub(super) sent: SystemTime,
    /// Up to where in the order of writes its answer has all of them.
    pub(super) seen: Stamp,
    /// Up to where what serves its client must have.
    pub(super) after: Stamp,
    /// What is stored of its URL and may be confirmed: of what suits it, only answers with all the bytes it wants.
    pub(super) candidates: Vec<Arc<Stored>>,
    /// What is stored of its answer in parts.
    pub(super) in_part: Option<Arc<Stored>>,
}

impl Errand {
    /// For a client that waits.
    pub(super) fn foreground(
        request: &RequestHeader,
        exchange: &Exchange,
        fetching: &Arc<Fetching>,
        pilot: Pilot<Tale>,
    ) -> Option<Self> {
        Self::of(request.clone(), exchange, fetching, pilot)
    }

    /// For the store alone: the whole answer, whatever its client asked of it.
    pub(super) fn background(
        request: &RequestHeader,
        exchange: &Exchange,
        fetching: &Arc<Fetching>,
        pilot: Pilot<Tale>,
        why: Background,
    ) -> Option<Self> {
        let mut request = request.clone();
        request.set_method(Method::GET);
        request.remove_header(&header::RANGE);
        request.remove_header(&header::IF_RANGE);
        // An `only-if-cached` would have a cache upstream fail, and the failure stored for all.
        request.remove_header(&header::CACHE_CONTROL);
        request.remove_header(&header::PRAGMA);
        let errand = Self::of(request, exchange, fetching, pilot)?;
        Some(Self {
            ahead: matches!(why, Background::Ahead),
            charged: false,
            after: Stamp::default(),
            ..errand
        })
    }

    fn of(
        mut request: RequestHeader,
        exchange: &Exchange,
        fetching: &Arc<Fetching>,
        pilot: Pilot<Tale>,
    ) -> Option<Self> {
        let (asking, asked) = (exchange.cache.as_ref()?, exchange.asked.as_ref()?);
        let mut own = exchange.fork();
        // Done already, but for an answer that was at hand and is refreshed behind it.
        affinity::take(&mut request, &mut own);
        Some(Self {
            exchange: own,
            url: place::url_of(&asking.rules, &request, asked),
            rules: asking.rules.clone(),
            asked: RequestDirectives::of(&request.headers),
            arrived: asking.arrived,
            ahead: false,
            charged: true,
            lease: None,
            key: asking.key,
            authorized: asking.authorized,
            kind: pilot.kind().unwrap_or_else(|| fetching.tiers.kind(asking, &request.headers, None)),
            candidates: Vec::new(),
            in_part: None,
            sent: SystemTime::now(),
            seen: Stamp::default(),
            after: asking.after,
            request,
            fetching: fetching.clone(),
            pilot,
        })
    }

    /// Makes the fetch, in a task of its own.
    pub(super) fn spawn(self) {
        let under_way = self.fetching.under_way.clone();
        tokio::spawn(async move {
            self.run().await;
            drop(under_way);
        });
    }

    async fn run(mut self) {
        self.find_candidates();
        if let Some(stored) = self.ask_fleet().await {
            return self.pilot.settle(Verdict::Stored(stored, From::Redis), None);
        }
        if let Err(refusal) = self.charge().await {
            return self.fail(refusal).await;
        }
        loop {
            match self.ask().await {
                Ok(answer) => match Box::pin(settle::settle(self, answer)).await {
                    Some(again) => self = again,
                    None => return,
                },
                Err(refusal) => {
                    tally::asked_after(&self, None);
                    return self.fail(refusal).await;
                }
            }
        }
    }

    /// Charges the fetch to its client, now that the fleet has nothing for it either.
    async fn charge(&mut self) -> Result<(), Refusal> {
        if !self.charged {
            return Ok(());
        }
        charge::charge(&self.request, &mut self.exchange, Moment::Fetched).await
    }

    async fn fail(mut self, refusal: Refusal) {
        let tale = Tale { refusal: Some(refusal), ..self.tale() };
        self.pilot.settle(Verdict::Failed, Some(tale));
        share::give_up(self.fetching.tiers, &self.key, self.lease, None).await;
    }

    pub(super) fn find_candidates(&mut self) {
        self.candidates = self.fetching.tiers.candidates(&self.key);
        self.in_part = self.candidates.iter().find(|stored| self.suits(stored) && !is_whole(stored)).cloned();
        let request = &self.request;
        self.candidates.retain(|stored| range::holds(&request.method, &request.headers, stored));
    }

    /// The tale so far.
    pub(super) fn tale(&mut self) -> Tale {
        let stored = self.selected().map(|at| self.candidates[at].clone());
        let journey = Arc::new(self.exchange.tries.report());
        let standing = self.exchange.standing.clone();
        Tale { refusal: None, status: None, kept: Ok(()), standing, stored, journey }
    }

    /// Where it stands in the orders of purges and of writes.
    pub(super) fn stood(&self) -> (Stamp, Stamp) {
        (self.pilot.stamp(), self.seen)
    }

    /// The largest body that is stored, in bytes.
    pub(super) fn size_max(&self) -> u64 {
        self.rules.max_object.min(self.fetching.tiers.largest())
    }

    /// The times of an exchange whose answer is there now.
    pub(super) fn times(&self) -> Times {
        Times { asked: self.sent, answered: SystemTime::now() }
    }

    /// Asks one server after the other, until the head of an answer is there that is worth passing on.
    async fn ask(&mut self) -> Result<Answer, Refusal> {
        loop {
            let connections = &self.fetching.connections;
            let server = Server::connect(&mut self.request, &mut self.exchange, connections).await;
            let mut server = server.map_err(|stop| match stop {
                Stop::Refused(refusal) => refusal,
                Stop::Left(never) => match never {},
            })?;
            match self.exchange_heads(&mut server).await {
                Ok(head) if tries::answered(&mut self.exchange, &head, true) => {}
                Ok(head) => {
                    if self.exchange.lasting {
                        server.end = None;
                    }
                    return Ok(Answer { head: *head, server });
                }
                Err(Broken::Refused(refusal)) => return Err(refusal),
                Err(Broken::Off(fault)) => tries::broken(&mut self.exchange, fault, server.reused, true)?,
            }
        }
    }

    /// Sends the request and reads the head of its answer.
    async fn exchange_heads(&mut self, server: &mut Server) -> Result<Box<ResponseHeader>, Broken> {
        self.seen = own_writes::ask_for_newest(&self.request, &mut self.exchange, self.fetching.tiers);
        let request = self.to_send().map_err(Broken::Refused)?;
        self.sent = SystemTime::now();
        server.send_head(request, Sends::default()).map_err(Broken::Refused)?;
        server.send_end(None);
        loop {
            let head = server.head_in_time().await.map_err(Broken::Off)?;
            if !is_interim(head.status) {
                return Ok(head);
            }
            self.exchange.tries.heard = true;
            self.pilot.interim(*head);
        }
    }

    /// The request as the server is to see it.
    fn to_send(&self) -> Result<RequestHeader, Refusal> {
        let mut request = tries::to_send(&self.request, &self.exchange)?;
        for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::CONTENT_LENGTH] {
            request.remove_header(&name);
        }
        // A part is asked for as its client does, for which its bytes of a stored whole may be confirmed instead; a whole
        // is confirmed where something is stored (§4.3.1).
        if !self.is_ranged() {
            request.remove_header(&header::IF_RANGE);
        }
        if !self.is_ranged() || self.selected().is_some() {
            let variants = self.candidates.iter().map(|stored| &stored.headers);
            let validators =
                conditional::validators(self.selected().map(|at| &self.candidates[at].headers), variants);
            let fields = [
                (header::IF_NONE_MATCH, validators.if_none_match),
                (header::IF_MODIFIED_SINCE, validators.if_modified_since),
            ];
            for (name, value) in fields {
                if let Some(value) = value {
                    request.insert_header(name, value).map_err(|_| Refusal::Internal)?;
                }
            }
        }
        Ok(request)
    }

    /// Which of the candidates suits the request.
    pub(super) fn selected(&self) -> Option<usize> {
        self.candidates.iter().position(|stored| self.suits(stored))
    }

    /// Whether a stored answer is one for this request.
    pub(super) fn suits(&self, stored: &Stored) -> bool {
        (!self.authorized || stored.terms.for_authorized) && stored.selecting.matches(&self.request.headers)
    }

    /// Whether a part is asked for.
    pub(super) fn is_ranged(&self) -> bool {
        self.request.headers.contains_key(header::RANGE)
    }
}

fn is_whole(stored: &Stored) -> bool {
    matches!(stored.body, Body::Whole(_))
}

/// Why there is no head of an answer.
enum Broken {
    Refused(Refusal),
    Off(Fault),
}

/// The head of an answer, and the server that its body comes from.
pub(super) struct Answer {
    pub(super) head: ResponseHeader,
    pub(super) server: Server,
}
