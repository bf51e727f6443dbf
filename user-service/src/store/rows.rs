//! What both databases say in the same words: rows as users, users as rows.

use sqlx::FromRow;
use uuid::Uuid;

use super::StoreError;
use crate::email::Email;
use crate::name::Name;
use crate::profile::Profile;
use crate::user::User;

pub(super) const FIND: &str =
    "SELECT id, email, name, created_at, updated_at, version FROM users WHERE id = $1";
pub(super) const PAGE: &str = "SELECT id, email, name, created_at, updated_at, version FROM users \
                               WHERE id > $1 ORDER BY id LIMIT $2";
pub(super) const PING: &str = "SELECT EXISTS (SELECT 1 FROM users)";
pub(super) const RECALL: &str = "SELECT user_id, email, name, created_at FROM idempotency_keys \
                                 WHERE key = $1 AND expires_at > $2";
pub(super) const REMEMBER: &str = "INSERT INTO idempotency_keys (key, user_id, email, name, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

/// A row of `users`.
#[derive(FromRow)]
pub(super) struct UserRow {
    id: Uuid,
    email: String,
    name: String,
    created_at: i64,
    updated_at: i64,
    version: i64,
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        let Profile { email, name } = profile(&row.email, &row.name)?;
        let (created_at, updated_at) = (row.created_at.into(), row.updated_at.into());
        Ok(Self { id: row.id.into(), email, name, created_at, updated_at, version: row.version.into() })
    }
}

/// What [`RECALL`] finds: the user that a key created, as it was then.
#[derive(FromRow)]
pub(super) struct CreationRow {
    user_id: Uuid,
    email: String,
    name: String,
    created_at: i64,
}

impl TryFrom<CreationRow> for User {
    type Error = StoreError;

    fn try_from(row: CreationRow) -> Result<Self, StoreError> {
        let profile = profile(&row.email, &row.name)?;
        Ok(Self::created(row.user_id.into(), profile, row.created_at.into()))
    }
}

/// A profile from its columns, which hold nothing else unless somebody else wrote them.
fn profile(email: &str, name: &str) -> Result<Profile, StoreError> {
    let broken = |source| StoreError::Broken(sqlx::Error::Decode(source));
    let email = Email::parse(email).map_err(|error| broken(error.into()))?;
    let name = Name::parse(name).map_err(|error| broken(error.into()))?;
    Ok(Profile { email, name })
}
