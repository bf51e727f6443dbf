//! What a 304 makes of what is stored: fresh again, with the fields of the 304, or forgotten where these forbid to
//! keep it (RFC 9111 §4.3.3, §4.3.4).

use std::sync::Arc;

use http::HeaderMap;
use pingora::http::ResponseHeader;

use crate::cache::flight::{From, Verdict};
use crate::cache::policy::{self, NotKept};
use crate::cache::stored::{Body, Pieces, Stored};
use crate::cache::{conditional, merge};
use crate::refusal::Refusal;
use crate::telemetry::Validation;

use super::fetch::{Answer, Errand, Tale};
use super::share::{self, Share};
use super::{settle, tally};

/// The origin confirmed something that is stored (§4.3.3, §4.3.4).
pub(super) async fn confirmed(mut errand: Errand, answer: Answer) -> Option<Errand> {
    let not_modified = Arc::new(answer.head.clone());
    answer.server.done(&errand.fetching.connections);
    errand.exchange.tries.end(true);
    let selected = errand.selected();
    let candidates = std::mem::take(&mut errand.candidates);
    let heads: Vec<&HeaderMap> = candidates.iter().map(|stored| &stored.headers).collect();
    let mut chosen = conditional::chosen(&not_modified.headers, &heads, selected);
    // Origins that give one strong tag to several encodings are common: what suits the request is served, not the newest.
    chosen.sort_by_key(|at| Some(*at) != selected);
    if chosen.is_empty() {
        // It speaks of something that is not stored: ask again, for the whole.
        tally::validated(&errand, Validation::Failed);
        errand.exchange.tries.again();
        return Some(errand);
    }
    let mut first = None;
    for at in chosen {
        let renewed = renewed(&errand, &candidates[at], &not_modified, first.is_none());
        first.get_or_insert(renewed);
    }
    tally::validated(&errand, Validation::Holds);
    let tale = Tale { status: Some(304), ..errand.tale() };
    match first {
        Some(Ok(Renewed { stored, kept })) => {
            if let Err(reason) = kept {
                tally::filled(&errand.exchange, Err(reason));
            }
            let Errand { pilot, fetching, key, lease, .. } = errand;
            let verdict = Verdict::Stored(stored.clone(), From::Origin(not_modified));
            pilot.settle(verdict, Some(Tale { kept, ..tale }));
            match kept {
                Ok(()) => share::give(fetching.tiers, key, &stored, Share { lease, head_alone: true }).await,
                Err(reason) => {
                    share::give_up(fetching.tiers, &key, lease, settle::to_others(reason)).await;
                }
            }
        }
        Some(Err(not_renewed)) => {
            let (head, body, reason) = *not_renewed;
            let Some(body) = body else {
                // Parts that may not be kept are no answer in the place of the whole that their head is of.
                errand.exchange.tries.again();
                return Some(errand);
            };
            let tale = Tale { kept: Err(reason), ..tale };
            tally::filled(&errand.exchange, Err(reason));
            share::give_up(errand.fetching.tiers, &errand.key, errand.lease.take(), Some(reason)).await;
            errand.pilot.pass(Arc::new(head), tale);
            for piece in body.segments() {
                if errand.pilot.push(piece.clone()).await.is_err() {
                    return None;
                }
            }
            errand.pilot.land();
        }
        None => {
            let refusal = Some(Refusal::Internal);
            errand.pilot.settle(Verdict::Failed, Some(Tale { refusal, ..tale }));
        }
    }
    None
}

/// What is fresh again, and whether it is kept.
struct Renewed {
    stored: Arc<Stored>,
    kept: Result<(), NotKept>,
}

/// The head and the whole body, if it is held, of what is not kept any more, and why.
type NotRenewed = Box<(ResponseHeader, Option<Pieces>, NotKept)>;

/// Puts the fields of a 304 into a stored answer; where these forbid to keep it, it is forgotten.
fn renewed(
    errand: &Errand,
    old: &Arc<Stored>,
    not_modified: &ResponseHeader,
    serves: bool,
) -> Result<Renewed, NotRenewed> {
    let headers = merge::renewed(&old.headers, &not_modified.headers, &errand.rules);
    let mut parts = http::Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (old.status, headers);
    let head = ResponseHeader::from(parts);
    let (method, fields) = (&errand.request.method, (&errand.request.headers, errand.authorized));
    let terms = policy::keep(method, fields, old.status, &head.headers, &errand.rules, errand.times());
    let kept = terms.and_then(|terms| {
        settle::to_store(
            &errand.request,
            &head,
            &errand.rules,
            terms,
            errand.pilot.stamp(),
            errand.url.clone(),
        )
    });
    match kept {
        Ok(fresh) => {
            // Others that are confirmed as well stay those of the requests that they were stored for.
            let selecting = if serves { fresh.selecting } else { old.selecting.clone() };
            let fresh =
                Arc::new(Stored { body: old.body.clone(), forms: old.forms.clone(), selecting, ..fresh });
            let kept = errand.fetching.tiers.keep(errand.key, &fresh);
            Ok(Renewed { stored: fresh, kept: if kept { Ok(()) } else { Err(NotKept::Purged) } })
        }
        Err(reason) => {
            // Some reasons are of the request, not of the answer: others may still be served what is stored.
            if !matches!(reason, NotKept::Authorization | NotKept::Cookie) {
                errand.fetching.tiers.drop_variant(&errand.key, old);
            }
            let body = match &old.body {
                Body::Whole(pieces) => Some(pieces.clone()),
                Body::Parts { .. } => None,
            };
            Err(Box::new((head, body, reason)))
        }
    }
}
