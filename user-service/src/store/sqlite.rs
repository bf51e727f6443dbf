//! Users in one SQLite file, which several processes may share.
//!
//! One connection writes, several read: SQLite lets a single writer in at a time anyway, and in write-ahead mode
//! readers neither wait for it nor hold it up. Writers of other processes are waited for by [`Patience`].

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{FromRow, Sqlite as Db, Transaction};
use uuid::Uuid;

use super::location::Location;
use super::patience::Patience;
use super::{Created, CreationKey, KEY_LIFETIME, PoolUse, StoreError};
use crate::email::Email;
use crate::name::Name;
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// A database file and its pools.
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    patience: Patience,
}

impl Sqlite {
    pub(super) async fn open(
        location: &Location,
        readers: u32,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        location.make_directory().map_err(StoreError::Directory)?;
        let pool = |size| {
            SqlitePoolOptions::new()
                .max_connections(size)
                .min_connections(1)
                .acquire_timeout(patience.limit())
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let options = location.options();
        // The first connection of all switches the file to write-ahead mode, for which it must be alone.
        let writer = patience.insist(is_busy, || pool(1).connect_with(options.clone())).await?;
        migrate(&writer, &patience).await?;
        let read_only = options.pragma("query_only", "ON");
        let readers = patience.insist(is_busy, || pool(readers).connect_with(read_only.clone())).await?;
        Ok(Self { writer, readers, patience })
    }

    pub(super) async fn create(
        &self,
        profile: Profile,
        key: Option<&CreationKey>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(key) = key
            && let Some(before) = recall(&mut tx, key, now).await?
        {
            let same = before.profile() == profile;
            return if same { Ok(Created::Before(before)) } else { Err(StoreError::KeyReused) };
        }
        let user = User::new(profile, now);
        insert(&mut tx, INSERT, &user).await?;
        if let Some(key) = key {
            remember(&mut tx, key, &user, now).await?;
        }
        tx.commit().await?;
        Ok(Created::Now(user))
    }

    pub(super) async fn find(&self, id: UserId) -> Result<User, StoreError> {
        let find = || sqlx::query_as(FIND).bind(id.uuid()).fetch_optional(&self.readers);
        let row: Option<UserRow> = self.patience.insist(is_busy, find).await?;
        row.ok_or(StoreError::NoSuchUser)?.try_into()
    }

    pub(super) async fn page(&self, after: Option<UserId>, count: usize) -> Result<Vec<User>, StoreError> {
        let after = after.map_or(Uuid::nil(), UserId::uuid);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let page = || sqlx::query_as(PAGE).bind(after).bind(count).fetch_all(&self.readers);
        let rows: Vec<UserRow> = self.patience.insist(is_busy, page).await?;
        rows.into_iter().map(User::try_from).collect()
    }

    pub(super) async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        now: Timestamp,
        decide: impl FnOnce(&User) -> Result<Profile, E> + Send,
    ) -> Result<User, E> {
        let mut tx = self.begin().await?;
        let present = lock(&mut tx, id).await?;
        let profile = decide(&present)?;
        if profile == present.profile() {
            return Ok(present);
        }
        let user = present.changed(profile, now);
        update(&mut tx, &user).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(user)
    }

    pub(super) async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        decide: impl FnOnce(&User) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let mut tx = self.begin().await?;
        decide(&lock(&mut tx, id).await?)?;
        sqlx::query(DELETE).bind(id.uuid()).execute(&mut *tx).await.map_err(StoreError::from)?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }

    pub(super) async fn insert_missing(&self, users: &[User]) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let mut inserted = 0;
        for user in users {
            inserted += insert(&mut tx, INSERT_MISSING, user).await?;
        }
        tx.commit().await?;
        Ok(inserted)
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query(PING).execute(&self.readers).await?;
        Ok(())
    }

    pub(super) fn pools(&self) -> [PoolUse; 2] {
        [("writer", &self.writer), ("readers", &self.readers)].map(|(pool, connections)| {
            let idle = u32::try_from(connections.num_idle()).unwrap_or(u32::MAX);
            PoolUse { pool, busy: connections.size().saturating_sub(idle), idle }
        })
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Begins a transaction that holds the write lock from its first moment, so that what it reads stays true
    /// and nothing in it can meet `SQLITE_BUSY`.
    async fn begin(&self) -> Result<Transaction<'static, Db>, StoreError> {
        Ok(self.patience.insist(is_busy, || self.writer.begin_with(BEGIN)).await?)
    }
}

const BEGIN: &str = "BEGIN IMMEDIATE";
const FIND: &str = "SELECT id, email, name, created_at, updated_at, version FROM users WHERE id = $1";
const PAGE: &str = "SELECT id, email, name, created_at, updated_at, version FROM users \
                    WHERE id > $1 ORDER BY id LIMIT $2";
const INSERT: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) \
                      VALUES ($1, $2, $3, $4, $5, $6)";
const INSERT_MISSING: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) \
                              VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
const UPDATE: &str = "UPDATE users SET email = $2, name = $3, updated_at = $4, version = $5 WHERE id = $1";
const DELETE: &str = "DELETE FROM users WHERE id = $1";
const PING: &str = "SELECT EXISTS (SELECT 1 FROM users)";
const RECALL: &str = "SELECT user_id, email, name, created_at FROM idempotency_keys \
                      WHERE key = $1 AND expires_at > $2";
const REMEMBER: &str = "INSERT INTO idempotency_keys (key, user_id, email, name, created_at, expires_at) \
                        VALUES ($1, $2, $3, $4, $5, $6)";
/// Bounded, so that no creation pays for a whole day's keys at once; more than one, so that they do get fewer.
const FORGET: &str = "DELETE FROM idempotency_keys WHERE key = $1 OR key IN \
                      (SELECT key FROM idempotency_keys WHERE expires_at <= $2 LIMIT 16)";

/// Brings the tables up to date. The write lock makes processes that start at once take turns; those who come
/// later find nothing to do.
async fn migrate(writer: &SqlitePool, patience: &Patience) -> Result<(), StoreError> {
    let mut tx = patience.insist(is_busy, || writer.begin_with(BEGIN)).await?;
    MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(StoreError::Migrate)?;
    Ok(tx.commit().await?)
}

/// Reads a user within a transaction that already holds the write lock.
async fn lock(tx: &mut Transaction<'_, Db>, id: UserId) -> Result<User, StoreError> {
    let row: Option<UserRow> = sqlx::query_as(FIND).bind(id.uuid()).fetch_optional(&mut **tx).await?;
    row.ok_or(StoreError::NoSuchUser)?.try_into()
}

/// Adds a row by either of the two insert statements; answers how many were added.
async fn insert(
    tx: &mut Transaction<'_, Db>,
    statement: &'static str,
    user: &User,
) -> Result<u64, StoreError> {
    let insert = sqlx::query(statement)
        .bind(user.id.uuid())
        .bind(user.email.as_str())
        .bind(user.name.as_str())
        .bind(user.created_at.millis())
        .bind(user.updated_at.millis())
        .bind(user.version.number());
    let done = insert.execute(&mut **tx).await.map_err(email_taken)?;
    Ok(done.rows_affected())
}

async fn update(tx: &mut Transaction<'_, Db>, user: &User) -> Result<(), StoreError> {
    let update = sqlx::query(UPDATE)
        .bind(user.id.uuid())
        .bind(user.email.as_str())
        .bind(user.name.as_str())
        .bind(user.updated_at.millis())
        .bind(user.version.number());
    update.execute(&mut **tx).await.map_err(email_taken)?;
    Ok(())
}

/// The user that this key created, as it was then.
async fn recall(
    tx: &mut Transaction<'_, Db>,
    key: &CreationKey,
    now: Timestamp,
) -> Result<Option<User>, StoreError> {
    let found: Option<(Uuid, String, String, i64)> =
        sqlx::query_as(RECALL).bind(key.as_str()).bind(now.millis()).fetch_optional(&mut **tx).await?;
    found
        .map(|(id, email, name, at)| Ok(User::created(id.into(), profile(&email, &name)?, at.into())))
        .transpose()
}

/// Keeps what this key created, in place of keys whose time is over.
async fn remember(
    tx: &mut Transaction<'_, Db>,
    key: &CreationKey,
    user: &User,
    now: Timestamp,
) -> Result<(), StoreError> {
    let lifetime = i64::try_from(KEY_LIFETIME.as_millis()).unwrap_or(i64::MAX);
    sqlx::query(FORGET).bind(key.as_str()).bind(now.millis()).execute(&mut **tx).await?;
    sqlx::query(REMEMBER)
        .bind(key.as_str())
        .bind(user.id.uuid())
        .bind(user.email.as_str())
        .bind(user.name.as_str())
        .bind(user.created_at.millis())
        .bind(now.millis().saturating_add(lifetime))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[derive(FromRow)]
struct UserRow {
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

/// A profile from its columns, which hold nothing else unless somebody else wrote them.
fn profile(email: &str, name: &str) -> Result<Profile, StoreError> {
    let broken = |source| StoreError::Broken(sqlx::Error::Decode(source));
    let email = Email::parse(email).map_err(|error| broken(error.into()))?;
    let name = Name::parse(name).map_err(|error| broken(error.into()))?;
    Ok(Profile { email, name })
}

/// The only unique column that a caller has a hand in is the email.
fn email_taken(error: sqlx::Error) -> StoreError {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => StoreError::EmailTaken,
        _ => error.into(),
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(SQLITE_BUSY | SQLITE_LOCKED))
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match (&error, primary_code(&error)) {
            (sqlx::Error::PoolTimedOut, _) | (_, Some(SQLITE_BUSY | SQLITE_LOCKED)) => Self::Busy(error),
            (sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed, _)
            | (_, Some(SQLITE_READONLY | SQLITE_IOERR | SQLITE_FULL | SQLITE_CANTOPEN)) => Self::Away(error),
            _ => Self::Broken(error),
        }
    }
}

// https://www.sqlite.org/rescode.html
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;

/// SQLite's result code without the extension in its upper bytes.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}
