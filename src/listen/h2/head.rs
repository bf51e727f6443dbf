//! Which HTTP/2 requests are let in at all.
//!
//! What is malformed by itself (pseudo-fields, upper case, connection fields) does not come this far: see `fields`. The rest of
//! Pingora's own checks stand here, for its own way in is not used.

use http::uri::Scheme;
use http::{HeaderMap, Method, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::authority::{
    RawTargetAuthority, raw_target_authority, validate_request_authority,
};

use crate::listen::head::BadHead;

/// How a request is refused that is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Its stream is reset: what it says of its own form cannot be trusted (RFC 9113 section 8.1.1).
    Reset,
    /// It is answered with 400: one cannot tell what it is for (RFC 9113 section 8.3.1).
    Answer(BadHead),
    /// It is answered with 431: its fields take more bytes than they may (RFC 6585 section 5).
    TooLarge,
}

impl Malformed {
    /// What its refusal says.
    pub(super) fn why(self) -> BadHead {
        match self {
            Self::Reset => BadHead::Form,
            Self::Answer(why) => why,
            Self::TooLarge => BadHead::TooLarge,
        }
    }
}

/// Checks what could be read in two ways once the request has become HTTP/1.
pub(super) fn check(head: &RequestHeader) -> Result<(), Malformed> {
    if splits_a_line(head.raw_path()) || !is_framed(&head.headers) {
        return Err(Malformed::Reset);
    }
    if is_for_one(head) { Ok(()) } else { Err(Malformed::Answer(BadHead::Place)) }
}

/// Whether a target would end a request line, or end in one (RFC 9112 section 3).
fn splits_a_line(target: &[u8]) -> bool {
    target.iter().any(|byte| matches!(byte, b'\0' | b'\n' | b'\r' | b' '))
}

/// Whether a value begins or ends in a space or a tab (RFC 9113 section 8.2.1). On HTTP/1 they are no part of a value, so
/// servers may see another one than we do.
pub(super) fn has_blank_edges(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    blank(value.first()) || blank(value.last())
}

/// No transfer coding (RFC 9113 section 8.2.2), and one length however often it is said, each time by itself (RFC 9110 section 8.6).
fn is_framed(fields: &HeaderMap) -> bool {
    let mut lengths = lengths(fields);
    let agreed = match lengths.next() {
        None => true,
        Some(None) => false,
        Some(first) => lengths.all(|other| other == first),
    };
    agreed && !fields.contains_key(header::TRANSFER_ENCODING)
}

/// The length that a request announces; its head was checked.
pub(super) fn length(fields: &HeaderMap) -> Option<u64> {
    lengths(fields).next().flatten()
}

fn lengths(fields: &HeaderMap) -> impl Iterator<Item = Option<u64>> {
    fields.get_all(header::CONTENT_LENGTH).into_iter().map(|length| number(length.as_bytes()))
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign.
    let text = digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok())??;
    text.parse().ok()
}

/// Whether `:authority`, `Host` and target name one host between them.
fn is_for_one(head: &RequestHeader) -> bool {
    let named = head.uri.authority().is_some() || head.headers.contains_key(header::HOST);
    // The target of `CONNECT` is its authority; it is refused later, by its method.
    let is_path = head.method == Method::CONNECT
        || matches!(raw_target_authority(head.raw_path()), RawTargetAuthority::None);
    named && is_path && is_ours(head.uri.scheme()) && validate_request_authority(head).is_ok()
}

/// Whether a scheme is one that is served here. It need not be that of the connection, as another may end TLS for us.
fn is_ours(scheme: Option<&Scheme>) -> bool {
    scheme.is_none_or(|scheme| *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn checked(uri: &str, fields: &[(&str, &str)]) -> Result<(), Malformed> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check(&RequestHeader::from(request.body(()).unwrap().into_parts().0))
    }

    #[test]
    fn one_host_however_it_is_said() {
        // RFC 9113 section 8.3.1
        let answer = Err(Malformed::Answer(BadHead::Place));
        let cases = [
            ("https://a.test/", &[][..], Ok(())),
            ("https://a.test:8443/x?y", &[], Ok(())),
            ("https://a.test/", &[("host", "a.test")], Ok(())),
            ("/", &[("host", "a.test")], Ok(())),
            ("/", &[], answer),
            ("https://a.test/", &[("host", "b.test")], answer),
            ("https://a.test/", &[("host", "a.test:443")], answer),
            ("https://a.test/", &[("host", "a.test"), ("host", "a.test")], answer),
            ("https://u@a.test/", &[], answer),
            ("http://a.test/", &[], Ok(())),
            ("ftp://a.test/", &[], answer),
            ("/", &[("host", "u@a.test")], answer),
        ];
        for (uri, fields, expected) in cases {
            assert_eq!(checked(uri, fields), expected, "{uri} {fields:?}");
        }
    }

    #[test]
    fn a_target_that_is_a_url_of_its_own_is_refused() {
        for target in ["http://b.test/", "http:/\\b.test/"] {
            let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            head.insert_header(header::HOST, "b.test").unwrap();
            assert_eq!(check(&head), Err(Malformed::Answer(BadHead::Place)), "{target}");
        }
    }

    #[test]
    fn bytes_that_would_split_a_request_line_are_refused() {
        let cases = [
            ("/a?b", false),
            ("/\u{e4}", false),
            ("/a b", true),
            ("/a\r\nX: y", true),
            ("/a\n", true),
            ("/\0", true),
        ];
        for (target, expected) in cases {
            assert_eq!(splits_a_line(target.as_bytes()), expected, "{target:?}");
        }
    }

    #[test]
    fn blanks_around_a_value_are_refused() {
        let cases = [("", false), ("a b\tc", false), (" ", true), (" a", true), ("a\t", true)];
        for (value, expected) in cases {
            assert_eq!(has_blank_edges(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        // RFC 9110 section 8.6
        let reset = Err(Malformed::Reset);
        let cases = [
            (&[("content-length", "5")][..], Ok(())),
            (&[("content-length", "5"), ("content-length", "5")], Ok(())),
            (&[("content-length", "5, 5")], reset),
            (&[("content-length", "5"), ("content-length", "6")], reset),
            (&[("content-length", "5, 6")], reset),
            (&[("content-length", "+5")], reset),
            (&[("content-length", "")], reset),
            (&[("content-length", "99999999999999999999")], reset),
            (&[("transfer-encoding", "chunked")], reset),
        ];
        for (fields, expected) in cases {
            assert_eq!(checked("https://a.test/", fields), expected, "{fields:?}");
        }
    }
}
