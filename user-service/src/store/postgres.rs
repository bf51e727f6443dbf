//! Users in PostgreSQL, which any number of processes share.
//!
//! Transactions are `READ COMMITTED`, and what a decision rests on is locked before it is read: the row of a user,
//! the key of a creation. Whoever comes second waits in the server's queue for at most the store's patience, and
//! then sees what the first one committed. What the server breaks off for its own reasons is tried again.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Postgres as Db, Transaction};
use tokio::time::timeout;
use uuid::Uuid;

use super::error::email_taken;
use super::location::Server;
use super::patience::Patience;
use super::rows::{CreationRow, DELETE, FIND, INSERT, PAGE, PING, RECALL, REMEMBER, UPDATE, UserRow};
use super::{Created, CreationKey, KEY_LIFETIME, PoolUse, Settings, StoreError};
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Longest wait for another process that is bringing the tables up to date.
const MIGRATION_TURN: &str = "10min";

/// How long a connection may rest inside a transaction before the server ends it: its process is stuck or gone, and
/// what it has locked is wanted.
const IDLE_IN_TRANSACTION: &str = "30s";

/// Longest time for the end of all connections.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A server and the pools to it.
pub(super) struct Postgres {
    writer: PgPool,
    readers: PgPool,
    patience: Patience,
}

impl Postgres {
    pub(super) async fn open(
        server: &Server,
        settings: &Settings,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        migrate(server).await?;
        let options = server.options().options([
            ("statement_timeout", settings.statement_timeout.as_millis().to_string()),
            ("lock_timeout", settings.patience.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION.to_owned()),
        ]);
        let read_only = options.clone().options([("default_transaction_read_only", "on")]);
        let pool = |size, options: PgConnectOptions| {
            PgPoolOptions::new()
                .max_connections(size)
                .min_connections(1)
                .acquire_timeout(settings.patience)
                .test_before_acquire(false)
                .connect_lazy_with(options)
        };
        let writer = pool(settings.write_connections, options);
        let readers = pool(settings.read_connections, read_only);
        Ok(Self { writer, readers, patience })
    }

    pub(super) async fn create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        self.patience.insist(passes, || self.try_create(profile, key, now)).await
    }

    async fn try_create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(key) = key
            && let Some(before) = recall(&mut tx, key, now).await?
        {
            let same = before.profile() == *profile;
            return if same { Ok(Created::Before(before)) } else { Err(StoreError::KeyReused) };
        }
        let user = User::new(profile.clone(), now);
        insert(&mut tx, &user).await?;
        if let Some(key) = key {
            remember(&mut tx, key, &user, now).await?;
        }
        commit(tx).await?;
        Ok(Created::Now(user))
    }

    pub(super) async fn find(&self, id: UserId) -> Result<User, StoreError> {
        let find = async || -> Result<Option<UserRow>, StoreError> {
            Ok(sqlx::query_as(FIND).bind(id.uuid()).fetch_optional(&self.readers).await?)
        };
        self.patience.insist(passes, find).await?.ok_or(StoreError::NoSuchUser)?.try_into()
    }

    pub(super) async fn page(&self, after: Option<UserId>, count: usize) -> Result<Vec<User>, StoreError> {
        let after = after.map_or(Uuid::nil(), UserId::uuid);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let page = async || -> Result<Vec<UserRow>, StoreError> {
            Ok(sqlx::query_as(PAGE).bind(after).bind(count).fetch_all(&self.readers).await?)
        };
        self.patience.insist(passes, page).await?.into_iter().map(User::try_from).collect()
    }

    pub(super) async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        now: Timestamp,
        decide: impl Fn(&User) -> Result<Profile, E> + Send + Sync,
    ) -> Result<User, E> {
        self.patience.insist(passes, || self.try_change(id, now, &decide)).await?
    }

    /// Fails where trying again may help or the store is at fault; the inner outcome is that of `decide`.
    async fn try_change<E: From<StoreError>>(
        &self,
        id: UserId,
        now: Timestamp,
        decide: impl Fn(&User) -> Result<Profile, E>,
    ) -> Result<Result<User, E>, StoreError> {
        let mut tx = self.begin().await?;
        let present = lock(&mut tx, id).await?;
        let profile = match decide(&present) {
            Ok(profile) if profile == present.profile() => return Ok(Ok(present)),
            Ok(profile) => profile,
            Err(objection) => return Ok(Err(objection)),
        };
        let user = present.changed(profile, now);
        update(&mut tx, &user).await?;
        commit(tx).await?;
        Ok(Ok(user))
    }

    pub(super) async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        decide: impl Fn(&User) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        self.patience.insist(passes, || self.try_remove(id, &decide)).await?
    }

    async fn try_remove<E: From<StoreError>>(
        &self,
        id: UserId,
        decide: impl Fn(&User) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        let mut tx = self.begin().await?;
        if let Err(objection) = decide(&lock(&mut tx, id).await?) {
            return Ok(Err(objection));
        }
        sqlx::query(DELETE).bind(id.uuid()).execute(&mut *tx).await?;
        commit(tx).await?;
        Ok(Ok(()))
    }

    pub(super) async fn insert_missing(&self, users: &[User]) -> Result<u64, StoreError> {
        self.patience.insist(passes, || self.try_insert_missing(users)).await
    }

    /// One statement for all of them: a column is one array.
    async fn try_insert_missing(&self, users: &[User]) -> Result<u64, StoreError> {
        fn column<T>(users: &[User], field: impl Fn(&User) -> T) -> Vec<T> {
            users.iter().map(field).collect()
        }
        let mut tx = self.begin().await?;
        let done = sqlx::query(INSERT_MISSING)
            .bind(column(users, |user| user.id.uuid()))
            .bind(column(users, |user| user.email.as_str().to_owned()))
            .bind(column(users, |user| user.name.as_str().to_owned()))
            .bind(column(users, |user| user.created_at.millis()))
            .bind(column(users, |user| user.updated_at.millis()))
            .bind(column(users, |user| user.version.number()))
            .execute(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query(PING).execute(&self.readers).await?;
        Ok(())
    }

    pub(super) fn pools(&self) -> [PoolUse; 2] {
        [PoolUse::of("writer", &self.writer), PoolUse::of("readers", &self.readers)]
    }

    pub(super) async fn close(&self) {
        let close = async { tokio::join!(self.readers.close(), self.writer.close()) };
        // What still runs there after that waits for a lock, and is rolled back when it notices that nobody listens.
        let _ = timeout(CLOSE_WITHIN, close).await;
    }

    /// Says the isolation itself: what a database's owner may have set as a default is not what is relied on here.
    async fn begin(&self) -> Result<Transaction<'static, Db>, StoreError> {
        Ok(self.writer.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?)
    }
}

const LOCK: &str =
    "SELECT id, email, name, created_at, updated_at, version FROM users WHERE id = $1 FOR UPDATE";
const INSERT_MISSING: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) \
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) \
    ON CONFLICT DO NOTHING";
const HOLD_KEY: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
/// Bounded, so that no creation pays for a whole day's keys at once; more than one, so that they do get fewer. Those
/// that another creation is forgetting are left to it.
const FORGET: &str = "DELETE FROM idempotency_keys WHERE key = $1 OR key IN \
    (SELECT key FROM idempotency_keys WHERE expires_at <= $2 LIMIT 16 FOR UPDATE SKIP LOCKED)";

/// Brings the tables up to date, on a connection of its own: it may take longer than statements do otherwise.
///
/// Processes that start at once take turns by an advisory lock, which the server frees if its holder dies; those who
/// come later find nothing to do.
async fn migrate(server: &Server) -> Result<(), StoreError> {
    let options = server.options().options([("statement_timeout", "0"), ("lock_timeout", MIGRATION_TURN)]);
    let mut connection = options.connect().await?;
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(StoreError::Migrate)?;
    Ok(connection.close().await?)
}

/// Reads a user whom nobody else changes until the transaction ends.
async fn lock(tx: &mut Transaction<'_, Db>, id: UserId) -> Result<User, StoreError> {
    let row: Option<UserRow> = sqlx::query_as(LOCK).bind(id.uuid()).fetch_optional(&mut **tx).await?;
    row.ok_or(StoreError::NoSuchUser)?.try_into()
}

async fn insert(tx: &mut Transaction<'_, Db>, user: &User) -> Result<(), StoreError> {
    let insert = sqlx::query(INSERT)
        .bind(user.id.uuid())
        .bind(user.email.as_str())
        .bind(user.name.as_str())
        .bind(user.created_at.millis())
        .bind(user.updated_at.millis())
        .bind(user.version.number());
    insert.execute(&mut **tx).await.map_err(email_taken)?;
    Ok(())
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

/// The user that this key created, as it was then. Others with this key wait until the transaction ends.
async fn recall(
    tx: &mut Transaction<'_, Db>,
    key: &CreationKey,
    now: Timestamp,
) -> Result<Option<User>, StoreError> {
    sqlx::query(HOLD_KEY).bind(key.as_str()).execute(&mut **tx).await?;
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

/// Ends a transaction. A server that is lost at this moment may have committed, so that trying again could do
/// twice what was asked for once.
async fn commit(tx: Transaction<'_, Db>) -> Result<(), StoreError> {
    tx.commit().await.map_err(|error| match StoreError::from(error) {
        broken_off @ StoreError::Busy(_) if passes(&broken_off) => broken_off,
        StoreError::Busy(error) | StoreError::Away(error) => StoreError::Unsure(error),
        other => other,
    })
}

/// Whether a transaction certainly did not happen, and may if it is tried again: the server broke it off in favour
/// of another one, or its connection was lost before the commit.
fn passes(error: &StoreError) -> bool {
    match error {
        StoreError::Busy(error) => matches!(code(error).as_deref(), Some("40001" | "40P01")),
        StoreError::Away(sqlx::Error::Io(_)) => true,
        StoreError::Away(error) => matches!(code(error).as_deref(), Some("57P01" | "57P02")),
        _ => false,
    }
}

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error()?.code()
}
