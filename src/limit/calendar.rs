//! Windows of the calendar, in UTC.

use crate::telemetry::timestamp::date;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A kind of window: each begins where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// From minute 0 to minute 0.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday (ISO 8601).
    Week,
    /// From the first to the first.
    Month,
}

/// One window, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub from: u64,
    /// When the next one does.
    pub until: u64,
}

impl Window {
    /// The window that this second lies in.
    pub fn at(self, second: u64) -> Span {
        let day = second / DAY;
        let days = |from: u64, count: u64| Span { from: from * DAY, until: (from + count) * DAY };
        match self {
            Self::Hour => {
                let from = second / HOUR * HOUR;
                Span { from, until: from + HOUR }
            }
            Self::Day => days(day, 1),
            // 1970 began on a Thursday; the week that it began in is cut short.
            Self::Week => match (day + 3) / 7 * 7 {
                0 => days(0, 4),
                monday => days(monday - 3, 7),
            },
            Self::Month => {
                let first = |day: u64| day + 1 - date(day).2;
                let from = first(day);
                days(from, first(from + 31) - from)
            }
        }
    }

    /// How many seconds it has; a month has no one length.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Hour => Some(HOUR),
            Self::Day => Some(DAY),
            Self::Week => Some(7 * DAY),
            Self::Month => None,
        }
    }

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

impl Span {
    /// Whether this second lies in it.
    pub fn has(self, second: u64) -> bool {
        (self.from..self.until).contains(&second)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::timestamp::Timestamp;

    fn span(window: Window, second: u64) -> [String; 2] {
        let Span { from, until } = window.at(second);
        [from, until].map(|second| Timestamp(UNIX_EPOCH + Duration::from_secs(second)).to_string())
    }

    #[test]
    fn windows_are_those_of_the_calendar() {
        // 2024-02-29T13:45:59Z, a Thursday; 2026-12-31T23:59:59Z, a Thursday; 2023-01-01T00:00:00Z, a Sunday.
        for (second, window, from, until) in [
            (1_709_214_359, Window::Hour, "2024-02-29T13:00", "2024-02-29T14:00"),
            (1_709_214_359, Window::Day, "2024-02-29T00:00", "2024-03-01T00:00"),
            (1_709_214_359, Window::Week, "2024-02-26T00:00", "2024-03-04T00:00"),
            (1_709_214_359, Window::Month, "2024-02-01T00:00", "2024-03-01T00:00"),
            (1_798_761_599, Window::Hour, "2026-12-31T23:00", "2027-01-01T00:00"),
            (1_798_761_599, Window::Day, "2026-12-31T00:00", "2027-01-01T00:00"),
            (1_798_761_599, Window::Week, "2026-12-28T00:00", "2027-01-04T00:00"),
            (1_798_761_599, Window::Month, "2026-12-01T00:00", "2027-01-01T00:00"),
            (1_672_531_200, Window::Hour, "2023-01-01T00:00", "2023-01-01T01:00"),
            (1_672_531_200, Window::Week, "2022-12-26T00:00", "2023-01-02T00:00"),
            (1_672_531_200, Window::Month, "2023-01-01T00:00", "2023-02-01T00:00"),
        ] {
            let wanted = [from, until].map(|minute| format!("{minute}:00.000Z"));
            assert_eq!(span(window, second), wanted, "{window:?} at {second}");
        }
    }

    proptest! {
        #[test]
        fn each_second_lies_in_its_window_and_the_next_begins_where_it_ends(
            second in 0_u64..10_000_000_000,
            window in prop::sample::select(vec![Window::Hour, Window::Day, Window::Week, Window::Month]),
        ) {
            let span = window.at(second);
            prop_assert!(span.has(second) && !span.has(span.until));
            prop_assert_eq!(window.at(span.from), span);
            prop_assert_eq!(window.at(span.until - 1), span);
            prop_assert_eq!(window.at(span.until).from, span.until);
            let seconds = span.until - span.from;
            match window.seconds() {
                Some(all) => prop_assert!(seconds == all || span.from == 0),
                None => prop_assert!((28 * DAY..=31 * DAY).contains(&seconds)),
            }
        }
    }
}
