//! Answers that the gateway writes itself: redirects, fixed words, and what follows a failure.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::cache::status::{self, Member};
use crate::exchange::{Asked, Exchange, Tries};
use crate::plan::template::Facts;
use crate::plan::{Action, Template};
use crate::refusal::{Fault, Refusal};
use crate::route::path;

use super::tries::{fault_of, final_head};

/// Fields that every answer of an exchange carries, whoever made it.
pub(super) fn own_fields(exchange: &Exchange) -> Vec<(HeaderName, HeaderValue)> {
    let mut own = Vec::with_capacity(3);
    if let Ok(id) = HeaderValue::from_str(exchange.id()) {
        own.push((HeaderName::from_static("x-request-id"), id));
    }
    let limits = exchange.route.as_ref().and_then(|route| route.limits.as_ref());
    if let (Some(limits), Some(standing)) = (limits, &exchange.standing) {
        own.push((HeaderName::from_static("ratelimit-policy"), limits.policies().clone()));
        own.push((HeaderName::from_static("ratelimit"), standing.rate_limit()));
    }
    own
}

/// Fields of a "no": those, and what the cache has to say.
fn refusal_fields(
    session: &Session,
    exchange: &Exchange,
    refusal: &Refusal,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = own_fields(exchange);
    let caches = exchange.forward().is_some() && exchange.route.as_ref().is_some_and(|it| it.cache.is_some());
    let member = match &exchange.cache {
        // What broke off after its head was stored is not stored.
        Some(asking) => Some(Member { stored: false, ..asking.member(&session.cache) }.value()),
        None => caches.then(|| status::unasked(refusal.reason().code)),
    };
    fields.extend(member.map(|member| (HeaderName::from_static("cache-status"), member)));
    fields
}

/// Answers a route that needs no upstream; `false` if it does.
pub(super) async fn at_once(session: &mut Session, exchange: &Exchange) -> Result<bool> {
    let (Some(route), Some(asked)) = (&exchange.route, &exchange.asked) else { return Ok(false) };
    let (mut head, body) = match &route.action {
        Action::Forward(_) => return Ok(false),
        Action::Redirect { status, to } => (redirect(*status, &target(to, asked, session))?, Bytes::new()),
        Action::Respond { status, content_type, body } => {
            let mut head = ResponseHeader::build_no_case(*status, Some(8))?;
            head.insert_header(header::CONTENT_TYPE, content_type.clone())?;
            (head, body.clone())
        }
    };
    for (name, value) in own_fields(exchange) {
        head.insert_header(name, value)?;
    }
    route.response_edit.response(&mut head);
    send(session, head, body).await
}

/// Answers with a "no".
pub(super) async fn refusal(
    session: &mut Session,
    exchange: &mut Exchange,
    refusal: Refusal,
) -> Result<bool> {
    let refusal = exchange.refusal.insert(refusal).clone();
    let fields = refusal_fields(session, exchange, &refusal);
    refusal.answer(session, exchange.id(), &fields).await?;
    Ok(true)
}

/// Sends a client that came in the clear to the same place over TLS.
pub(super) async fn to_https(session: &mut Session, exchange: &Exchange, port: u16) -> Result<bool> {
    let Some(asked) = &exchange.asked else { return Ok(false) };
    let host = if port == 443 { asked.host.clone() } else { format!("{}:{port}", asked.host) };
    let query = query(session).map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("https://{host}{}{query}", asked.path);
    let mut head = redirect(StatusCode::PERMANENT_REDIRECT, &to)?;
    for (name, value) in own_fields(exchange) {
        head.insert_header(name, value)?;
    }
    send(session, head, Bytes::new()).await
}

/// Labels an answer that came from an upstream or the store.
pub(super) fn label(session: &Session, answer: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    for (name, value) in own_fields(exchange) {
        answer.insert_header(name, value)?;
    }
    if let Some(route) = &exchange.route {
        route.response_edit.response(answer);
    }
    if let Some(asking) = &exchange.cache {
        asking.finish(&session.cache, answer);
    }
    Ok(())
}

/// Frames an answer of unknown length for HTTP/1.0, which knows no chunks: it ends with the connection (RFC 9112 §6.1).
pub(super) fn frame_for_old_clients(session: &mut Session, answer: &mut ResponseHeader) {
    let old = session.req_header().version < Version::HTTP_11;
    if old && answer.remove_header(&header::TRANSFER_ENCODING).is_some() {
        session.set_keepalive(None);
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

async fn send(session: &mut Session, mut head: ResponseHeader, body: Bytes) -> Result<bool> {
    let without_body = session.req_header().method == Method::HEAD || body.is_empty();
    head.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
    session.write_response_header(Box::new(head), without_body).await?;
    if !without_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(true)
}

/// Answers a request that ended in an error, if its client can still be answered; the status, or 0.
pub(super) async fn failure(session: &mut Session, error: &Error, exchange: &mut Exchange) -> u16 {
    let refusal = exchange.refusal.take().or_else(|| refusal_of(error, exchange));
    // No further request is read: what the client sent of this one may still be on its way.
    session.set_keepalive(None);
    let Some(refusal) = refusal else { return 0 };
    let status = refusal.reason().status.as_u16();
    let unanswered = final_head(session).is_none();
    let fields = refusal_fields(session, exchange, &refusal);
    if unanswered && refusal.answer(session, exchange.id(), &fields).await.is_err() {
        tracing::debug!(reason = refusal.reason().code, "the client left before it was refused");
    }
    exchange.refusal = Some(refusal);
    status
}

/// Reads what is left of a body that was refused half-way, for a while: to close a connection with bytes unread is to
/// reset it, and a client that still sends would lose the answer (RFC 9112 §9.6).
///
/// A connection that is kept is read to the end of the body anyway, and an HTTP/2 stream ends alone.
pub(super) async fn await_the_rest(session: &mut Session, exchange: &mut Exchange) {
    let asked = session.req_header();
    let framed =
        !matches!(exchange.refusal, None | Some(Refusal::Head(_) | Refusal::Body | Refusal::BodyStalled));
    // Who asked first was told not to send.
    let announced = asked.headers.contains_key(header::EXPECT) && session.body_bytes_read() == 0;
    if framed && !announced && !session.is_http2() && session.get_keepalive().is_none() {
        exchange.tries = Tries::default(); // the server need not wait, too
        // The bound is the drain timeout of the session; a client that left or breaks off loses nothing.
        let _ = session.drain_request_body().await;
    }
}

/// The refusal that an error amounts to; `None` where the client is gone.
fn refusal_of(error: &Error, exchange: &Exchange) -> Option<Refusal> {
    match error.esource() {
        ErrorSource::Upstream => {
            let fault = exchange.tries.fault.or_else(|| fault_of(error));
            Some(Refusal::Failed(fault.unwrap_or(Fault::BrokeOff)))
        }
        ErrorSource::Downstream => match error.etype() {
            ErrorType::ReadTimedout => Some(Refusal::BodyStalled),
            ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Some(Refusal::Body),
            _ => None,
        },
        ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal),
    }
}
