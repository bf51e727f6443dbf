//! A request's way through the cache: what is stored, else a fetch that others may share, else past it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, header};
use pingora::Result;
use pingora::proxy::Session;

use crate::cache::flight::{Follower, Joined, Lane, News, Pilot, Verdict};
use crate::cache::range;
use crate::cache::reuse::{self, Reuse, Why};
use crate::cache::status::Forwarded;
use crate::cache::stored::Stored;
use crate::cache::{Asking, Pass, Went};
use crate::exchange::Exchange;
use crate::refusal::Refusal;
use crate::telemetry::{Background, StaleReason, Tier};

use super::conclude::{After, Came, conclude};
use super::fetch::{Errand, Fetching, Tale};
use super::{answer, deliver, place};

/// How long a request waits for another's fetch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a request looks again when what it waited for did not suit it.
const ROUNDS: usize = 3;

/// Answers a request from the cache, or by way of it; `false` if it is to go past.
pub(super) async fn serve(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Arc<Fetching>,
) -> Result<bool> {
    if !open(session, exchange) {
        return Ok(false);
    }
    for _ in 0..ROUNDS {
        let next = look(session, exchange, fetching);
        let next = match next {
            Next::Serve(stored, tier, stale) => {
                return deliver::stored(session, exchange, &stored, tier, stale).await;
            }
            Next::Past(pass, why) => {
                past(exchange, fetching, pass, why);
                return Ok(false);
            }
            Next::Fetch(wanted) => fetch(session, exchange, fetching, wanted).await?,
        };
        match next {
            After::Answered => return Ok(true),
            After::Past(pass, why) => {
                past(exchange, fetching, pass, why);
                return Ok(false);
            }
            After::Again => {}
        }
    }
    past(exchange, fetching, Pass::NotShared, Forwarded::VaryMiss);
    Ok(false)
}

/// Opens the cache to the request, where its route has one and it does not ask to pass.
fn open(session: &mut Session, exchange: &mut Exchange) -> bool {
    let (Some(route), Some(asked)) = (&exchange.route, &exchange.asked) else { return false };
    let Some(rules) = &route.cache else { return false };
    let has_content = !session.as_mut().is_body_empty();
    let request = session.req_header();
    let key = place::key_of(rules, request, asked);
    let mut asking = Asking::new(rules, key, request);
    if exchange.plan.cache.status_key {
        asking.label = Some(place::label_of(rules, request, asked));
    }
    let asking = exchange.cache.insert(asking);
    !asking.passes(request, has_content)
}

fn past(exchange: &mut Exchange, fetching: &Fetching, pass: Pass, why: Forwarded) {
    if let Some(asking) = &mut exchange.cache {
        asking.stamp = fetching.tiers.purges.stamp();
        asking.went = Went::Past { pass, why, status: None, not_kept: None };
    }
}

/// What a look into the store leads to.
enum Next {
    Serve(Arc<Stored>, Tier, Option<StaleReason>),
    Past(Pass, Forwarded),
    Fetch(Wanted),
}

/// A fetch that is wanted.
struct Wanted {
    why: Forwarded,
    /// What is stored for this request, stale or in need of validation.
    stored: Option<Arc<Stored>>,
    /// Whether others may share it.
    alone: bool,
}

fn look(session: &Session, exchange: &Exchange, fetching: &Arc<Fetching>) -> Next {
    let Some(asking) = &exchange.cache else { return Next::Past(Pass::NotShared, Forwarded::Bypass) };
    let request = session.req_header();
    let now = SystemTime::now();
    let found = fetching.tiers.find(asking, &request.headers);
    let is_head = request.method == Method::HEAD;
    let Some(found) = found.suits else {
        let why = found.why;
        return if is_head {
            Next::Past(Pass::Head, why)
        } else if fetching.tiers.unstored.has(&asking.key, asking.authorized) {
            Next::Past(Pass::Unstored, Forwarded::Bypass)
        } else {
            Next::Fetch(Wanted { why, stored: None, alone: is_alone(asking, session) })
        };
    };
    let stored = found.stored;
    let reuse = reuse::reuse(&asking.directives, &stored.terms, found.soft, asking.arrived, now);
    let why = match reuse {
        Reuse::Validate(Why::Request) => Forwarded::Request,
        Reuse::Validate(_) => Forwarded::Stale,
        _ if !range::holds(&request.method, &request.headers, &stored) => Forwarded::Partial,
        _ if asking.rules.observe => Forwarded::Bypass,
        Reuse::Serve => {
            refresh_ahead(session, exchange, fetching, &stored, now);
            return Next::Serve(stored, Tier::Memory, None);
        }
        Reuse::ServeStale => return Next::Serve(stored, Tier::Memory, Some(StaleReason::Client)),
        Reuse::ServeStaleAndRefresh => {
            refresh(session, exchange, fetching, Background::Stale);
            return Next::Serve(stored, Tier::Memory, Some(StaleReason::WhileRevalidate));
        }
    };
    if is_head {
        return Next::Past(Pass::Head, why);
    }
    let alone = is_alone(asking, session) || stored.terms.validate_always;
    Next::Fetch(Wanted { why, stored: Some(stored), alone })
}

/// Whether the answer to this request is for it alone: for part of an answer, for one that must be newer than any
/// that is under way, and where the cache only observes.
fn is_alone(asking: &Asking, session: &Session) -> bool {
    asking.rules.observe
        || asking.directives.no_cache
        || asking.directives.max_age.or_stale() == Some(0)
        || session.req_header().headers.contains_key(header::RANGE)
}

/// Fetches an answer in the background, while a stale one is served.
fn refresh(session: &Session, exchange: &Exchange, fetching: &Arc<Fetching>, why: Background) {
    let (Some(asking), Some(route)) = (&exchange.cache, &exchange.route) else { return };
    let lane = lane(asking, session, fetching);
    if let Some(pilot) = fetching.flights.begin(lane, fetching.tiers.purges.stamp())
        && let Some(errand) = Errand::background(session, exchange, fetching, pilot, why)
    {
        route.meters.cache.background(why);
        errand.spawn();
    }
}

/// Now and then fetches an answer before it is stale, the likelier the nearer that is.
fn refresh_ahead(
    session: &Session,
    exchange: &Exchange,
    fetching: &Arc<Fetching>,
    stored: &Stored,
    now: SystemTime,
) {
    let Some(ahead) = exchange.cache.as_ref().and_then(|asking| asking.rules.refresh_ahead) else { return };
    let lifetime = stored.terms.fresh_until.duration_since(stored.terms.born).unwrap_or_default();
    let left = stored.terms.fresh_until.duration_since(now).unwrap_or_default();
    if lifetime > ahead && left < ahead.mul_f64(fastrand::f64()) {
        refresh(session, exchange, fetching, Background::Ahead);
    }
}

/// Which requests may share this one's fetch.
fn lane(asking: &Asking, session: &Session, fetching: &Arc<Fetching>) -> Lane {
    let kind = fetching.tiers.kind(asking, &session.req_header().headers);
    Lane { key: asking.key, kind }
}

/// Joins a fetch or leads one, and answers with what came of it.
async fn fetch(
    session: &mut Session,
    exchange: &mut Exchange,
    fetching: &Arc<Fetching>,
    wanted: Wanted,
) -> Result<After> {
    let Some(asking) = &mut exchange.cache else { return Ok(After::Again) };
    if asking.directives.only_if_cached {
        asking.went = Went::OnlyIfCached;
        answer::refusal(session, exchange, Refusal::NotCached).await?;
        return Ok(After::Answered);
    }
    let stamp = fetching.tiers.purges.stamp();
    let mut follower = if wanted.alone {
        let (pilot, follower) = fetching.flights.alone(stamp);
        send_out(session, exchange, fetching, pilot);
        follower
    } else {
        let lane = lane(asking, session, fetching);
        let tiers = &fetching.tiers;
        match fetching.flights.join(lane, stamp, |flight| tiers.is_overtaken(&lane.key, flight)) {
            Joined::Follow(follower) => follower,
            Joined::Lead(pilot, follower) => {
                send_out(session, exchange, fetching, pilot);
                follower
            }
        }
    };
    let Some((verdict, tale)) = wait(session, &mut follower).await? else {
        return Ok(After::Past(Pass::WaitedTooLong, wanted.why));
    };
    if let Some(tale) = &tale {
        tale.tell(exchange, follower.leads());
    }
    let came = Came { why: wanted.why, stored: wanted.stored, verdict, tale, follower };
    conclude(session, exchange, fetching.tiers, came).await
}

/// Without an errand the pilot is lost here, and the fetch has failed.
fn send_out(session: &Session, exchange: &Exchange, fetching: &Arc<Fetching>, pilot: Pilot<Tale>) {
    if let Some(errand) = Errand::foreground(session, exchange, fetching, pilot) {
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
