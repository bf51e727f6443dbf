//! A user, and the parts a user is made of: parsed once, then trusted.

use std::fmt;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::email::Email;
use crate::name::Name;
use crate::profile::Profile;

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
    #[must_use]
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

/// Names a user for good: a `UUIDv7`, so that ids sort by time of creation.
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
    use super::*;

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
