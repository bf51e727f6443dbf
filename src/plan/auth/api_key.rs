//! Callers by keys that they were given, as `[auth.NAME.api_key]` and its file say it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderName;
use serde::Deserialize;
use toml::Spanned;
use toml::value::{Date, Datetime, Offset, Time};

use crate::auth::{ApiKey, ApiKeySettings, By, Settings};
use crate::config::auth::AuthApiKey;
use crate::config::route::OneOrMany;
use crate::config::{Place, Problem};

use super::grant::{Grant, ROLES};
use super::{bounded, headers};

/// Of what is wrong with a file, so much is shown.
const SHOWN: usize = 5;

/// A key, as its file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: Spanned<String>,
    expires: Option<Spanned<Datetime>>,
    tenant: Option<String>,
    plan: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    claims: BTreeMap<String, OneOrMany<String>>,
}

/// What is wrong with a file: where in it, what, and what to do.
type Flaw = (usize, String, &'static str);

/// Which keys are whose; files are relative to `directory`.
pub(super) fn settings(
    written: &AuthApiKey,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let before = problems.len();
    let told = headers(&written.headers, &place.then("headers"), problems);
    let field = field(&written.header, place, problems);
    let keys = keys(&directory.join(&written.file), &place.then("file"), problems);
    let by = By::ApiKey(ApiKeySettings { field: field?, keys });
    (problems.len() == before).then(|| Settings { headers: told, roles_claim: ROLES.to_owned(), by })
}

/// The field in which keys are sent: one that has no other meaning.
fn field(written: &str, place: &Place, problems: &mut Vec<Problem>) -> Option<HeaderName> {
    let usual = BTreeMap::from([(written.to_owned(), String::new())]);
    let refused = &mut Vec::new();
    headers(&usual, place, refused);
    if let Some(problem) = refused.pop() {
        let remedy = "take a field of its own, such as `x-api-key`";
        problems.push(Problem::new(place.then("header"), problem.message, remedy));
    }
    HeaderName::from_bytes(written.as_bytes()).ok()
}

fn keys(file: &Path, place: &Place, problems: &mut Vec<Problem>) -> Vec<ApiKey> {
    let Some(text) = bounded::read(file, place, problems) else { return Vec::new() };
    let (keys, flaws) = parse(&text);
    let shown = flaws.iter().take(SHOWN);
    problems.extend(shown.map(|(at, message, remedy)| {
        let line = text.get(..*at).unwrap_or_default().matches('\n').count() + 1;
        Problem::new(place.clone(), format!("{message} ({}:{line})", file.display()), *remedy)
    }));
    if flaws.len() > SHOWN {
        let message = format!("{} more keys of {} are wrong", flaws.len() - SHOWN, file.display());
        problems.push(Problem::new(place.clone(), message, "is it the right file?"));
    }
    keys
}

/// The keys of a file, and what is wrong with others.
fn parse(text: &str) -> (Vec<ApiKey>, Vec<Flaw>) {
    let entries: BTreeMap<String, Entry> = match toml::from_str(text) {
        Ok(entries) => entries,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let remedy = "a key is a table: `[NAME]`, with `sha256 = \"…\"` and what else is said of it";
            return (Vec::new(), vec![(at, without_quoted(error.message()), remedy)]);
        }
    };
    let (mut keys, mut flaws) = (Vec::new(), Vec::new());
    let mut names: HashMap<[u8; 32], String> = HashMap::new();
    for (name, entry) in entries {
        let at = entry.sha256.span().start;
        match key(&name, &entry) {
            Ok(key) => match names.insert(key.sha256, name.clone()) {
                None => keys.push(key),
                Some(other) => {
                    let message = format!("the keys `{other}` and `{name}` are one");
                    flaws.push((at, message, "give each a key of its own"));
                }
            },
            Err(flaw) => flaws.push(flaw),
        }
    }
    (keys, flaws)
}

/// What a parser says, without the text that it quotes: a key may have been written where its hash should be.
fn without_quoted(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}…{}", &message[..first], &message[last + 1..])
        }
        _ => message.to_owned(),
    }
    .replace('\n', " ")
}

fn key(name: &str, entry: &Entry) -> Result<ApiKey, Flaw> {
    let hash = sha256(entry.sha256.get_ref()).ok_or_else(|| {
        let message = format!("`sha256` of the key `{name}` is none");
        (
            entry.sha256.span().start,
            message,
            "64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them",
        )
    })?;
    let until = entry.expires.as_ref().map(|written| {
        time(written.get_ref()).ok_or_else(|| {
            let message = format!("`expires` of the key `{name}` is no point in time");
            (written.span().start, message, "write a date, or a time with its zone: 2027-06-30T00:00:00Z")
        })
    });
    let Entry { tenant, plan, scopes, roles, claims, .. } = entry;
    let grant = Grant { tenant: tenant.as_deref(), plan: plan.as_deref(), scopes, roles, claims };
    let mut claims = grant.claims();
    claims.entry("sub").or_insert(name.into());
    Ok(ApiKey { id: name.to_owned(), sha256: hash, claims, until: until.transpose()? })
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// A date is its beginning in UTC; a time without a zone is none.
fn time(written: &Datetime) -> Option<SystemTime> {
    let date = written.date?;
    let (time, offset) = match (&written.time, &written.offset) {
        (None, None) => (0, 0),
        (Some(time), Some(Offset::Z)) => (seconds(time), 0),
        (Some(time), Some(Offset::Custom { minutes })) => (seconds(time), i64::from(*minutes) * 60),
        _ => return None,
    };
    let since = days(date) * 86_400 + time - offset;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(since).unwrap_or(0)))
}

fn seconds(time: &Time) -> i64 {
    let seconds =
        u32::from(time.hour) * 3600 + u32::from(time.minute) * 60 + u32::from(time.second.unwrap_or(0));
    i64::from(seconds)
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is the last of its year.
fn days(date: Date) -> i64 {
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::timestamp::Timestamp;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_key_is_what_its_table_says() {
        let text = format!(
            "# ours\n[acme]\nsha256 = \"{}\"\nexpires = 2027-06-30T12:30:00+02:00\ntenant = \"acme\"\n\
             scopes = [\"a\", \"b\"]\nroles = [\"editor\"]\nclaims = {{ region = [\"eu\", \"us\"], sub = \"billing\" }}\n",
            ABC.to_uppercase()
        );
        let (keys, flaws) = parse(&text);
        assert_eq!(flaws, []);
        let claims = serde_json::json!({
            "tenant": "acme", "scope": "a b", "roles": ["editor"], "region": ["eu", "us"], "sub": "billing",
        });
        assert_eq!(serde_json::Value::Object(keys[0].claims.clone()), claims);
        assert_eq!((&*keys[0].id, keys[0].sha256[..2].to_vec()), ("acme", vec![0xba, 0x78]));
        assert_eq!(Timestamp(keys[0].until.unwrap()).to_string(), "2027-06-30T10:30:00.000Z");
        assert_eq!(parse("").0, []);
    }

    #[test]
    fn what_is_wrong_is_told_without_what_may_be_a_key() {
        let rows = [
            ("[a]\nsha256 = \"secret\"\n", "`sha256` of the key `a` is none"),
            ("[a]\nkey = \"secret\"\n", "unknown field `key`"),
            ("[a]\n", "missing field `sha256`"),
            ("[a]\nsha256 = [\"secret\"]\n", "invalid type: sequence"),
            ("a = \"secret\"\n", "invalid type: string …"),
            ("[a]\nsha256 = \"ABC\"\nroles = \"secret\"\n", "invalid type: string …"),
            (
                "[a]\nsha256 = \"ABC\"\nexpires = 2027-06-30T00:00:00\n",
                "`expires` of the key `a` is no point in time",
            ),
            ("[a]\nsha256 = \"ABC\"\n[b]\nsha256 = \"ABC\"\n", "the keys `a` and `b` are one"),
            ("[a]\nsha256 = secret\n", ""),
        ];
        for (text, told) in rows {
            let (_, flaws) = parse(&text.replace("ABC", ABC));
            assert_eq!(flaws.len(), 1, "{text}");
            assert!(flaws[0].1.starts_with(told) && !flaws[0].1.contains("secret"), "{text}: {flaws:?}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let time = |text: &str| time(&text.parse().unwrap()).map(|time| Timestamp(time).to_string());
        for (text, expected) in [
            ("1970-01-01", "1970-01-01T00:00:00.000Z"),
            ("2000-02-29", "2000-02-29T00:00:00.000Z"),
            ("2100-03-01T00:00:01Z", "2100-03-01T00:00:01.000Z"),
            ("2027-01-01T00:00:00-01:30", "2027-01-01T01:30:00.000Z"),
            ("1960-01-01", "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(text).as_deref(), Some(expected));
        }
        assert_eq!(time("2027-01-01T00:00:00"), None);
        assert_eq!(time("00:00:00"), None);
    }
}
