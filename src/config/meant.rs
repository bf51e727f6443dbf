//! What an operator meant by a quantity that does not read: `30 sec`, `4mb`, `100r/s`, `0.2`.

use std::str::FromStr;

use super::units::{ByteSize, Period, Rate, Share};

/// The remedy: the reading that was probably meant, or else the shape that is asked for.
pub(super) fn or(meant: Option<String>, shape: String) -> String {
    match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => shape,
    }
}

/// `30`, `30 s`, `30sec`, `5 minutes`, `1.5s`.
pub(super) fn time(text: &str) -> Option<String> {
    let (number, unit) = number_and_word(text)?;
    let (unit, smaller) = match unit.as_str() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => ("s", "ms"),
        "ms" | "msec" | "milli" | "millis" | "millisecond" | "milliseconds" => ("ms", "us"),
        "us" | "µs" | "usec" | "micros" | "microsecond" | "microseconds" => ("us", ""),
        "m" | "min" | "mins" | "minute" | "minutes" => ("m", "s"),
        "h" | "hr" | "hrs" | "hour" | "hours" => ("h", "m"),
        "d" | "day" | "days" => ("d", "h"),
        _ => return None,
    };
    let step = match unit {
        "m" | "h" => 60,
        "d" => 24,
        _ => 1000,
    };
    let written = match number.split_once('.') {
        None => format!("{number}{unit}"),
        Some(_) => format!("{}{smaller}", whole(&number, step)?),
    };
    Period::from_str(&written).ok().map(|_| written)
}

/// `4mb`, `4M`, `4 MiB`, `10k`, `512`, `0.5GiB`.
pub(super) fn size(text: &str) -> Option<String> {
    let (number, unit) = number_and_word(text)?;
    let (unit, smaller) = match unit.as_str() {
        "" | "b" | "byte" | "bytes" => ("B", ""),
        "k" | "kb" | "kib" | "ki" => ("KiB", "B"),
        "m" | "mb" | "mib" | "mi" => ("MiB", "KiB"),
        "g" | "gb" | "gib" | "gi" => ("GiB", "MiB"),
        _ => return None,
    };
    let written = match number.split_once('.') {
        None => format!("{number}{unit}"),
        Some(_) => format!("{}{smaller}", whole(&number, 1024)?),
    };
    ByteSize::from_str(&written).ok().map(|size| size.to_string())
}

/// `100`, `100r/s`, `100 req/s`, `100/sec`, `100 per minute`, `100rps`.
pub(super) fn rate(text: &str) -> Option<String> {
    let lower = text.to_lowercase().replace(" per ", "/").replace("rps", "/s").replace("rpm", "/m");
    let (count, unit) = lower.split_once('/').unwrap_or((&lower, "s"));
    let (count, word) = number_and_word(count)?;
    if !matches!(word.as_str(), "" | "r" | "req" | "reqs" | "request" | "requests") {
        return None;
    }
    let unit = match unit.trim().trim_start_matches('1') {
        "s" | "sec" | "second" => "s",
        "m" | "min" | "minute" => "m",
        "h" | "hr" | "hour" => "h",
        "d" | "day" => "d",
        _ => return None,
    };
    Rate::from_str(&format!("{count}/{unit}")).ok().map(|rate| rate.to_string())
}

/// `20`, `20 %`, `0.2`, `20 percent`.
pub(super) fn share(text: &str) -> Option<String> {
    let (number, word) = number_and_word(text)?;
    if !matches!(word.as_str(), "" | "%" | "percent" | "pct") {
        return None;
    }
    let percent = match number.split_once('.') {
        None => number.clone(),
        Some(_) if word.is_empty() => whole(&number, 100)?.to_string(),
        Some((percent, _)) => percent.to_owned(),
    };
    Share::from_str(&format!("{percent}%")).ok().map(|share| share.to_string())
}

/// Splits `30 Sec` into `30` and `sec`.
fn number_and_word(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let number = text[..end].replace('_', "");
    let begins = number.starts_with(|c: char| c.is_ascii_digit());
    let plain = number.split('.').count() <= 2 && !number.ends_with('.');
    (begins && plain).then(|| (number, text[end..].trim().to_lowercase()))
}

/// A decimal number in the next smaller unit, if it is whole there.
fn whole(number: &str, step: u32) -> Option<u64> {
    let scaled = number.parse::<f64>().ok()? * f64::from(step);
    let rounded = scaled.round();
    let close = (scaled - rounded).abs() < 1e-6 && (0.0..9e15).contains(&rounded);
    close.then(|| format!("{rounded:.0}").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Reading = fn(&str) -> Option<String>;

    #[test]
    fn loose_quantities_are_read_as_meant() {
        let cases: &[(Reading, &str, &str)] = &[
            (time, "30", "30s"),
            (time, "30 s", "30s"),
            (time, "30sec", "30s"),
            (time, "1.5s", "1500ms"),
            (time, "0.5h", "30m"),
            (time, "5 Minutes", "5m"),
            (size, "4mb", "4MiB"),
            (size, "10M", "10MiB"),
            (size, "64k", "64KiB"),
            (size, "1048576", "1MiB"),
            (rate, "100", "100/s"),
            (rate, "100r/s", "100/s"),
            (rate, "100 req/min", "100/m"),
            (rate, "60rpm", "60/m"),
            (share, "20", "20%"),
            (share, "0.2", "20%"),
            (share, "50 %", "50%"),
        ];
        for (read, text, meant) in cases {
            assert_eq!(read(text).as_deref(), Some(*meant), "{text}");
        }
    }

    #[test]
    fn what_means_nothing_has_no_reading() {
        assert_eq!(time("soon"), None);
        assert_eq!(size("big"), None);
        assert_eq!(rate("100/fortnight"), None);
        assert_eq!(share("most"), None);
        assert_eq!(share("120"), None);
    }
}
