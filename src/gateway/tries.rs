//! The tries of a request: a server for each, and whether a failure is worth another.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use http::{StatusCode, Uri, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use crate::cache::policy;
use crate::exchange::Exchange;
use crate::forward::{self, CertificateFacts, ClientFacts, hop};
use crate::refusal::{Fault, Refusal};
use crate::route::path;
use crate::upstream::{Failure, peer, retry_after};

use super::{affinity, place, websocket};

/// Chooses a server: for the first try after taking a place with the upstream, for each that follows after a pause.
pub(super) async fn next_server(
    request: &RequestHeader,
    exchange: &mut Exchange,
) -> Result<Box<HttpPeer>, Refusal> {
    if exchange.tries.upstream.is_none() {
        let Some(forward) = exchange.forward() else { return Err(Refusal::Internal) };
        let upstream = forward.split.choose().clone();
        // Told first, so that the access line names it also where there is no place.
        exchange.tries.upstream = Some(upstream.clone());
        upstream.would_send().map_err(Refusal::NoServer)?;
        let left = exchange.time_left().unwrap_or(Duration::MAX);
        let turn = tokio::time::timeout(left, upstream.admit()).await;
        let turn = turn.map_err(|_elapsed| Refusal::Failed(Fault::Timeout))?;
        exchange.tries.permit = Some(turn.map_err(Refusal::Saturated)?);
        exchange.tries.end = exchange.time_left().map(|left| Instant::now() + left);
    } else {
        let pause = exchange.tries.backoff;
        tokio::time::sleep(exchange.time_left().map_or(pause, |left| pause.min(left))).await;
    }

    let left = exchange.time_left();
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Refusal::Failed(Fault::Timeout));
    }
    let (Some(upstream), Some(timeouts), Some(asked)) =
        (&exchange.tries.upstream, exchange.timeouts(), &exchange.asked)
    else {
        return Err(Refusal::Internal);
    };
    let affinity = affinity::of(upstream, request, asked, &exchange.named);
    let lease = upstream.pick(&exchange.tries.tried, affinity).map_err(|why| match exchange.tries.fault {
        // Nobody else to ask: how the last one failed says more.
        Some(fault) => Refusal::Failed(fault),
        None => Refusal::NoServer(why),
    })?;
    let peer = peer::http_peer(&lease, &timeouts, left).map_err(|_| Refusal::Failed(Fault::Unreachable))?;
    let cookie = affinity::cookie(upstream, &lease, affinity.server);
    exchange.tries.begin(lease, cookie);
    Ok(Box::new(peer))
}

/// No connection to the server could be made.
pub(super) fn not_connected(exchange: &mut Exchange, mut error: Box<Error>) -> Box<Error> {
    exchange.tries.fault = Some(match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Fault::ConnectTimeout,
        _ => Fault::Unreachable,
    });
    // Nothing was sent, so any request may be sent elsewhere, whatever its method (RFC 9110 §9.2.2).
    let backoff = exchange.tries.failed(Failure::Connect, true);
    error.set_retry(backoff.is_some());
    exchange.tries.backoff = backoff.unwrap_or_default();
    error
}

/// The server failed in mid-exchange; what the client did is no server's failure.
pub(super) fn broken(
    session: &mut Session,
    exchange: &mut Exchange,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
        return error; // decided where the answer came in
    }
    error.set_retry(false);
    if session.is_upgrade_req()
        && session.response_written().is_none()
        && *error.etype() == ErrorType::ReadTimedout
    {
        error.as_up(); // the session tells the time for the server: see `websocket::bound_word`
    }
    if let Some(fault) = fault_of(&error) {
        // A request that would change the protocol has no body, and yet may go on.
        let body_goes_on = !session.is_body_done() && !session.is_upgrade_req();
        if fault == Fault::Timeout && body_goes_on && session.response_written().is_none() {
            // The server waits for the rest of the request as we do: nothing is said of it.
            exchange.tries.lease = None;
            exchange.refusal = Some(Refusal::BodyStalled);
            return error;
        }
        if fault == Fault::Timeout && exchange.lasting {
            exchange.tries.lease = None; // silence is what lasts, and no failure
            return error;
        }
        exchange.tries.fault = Some(fault);
        let repeatable = is_repeatable(session);
        let tries = &mut exchange.tries;
        let backoff = match fault {
            // Servers close connections that were idle for long, now and then just when a request is on its way.
            Fault::BrokeOff if reused && tries.waited.is_none() => tries.found_closed(repeatable),
            Fault::Timeout => tries.failed(Failure::Timeout, repeatable),
            _ => tries.failed(Failure::Reset, repeatable),
        };
        error.set_retry(backoff.is_some());
        exchange.tries.backoff = backoff.unwrap_or_default();
    }
    error
}

/// Ends a try whose answer nobody may see.
pub(super) fn sound(exchange: &Exchange, answer: &ResponseHeader) -> pingora::Result<()> {
    if hop::is_sound(answer, exchange.upgrades) {
        return Ok(());
    }
    Err(Error::explain(ErrorType::InvalidHTTPHeader, "an answer that is read in more than one way").into_up())
}

/// Settles a try by the head of its answer. An error asks for another; anything else is passed on.
pub(super) fn answered(
    session: &mut Session,
    exchange: &mut Exchange,
    answer: &ResponseHeader,
) -> pingora::Result<()> {
    let status = answer.status;
    exchange.changed_protocol = status == StatusCode::SWITCHING_PROTOCOLS;
    exchange.lasting = exchange.changed_protocol || policy::is_event_stream(&answer.headers);
    if exchange.changed_protocol {
        websocket::opened(session, exchange);
    }
    if !worth_another(exchange, answer, is_repeatable(session)) {
        return Ok(());
    }
    let mut error = Error::explain(ErrorType::HTTPStatus(status.as_u16()), "worth another try").into_up();
    error.set_retry(true);
    Err(error)
}

/// Settles a try by the head of its answer; whether another follows, and the answer is forgotten.
pub(super) fn worth_another(exchange: &mut Exchange, answer: &ResponseHeader, repeatable: bool) -> bool {
    let tries = &mut exchange.tries;
    let on = tries.upstream.as_ref().map(|upstream| upstream.settings().retries.on).unwrap_or_default();
    let Some(failure) = Failure::of_status(answer.status.as_u16(), &on) else {
        tries.answered();
        return false;
    };
    let told = retry_after(&answer.headers, SystemTime::now());
    let Some(backoff) = tries.answered_badly(failure, repeatable, told) else { return false };
    tries.backoff = backoff;
    tries.fault = Some(Fault::BrokeOff);
    true
}

/// Whether all of the request may be sent once more: nothing changes by asking twice, its body is still here, and the
/// client has seen nothing of an answer.
fn is_repeatable(session: &Session) -> bool {
    let client = session.as_ref();
    session.req_header().method.is_idempotent()
        && !client.retry_buffer_truncated()
        && final_head(session).is_none()
}

/// The head of the answer that the client got; a 100 or a 103 is none (RFC 9110 §15.2).
pub(super) fn final_head(session: &Session) -> Option<&ResponseHeader> {
    let is_final =
        |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|head| is_final(head.status))
}

/// How an error in mid-exchange is the server's; `None` if it is not.
pub(super) fn fault_of(error: &Error) -> Option<Fault> {
    if *error.esource() != ErrorSource::Upstream {
        return None;
    }
    Some(fault(error.etype()))
}

/// How an exchange with a server ended.
pub(super) fn fault(kind: &ErrorType) -> Fault {
    match kind {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Fault::Timeout,
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 => Fault::Invalid,
        _ => Fault::BrokeOff,
    }
}

/// Writes the request that came as the server is to see it.
pub(super) fn pass_on(
    came: &RequestHeader,
    request: &mut RequestHeader,
    exchange: &Exchange,
) -> Result<(), Refusal> {
    let (Some(route), Some(asked), Some(forward)) = (&exchange.route, &exchange.asked, exchange.forward())
    else {
        return Err(Refusal::Internal);
    };
    let facts = ClientFacts {
        peer: asked.peer,
        peer_trusted: asked.trusted,
        scheme: asked.scheme,
        host: &asked.host,
        port: asked.port,
        http_version: came.version,
    };
    hop::strip_request(request);
    forward::identify(request, &facts, &asked.id);
    let path = forward.path.apply(&asked.path);
    let path = path::normalise_rewritten(&path).map_err(Refusal::Path)?;
    request.set_uri(target(came, &path).ok_or(Refusal::Internal)?);
    // In the form by which it was routed and stored: no spelling of one client's is answered to another.
    let host = match (forward.host_of_server, &exchange.tries.lease) {
        (true, Some(lease)) => Cow::Borrowed(&**lease.server().authority()),
        _ => place::authority(came, asked),
    };
    if request.headers.get(header::HOST).is_none_or(|came| came.as_bytes() != host.as_bytes()) {
        request.insert_header(header::HOST, &*host).map_err(|_| Refusal::Internal)?;
    }
    let certificate = asked.certificate.as_deref().map(|client| CertificateFacts {
        subject: &client.subject,
        issuer: &client.issuer,
        sans: &client.sans,
        serial: &client.serial,
        fingerprint: &client.fingerprint,
        der: &client.certificate,
    });
    route.request_edit.request(request, certificate.as_ref());
    Ok(())
}

/// The target in origin form: the normal form of the path, and the query as it came, but for what HTTP/1 does not let
/// stand there.
fn target(came: &RequestHeader, normal: &str) -> Option<Uri> {
    match came.uri.query() {
        Some(query) => format!("{normal}?{}", path::escape_query(query)).parse().ok(),
        None => normal.parse().ok(),
    }
}

/// Whether body and time are still within their bounds.
pub(super) fn within_bounds(exchange: &Exchange) -> Result<(), Refusal> {
    let limit = exchange.route.as_ref().map_or(u64::MAX, |route| route.max_body);
    // What flows after a change of protocol is no request body.
    if exchange.body_bytes > limit && !exchange.changed_protocol {
        return Err(Refusal::BodyTooLarge { limit });
    }
    match exchange.time_left() {
        Some(left) if left.is_zero() => Err(Refusal::Failed(Fault::Timeout)),
        _ => Ok(()),
    }
}
