//! Refusals as clients of gRPC understand them: status 200, and what is wrong in fields that stand where trailers would
//! ("Trailers-Only").

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;

use super::{Reason, reason};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is a call of gRPC, by its type: `application/grpc`, alone or with the name of a coding. Not gRPC-Web, which
/// has its trailers in the body.
pub fn is_call(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let Some((name, rest)) = media_type.split_at_checked(b"application/grpc".len()) else { return false };
    name.eq_ignore_ascii_case(b"application/grpc") && matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

/// Makes of the head of a "no" all that a client of gRPC gets.
pub(super) fn answer(head: &mut ResponseHeader, reason: &Reason, detail: &str) -> pingora::Result<()> {
    head.set_status(StatusCode::OK)?;
    head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    head.insert_header(STATUS, code(reason))?;
    head.insert_header(MESSAGE, escaped(&format!("{detail} ({})", reason.code)))
}

/// The code that comes closest. Callers try again what is `UNAVAILABLE`: nothing was done by it.
fn code(reason: &Reason) -> u16 {
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    if reason.code == reason::CONNECT_TIMEOUT.code {
        return UNAVAILABLE;
    }
    match reason.status.as_u16() {
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 | 501 => UNIMPLEMENTED,
        408 | 504 => DEADLINE_EXCEEDED,
        413 | 414 | 429 | 431 => RESOURCE_EXHAUSTED,
        421 | 502 | 503 => UNAVAILABLE,
        _ => INTERNAL,
    }
}

/// A message as it may stand in a field: bytes beyond what can be printed, and `%`, as `%XX`.
fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => {
                // A string takes whatever is written to it.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_type() {
        let is = |media_type: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            is_call(&headers)
        };
        assert!(is("application/grpc") && is("Application/gRPC+proto") && is("application/grpc;x=y"));
        assert!(!is("application/grpc-web") && !is("application/json") && !is("application/grpcx"));
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn reasons_have_the_codes_that_callers_act_upon() {
        let cases = [
            (&reason::UPSTREAM_UNREACHABLE, 14),
            (&reason::CONNECT_TIMEOUT, 14),
            (&reason::NO_SERVER, 14),
            (&reason::UPSTREAM_TIMEOUT, 4),
            (&reason::LIMIT_EXCEEDED, 8),
            (&reason::BODY_TOO_LARGE, 8),
            (&reason::ADDRESS_REFUSED, 7),
            (&reason::ROUTE_NOT_FOUND, 12),
            (&reason::INTERNAL, 13),
            (&reason::LOOP, 13),
        ];
        for (reason, expected) in cases {
            assert_eq!(code(reason), expected, "{}", reason.code);
        }
    }

    #[test]
    fn a_message_is_printable() {
        assert_eq!(escaped("100 % of 1 §\n"), "100 %25 of 1 %C2%A7%0A");
    }
}
