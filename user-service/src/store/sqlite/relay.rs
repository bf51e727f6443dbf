//! Events in a SQLite file that are to be sent on. One transaction writes at a time, so that none may last as long as a
//! broker takes: who has a shard has it until a moment, which nobody waits for who gives it back.

use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use uuid::Uuid;

use super::{BEGIN, Sqlite, is_busy};
use crate::event::Seq;
use crate::store::StoreError;
use crate::store::patience::Patience;
use crate::store::relay::{BEGIN_RELAY, Hold, Share, UNSENT, Unsent, WAITING_IN_SHARD, WaitingRow, unsent};
use crate::user::Timestamp;

/// Of the shards that nobody has, the one whose oldest event waits for longest. A moment further ahead than any that is
/// given was given by a clock that was set back.
const LEASE_SHARD: &str = "
    UPDATE relay_heads SET holder = $1, until = $3 WHERE shard = (
        SELECT head.shard FROM relay_heads AS head
        JOIN events ON events.seq = (
            SELECT seq FROM events WHERE events.shard = head.shard AND events.seq > head.sent ORDER BY seq LIMIT 1
        )
        WHERE head.until NOT BETWEEN $2 + 1 AND $3
        ORDER BY events.seq LIMIT 1
    ) RETURNING shard, sent";
const SETTLE: &str =
    "UPDATE relay_heads SET sent = coalesce($3, sent), until = 0 WHERE shard = $1 AND holder = $2";

/// How long a shard is given for: longer than a share takes.
const LEASE: Duration = Duration::from_secs(30);

/// A shard that others leave alone for a while.
pub(in crate::store) struct Leased {
    writer: SqlitePool,
    patience: Patience,
    shard: i64,
    holder: Uuid,
}

impl Leased {
    /// Changes nothing if the shard was given to another one meanwhile, who sends the same again.
    pub(in crate::store) async fn settle(self, sent: Option<Seq>) -> Result<(), StoreError> {
        let sent = sent.map(|sent| sent.0);
        let settle =
            || sqlx::query(SETTLE).bind(self.shard).bind(self.holder).bind(sent).execute(&self.writer);
        self.patience.insist(is_busy, settle).await?;
        Ok(())
    }
}

impl Sqlite {
    pub(in crate::store) async fn begin_relay(&self) -> Result<(), StoreError> {
        let last = self.kept_events().await?.last;
        let begin = || sqlx::query(BEGIN_RELAY).bind(last.0).execute(&self.writer);
        self.patience.insist(is_busy, begin).await?;
        Ok(())
    }

    pub(in crate::store) async fn claim_events(&self, count: usize) -> Result<Option<Share>, StoreError> {
        // Who only looks keeps nobody from writing.
        if self.unsent().await?.is_none() {
            return Ok(None);
        }
        let holder = Uuid::now_v7();
        let now = Timestamp::now().millis();
        let until = now.saturating_add(i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX));
        let mut tx = self.patience.insist(is_busy, || self.writer.begin_with(BEGIN)).await?;
        let lease = sqlx::query_as(LEASE_SHARD).bind(holder).bind(now).bind(until);
        let leased: Vec<(i64, i64)> = lease.fetch_all(&mut *tx).await?;
        let Some((shard, sent)) = leased.first().copied() else { return Ok(None) };
        let waiting = sqlx::query_as(WAITING_IN_SHARD).bind(shard).bind(sent);
        let waiting = waiting.bind(i64::try_from(count).unwrap_or(i64::MAX));
        let events: Vec<WaitingRow> = waiting.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        let (writer, patience) = (self.writer.clone(), self.patience.clone());
        Ok(Some(Share::new(events, Hold::Leased(Leased { writer, patience, shard, holder }))))
    }

    pub(in crate::store) async fn unsent(&self) -> Result<Option<Unsent>, StoreError> {
        let look = || sqlx::query_as(UNSENT).fetch_optional(&self.readers);
        let found: Option<(i64, i64)> = self.patience.insist(is_busy, look).await?;
        Ok(found.map(unsent))
    }
}
