//! A request's way through the cache: what is stored, else a fetch that others may share, else past it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, header};
use pingora::Result;
use pingora::http::RequestHeader;

use crate::auth::Proof;
use crate::cache::flight::{Began, Flight, Follower, Joined, Lane, News, PATIENCE, Pilot, Verdict};
use crate::cache::range;
use crate::cache::reuse::{self, Failure, Reuse, Why};
use crate::cache::status::Forwarded;
use crate::cache::stored::Stored;
use crate::cache::{Asking, Pass, Tiers, Went};
use crate::exchange::{Asked, Exchange};
use crate::listen::Session;
use crate::plan::Route;
use crate::refusal::Refusal;
use crate::telemetry::{Background, StaleReason, Tier};

use super::conclude::{After, Came, conclude, may_stand_in};
use super::fetch::{Errand, Fetching, Tale};
use super::share::Shared;
use super::{answer, deliver, identify, own_writes, place};

/// How often a request looks again when what it waited for did not suit it.
const ROUNDS: usize = 3;

/// Answers a request from the cache, or by way of it; `false` if it is to go past.
pub(super) async fn serve(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Arc<Fetching>,
) -> Result<bool> {
    let has_content = !session.is_body_empty();
    if !open(session.req_header(), has_content, exchange) {
        // A method that is not for the cache has an answer of its own to get.
        let stored_alone = wants_stored(exchange) && is_read(&session.req_header().method);
        return if stored_alone { not_stored(session, exchange).await } else { Ok(false) };
    }
    let (mut last, mut known) = (Pass::NotShared, None);
    for _ in 0..ROUNDS {
        own_writes::judge(exchange, fetching.tiers);
        let next = match look(session.req_header(), exchange, fetching, SystemTime::now()) {
            Next::Serve(Hit { stored, stale, refresh }) => {
                if let Some(why) = refresh {
                    self::refresh(session.req_header(), exchange, fetching, why);
                }
                return deliver::stored(session, exchange, fetching.tiers, &stored, Tier::Memory, stale)
                    .await;
            }
            _ if wants_stored(exchange) => return only_if_cached(session, exchange, fetching).await,
            Next::Head { why, stored } => return head(session, exchange, fetching, why, stored).await,
            Next::Past(pass, why) => {
                past(exchange, fetching, pass, why);
                return Ok(false);
            }
            Next::Fetch(wanted) => fetch(session, exchange, fetching, wanted, known.take()).await?,
        };
        match next {
            After::Answered => return Ok(true),
            After::Past(pass, why) => {
                past(exchange, fetching, pass, why);
                return Ok(false);
            }
            After::Again { pass, came } => (last, known) = (pass, came),
        }
    }
    past(exchange, fetching, last, Forwarded::VaryMiss);
    Ok(false)
}

/// Opens the cache to the request, where its route has one and it does not ask to pass.
pub(super) fn open(request: &RequestHeader, has_content: bool, exchange: &mut Exchange) -> bool {
    let (Some(route), Some(asked)) = (&exchange.route, &exchange.asked) else { return false };
    let Some(rules) = &route.cache else { return false };
    let key = place::key_of(rules, request, asked);
    let mut asking = Asking::new(rules, key, request);
    asking.authorized = is_for_one(request, route, asked, &asking);
    if exchange.plan.cache.status_key {
        asking.label = Some(place::label_of(rules, request, asked));
    }
    let asking = exchange.cache.insert(asking);
    !asking.passes(request, has_content)
}

/// Whether the answer is for the caller alone, unless it says otherwise (§3.5): the request says who it is, well or badly, and
/// the key does not.
fn is_for_one(request: &RequestHeader, route: &Route, asked: &Asked, asking: &Asking) -> bool {
    let authorization = asking.heeded.authorization();
    let by_key = asking.rules.key_caller
        // Of a caller that has shown something else, `Authorization` may say more.
        && asked.caller.as_ref().is_some_and(|caller| *caller.proof() == Proof::Token || !authorization);
    let door =
        || route.door.as_ref().is_some_and(|door| door.is_shown(&identify::credentials(request, asked)));
    !by_key && (authorization || asked.caller.is_some() || door())
}

/// Whether the client wants no answer but a stored one (§5.2.1.7).
fn wants_stored(exchange: &Exchange) -> bool {
    exchange.cache.as_ref().is_some_and(|asking| asking.directives.only_if_cached)
}

/// Answers such a client with what the fleet has stored, if this node has nothing for it.
async fn only_if_cached(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Arc<Fetching>,
) -> Result<bool> {
    match ask_fleet(session.req_header(), exchange, fetching).await {
        Some(Shared::Serves(stored)) => {
            deliver::stored(session, exchange, fetching.tiers, &stored, Tier::Redis, None).await
        }
        Some(Shared::Stale(_)) | None => not_stored(session, exchange).await,
    }
}

/// A HEAD that memory does not serve is answered from what the fleet has stored; else it goes past, and what is stale is
/// there to stand in.
async fn head(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Arc<Fetching>,
    why: Forwarded,
    stored: Option<Arc<Stored>>,
) -> Result<bool> {
    let in_reserve = match ask_fleet(session.req_header(), exchange, fetching).await {
        Some(Shared::Serves(stored)) => {
            return deliver::stored(session, exchange, fetching.tiers, &stored, Tier::Redis, None).await;
        }
        Some(Shared::Stale(newer)) => Some(newer),
        None => stored,
    };
    past(exchange, fetching, Pass::Head, why);
    if let Some(asking) = &mut exchange.cache {
        asking.in_reserve = in_reserve;
    }
    Ok(false)
}

/// Looks for what the fleet has stored for a request that does not make a fetch for the store.
fn ask_fleet(
    request: &RequestHeader,
    exchange: &Exchange,
    fetching: &Arc<Fetching>,
) -> impl Future<Output = Option<Shared>> + use<> {
    let (pilot, _nobody) = fetching.flights.alone(stands(fetching));
    let errand = Errand::foreground(request, exchange, fetching, pilot);
    async move { errand?.ask_fleet_alone().await }
}

async fn not_stored(session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    if let Some(asking) = &mut exchange.cache {
        asking.went = Went::OnlyIfCached;
    }
    answer::refusal(session, exchange, Refusal::NotCached).await?;
    Ok(true)
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn past(exchange: &mut Exchange, fetching: &Fetching, pass: Pass, why: Forwarded) {
    if let Some(asking) = &mut exchange.cache {
        asking.stamp = fetching.tiers.purges.stamp();
        asking.went = Went::Past { pass, why, status: None, not_kept: None };
    }
}

/// What a look into the store leads to.
pub(super) enum Next {
    Serve(Hit),
    Past(Pass, Forwarded),
    /// A HEAD that nothing in memory serves: from what the fleet has, or past; what is stored may stand in for its answer.
    Head {
        why: Forwarded,
        stored: Option<Arc<Stored>>,
    },
    Fetch(Wanted),
}

/// An answer that memory holds and that may be served.
pub(super) struct Hit {
    pub(super) stored: Arc<Stored>,
    /// Why it may be served though it is stale.
    pub(super) stale: Option<StaleReason>,
    /// Why a newer one is to be fetched meanwhile.
    pub(super) refresh: Option<Background>,
}

/// A fetch that is wanted.
pub(super) struct Wanted {
    why: Forwarded,
    /// What is stored for this request, stale or in need of validation.
    stored: Option<Arc<Stored>>,
    /// Whether others may share it.
    alone: bool,
    /// Whether what is stored would serve, but for what its client wrote.
    skips: bool,
}

/// Looks whether memory holds an answer that serves this request now. Changes nothing.
pub(super) fn look(
    request: &RequestHeader,
    exchange: &Exchange,
    fetching: &Fetching,
    now: SystemTime,
) -> Next {
    let Some(asking) = &exchange.cache else { return Next::Past(Pass::NotShared, Forwarded::Bypass) };
    let found = fetching.tiers.find(asking, &request.headers);
    let is_head = request.method == Method::HEAD;
    let Some(found) = found.suits else {
        let why = found.why;
        let unstored = fetching.tiers.unstored.has(&asking.key, asking.authorized);
        return if is_head && unstored {
            Next::Past(Pass::Head, why)
        } else if is_head {
            Next::Head { why, stored: None }
        } else if unstored {
            Next::Past(Pass::Unstored, Forwarded::Bypass)
        } else {
            Next::Fetch(Wanted { why, stored: None, alone: is_alone(asking, request), skips: false })
        };
    };
    let stored = found.stored;
    let reuse = reuse::reuse(&asking.directives, &stored.terms, found.soft, asking.arrived, now);
    let skips = !matches!(reuse, Reuse::Validate(_)) && !asking.includes(&stored);
    let why = match reuse {
        Reuse::Validate(Why::Request) => Forwarded::Request,
        _ if skips => Forwarded::Request,
        Reuse::Validate(_) => Forwarded::Stale,
        _ if !range::holds(&request.method, &request.headers, &stored) => Forwarded::Partial,
        _ if asking.rules.observe => Forwarded::Bypass,
        Reuse::Serve => {
            let refresh = is_due_ahead(asking, &stored, now).then_some(Background::Ahead);
            return Next::Serve(Hit { stored, stale: None, refresh });
        }
        Reuse::ServeStale => {
            return Next::Serve(Hit { stored, stale: Some(StaleReason::Client), refresh: None });
        }
        Reuse::ServeStaleAndRefresh => {
            let (stale, refresh) = (Some(StaleReason::WhileRevalidate), Some(Background::Stale));
            return Next::Serve(Hit { stored, stale, refresh });
        }
    };
    if is_head {
        return Next::Head { why, stored: Some(stored) };
    }
    let alone = is_alone(asking, request) || !stored.terms.is_reusable();
    Next::Fetch(Wanted { why, stored: Some(stored), alone, skips })
}

/// Whether the answer to this request is for it alone: for part of an answer, for one that must be newer than any
/// that is under way, and where the cache only observes. What needs validation at each use is, too.
fn is_alone(asking: &Asking, request: &RequestHeader) -> bool {
    asking.rules.observe
        || asking.directives.no_cache
        || asking.directives.max_age.or_stale() == Some(0)
        || request.headers.contains_key(header::RANGE)
}

/// Fetches an answer in the background, while what is stored is served.
pub(super) fn refresh(
    request: &RequestHeader,
    exchange: &Exchange,
    fetching: &Arc<Fetching>,
    why: Background,
) {
    let (Some(asking), Some(route)) = (&exchange.cache, &exchange.route) else { return };
    let lane = lane(asking, request, fetching, None);
    if let Some(pilot) = fetching.flights.begin(lane, stands(fetching))
        && let Some(errand) = Errand::background(request, exchange, fetching, pilot, why)
    {
        route.meters.cache.background(why);
        errand.spawn();
    }
}

/// Whether an answer is to be fetched before it is stale: now and then, the likelier the nearer that is.
fn is_due_ahead(asking: &Asking, stored: &Stored, now: SystemTime) -> bool {
    let Some(ahead) = asking.rules.refresh_ahead else { return false };
    let lifetime = stored.terms.fresh_until.duration_since(stored.terms.born).unwrap_or_default();
    let left = stored.terms.fresh_until.duration_since(now).unwrap_or_default();
    lifetime > ahead && left < ahead.mul_f64(fastrand::f64())
}

/// Which requests may share this one's fetch; `known`: an answer of the URL that did not suit this one.
fn lane(asking: &Asking, request: &RequestHeader, fetching: &Arc<Fetching>, known: Option<&Stored>) -> Lane {
    let kind = fetching.tiers.kind(asking, &request.headers, known);
    Lane { key: asking.key, kind }
}

/// Joins a fetch or leads one, and answers with what came of it.
async fn fetch(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Arc<Fetching>,
    wanted: Wanted,
    known: Option<Arc<Stored>>,
) -> Result<After> {
    if let Some(asking) = exchange.cache.as_mut().filter(|_| wanted.skips) {
        asking.skipped = true;
        fetching.tiers.own_writes.skipped.inc();
    }
    let Some(asking) = &exchange.cache else { return Ok(After::again(Pass::NotShared)) };
    let began = stands(fetching);
    let mut follower = if wanted.alone {
        let (pilot, follower) = fetching.flights.alone(began);
        send_out(session.req_header(), exchange, fetching, pilot);
        follower
    } else {
        let lane = lane(asking, session.req_header(), fetching, known.as_deref());
        let tiers = &fetching.tiers;
        let now = SystemTime::now();
        let overtaken =
            |flight: &Flight<Tale>| flight.seen < asking.after || tiers.is_overtaken(&lane.key, flight, now);
        match fetching.flights.join(lane, began, overtaken) {
            Joined::Follow(follower) => follower,
            Joined::Lead(pilot, follower) => {
                send_out(session.req_header(), exchange, fetching, pilot);
                follower
            }
        }
    };
    let Some((verdict, tale)) = wait(session, &mut follower).await? else {
        return waited(session, exchange, fetching.tiers, wanted).await;
    };
    if let Some(tale) = &tale {
        tale.tell(exchange, follower.leads());
    }
    let came = Came { why: wanted.why, stored: wanted.stored, verdict, tale, follower };
    conclude(session, exchange, fetching.tiers, came).await
}

/// Another's fetch takes too long: what is stored may stand in for it. Else there will be another fetch, of which those
/// who have waited are the first.
async fn waited(
    session: &mut Session,
    exchange: &mut Exchange,
    tiers: &Tiers,
    wanted: Wanted,
) -> Result<After> {
    let again = Ok(After::again(Pass::WaitedTooLong));
    let (Some(asking), Some(stored)) = (&mut exchange.cache, wanted.stored) else { return again };
    if !may_stand_in(session, asking, tiers, &stored, Failure::TimedOut) {
        return again;
    }
    asking.stood_in(&stored, wanted.why, None, StaleReason::Error, true);
    deliver::in_place(session, exchange, tiers, &stored).await?;
    Ok(After::Answered)
}

/// Where a fetch stands that begins now: in the order of writes first, so that what is heard meanwhile is no harm.
fn stands(fetching: &Fetching) -> Began {
    let seen = fetching.tiers.writes.heard();
    Began { stamp: fetching.tiers.purges.stamp(), seen }
}

/// Without an errand the pilot is lost here, and the fetch has failed.
fn send_out(request: &RequestHeader, exchange: &Exchange, fetching: &Arc<Fetching>, pilot: Pilot<Tale>) {
    if let Some(errand) = Errand::foreground(request, exchange, fetching, pilot) {
        errand.spawn();
    }
}

/// Waits for what comes of a fetch; interim answers go to the client as they come. `None`: it took too long.
async fn wait(
    session: &mut Session,
    follower: &mut Follower<Tale>,
) -> Result<Option<(Verdict, Option<Tale>)>> {
    // Who leads waits for as long as the upstream's bounds let it.
    let patience = if follower.leads() { Duration::MAX } else { PATIENCE };
    loop {
        match tokio::time::timeout(patience, follower.news()).await {
            Err(_elapsed) => return Ok(None),
            Ok(News::Verdict(verdict, tale)) => return Ok(Some((verdict, tale))),
            Ok(News::Interim(head)) => {
                if session.req_header().version >= http::Version::HTTP_11 {
                    session.write_response_header(Box::new((*head).clone()), false).await?;
                }
            }
        }
    }
}
