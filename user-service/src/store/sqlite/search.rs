//! Users in the order of their emails or names.

use super::{Sqlite, is_busy};
use crate::page::{Search, Sort};
use crate::store::StoreError;
use crate::store::rows::UserRow;
use crate::store::search::Begin;
use crate::store::seen::Position;
use crate::user::User;

/// Users by email and by name, as the indexes have them. SQLite finds its way in an index by the first of these comparisons,
/// and not by that of pairs.
const BY_EMAIL: &str = r"SELECT id, email, name, created_at, updated_at, version FROM users
    WHERE lower(email) >= $1 AND (lower(email), id) > ($1, $2) AND lower(email) < $3 ORDER BY lower(email), id LIMIT $4";
const BY_NAME: &str = r"SELECT id, email, name, created_at, updated_at, version FROM users
    WHERE lower(name) >= $1 AND (lower(name), id) > ($1, $2) AND lower(name) < $3 ORDER BY lower(name), id LIMIT $4";

fn statement(sort: Sort) -> &'static str {
    match sort {
        Sort::Name => BY_NAME,
        Sort::Email | Sort::Id => BY_EMAIL,
    }
}

impl Sqlite {
    pub(in crate::store) async fn search(
        &self,
        by: &Search,
        begin: &Begin,
        count: usize,
        _: Position,
    ) -> Result<Vec<User>, StoreError> {
        let (end, count) = (by.end(), i64::try_from(count).unwrap_or(i64::MAX));
        let search = || {
            let rows = sqlx::query_as(statement(by.sort)).bind(&begin.key).bind(begin.id);
            rows.bind(&end).bind(count).fetch_all(&self.readers)
        };
        let rows: Vec<UserRow> = self.patience.insist(is_busy, search).await?;
        rows.into_iter().map(User::try_from).collect()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;
    use crate::store::sqlite::MIGRATIONS;

    #[tokio::test]
    async fn an_index_has_both_ends_of_a_page() {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        MIGRATIONS.run(&mut *pool.acquire().await.unwrap()).await.unwrap();
        for (statement, index) in [(BY_EMAIL, "users_email"), (BY_NAME, "users_by_name")] {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&pool).await.unwrap();
            let [(_, _, _, step)] = &plan[..] else { panic!("one step: {plan:?}") };
            assert_eq!(*step, format!("SEARCH users USING INDEX {index} (<expr>>? AND <expr><?)"));
        }
    }
}
