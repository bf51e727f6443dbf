//! The method `PURGE`, where the configuration turns it on: all answers of a URL are forgotten, on every node.

use bytes::Bytes;
use http::{Method, header};
use pingora::Result;
use pingora::http::ResponseHeader;

use crate::cache::{Purge, Tiers};
use crate::exchange::Exchange;
use crate::listen::Session;
use crate::refusal::Refusal;
use crate::route::NotFound;
use crate::telemetry::PurgeOrigin;

use super::{answer, place};

/// Carries out a `PURGE`; `false` if the request is none, or the method is one like any other here.
pub(super) async fn purge(
    session: &mut Session,
    exchange: &mut Exchange,
    tiers: &'static Tiers,
) -> Result<bool> {
    let Some(from) = &exchange.plan.cache.purge_from else { return Ok(false) };
    let (request, Some(asked)) = (session.req_header(), exchange.asked.clone()) else { return Ok(false) };
    if request.method.as_str() != "PURGE" {
        return Ok(false);
    }
    if !from.iter().any(|network| network.contains(&asked.client)) {
        answer::refusal(session, exchange, Refusal::MayNotPurge).await?;
        return Ok(true);
    }
    let found = exchange.plan.routes.find(&asked.host, &asked.path, &Method::GET);
    let route = match found {
        Ok(route) => route.clone(),
        Err(not_found) => {
            answer::refusal(session, exchange, Refusal::NotFound(not_found)).await?;
            return Ok(true);
        }
    };
    let Some(rules) = route.cache.clone() else {
        exchange.route = Some(route);
        let no_method = Refusal::NotFound(NotFound::Method { allow: Vec::new() });
        answer::refusal(session, exchange, no_method).await?;
        return Ok(true);
    };
    let origin = place::Origin::of(request, &asked);
    let target = origin.in_words(&asked.path, request.uri.query());
    let targets = place::purge_targets(&rules, &exchange.plan, &target, &request.headers);
    exchange.route = Some(route);
    for target in targets {
        tiers.purge_and_tell(&Purge { target, soft: false }, PurgeOrigin::Method).await;
    }
    purged(session, exchange).await?;
    Ok(true)
}

async fn purged(session: &mut Session, exchange: &Exchange) -> Result<()> {
    let mut head = ResponseHeader::build_no_case(200, Some(4))?;
    head.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    for (name, value) in answer::own_fields(exchange) {
        head.insert_header(name, value)?;
    }
    answer::send(session, head, Bytes::from_static(b"purged\n")).await
}
