//! What became of a request that was to warm the cache: `Cache-Status` says (RFC 9211).

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::cache::status::NAME;

/// What became of one URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is stored now, or what was stored is fresh again.
    Stored,
    /// It was stored already.
    Hit,
    /// It was answered and not stored, for this reason.
    NotStored(String),
    /// There is no answer, or one that says no.
    Failed(String),
}

impl Outcome {
    /// Reads it off a complete answer.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let Some(member) = ours(headers) else {
            let failed = status.is_client_error() || status.is_server_error();
            let reason = "the answer says nothing of a cache of Tidegate";
            let failure = || Self::Failed(format!("{status}, and {reason}"));
            return if failed { failure() } else { Self::NotStored(reason.to_owned()) };
        };
        let param = |name: &str| member.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        // An answer of 304 to a question of the gateway's own made what is stored fresh again.
        if param("stored").is_some() || param("fwd-status") == Some("304") {
            return Self::Stored;
        }
        if param("hit").is_some() {
            return Self::Hit;
        }
        let reason = match (param("detail"), param("collapsed"), param("fwd")) {
            (Some(detail), _, _) => detail.to_owned(),
            (None, Some(_), _) => "another request's answer".to_owned(),
            (None, None, Some(fwd)) => format!("fwd={fwd}"),
            (None, None, None) => "no reason given".to_owned(),
        };
        if status.is_client_error() || status.is_server_error() {
            return Self::Failed(format!("{status} ({reason})"));
        }
        Self::NotStored(reason)
    }
}

/// The parameters of the last member, which is nearest to us, if it is of a Tidegate (RFC 9211 §2).
fn ours(headers: &HeaderMap) -> Option<Vec<(String, String)>> {
    let lines: Vec<_> =
        headers.get_all("cache-status").iter().filter_map(|line: &HeaderValue| line.to_str().ok()).collect();
    let lines = lines.join(",");
    let member = *split(&lines, ',').last()?;
    let mut words = split(member, ';').into_iter();
    if words.next() != Some(NAME) {
        return None;
    }
    let param = |word: &str| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.trim_matches('"').to_owned()),
        None => (word.to_owned(), String::new()),
    };
    Some(words.map(param).collect())
}

/// Splits at `by` outside of quoted strings (RFC 9651 §3.3.3), and trims.
fn split(text: &str, by: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let outside = |char: char| {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return char == by && !quoted,
        }
        false
    };
    text.split(outside).map(str::trim).collect()
}

/// How many went which way.
#[derive(Debug, Default)]
pub(super) struct Tally {
    stored: u64,
    hit: u64,
    not_stored: BTreeMap<String, u64>,
    pub(super) failed: u64,
}

impl Tally {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Stored => self.stored += 1,
            Outcome::Hit => self.hit += 1,
            Outcome::NotStored(reason) => *self.not_stored.entry(reason.clone()).or_default() += 1,
            Outcome::Failed(_) => self.failed += 1,
        }
    }

    /// How many in all.
    pub(super) fn all(&self) -> u64 {
        self.stored + self.hit + self.not_stored.values().sum::<u64>() + self.failed
    }
}

/// `7 stored, 2 hit, 1 not stored (1 private), 0 failed`
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, hit, not_stored, failed } = self;
        write!(f, "{stored} stored, {hit} hit, {} not stored", not_stored.values().sum::<u64>())?;
        let mut reasons: Vec<_> = not_stored.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons: Vec<_> =
            reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if !reasons.is_empty() {
            write!(f, " ({})", reasons.join(", "))?;
        }
        write!(f, ", {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, lines: &[&str]) -> Outcome {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("cache-status", line.parse().unwrap());
        }
        Outcome::of(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn the_last_member_says_what_became_of_it() {
        let not = |reason: &str| Outcome::NotStored(reason.to_owned());
        let failed = |reason: &str| Outcome::Failed(reason.to_owned());
        let nothing = "the answer says nothing of a cache of Tidegate";
        let rows: [(u16, &[&str], Outcome); 16] = [
            (200, &["tidegate; fwd=uri-miss; fwd-status=200; ttl=30; stored"], Outcome::Stored),
            (200, &["tidegate;fwd=stale;fwd-status=304"], Outcome::Stored),
            (404, &["tidegate; fwd=uri-miss; fwd-status=404; stored"], Outcome::Stored),
            (200, &["tidegate; hit; ttl=28; detail=memory"], Outcome::Hit),
            (404, &["tidegate; hit; ttl=2"], Outcome::Hit),
            (200, &["tidegate; fwd=uri-miss; fwd-status=200; detail=private"], not("private")),
            (200, &["tidegate; fwd=uri-miss; collapsed"], not("another request's answer")),
            (200, &["tidegate; fwd=bypass"], not("fwd=bypass")),
            (301, &["tidegate; detail=redirect"], not("redirect")),
            (200, &["origin; hit, tidegate; fwd=bypass"], not("fwd=bypass")),
            (200, &["origin; stored", "tidegate; hit"], Outcome::Hit),
            (200, &[r#"origin; key="a, b; \" c"; hit, tidegate; hit; key="https://h/,""#], Outcome::Hit),
            (200, &["tidegate; hit, other; fwd=miss"], not(nothing)),
            (200, &[], not(nothing)),
            (404, &["tidegate; fwd=uri-miss; fwd-status=404"], failed("404 Not Found (fwd=uri-miss)")),
            (503, &[], failed(&format!("503 Service Unavailable, and {nothing}"))),
        ];
        for (status, lines, wanted) in rows {
            assert_eq!(of(status, lines), wanted, "{status} {lines:?}");
        }
    }

    #[test]
    fn the_tally_names_reasons_by_how_often() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "0 stored, 0 hit, 0 not stored, 0 failed");
        let reasons = ["no-store", "private", "private"].map(|reason| Outcome::NotStored(reason.to_owned()));
        for outcome in reasons.iter().chain(&[Outcome::Stored, Outcome::Failed(String::new())]) {
            tally.add(outcome);
        }
        assert_eq!(tally.to_string(), "1 stored, 0 hit, 3 not stored (2 private, 1 no-store), 1 failed");
        assert_eq!(tally.all(), 5);
    }
}
