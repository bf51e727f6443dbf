//! What certification authorities ask for to see that a host is ours (HTTP-01, RFC 8555 section 8.3).
//!
//! It comes before redirects, routes and limits, in the clear or over TLS, as an authority follows redirects that were made
//! on the way. A token that is not of this gateway's goes on to the routes: a server behind it may have one of its own.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;

use crate::exchange::Exchange;
use crate::listen::{Edge, Session};

use super::answer;

/// Where authorities look, with a token after it.
const PLACE: &str = "/.well-known/acme-challenge/";

/// Whether this path is one where they look.
pub(super) fn is_asked(path: &str) -> bool {
    path.starts_with(PLACE)
}

/// Shows the proof that is asked for; `false` if none is, or it is not ours.
pub(super) async fn prove(session: &mut Session, exchange: &Exchange, edge: &Edge) -> Result<bool> {
    let Some(text) = proof(session, exchange, edge).await else { return Ok(false) };
    let mut head = ResponseHeader::build_no_case(StatusCode::OK, Some(4))?;
    head.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    for (name, value) in answer::own_fields(exchange) {
        head.insert_header(name, value)?;
    }
    answer::send(session, head, Bytes::from(text)).await?;
    Ok(true)
}

async fn proof(session: &Session, exchange: &Exchange, edge: &Edge) -> Option<String> {
    let token = exchange.asked.as_ref()?.path.strip_prefix(PLACE)?;
    if !matches!(session.req_header().method, Method::GET | Method::HEAD) {
        return None;
    }
    edge.prover()?.of_token(token).await
}
