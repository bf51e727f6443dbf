//! A user, and the parts a user is made of: parsed once, then trusted.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::email::Email;

/// One user as stored and as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// Set by the service, never reused.
    pub id: UserId,
    /// Unique, whatever its case.
    pub email: Email,
    /// What the user is called.
    pub name: Name,
    /// When the user was created.
    pub created_at: Timestamp,
    /// When the user last changed.
    pub updated_at: Timestamp,
    /// Counts changes, from 1; the entity tag is made from it.
    pub version: Version,
}

impl User {
    /// A user that does not exist yet.
    pub fn new(profile: Profile, now: Timestamp) -> Self {
        Self::created(UserId::new(), profile, now)
    }

    /// A user as it is right after its creation.
    pub fn created(id: UserId, Profile { email, name }: Profile, at: Timestamp) -> Self {
        Self { id, email, name, created_at: at, updated_at: at, version: Version::FIRST }
    }

    /// This user with another profile, one version on.
    pub fn changed(&self, Profile { email, name }: Profile, now: Timestamp) -> Self {
        // A clock that was set back must not let a user be updated before it was.
        let updated_at = now.max(self.updated_at);
        Self { email, name, updated_at, version: self.version.next(), ..*self }
    }

    /// The part of a user that callers decide.
    pub fn profile(&self) -> Profile {
        Profile { email: self.email.clone(), name: self.name.clone() }
    }
}

/// The part of a user that callers decide: what POST and PUT carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Unique, whatever its case.
    pub email: Email,
    /// What the user is called.
    pub name: Name,
}

impl Profile {
    /// Reads a profile from JSON, or tells every fault of it at once.
    pub fn parse(document: Value) -> Result<Self, Vec<FieldFault>> {
        let Value::Object(mut fields) = document else {
            return Err(vec![FieldFault::new("#", "type", "must be a JSON object")]);
        };
        let mut faults = Vec::new();
        let email =
            text(&mut fields, "email", &mut faults, |text| Email::parse(text).map_err(|why| why.to_string()));
        let name =
            text(&mut fields, "name", &mut faults, |text| Name::parse(text).map_err(|why| why.to_string()));
        faults.extend(fields.keys().take(MAX_UNKNOWN_SHOWN).map(|field| unknown(field)));
        match (email, name) {
            (Some(email), Some(name)) if faults.is_empty() => Ok(Self { email, name }),
            _ => Err(faults),
        }
    }
}

/// A body of 64 KiB can hold thousands of unknown fields; the first few make the point.
const MAX_UNKNOWN_SHOWN: usize = 8;

/// Takes a field that must be a text out of `fields` and parses it; puts down what is wrong with it.
fn text<T>(
    fields: &mut Map<String, Value>,
    field: &'static str,
    faults: &mut Vec<FieldFault>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let pointer = || format!("#/{field}");
    let fault = match fields.remove(field) {
        None => FieldFault::new(pointer(), "required", "is required"),
        Some(Value::String(text)) => match parse(&text) {
            Ok(value) => return Some(value),
            Err(why) => FieldFault::new(pointer(), "invalid", why),
        },
        Some(_) => FieldFault::new(pointer(), "type", "must be a text"),
    };
    faults.push(fault);
    None
}

/// A field that callers may not send, with its name escaped and bounded for the answer.
fn unknown(field: &str) -> FieldFault {
    let escaped: String = field.chars().take(64).collect::<String>().replace('~', "~0").replace('/', "~1");
    let detail = match field {
        "id" | "created_at" | "updated_at" | "version" => "is set by the service: leave it out",
        _ => "is not a field of a user",
    };
    FieldFault::new(format!("#/{escaped}"), "unknown", detail)
}

/// One thing wrong with a body, at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldFault {
    /// Where: a JSON Pointer into the body as a URI fragment (RFC 6901 §6).
    #[schema(examples("#/email"))]
    pub pointer: String,
    /// What kind of fault, for programs: `required`, `type`, `invalid` or `unknown`.
    #[schema(examples("invalid"))]
    pub code: &'static str,
    /// What is wrong, for people.
    pub detail: String,
}

impl FieldFault {
    fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// Names a user for good: a UUIDv7, so that ids sort by time of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[schema(value_type = String, format = "uuid", examples("019a3f5e-7c00-7000-8000-000000000001"))]
pub struct UserId(Uuid);

impl UserId {
    /// An id that nobody has: later than all that this process made before.
    #[expect(clippy::new_without_default, reason = "two calls are never equal")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the one canonical form: 36 characters, lower case. A second spelling would be a second URL, and so
    /// a second entry in every cache.
    pub fn parse(text: &str) -> Option<Self> {
        let uuid = Uuid::try_parse(text).ok()?;
        let mut canonical = [0; uuid::fmt::Hyphenated::LENGTH];
        (uuid.hyphenated().encode_lower(&mut canonical) == text).then_some(Self(uuid))
    }

    /// The same as a UUID, for storage.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for UserId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What a user is called: 1 to 200 characters, no control or direction characters, no blanks at either end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 200, examples("Ada Lovelace"))]
pub struct Name(String);

impl Name {
    /// Longest name, in characters.
    pub const MAX_CHARS: usize = 200;

    /// Reads a name; blanks around it are dropped.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > Self::MAX_CHARS {
            return Err(NotAName::Length);
        }
        // Direction overrides make a text look like another one; RFC 8264 §9.
        let unfit =
            |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if text.chars().any(unfit) {
            return Err(NotAName::Unprintable);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not taken for a name. The text is meant for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// Nothing but blanks, or more than [`Name::MAX_CHARS`].
    #[error("must be 1 to 200 characters long, blanks at the ends not counted")]
    Length,
    /// Control characters, or characters that change the direction of writing.
    #[error("must not hold control or direction characters")]
    Unprintable,
}

/// Counts the changes of one user, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[schema(value_type = u64, minimum = 1, examples(1))]
pub struct Version(i64);

impl Version {
    /// What a user starts with.
    pub const FIRST: Self = Self(1);

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The same as a number, for storage.
    pub fn number(self) -> i64 {
        self.0
    }
}

impl From<i64> for Version {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

/// A moment in UTC, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = "date-time", examples("2026-01-31T12:00:00.000Z"))]
pub struct Timestamp(i64);

impl Timestamp {
    /// This moment, by the system's clock.
    pub fn now() -> Self {
        let nanos = OffsetDateTime::now_utc().unix_timestamp_nanos();
        Self(i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn millis(self) -> i64 {
        self.0
    }
}

impl From<i64> for Timestamp {
    fn from(millis: i64) -> Self {
        Self(millis)
    }
}

/// RFC 3339, always with three digits of a second, so that texts sort as moments do.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let t = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = t.to_calendar_date();
        let (hour, minute, second, milli) = t.to_hms_milli();
        write!(f, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_of_a_body_is_told_at_once() {
        let faults = Profile::parse(json!({"email": "nobody", "id": "x", "a/b": 1})).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
        assert_eq!(
            told,
            [("#/email", "invalid"), ("#/name", "required"), ("#/a~1b", "unknown"), ("#/id", "unknown")]
        );
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        for body in [json!([]), json!(null), json!("x"), json!(1)] {
            assert_eq!(Profile::parse(body).unwrap_err()[0].code, "type");
        }
    }

    #[test]
    fn names_are_trimmed_bounded_and_printable() {
        assert_eq!(Name::parse("  Zoë 木村 ").unwrap().as_str(), "Zoë 木村");
        assert!(Name::parse(&"ä".repeat(200)).is_ok());
        assert_eq!(Name::parse(&"a".repeat(201)), Err(NotAName::Length));
        assert_eq!(Name::parse(" \t "), Err(NotAName::Length));
        assert_eq!(Name::parse("a\0b"), Err(NotAName::Unprintable));
        assert_eq!(Name::parse("a\u{202e}b"), Err(NotAName::Unprintable));
    }

    #[test]
    fn only_the_canonical_form_of_an_id_is_read() {
        let id = UserId::new();
        let text = id.to_string();
        assert_eq!(UserId::parse(&text), Some(id));
        for other in
            [text.to_uppercase(), text.replace('-', ""), format!("{{{text}}}"), format!("urn:uuid:{text}")]
        {
            assert_eq!(UserId::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn ids_sort_by_time_of_creation() {
        let ids: Vec<_> = (0..100).map(|_| UserId::new()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn moments_are_written_as_rfc_3339() {
        assert_eq!(Timestamp::from(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from(1_769_860_800_005).to_string(), "2026-01-31T12:00:00.005Z");
    }
}
