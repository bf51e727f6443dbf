//! Users in PostgreSQL, which any number of processes share.
//!
//! Transactions are `READ COMMITTED`, and what a decision rests on is locked before it is read: the row of a user,
//! the key of a creation. Whoever comes second waits in the server's queue for at most the store's patience, and
//! then sees what the first one committed. What the server breaks off for its own reasons is tried again.
//!
//! Reads go to replicas that have what the reader has seen, and otherwise to the primary.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{ConnectOptions as _, Connection as _, Postgres as Db, Transaction};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::fleet::Fleet;
use super::location::Server;
use super::patience::Patience;
use super::rows::{CreationRow, FIND, PAGE, PING, RECALL, REMEMBER, UserRow};
use super::seen::{Position, Seal};
use super::{Created, CreationKey, KEY_LIFETIME, PoolUse, ServerReport, Settings, StoreError, Written};
use crate::audit::Act;
use crate::event::Change;
use crate::metrics::Reads;
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};

mod change;
mod events;
pub(super) mod relay;
mod welcome;
mod search;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Longest wait for another process that is bringing the tables up to date.
const MIGRATION_TURN: &str = "10min";

/// Longest time for one read at a replica, after which another server is asked.
const REPLICA_WITHIN: Duration = Duration::from_secs(1);

/// The same where it is only asked whether there is an answer: all are to be asked within the time for that.
const PING_WITHIN: Duration = Duration::from_millis(300);

/// Longest time for the end of all connections.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A primary, its replicas, and the pools to them.
pub(super) struct Postgres {
    writer: PgPool,
    /// Three connections to the primary: one that listens for events, one that numbers and removes them, one that sends
    /// them on.
    events: PgPool,
    /// What tells this instance's word from those of others.
    name: String,
    fleet: Arc<Fleet>,
    _watchers: JoinSet<()>,
    seal: Seal,
    reads: Reads,
    patience: Patience,
    /// Longest wait for the server where no request keeps the time.
    longest: Duration,
}

impl Postgres {
    pub(super) async fn open(
        server: &Server,
        settings: &Settings,
        patience: Patience,
        reads: Reads,
    ) -> Result<Self, StoreError> {
        let seal = migrate(server).await?;
        let fleet = Arc::new(Fleet::open(server, settings));
        let writer = fleet.primary().more(server, settings.write_connections, settings);
        let events = fleet.primary().more(server, 3, settings);
        let longest = settings.statement_timeout * 2 + settings.patience;
        let name = Uuid::now_v7().to_string();
        Ok(Self { writer, events, name, _watchers: fleet.watch(), fleet, seal, reads, patience, longest })
    }

    pub(super) async fn create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        act: &Act,
    ) -> Result<Written<Created>, StoreError> {
        self.patience.insist(passes, || self.try_create(profile, key, act)).await
    }

    async fn try_create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        act: &Act,
    ) -> Result<Written<Created>, StoreError> {
        let mut turn = self.turn().await?;
        let mut tx = begin(&mut turn).await?;
        if let Some(key) = key
            && let Some(before) = recall(&mut tx, key, act.at).await?
        {
            if before.profile() != *profile {
                return Err(StoreError::KeyReused);
            }
            drop(tx);
            return Ok(self.written(turn, Created::Before(before)).await);
        }
        let user = User::new(profile.clone(), act.at);
        change::make(&mut tx, &Change::created(&user), act).await?;
        if let Some(key) = key {
            remember(&mut tx, key, &user, act.at).await?;
        }
        commit(tx).await?;
        Ok(self.written(turn, Created::Now(user)).await)
    }

    pub(super) async fn find(&self, id: UserId, seen: Position) -> Result<User, StoreError> {
        let find =
            |pool: PgPool| async move { sqlx::query_as(FIND).bind(id.uuid()).fetch_optional(&pool).await };
        let row: Option<UserRow> = self.read(seen, find).await?;
        row.ok_or(StoreError::NoSuchUser)?.try_into()
    }

    pub(super) async fn page(
        &self,
        after: Option<UserId>,
        count: usize,
        seen: Position,
    ) -> Result<Vec<User>, StoreError> {
        let after = after.map_or(Uuid::nil(), UserId::uuid);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let page =
            |pool: PgPool| async move { sqlx::query_as(PAGE).bind(after).bind(count).fetch_all(&pool).await };
        let rows: Vec<UserRow> = self.read(seen, page).await?;
        rows.into_iter().map(User::try_from).collect()
    }

    pub(super) async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<Profile, E> + Send + Sync,
    ) -> Result<Written<User>, E> {
        self.patience.insist(passes, || self.try_change(id, act, &decide)).await?
    }

    /// Fails where trying again may help or the store is at fault; the inner outcome is that of `decide`.
    async fn try_change<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<Profile, E>,
    ) -> Result<Result<Written<User>, E>, StoreError> {
        let mut turn = self.turn().await?;
        let mut tx = begin(&mut turn).await?;
        let present = lock(&mut tx, id).await?;
        let profile = match decide(&present) {
            Ok(profile) if profile == present.profile() => {
                drop(tx);
                return Ok(Ok(self.written(turn, present).await));
            }
            Ok(profile) => profile,
            Err(objection) => return Ok(Err(objection)),
        };
        let user = present.changed(profile, act.at);
        change::make(&mut tx, &Change::updated(&present, &user), act).await?;
        commit(tx).await?;
        Ok(Ok(self.written(turn, user).await))
    }

    pub(super) async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<(), E> + Send + Sync,
    ) -> Result<Written<()>, E> {
        self.patience.insist(passes, || self.try_remove(id, act, &decide)).await?
    }

    async fn try_remove<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<(), E>,
    ) -> Result<Result<Written<()>, E>, StoreError> {
        let mut turn = self.turn().await?;
        let mut tx = begin(&mut turn).await?;
        let present = lock(&mut tx, id).await?;
        if let Err(objection) = decide(&present) {
            return Ok(Err(objection));
        }
        change::make(&mut tx, &Change::deleted(&present), act).await?;
        commit(tx).await?;
        Ok(Ok(self.written(turn, ()).await))
    }

    pub(super) async fn insert_missing(&self, users: &[User], act: &Act) -> Result<u64, StoreError> {
        self.patience.insist(passes, || self.try_insert_missing(users, act)).await
    }

    /// One statement for all of them: a column is one array.
    async fn try_insert_missing(&self, users: &[User], act: &Act) -> Result<u64, StoreError> {
        let mut turn = self.turn().await?;
        let mut tx = begin(&mut turn).await?;
        let inserted = insert_missing(&mut tx, users).await?;
        let inserted = users.iter().filter(|user| inserted.contains(&user.id.uuid()));
        let changes: Vec<_> = inserted.map(Change::created).collect();
        events::record(&mut tx, &changes, act).await?;
        commit(tx).await?;
        Ok(self.written(turn, changes.len() as u64).await.outcome)
    }

    pub(super) async fn create_all(&self, users: &[User], act: &Act) -> Result<Vec<usize>, StoreError> {
        let all = self.patience.insist(passes, || self.try_create_all(users, act));
        // The time may end during the commit.
        timeout(self.longest, all).await.unwrap_or_else(|_| Err(StoreError::Unsure(timed_out())))
    }

    async fn try_create_all(&self, users: &[User], act: &Act) -> Result<Vec<usize>, StoreError> {
        let mut turn = self.turn().await?;
        let mut tx = begin(&mut turn).await?;
        let inserted = insert_missing(&mut tx, users).await?;
        let taken = |(_, user): &(usize, &User)| !inserted.contains(&user.id.uuid());
        let taken: Vec<_> = users.iter().enumerate().filter(taken).map(|(place, _)| place).collect();
        if taken.is_empty() {
            let changes: Vec<_> = users.iter().map(Change::created).collect();
            events::record(&mut tx, &changes, act).await?;
            commit(tx).await?;
            self.written(turn, ()).await;
        }
        Ok(taken)
    }

    /// Whether a server answers. One that is slow is not judged by that: under load, all places of its pool may be taken.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let ping = |pool: PgPool| async move { sqlx::query(PING).execute(&pool).await };
        for replica in self.fleet.fresh(Position::START) {
            if let Ok(Ok(_)) = timeout(PING_WITHIN, ping(replica.pool.clone())).await {
                return Ok(());
            }
        }
        self.read_primary(ping).await.map(drop)
    }

    /// What a token says. Whoever brings one that is not ours may have seen anything.
    pub(super) fn seen(&self, token: &str) -> Position {
        self.seal.position(token).unwrap_or(Position::LATEST)
    }

    pub(super) fn servers(&self) -> Vec<ServerReport> {
        self.fleet.reports()
    }

    pub(super) fn pools(&self) -> Vec<PoolUse> {
        let own = [PoolUse::of("writer", &self.writer), PoolUse::of("events", &self.events)];
        own.into_iter().chain(self.fleet.pools()).collect()
    }

    pub(super) async fn close(&self) {
        let close = async { tokio::join!(self.fleet.close(), self.writer.close(), self.events.close()) };
        // What still runs there after that waits for a lock, and is rolled back when it notices that nobody listens.
        let _ = timeout(CLOSE_WITHIN, close).await;
    }

    /// Ends a wait where no request keeps the time.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        in_time(self.longest, work).await
    }

    /// Asks replicas that have what the reader has seen, one after the other, and then the primary.
    async fn read<T, F>(&self, seen: Position, query: impl Fn(PgPool) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        for replica in self.fleet.fresh(seen) {
            match timeout(REPLICA_WITHIN, query(replica.pool.clone())).await {
                Ok(Ok(found)) => {
                    self.reads.count(&replica.name);
                    return Ok(found);
                }
                Ok(Err(error)) => replica.failed(error),
                Err(_) => replica.failed(timed_out()),
            }
        }
        self.read_primary(query).await
    }

    async fn read_primary<T, F>(&self, query: impl Fn(PgPool) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let primary = self.fleet.primary();
        if !primary.is_up() {
            return Err(StoreError::NoServer);
        }
        let found = self.patience.insist(passes, || query_primary(&query, primary.pool.clone())).await?;
        self.reads.count(&primary.name);
        Ok(found)
    }

    /// A connection to write with, at once refused if there is no primary.
    async fn turn(&self) -> Result<PoolConnection<Db>, StoreError> {
        if !self.fleet.primary().is_up() {
            return Err(StoreError::NoServer);
        }
        Ok(self.writer.acquire().await?)
    }

    /// An outcome with the position that holds it. It is a little further on than the commit if others wrote
    /// meanwhile. Where the server is lost at this moment, only the next primary is sure to have it.
    async fn written<T>(&self, mut turn: PoolConnection<Db>, outcome: T) -> Written<T> {
        let told: Result<String, _> = sqlx::query_scalar(POSITION).fetch_one(&mut *turn).await;
        let position = told.ok().as_deref().and_then(Position::parse).unwrap_or(Position::LATEST);
        Written { outcome, token: Some(self.seal.token(position)) }
    }
}

/// A server that is lost without a farewell is silent for as long as the kernel hopes for it, a quarter of an hour.
async fn in_time<T>(
    within: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(within, work).await.unwrap_or_else(|_| Err(timed_out().into()))
}

fn timed_out() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A field of all rows, as an array.
fn column<R, T>(rows: &[R], field: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}

async fn query_primary<T, F>(query: &impl Fn(PgPool) -> F, pool: PgPool) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    Ok(query(pool).await?)
}

/// Says the isolation itself: what a database's owner may have set as a default is not what is relied on here.
async fn begin(turn: &mut PoolConnection<Db>) -> Result<Transaction<'_, Db>, StoreError> {
    Ok(turn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?)
}

/// Rings the bell of all instances besides, in a transaction of its own: were it part of the one that writes, commits
/// would wait for each other. A bell that is not rung is made up for by a look once a second, so that the disk is not waited for.
const POSITION: &str = "SELECT pg_current_wal_insert_lsn()::text \
    FROM set_config('synchronous_commit', 'off', true), pg_notify('user_events', '')";
const LOCK: &str =
    "SELECT id, email, name, created_at, updated_at, version FROM users WHERE id = $1 FOR UPDATE";
const INSERT_MISSING: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) \
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) \
    ON CONFLICT DO NOTHING RETURNING id";
const HOLD_KEY: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
/// Bounded, so that no creation pays for a whole day's keys at once; more than one, so that they do get fewer. Those
/// that another creation is forgetting are left to it.
///
/// The keys are put together before they are looked for: with `OR`, the server would read the whole table.
const FORGET: &str = "DELETE FROM idempotency_keys WHERE key = ANY (ARRAY(\
    SELECT key FROM idempotency_keys WHERE expires_at <= $2 LIMIT 16 FOR UPDATE SKIP LOCKED) || $1::text)";

/// Brings the tables up to date, on a connection of its own: it may take longer than statements do otherwise.
///
/// Processes that start at once take turns by an advisory lock, which the server frees if its holder dies; those who
/// come later find nothing to do.
async fn migrate(server: &Server) -> Result<Seal, StoreError> {
    let options = server.options().options([("statement_timeout", "0"), ("lock_timeout", MIGRATION_TURN)]);
    let mut connection = options.connect().await?;
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(StoreError::Migrate)?;
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM seal").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(Seal::new(&key))
}

/// Reads a user whom nobody else changes until the transaction ends.
async fn lock(tx: &mut Transaction<'_, Db>, id: UserId) -> Result<User, StoreError> {
    let row: Option<UserRow> = sqlx::query_as(LOCK).bind(id.uuid()).fetch_optional(&mut **tx).await?;
    row.ok_or(StoreError::NoSuchUser)?.try_into()
}

/// Adds those whose id and email are not there yet; answers their ids.
async fn insert_missing(tx: &mut Transaction<'_, Db>, users: &[User]) -> Result<HashSet<Uuid>, StoreError> {
    let inserted: Vec<Uuid> = sqlx::query_scalar(INSERT_MISSING)
        .bind(column(users, |user| user.id.uuid()))
        .bind(column(users, |user| user.email.as_str().to_owned()))
        .bind(column(users, |user| user.name.as_str().to_owned()))
        .bind(column(users, |user| user.created_at.millis()))
        .bind(column(users, |user| user.updated_at.millis()))
        .bind(column(users, |user| user.version.number()))
        .fetch_all(&mut **tx)
        .await?;
    Ok(inserted.into_iter().collect())
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
