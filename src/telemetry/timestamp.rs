//! Points in time as RFC 3339 writes them: UTC, to the millisecond.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// A point in time that prints as `2025-01-31T23:59:59.999Z` (RFC 3339 §5.6).
///
/// Times before 1970 print as the start of 1970, times after 9999 as the end of 9999: four digits hold the year.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub SystemTime);

const LAST_MILLISECOND: u64 = 253_402_300_799_999;

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).map_or(LAST_MILLISECOND, |ms| ms.min(LAST_MILLISECOND));
        let (seconds, milli) = (millis / 1000, millis % 1000);
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// Year, month and day of a number of days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year and months have lengths that a
/// straight line gives; 400 years hold 146 097 days.
pub fn date(days: u64) -> (u64, u64, u64) {
    let from_march_0000 = days + 719_468;
    let (era, day_of_era) = (from_march_0000 / 146_097, from_march_0000 % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// The clock of the logs: every line carries the same form of time as the access log.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", Timestamp(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn print(millis: u64) -> String {
        Timestamp(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
    }

    #[test]
    fn known_moments_print_as_known() {
        assert_eq!(print(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(print(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(print(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
        assert_eq!(print(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn times_out_of_range_stay_well_formed() {
        assert_eq!(print(LAST_MILLISECOND + 1), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp(UNIX_EPOCH - Duration::from_secs(9)).to_string(), print(0));
    }

    proptest! {
        #[test]
        fn agrees_with_the_dates_of_http(seconds in 0..=LAST_MILLISECOND / 1000) {
            const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            // Sun, 06 Nov 1994 08:49:37 GMT
            let http = httpdate::fmt_http_date(time);
            let month = MONTHS.find(&http[8..11]).unwrap() / 3 + 1;
            let expected = format!("{}-{month:02}-{}T{}.000Z", &http[12..16], &http[5..7], &http[17..25]);
            prop_assert_eq!(Timestamp(time).to_string(), expected);
        }
    }
}
