//! What both databases say in the same words of sending events on: how far each shard has come, and what waits.
//!
//! All events of a user are in one of 16 shards, and one relay at a time has a shard, so that those of one user stay in
//! order while several relays share the work.

use sqlx::FromRow;
use uuid::Uuid;

use super::StoreError;
use super::postgres::relay::Locked;
use super::sqlite::relay::Leased;
use crate::event::Seq;
use crate::user::Timestamp;

/// Whoever relays first sends what comes from then on; a head that is set stays.
pub(super) const BEGIN_RELAY: &str = "UPDATE relay_heads SET sent = $1 WHERE sent IS NULL";

/// The oldest event that waits. While nothing was ever sent on, none does.
pub(super) const UNSENT: &str = "
    SELECT seq, at FROM events WHERE seq = (
        SELECT min((
            SELECT seq FROM events WHERE events.shard = head.shard AND events.seq > head.sent ORDER BY seq LIMIT 1
        )) FROM relay_heads AS head
    )";

pub(super) const WAITING_IN_SHARD: &str = "SELECT seq, id, user_id, kind, body FROM events \
                                           WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3";

/// An event that waits to be sent on.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its place among all events.
    pub seq: Seq,
    /// Names the event for good.
    pub id: Uuid,
    /// Whom it is about.
    pub user: Uuid,
    /// Its type, such as `user.created`.
    pub kind: String,
    /// A [`CloudEvent`](crate::event::CloudEvent) in JSON.
    pub body: String,
}

/// The oldest event that waits to be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Its place among all events.
    pub seq: Seq,
    /// When it happened.
    pub at: Timestamp,
}

/// Events of one shard, the oldest ones that wait. Nobody else sends any of that shard while this is held: dropping it
/// gives the shard back, as does settling it.
pub struct Share {
    events: Vec<Waiting>,
    hold: Hold,
}

pub(super) enum Hold {
    Locked(Locked),
    Leased(Leased),
}

impl Share {
    pub(super) fn new(events: Vec<WaitingRow>, hold: Hold) -> Self {
        Self { events: events.into_iter().map(Waiting::from).collect(), hold }
    }

    /// The events, in order.
    pub fn events(&self) -> &[Waiting] {
        &self.events
    }

    /// Puts down that all up to `sent` were sent, if any, and gives the shard back.
    pub async fn settle(self, sent: Option<Seq>) -> Result<(), StoreError> {
        match self.hold {
            Hold::Locked(locked) => locked.settle(sent).await,
            Hold::Leased(leased) => leased.settle(sent).await,
        }
    }
}

/// What [`WAITING_IN_SHARD`] finds.
#[derive(FromRow)]
pub(super) struct WaitingRow {
    seq: i64,
    id: Uuid,
    user_id: Uuid,
    kind: String,
    body: String,
}

impl From<WaitingRow> for Waiting {
    fn from(WaitingRow { seq, id, user_id, kind, body }: WaitingRow) -> Self {
        Self { seq: Seq(seq), id, user: user_id, kind, body }
    }
}

pub(super) fn unsent((seq, at): (i64, i64)) -> Unsent {
    Unsent { seq: Seq(seq), at: at.into() }
}
