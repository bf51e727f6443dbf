//! Where a test's users are: in a file, or in a database of the one server of this process.

use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tempfile::TempDir;

use crate::server::shared;

/// A directory for a test, and a database.
pub(crate) struct Home {
    directory: TempDir,
    /// The URL of the database, where it is one of a server.
    server: Option<String>,
}

impl Home {
    /// With a file.
    #[expect(clippy::unused_async, reason = "what tests share waits for it")]
    pub(crate) async fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: None }
    }

    /// With a database of the server.
    pub(crate) async fn on_server() -> Self {
        let name = format!("test_{:016x}", fastrand::u64(..));
        let mut connection = PgConnection::connect(&shared().url("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        Self { directory: tempfile::tempdir().unwrap(), server: Some(shared().url(&name)) }
    }

    /// One of each.
    pub(crate) async fn both() -> [Self; 2] {
        [Self::new().await, Self::on_server().await]
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn url(&self) -> String {
        let file = || format!("sqlite://{}", self.directory.path().join("users.db").display());
        self.server.clone().unwrap_or_else(file)
    }

    /// Does something to the database behind the service's back.
    pub(crate) async fn execute(&self, statement: &'static str) {
        if let Some(url) = &self.server {
            PgConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
        } else {
            self.file().await.execute(statement).await.unwrap();
        }
    }

    async fn file(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.path().join("users.db")).connect().await.unwrap()
    }
}
