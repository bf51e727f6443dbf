//! Answers that the gateway writes itself: redirects, fixed words, and what follows a failure.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::cache::status;
use crate::exchange::{Asked, Exchange};
use crate::forward::cors::Cors;
use crate::forward::{self, max_forwards, request_id};
use crate::listen::{self, Connection, Ready, Session, dated};
use crate::plan::template::Facts;
use crate::plan::{Action, Template};
use crate::refusal::{Fault, Refusal};
use crate::route::path;

use super::tries::final_head;
use super::{affinity, encode};

/// Fields that every answer of an exchange carries, whoever made it.
pub(super) fn own_fields(exchange: &Exchange) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let id = HeaderValue::from_str(exchange.id()).ok().map(|mut id| {
        // HTTP/2 then sends it without noting it: no answer has the same, and it would push out what others share.
        id.set_sensitive(true);
        (request_id::X_REQUEST_ID, id)
    });
    let limits = exchange.route.as_ref().and_then(|route| route.limits.as_ref());
    let standing = limits.zip(exchange.standing.as_ref()).map(|(limits, standing)| {
        let policies = (HeaderName::from_static("ratelimit-policy"), limits.policies().clone());
        [policies, (HeaderName::from_static("ratelimit"), standing.rate_limit())]
    });
    let hsts = hsts(exchange).map(|value| (header::STRICT_TRANSPORT_SECURITY, value));
    let shared = cors(exchange).map(|cors| cors.fields(exchange.reader.as_ref()));
    id.into_iter().chain(standing.into_iter().flatten()).chain(hsts).chain(shared.into_iter().flatten())
}

fn cors(exchange: &Exchange) -> Option<&Cors> {
    exchange.route.as_ref()?.cors.as_ref()
}

/// What browsers are told of TLS, and only under TLS (RFC 6797 §7.2).
fn hsts(exchange: &Exchange) -> Option<HeaderValue> {
    exchange.asked.as_ref().filter(|asked| asked.scheme == "https")?;
    match &exchange.route {
        Some(route) => route.hsts.clone(),
        None => exchange.plan.hsts.clone(),
    }
}

/// Fields of a "no": those, and what the cache has to say.
fn refusal_fields(exchange: &Exchange, refusal: &Refusal) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields: Vec<_> = own_fields(exchange).collect();
    let caches = exchange.forward().is_some() && exchange.route.as_ref().is_some_and(|it| it.cache.is_some());
    let member = match &exchange.cache {
        Some(asking) => Some(asking.member()),
        None => caches.then(|| status::unasked(refusal.reason().code)),
    };
    fields.extend(member.map(|member| (CACHE_STATUS, member)));
    fields.extend(cors(exchange).and_then(Cors::vary));
    fields
}

/// Answers what needs no upstream: redirects, fixed words, and who asks no further server (`Max-Forwards`); `false` if it does.
pub(super) async fn at_once(session: &mut Session, exchange: &Exchange) -> Result<bool> {
    let (Some(route), Some(asked)) = (&exchange.route, &exchange.asked) else { return Ok(false) };
    let (mut head, body) = match &route.action {
        // What its server can do is not known here.
        Action::Forward(_) if max_forwards::ends_here(session.req_header()) => {
            (ResponseHeader::build_no_case(StatusCode::NO_CONTENT, Some(4))?, Bytes::new())
        }
        Action::Forward(_) => return Ok(false),
        Action::Redirect { status, to } => (redirect(*status, &target(to, asked, session))?, Bytes::new()),
        Action::Respond { status, content_type, body } => {
            let mut head = ResponseHeader::build_no_case(*status, Some(8))?;
            head.insert_header(header::CONTENT_TYPE, content_type.clone())?;
            (head, body.clone())
        }
    };
    for (name, value) in own_fields(exchange).chain(cors(exchange).and_then(Cors::vary)) {
        head.insert_header(name, value)?;
    }
    route.response_edit.response(&mut head);
    send(session, head, body).await?;
    Ok(true)
}

/// Answers with a "no".
pub(super) async fn refusal(session: &mut Session, exchange: &mut Exchange, refusal: Refusal) -> Result<()> {
    let refusal = exchange.refusal.insert(refusal).clone();
    let fields = refusal_fields(exchange, &refusal);
    refusal.answer(session, exchange.id(), &fields).await
}

/// A "no" as it is sent.
pub(super) fn written(request: &RequestHeader, exchange: &mut Exchange, refusal: Refusal) -> Option<Ready> {
    let refusal = exchange.refusal.insert(refusal).clone();
    let fields = refusal_fields(exchange, &refusal);
    let (head, body) = refusal.written(request, exchange.id(), &fields).ok()?;
    let mut head = head.into();
    dated(&mut head);
    Some(Ready { head: head.into(), body: if body.is_empty() { Vec::new() } else { vec![body] } })
}

/// Sends a client that came in the clear to the same place over TLS.
pub(super) async fn to_https(session: &mut Session, exchange: &Exchange, port: u16) -> Result<()> {
    let Some(asked) = &exchange.asked else { return Ok(()) };
    let host = if port == 443 { asked.host.clone() } else { format!("{}:{port}", asked.host) };
    let query = query(session).map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("https://{host}{}{query}", asked.path);
    let mut head = redirect(StatusCode::PERMANENT_REDIRECT, &to)?;
    for (name, value) in own_fields(exchange) {
        head.insert_header(name, value)?;
    }
    send(session, head, Bytes::new()).await
}

/// The last touches to an answer that came from an upstream.
pub(super) fn finish(session: &mut Session, exchange: &mut Exchange, answer: &mut ResponseHeader) {
    frame(session);
    encode::begin(session.req_header(), exchange, answer);
    if let Some(cookie) = affinity::to_set(exchange, &answer.headers).cloned() {
        forward::Change::add(answer, &header::SET_COOKIE, cookie);
    }
    label(exchange, answer, answer.version);
    listen::keep_date(answer);
}

/// Labels an answer that came from an upstream or the store, in this version of HTTP.
pub(super) fn label(exchange: &Exchange, answer: &mut impl forward::Change, version: Version) {
    forward::via_response(answer, version);
    if let Some(cors) = cors(exchange) {
        cors.take_over(answer);
    }
    for (name, value) in own_fields(exchange) {
        answer.set(&name, value);
    }
    if let Some(route) = &exchange.route {
        route.response_edit.response(answer);
    }
    if let Some(asking) = &exchange.cache {
        answer.add(&CACHE_STATUS, asking.member());
    }
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Settles whether the connection ends with an answer: with a gateway or a listener that is about to end.
pub(super) fn frame(session: &Session) {
    let leaving = listen::connection(session).is_some_and(Connection::is_leaving);
    if leaving {
        listen::end(session); // says `Connection: close`: the next request is to go elsewhere
    }
}

fn target(to: &Template, asked: &Asked, session: &Session) -> String {
    to.fill(&Facts {
        scheme: asked.scheme,
        host: &asked.host,
        path: &asked.path,
        query: query(session).as_deref(),
    })
}

/// The query, as it may stand in a field.
fn query(session: &Session) -> Option<Cow<'_, str>> {
    session.req_header().uri.query().map(path::escape_query)
}

fn redirect(status: StatusCode, to: &str) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build_no_case(status, Some(6))?;
    head.insert_header(header::LOCATION, to)?;
    Ok(head)
}

pub(super) async fn send(session: &mut Session, mut head: ResponseHeader, body: Bytes) -> Result<()> {
    let without_body = session.req_header().method == Method::HEAD || body.is_empty();
    // What has no content has no length either (RFC 9110 §8.6).
    if head.status != StatusCode::NO_CONTENT {
        head.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
    }
    session.write_response_header(Box::new(head), without_body).await?;
    if without_body { Ok(()) } else { session.write_body(body, true).await }
}

/// Answers a request that ended in an error, if its client can still be answered.
pub(super) async fn failure(session: &mut Session, error: &Error, exchange: &mut Exchange) {
    let refusal = exchange.refusal.take().or_else(|| refusal_of(error, exchange));
    // No further request is read: what the client sent of this one may still be on its way.
    listen::end(session);
    let unanswered = final_head(session).is_none();
    if !unanswered && listen::flush(session).await.is_err() {
        tracing::debug!("the client left before it had what there is of its answer");
    }
    if exchange.changed_protocol {
        return; // nobody expects an answer any more
    }
    let Some(refusal) = refusal else { return };
    let fields = refusal_fields(exchange, &refusal);
    if unanswered && refusal.answer(session, exchange.id(), &fields).await.is_err() {
        tracing::debug!(reason = refusal.reason().code, "the client left before it was refused");
    }
    exchange.refusal = Some(refusal);
}

/// The refusal that an error amounts to; `None` where the client is gone.
fn refusal_of(error: &Error, exchange: &Exchange) -> Option<Refusal> {
    match error.esource() {
        ErrorSource::Upstream if *error.etype() == ErrorType::ReadTimedout => {
            Some(Refusal::Failed(Fault::Timeout))
        }
        ErrorSource::Upstream => Some(Refusal::Failed(exchange.tries.fault.unwrap_or(Fault::BrokeOff))),
        ErrorSource::Downstream => match error.etype() {
            ErrorType::ReadTimedout => Some(Refusal::BodyStalled),
            ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Some(Refusal::Body),
            _ => None,
        },
        // Sessions do not say whose fault it is that the client takes no more.
        ErrorSource::Unset if matches!(error.etype(), ErrorType::WriteError | ErrorType::WriteTimedout) => {
            None
        }
        ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal),
    }
}
