//! Every "no" of the gateway: one enum, and one place that says what it looks like to the client.
//!
//! Bodies are RFC 9457 problems, or a small page where the client prefers HTML; calls of gRPC get its own. `Proxy-Status`
//! (RFC 9209) repeats the reason for machines. A new refusal without a reason, and so without a status, does not compile.

mod page;
mod grpc;
pub mod reason;
pub mod reference;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::auth::{Denied, Why};
use crate::limit::{Full, No};
use crate::listen::{self, BadHead, Session};
use crate::route::{NotFound, path::BadPath};
use crate::upstream::{NoServer, Saturated};
pub use grpc::is_call as is_grpc_call;
pub use reason::{REASONS, Reason};
pub use reference::reasons_reference;

/// Why the gateway itself answers a request.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The head of the request breaks the rules of HTTP, or its bounds.
    Head(BadHead),
    /// The host is missing or not a host name.
    Host,
    /// The path has no safe normal form.
    Path(BadPath),
    /// No route takes the request.
    NotFound(NotFound),
    /// The client's address may not come in here.
    Address,
    /// No pages of this origin may ask here.
    Origin,
    /// The client has shown no certificate.
    NoClientCert,
    /// The client's certificate may not come in here.
    ClientCert,
    /// The caller has not said who it is, or may not come in here.
    Denied(Denied),
    /// The connection is not one as the host wants it.
    Misdirected,
    /// More was asked than a limit allows, or nobody knows whether it was.
    Limited(No),
    /// As many requests are under way as may be.
    Full(Full),
    /// The body is larger than the route takes.
    BodyTooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// The chunks of the body are malformed.
    Body,
    /// The client stopped sending in the middle of its body.
    BodyStalled,
    /// The request passed this gateway before.
    Loop,
    /// `PURGE`, by a client that may not.
    MayNotPurge,
    /// `only-if-cached`, and it is not.
    NotCached,
    /// No server of the upstream may be chosen.
    NoServer(NoServer),
    /// The upstream's bounds are reached.
    Saturated(Saturated),
    /// The last server that was tried failed.
    Failed(Fault),
    /// A fault of our own.
    Internal,
}

/// How a server failed us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made.
    Unreachable,
    /// No connection could be made in time.
    ConnectTimeout,
    /// There is no TLS with it.
    Tls,
    /// Its certificate is not believed.
    Certificate,
    /// The connection ended before the answer was whole.
    BrokeOff,
    /// What came is not HTTP.
    Invalid,
    /// The answer, or the whole exchange, took too long.
    Timeout,
    /// The server has closed the connection, and not looked at the request.
    Left,
    /// It takes no request now, and has not looked at this one.
    Refused,
}

impl Fault {
    /// Whether the server has done nothing by the request, for certain (RFC 9113 section 8.7).
    pub fn is_unprocessed(self) -> bool {
        matches!(self, Self::Left | Self::Refused)
    }
}

impl Refusal {
    /// The reason: status, code and words that never change.
    pub fn reason(&self) -> &'static Reason {
        match self {
            Self::Body | Self::Head(BadHead::Chunks) => &reason::BAD_BODY,
            Self::Head(BadHead::Encoding) => &reason::CODING_UNKNOWN,
            Self::Head(bad) => match bad.status().as_u16() {
                405 => &reason::METHOD_NOT_ALLOWED,
                408 => &reason::BODY_STALLED,
                413 => &reason::BODY_TOO_LARGE,
                414 => &reason::TARGET_TOO_LONG,
                417 => &reason::EXPECTATION_FAILED,
                431 => &reason::HEAD_TOO_LARGE,
                _ => &reason::BAD_HEAD,
            },
            Self::Host => &reason::BAD_HOST,
            Self::Path(_) => &reason::BAD_PATH,
            Self::NotFound(NotFound::Host) => &reason::HOST_NOT_FOUND,
            Self::NotFound(NotFound::Path) => &reason::ROUTE_NOT_FOUND,
            Self::NotFound(NotFound::Method { .. }) => &reason::METHOD_NOT_ALLOWED,
            Self::Address => &reason::ADDRESS_REFUSED,
            Self::Origin => &reason::ORIGIN_REFUSED,
            Self::NoClientCert => &reason::NO_CLIENT_CERT,
            Self::ClientCert => &reason::CLIENT_CERT_REFUSED,
            Self::Denied(Denied { why, .. }) => match why {
                Why::Missing => &reason::CREDENTIALS_MISSING,
                Why::NoCertificate => &reason::NO_CLIENT_CERT,
                Why::Ambiguous => &reason::CREDENTIALS_AMBIGUOUS,
                Why::Flawed(_) => &reason::CREDENTIALS_REFUSED,
                Why::Scope => &reason::SCOPE_MISSING,
                Why::Caller => &reason::CALLER_REFUSED,
                Why::Unavailable => &reason::IDENTITY_UNAVAILABLE,
            },
            Self::Misdirected => &reason::MISDIRECTED,
            Self::Limited(No::Exceeded(_)) => &reason::LIMIT_EXCEEDED,
            Self::Limited(No::Uncounted(_)) => &reason::LIMITS_UNAVAILABLE,
            Self::Full(Full { whole: false, .. }) => &reason::CONCURRENCY_EXCEEDED,
            Self::Full(Full { whole: true, .. }) => &reason::ROUTE_FULL,
            Self::BodyTooLarge { .. } => &reason::BODY_TOO_LARGE,
            Self::BodyStalled => &reason::BODY_STALLED,
            Self::Loop => &reason::LOOP,
            Self::MayNotPurge => &reason::MAY_NOT_PURGE,
            Self::NotCached => &reason::NOT_CACHED,
            Self::NoServer(NoServer::Open { .. }) => &reason::CIRCUIT_OPEN,
            Self::NoServer(_) => &reason::NO_SERVER,
            Self::Saturated(_) => &reason::SATURATED,
            Self::Failed(Fault::Unreachable) => &reason::UPSTREAM_UNREACHABLE,
            Self::Failed(Fault::ConnectTimeout) => &reason::CONNECT_TIMEOUT,
            Self::Failed(Fault::Tls) => &reason::UPSTREAM_TLS,
            Self::Failed(Fault::Certificate) => &reason::UPSTREAM_CERTIFICATE,
            Self::Failed(Fault::Refused) => &reason::UPSTREAM_REFUSED,
            Self::Failed(Fault::BrokeOff | Fault::Left) => &reason::UPSTREAM_BROKE_OFF,
            Self::Failed(Fault::Invalid) => &reason::UPSTREAM_INVALID,
            Self::Failed(Fault::Timeout) => &reason::UPSTREAM_TIMEOUT,
            Self::Internal => &reason::INTERNAL,
        }
    }

    /// What happened this time, in words that may be shown to anybody.
    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Head(bad) => bad.to_string().into(),
            Self::Path(bad) => bad.to_string().into(),
            Self::BodyTooLarge { limit } => format!("at most {limit} bytes are taken here").into(),
            Self::Limited(no @ No::Uncounted(_)) => no.to_string().into(),
            Self::Limited(No::Exceeded(exceeded)) => {
                let wait = exceeded.retry_after_field();
                let (limit, wait) = (&exceeded.standing.policy.name, wait.to_str().unwrap_or("1"));
                format!("limit `{limit}`: ask again in {wait} s").into()
            }
            Self::Full(full) => full.to_string().into(),
            Self::Denied(denied) => denied.why.words().into(),
            Self::NotFound(NotFound::Method { allow }) => format!("served here: {}", methods(allow)).into(),
            _ => self.reason().title.into(),
        }
    }

    /// Fields that go with this refusal alone.
    fn fields(&self, head: &mut ResponseHeader) -> pingora::Result<()> {
        match self {
            Self::NotFound(NotFound::Method { allow }) => head.insert_header(header::ALLOW, methods(allow)),
            Self::Head(BadHead::Tunnel) => head.insert_header(header::ALLOW, ""),
            Self::Limited(No::Exceeded(exceeded)) => {
                head.insert_header(header::RETRY_AFTER, exceeded.retry_after_field())
            }
            Self::Denied(Denied { why: Why::Unavailable, .. }) => {
                head.insert_header(header::RETRY_AFTER, "5")
            }
            Self::Denied(Denied { challenge: Some(challenge), .. }) => {
                head.insert_header(header::WWW_AUTHENTICATE, challenge.clone())
            }
            Self::NoServer(NoServer::Open { wait, .. }) => {
                // Rounded up: who comes a moment too early is refused once more.
                head.insert_header(header::RETRY_AFTER, wait.as_millis().div_ceil(1000).to_string())
            }
            Self::NoServer(_) | Self::Saturated(_) | Self::Full(_) | Self::Limited(No::Uncounted(_)) => {
                head.insert_header(header::RETRY_AFTER, "1")
            }
            _ => Ok(()),
        }
    }

    /// Answers the client. `extra` are fields that every answer of the exchange carries (request id, limits, …).
    ///
    /// After a refusal that leaves the connection's next byte in doubt, the connection ends.
    pub async fn answer(
        &self,
        session: &mut Session,
        request_id: &str,
        extra: &[(HeaderName, HeaderValue)],
    ) -> pingora::Result<()> {
        let (head, body) = self.written(session.req_header(), request_id, extra)?;
        if matches!(
            self,
            Self::Head(_) | Self::Host | Self::Body | Self::BodyStalled | Self::BodyTooLarge { .. }
        ) {
            listen::end(session);
        }
        session.write_response_header(Box::new(head), body.is_empty()).await?;
        if !body.is_empty() {
            session.write_body(body, true).await?;
        }
        Ok(())
    }

    /// The answer as it is sent, with `extra` fields: problem+json, a page for who would rather see one, or fields alone for a
    /// call of gRPC. There is no body for HEAD.
    pub fn written(
        &self,
        asked: &RequestHeader,
        request_id: &str,
        extra: &[(HeaderName, HeaderValue)],
    ) -> pingora::Result<(ResponseHeader, Bytes)> {
        if grpc::is_call(&asked.headers) {
            let mut head = self.head(extra)?;
            grpc::answer(&mut head, self.reason(), &self.detail())?;
            return Ok((head, Bytes::new()));
        }
        let (media_type, body) = if page::is_preferred(&asked.headers) {
            ("text/html; charset=utf-8", page::of(self.reason(), &self.detail(), request_id))
        } else {
            ("application/problem+json", self.problem(request_id))
        };
        let mut head = self.head(extra)?;
        head.insert_header(header::CONTENT_TYPE, media_type)?;
        head.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
        let only_head = asked.method == http::Method::HEAD;
        Ok((head, if only_head { Bytes::new() } else { body.into() }))
    }

    fn head(&self, extra: &[(HeaderName, HeaderValue)]) -> pingora::Result<ResponseHeader> {
        let reason = self.reason();
        let mut head = ResponseHeader::build_no_case(reason.status, Some(10 + extra.len()))?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        head.insert_header("x-content-type-options", "nosniff")?;
        head.insert_header(
            "proxy-status",
            format!("tidegate; error={}; details=\"{}\"", reason.proxy_error, reason.code),
        )?;
        self.fields(&mut head)?;
        for (name, value) in extra {
            head.insert_header(name.clone(), value.clone())?;
        }
        Ok(head)
    }

    /// The body as RFC 9457 asks for it, with `reason` and `request_id` as extensions.
    fn problem(&self, request_id: &str) -> String {
        let reason = self.reason();
        serde_json::json!({
            "type": format!("urn:tidegate:reason:{}", reason.code),
            "title": reason.title,
            "status": reason.status.as_u16(),
            "detail": self.detail(),
            "reason": reason.code,
            "request_id": request_id,
        })
        .to_string()
    }
}

fn methods(allow: &[http::Method]) -> String {
    allow.iter().map(http::Method::as_str).collect::<Vec<_>>().join(", ")
}
