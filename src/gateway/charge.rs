//! Requests are charged to the limits of their routes, each at its moment.

use std::borrow::Cow;

use pingora::http::RequestHeader;

use crate::auth;
use crate::exchange::Exchange;
use crate::limit::{Caller, Facts, Limits, Moment, No, Standing};
use crate::refusal::Refusal;

/// Charges a request to the limits that are asked at this moment. One that is refused is not counted by the limit that
/// refuses it.
pub(super) async fn charge(
    request: &RequestHeader,
    exchange: &mut Exchange,
    moment: Moment,
) -> Result<(), Refusal> {
    let (Some(limits), facts) = of(request, exchange)? else { return Ok(()) };
    let verdict = limits.charge(&facts, moment).await;
    note(verdict, exchange)
}

/// The same without waiting, where that [can be](is_ready).
pub(super) fn charge_at_once(
    request: &RequestHeader,
    exchange: &mut Exchange,
    moment: Moment,
) -> Result<(), Refusal> {
    let (Some(limits), facts) = of(request, exchange)? else { return Ok(()) };
    let verdict = limits.charge_at_once(&facts, moment);
    note(verdict, exchange)
}

/// Whether the limits that are asked at this moment can tell at once.
pub(super) fn is_ready(request: &RequestHeader, exchange: &Exchange, moment: Moment) -> bool {
    match of(request, exchange) {
        Ok((Some(limits), facts)) => limits.are_ready(&facts, moment),
        _ => true,
    }
}

/// Counts a request among those that are under way, by the bounds that are asked at this moment. It is counted until its
/// exchange ends, however that is; one that is refused is not.
pub(super) fn enter(request: &RequestHeader, exchange: &mut Exchange, moment: Moment) -> Result<(), Refusal> {
    let mut seats = std::mem::take(&mut exchange.seats);
    let (_, facts) = of(request, exchange)?;
    if let Some(bounds) = exchange.route.as_ref().and_then(|route| route.concurrency.as_ref()) {
        bounds.enter(&facts, moment, &mut seats).map_err(Refusal::Full)?;
    }
    exchange.seats = seats;
    Ok(())
}

/// The limits of the route, and what they may know of the request.
fn of<'e>(
    request: &'e RequestHeader,
    exchange: &'e Exchange,
) -> Result<(Option<&'e Limits>, Facts<'e>), Refusal> {
    let (Some(asked), Some(route)) = (&exchange.asked, &exchange.route) else {
        return Err(Refusal::Internal);
    };
    let caller = asked.caller.as_deref().map(|caller| caller as &dyn Caller);
    let facts = Facts { client: asked.client, method: &request.method, fields: &request.headers, caller };
    Ok((route.limits.as_ref(), facts))
}

/// Notes how the client stands.
fn note(verdict: Result<Option<Standing>, No>, exchange: &mut Exchange) -> Result<(), Refusal> {
    let standing = match &verdict {
        Ok(standing) => standing.clone(),
        Err(No::Exceeded(exceeded)) => Some(exceeded.standing.clone()),
        Err(No::Uncounted(_)) => None,
    };
    if let Some(standing) = standing {
        exchange.standing = Some(standing.or_tighter(exchange.standing.take()));
    }
    verdict.map(drop).map_err(Refusal::Limited)
}

/// The stages do not know each other: here limits learn of callers what they want to know.
impl Caller for auth::Caller {
    fn provider(&self) -> &str {
        self.provider()
    }

    fn api_key(&self) -> Option<&str> {
        self.api_key_id()
    }

    fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        self.claim(name)
    }
}
