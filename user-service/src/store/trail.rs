//! What both databases say in the same words of what changes leave behind: entries of the audit trail, and events.

use sqlx::FromRow;
use uuid::Uuid;

use super::StoreError;
use crate::audit::{Act, Entry};
use crate::event::{Action, Change, Event, Seq};

pub(super) const TRAIL: &str = "SELECT number, version, action, fields, actor, at FROM audit \
                                WHERE user_id = $1 AND number > $2 ORDER BY number LIMIT $3";
pub(super) const EVENTS: &str = "SELECT seq, id, kind, body FROM events WHERE seq > $1 ORDER BY seq LIMIT $2";

/// The events up to which all are older than a moment, of the oldest ones: the clocks of instances differ, and none is
/// forgotten before another one that came earlier.
pub(super) const OLDEST: &str = "SELECT seq, at FROM events WHERE seq IS NOT NULL ORDER BY seq LIMIT 1000";
pub(super) const FORGET_EVENTS: &str = "DELETE FROM events WHERE seq <= $1";
pub(super) const FORGOTTEN: &str = "UPDATE event_head SET forgotten = $1 WHERE forgotten < $1";

/// How many events are forgotten in one transaction at most: as many as [`OLDEST`] names.
pub(super) const FORGET_AT_ONCE: usize = 1_000;

/// The last of these events up to which all happened before the moment, and how many those are.
pub(super) fn all_before(oldest: &[(i64, i64)], moment: i64) -> Option<(i64, usize)> {
    let count = oldest.iter().take_while(|(_, at)| *at < moment).count();
    let (seq, _) = oldest.get(count.checked_sub(1)?)?;
    Some((*seq, count))
}

/// A change as columns of both tables.
pub(super) struct Columns {
    pub(super) id: Uuid,
    pub(super) user_id: Uuid,
    pub(super) version: i64,
    pub(super) action: &'static str,
    pub(super) fields: String,
    pub(super) shard: i16,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

impl Columns {
    pub(super) fn of(change: &Change, act: &Act) -> Result<Self, StoreError> {
        let id = Uuid::now_v7();
        let body = serde_json::to_string(&change.event(id, act));
        Ok(Self {
            id,
            user_id: change.user.id.uuid(),
            version: change.user.version.number(),
            action: change.action.word(),
            fields: change.fields.join(","),
            shard: change.shard(),
            kind: change.action.kind(),
            body: body.map_err(|error| StoreError::Broken(sqlx::Error::Encode(error.into())))?,
        })
    }
}

/// What [`TRAIL`] finds.
#[derive(FromRow)]
pub(super) struct EntryRow {
    number: i64,
    version: i64,
    action: String,
    fields: String,
    actor: Option<String>,
    at: i64,
}

impl TryFrom<EntryRow> for Entry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let unknown = || StoreError::Broken(sqlx::Error::Decode(format!("action {}", row.action).into()));
        let fields = row.fields.split(',').filter(|field| !field.is_empty());
        Ok(Self {
            number: row.number,
            action: Action::parse(&row.action).ok_or_else(unknown)?,
            version: row.version.into(),
            fields: fields.map(str::to_owned).collect(),
            by: row.actor,
            at: row.at.into(),
        })
    }
}

/// What [`EVENTS`] finds.
#[derive(FromRow)]
pub(super) struct EventRow {
    seq: i64,
    id: Uuid,
    kind: String,
    body: String,
}

impl From<EventRow> for Event {
    fn from(EventRow { seq, id, kind, body }: EventRow) -> Self {
        Self { seq: Seq(seq), id, kind, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_is_forgotten_before_an_earlier_one() {
        let oldest = [(1, 10), (2, 30), (3, 20)];
        assert_eq!(all_before(&oldest, 10), None);
        assert_eq!(all_before(&oldest, 25), Some((1, 1)), "the second is too new, so that the third stays");
        assert_eq!(all_before(&oldest, 31), Some((3, 3)));
        assert_eq!(all_before(&[], 31), None);
    }
}
