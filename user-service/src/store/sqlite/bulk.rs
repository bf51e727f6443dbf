//! Many users in few statements: what a statement costs on its way to the file is more than what its row does.

use std::collections::HashSet;

use sqlx::{QueryBuilder, Sqlite as Db, Transaction};
use uuid::Uuid;

use crate::audit::Act;
use crate::event::Change;
use crate::store::StoreError;
use crate::store::trail::Columns;
use crate::user::User;

/// Rows of one statement: more gain nothing, and all full statements are one to the cache of prepared ones.
const ROWS: usize = 100;

const USERS: &str = "INSERT INTO users (id, email, name, created_at, updated_at, version) ";
const AUDIT: &str = "INSERT INTO audit (user_id, version, action, fields, actor, at) ";
const TELL: &str = "INSERT INTO events (id, user_id, shard, kind, at, body) ";

/// Adds those whose emails are free; answers the places of the others.
pub(super) async fn insert_missing(
    tx: &mut Transaction<'_, Db>,
    users: &[User],
) -> Result<Vec<usize>, StoreError> {
    let mut inserted = HashSet::new();
    for part in users.chunks(ROWS) {
        let mut statement = QueryBuilder::<Db>::new(USERS);
        statement.push_values(part, |mut row, user| {
            row.push_bind(user.id.uuid())
                .push_bind(user.email.as_str().to_owned())
                .push_bind(user.name.as_str().to_owned())
                .push_bind(user.created_at.millis())
                .push_bind(user.updated_at.millis())
                .push_bind(user.version.number());
        });
        statement.push(" ON CONFLICT DO NOTHING RETURNING id");
        let ids: Vec<Uuid> = statement.build_query_scalar().fetch_all(&mut **tx).await?;
        inserted.extend(ids);
    }
    let taken = |(_, user): &(usize, &User)| !inserted.contains(&user.id.uuid());
    Ok(users.iter().enumerate().filter(taken).map(|(place, _)| place).collect())
}

/// Writes down that all of them were created, in the transaction that does it.
pub(super) async fn record(
    tx: &mut Transaction<'_, Db>,
    users: &[User],
    act: &Act,
) -> Result<(), StoreError> {
    for part in users.chunks(ROWS) {
        let columns = part.iter().map(|user| Columns::of(&Change::created(user), act));
        let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
        let mut audit = QueryBuilder::<Db>::new(AUDIT);
        audit.push_values(&columns, |mut row, columns| {
            row.push_bind(columns.user_id)
                .push_bind(columns.version)
                .push_bind(columns.action)
                .push_bind(columns.fields.clone())
                .push_bind(act.by.text())
                .push_bind(act.at.millis());
        });
        audit.build().execute(&mut **tx).await?;
        let mut tell = QueryBuilder::<Db>::new(TELL);
        tell.push_values(columns, |mut row, columns| {
            row.push_bind(columns.id)
                .push_bind(columns.user_id)
                .push_bind(columns.shard)
                .push_bind(columns.kind)
                .push_bind(act.at.millis())
                .push_bind(columns.body);
        });
        tell.build().execute(&mut **tx).await?;
    }
    Ok(())
}
