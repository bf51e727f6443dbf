//! HTTP dates (RFC 9110 §5.6.7), read strictly.
//!
//! There are three shapes. Names of days, months and the zone count in any case; everything else must be as the RFC
//! has it, digit for digit: a date that could mean two things means none, and `Expires` is then in the past.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The date that a field names. `None`: it is no date.
pub(super) fn read(value: &HeaderValue) -> Option<SystemTime> {
    parse(value.as_bytes().trim_ascii(), SystemTime::now)
}

/// A date as a field value, in the preferred shape.
pub(super) fn write(time: SystemTime) -> HeaderValue {
    // Made of letters, digits and spaces.
    HeaderValue::try_from(httpdate::fmt_http_date(time)).unwrap_or(HeaderValue::from_static(""))
}

/// `now` tells the century of a year with two digits.
fn parse(text: &[u8], now: impl FnOnce() -> SystemTime) -> Option<SystemTime> {
    if text.get(3) == Some(&b',') {
        return imf(text);
    }
    if text.get(3) == Some(&b' ') { asctime(text) } else { rfc850(text, now) }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn imf(text: &[u8]) -> Option<SystemTime> {
    let (day, rest) = text.split_at_checked(5)?;
    short_day(&day[..3])?;
    let [d1, d2, b' ', m1, m2, m3, b' ', y1, y2, y3, y4, b' ', time @ .., b' ', z1, z2, z3] = rest else {
        return None;
    };
    let fits = day[4] == b' ' && [*z1, *z2, *z3].eq_ignore_ascii_case(b"GMT");
    let date = Date {
        year: number(&[*y1, *y2, *y3, *y4])?,
        month: month([*m1, *m2, *m3])?,
        day: number(&[*d1, *d2])?,
    };
    if fits { date.at(time) } else { None }
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`.
fn rfc850(text: &[u8], now: impl FnOnce() -> SystemTime) -> Option<SystemTime> {
    let comma = text.iter().position(|byte| *byte == b',')?;
    let (day, rest) = text.split_at(comma);
    DAYS.iter().find(|name| name.as_bytes().eq_ignore_ascii_case(day))?;
    let [b',', b' ', d1, d2, b'-', m1, m2, m3, b'-', y1, y2, b' ', time @ .., b' ', z1, z2, z3] = rest else {
        return None;
    };
    if ![*z1, *z2, *z3].eq_ignore_ascii_case(b"GMT") {
        return None;
    }
    let date = |century: i64| {
        let year = century + number(&[*y1, *y2])?;
        Date { year, month: month([*m1, *m2, *m3])?, day: number(&[*d1, *d2])? }.at(time)
    };
    // More than 50 years ahead means the century before.
    let bound = now() + Duration::from_secs(50 * 31_556_952);
    date(2000).filter(|found| *found <= bound).or_else(|| date(1900))
}

/// `Sun Nov  6 08:49:37 1994`.
fn asctime(text: &[u8]) -> Option<SystemTime> {
    let (day, rest) = text.split_at_checked(3)?;
    short_day(day)?;
    let [b' ', m1, m2, m3, b' ', d1, d2, b' ', time @ .., b' ', y1, y2, y3, y4] = rest else { return None };
    let day = if *d1 == b' ' { number(&[*d2])? } else { number(&[*d1, *d2])? };
    Date { year: number(&[*y1, *y2, *y3, *y4])?, month: month([*m1, *m2, *m3])?, day }.at(time)
}

fn short_day(text: &[u8]) -> Option<()> {
    DAYS.iter().any(|name| name.as_bytes()[..3].eq_ignore_ascii_case(text)).then_some(())
}

fn month(text: [u8; 3]) -> Option<i64> {
    (1..).zip(MONTHS).find(|(_, name)| name.eq_ignore_ascii_case(&text)).map(|(number, _)| number)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// A day of the Gregorian calendar.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// At `08:49:37` of that day. A leap second counts as the one before it.
    fn at(&self, time: &[u8]) -> Option<SystemTime> {
        let [h1, h2, b':', m1, m2, b':', s1, s2] = time else { return None };
        let (hour, minute, second) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?, number(&[*s1, *s2])?);
        if !(1..=self.month_length()).contains(&self.day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let seconds = self.since_1970() * 86_400 + hour * 3600 + minute * 60 + second.min(59);
        let apart = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { UNIX_EPOCH.checked_sub(apart) } else { UNIX_EPOCH.checked_add(apart) }
    }

    fn month_length(&self) -> i64 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Days since 1 January 1970, reckoned from a year that begins in March, so that the leap day is its last.
    fn since_1970(&self) -> i64 {
        let (year, month) =
            if self.month > 2 { (self.year, self.month - 3) } else { (self.year - 1, self.month + 9) };
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        year * 365 + leap_days + (month * 153 + 2) / 5 + self.day - 1 - 719_468
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        // 2026-01-01.
        let now = || UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let found = parse(text.as_bytes(), now)?;
        let ahead = found.duration_since(UNIX_EPOCH);
        Some(ahead.map_or_else(
            |before| -i64::try_from(before.duration().as_secs()).unwrap(),
            |after| i64::try_from(after.as_secs()).unwrap(),
        ))
    }

    #[test]
    fn the_three_shapes_are_read_whatever_the_case_of_names() {
        let rows = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("SUN, 06 nov 1994 08:49:37 gMt", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("sunday, 06-NOV-94 08:49:37 gmt", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Sun Nov 06 08:49:37 1994", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
            ("Tue, 19 Jan 2038 03:14:08 GMT", 1 << 31),
            ("Sun, 21 Nov 2286 04:46:39 GMT", 10_000_039_599),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_799),
            ("Tuesday, 01-Jan-74 00:00:00 GMT", 3_281_990_400),
            ("Saturday, 01-Jan-77 00:00:00 GMT", 220_924_800),
        ];
        for (text, wanted) in rows {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
    }

    #[test]
    fn whatever_else_looks_like_a_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "now",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov  1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Tue, 29 Feb 1900 00:00:00 GMT",
            "Son, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nox 1994 08:49:37 GMT",
            "Sun,06 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(at in 0..253_402_300_799_u64) {
            let time = UNIX_EPOCH + Duration::from_secs(at);
            prop_assert_eq!(read(&write(time)), Some(time));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes, SystemTime::now);
        }

        #[test]
        fn nearly_a_date_makes_no_panic(text in "[A-Z][a-z]{2}[, ]{1,2}[0-9]{0,3}[- ][A-Z][a-z]{2}[- ][0-9]{0,5} [0-9:]{0,9} GMT") {
            let _ = parse(text.as_bytes(), SystemTime::now);
        }
    }
}
