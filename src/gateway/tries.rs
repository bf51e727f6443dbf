//! The tries of a request: a server for each, and whether a failure is worth another.

use std::time::Instant;

use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use crate::exchange::Exchange;
use crate::forward::{self, hop, identify};
use crate::refusal::Refusal;
use crate::upstream::{Failure, peer};

/// Chooses a server: for the first try after taking a place in the upstream's queue, for the next after a pause.
pub(super) async fn next_server(exchange: &mut Exchange) -> Result<Box<HttpPeer>, Refusal> {
    let Some(forward) = exchange.forward() else { return Err(Refusal::Internal) };
    let own = forward.timeouts;
    if exchange.tries.upstream.is_none() {
        let upstream = forward.split.choose().clone();
        let permit = upstream.admit().await;
        exchange.tries.permit = Some(permit.map_err(|_| Refusal::Saturated { upstream: upstream.name().clone() })?);
        exchange.tries.upstream = Some(upstream);
    } else {
        tokio::time::sleep(exchange.tries.backoff).await;
    }

    let left = exchange.time_left();
    let tries = &mut exchange.tries;
    let Some(upstream) = &tries.upstream else { return Err(Refusal::Internal) };
    let name = upstream.name().clone();
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Refusal::TimedOut { upstream: name });
    }
    let lease = match upstream.pick(&tries.tried) {
        Ok(lease) => lease,
        Err(why) => {
            return Err(match tries.failure {
                // Nobody else to ask: what the last one did is the more useful answer.
                Some(failure) => Refusal::Failed { upstream: name, failure },
                None => Refusal::NoServer { upstream: name, why },
            });
        }
    };
    let timeouts = own.unwrap_or(*upstream.timeouts());
    let peer = peer::http_peer(&lease, &timeouts, left);
    tries.begin(lease);
    Ok(Box::new(peer))
}

/// Notes a failed try, and marks the error for another where that is allowed.
pub(super) fn try_again(
    session: &Session,
    exchange: &mut Exchange,
    failure: Failure,
    mut error: Box<Error>,
) -> Box<Error> {
    exchange.tries.failed(failure);
    // A request of which nothing was sent may be sent anew, whatever its method (RFC 9110 §9.2.2).
    let nothing_sent = matches!(failure, Failure::Connect | Failure::ConnectTimeout);
    let replayable = session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
    let unanswered = session.as_ref().response_written().is_none();
    let allowed = unanswered && (nothing_sent || replayable);
    let backoff = if allowed { exchange.tries.may_retry(failure) } else { None };
    error.set_retry(backoff.is_some());
    exchange.tries.backoff = backoff.unwrap_or_default();
    error
}

/// What an error in mid-exchange says of the server; `None` if it is not the server's doing.
pub(super) fn failure_of(error: &Error) -> Option<Failure> {
    if *error.esource() != ErrorSource::Upstream || matches!(error.etype(), ErrorType::HTTPStatus(_)) {
        return None;
    }
    Some(match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::Timeout,
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 => Failure::Invalid,
        _ => Failure::Reset,
    })
}

/// Writes the request as the server is to see it.
pub(super) fn pass_on(
    session: &Session,
    request: &mut RequestHeader,
    exchange: &Exchange,
) -> Result<(), Refusal> {
    let (Some(route), Some(asked), Some(forward)) = (&exchange.route, &exchange.asked, exchange.forward())
    else {
        return Err(Refusal::Internal);
    };
    let facts = forward::Facts {
        client: asked.client,
        trusted: asked.trusted,
        scheme: asked.scheme,
        host: &asked.host,
        port: asked.port,
        request_id: &asked.id,
        version: session.req_header().version,
    };
    hop::strip_request(request);
    identify(request, &facts).map_err(|_| Refusal::Internal)?;
    forward::target(request, &forward.path.apply(&asked.path)).map_err(|_| Refusal::Internal)?;
    if let (true, Some(server)) = (forward.host_of_server, &exchange.tries.server) {
        request.insert_header(http::header::HOST, &**server).map_err(|_| Refusal::Internal)?;
    }
    route.request_edit.request(request).map_err(|_| Refusal::Internal)
}

/// Whether body and time are still within their bounds.
pub(super) fn within_bounds(exchange: &Exchange) -> Result<(), Refusal> {
    let limit = exchange.route.as_ref().map_or(u64::MAX, |route| route.max_body);
    if exchange.body_bytes > limit {
        return Err(Refusal::BodyTooLarge { limit });
    }
    match (&exchange.tries.upstream, exchange.time_left()) {
        (Some(upstream), Some(left)) if left.is_zero() => {
            Err(Refusal::TimedOut { upstream: upstream.name().clone() })
        }
        _ => Ok(()),
    }
}

impl crate::exchange::Tries {
    fn begin(&mut self, lease: crate::upstream::Lease) {
        self.count += 1;
        self.tried.add(&lease);
        self.server = Some(lease.server().name().clone());
        self.began = Some(Instant::now());
        self.lease = Some(lease);
    }
}
