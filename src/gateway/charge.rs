//! Requests are charged to the limits of their routes, each at its moment.

use std::borrow::Cow;

use pingora::http::RequestHeader;

use crate::auth;
use crate::exchange::Exchange;
use crate::limit::{Caller, Facts, Moment};
use crate::refusal::Refusal;

/// Charges a request to the limits that are asked at this moment. One that is refused is not counted by the limit that
/// refuses it.
pub(super) fn charge(
    request: &RequestHeader,
    exchange: &mut Exchange,
    moment: Moment,
) -> Result<(), Refusal> {
    let (Some(asked), Some(route)) = (&exchange.asked, &exchange.route) else {
        return Err(Refusal::Internal);
    };
    let Some(limits) = &route.limits else { return Ok(()) };
    let caller = asked.caller.as_deref().map(|caller| caller as &dyn Caller);
    let facts = Facts { client: asked.client, method: &request.method, fields: &request.headers, caller };
    let verdict = limits.charge(&facts, moment);
    let standing = verdict.as_ref().map_or_else(|no| Some(no.standing.clone()), Clone::clone);
    if let Some(standing) = standing {
        exchange.standing = Some(standing.or_tighter(exchange.standing.take()));
    }
    verdict.map(drop).map_err(Refusal::Exceeded)
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
