//! Answers from the store, and from a flight: conditions, ranges, framing and codings as their client asks for them.

mod coded;

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, IF_MODIFIED_SINCE, IF_NONE_MATCH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, request, response};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};

use crate::cache::conditional::Answer;
use crate::cache::flight::{BrokenOff, Follower};
use crate::cache::range::{self, Framing, Wanted};
use crate::cache::stored::{Stored, within};
use crate::cache::{Tiers, conditional, freshness, parts, policy};
use crate::exchange::Exchange;
use crate::forward;
use crate::forward::compress::{Choice, Encoder};
use crate::listen::{self, Fields, Ready, ReadyHead, Session, dated};
use crate::telemetry::{StaleReason, Tier};

use super::fetch::Tale;
use super::{affinity, answer, encode};

/// About how many fields are added to those that are stored; a map that has no room for them grows twice.
const ADDED: usize = 6;

/// Answers a hit.
pub(super) async fn stored(
    session: &mut Session,
    exchange: &mut Exchange,
    tiers: &Tiers,
    stored: &Arc<Stored>,
    tier: Tier,
    stale: Option<StaleReason>,
) -> Result<bool> {
    if let Some(asking) = &mut exchange.cache {
        asking.hit(stored, tier, stale, SystemTime::now());
    }
    whole(session, exchange, tiers, stored, None).await?;
    Ok(true)
}

/// Answers with what stands in for an answer that could not be had.
pub(super) async fn in_place(
    session: &mut Session,
    exchange: &Exchange,
    tiers: &Tiers,
    stored: &Arc<Stored>,
) -> Result<()> {
    whole(session, exchange, tiers, stored, None).await
}

/// Answers with what the origin has just confirmed; what its 304 sets is for the client who caused it alone.
pub(super) async fn validated(
    session: &mut Session,
    exchange: &Exchange,
    tiers: &Tiers,
    stored: &Arc<Stored>,
    not_modified: Option<&ResponseHeader>,
) -> Result<()> {
    whole(session, exchange, tiers, stored, not_modified).await
}

async fn whole(
    session: &mut Session,
    exchange: &Exchange,
    tiers: &Tiers,
    stored: &Arc<Stored>,
    not_modified: Option<&ResponseHeader>,
) -> Result<()> {
    let request = session.req_header();
    let mut plan = Plan::of_stored(request, exchange, stored, not_modified);
    let choice = encode::choose_stored(request, exchange, stored);
    let form = match choice {
        // A part, or nothing, of what is stored: the form of the whole is not worth making.
        Choice::In(coding) if plan.head.status != stored.status => encode::known(stored, coding),
        Choice::In(coding) => {
            let (form, made) = encode::form(stored, coding).await?;
            if let (true, Some(asking)) = (made, &exchange.cache) {
                tiers.weigh_again(&asking.key);
            }
            Some(form)
        }
        Choice::Untouched | Choice::Plain => None,
    };
    plan.put_in(choice, form, exchange, stored);
    plan.send(session, exchange, Source::Stored(stored.clone())).await
}

/// What becomes of a hit, if it can be sent as it is at hand: in no coding, or in a form that has been made before.
pub(super) fn choice_at_hand(
    request: &RequestHeader,
    exchange: &Exchange,
    stored: &Stored,
) -> Option<Choice> {
    let choice = encode::choose_stored(request, exchange, stored);
    match choice {
        Choice::In(coding) => encode::known(stored, coding).map(|_| choice),
        Choice::Untouched | Choice::Plain => Some(choice),
    }
}

/// The answer of a hit as it is sent, where it is in one piece.
pub(super) fn at_hand(
    request: &RequestHeader,
    exchange: &Exchange,
    stored: &Arc<Stored>,
    choice: Choice,
    now: SystemTime,
) -> Option<Ready> {
    let heeded = exchange.cache.as_ref()?.heeded;
    let mut ready = if heeded.condition() || heeded.range() {
        chosen(request, exchange, stored, choice)?
    } else {
        all(request, exchange, stored, choice, now)?
    };
    answer::label(exchange, &mut ready.head, Version::HTTP_11);
    Some(ready)
}

/// All of a stored answer: what nearly every hit is.
fn all(
    request: &RequestHeader,
    exchange: &Exchange,
    stored: &Arc<Stored>,
    choice: Choice,
    now: SystemTime,
) -> Option<Ready> {
    let mut head = ReadyHead::new(stored.status, stored.clone());
    head.set(&AGE, freshness::age(&stored.terms, now).into());
    if let Some(form) = coded::at_hand(choice, exchange, stored, &mut head) {
        head.set(&CONTENT_LENGTH, form.len().into());
        let body = if request.method == Method::HEAD { Vec::new() } else { vec![form] };
        return Some(Ready { head, body });
    }
    let length = parts::length(&stored.body);
    let empty = has_no_content(stored.status);
    if !empty {
        head.set(&CONTENT_LENGTH, length.into());
    }
    let body = match request.method {
        Method::HEAD => Vec::new(),
        _ if empty => Vec::new(),
        _ => parts::cut(&stored.body, &(0..length))?.collect(),
    };
    Some(Ready { head, body })
}

/// What conditions and ranges leave of it.
fn chosen(request: &RequestHeader, exchange: &Exchange, stored: &Stored, choice: Choice) -> Option<Ready> {
    let mut plan = Plan::of_stored(request, exchange, stored, None);
    let form = if let Choice::In(coding) = choice { encode::known(stored, coding) } else { None };
    plan.put_in(choice, form, exchange, stored);
    let Plan { mut head, send } = plan;
    let body = match send {
        Send::Nothing => Vec::new(),
        Send::Form(form) => vec![form],
        Send::All => parts::cut(&stored.body, &(0..parts::length(&stored.body)))?.collect(),
        Send::Part(range) => parts::cut(&stored.body, &range)?.collect(),
        Send::Parts(..) => return None,
    };
    dated(&mut head);
    Some(Ready { head: head.into(), body })
}

/// Stored answers share their fields with all who are sent them.
impl Fields for Stored {
    fn fields(&self) -> &HeaderMap {
        &self.headers
    }
}

impl forward::Change for ReadyHead {
    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        Self::set(self, name, value);
    }

    fn add(&mut self, name: &HeaderName, value: HeaderValue) {
        Self::add(self, name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        Self::remove(self, name);
    }

    fn has(&self, name: &HeaderName) -> bool {
        Self::has(self, name)
    }
}

/// The head of an answer on its way.
pub(super) enum Head {
    /// For the one who caused it: all that the origin sent.
    AsItCame(Arc<ResponseHeader>),
    /// For the others: what is stored of it.
    Stored(Arc<Stored>),
}

/// Answers with what a flight brings.
pub(super) async fn flight(
    session: &mut Session,
    exchange: &Exchange,
    head: Head,
    is_kept: bool,
    follower: Follower<Tale>,
) -> Result<()> {
    let (status, headers) = match head {
        Head::AsItCame(head) => {
            let mut headers = head.headers.clone();
            if let Some(cookie) = affinity::to_set(exchange, &headers) {
                headers.append(SET_COOKIE, cookie.clone());
            }
            (head.status, headers)
        }
        Head::Stored(stored) => {
            let mut headers = stored.headers.clone();
            headers.insert(AGE, freshness::age(&stored.terms, SystemTime::now()).into());
            (stored.status, headers)
        }
    };
    let length = policy::length(&headers);
    let request = session.req_header();
    let choice = encode::choose(request, exchange, status, &headers, length, is_kept);
    let mut plan = Plan::of(request, status, headers, length, false);
    let encoder = plan.begin(choice, exchange, status, length);
    plan.send(session, exchange, Source::Flight(follower, encoder)).await
}

/// Where the body comes from.
enum Source {
    Stored(Arc<Stored>),
    Flight(Follower<Tale>, Option<Encoder>),
}

/// An answer as its client is to get it.
struct Plan {
    head: response::Parts,
    send: Send,
}

/// What of the body is sent.
enum Send {
    Nothing,
    All,
    Form(Bytes),
    Part(Range<u64>),
    Parts(Vec<Range<u64>>, Framing),
}

impl Plan {
    /// A stored answer; what the 304 that has just confirmed it sets is for the client who caused it alone.
    fn of_stored(
        request: &request::Parts,
        exchange: &Exchange,
        stored: &Stored,
        not_modified: Option<&ResponseHeader>,
    ) -> Self {
        let mut headers = stored.headers.clone();
        headers.reserve(ADDED);
        headers.insert(AGE, freshness::age(&stored.terms, SystemTime::now()).into());
        let rules = exchange.cache.as_ref().map(|asking| &asking.rules);
        let apart = |head: &&ResponseHeader| {
            rules.is_some_and(|rules| policy::keeps_cookies_back(&head.headers, rules))
        };
        for cookie in not_modified.filter(apart).iter().flat_map(|head| head.headers.get_all(SET_COOKIE)) {
            headers.append(SET_COOKIE, cookie.clone());
        }
        Self::of(request, stored.status, headers, Some(parts::length(&stored.body)), true)
    }

    /// Conditions first, then ranges (RFC 9110 §13.2.2). `seekable`: all of the body is there.
    fn of(
        request: &request::Parts,
        status: StatusCode,
        headers: HeaderMap,
        length: Option<u64>,
        seekable: bool,
    ) -> Self {
        if has_condition(request)
            && conditional::client(&request.headers, status, &headers, SystemTime::now())
                == Answer::NotModified
        {
            let fields = conditional::fields_of_304(&headers);
            let headers = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
            return Self { head: head(StatusCode::NOT_MODIFIED, headers), send: Send::Nothing };
        }
        let (status, mut headers, send) = match length {
            Some(length) if status == StatusCode::OK => part(request, headers, length, seekable),
            _ => (status, headers, Send::All),
        };
        let empty = has_no_content(status);
        if let (Send::All, Some(length), false) = (&send, length, empty) {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        let send = if request.method == Method::HEAD || empty { Send::Nothing } else { send };
        Self { head: head(status, headers), send }
    }

    /// Writes the answer.
    async fn send(mut self, session: &mut Session, exchange: &Exchange, source: Source) -> Result<()> {
        let nothing = matches!(self.send, Send::Nothing);
        answer::frame(session);
        let version = self.head.version;
        answer::label(exchange, &mut self.head, version);
        let mut head = Box::new(ResponseHeader::from(self.head));
        listen::keep_date(&mut head);
        session.write_response_header(head, nothing).await?;
        match (self.send, source) {
            (Send::Nothing, _) => Ok(()),
            (Send::All, Source::Stored(stored)) => {
                send_stored(session, &stored, 0..parts::length(&stored.body), true).await
            }
            (Send::Form(form), _) => session.write_body(form, true).await,
            (Send::Part(range), Source::Stored(stored)) => send_stored(session, &stored, range, true).await,
            (Send::Parts(ranges, framing), Source::Stored(stored)) => {
                for (head, range) in framing.heads.into_iter().zip(ranges) {
                    session.write_body(head, false).await?;
                    send_stored(session, &stored, range, false).await?;
                }
                session.write_body(framing.tail, true).await
            }
            (Send::Part(range), Source::Flight(follower, _)) => {
                send_flight(session, follower, range, None).await
            }
            (_, Source::Flight(follower, encoder)) => {
                send_flight(session, follower, 0..u64::MAX, encoder).await
            }
        }
    }
}

/// Whether an answer ends with its head, whatever is asked for (RFC 9110 §6.4.1).
fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What of a whole of known length the client wants.
fn part(
    request: &request::Parts,
    headers: HeaderMap,
    length: u64,
    seekable: bool,
) -> (StatusCode, HeaderMap, Send) {
    match range::wanted(&request.method, &request.headers, &headers, length) {
        Wanted::Parts(_) if !seekable => (StatusCode::OK, headers, Send::All),
        Wanted::Whole => (StatusCode::OK, headers, Send::All),
        Wanted::Part(range) => {
            let headers = range::head_of_part(&headers, &range, length);
            (StatusCode::PARTIAL_CONTENT, headers, Send::Part(range))
        }
        Wanted::Parts(ranges) => {
            let framing = Framing::new(&headers, &ranges, length, fastrand::u128(..));
            (StatusCode::PARTIAL_CONTENT, framing.head(&headers), Send::Parts(ranges, framing))
        }
        Wanted::Unsatisfiable => {
            (StatusCode::RANGE_NOT_SATISFIABLE, range::head_of_none(&headers, length), Send::Nothing)
        }
    }
}

fn head(status: StatusCode, headers: HeaderMap) -> response::Parts {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    parts
}

/// Sends the bytes of a range that is stored, segment by segment.
async fn send_stored(session: &mut Session, stored: &Stored, range: Range<u64>, ends: bool) -> Result<()> {
    let pieces = parts::cut(&stored.body, &range).ok_or_else(not_held)?;
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() && ends {
        return session.write_body(Bytes::new(), true).await;
    }
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        session.write_body(piece, ends && last).await?;
    }
    Ok(())
}

/// Sends the bytes of a range as they come.
async fn send_flight(
    session: &mut Session,
    mut follower: Follower<Tale>,
    range: Range<u64>,
    mut encoder: Option<Encoder>,
) -> Result<()> {
    let mut offset = 0;
    while offset < range.end {
        let mut next = pin!(follower.next());
        let at_hand = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        let piece = match at_hand {
            Poll::Ready(piece) => piece,
            Poll::Pending => {
                listen::flush(session).await?;
                next.await
            }
        };
        let Some(piece) = piece.map_err(broke_off)? else { break };
        let mut part = within(&piece, offset, &range);
        offset += piece.len() as u64;
        if let Some(encoder) = &mut encoder {
            part = encoder.piece(&part).map_err(encode::failed)?;
        }
        if !part.is_empty() {
            session.write_body(part, false).await?;
        }
    }
    let rest = encoder.map(|encoder| encoder.finish().map_err(encode::failed)).transpose()?;
    session.write_body(rest.unwrap_or_default(), true).await
}

/// Whether the request has a condition that a stored answer may meet.
fn has_condition(request: &request::Parts) -> bool {
    request.headers.contains_key(IF_NONE_MATCH) || request.headers.contains_key(IF_MODIFIED_SINCE)
}

/// Who looked saw to it that what is sent is held.
fn not_held() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "the bytes are not held")
}

/// The answer ends here, and its client must not take it for whole.
fn broke_off(why: BrokenOff) -> Box<Error> {
    let (kind, words) = match why {
        BrokenOff::Broken => (ErrorType::ReadError, "the answer broke off"),
        BrokenOff::Late => (ErrorType::ReadTimedout, "the answer took too long"),
    };
    Error::explain(kind, words).into_up()
}
