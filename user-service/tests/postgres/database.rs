//! Where a test's users are: a database of their own in the one server of this process.

use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tempfile::TempDir;

use crate::server::{Server, shared};

/// A directory for a test, and a database.
pub(crate) struct Home {
    directory: TempDir,
    url: String,
    name: String,
}

impl Home {
    pub(crate) async fn new() -> Self {
        Self::on(shared()).await
    }

    /// With a new database in this server.
    pub(crate) async fn on(server: &Server) -> Self {
        let name = format!("test_{:016x}", fastrand::u64(..));
        let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        Self { directory: tempfile::tempdir().unwrap(), url: server.url(&name), name }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The same database at a replica of the server.
    pub(crate) fn url_on(&self, replica: &Server) -> String {
        replica.url(&self.name)
    }

    /// A connection of the test's own to the database.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Holds up all writes until they are released.
    pub(crate) async fn hold_writes(&self) -> Hold {
        let mut connection = self.connect().await;
        connection.execute("BEGIN; LOCK TABLE users, idempotency_keys IN EXCLUSIVE MODE").await.unwrap();
        Hold(connection)
    }
}

pub(crate) struct Hold(PgConnection);

impl Hold {
    pub(crate) async fn release(mut self) {
        self.0.execute("ROLLBACK").await.unwrap();
    }
}
