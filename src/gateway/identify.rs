//! Who asks: found out before anything is answered, and told to upstreams by fields that nobody else can set.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use pingora::http::RequestHeader;

use crate::auth::{Certificate, Credentials, Identified};
use crate::exchange::{Asked, Exchange};
use crate::forward::Change as _;
use crate::refusal::Refusal;

/// Finds out who asks, where the route asks for callers, and whether they may come in.
pub(super) async fn identify(request: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    let Some(asked) = &exchange.asked else { return Err(Refusal::Internal) };
    let Some(door) = exchange.route.as_ref().and_then(|route| route.door.as_ref()) else { return Ok(()) };
    let identified = door.identify(&credentials(request, asked)).await;
    let admitted = door.admit(&request.method, &identified);
    note(identified, exchange)?;
    admitted.map_err(Refusal::Denied)
}

/// The same, where nothing has to be verified for it; `None` where something has, or the caller may not come in.
pub(super) fn recall(request: &RequestHeader, exchange: &mut Exchange) -> Option<()> {
    let Some(door) = exchange.route.as_ref()?.door.as_ref() else { return Some(()) };
    let identified = door.recall(&credentials(request, exchange.asked.as_ref()?))?;
    door.admit(&request.method, &identified).ok()?;
    note(identified, exchange).ok()
}

/// What a request shows of who asks.
pub(super) fn credentials<'a>(request: &'a RequestHeader, asked: &'a Asked) -> Credentials<'a> {
    let certificate = asked.certificate.as_deref().map(|client| Certificate {
        subject: &client.subject,
        common_name: client.common_name.as_deref(),
        sans: &client.sans,
        fingerprint: &client.fingerprint,
    });
    Credentials { fields: &request.headers, certificate }
}

/// Counts a caller who was recalled, for a request that is answered.
pub(super) fn count_recalled(exchange: &Exchange) {
    let door = exchange.route.as_ref().and_then(|route| route.door.as_ref());
    if let (Some(door), Some(caller)) =
        (door, exchange.asked.as_ref().and_then(|asked| asked.caller.as_ref()))
    {
        door.count(caller);
    }
}

/// Notes the caller, also of a request that is refused: the access line has it.
fn note(identified: Identified, exchange: &mut Exchange) -> Result<(), Refusal> {
    let asked = exchange.asked.as_mut().and_then(Arc::get_mut).ok_or(Refusal::Internal)?;
    asked.caller = identified.ok().flatten();
    Ok(())
}

/// Writes onto a request who asks: fields by which upstreams are told of callers are the gateway's own, on every route.
pub(super) fn tell(request: &mut RequestHeader, exchange: &Exchange) {
    for name in &exchange.plan.identity_fields {
        request.remove(name);
    }
    for (name, value) in fields(exchange) {
        request.set(name, value.clone());
    }
}

/// Takes what was for the gateway alone out of a request that goes to a server.
pub(super) fn keep_back(request: &mut RequestHeader, exchange: &Exchange) {
    for name in key_fields(exchange) {
        request.remove(name);
    }
}

/// Whether a field is the gateway's own to write, or for the gateway alone.
pub(super) fn is_ours(name: &HeaderName, exchange: &Exchange) -> bool {
    exchange.plan.identity_fields.contains(name) || key_fields(exchange).contains(name)
}

fn key_fields(exchange: &Exchange) -> &[HeaderName] {
    let door = exchange.route.as_ref().and_then(|route| route.door.as_ref());
    door.map_or(&[], |door| door.key_fields())
}

/// The request with that, as the cache is to see it: by these fields answers may differ, too.
pub(super) fn told<'a>(request: &'a RequestHeader, exchange: &Exchange) -> Cow<'a, RequestHeader> {
    let claimed = exchange.plan.identity_fields.iter().any(|name| request.headers.contains_key(name));
    if !claimed && fields(exchange).is_empty() {
        return Cow::Borrowed(request);
    }
    let mut request = request.clone();
    tell(&mut request, exchange);
    Cow::Owned(request)
}

fn fields(exchange: &Exchange) -> &[(HeaderName, http::HeaderValue)] {
    let caller = exchange.asked.as_ref().and_then(|asked| asked.caller.as_ref());
    caller.map_or(&[], |caller| caller.fields())
}
