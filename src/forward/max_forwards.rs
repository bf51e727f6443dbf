//! `Max-Forwards`: how many more servers an `OPTIONS` may pass (RFC 9110 §7.6.2). `TRACE`, for which it is meant as well, goes
//! nowhere; for other methods it says nothing.

use http::header::MAX_FORWARDS;
use http::{HeaderValue, Method};
use pingora::http::RequestHeader;

use super::Change;

/// Whether the request is to go no further: who asks wants to know what this server says.
pub fn ends_here(head: &RequestHeader) -> bool {
    left(head) == Some(0)
}

/// Notes on a request that it has come one server further.
pub(super) fn count(head: &mut RequestHeader) {
    if let Some(left) = left(head) {
        head.set(&MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// How many it may pass. A field that is repeated or no number bounds nothing; a number too large to count with is the
/// largest that we have.
fn left(head: &RequestHeader) -> Option<u64> {
    let mut values = head.headers.get_all(MAX_FORWARDS).into_iter().map(HeaderValue::as_bytes);
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| is_number && head.method == Method::OPTIONS)?;
    Some(number.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_number_counts_for_options_and_for_nothing_else() {
        #[rustfmt::skip]
        let table: &[(&str, &[&str], Option<u64>)] = &[
            ("OPTIONS", &["0"], Some(0)),
            ("OPTIONS", &["007"], Some(7)),
            ("OPTIONS", &["99999999999999999999"], Some(u64::MAX)),
            ("OPTIONS", &[], None),
            ("OPTIONS", &[""], None),
            ("OPTIONS", &["-1"], None),
            ("OPTIONS", &["+1"], None),
            ("OPTIONS", &["0", "0"], None),
            ("GET", &["0"], None),
        ];
        for (method, values, expected) in table {
            let mut head = RequestHeader::build(*method, b"/", None).unwrap();
            for value in *values {
                head.append_header(MAX_FORWARDS, *value).unwrap();
            }
            assert_eq!(left(&head), *expected, "{method} {values:?}");
        }
    }
}
