//! The tries of a request: a server for each, and whether a failure is worth another.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::{StatusCode, Uri, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::upstreams::peer::HttpPeer;

use crate::cache::policy;
use crate::exchange::Exchange;
use crate::forward::{self, CertificateFacts, ClientFacts, hop};
use crate::listen::Session;
use crate::refusal::{Fault, Refusal};
use crate::route::path;
use crate::upstream::{Failure, peer, retry_after};

use super::turn::{self, Stop, Waiting};
use super::{affinity, identify, own_writes, place};

/// Chooses a server: for the first try after taking a place with the upstream, for each that follows after a pause.
pub(super) async fn next_server<W: Waiting + ?Sized>(
    waiting: &mut W,
    exchange: &mut Exchange,
) -> Result<Box<HttpPeer>, Stop<W::Left>> {
    // Whatever an answer was that is not passed on.
    exchange.lasting = false;
    if let Some(upstream) = exchange.tries.upstream.clone() {
        turn::next(waiting, exchange, &upstream).await?;
    } else {
        let Some(forward) = exchange.forward() else { return Err(Refusal::Internal.into()) };
        let upstream = forward.split.choose().clone();
        // Told first, so that the access line names it also where there is no place.
        exchange.tries.upstream = Some(upstream.clone());
        upstream.would_send().map_err(Refusal::NoServer)?;
        turn::first(waiting, exchange, &upstream).await?;
    }
    Ok(choose(waiting.request(), exchange)?)
}

fn choose(request: &RequestHeader, exchange: &mut Exchange) -> Result<Box<HttpPeer>, Refusal> {
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

/// No connection to the server could be made: the refusal, unless another try is worth it.
pub(super) fn not_connected(exchange: &mut Exchange, fault: Fault) -> Result<(), Refusal> {
    given_up(exchange, fault)?;
    // Nothing was sent, so any request may be sent elsewhere, whatever its method (RFC 9110 §9.2.2).
    let backoff = exchange.tries.failed(Failure::Connect, true);
    again(exchange, fault, backoff)
}

/// The server failed in mid-exchange: the refusal, unless another try is worth it.
///
/// `reused`: its connection had served other requests. `repeatable`: all of this one may be sent once more.
pub(super) fn broken(
    exchange: &mut Exchange,
    fault: Fault,
    reused: bool,
    repeatable: bool,
) -> Result<(), Refusal> {
    if fault == Fault::Timeout {
        given_up(exchange, fault)?;
    }
    let tries = &mut exchange.tries;
    if let (Fault::Tls, Some(lease)) = (fault, &tries.lease) {
        lease.server().no_tls(&"the server ended it: it may want a certificate, or another one");
    }
    let backoff = match fault {
        // Servers close connections that were idle for long, now and then just when a request is on its way.
        Fault::BrokeOff if reused && !tries.heard => tries.found_closed(repeatable),
        // It says farewell to all, and nothing of this request.
        Fault::Left => tries.found_leaving(repeatable),
        Fault::Timeout => tries.failed(Failure::Timeout, repeatable),
        _ => tries.failed(Failure::Reset, repeatable),
    };
    again(exchange, fault, backoff)
}

/// Where the client waits no more, the exchange is over, and nothing is said of its server: the client may have waited for next
/// to nothing. The same where the server was not heard in time, and the tries before it had used most of that.
pub(super) fn given_up(exchange: &mut Exchange, fault: Fault) -> Result<(), Refusal> {
    let cut_short = matches!(fault, Fault::ConnectTimeout | Fault::Timeout) && exchange.is_cut_short();
    if !exchange.is_past_deadline() && !cut_short {
        return Ok(());
    }
    exchange.tries.lease = None;
    Err(Refusal::Failed(Fault::Timeout))
}

fn again(exchange: &mut Exchange, fault: Fault, backoff: Option<Duration>) -> Result<(), Refusal> {
    exchange.tries.fault = Some(fault);
    exchange.tries.backoff = backoff.unwrap_or_default();
    backoff.map(drop).ok_or(Refusal::Failed(fault))
}

/// Settles a try by the head of its answer; whether another is to be made in its place.
pub(super) fn answered(exchange: &mut Exchange, answer: &ResponseHeader, repeatable: bool) -> bool {
    let status = answer.status;
    exchange.tries.heard = true;
    exchange.changed_protocol = status == StatusCode::SWITCHING_PROTOCOLS;
    exchange.lasting = exchange.changed_protocol || policy::is_event_stream(&answer.headers);
    let tries = &mut exchange.tries;
    let on = tries.upstream.as_ref().map(|upstream| upstream.settings().retries.on).unwrap_or_default();
    let Some(failure) = Failure::of_status(status.as_u16(), &on) else {
        tries.answered();
        return false;
    };
    let told = retry_after(&answer.headers, SystemTime::now());
    let Some(backoff) = tries.answered_badly(failure, repeatable, told) else { return false };
    tries.backoff = backoff;
    // It did answer: where nobody else can be asked, why not is what is to be told.
    tries.fault = None;
    true
}

/// Whether all of the request may be sent once more: nothing changes by asking twice, or its server has not looked at it for
/// certain; its body is still here, and the client has seen nothing of an answer.
pub(super) fn is_repeatable(session: &Session, fault: Option<Fault>) -> bool {
    (session.req_header().method.is_idempotent() || fault.is_some_and(Fault::is_unprocessed))
        && !session.retry_buffer_truncated()
        && final_head(session).is_none()
}

/// The head of the answer that the client got; a 100 or a 103 is none (RFC 9110 §15.2).
pub(super) fn final_head(session: &Session) -> Option<&ResponseHeader> {
    let is_final =
        |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|head| is_final(head.status))
}

/// The request that came as the server is to see it.
pub(super) fn to_send(came: &RequestHeader, exchange: &Exchange) -> Result<RequestHeader, Refusal> {
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
    let mut request = came.clone();
    hop::strip_request(&mut request);
    forward::identify(&mut request, &facts, &asked.id);
    identify::keep_back(&mut request, exchange);
    identify::tell(&mut request, exchange);
    own_writes::say(&mut request, exchange)?;
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
    route.request_edit.request(&mut request, certificate.as_ref());
    request.set_version(Version::HTTP_11);
    Ok(request)
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
