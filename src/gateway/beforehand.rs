//! Browsers that ask beforehand whether a page of another origin may make a request (a CORS preflight).
//!
//! They ask without saying who their user is, so identity and limits are for the request that follows.

use bytes::Bytes;
use pingora::Result;
use pingora::http::ResponseHeader;

use crate::exchange::Exchange;
use crate::forward::cors;
use crate::listen::Session;
use crate::refusal::Refusal;

use super::{admit, answer};

/// Answers it, where the route of the request that is to follow has rules for that; `false` if not: then it is a request
/// like any other.
pub(super) async fn answer(session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    let request = session.req_header();
    let Some(method) = cors::asked_beforehand(&request.method, &request.headers) else { return Ok(false) };
    let Some(asked) = &exchange.asked else { return Ok(false) };
    let Ok(route) = exchange.plan.routes.find(&asked.host, &asked.path, &method) else { return Ok(false) };
    let Some(rules) = &route.cors else { return Ok(false) };
    let told = rules.beforehand(&method, &request.headers).map_err(|_| Refusal::Origin);
    exchange.route = Some(route.clone());
    let fields = match admit::check_address(exchange).and(told) {
        Ok(fields) => fields,
        Err(refusal) => return answer::refusal(session, exchange, refusal).await.map(|()| true),
    };
    let mut head = ResponseHeader::build_no_case(204, Some(8))?;
    for (name, value) in answer::own_fields(exchange).chain(fields) {
        head.insert_header(name, value)?;
    }
    answer::send(session, head, Bytes::new()).await?;
    Ok(true)
}
