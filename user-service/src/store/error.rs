//! Why a store does not do as it was told, read from what the databases say.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

/// Why the store did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody has this id.
    #[error("no user has this id")]
    NoSuchUser,
    /// Another user has this email.
    #[error("another user has this email")]
    EmailTaken,
    /// The key was used for a creation with other contents.
    #[error("the key was used for another creation")]
    KeyReused,
    /// The database had no turn for us in time. Coming again may help.
    #[error("the database is busy")]
    Busy(#[source] sqlx::Error),
    /// The database cannot be reached or written: no server, no file, no space, no device. An operator can help.
    #[error("the database is away")]
    Away(#[source] sqlx::Error),
    /// Of the servers of the database, none that could do this is there.
    #[error("no server of the database can be asked")]
    NoServer,
    /// The database was lost while it committed, so that nobody knows here whether the change happened.
    #[error("the database was lost during a commit, which may have happened")]
    Unsure(#[source] sqlx::Error),
    /// The database refuses what is right to ask, so it or this program is broken.
    #[error("the database is broken")]
    Broken(#[source] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("the database's tables could not be brought up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The directory of the database could not be made.
    #[error("the directory of the database could not be made")]
    Directory(#[source] std::io::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
        match &error {
            PoolTimedOut => Self::Busy(error),
            PoolClosed | Io(_) | Tls(_) | WorkerCrashed => Self::Away(error),
            sqlx::Error::Database(told) => match state(told.as_ref()) {
                State::Busy => Self::Busy(error),
                State::Away => Self::Away(error),
                State::Broken => Self::Broken(error),
            },
            _ => Self::Broken(error),
        }
    }
}

/// A refusal of an insert or update: the only unique column that a caller has a hand in is the email.
pub(super) fn email_taken(error: sqlx::Error) -> StoreError {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => StoreError::EmailTaken,
        _ => error.into(),
    }
}

/// What an error of a database says of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Others are in the way.
    Busy,
    /// It cannot be reached or written.
    Away,
    /// It refuses what is right to ask.
    Broken,
}

fn state(told: &dyn DatabaseError) -> State {
    match told.try_downcast_ref::<PgDatabaseError>() {
        Some(told) => of_postgres(told.code()),
        None => of_sqlite(told),
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_postgres(code: &str) -> State {
    match code {
        // Too many connections or too little memory; a transaction that others were in the way of; a lock or a
        // statement that took too long.
        "53200" | "53300" | "40001" | "40P01" | "55P03" | "57014" => State::Busy,
        // A disk that is full or fails, a server that stops, starts or follows another one, which writes.
        "53100" | "58030" | "57P01" | "57P02" | "57P03" | "25006" => State::Away,
        // Connection exceptions.
        _ if code.starts_with("08") => State::Away,
        _ => State::Broken,
    }
}

/// <https://www.sqlite.org/rescode.html>: the result code without the extension in its upper bytes.
pub(super) fn of_sqlite(told: &dyn DatabaseError) -> State {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const READONLY: i32 = 8;
    const IOERR: i32 = 10;
    const FULL: i32 = 13;
    const CANTOPEN: i32 = 14;
    match told.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
        Some(BUSY | LOCKED) => State::Busy,
        Some(READONLY | IOERR | FULL | CANTOPEN) => State::Away,
        _ => State::Broken,
    }
}
