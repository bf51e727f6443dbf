//! A HEAD that went to the origin, as what is stored of the GET is past its time: where the origin fails, that stands in, as it
//! does for a GET (RFC 5861 §4, RFC 9111 §4.2.4).

use std::sync::Arc;

use http::StatusCode;
use pingora::Result;

use crate::cache::reuse::Failure;
use crate::cache::status::Forwarded;
use crate::cache::stored::Stored;
use crate::cache::{Tiers, Went};
use crate::exchange::Exchange;
use crate::listen::Session;

use super::conclude::{may_stand_in, stale_for};
use super::deliver;
use super::tries::final_head;

/// What is stored, and what it is served in place of.
pub(super) struct StandIn {
    stored: Arc<Stored>,
    why: Forwarded,
    failure: Failure,
}

impl StandIn {
    /// What may be served in place of a failure, if the client has heard nothing of an answer.
    pub(super) fn of(
        session: &Session,
        exchange: &Exchange,
        tiers: &Tiers,
        failure: Failure,
    ) -> Option<Self> {
        let asking = exchange.cache.as_ref()?;
        let (Some(stored), Went::Past { why, .. }) = (&asking.in_reserve, &asking.went) else { return None };
        let may = final_head(session).is_none() && may_stand_in(session, asking, tiers, stored, failure);
        may.then(|| Self { stored: stored.clone(), why: *why, failure })
    }

    /// Answers with it. The server has done all that it will.
    pub(super) async fn serve(
        self,
        session: &mut Session,
        exchange: &mut Exchange,
        tiers: &Tiers,
    ) -> Result<()> {
        let status = if let Failure::Status(status) = self.failure { Some(status) } else { None };
        exchange.tries.end(status.is_some());
        if let Some(asking) = &mut exchange.cache {
            let status = status.as_ref().map(StatusCode::as_u16);
            asking.stood_in(&self.stored, self.why, status, stale_for(self.failure), false);
        }
        deliver::in_place(session, exchange, tiers, &self.stored).await
    }
}
