//! The `Date` of an answer: the origin's own, else the present time.

use http::{HeaderMap, HeaderValue, header, response};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;

/// Bytes of an IMF-fixdate.
const LENGTH: usize = 29;

/// Keeps the date that an answer has: when the origin made it is what its age is counted from (RFC 9110 section 6.6.1). From now
/// on it stands there once and as an IMF-fixdate; one that cannot be read does not, and the present time will.
///
/// To be called once for each final answer that was not made here, just before its head is written.
pub fn keep_date(answer: &mut ResponseHeader) {
    match date_of(&answer.headers) {
        Found::AsItIs => {}
        // Such a text is a value.
        Found::Other(date) => drop(answer.insert_header(header::DATE, date)),
        Found::None => drop(answer.remove_header(&header::DATE)),
    }
}

/// Sees to it that an answer has a date: its own, or the present time (RFC 9110 section 6.6.1).
pub fn dated(answer: &mut response::Parts) {
    let date = match date_of(&answer.headers) {
        Found::AsItIs => return,
        Found::Other(date) => date,
        Found::None => get_cached_date(),
    };
    answer.headers.insert(header::DATE, date);
}

/// What an answer has for a date.
enum Found {
    /// One line, as an IMF-fixdate.
    AsItIs,
    /// Something that is to be written so.
    Other(HeaderValue),
    /// Nothing that can be read.
    None,
}

fn date_of(fields: &HeaderMap) -> Found {
    let mut all = fields.get_all(header::DATE).into_iter();
    let (Some(first), single) = (all.next(), all.next().is_none()) else { return Found::None };
    let date = first.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    match date {
        Some(_) if single && first.len() == LENGTH => Found::AsItIs,
        // Such a text is a value.
        Some(date) => HeaderValue::from_str(&httpdate::fmt_http_date(date)).map_or(Found::None, Found::Other),
        None => Found::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Wed, 25 Nov 2026 18:12:50 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn any_form_of_a_date_becomes_the_one_that_is_sent() {
        // RFC 9110 section 5.6.7
        let cases = [
            (&[THEN][..], Some(THEN)),
            (&["Sunday, 06-Nov-94 08:49:37 GMT"], Some(THEN)),
            (&["Sun Nov  6 08:49:37 1994"], Some(THEN)),
            (&[THEN, NOW], Some(THEN)),
            (&["yesterday"], None),
            (&[], None),
        ];
        for (dates, expected) in cases {
            let mut answer = ResponseHeader::build(200, None).unwrap();
            for date in dates {
                answer.append_header(header::DATE, *date).unwrap();
            }
            keep_date(&mut answer);
            let left: Vec<_> = answer.headers.get_all(header::DATE).iter().collect();
            assert_eq!(left, expected.into_iter().collect::<Vec<_>>(), "{dates:?}");
        }
    }
}
