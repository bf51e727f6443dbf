//! Which SQLite file holds the users, and how it is opened.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// How long SQLite itself sleeps for a lock before it reports `SQLITE_BUSY`. Short, because that sleep holds a
/// connection and has no jitter; the long wait is [`Patience`]'s.
const BUSY_TIMEOUT: Duration = Duration::from_millis(50);

/// Which file, as named by a `sqlite:` URL.
#[derive(Clone, Debug)]
pub struct Location(SqliteConnectOptions);

impl FromStr for Location {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if !url.starts_with("sqlite:") {
            return Err(format!("`{url}` is not a database this program knows: write sqlite://PATH"));
        }
        let options = SqliteConnectOptions::from_str(url).map_err(|error| format!("`{url}`: {error}"))?;
        let file = options.get_filename();
        if url.contains(":memory:") || url.contains("mode=memory") || file.as_os_str().is_empty() {
            return Err(format!("`{url}` names no file; each connection would have users of its own"));
        }
        Ok(Self(options))
    }
}

impl Location {
    /// The file itself.
    pub fn file(&self) -> &Path {
        self.0.get_filename()
    }

    /// How a connection is opened.
    ///
    /// `synchronous = FULL`: an answered write is on the disk, whatever happens to the power. `NORMAL` would
    /// save one `fsync` per write and could lose the last answered ones; users are read far more than written.
    pub(super) fn options(&self) -> SqliteConnectOptions {
        let options = self.0.clone().create_if_missing(true).foreign_keys(true).busy_timeout(BUSY_TIMEOUT);
        options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A burst of writes must not leave a large log behind for good.
            .pragma("journal_size_limit", "67108864")
    }

    pub(super) fn make_directory(&self) -> std::io::Result<()> {
        self.file().parent().map_or(Ok(()), std::fs::create_dir_all)
    }
}
