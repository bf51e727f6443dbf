//! The head of a request as HTTP/2 says it (RFC 9113 section 8.3).

use http::uri::{Authority, Parts, Scheme, Uri};
use http::{HeaderName, HeaderValue, Request, Version, header};
use pingora::http::RequestHeader;

use crate::refusal::Refusal;

/// What only connections of HTTP/1 have (section 8.2.2). A WebSocket's server then sees a request that asks for nothing more.
static FOREIGN: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A head whose target is in origin form, and whose host is a field. `secure`: the way to the server, not the client's.
pub(super) fn of(head: &RequestHeader, secure: bool, wants_trailers: bool) -> Result<Request<()>, Refusal> {
    let authority = head.headers.get(header::HOST).map(|host| Authority::try_from(host.as_bytes()));
    let mut parts = Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority.ok_or(Refusal::Host)?.map_err(|_| Refusal::Host)?);
    parts.path_and_query = head.uri.path_and_query().cloned();
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Refusal::Internal)?;
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    let mut fields = head.headers.clone();
    for name in &FOREIGN {
        fields.remove(name);
    }
    if wants_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    *request.headers_mut() = fields;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_one_connection_stays_and_the_host_is_the_authority() {
        let mut head = RequestHeader::build("GET", b"/a?b=c", None).unwrap();
        for (name, value) in [
            ("host", "a.test:81"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ] {
            head.append_header(name, value).unwrap();
        }
        let request = of(&head, false, true).unwrap();
        assert_eq!(request.uri(), "http://a.test:81/a?b=c");
        let mut fields: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(fields, ["cookie: a=b", "cookie: c=d", "te: trailers"]);
        assert_eq!(of(&head, true, false).unwrap().uri().scheme_str(), Some("https"));
    }
}
