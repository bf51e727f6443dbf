//! What changes leave behind in a SQLite file.

use sqlx::{Sqlite as Db, Transaction};

use super::{BEGIN, Sqlite, is_busy};
use crate::audit::{Act, Entry};
use crate::event::{Change, Seq};
use crate::store::bell::Bell;
use crate::store::seen::Position;
use crate::store::trail::{
    Columns, EntryRow, EventRow, FORGET_EVENTS, FORGOTTEN, OLDEST, TRAIL, all_before, told,
};
use crate::store::{Before, Forgotten, Kept, StoreError, Told};
use crate::user::UserId;

const AUDIT: &str = "INSERT INTO audit (user_id, version, action, fields, actor, at) \
                     VALUES ($1, $2, $3, $4, $5, $6)";
const TELL: &str = "INSERT INTO events (id, user_id, shard, kind, at, body) VALUES ($1, $2, $3, $4, $5, $6)";
const EVENTS: &str = "SELECT head.forgotten, NULL AS position, next.seq, next.id, next.kind, next.body \
    FROM event_head AS head LEFT JOIN (SELECT seq, id, kind, body FROM events WHERE seq > $1 ORDER BY seq LIMIT $2) \
    AS next ON true ORDER BY next.seq";
const KEPT: &str = "SELECT forgotten, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) \
                    FROM event_head";

/// Writes down a change, in the transaction that makes it.
pub(super) async fn record(
    tx: &mut Transaction<'_, Db>,
    change: &Change,
    act: &Act,
) -> Result<(), StoreError> {
    let Columns { id, user_id, version, action, fields, shard, kind, body } = Columns::of(change, act)?;
    let audit = sqlx::query(AUDIT).bind(user_id).bind(version).bind(action).bind(fields);
    audit.bind(act.by.text()).bind(act.at.millis()).execute(&mut **tx).await?;
    let tell = sqlx::query(TELL).bind(id).bind(user_id).bind(shard).bind(kind);
    tell.bind(act.at.millis()).bind(body).execute(&mut **tx).await?;
    Ok(())
}

impl Sqlite {
    pub(in crate::store) async fn trail(
        &self,
        id: UserId,
        after: i64,
        count: usize,
        _: Position,
    ) -> Result<Vec<Entry>, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let trail = || sqlx::query_as(TRAIL).bind(id.uuid()).bind(after).bind(count).fetch_all(&self.readers);
        let rows: Vec<EntryRow> = self.patience.insist(is_busy, trail).await?;
        rows.into_iter().map(Entry::try_from).collect()
    }

    pub(in crate::store) async fn events(&self, after: Seq, count: usize) -> Result<Told, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let events = || sqlx::query_as(EVENTS).bind(after.0).bind(count).fetch_all(&self.readers);
        let rows: Vec<EventRow> = self.patience.insist(is_busy, events).await?;
        Ok(told(rows, |_| None))
    }

    pub(in crate::store) async fn kept_events(&self) -> Result<Kept, StoreError> {
        let kept = || sqlx::query_as(KEPT).fetch_one(&self.readers);
        let (forgotten, last) = self.patience.insist(is_busy, kept).await?;
        Ok(Kept { forgotten: Seq(forgotten), last: Seq(last) })
    }

    /// They have them: writers take turns, so that numbers are given in the order of commits.
    pub(in crate::store) async fn number_events(&self) -> Result<Seq, StoreError> {
        Ok(self.kept_events().await?.last)
    }

    pub(in crate::store) async fn forget_events(&self, before: Before) -> Result<Forgotten, StoreError> {
        let oldest: Vec<(i64, i64)> = sqlx::query_as(OLDEST).fetch_all(&self.readers).await?;
        let unsent = self.unsent().await?;
        let Some((last, forgotten)) = all_before(&oldest, before, unsent) else {
            return Ok(Forgotten::default());
        };
        let mut tx = self.patience.insist(is_busy, || self.writer.begin_with(BEGIN)).await?;
        sqlx::query(FORGET_EVENTS).bind(last).execute(&mut *tx).await?;
        sqlx::query(FORGOTTEN).bind(last).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(forgotten)
    }

    pub(in crate::store) fn bell(&self) -> Bell {
        Bell::of_file(self.written.subscribe())
    }
}
