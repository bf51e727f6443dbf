//! Welcomes in a SQLite file, whose workers have one clock.

use std::time::Duration;

use uuid::Uuid;

use super::{Sqlite, is_busy};
use crate::store::StoreError;
use crate::store::welcome::{Begun, END_WELCOME, FAIL_WELCOME, Holder, WELCOMED, begun_before};
use crate::user::{Timestamp, UserId};

const BEGIN_WELCOME: &str = "
    INSERT INTO welcomes (user_id, holder, until) VALUES ($1, $2, $3 + $4)
    ON CONFLICT (user_id) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE welcomes.sent_at IS NULL AND welcomes.until <= $3
    RETURNING holder";

impl Sqlite {
    pub(in crate::store) async fn begin_welcome(
        &self,
        user: UserId,
        lease: Duration,
    ) -> Result<Begun, StoreError> {
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let (holder, now) = (Uuid::now_v7(), Timestamp::now().millis());
        let begin = || {
            let begin =
                sqlx::query_scalar(BEGIN_WELCOME).bind(user.uuid()).bind(holder).bind(now).bind(lease);
            begin.fetch_all(&self.writer)
        };
        let held: Vec<Uuid> = self.patience.insist(is_busy, begin).await?;
        if let Some(holder) = held.first().copied() {
            return Ok(Begun::Now(Holder(holder)));
        }
        let welcomed = || sqlx::query_scalar(WELCOMED).bind(user.uuid()).fetch_optional(&self.readers);
        Ok(begun_before(self.patience.insist(is_busy, welcomed).await?))
    }

    pub(in crate::store) async fn end_welcome(&self, user: UserId) -> Result<(), StoreError> {
        let now = Timestamp::now().millis();
        let end = || sqlx::query(END_WELCOME).bind(user.uuid()).bind(now).execute(&self.writer);
        self.patience.insist(is_busy, end).await?;
        Ok(())
    }

    pub(in crate::store) async fn fail_welcome(
        &self,
        user: UserId,
        Holder(holder): Holder,
    ) -> Result<(), StoreError> {
        let fail = || sqlx::query(FAIL_WELCOME).bind(user.uuid()).bind(holder).execute(&self.writer);
        self.patience.insist(is_busy, fail).await?;
        Ok(())
    }
}
