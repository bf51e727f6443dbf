//! What becomes of an answer from the origin: stored, or passed on to the one who asked; [`confirm`] sees to a 304.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::copy::Copy;
use crate::cache::directives::RequestDirectives;
use crate::cache::flight::Pilot;
use crate::cache::forms::Forms;
use crate::cache::parts::ContentRange;
use crate::cache::policy::{self, NotKept};
use crate::cache::stored::{Body, Pieces, Stamp, Stored, Terms};
use crate::cache::vary::{Selecting, Unbounded};
use crate::cache::{Covered, Rules, compact, parts, range, reuse, tags};
use crate::exchange::Exchange;
use crate::forward::hop;
use crate::refusal::Fault;
use crate::upstream::Failure;

use super::fetch::{Answer, Errand, Tale};
use super::place::Named;
use super::server::{Connections, Server, before};
use super::share::{self, Share};
use super::{confirm, tally};

/// Settles a fetch by the head of its answer; the errand again, if it is to be asked once more.
pub(super) async fn settle(mut errand: Errand, mut answer: Answer) -> Option<Errand> {
    hop::strip_response(&mut answer.head);
    if answer.head.status == StatusCode::NOT_MODIFIED && !errand.candidates.is_empty() {
        return confirm::confirmed(errand, answer).await;
    }
    tally::asked_after(&errand, Some(answer.head.status));
    let head = Arc::new(answer.head.clone());
    match to_keep(&errand, &head) {
        Ok(stored) if head.status != StatusCode::PARTIAL_CONTENT => {
            errand.fetching.tiers.unstored.clear(&errand.key, errand.authorized);
            let kept = errand.not_overtaken(&stored);
            let tale = Tale { status: Some(head.status.as_u16()), kept, ..errand.tale() };
            let size_max = errand.size_max();
            errand.pilot.fill(head, Arc::new(stored.clone()), size_max, tale);
            fill(errand, answer, stored).await;
        }
        kept => pass(errand, answer, head, kept).await,
    }
    None
}

/// The answer as it would be stored, without its body.
fn to_keep(errand: &Errand, head: &ResponseHeader) -> Result<Stored, NotKept> {
    let times = errand.times();
    let (method, request) = (&errand.request.method, (&errand.request.headers, errand.authorized));
    let terms = policy::keep(method, request, head.status, &head.headers, &errand.rules, times)?;
    if policy::length(&head.headers).is_some_and(|length| length > errand.size_max()) {
        return Err(NotKept::TooLarge);
    }
    if outlives(errand, head.status) {
        return Err(NotKept::Status);
    }
    to_store(&errand.request, head, &errand.rules, terms, errand.stood(), errand.url.clone())
}

/// Whether what is stored is to outlive a failure of its origin: it is fresh, or may stand in for it (RFC 5861 §4), for
/// this request or for one that asks for nothing in particular. Stored in its place, though the route keeps failures
/// for a while, the failure would be served instead of it, and the answer that was good would be lost. A failure that is
/// stored gives way to the next.
fn outlives(errand: &Errand, status: StatusCode) -> bool {
    let Some(stored) = errand.selected().map(|at| &errand.candidates[at]) else { return false };
    if !reuse::is_stood_in_for(status) || reuse::is_stood_in_for(stored.status) {
        return false;
    }
    let (terms, now) = (&stored.terms, SystemTime::now());
    let fresh = terms.fresh_until > now && !terms.validate_always;
    let stands_in = |asked| reuse::may_stand_in(asked, terms, reuse::Failure::Status(status), now);
    fresh || stands_in(&errand.asked) || stands_in(&RequestDirectives::default())
}

impl Errand {
    /// Whether a purge has overtaken the fetch of this answer: it is then not kept, and its client can still be told.
    pub(super) fn not_overtaken(&self, stored: &Stored) -> Result<(), NotKept> {
        match self.fetching.tiers.meets(&self.key, stored) {
            Some(Covered::Hard) => Err(NotKept::Purged),
            Some(Covered::Soft) | None => Ok(()),
        }
    }
}

/// An answer as it is stored, on these terms and without its body; `stamp` and `seen` are where its fetch stood in the orders of
/// purges and of writes.
pub(super) fn to_store(
    request: &RequestHeader,
    head: &ResponseHeader,
    rules: &Rules,
    terms: Terms,
    (stamp, seen): (Stamp, Stamp),
    named: Named,
) -> Result<Stored, NotKept> {
    let selecting =
        Selecting::of(&head.headers, rules, &request.headers).map_err(|Unbounded| NotKept::Vary)?;
    Ok(Stored {
        status: head.status,
        headers: compact(&policy::stored_headers(&head.headers, rules, SystemTime::now())),
        terms,
        selecting,
        body: Body::Whole(Pieces::default()),
        forms: Forms::default(),
        tags: tags_of(&head.headers, rules, &named)?,
        stamp,
        seen,
        stored: SystemTime::now(),
        url: named.url,
    })
}

fn tags_of(answer: &HeaderMap, rules: &Rules, named: &Named) -> Result<Arc<[u64]>, NotKept> {
    let mut tags = tags::of(answer, &rules.tags);
    // One of them says that there are others.
    if tags.len() > tags::TAGS_MAX + 1 {
        return Err(NotKept::TooLarge);
    }
    if named.tagged {
        tags.push(tags::of_url(&named.url));
        tags.sort_unstable();
    }
    Ok(tags.into())
}

/// Reads a body into the store, and past it to those who follow.
async fn fill(mut errand: Errand, mut answer: Answer, stored: Stored) {
    let pumped = pump(&mut errand, &mut answer, None).await;
    let late = pumped == Err(Cut::Late);
    let broken = match pumped {
        Ok(()) if is_whole(&stored.headers, errand.pilot.written()) => {
            return land(errand, answer, stored).await;
        }
        Ok(()) => {
            errand.exchange.tries.failed(Failure::Reset, false);
            NotKept::BrokenOff
        }
        Err(_) if errand.pilot.is_storing() => NotKept::BrokenOff,
        Err(_) => NotKept::TooLarge,
    };
    tally::filled(&errand.exchange, Err(broken));
    is_lost(&mut errand.exchange, answer);
    let Errand { pilot, fetching, key, lease, .. } = errand;
    break_off(pilot, late);
    share::give_up(fetching.tiers, &key, lease, None).await;
}

/// An answer came whole: its server is free. Its connection first, for the one whose turn comes.
pub(super) fn is_over(exchange: &mut Exchange, answer: Answer, connections: &Connections) {
    answer.server.done(connections);
    exchange.tries.end(true);
}

/// The rest of an answer is not wanted, or will not come: its connection ends before another may be made in its place.
fn is_lost(exchange: &mut Exchange, answer: Answer) {
    drop(answer);
    exchange.tries.end(false);
}

/// Breaks a body off for all who follow.
fn break_off(pilot: Pilot<Tale>, late: bool) {
    if late { pilot.late() } else { drop(pilot) }
}

/// A body came to its end: it is stored, unless it grew too large on the way.
async fn land(errand: Errand, answer: Answer, stored: Stored) {
    let kept = keep_whole(&errand, stored);
    tally::filled(&errand.exchange, kept.as_ref().map(drop).map_err(|reason| *reason));
    let Errand { pilot, fetching, key, lease, mut exchange, .. } = errand;
    pilot.land();
    let giving = async {
        match kept {
            Ok(stored) => share::give(fetching.tiers, key, &stored, Share { lease, head_alone: false }).await,
            Err(reason) => share::give_up(fetching.tiers, &key, lease, to_others(reason)).await,
        }
    };
    // What goes to the fleet is on its way first, and the server is free before it has come there.
    tokio::join!(giving, async { is_over(&mut exchange, answer, &fetching.connections) });
}

/// Stores an answer whose body has come to its end.
fn keep_whole(errand: &Errand, stored: Stored) -> Result<Arc<Stored>, NotKept> {
    if errand.pilot.written() > errand.size_max() {
        learn(errand, stored.status, NotKept::TooLarge);
    }
    if !errand.pilot.is_storing() {
        return Err(NotKept::TooLarge);
    }
    let body = Body::Whole(Pieces::new(errand.pilot.pieces()).together());
    let stored = Arc::new(Stored { body, ..stored });
    if errand.fetching.tiers.keep(errand.key, &stored) { Ok(stored) } else { Err(NotKept::Purged) }
}

/// What other nodes are told of an answer that is not kept: after a purge, that one of them is to fetch it anew.
pub(super) fn to_others(reason: NotKept) -> Option<NotKept> {
    Some(reason).filter(|reason| *reason != NotKept::Purged)
}

/// Whether as many bytes came as were announced (RFC 9111 §3.3).
fn is_whole(headers: &HeaderMap, written: u64) -> bool {
    policy::length(headers).is_none_or(|length| length == written)
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Nobody reads it.
    Abandoned,
    /// It took too long.
    Late,
    Failed,
}

/// Moves the body from the connection to those who follow; collects it in `copy` as long as that takes it.
async fn pump(errand: &mut Errand, answer: &mut Answer, mut copy: Option<&mut Copy>) -> Result<(), Cut> {
    loop {
        let piece = match answer.server.piece_in_time().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(()),
            Err(fault) => return Err(broken(errand, &answer.server, fault)),
        };
        if let Some(copy) = copy.as_mut() {
            copy.add(&piece);
        }
        match before(answer.server.end, errand.pilot.push(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_abandoned)) => return Err(Cut::Abandoned),
            Err(fault) => return Err(broken(errand, &answer.server, fault)),
        }
    }
}

/// A body broke off, or took too long. That it was silent is no failure of a server whose answer lasts; nor is that the time for
/// the whole is over, which readers may have spent.
fn broken(errand: &mut Errand, server: &Server, fault: Fault) -> Cut {
    let tries = &mut errand.exchange.tries;
    let late = fault == Fault::Timeout;
    if !(late && (errand.exchange.lasting || server.is_over())) {
        tries.fault = Some(fault);
        tries.failed(if late { Failure::Timeout } else { Failure::Reset }, false);
    }
    if late { Cut::Late } else { Cut::Failed }
}

/// Passes an answer on to the one who asked; a part of something is stored beside (§3.3).
async fn pass(
    mut errand: Errand,
    mut answer: Answer,
    head: Arc<ResponseHeader>,
    kept: Result<Stored, NotKept>,
) {
    let not_kept = kept.as_ref().err().copied();
    if let Some(reason) = not_kept {
        learn(&errand, head.status, reason);
        tally::filled(&errand.exchange, Err(reason));
    }
    let tale =
        Tale { status: Some(head.status.as_u16()), kept: not_kept.map_or(Ok(()), Err), ..errand.tale() };
    errand.pilot.pass(head.clone(), tale);
    share::give_up(errand.fetching.tiers, &errand.key, errand.lease.take(), not_kept).await;
    let mut copy = kept.ok().map(|part| Copy::new(part, errand.size_max(), errand.fetching.flights.held()));
    let part = match pump(&mut errand, &mut answer, copy.as_mut()).await {
        Ok(()) => {
            let part = copy.map(|copy| keep_part(&errand, copy, &head));
            errand.pilot.land();
            is_over(&mut errand.exchange, answer, &errand.fetching.connections);
            part
        }
        Err(cut) => {
            is_lost(&mut errand.exchange, answer);
            break_off(errand.pilot, cut == Cut::Late);
            copy.map(|_| Err(NotKept::BrokenOff))
        }
    };
    if let Some(kept) = part {
        tally::filled(&errand.exchange, kept);
    }
}

/// What an answer that is not kept tells of its URL: whether the next ones are worth waiting for, and that what is stored
/// for its request no longer is what the origin says.
fn learn(errand: &Errand, status: StatusCode, reason: NotKept) {
    let tiers = errand.fetching.tiers;
    if reason.lasts(status) {
        tiers.unstored.mark(&errand.key, errand.authorized);
    }
    if reason.supersedes(status, &errand.request.headers, errand.authorized) {
        let selected = errand.selected().map(|at| &errand.candidates[at]);
        for stored in selected.into_iter().chain(&errand.in_part) {
            tiers.withdraw(&errand.key, stored);
        }
    }
}

/// Whether a stored whole stays, though a part came: it is of use, and nothing says that the part is of another version.
fn is_kept_over(stored: &Stored, part: &HeaderMap, place: &ContentRange) -> bool {
    let of_use = stored.terms.fresh_until > SystemTime::now() || policy::validatable(&stored.headers);
    let Body::Whole(pieces) = &stored.body else { return false };
    of_use && parts::may_be_of_one((&stored.headers, pieces.len()), (part, place.length))
}

/// Stores a part, combined with what is stored of the same answer (§3.4).
fn keep_part(errand: &Errand, copy: Copy, head: &ResponseHeader) -> Result<(), NotKept> {
    let (part, pieces) = copy.finish().ok_or(NotKept::TooLarge)?;
    let place = parts::range_of(&head.headers).ok_or(NotKept::Partial)?;
    let whole = errand.selected().map(|at| &errand.candidates[at]);
    let before = errand.in_part.as_ref().or(whole).filter(|stored| stored.selecting == part.selecting);
    let combined = before
        .and_then(|stored| parts::combine(&stored.headers, &stored.body, &head.headers, &place, &pieces));
    if combined.is_none() && before.is_some_and(|stored| is_kept_over(stored, &head.headers, &place)) {
        return Err(NotKept::Partial);
    }
    let body = combined.or_else(|| parts::first(&place, pieces)).ok_or(NotKept::Partial)?;
    let mut headers = parts::head_of_whole(part.headers, place.length);
    range::without_digests(&mut headers);
    let part = Stored { status: StatusCode::OK, headers, body, ..part };
    if errand.fetching.tiers.store(errand.key, &Arc::new(part)) { Ok(()) } else { Err(NotKept::Purged) }
}
