//! How long an answer is fresh, and how old it is already (RFC 9111 §4.2).

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{AGE, DATE, EXPIRES, HeaderValue};

use super::directives::{ResponseDirectives, seconds};

/// When a request went to the origin, and when the head of its answer came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// `request_time` (§4.2.3).
    pub asked: SystemTime,
    /// `response_time` (§4.2.3).
    pub answered: SystemTime,
}

/// The lifetime that the origin names: `s-maxage`, else `max-age`, else `Expires` less `Date` (§4.2.1).
///
/// Zero where what it names is invalid or contradicts itself. `None` where it says nothing.
pub fn lifetime(
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    answered: SystemTime,
) -> Option<Duration> {
    directives
        .s_maxage
        .or_stale()
        .or(directives.max_age.or_stale())
        .map(Duration::from_secs)
        .or_else(|| expires(headers, answered))
}

/// `Expires` less `Date`, or less the time of receipt where `Date` is missing or wrong (§5.3, RFC 9110 §6.6.1).
fn expires(headers: &HeaderMap, answered: SystemTime) -> Option<Duration> {
    let mut lines = headers.get_all(EXPIRES).iter();
    let first = lines.next()?;
    if lines.any(|line| line != first) {
        return Some(Duration::ZERO);
    }
    let from = headers.get(DATE).and_then(date).unwrap_or(answered);
    Some(date(first).and_then(|until| until.duration_since(from).ok()).unwrap_or_default())
}

/// `corrected_initial_age`: how old the answer was when it came (§4.2.3).
///
/// The larger of what `Age` and the time in transit add up to and of what `Date` shows, the latter in whole seconds,
/// as `Date` has no finer grain.
pub fn initial_age(headers: &HeaderMap, times: Times) -> Duration {
    let transit = times.answered.duration_since(times.asked).unwrap_or_default();
    let apparent = headers
        .get(DATE)
        .and_then(date)
        .and_then(|date| times.answered.duration_since(date).ok())
        .map_or(Duration::ZERO, |age| Duration::from_secs(age.as_secs()));
    apparent.max(age_value(headers) + transit)
}

/// `age_value`: the `Age` field, its first member where there are several; 0 where it is no number (§5.1).
pub fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).and_then(|line| line.as_bytes().split(|byte| *byte == b',').next());
    Duration::from_secs(first.map(<[u8]>::trim_ascii).and_then(seconds).unwrap_or(0))
}

/// An HTTP date in any of its three forms (RFC 9110 §5.6.7).
pub fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::header::CACHE_CONTROL;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: u64 = 784_111_777;
    const RECEIVED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    type Fields = &'static [(http::HeaderName, &'static str)];

    fn headers(fields: Fields) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.clone(), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_lifetime_is_what_the_most_specific_word_says() {
        let rows: &[(Fields, Option<u64>)] = &[
            (&[], None),
            (&[(CACHE_CONTROL, "public")], None),
            (&[(CACHE_CONTROL, "max-age=60")], Some(60)),
            (&[(CACHE_CONTROL, "max-age=60, s-maxage=5")], Some(5)),
            (&[(CACHE_CONTROL, "max-age=60, s-maxage=x")], Some(0)),
            (&[(CACHE_CONTROL, "max-age=x"), (EXPIRES, LATER)], Some(0)),
            (&[(CACHE_CONTROL, "max-age=7"), (EXPIRES, LATER)], Some(7)),
            (&[(EXPIRES, LATER)], Some(60)),
            (&[(EXPIRES, LATER), (DATE, RECEIVED)], Some(60)),
            (&[(EXPIRES, LATER), (DATE, "Sun, 06 Nov 1994 08:50:07 GMT")], Some(30)),
            (&[(EXPIRES, LATER), (DATE, "yesterday")], Some(60)),
            (&[(EXPIRES, RECEIVED), (DATE, LATER)], Some(0)),
            (&[(EXPIRES, "0")], Some(0)),
            (&[(EXPIRES, "-1")], Some(0)),
            (&[(EXPIRES, LATER), (EXPIRES, LATER)], Some(60)),
            (&[(EXPIRES, LATER), (EXPIRES, RECEIVED)], Some(0)),
            (&[(EXPIRES, "Sunday, 06-Nov-94 08:50:37 GMT")], Some(60)),
            (&[(EXPIRES, "Sun Nov  6 08:50:37 1994")], Some(60)),
        ];
        for (fields, wanted) in rows {
            let map = headers(fields);
            let found = lifetime(&ResponseDirectives::of(&map), &map, at(NOW));
            assert_eq!(found.map(|found| found.as_secs()), *wanted, "{fields:?}");
        }
    }

    #[test]
    fn the_initial_age_is_the_larger_of_both_reckonings() {
        let rows: &[(Fields, u64, u64)] = &[
            (&[], 0, 0),
            (&[], 3, 3),
            (&[(AGE, "10")], 0, 10),
            (&[(AGE, "10")], 3, 13),
            (&[(AGE, "10, 20")], 0, 10),
            (&[(AGE, " 10 ")], 0, 10),
            (&[(AGE, "ten")], 0, 0),
            (&[(AGE, "-5")], 0, 0),
            (&[(AGE, "1.5")], 0, 0),
            (&[(AGE, "99999999999999999999")], 0, 1 << 31),
            (&[(DATE, "Sun, 06 Nov 1994 08:49:07 GMT")], 0, 30),
            (&[(DATE, "Sun, 06 Nov 1994 08:49:07 GMT"), (AGE, "10")], 3, 30),
            (&[(DATE, "Sun, 06 Nov 1994 08:49:07 GMT"), (AGE, "100")], 3, 103),
            (&[(DATE, "Sun, 06 Nov 1994 09:49:07 GMT")], 1, 1),
        ];
        for (fields, transit, wanted) in rows {
            let times = Times { asked: at(NOW - transit), answered: at(NOW) };
            assert_eq!(initial_age(&headers(fields), times).as_secs(), *wanted, "{fields:?} {transit}");
        }
    }
}
