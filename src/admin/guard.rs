//! What every request to the admin listener must pass, and what every answer carries.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

/// The address of ours that a connection came to; none for a socket of the file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local(pub(super) Option<IpAddr>);

/// Said by every answer.
const ALWAYS: [(HeaderName, HeaderValue); 4] = [
    // What is shown is true now and not later.
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    // Pages of other sites can neither guess a type that suits them, nor embed an answer, nor have one run scripts.
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("content-security-policy"), HeaderValue::from_static("default-src 'none'")),
];

/// The pages that change something. They take POST, and everything else is read.
pub(super) const PURGE: &str = "/purge";
pub(super) const REVOKED: &str = "/revoked";
/// These are read as well.
pub(super) const RELOAD: &str = "/reload";
pub(super) const UPSTREAMS: &str = "/upstreams";
pub(super) const QUOTAS: &str = "/quotas";

/// Refuses what is neither a plain read nor an order, and what is not addressed to this listener.
pub(super) async fn check(
    State(token): State<Option<Arc<str>>>,
    Extension(local): Extension<Local>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match refusal(&request, local.0, token.as_deref()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    response.headers_mut().extend(ALWAYS);
    response
}

fn refusal(request: &Request, local: Option<IpAddr>, token: Option<&str>) -> Option<Problem> {
    match host(request) {
        None => return Some(Problem::new(StatusCode::BAD_REQUEST, "the request must name one host")),
        // A page on the web can point its own name at 127.0.0.1 and then read what is here as its own. The name it
        // came by stays in `Host`, and is not one of ours.
        // Whoever has the token, or the right to open the file, is no such page.
        Some(host) if token.is_none() && local.is_some_and(|local| !is_ours(&host, local)) => {
            return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, "ask by a loopback name or address"));
        }
        Some(_) => {}
    }
    // Probes have no token, and learn no more than whether to send requests.
    let open = matches!(request.uri().path(), "/health" | "/ready");
    if let Some(token) = token.filter(|_| !open)
        && !carries(request, token)
    {
        return Some(Problem::new(StatusCode::UNAUTHORIZED, "the admin token is needed"));
    }
    let method = request.method();
    match request.uri().path() {
        PURGE | REVOKED | RELOAD | UPSTREAMS | QUOTAS if *method == Method::POST => None,
        PURGE | REVOKED => Some(Problem::NotAllowed { allow: "POST" }),
        _ if matches!(*method, Method::GET | Method::HEAD) => None,
        RELOAD | UPSTREAMS | QUOTAS => Some(Problem::NotAllowed { allow: "GET, HEAD, POST" }),
        _ => Some(Problem::NotAllowed { allow: "GET, HEAD" }),
    }
}

/// Whether the request carries the token (RFC 6750 §2.1). Takes as long whichever byte is wrong.
fn carries(request: &Request, token: &str) -> bool {
    let field = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let Some(given) = field.strip_prefix(b"Bearer ") else { return false };
    let differ = given.iter().zip(token.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && differ == 0
}

/// The host that was asked for, without its port: of the request target if it has one, else the one of `Host`
/// (RFC 9112 §3.2.2).
fn host(request: &Request) -> Option<String> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => Authority::try_from(field.as_bytes()).ok()?,
        _ => return None,
    };
    let asked = request.uri().authority().unwrap_or(&field);
    Some(asked.host().trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// True for `localhost`, loopback addresses, and the address that the connection came to. Ports do not matter: a
/// tunnel may have its own.
fn is_ours(host: &str, local: IpAddr) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || address.to_canonical() == local.to_canonical(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// A "no" as RFC 9457 writes it.
#[derive(Debug)]
pub(super) enum Problem {
    /// A status and what is wrong.
    Because(StatusCode, Cow<'static, str>),
    /// A method that the page does not take; `allow` are those that it does (RFC 9110 §15.5.6).
    NotAllowed { allow: &'static str },
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Because(status, detail.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, detail, field) = match self {
            Self::Because(StatusCode::UNAUTHORIZED, detail) => {
                (StatusCode::UNAUTHORIZED, detail, Some((WWW_AUTHENTICATE, "Bearer")))
            }
            Self::Because(status, detail) => (status, detail, None),
            Self::NotAllowed { allow } => {
                let detail = format!("this page takes {}", allow.replace(", ", " and "));
                (StatusCode::METHOD_NOT_ALLOWED, detail.into(), Some((ALLOW, allow)))
            }
        };
        let title = status.canonical_reason().unwrap_or_default();
        let body = Json(
            json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail }),
        );
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        let field = field.map(|(name, value)| (name, HeaderValue::from_static(value)));
        response.headers_mut().extend(field);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_addresses_of_this_machine_are_ours() {
        let local = IpAddr::from([127, 0, 0, 1]);
        for host in ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_ours(host, local), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "::", "0.0.0.0"]
        {
            assert!(!is_ours(host, local), "{host}");
        }
        assert!(is_ours("10.0.0.1", IpAddr::from([10, 0, 0, 1])));
    }
}
