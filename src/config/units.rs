//! Quantities as an operator writes them: `30s`, `4MiB`, `100/s`, `20%`.
//!
//! Each type parses from text, prints the same way, and names itself to the JSON Schema by a `format`, so that
//! the check of a file can say what a good value looks like.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time: whole numbers with units (`us`, `ms`, `s`, `m`, `h`, `d`), such as `250ms` or `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

/// A number of bytes: a whole number and a unit (`B`, `KiB`, `MiB`, `GiB`, or decimal `KB`, `MB`, `GB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

/// How often something may happen: a count per `s`, `m`, `h` or `d`, such as `100/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// Within this time; one of a second, a minute, an hour, a day.
    pub per: Duration,
}

/// How much may be had in each window of the calendar: a count per `hour`, `day`, `week` or `month`, such as `1M/month`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quota {
    /// How many; at least 1.
    pub count: u32,
    /// In each of these.
    pub window: Window,
}

/// Windows of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    Month,
}

/// A part of a whole, a whole number of percent from `0%` to `100%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share(pub u8);

const TIME_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const RATE_UNITS: &[(&str, u64)] = &[("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];

const WINDOWS: &[(&str, Window)] =
    &[("hour", Window::Hour), ("day", Window::Day), ("week", Window::Week), ("month", Window::Month)];

const COUNT_UNITS: &[(&str, u64)] = &[("M", 1_000_000), ("k", 1_000), ("", 1)];

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "a time is a number and a unit: `250ms`, `30s`, `10m`, `8h`, `7d`";
        let mut micros = 0_u64;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = leading_number(rest).ok_or(SHAPE)?;
            let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let unit = unit_size(TIME_UNITS, &after[..end]).ok_or(SHAPE)?;
            micros = number.checked_mul(unit).and_then(|n| micros.checked_add(n)).ok_or("too long a time")?;
            rest = &after[end..];
        }
        if text.is_empty() { Err(SHAPE.to_owned()) } else { Ok(Self(Duration::from_micros(micros))) }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in TIME_UNITS {
            if micros >= *size {
                write!(f, "{}{unit}", micros / size)?;
                micros %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "a size is a number and a unit: `512B`, `64KiB`, `4MiB`, `1GiB`";
        let (number, unit) = leading_number(text).ok_or(SHAPE)?;
        let unit = unit_size(SIZE_UNITS, unit).ok_or(SHAPE)?;
        number.checked_mul(unit).map(Self).ok_or_else(|| "too large a size".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        let (unit, size) = SIZE_UNITS.iter().find(exact).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "a rate is a count per unit: `100/s`, `600/m`, `1000/h`";
        let (count, unit) = text.split_once('/').ok_or(SHAPE)?;
        let count: u32 = count.parse().map_err(|_| SHAPE)?;
        let seconds = unit_size(RATE_UNITS, unit).ok_or(SHAPE)?;
        if count == 0 {
            return Err("a rate of 0 would refuse everybody; the least is 1".to_owned());
        }
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit =
            RATE_UNITS.iter().find(|(_, size)| *size == self.per.as_secs()).map_or("s", |(unit, _)| unit);
        write!(f, "{}/{unit}", self.count)
    }
}

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str =
            "a quota is a count per `hour`, `day`, `week` or `month`: `1000/day`, `50k/week`, `1M/month`";
        let (count, window) = text.split_once('/').ok_or(SHAPE)?;
        let (_, window) = WINDOWS.iter().find(|(word, _)| *word == window).ok_or(SHAPE)?;
        let (number, unit) = leading_number(count).ok_or(SHAPE)?;
        let unit = unit_size(COUNT_UNITS, unit).ok_or(SHAPE)?;
        let count = number.checked_mul(unit).and_then(|count| u32::try_from(count).ok());
        match count {
            Some(0) => Err("a quota of 0 would refuse everybody; the least is 1".to_owned()),
            Some(count) => Ok(Self { count, window: *window }),
            None => Err("so large a quota is none; the most is `4294M`".to_owned()),
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = u64::from(self.count);
        let (unit, size) =
            COUNT_UNITS.iter().find(|(_, size)| count.is_multiple_of(*size)).unwrap_or(&("", 1));
        let window =
            WINDOWS.iter().find(|(_, window)| *window == self.window).map_or("day", |(word, _)| word);
        write!(f, "{}{unit}/{window}", count / size)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "a share is a percentage from `0%` to `100%`";
        let percent: u8 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or(SHAPE)?;
        if percent <= 100 { Ok(Self(percent)) } else { Err(SHAPE.to_owned()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Splits `30s` into 30 and `s`.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn unit_size(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size)
}

/// What each unit needs besides parsing and printing: conversions for serde, and a place in the schema.
macro_rules! quantity {
    ($type:ty, $name:literal, $format:literal, $pattern:literal) => {
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $format, "pattern": $pattern })
            }
        }
    };
}

quantity!(Period, "Period", "time", r"^([0-9]+(us|ms|s|m|h|d))+$");
quantity!(ByteSize, "ByteSize", "size", r"^[0-9]+(B|KiB|MiB|GiB|KB|MB|GB)$");
quantity!(Rate, "Rate", "rate", r"^[1-9][0-9]*/(s|m|h|d)$");
quantity!(Quota, "Quota", "quota", r"^[1-9][0-9]*[kM]?/(hour|day|week|month)$");
pub(super) use quantity;

quantity!(Share, "Share", "share", r"^(100|[0-9]{1,2})%$");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_as_an_operator_means_them() {
        assert_eq!("1m30s".parse(), Ok(Period(Duration::from_secs(90))));
        assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
        assert_eq!("4MiB".parse(), Ok(ByteSize(4 << 20)));
        assert_eq!("600/m".parse(), Ok(Rate { count: 600, per: Duration::from_secs(60) }));
        assert_eq!("20%".parse(), Ok(Share(20)));
    }

    #[test]
    fn a_quantity_without_its_unit_is_refused() {
        for text in ["", "30", "s", "30 s", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        for text in ["", "4", "4mb", "MiB", "99999999999GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in ["100", "0/s", "100/fortnight", "/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
            assert!(text.parse::<Quota>().is_err(), "{text}");
        }
        for text in ["20", "101%", "-1%", "%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(micros in 0_u64..1 << 50, bytes: u64, percent in 0_u8..=100) {
            let period = Period(Duration::from_micros(micros));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            prop_assert_eq!(Share(percent).to_string().parse(), Ok(Share(percent)));
        }
    }

    #[test]
    fn quotas_are_counts_per_window() {
        for (text, count, window, written) in [
            ("1M/month", 1_000_000, Window::Month, "1M/month"),
            ("1500k/week", 1_500_000, Window::Week, "1500k/week"),
            ("2000/day", 2000, Window::Day, "2k/day"),
            ("1001/hour", 1001, Window::Hour, "1001/hour"),
            ("4294M/hour", 4_294_000_000, Window::Hour, "4294M/hour"),
        ] {
            let quota: Quota = text.parse().unwrap();
            assert_eq!((quota.count, quota.window, quota.to_string()), (count, window, written.to_owned()));
            assert_eq!(written.parse(), Ok(quota));
        }
        for text in [
            "1M",
            "M/month",
            "1m/month",
            "1M/months",
            "0/day",
            "1G/month",
            "5000M/month",
            "1 M/month",
            "-1/day",
        ] {
            assert!(text.parse::<Quota>().is_err(), "{text}");
        }
    }
}
