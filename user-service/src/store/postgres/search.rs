//! Users in the order of their emails or names.

use sqlx::postgres::PgPool;

use super::Postgres;
use crate::page::{Search, Sort};
use crate::store::StoreError;
use crate::store::rows::UserRow;
use crate::store::search::Begin;
use crate::store::seen::Position;
use crate::user::User;

/// Users by email and by name, as the indexes have them.
const BY_EMAIL: &str = r#"SELECT id, email, name, created_at, updated_at, version FROM users
    WHERE (lower(email COLLATE "C"), id) > ($1, $2) AND lower(email COLLATE "C") < $3 ORDER BY lower(email COLLATE "C"), id LIMIT $4"#;
const BY_NAME: &str = r#"SELECT id, email, name, created_at, updated_at, version FROM users
    WHERE (lower(name COLLATE "C"), id) > ($1, $2) AND lower(name COLLATE "C") < $3 ORDER BY lower(name COLLATE "C"), id LIMIT $4"#;

fn statement(sort: Sort) -> &'static str {
    match sort {
        Sort::Name => BY_NAME,
        Sort::Email | Sort::Id => BY_EMAIL,
    }
}

impl Postgres {
    pub(in crate::store) async fn search(
        &self,
        by: &Search,
        begin: &Begin,
        count: usize,
        seen: Position,
    ) -> Result<Vec<User>, StoreError> {
        let search = |pool: PgPool| {
            let rows = sqlx::query_as(statement(by.sort)).bind(&begin.key).bind(begin.id);
            let (end, count) = (by.end(), i64::try_from(count).unwrap_or(i64::MAX));
            async move { rows.bind(end).bind(count).fetch_all(&pool).await }
        };
        let rows: Vec<UserRow> = self.read(seen, search).await?;
        rows.into_iter().map(User::try_from).collect()
    }
}
