//! Which fields are stored, and how later answers renew them (RFC 9111 §3.1, §3.2, §4.3.4, §4.3.5).

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderName, HeaderValue,
    LAST_MODIFIED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, StatusCode};

use super::{Rules, SetCookie, dates, policy};

/// Fields that set a cookie.
pub(super) const COOKIES: [HeaderName; 2] = [SET_COOKIE, HeaderName::from_static("set-cookie2")];

/// Fields of one connection, not of the answer (§3.1, RFC 9110 §7.6.1).
const OF_CONNECTION: [HeaderName; 10] = [
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
];

/// Fields that no later head renews: they are of the content of the message that they stand in (§3.2, RFC 9530 §2), and
/// that of a 304 is empty.
const NOT_RENEWED: [HeaderName; 2] = [CONTENT_LENGTH, HeaderName::from_static("content-digest")];

/// Fields that tell of the bytes of one answer among those that bear one tag.
const OF_BYTES: [HeaderName; 4] = [
    CONTENT_ENCODING,
    CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("repr-digest"),
];

/// The fields of an answer but those of the connection, `Age`, these, and cookies if they are not wanted.
pub(super) fn without(
    answer: &HeaderMap,
    fields: &[HeaderName],
    with_cookies: bool,
    answered: SystemTime,
) -> HeaderMap {
    let nominated = nominated(answer);
    let mut kept = HeaderMap::with_capacity(answer.keys_len() + 1);
    for (name, value) in answer {
        let dropped = OF_CONNECTION.contains(name)
            || *name == AGE
            || fields.contains(name)
            || nominated.contains(name)
            || (!with_cookies && COOKIES.contains(name));
        if !dropped {
            // Fails only where a map is full, which a smaller one than another is not.
            let _ = kept.try_append(name.clone(), value.clone());
        }
    }
    // Once, and in the form that is sent (RFC 9110 §5.6.7): hits take it as it is.
    let date = kept.get(DATE).and_then(dates::read).filter(|date| *date >= UNIX_EPOCH).unwrap_or(answered);
    kept.insert(DATE, dates::write(date));
    kept
}

/// The stored fields with those of a 304, or of another later head, in place of their own (§3.2).
///
/// `Age` goes with the answer that it was told of: the stored fields have none, and the result has the later one's, for
/// [`policy::keep`]. So does `Date`: a head without one was made when it came. Cookies are renewed only where the route
/// stores them.
pub fn renewed(stored: &HeaderMap, later: &HeaderMap, rules: &Rules) -> HeaderMap {
    let mut headers = stored.clone();
    headers.remove(AGE);
    headers.remove(DATE);
    let nominated = nominated(later);
    for name in later.keys() {
        let stays = NOT_RENEWED.contains(name)
            || OF_CONNECTION.contains(name)
            || nominated.contains(name)
            || (rules.set_cookie != SetCookie::Store && COOKIES.contains(name));
        if stays {
            continue;
        }
        headers.remove(name);
        for value in later.get_all(name) {
            // Fails only where a map is full: what is left out then was one of thousands.
            let _ = headers.try_append(name.clone(), value.clone());
        }
    }
    headers
}

/// What a 304 says of the other answers that bear its tag than the one that was asked about: origins that give one tag to
/// several encodings are common, and its encoding is that of the one.
pub fn of_others(not_modified: &HeaderMap) -> HeaderMap {
    let mut fields = not_modified.clone();
    for name in &OF_BYTES {
        fields.remove(name);
    }
    fields
}

/// The fields that `Connection` names.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// What an answer to HEAD says of a stored answer to GET (§4.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadSays {
    /// It is of the same bytes: its fields renew the stored ones ([`renewed`]).
    Freshen,
    /// The stored bytes are not the latest: the stored answer counts as stale.
    Invalidate,
    /// Nothing.
    Nothing,
}

/// What an answer to HEAD says of a stored answer to GET whose whole body has `length` bytes.
pub fn head_says(
    stored_status: StatusCode,
    stored: &HeaderMap,
    length: u64,
    status: StatusCode,
    head: &HeaderMap,
) -> HeadSays {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE if stored_status.is_success() => {
            return HeadSays::Invalidate;
        }
        StatusCode::OK if stored_status == StatusCode::OK => {}
        _ => return HeadSays::Nothing,
    }
    let agrees = |name: &HeaderName| head.get(name).is_none_or(|value| stored.get(name) == Some(value));
    let as_long = head.get(CONTENT_LENGTH).is_none() || policy::length(head) == Some(length);
    if agrees(&ETAG) && agrees(&LAST_MODIFIED) && agrees(&CONTENT_ENCODING) && as_long {
        HeadSays::Freshen
    } else {
        HeadSays::Invalidate
    }
}

/// Whether two values are one strong entity tag (RFC 9110 §8.8.3.2).
pub(super) fn same_strong(one: Option<&HeaderValue>, other: Option<&HeaderValue>) -> bool {
    one.is_some_and(|tag| tag.as_bytes().starts_with(b"\"") && one == other)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn all(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        all
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn fields_of_the_connection_and_those_named_are_not_stored() {
        let answer = headers(&[
            ("Connection", "close, X-Hop"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Transfer-Encoding", "chunked"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Authentication-Info", "x"),
            ("Proxy-Authorization", "x"),
            ("Proxy-Connection", "x"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Age", "5"),
            ("X-Own", "1"),
            ("Set-Cookie", "a=b"),
            ("Set-Cookie2", "a=b"),
            ("X-Stays", "1"),
            ("X-Stays", "2"),
            ("Content-Length", "5"),
        ]);
        let own = [HeaderName::from_static("x-own")];
        assert_eq!(
            all(&without(&answer, &own, false, at(784_111_777))),
            ["content-length: 5", "date: Sun, 06 Nov 1994 08:49:37 GMT", "x-stays: 1", "x-stays: 2"]
        );
        let with_cookies = without(&answer, &own, true, at(0));
        assert_eq!(with_cookies["set-cookie"], "a=b");
        assert_eq!(with_cookies["set-cookie2"], "a=b");
    }

    #[test]
    fn the_date_that_the_origin_sent_stays() {
        let answer = headers(&[("Date", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(without(&answer, &[], false, at(0)), answer);
        let wrong = headers(&[("Date", "foo")]);
        assert_eq!(without(&wrong, &[], false, at(0))["date"], "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn a_304_renews_all_fields_but_those_of_its_own_content() {
        let stored = headers(&[
            ("Content-Length", "5"),
            ("Content-Encoding", "gzip"),
            ("Content-Range", "x"),
            ("Content-MD5", "x"),
            ("Content-Digest", "x"),
            ("Content-Type", "text/plain"),
            ("Date", "old"),
            ("ETag", "\"a\""),
            ("Vary", "accept"),
            ("X-A", "old"),
            ("X-A", "older"),
            ("X-B", "b"),
        ]);
        let later = headers(&[
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("Content-Length", "0"),
            ("Content-Encoding", "br"),
            ("Content-Range", "y"),
            ("Content-MD5", "y"),
            ("Content-Digest", "y"),
            ("Content-Type", "text/html"),
            ("ETag", "\"b\""),
            ("Vary", "origin"),
            ("Set-Cookie", "a=b"),
            ("X-A", "new"),
            ("X-C", "1"),
            ("X-C", "2"),
            ("Cache-Control", "max-age=9"),
            ("Age", "3"),
        ]);
        let wanted = [
            "age: 3",
            "cache-control: max-age=9",
            "content-digest: x",
            "content-encoding: br",
            "content-length: 5",
            "content-md5: y",
            "content-range: y",
            "content-type: text/html",
            "etag: \"b\"",
            "vary: origin",
            "x-a: new",
            "x-b: b",
            "x-c: 1",
            "x-c: 2",
        ];
        assert_eq!(all(&renewed(&stored, &later, &Rules::default())), wanted);
        let storing = Rules { set_cookie: SetCookie::Store, ..Rules::default() };
        assert_eq!(renewed(&stored, &later, &storing)["set-cookie"], "a=b");
    }

    #[test]
    fn what_a_304_says_of_bytes_is_of_the_answer_that_was_asked_about() {
        let later = headers(&[
            ("Content-Encoding", "br"),
            ("Content-MD5", "y"),
            ("Content-Range", "y"),
            ("Repr-Digest", "y"),
            ("ETag", "\"b\""),
            ("Vary", "origin"),
        ]);
        assert_eq!(all(&of_others(&later)), ["etag: \"b\"", "vary: origin"]);
    }

    #[test]
    fn an_answer_to_head_renews_what_is_of_the_same_bytes() {
        use HeadSays::{Freshen, Invalidate, Nothing};
        type Row = (u16, &'static [(&'static str, &'static str)], HeadSays);
        let stored = headers(&[("ETag", "\"a\""), ("Last-Modified", "x")]);
        let rows: &[Row] = &[
            (200, &[], Freshen),
            (200, &[("ETag", "\"a\""), ("Last-Modified", "x"), ("Content-Length", "5")], Freshen),
            (200, &[("ETag", "\"b\"")], Invalidate),
            (200, &[("ETag", "\"a\""), ("Last-Modified", "y")], Invalidate),
            (200, &[("Content-Length", "6")], Invalidate),
            (200, &[("Content-Length", "x")], Invalidate),
            (200, &[("Content-Encoding", "gzip")], Invalidate),
            (404, &[], Invalidate),
            (410, &[], Invalidate),
            (304, &[], Nothing),
            (500, &[], Nothing),
        ];
        for (status, fields, wanted) in rows {
            let status = StatusCode::from_u16(*status).unwrap();
            let says = head_says(StatusCode::OK, &stored, 5, status, &headers(fields));
            assert_eq!(says, *wanted, "{status} {fields:?}");
        }
        let redirect = StatusCode::MOVED_PERMANENTLY;
        assert_eq!(head_says(redirect, &stored, 5, StatusCode::OK, &headers(&[])), Nothing);
    }
}
