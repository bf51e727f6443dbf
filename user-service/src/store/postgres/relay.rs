//! Events in PostgreSQL that are to be sent on. Who has a shard holds its row, which is free the moment that its holder
//! is lost.

use std::time::Duration;

use sqlx::{Postgres as Db, Transaction};

use super::{Postgres, in_time};
use crate::event::Seq;
use crate::store::StoreError;
use crate::store::relay::{BEGIN_RELAY, Hold, Share, UNSENT, Unsent, WAITING_IN_SHARD, WaitingRow, unsent};

/// Of the shards that nobody holds, the one whose oldest event waits for longest.
const HOLD_SHARD: &str = "
    SELECT head.shard, head.sent FROM relay_heads AS head CROSS JOIN LATERAL (
        SELECT seq FROM events WHERE events.shard = head.shard AND events.seq > head.sent ORDER BY seq LIMIT 1
    ) AS next
    ORDER BY next.seq LIMIT 1 FOR UPDATE OF head SKIP LOCKED";
const SETTLE: &str = "UPDATE relay_heads SET sent = $2 WHERE shard = $1";

/// A shard whose row is locked.
pub(in crate::store) struct Locked {
    tx: Transaction<'static, Db>,
    shard: i16,
    /// Longest wait for the server.
    within: Duration,
}

impl Locked {
    pub(in crate::store) async fn settle(mut self, sent: Option<Seq>) -> Result<(), StoreError> {
        in_time(self.within, async {
            if let Some(Seq(sent)) = sent {
                sqlx::query(SETTLE).bind(self.shard).bind(sent).execute(&mut *self.tx).await?;
            }
            Ok(self.tx.commit().await?)
        })
        .await
    }
}

impl Postgres {
    pub(in crate::store) async fn begin_relay(&self) -> Result<(), StoreError> {
        let last = self.kept_events().await?.last;
        let begin = sqlx::query(BEGIN_RELAY).bind(last.0).execute(&self.events);
        self.in_time(async { Ok(begin.await.map(drop)?) }).await
    }

    pub(in crate::store) async fn claim_events(&self, count: usize) -> Result<Option<Share>, StoreError> {
        self.primary()?;
        self.in_time(self.claim(count)).await
    }

    async fn claim(&self, count: usize) -> Result<Option<Share>, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        loop {
            let mut tx = self.events.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            let held: Option<(i16, i64)> = sqlx::query_as(HOLD_SHARD).fetch_optional(&mut *tx).await?;
            let Some((shard, sent)) = held else { return Ok(None) };
            let waiting = sqlx::query_as(WAITING_IN_SHARD).bind(shard).bind(sent).bind(count);
            let events: Vec<WaitingRow> = waiting.fetch_all(&mut *tx).await?;
            // Otherwise another one sent them between the look at the shard and the hold of it.
            if !events.is_empty() {
                return Ok(Some(Share::new(
                    events,
                    Hold::Locked(Locked { tx, shard, within: self.longest }),
                )));
            }
        }
    }

    pub(in crate::store) async fn unsent(&self) -> Result<Option<Unsent>, StoreError> {
        self.primary()?;
        let found = sqlx::query_as::<_, (i64, i64)>(UNSENT).fetch_optional(&self.events);
        self.in_time(async { Ok(found.await?.map(unsent)) }).await
    }
}
