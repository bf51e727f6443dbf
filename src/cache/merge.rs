//! Which fields are stored, and how a 304 renews them (RFC 9111 §3.1, §3.2, §4.3.4).

use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use pingora::http::ResponseHeader;

/// Fields of one connection, not of the answer (§3.1, RFC 9110 §7.6.1).
fn of_connection() -> [HeaderName; 10] {
    [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("proxy-authentication-info"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
}

/// Fields that a 304 does not renew: they describe the stored body, choose between bodies, or are for one client.
const NOT_RENEWED: [HeaderName; 6] =
    [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE, VARY, SET_COOKIE];

/// Takes away the fields that must not be stored (§3.1).
pub(super) fn strip(header: &mut ResponseHeader) {
    for name in nominated(header) {
        header.remove_header(&name);
    }
    for name in of_connection() {
        header.remove_header(&name);
    }
}

/// The stored header with the fields of a 304 in place of its own (§3.2).
///
/// `Age` goes with the answer that it was told of: the stored one is dropped though the 304 brings none.
pub(super) fn renewed(stored: &ResponseHeader, not_modified: &ResponseHeader) -> ResponseHeader {
    let mut header = stored.clone();
    header.remove_header(&AGE);
    let skipped = nominated(not_modified);
    for name in not_modified.headers.keys() {
        if NOT_RENEWED.contains(name) || skipped.contains(name) || of_connection().contains(name) {
            continue;
        }
        header.remove_header(name);
        for value in not_modified.headers.get_all(name) {
            // Fails only where a header map is full, which one no larger than two others is not.
            let _ = header.append_header(name.clone(), value.clone());
        }
    }
    header
}

/// The fields that `Connection` names.
fn nominated(header: &ResponseHeader) -> Vec<HeaderName> {
    header
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut header = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            header.append_header(*name, *value).unwrap();
        }
        header
    }

    fn all(header: &ResponseHeader) -> Vec<String> {
        let mut all: Vec<String> = header
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn fields_of_the_connection_are_not_stored() {
        let mut answer = header(
            200,
            &[
                ("Connection", "close, X-Hop"),
                ("X-Hop", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Transfer-Encoding", "chunked"),
                ("Proxy-Authenticate", "Basic"),
                ("Upgrade", "h2c"),
                ("X-Stays", "1"),
                ("Content-Length", "5"),
            ],
        );
        strip(&mut answer);
        assert_eq!(all(&answer), ["content-length: 5", "x-stays: 1"]);
    }

    #[test]
    fn a_304_renews_all_fields_but_those_of_the_body() {
        let stored = header(
            200,
            &[
                ("Age", "9"),
                ("Content-Length", "5"),
                ("Vary", "accept"),
                ("X-A", "old"),
                ("X-A", "older"),
                ("X-B", "b"),
            ],
        );
        let not_modified = header(
            304,
            &[
                ("Connection", "X-Hop"),
                ("X-Hop", "1"),
                ("Content-Length", "0"),
                ("Vary", "origin"),
                ("Set-Cookie", "a=b"),
                ("X-A", "new"),
                ("X-C", "1"),
                ("X-C", "2"),
                ("Cache-Control", "max-age=9"),
            ],
        );
        let renewed = renewed(&stored, &not_modified);
        assert_eq!(renewed.status, 200);
        assert_eq!(
            all(&renewed),
            [
                "cache-control: max-age=9",
                "content-length: 5",
                "vary: accept",
                "x-a: new",
                "x-b: b",
                "x-c: 1",
                "x-c: 2"
            ]
        );
    }

    #[test]
    fn the_age_of_a_304_takes_the_place_of_the_stored_one() {
        let renewed = renewed(&header(200, &[("Age", "90")]), &header(304, &[("Age", "3")]));
        assert_eq!(all(&renewed), ["age: 3"]);
    }
}
