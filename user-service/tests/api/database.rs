//! Where a test's users are: a SQLite file of their own.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use tempfile::TempDir;

/// A directory for a test, with a database in it. Gone when dropped.
pub(crate) struct Home(TempDir);

impl Home {
    #[expect(clippy::unused_async, reason = "a server has to be asked for a database")]
    pub(crate) async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.0.path().join("data").join("users.db").display())
    }

    /// A connection of the test's own to the database.
    pub(crate) async fn connect(&self) -> SqliteConnection {
        let file = self.0.path().join("data").join("users.db");
        SqliteConnectOptions::new().filename(file).connect().await.unwrap()
    }

    /// Holds up all writes until they are released.
    pub(crate) async fn hold_writes(&self) -> Hold {
        let mut connection = self.connect().await;
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        Hold(connection)
    }
}

pub(crate) struct Hold(SqliteConnection);

impl Hold {
    pub(crate) async fn release(mut self) {
        self.0.execute("ROLLBACK").await.unwrap();
    }
}
