//! Words that stand for something: times, dates and places in a transcript.

use std::time::{Duration, SystemTime};

/// `Name: value` in two.
pub(super) fn field(words: &str) -> Option<(String, String)> {
    let (name, value) = words.split_once(':')?;
    (!name.contains(' ')).then(|| (name.to_owned(), value.trim_start().to_owned()))
}

/// `2s`, `500ms`, `5m`, `3h`, `1d`.
pub(super) fn duration(words: &str) -> Option<Duration> {
    let digits = words.find(|digit: char| !digit.is_ascii_digit())?;
    let count: u64 = words[..digits].parse().ok()?;
    match &words[digits..] {
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_secs(count * 60)),
        "h" => Some(Duration::from_secs(count * 3600)),
        "d" => Some(Duration::from_secs(count * 86400)),
        _ => None,
    }
}

/// What the words in braces stand for in one exchange.
pub(super) struct Meaning<'a> {
    /// What its paths begin with: `{here}`.
    pub(super) base: &'a str,
    /// When it began: `{now}`, `{now-1d}`, `{now+60s as rfc850}`.
    pub(super) now: SystemTime,
}

impl Meaning<'_> {
    /// The text with every word in braces replaced; panics at a word it does not know.
    pub(super) fn of(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once('{') else { return text.to_owned() };
        let (word, after) = rest.split_once('}').unwrap_or_else(|| panic!("an open brace: {text}"));
        let meaning = self.word(word).unwrap_or_else(|| panic!("what is {{{word}}}?"));
        format!("{before}{meaning}{}", self.of(after))
    }

    fn word(&self, word: &str) -> Option<String> {
        if let Some(date) = word.strip_prefix("now") {
            let (shift, form) = date.split_once(" as ").unwrap_or((date, "imf"));
            let then = match shift.split_at_checked(1) {
                None => self.now,
                Some(("+", time)) => self.now + duration(time)?,
                Some(("-", time)) => self.now - duration(time)?,
                Some(_) => return None,
            };
            return date_as(form, &httpdate::fmt_http_date(then));
        }
        if let Some((letter, times)) = word.split_once(" * ") {
            return Some(letter.repeat(times.parse().ok()?));
        }
        match word {
            "here" => Some(self.base.to_owned()),
            "site" => Some("https://a.test".to_owned()),
            _ => None,
        }
    }
}

/// A date in one of the three forms of RFC 9110 section 5.6.7, from its first.
fn date_as(form: &str, imf: &str) -> Option<String> {
    let words: Vec<&str> = imf.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [weekday, day, month, year, time, zone] = words[..] else { return None };
    let in_full = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let weekday_in_full = in_full.iter().find(|name| name.starts_with(weekday))?;
    match form {
        "imf" => Some(imf.to_owned()),
        "rfc850" => Some(format!("{weekday_in_full}, {day}-{month}-{} {time} {zone}", &year[2..])),
        "asctime" => {
            let day: u8 = day.parse().ok()?;
            Some(format!("{weekday} {month} {day:>2} {time} {year}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_braces_stand_for_dates_and_places() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let meaning = Meaning { base: "/7", now };
        for (text, means) in [
            ("{now}", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("{now-1d}", "Sat, 05 Nov 1994 08:49:37 GMT"),
            ("{now+23s as rfc850}", "Sunday, 06-Nov-94 08:50:00 GMT"),
            ("{now as asctime}", "Sun Nov  6 08:49:37 1994"),
            ("{site}{here}/x", "https://a.test/7/x"),
            ("{ab * 3}!", "ababab!"),
        ] {
            assert_eq!(meaning.of(text), means);
        }
    }
}
