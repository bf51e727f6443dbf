//! How long an answer is fresh, and how old it is already (RFC 9111 §4.2).

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};

use super::dates;
use super::directives::{SECONDS_MAX, seconds};
use super::stored::Terms;
use super::targeted::Said;

/// When a request went to the origin, and when the head of its answer came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// `request_time` (§4.2.3).
    pub asked: SystemTime,
    /// `response_time` (§4.2.3).
    pub answered: SystemTime,
}

/// The longest lifetime that is guessed: a day (§4.2.2).
pub const GUESS_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The lifetime that the origin names: `s-maxage`, else `max-age`, else `Expires` less `Date` (§4.2.1); of a targeted
/// field, without `Expires` (RFC 9213 §2.1).
///
/// Zero where what it names is invalid or contradicts itself. `None` where it says nothing.
pub fn lifetime(said: &Said, headers: &HeaderMap, answered: SystemTime) -> Option<Duration> {
    let directives = &said.directives;
    directives
        .s_maxage
        .or_stale()
        .or(directives.max_age.or_stale())
        .map(Duration::from_secs)
        .or_else(|| if said.targeted { None } else { expires(headers, answered) })
}

/// A lifetime guessed: a tenth of how long the answer had not changed when it was sent, at most [`GUESS_MAX`] (§4.2.2).
///
/// `None` without a `Last-Modified` that lies in the past.
pub fn guess(headers: &HeaderMap, answered: SystemTime) -> Option<Duration> {
    let changed = headers.get(LAST_MODIFIED).and_then(dates::read)?;
    let sent = headers.get(DATE).and_then(dates::read).unwrap_or(answered);
    let unchanged = sent.duration_since(changed).ok()?;
    Some((unchanged / 10).min(GUESS_MAX))
}

/// `Expires` less `Date`, or less the time of receipt where `Date` is missing or wrong (§5.3, RFC 9110 §6.6.1).
fn expires(headers: &HeaderMap, answered: SystemTime) -> Option<Duration> {
    let mut lines = headers.get_all(EXPIRES).iter();
    let first = lines.next()?;
    if lines.any(|line| line != first) {
        return Some(Duration::ZERO);
    }
    let from = headers.get(DATE).and_then(dates::read).unwrap_or(answered);
    Some(dates::read(first).and_then(|until| until.duration_since(from).ok()).unwrap_or_default())
}

/// `corrected_initial_age`: how old the answer was when it came (§4.2.3).
///
/// The larger of what `Age` and the time in transit add up to and of what `Date` shows, the latter in whole seconds,
/// as `Date` has no finer grain.
pub fn initial_age(headers: &HeaderMap, times: Times) -> Duration {
    let transit = times.answered.duration_since(times.asked).unwrap_or_default();
    let apparent = headers
        .get(DATE)
        .and_then(dates::read)
        .and_then(|date| times.answered.duration_since(date).ok())
        .map_or(Duration::ZERO, |age| Duration::from_secs(age.as_secs()));
    apparent.max(age_value(headers) + transit)
}

/// `age_value`: the `Age` field, its first member where there are several; 0 where it is no number (§5.1).
///
/// Parameters, which it has none of, do not make an old answer young: what stands before them counts.
pub fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).and_then(|line| line.as_bytes().split(|byte| b",;".contains(byte)).next());
    Duration::from_secs(first.map(<[u8]>::trim_ascii).and_then(seconds).unwrap_or(0))
}

/// What `Age` says of a stored answer: seconds since its age was 0, at most [`SECONDS_MAX`] (§4.2.3, §5.1).
pub fn age(terms: &Terms, now: SystemTime) -> u64 {
    now.duration_since(terms.born).unwrap_or_default().as_secs().min(SECONDS_MAX)
}

/// For how many more seconds a stored answer is fresh; negative: stale for as long (RFC 9211 §2.4).
pub fn ttl(terms: &Terms, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match terms.fresh_until.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::header::{CACHE_CONTROL, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: u64 = 784_111_777;
    const RECEIVED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    static CDN: http::HeaderName = http::HeaderName::from_static("cdn-cache-control");
    const LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    type Fields<'a> = &'a [(http::HeaderName, &'static str)];

    fn headers(fields: Fields<'_>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.clone(), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_lifetime_is_what_the_most_specific_word_says() {
        let rows: &[(Fields<'_>, Option<u64>)] = &[
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
            (&[(EXPIRES, "Sun, 06 Nov 1994 08:50:37 UTC")], Some(0)),
            (&[(EXPIRES, LATER), (DATE, "Sun, 06 Nov 1994 08:51:37 GMT")], Some(0)),
            (&[(CDN.clone(), "max-age=5"), (CACHE_CONTROL, "max-age=7"), (EXPIRES, LATER)], Some(5)),
            (&[(CDN.clone(), "public"), (CACHE_CONTROL, "max-age=7"), (EXPIRES, LATER)], None),
            (&[(CDN.clone(), "max-age=\"5\""), (CACHE_CONTROL, "max-age=7")], Some(7)),
        ];
        for (fields, wanted) in rows {
            let map = headers(fields);
            let found = lifetime(&Said::of(&map, std::slice::from_ref(&CDN)), &map, at(NOW));
            assert_eq!(found.map(|found| found.as_secs()), *wanted, "{fields:?}");
        }
    }

    #[test]
    fn the_initial_age_is_the_larger_of_both_reckonings() {
        let rows: &[(Fields<'_>, u64, u64)] = &[
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
            (&[(AGE, "2147483647")], 0, (1 << 31) - 1),
            (&[(AGE, "0, 7200")], 0, 0),
            (&[(AGE, "7200"), (AGE, "0")], 0, 7200),
            (&[(AGE, "0"), (AGE, "7200")], 0, 0),
            (&[(AGE, "7200;foo=bar")], 0, 7200),
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
    #[test]
    fn a_lifetime_is_guessed_from_how_long_nothing_changed() {
        const BEFORE: &str = "Sun, 06 Nov 1994 08:32:57 GMT";
        let rows: &[(Fields<'_>, Option<u64>)] = &[
            (&[], None),
            (&[(LAST_MODIFIED, BEFORE)], Some(100)),
            (&[(LAST_MODIFIED, BEFORE), (DATE, "Sun, 06 Nov 1994 08:33:07 GMT")], Some(1)),
            (&[(LAST_MODIFIED, BEFORE), (DATE, "x")], Some(100)),
            (&[(LAST_MODIFIED, RECEIVED)], Some(0)),
            (&[(LAST_MODIFIED, LATER)], None),
            (&[(LAST_MODIFIED, "lately")], None),
            (&[(LAST_MODIFIED, "Thu, 06 Nov 1980 08:49:37 GMT")], Some(86_400)),
        ];
        for (fields, wanted) in rows {
            assert_eq!(guess(&headers(fields), at(NOW)).map(|found| found.as_secs()), *wanted, "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn the_age_never_falls_while_time_goes_on(before in 0..1_u64 << 33, first in 0..1_u64 << 33, later in 0..1_u64 << 33) {
            let terms = Terms { born: at(before), fresh_until: at(before), ..Terms::default() };
            let (one, other) = (age(&terms, at(first)), age(&terms, at(first + later)));
            prop_assert!(one <= other && other <= SECONDS_MAX);
        }

        #[test]
        fn hostile_fields_make_no_panic(name in 0..5_usize, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let name = [AGE, DATE, EXPIRES, LAST_MODIFIED, CACHE_CONTROL][name].clone();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let map = HeaderMap::from_iter([(name, value)]);
                let times = Times { asked: at(NOW), answered: at(NOW) };
                let _ = (lifetime(&Said::of(&map, &[]), &map, at(NOW)), guess(&map, at(NOW)), initial_age(&map, times));
            }
        }
    }
}
