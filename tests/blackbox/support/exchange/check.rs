//! What a message must say, and whether it does.

use super::words::{Meaning, field};

/// One thing that must be true of a field.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    name: String,
    wants: Wants,
}

#[derive(Clone, Debug)]
enum Wants {
    /// This value, all lines put together.
    Value(String),
    /// This somewhere in the value.
    Part(String),
    /// A number from the first to the last.
    Number(i64, i64),
    /// Any value.
    Something,
    /// No such field.
    Nothing,
    /// These parts of the gateway's own member of `Cache-Status` (RFC 9211 section 2).
    Says(Vec<String>),
}

impl Check {
    /// `Name: value`, `Name: ~ part`, `Name: 5..10`, `Name: *`, `no Name`, `Cache-Status: hit; ttl=5..`.
    pub(super) fn parse(words: &str) -> Result<Self, String> {
        if let Some(name) = words.strip_prefix("no ") {
            return Ok(Self { name: name.to_owned(), wants: Wants::Nothing });
        }
        let (name, value) = field(words).ok_or("no field")?;
        let wants = if name.eq_ignore_ascii_case("cache-status") {
            Wants::Says(value.split(';').map(|part| part.trim().to_owned()).collect())
        } else if let Some(part) = value.strip_prefix("~ ") {
            Wants::Part(part.to_owned())
        } else if let Some((from, to)) = range(&value) {
            Wants::Number(from, to)
        } else if value == "*" {
            Wants::Something
        } else {
            Wants::Value(value)
        };
        Ok(Self { name, wants })
    }

    /// What is wrong with these values of a message, given by name; nothing where all is well.
    pub(super) fn problem<'a>(
        &self,
        meaning: &Meaning,
        all: impl Fn(&str) -> Vec<&'a str>,
    ) -> Option<String> {
        let name = &self.name;
        let lines = all(name);
        let got =
            || if lines.is_empty() { format!("no {name}") } else { format!("{name}: {}", lines.join(", ")) };
        let value = lines.join(", ");
        let holds = match &self.wants {
            Wants::Value(wanted) => !lines.is_empty() && value == meaning.of(wanted),
            Wants::Part(part) => value.contains(&meaning.of(part)),
            Wants::Number(from, to) => value.parse().is_ok_and(|number| (*from..=*to).contains(&number)),
            Wants::Something => !lines.is_empty(),
            Wants::Nothing => lines.is_empty(),
            Wants::Says(parts) => parts.iter().all(|part| says(&value, part)),
        };
        (!holds).then(got)
    }
}

/// Whether the last member of a `Cache-Status` has this part: `hit`, `fwd=stale`, `no stored`, `ttl=5..10`.
fn says(value: &str, wanted: &str) -> bool {
    let mut parts = ours(value).split(';').map(str::trim).skip(1);
    if let Some(unwanted) = wanted.strip_prefix("no ") {
        return !parts.any(|part| part.split('=').next() == Some(unwanted));
    }
    let number = wanted.split_once('=').and_then(|(name, value)| Some((name, range(value)?)));
    parts.any(|part| match (number, part.split_once('=')) {
        (Some((name, (from, to))), Some((known, value))) if name == known => {
            value.parse().is_ok_and(|number| (from..=to).contains(&number))
        }
        _ => part == wanted,
    })
}

/// The last member of a list.
fn ours(value: &str) -> &str {
    value.rsplit(", ").next().unwrap_or_default()
}

/// `5..10`, `5..`, `..10`, both ends included.
fn range(words: &str) -> Option<(i64, i64)> {
    let (from, to) = words.split_once("..")?;
    let end = |words: &str, open| if words.is_empty() { Some(open) } else { words.parse().ok() };
    Some((end(from, i64::MIN)?, end(to, i64::MAX)?))
}

/// What every answer must keep to, whatever the exchange is about; nothing where all is well.
///
/// An answer of the origin's own may carry an `Age` that makes no sense; one of the store may not.
pub(super) fn manners<'a>(all: impl Fn(&str) -> Vec<&'a str>, stored: bool) -> Option<String> {
    let once = ["date", "content-length", "etag", "last-modified", "content-type"];
    for name in once.into_iter().chain(stored.then_some("age")) {
        let lines = all(name);
        if lines.len() > 1 {
            return Some(format!("{name} in {} lines: {lines:?}", lines.len()));
        }
    }
    if all("date").is_empty() {
        return Some("no Date (RFC 9110 §6.6.1)".to_owned());
    }
    let said = all("cache-status").join(", ");
    if says(&said, "hit") && ours(&said).contains("fwd=") {
        return Some(format!("both a hit and forwarded (RFC 9211 §2): {said}"));
    }
    let age = all("age");
    let number = |age: &&str| !age.is_empty() && age.bytes().all(|digit| digit.is_ascii_digit());
    (stored && !age.iter().all(number)).then(|| format!("Age is no number (RFC 9111 §5.1): {age:?}"))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_check_holds_for_what_it_names_and_for_nothing_else() {
        let meaning = Meaning { base: "/1", now: SystemTime::UNIX_EPOCH };
        let fields =
            [("a", "1"), ("a", "2"), ("n", "7"), ("cache-status", "up; hit, tidegate; fwd=stale; ttl=-3")];
        let all = |name: &str| {
            let same = fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
            same.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        for (words, holds) in [
            ("A: 1, 2", true),
            ("A: 1", false),
            ("A: ~ 1", true),
            ("A: ~ 3", false),
            ("A: *", true),
            ("B: *", false),
            ("no B", true),
            ("no A", false),
            ("N: 5..7", true),
            ("N: 8..", false),
            ("N: ..6", false),
            ("A: 1..", false),
            ("Cache-Status: fwd=stale; ttl=-5..0; no stored", true),
            ("Cache-Status: hit", false),
            ("Cache-Status: no ttl", false),
            ("Cache-Status: ttl=0..", false),
        ] {
            let check = Check::parse(words).unwrap();
            assert_eq!(check.problem(&meaning, all).is_none(), holds, "{words}");
        }
        assert!(Check::parse("words").is_err());
    }
}
