//! What changes leave behind in PostgreSQL, and how events get their order.
//!
//! Transactions commit in another order than the one in which they write, so an order taken while writing would show a
//! reader an event with a higher number before one with a lower one, which the reader would then never ask for. Events
//! are therefore numbered when they are there for all to see, by whoever holds `event_head`. Of one user, who comes
//! later began to write when the one before had committed: their order is that of `position`.

use sqlx::postgres::PgPool;
use sqlx::{Postgres as Db, Transaction};

use super::{Postgres, column, passes};
use crate::audit::{Act, Entry};
use crate::event::{Change, Seq};
use crate::store::bell::Bell;
use crate::store::fleet::Node;
use crate::store::seen::Position;
use crate::store::trail::{
    Columns, EntryRow, EventRow, FORGET_EVENTS, FORGOTTEN, OLDEST, TRAIL, all_before, told,
};
use crate::store::{Before, Forgotten, Kept, StoreError, Told};
use crate::user::UserId;

/// One way to the server and back for both tables, however many changes.
const RECORD: &str = "
    WITH change AS (
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::smallint[], $7::text[],
                             $8::text[])
        WITH ORDINALITY AS change (id, user_id, version, action, fields, shard, kind, body, n)
    ), entry AS (
        INSERT INTO audit (user_id, version, action, fields, actor, at)
        SELECT user_id, version, action, fields, $9, $10 FROM change ORDER BY n
    )
    INSERT INTO events (id, user_id, shard, kind, at, body)
    SELECT id, user_id, shard, kind, $10, body FROM change ORDER BY n";

const KEPT: &str = "SELECT forgotten, last FROM event_head";
/// One look for all three. The position is asked for when there is a view of the tables: it is that of all that can be seen there, or
/// further on.
const EVENTS: &str = "
    SELECT head.forgotten, (SELECT pg_current_wal_insert_lsn()::text) AS position, next.seq, next.id, next.kind, next.body
    FROM event_head AS head LEFT JOIN LATERAL (
        SELECT seq, id, kind, body FROM events WHERE seq > $1 ORDER BY seq LIMIT $2
    ) AS next ON true ORDER BY next.seq";
const HOLD_HEAD: &str = "SELECT last FROM event_head FOR UPDATE SKIP LOCKED";

/// How many events are numbered in one transaction at most: as many as `number_events` takes.
const NUMBER_AT_ONCE: i64 = 1_000;

/// Gives those that wait their numbers; a function of the database, so that it is one way there and back.
const NUMBER: &str = "SELECT last, numbered FROM number_events()";

const NEWEST: &str = "SELECT pg_current_wal_insert_lsn()::text";
/// In a transaction of its own: were it part of the one that numbers, commits would wait for each other.
const RING: &str = "SELECT pg_notify('user_events', $1) FROM set_config('synchronous_commit', 'off', true)";

/// Writes down changes, in the transaction that makes them.
pub(super) async fn record(
    tx: &mut Transaction<'_, Db>,
    changes: &[Change],
    act: &Act,
) -> Result<(), StoreError> {
    let rows = changes.iter().map(|change| Columns::of(change, act)).collect::<Result<Vec<_>, _>>()?;
    sqlx::query(RECORD)
        .bind(column(&rows, |row| row.id))
        .bind(column(&rows, |row| row.user_id))
        .bind(column(&rows, |row| row.version))
        .bind(column(&rows, |row| row.action))
        .bind(column(&rows, |row| row.fields.clone()))
        .bind(column(&rows, |row| row.shard))
        .bind(column(&rows, |row| row.kind))
        .bind(column(&rows, |row| row.body.clone()))
        .bind(act.by.text())
        .bind(act.at.millis())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Postgres {
    pub(in crate::store) async fn trail(
        &self,
        id: UserId,
        after: i64,
        count: usize,
        seen: Position,
    ) -> Result<Vec<Entry>, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let trail = |pool: PgPool| async move {
            sqlx::query_as(TRAIL).bind(id.uuid()).bind(after).bind(count).fetch_all(&pool).await
        };
        let rows: Vec<EntryRow> = self.read(seen, trail).await?;
        rows.into_iter().map(Entry::try_from).collect()
    }

    /// From the primary: a replica that lags would show nothing when the bell rings, and it does not ring again.
    pub(in crate::store) async fn events(&self, after: Seq, count: usize) -> Result<Told, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let events = || async {
            let events = sqlx::query_as(EVENTS).bind(after.0).bind(count);
            Ok(events.fetch_all(&self.primary()?.pool).await?)
        };
        let rows: Vec<EventRow> = self.in_time(self.patience.insist(passes, events)).await?;
        Ok(told(rows, |position| Some(self.token(position))))
    }

    pub(in crate::store) async fn kept_events(&self) -> Result<Kept, StoreError> {
        let kept = || async { Ok(sqlx::query_as(KEPT).fetch_one(&self.primary()?.pool).await?) };
        let (forgotten, last) = self.in_time(self.patience.insist(passes, kept)).await?;
        Ok(Kept { forgotten: Seq(forgotten), last: Seq(last) })
    }

    /// The position of the primary is that of whatever was read there before, or further on.
    pub(in crate::store) async fn newest(&self) -> Result<String, StoreError> {
        let position = || async { Ok(sqlx::query_scalar(NEWEST).fetch_one(&self.primary()?.pool).await?) };
        let position: String = self.in_time(self.patience.insist(passes, position)).await?;
        Ok(self.token(Some(&position)))
    }

    fn token(&self, position: Option<&str>) -> String {
        self.seal.token(position.and_then(Position::parse).unwrap_or(Position::LATEST))
    }

    /// One instance at a time numbers; others are rung when it is done. Who commits behind that rings again.
    pub(in crate::store) async fn number_events(&self) -> Result<Seq, StoreError> {
        self.primary()?;
        self.in_time(self.number_waiting()).await
    }

    async fn number_waiting(&self) -> Result<Seq, StoreError> {
        loop {
            let (last, numbered): (i64, i64) = sqlx::query_as(NUMBER).fetch_one(&self.events).await?;
            if numbered > 0 {
                sqlx::query(RING).bind(&self.name).execute(&self.events).await?;
            }
            if numbered < NUMBER_AT_ONCE {
                return Ok(Seq(last));
            }
        }
    }

    pub(in crate::store) async fn forget_events(&self, before: Before) -> Result<Forgotten, StoreError> {
        self.primary()?;
        self.in_time(self.forget_some(before)).await
    }

    async fn forget_some(&self, before: Before) -> Result<Forgotten, StoreError> {
        let oldest: Vec<(i64, i64)> = sqlx::query_as(OLDEST).fetch_all(&self.events).await?;
        let unsent = self.unsent().await?;
        let Some((last, forgotten)) = all_before(&oldest, before, unsent) else {
            return Ok(Forgotten::default());
        };
        let mut tx = self.events.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let held: Option<i64> = sqlx::query_scalar(HOLD_HEAD).fetch_optional(&mut *tx).await?;
        if held.is_none() {
            return Ok(Forgotten::default());
        }
        sqlx::query(FORGET_EVENTS).bind(last).execute(&mut *tx).await?;
        sqlx::query(FORGOTTEN).bind(last).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(forgotten)
    }

    pub(in crate::store) fn bell(&self) -> Bell {
        Bell::of_server(self.events.clone(), self.name.clone())
    }

    /// Refuses at once where there is no primary.
    pub(super) fn primary(&self) -> Result<&Node, StoreError> {
        Some(self.fleet.primary()).filter(|node| node.is_up()).ok_or(StoreError::NoServer)
    }
}
