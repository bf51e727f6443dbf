//! What both databases say in the same words of what changes leave behind: entries of the audit trail, and events.

use sqlx::FromRow;
use uuid::Uuid;

use super::relay::Unsent;
use super::{Before, Forgotten, StoreError, Told};
use crate::audit::{Act, Entry};
use crate::event::{Action, Change, Event, Seq};

pub(super) const TRAIL: &str = "SELECT number, version, action, fields, actor, at FROM audit \
                                WHERE user_id = $1 AND number > $2 ORDER BY number LIMIT $3";

/// The events up to which all are older than a moment, of the oldest ones: the clocks of instances differ, and none is
/// forgotten before another one that came earlier.
pub(super) const OLDEST: &str = "SELECT seq, at FROM events WHERE seq IS NOT NULL ORDER BY seq LIMIT 1000";
pub(super) const FORGET_EVENTS: &str = "DELETE FROM events WHERE seq <= $1";
pub(super) const FORGOTTEN: &str = "UPDATE event_head SET forgotten = $1 WHERE forgotten < $1";

/// How many events are forgotten in one transaction at most: as many as [`OLDEST`] names.
pub(super) const FORGET_AT_ONCE: usize = 1_000;

/// The last of these events up to which all may go, and how many those are.
pub(super) fn all_before(
    oldest: &[(i64, i64)],
    before: Before,
    unsent: Option<Unsent>,
) -> Option<(i64, Forgotten)> {
    let sent = |seq| unsent.is_none_or(|unsent| seq < unsent.seq.0);
    let goes = |(seq, at): &&(i64, i64)| *at < if sent(*seq) { before.sent } else { before.unsent }.millis();
    let going: Vec<_> = oldest.iter().take_while(goes).collect();
    let unsent = going.iter().filter(|(seq, _)| !sent(*seq)).count();
    going.last().map(|(seq, _)| (*seq, Forgotten { events: going.len(), unsent }))
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

/// What a look for events finds: a row for each of them, and one without where there is none.
#[derive(FromRow)]
pub(super) struct EventRow {
    forgotten: i64,
    position: Option<String>,
    seq: Option<i64>,
    id: Option<Uuid>,
    kind: Option<String>,
    body: Option<String>,
}

impl EventRow {
    fn event(self) -> Option<Event> {
        Some(Event { seq: Seq(self.seq?), id: self.id?, kind: self.kind?, body: self.body? })
    }
}

/// What a reader is told; `token` makes one of the server's position, if it has any.
pub(super) fn told(rows: Vec<EventRow>, token: impl Fn(Option<&str>) -> Option<String>) -> Told {
    let (mut forgotten, mut position) = (Seq::START, None);
    for row in &rows {
        (forgotten, position) = (Seq(row.forgotten), row.position.as_deref());
    }
    let token = token(position);
    Told { forgotten, token, events: rows.into_iter().filter_map(EventRow::event).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_learns_what_is_forgotten_whether_there_is_an_event_or_not() {
        let row = |seq: Option<i64>| EventRow {
            forgotten: 3,
            position: Some("0/10".into()),
            seq,
            id: seq.map(|_| Uuid::nil()),
            kind: seq.map(|_| "user.created".into()),
            body: seq.map(|_| "{}".into()),
        };
        let look = |rows| told(rows, |position| position.map(str::to_owned));
        let none = look(vec![row(None)]);
        assert_eq!((none.forgotten, none.events.len()), (Seq(3), 0));
        let two = look(vec![row(Some(4)), row(Some(5))]);
        assert_eq!((two.forgotten, two.token.as_deref()), (Seq(3), Some("0/10")));
        assert_eq!(two.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [Seq(4), Seq(5)]);
    }

    #[test]
    fn no_event_is_forgotten_before_an_earlier_one() {
        let oldest = [(1, 10), (2, 30), (3, 20)];
        let before = |moment: i64| Before { sent: moment.into(), unsent: 0.into() };
        let all = |count| Forgotten { events: count, unsent: 0 };
        assert_eq!(all_before(&oldest, before(10), None), None);
        assert_eq!(all_before(&oldest, before(25), None), Some((1, all(1))), "the second is too new");
        assert_eq!(all_before(&oldest, before(31), None), Some((3, all(3))));
        assert_eq!(all_before(&[], before(31), None), None);
    }

    #[test]
    fn what_is_to_be_sent_on_is_kept_for_longer_and_not_for_ever() {
        let oldest = [(1, 10), (2, 20), (3, 30)];
        let waits = Some(Unsent { seq: Seq(2), at: 20.into() });
        let before = |unsent: i64| Before { sent: 100.into(), unsent: unsent.into() };
        assert_eq!(all_before(&oldest, before(20), waits), Some((1, Forgotten { events: 1, unsent: 0 })));
        assert_eq!(all_before(&oldest, before(25), waits), Some((2, Forgotten { events: 2, unsent: 1 })));
    }
}
