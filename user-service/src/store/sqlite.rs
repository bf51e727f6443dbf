//! Users in one SQLite file, which several processes may share.
//!
//! One connection writes, several read: SQLite lets a single writer in at a time anyway, and in write-ahead mode
//! readers neither wait for it nor hold it up. Writers of other processes are waited for by [`Patience`].

use std::sync::Arc;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{Sqlite as Db, Transaction};
use tokio::sync::watch;
use uuid::Uuid;

use super::error::{State, email_taken, of_sqlite};
use super::location::File;
use super::patience::Patience;
use super::rows::{CreationRow, FIND, PAGE, PING, RECALL, REMEMBER, UserRow};
use super::seen::Position;
use super::{Created, CreationKey, KEY_LIFETIME, PoolUse, ServerReport, StoreError, Written};
use crate::audit::Act;
use crate::event::Change;
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};

mod bulk;
mod events;
pub(super) mod relay;
mod welcome;
mod search;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// What the one who writes is given. Emails and names come in no order, so that each user touches other pages of both indexes: they
/// are kept in memory, 64 MiB at the most, which is enough for a million. What a statement would undo is kept there as well, and not in a file of
/// its own. The log is brought into the file every 16 MiB: a page that changed many times is then written once, and whoever
/// writes meanwhile waits for a fraction of a second.
const WRITING: [(&str, &str); 3] =
    [("cache_size", "-65536"), ("temp_store", "MEMORY"), ("wal_autocheckpoint", "4096")];

/// A database file and its pools.
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    patience: Patience,
    /// Tells waiters of this process of new events; those of others look for themselves.
    written: Arc<watch::Sender<()>>,
}

impl Sqlite {
    pub(super) async fn open(file: &File, readers: u32, patience: Patience) -> Result<Self, StoreError> {
        file.make_directory().map_err(StoreError::Directory)?;
        let pool = |size| {
            SqlitePoolOptions::new()
                .max_connections(size)
                .min_connections(1)
                .acquire_timeout(patience.limit())
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let options = file.options();
        // The first connection of all switches the file to write-ahead mode, for which it must be alone.
        let writing =
            WRITING.iter().fold(options.clone(), |options, (name, value)| options.pragma(*name, *value));
        let writer = patience.insist(is_busy, || pool(1).connect_with(writing.clone())).await?;
        migrate(&writer, &patience).await?;
        let read_only = options.pragma("query_only", "ON");
        let readers = patience.insist(is_busy, || pool(readers).connect_with(read_only.clone())).await?;
        Ok(Self { writer, readers, patience, written: Arc::new(watch::Sender::new(())) })
    }

    pub(super) async fn create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        act: &Act,
    ) -> Result<Written<Created>, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(key) = key
            && let Some(before) = recall(&mut tx, key, act.at).await?
        {
            let same = before.profile() == *profile;
            return if same { Ok(written(Created::Before(before))) } else { Err(StoreError::KeyReused) };
        }
        let user = User::new(profile.clone(), act.at);
        insert(&mut tx, INSERT, &user).await?;
        if let Some(key) = key {
            remember(&mut tx, key, &user, act.at).await?;
        }
        events::record(&mut tx, &Change::created(&user), act).await?;
        self.commit(tx).await?;
        Ok(written(Created::Now(user)))
    }

    pub(super) async fn find(&self, id: UserId, _: Position) -> Result<User, StoreError> {
        let find = || sqlx::query_as(FIND).bind(id.uuid()).fetch_optional(&self.readers);
        let row: Option<UserRow> = self.patience.insist(is_busy, find).await?;
        row.ok_or(StoreError::NoSuchUser)?.try_into()
    }

    pub(super) async fn page(
        &self,
        after: Option<UserId>,
        count: usize,
        _: Position,
    ) -> Result<Vec<User>, StoreError> {
        let after = after.map_or(Uuid::nil(), UserId::uuid);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let page = || sqlx::query_as(PAGE).bind(after).bind(count).fetch_all(&self.readers);
        let rows: Vec<UserRow> = self.patience.insist(is_busy, page).await?;
        rows.into_iter().map(User::try_from).collect()
    }

    pub(super) async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<Profile, E> + Send + Sync,
    ) -> Result<Written<User>, E> {
        let mut tx = self.begin().await?;
        let present = lock(&mut tx, id).await?;
        let profile = decide(&present)?;
        if profile == present.profile() {
            return Ok(written(present));
        }
        let user = present.changed(profile, act.at);
        update(&mut tx, &user).await?;
        events::record(&mut tx, &Change::updated(&present, &user), act).await?;
        self.commit(tx).await?;
        Ok(written(user))
    }

    pub(super) async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<(), E> + Send + Sync,
    ) -> Result<Written<()>, E> {
        let mut tx = self.begin().await?;
        let present = lock(&mut tx, id).await?;
        decide(&present)?;
        sqlx::query(DELETE).bind(id.uuid()).execute(&mut *tx).await.map_err(StoreError::from)?;
        events::record(&mut tx, &Change::deleted(&present), act).await?;
        self.commit(tx).await?;
        Ok(written(()))
    }

    pub(super) async fn insert_missing(&self, users: &[User], act: &Act) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let mut inserted = 0;
        for user in users {
            if insert(&mut tx, INSERT_MISSING, user).await? > 0 {
                inserted += 1;
                events::record(&mut tx, &Change::created(user), act).await?;
            }
        }
        self.commit(tx).await?;
        Ok(inserted)
    }

    pub(super) async fn create_all(&self, users: &[User], act: &Act) -> Result<Vec<usize>, StoreError> {
        let mut tx = self.begin().await?;
        let taken = bulk::insert_missing(&mut tx, users).await?;
        if taken.is_empty() {
            bulk::record(&mut tx, users, act).await?;
            self.commit(tx).await?;
        }
        Ok(taken)
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query(PING).execute(&self.readers).await?;
        Ok(())
    }

    /// There is one file, and everybody sees all of it.
    #[expect(clippy::unused_self, reason = "other databases have to look")]
    pub(super) fn seen(&self, _: &str) -> Position {
        Position::START
    }

    #[expect(clippy::unused_self, reason = "other databases have some")]
    pub(super) fn servers(&self) -> Vec<ServerReport> {
        Vec::new()
    }

    pub(super) fn pools(&self) -> Vec<PoolUse> {
        vec![PoolUse::of("writer", &self.writer), PoolUse::of("readers", &self.readers)]
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

    async fn commit(&self, tx: Transaction<'_, Db>) -> Result<(), StoreError> {
        tx.commit().await?;
        self.written.send_replace(());
        Ok(())
    }
}

/// Every read sees every write.
fn written<T>(outcome: T) -> Written<T> {
    Written { outcome, token: None }
}

const BEGIN: &str = "BEGIN IMMEDIATE";
const INSERT: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) \
                                 VALUES ($1, $2, $3, $4, $5, $6)";
const UPDATE: &str = "UPDATE users SET email = $2, name = $3, updated_at = $4, version = $5 WHERE id = $1";
const DELETE: &str = "DELETE FROM users WHERE id = $1";
const INSERT_MISSING: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) \
                              VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
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
    let recall = sqlx::query_as(RECALL).bind(key.as_str()).bind(now.millis());
    let found: Option<CreationRow> = recall.fetch_optional(&mut **tx).await?;
    found.map(User::try_from).transpose()
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

/// Whether another process had the lock.
fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(told) if of_sqlite(told.as_ref()) == State::Busy)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::store::location::Location;

    #[tokio::test]
    async fn who_writes_has_memory_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("users.db").display());
        let Ok(Location::File(file)) = url.parse() else { panic!("{url} is a file") };
        let patience = Patience::new(Duration::from_secs(10), Counter::default());
        let store = Sqlite::open(&file, 1, patience).await.unwrap();
        let pragma = |name: &'static str| sqlx::query_scalar::<_, i64>(name).fetch_one(&store.writer);
        assert_eq!(pragma("PRAGMA cache_size").await.unwrap(), -65_536);
        assert_eq!(pragma("PRAGMA temp_store").await.unwrap(), 2, "in memory");
        assert_eq!(pragma("PRAGMA wal_autocheckpoint").await.unwrap(), 4_096);
        store.close().await;
    }
}
