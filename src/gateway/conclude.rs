//! What a request does with what came of the fetch that it waited for.

use std::sync::Arc;
use std::time::SystemTime;

use pingora::Result;

use crate::cache::flight::{Follower, From, Verdict};
use crate::cache::policy::NotKept;
use crate::cache::reuse::{self, Failure, Reuse, Why};
use crate::cache::status::Forwarded;
use crate::cache::stored::Stored;
use crate::cache::{Asking, Covered, Pass, Tiers, Went, range};
use crate::exchange::Exchange;
use crate::listen::Session;
use crate::refusal::{Fault, Refusal};
use crate::telemetry::{StaleReason, Tier};

use super::fetch::Tale;
use super::{answer, deliver};

/// What came of a fetch, for one of those who waited for it.
pub(super) struct Came {
    /// Why the origin was to be asked.
    pub(super) why: Forwarded,
    /// What was stored for the request, stale or in need of validation.
    pub(super) stored: Option<Arc<Stored>>,
    pub(super) verdict: Verdict,
    pub(super) tale: Option<Tale>,
    pub(super) follower: Follower<Tale>,
}

/// What is left to be done.
pub(super) enum After {
    Answered,
    /// What came does not suit the request: it looks again, and goes past with this word if that is of no use. What came says
    /// with whom it may share another fetch.
    Again {
        pass: Pass,
        came: Option<Arc<Stored>>,
    },
    Past(Pass, Forwarded),
}

impl After {
    pub(super) fn again(pass: Pass) -> Self {
        Self::Again { pass, came: None }
    }
}

/// Answers a request with what came, or with a stale answer in its place.
pub(super) async fn conclude(
    session: &mut Session,
    exchange: &mut Exchange,
    tiers: &Tiers,
    came: Came,
) -> Result<After> {
    let Some(asking) = &mut exchange.cache else { return Ok(After::again(Pass::NotShared)) };
    let leads = came.follower.leads();
    if let Some(Refusal::Limited(no)) = came.tale.as_ref().and_then(|tale| tale.refusal.as_ref()) {
        if !leads {
            return Ok(After::again(Pass::NotShared)); // the limit of another
        }
        exchange.cache = None; // nothing was asked for
        answer::refusal(session, exchange, Refusal::Limited(no.clone())).await?;
        return Ok(After::Answered);
    }
    if let Some((stored, stale)) = came.stand_in(session, asking, tiers) {
        let status = came.tale.as_ref().and_then(|tale| tale.status);
        asking.stood_in(&stored, came.why, status, stale, !leads);
        deliver::in_place(session, exchange, tiers, &stored).await?;
        return Ok(After::Answered);
    }
    // Which tags an answer carries shows when it comes: a purge may have met it before this request joined its fetch. One
    // that another node fetched may be from before a purge that is not in the log yet.
    let shared = matches!(came.verdict, Verdict::Stored(_, From::Redis));
    let suits = |stored: &Stored| {
        asking.suits(stored, &session.req_header().headers)
            && asking.includes(stored)
            && tiers.meets(&asking.key, stored).is_none()
            && !(shared && tiers.refuses(&asking.key, stored))
            && reuse_of(asking, stored) != Reuse::Validate(Why::Request)
    };
    match &came.verdict {
        Verdict::Passing(_) if !leads => return Ok(After::Past(Pass::NotShared, came.why)),
        // What the origin lets nobody have without asking it is for the one who asked (§4).
        Verdict::Stored(stored, _) | Verdict::Filling(_, stored) if !leads && !stored.terms.is_reusable() => {
            return Ok(After::Past(Pass::NotShared, came.why));
        }
        Verdict::Stored(stored, _) | Verdict::Filling(_, stored)
            if !leads && is_stale(asking, stored, &came.follower) =>
        {
            return Ok(After::Past(Pass::NotShared, came.why));
        }
        // Another variant than this request's, not for its caller, purged, or older than it takes.
        Verdict::Stored(stored, _) | Verdict::Filling(_, stored) if !leads && !suits(stored) => {
            return Ok(After::Again { pass: Pass::NotShared, came: Some(stored.clone()) });
        }
        _ => {}
    }
    came.answer(session, exchange, tiers).await?;
    Ok(After::Answered)
}

/// Whether what is stored may be served in place of a failure.
pub(super) fn may_stand_in(
    session: &Session,
    asking: &Asking,
    tiers: &Tiers,
    stored: &Stored,
    failure: Failure,
) -> bool {
    let request = session.req_header();
    !asking.rules.observe
        && asking.suits(stored, &request.headers)
        && asking.includes(stored)
        && range::holds(&request.method, &request.headers, stored)
        && tiers.meets(&asking.key, stored) != Some(Covered::Hard)
        && reuse::may_stand_in(&asking.directives, &stored.terms, failure, SystemTime::now())
}

/// Why a stale answer is served that stands in after such a failure.
pub(super) fn stale_for(failure: Failure) -> StaleReason {
    match failure {
        Failure::Unreachable => StaleReason::Unreachable,
        _ => StaleReason::Error,
    }
}

/// Whether what came serves the request as any stored answer does.
fn reuse_of(asking: &Asking, stored: &Stored) -> Reuse {
    reuse::reuse(&asking.directives, &stored.terms, false, asking.arrived, SystemTime::now())
}

/// Whether what another request caused is stale for this one (§4). Who was here before it puts up with the time that it
/// took to come, as the one who caused it does.
fn is_stale(asking: &Asking, stored: &Stored, follower: &Follower<Tale>) -> bool {
    let asked = follower.has_waited().and_then(|waited| SystemTime::now().checked_sub(waited));
    reuse_of(asking, stored) == Reuse::Validate(Why::Stale)
        && asked.is_none_or(|asked| stored.terms.fresh_until <= asked)
}

impl Came {
    /// The stale answer that may be served in place of a failure (RFC 5861 §4, RFC 9111 §4.2.4).
    fn stand_in(
        &self,
        session: &Session,
        asking: &Asking,
        tiers: &Tiers,
    ) -> Option<(Arc<Stored>, StaleReason)> {
        let failure = match &self.verdict {
            Verdict::Passing(head) => Failure::Status(head.status),
            Verdict::Failed => self.tale.as_ref().map_or(Failure::BrokeOff, Tale::failure),
            Verdict::Stored(..) | Verdict::Filling(..) => return None,
        };
        let stored = self.stored.as_ref().or(self.tale.as_ref()?.stored.as_ref())?;
        let may = may_stand_in(session, asking, tiers, stored, failure);
        may.then(|| (stored.clone(), stale_for(failure)))
    }

    async fn answer(self, session: &mut Session, exchange: &mut Exchange, tiers: &Tiers) -> Result<()> {
        let leads = self.follower.leads();
        let status = self.tale.as_ref().and_then(|tale| tale.status);
        let kept = self.tale.as_ref().map_or(Err(None), |tale| tale.kept.map_err(Some));
        match self.verdict {
            Verdict::Stored(stored, From::Redis) => {
                deliver::stored(session, exchange, tiers, &stored, Tier::Redis, None).await.map(drop)
            }
            Verdict::Stored(stored, From::Origin(head)) => {
                note(exchange, Fetched { why: self.why, status, kept, validated: true, leads });
                let confirmed = leads.then_some(&*head);
                deliver::validated(session, exchange, tiers, &stored, confirmed).await
            }
            Verdict::Filling(head, stored) => {
                note(exchange, Fetched { why: self.why, status, kept, validated: false, leads });
                let head = if leads { deliver::Head::AsItCame(head) } else { deliver::Head::Stored(stored) };
                deliver::flight(session, exchange, head, true, self.follower).await
            }
            Verdict::Passing(head) => {
                note(exchange, Fetched { why: self.why, status, kept, validated: false, leads });
                deliver::flight(session, exchange, deliver::Head::AsItCame(head), false, self.follower).await
            }
            Verdict::Failed => {
                note(exchange, Fetched { why: self.why, status, kept: Err(None), validated: false, leads });
                let refusal = self.tale.and_then(|tale| tale.refusal);
                let refusal = refusal.unwrap_or(Refusal::Failed(Fault::BrokeOff));
                answer::refusal(session, exchange, refusal).await
            }
        }
    }
}

/// What is said of a fetch.
#[derive(Clone, Copy)]
struct Fetched {
    why: Forwarded,
    status: Option<u16>,
    kept: Result<(), Option<NotKept>>,
    validated: bool,
    leads: bool,
}

fn note(exchange: &mut Exchange, fetched: Fetched) {
    let Fetched { why, status, kept, validated, leads } = fetched;
    if let Some(asking) = &mut exchange.cache {
        asking.went = Went::Fetched { why, status, kept, validated, collapsed: !leads };
    }
}
