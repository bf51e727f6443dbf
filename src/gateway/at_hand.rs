//! The short way: answers that memory holds, and that their connection can send without a session.
//!
//! It takes the stages of the long way, in the same order but for one: limits are charged last, when it is certain that
//! the request will not be asked for again.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::RANGE;
use pingora::http::RequestHeader;

use crate::exchange::Exchange;
use crate::forward;
use crate::forward::compress::Choice;
use crate::limit::Moment;
use crate::listen::{BadHead, Connection, Ready, Sent};
use crate::plan::Action;
use crate::refusal::Refusal;
use crate::telemetry::Tier;

use super::record::Answered;
use super::serve::{Hit, Next};
use super::{Gateway, admit, answer, charge, deliver, identify, own_writes, prove, record, serve};

/// The answer to a request, if memory holds it; of a request that exceeds its limits, the refusal.
pub(super) fn answer(
    gateway: &Gateway,
    request: &RequestHeader,
    connection: &Connection,
) -> Option<(Ready, Exchange)> {
    if connection.redirects || wants_parts(request) || prove::is_asked(request.uri.path()) {
        return None;
    }
    let mut exchange = Exchange::begin(gateway.live.load_full(), &gateway.in_flight);
    exchange.asked = Some(Arc::new(admit::who_asks(request, Some(connection), &exchange.plan)));
    admit::understand(request, &mut exchange).ok()?;
    admit::check_connection(Some(connection), &exchange).ok()?;
    admit::find_route(request, &mut exchange).ok()?;
    admit::check_address(&exchange).ok()?;
    admit::check_client(&exchange).ok()?;
    identify::recall(request, &mut exchange)?;
    let sent = request;
    let request = &*identify::told(sent, &exchange);
    let forwards = exchange.route.as_ref().is_some_and(|route| matches!(route.action, Action::Forward(_)));
    if !forwards || forward::loops(request) || !serve::open(request, false, &mut exchange) {
        return None;
    }
    if own_writes::is_shown(request, &exchange) {
        return None;
    }
    let now = exchange.cache.as_ref()?.arrived;
    let Next::Serve(hit) = serve::look(request, &exchange, &gateway.fetching, now) else { return None };
    let choice = deliver::choice_at_hand(request, &exchange, &hit.stored)?;
    if ![Moment::Came, Moment::Known].into_iter().all(|moment| charge::is_ready(sent, &exchange, moment)) {
        return None;
    }
    let mut charged = |moment| {
        charge::charge_at_once(sent, &mut exchange, moment)?;
        charge::enter(sent, &mut exchange, moment)
    };
    let ready = match charged(Moment::Came).and_then(|()| charged(Moment::Known)) {
        Ok(()) => served(gateway, request, &mut exchange, &hit, choice, now)?,
        Err(refusal) => {
            exchange.cache = None; // on the long way it would not have been asked
            answer::written(request, &mut exchange, refusal)?
        }
    };
    identify::count_recalled(&exchange);
    Some((ready, exchange))
}

fn served(
    gateway: &Gateway,
    request: &RequestHeader,
    exchange: &mut Exchange,
    hit: &Hit,
    choice: Choice,
    now: SystemTime,
) -> Option<Ready> {
    if let Some(why) = hit.refresh {
        serve::refresh(request, exchange, &gateway.fetching, why);
    }
    exchange.cache.as_mut()?.hit(&hit.stored, Tier::Memory, hit.stale, now);
    deliver::at_hand(request, exchange, &hit.stored, choice, now)
}

/// The refusal of a head.
pub(super) fn refused(
    gateway: &Gateway,
    request: &RequestHeader,
    connection: &Connection,
    why: BadHead,
) -> Option<(Ready, Exchange)> {
    let mut exchange = Exchange::begin(gateway.live.load_full(), &gateway.in_flight);
    exchange.asked = Some(Arc::new(admit::who_asks(request, Some(connection), &exchange.plan)));
    let ready = answer::written(request, &mut exchange, Refusal::Head(why))?;
    Some((ready, exchange))
}

/// Whether a request is for several parts of an answer, which are not one piece.
fn wants_parts(request: &RequestHeader) -> bool {
    request.headers.get(RANGE).is_some_and(|range| range.as_bytes().contains(&b','))
}

/// The answer was sent: counts, and one line.
pub(super) fn sent(
    gateway: &Gateway,
    request: &RequestHeader,
    connection: &Connection,
    exchange: &Exchange,
    sent: Sent,
) {
    let answered = Answered::from(sent);
    record::count(&answered, exchange, &gateway.unrouted);
    if gateway.access.is_on() {
        gateway.access.write(record::line(request, Some(connection), &answered, exchange));
    }
}
