//! Which part of a whole answer the client gets (RFC 9110 §14).

use http::header::{CONTENT_LENGTH, IF_RANGE, RANGE};
use http::{HeaderMap, Method};
use pingora::http::ResponseHeader;
use pingora::proxy::{RangeType, Session, range_header_filter};

/// More ranges than this in one request are not served one by one: the whole is.
const RANGES_MAX: Option<usize> = Some(32);

/// For `range_header_filter`: turns a whole answer into the part that the request asks for, if it does.
pub fn range(session: &Session, answer: &mut ResponseHeader) -> RangeType {
    let request = session.req_header();
    if request.headers.contains_key(RANGE) && is_ignored(&request.method, &request.headers, &answer.headers) {
        return RangeType::None;
    }
    range_header_filter(request, answer, RANGES_MAX)
}

/// Whether the whole is served whatever `Range` says, which any server may do (§14.2).
///
/// Pingora alone would take ranges of HEAD, compare weak tags byte by byte (§13.1.5 wants strong ones), and miscount
/// parts without a byte, which a body without one or a suffix of none makes.
fn is_ignored(method: &Method, request: &HeaderMap, answer: &HeaderMap) -> bool {
    *method != Method::GET
        || request.get(IF_RANGE).is_some_and(|tag| tag.as_bytes().starts_with(b"W/"))
        || answer.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().all(|byte| *byte == b'0'))
        || request.get_all(RANGE).iter().count() > 1
        || !request.get(RANGE).and_then(|range| range.to_str().ok()).is_some_and(is_plain)
}

/// Whether each part of a `Range` is one that Pingora reads as it is meant.
fn is_plain(range: &str) -> bool {
    let Some((_, parts)) = range.split_once('=') else { return false };
    parts.split(',').all(|part| match part.trim().split_once('-') {
        Some(("", last)) => number(last).is_some_and(|suffix| suffix > 0),
        Some((first, "")) => number(first).is_some(),
        Some((first, last)) => number(first).is_some() && number(last).is_some(),
        None => false,
    })
}

fn number(digits: &str) -> Option<usize> {
    // `parse` alone would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn parts_of_at_least_one_byte_are_served_and_others_are_not() {
        for range in ["bytes=0-0", "bytes=5-", "bytes=-5", "bytes=0-1, 4-5 ,-2", "bytes=5-2"] {
            assert!(is_plain(range), "{range}");
        }
        let large = format!("bytes={}9-5", usize::MAX);
        for range in [
            "bytes=-0",
            "bytes=-00",
            "bytes=0-1,-0",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes",
            "bytes=+1-2",
            &large,
        ] {
            assert!(!is_plain(range), "{range}");
        }
    }

    #[test]
    fn a_range_is_for_get_and_for_bodies_with_bytes() {
        let asks = |range: &'static str| HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
        let length =
            |bytes: &'static str| HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(bytes))]);
        assert!(!is_ignored(&Method::GET, &asks("bytes=-5"), &length("10")));
        assert!(!is_ignored(&Method::GET, &asks("bytes=-5"), &HeaderMap::new()));
        assert!(is_ignored(&Method::HEAD, &asks("bytes=-5"), &length("10")));
        assert!(is_ignored(&Method::GET, &asks("bytes=-5"), &length("0")));
        let mut weak = asks("bytes=-5");
        weak.insert(IF_RANGE, HeaderValue::from_static("W/\"1\""));
        assert!(is_ignored(&Method::GET, &weak, &length("10")));
    }
}
