//! One change of one user: the user, the entry in the audit trail and the event, in one way to the server and back.

use sqlx::{Postgres as Db, Transaction};

use crate::audit::Act;
use crate::event::{Action, Change};
use crate::store::StoreError;
use crate::store::error::email_taken;
use crate::store::trail::Columns;

/// What follows from a change of a user. The entry and the event are made of the changed row, and so behind it: the event's
/// `position` is taken when the user is locked, and those of one user are in order.
macro_rules! change {
    ($of_user:literal) => {
        concat!(
            "WITH changed AS (",
            $of_user,
            " RETURNING id), entry AS (
                INSERT INTO audit (user_id, version, action, fields, actor, at)
                SELECT id, $3, $4, $5, $6, $7 FROM changed
            )
            INSERT INTO events (id, user_id, shard, kind, at, body) SELECT $1, id, $8, $9, $7, $10 FROM changed"
        )
    };
}

const CREATE: &str = change!(
    "INSERT INTO users (id, version, email, name, updated_at, created_at) VALUES ($2, $3, $11, $12, $13, $14)"
);
const UPDATE: &str =
    change!("UPDATE users SET version = $3, email = $11, name = $12, updated_at = $13 WHERE id = $2");
const REMOVE: &str = change!("DELETE FROM users WHERE id = $2");

/// Makes a change, in the transaction that has locked the user, if there was one before.
pub(super) async fn make(tx: &mut Transaction<'_, Db>, change: &Change, act: &Act) -> Result<(), StoreError> {
    let Columns { id, user_id, version, action, fields, shard, kind, body } = Columns::of(change, act)?;
    let statement = match change.action {
        Action::Created => CREATE,
        Action::Updated => UPDATE,
        Action::Deleted => REMOVE,
    };
    let mut query = sqlx::query(statement).bind(id).bind(user_id).bind(version).bind(action).bind(fields);
    query = query.bind(act.by.text()).bind(act.at.millis()).bind(shard).bind(kind).bind(body);
    let user = &change.user;
    if change.action != Action::Deleted {
        query = query.bind(user.email.as_str()).bind(user.name.as_str()).bind(user.updated_at.millis());
    }
    if change.action == Action::Created {
        query = query.bind(user.created_at.millis());
    }
    query.execute(&mut **tx).await.map_err(email_taken)?;
    Ok(())
}
