//! What a 304 makes of what is stored: fresh again, with the fields of the 304, or forgotten where these forbid to
//! keep it (RFC 9111 §4.3.3, §4.3.4).

use std::sync::Arc;

use http::HeaderMap;
use http::header::CONTENT_RANGE;
use pingora::http::ResponseHeader;

use crate::cache::flight::{From, Verdict};
use crate::cache::policy::{self, NotKept};
use crate::cache::stored::{Body, Pieces, Stored};
use crate::cache::{conditional, merge, range};
use crate::refusal::Refusal;
use crate::telemetry::Validation;

use super::fetch::{Answer, Errand, Tale};
use super::share::{self, Share};
use super::{settle, tally};

/// The origin confirmed something that is stored (§4.3.3, §4.3.4).
pub(super) async fn confirmed(mut errand: Errand, answer: Answer) -> Option<Errand> {
    let not_modified = Arc::new(answer.head.clone());
    settle::is_over(&mut errand.exchange, answer, &errand.fetching.connections);
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
        if first.is_none() {
            first = Some(renewed(&errand, &candidates[at], &not_modified));
        } else {
            renew_beside(&errand, &candidates[at], &not_modified);
        }
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

/// Puts the fields of a 304 into the stored answer that is the request's; where these forbid to keep it, it is forgotten.
fn renewed(errand: &Errand, old: &Arc<Stored>, not_modified: &ResponseHeader) -> Result<Renewed, NotRenewed> {
    let head = merged(errand, old, &not_modified.headers);
    match to_keep(errand, old, &head) {
        Ok(fresh) => {
            let fresh = Arc::new(fresh);
            let kept = errand.fetching.tiers.keep(errand.key, &fresh);
            Ok(Renewed { stored: fresh, kept: if kept { Ok(()) } else { Err(NotKept::Purged) } })
        }
        Err(reason) => {
            forget(errand, old, reason);
            let body = match &old.body {
                Body::Whole(pieces) => Some(pieces.clone()),
                Body::Parts { .. } => None,
            };
            Err(Box::new((head, body, reason)))
        }
    }
}

/// Puts the fields of a 304 into another answer that it confirms as well. That stays the one of the requests that it was
/// stored for; where the 304 has other fields tell these apart, it does not say which they are, and confirms nothing here.
fn renew_beside(errand: &Errand, old: &Arc<Stored>, not_modified: &ResponseHeader) {
    let head = merged(errand, old, &merge::of_others(&not_modified.headers));
    match to_keep(errand, old, &head) {
        Ok(fresh) if fresh.selecting.is_by_the_same_fields(&old.selecting) => {
            let fresh = Stored { selecting: old.selecting.clone(), ..fresh };
            // Kept or met by a purge: nobody waits for it.
            errand.fetching.tiers.keep(errand.key, &Arc::new(fresh));
        }
        Ok(_) => {}
        Err(reason) => forget(errand, old, reason),
    }
}

/// The head of a stored answer with the fields of a 304. With parts, nothing is kept that tells of other bytes than the
/// whole's.
fn merged(errand: &Errand, old: &Stored, later: &HeaderMap) -> ResponseHeader {
    let mut headers = merge::renewed(&old.headers, later, &errand.rules);
    if let Body::Parts { .. } = &old.body {
        headers.remove(CONTENT_RANGE);
        range::without_digests(&mut headers);
    }
    let mut parts = http::Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (old.status, headers);
    ResponseHeader::from(parts)
}

/// A confirmed answer under its new head, if that may be stored.
fn to_keep(errand: &Errand, old: &Stored, head: &ResponseHeader) -> Result<Stored, NotKept> {
    let (request, stood) = (&errand.request, errand.stood());
    let fields = (&request.headers, errand.authorized);
    let terms =
        policy::keep(&request.method, fields, old.status, &head.headers, &errand.rules, errand.times())?;
    let fresh = settle::to_store(request, head, &errand.rules, terms, stood, errand.url.clone())?;
    Ok(Stored { body: old.body.clone(), forms: old.forms.clone(), ..fresh })
}

/// Forgets what may be kept no more, here and in the fleet, unless that is for its request alone.
fn forget(errand: &Errand, old: &Arc<Stored>, reason: NotKept) {
    let tiers = errand.fetching.tiers;
    if !reason.is_of_request() {
        tiers.withdraw(&errand.key, old);
        if reason.lasts(old.status) {
            tiers.unstored.mark(&errand.key, errand.authorized);
        }
    }
}
