//! Welcomes in PostgreSQL. The clock is the server's: those of the workers differ.

use std::time::Duration;

use uuid::Uuid;

use super::{Postgres, passes};
use crate::store::StoreError;
use crate::store::welcome::{Begun, END_WELCOME, FAIL_WELCOME, Holder, WELCOMED, begun_before};
use crate::user::{Timestamp, UserId};

const BEGIN_WELCOME: &str = "
    WITH clock AS (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now)
    INSERT INTO welcomes (user_id, holder, until) SELECT $1, $2, now + $3 FROM clock
    ON CONFLICT (user_id) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE welcomes.sent_at IS NULL AND welcomes.until <= excluded.until - $3
    RETURNING holder";

impl Postgres {
    pub(in crate::store) async fn begin_welcome(
        &self,
        user: UserId,
        lease: Duration,
    ) -> Result<Begun, StoreError> {
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let begin = || async {
            let mut turn = self.turn().await?;
            let begin = sqlx::query_scalar(BEGIN_WELCOME).bind(user.uuid()).bind(Uuid::now_v7()).bind(lease);
            if let Some(holder) = begin.fetch_optional(&mut *turn).await? {
                return Ok(Begun::Now(Holder(holder)));
            }
            let welcomed = sqlx::query_scalar(WELCOMED).bind(user.uuid());
            Ok(begun_before(welcomed.fetch_optional(&mut *turn).await?))
        };
        self.patience.insist(passes, begin).await
    }

    pub(in crate::store) async fn end_welcome(&self, user: UserId) -> Result<(), StoreError> {
        let now = Timestamp::now().millis();
        let end = || async {
            let mut turn = self.turn().await?;
            sqlx::query(END_WELCOME).bind(user.uuid()).bind(now).execute(&mut *turn).await?;
            Ok(())
        };
        self.patience.insist(passes, end).await
    }

    pub(in crate::store) async fn fail_welcome(
        &self,
        user: UserId,
        Holder(holder): Holder,
    ) -> Result<(), StoreError> {
        let fail = || async {
            let mut turn = self.turn().await?;
            sqlx::query(FAIL_WELCOME).bind(user.uuid()).bind(holder).execute(&mut *turn).await?;
            Ok(())
        };
        self.patience.insist(passes, fail).await
    }
}
