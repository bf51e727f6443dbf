//! Where users are kept. What callers see of it is the same for every database; the SQL is in a file of its own.

mod sqlite;
mod postgres;
mod rows;
mod error;
pub mod location;
pub mod patience;

use std::time::Duration;

use crate::metrics::Meters;
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};
pub use error::StoreError;
use location::Location;
use patience::Patience;
use postgres::Postgres;
use sqlite::Sqlite;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which database.
    pub location: Location,
    /// Most connections that only read.
    pub read_connections: u32,
    /// Most connections that write. SQLite has one, whatever is said here.
    pub write_connections: u32,
    /// Longest wait for a turn at the database before a request is told to come again.
    pub patience: Duration,
    /// Longest time for one statement on a server. A SQLite file has no clock of its own.
    pub statement_timeout: Duration,
}

/// All users.
///
/// Every method is one transaction: all of it happens, or nothing.
pub struct Store(Database);

enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Asks whichever database there is. Both have the same methods, some of them generic, so that no trait object fits.
macro_rules! ask {
    ($store:expr, $database:ident => $question:expr) => {
        match &$store.0 {
            Database::Sqlite($database) => $question,
            Database::Postgres($database) => $question,
        }
    };
}

impl Store {
    /// Opens the database, brings its tables up to date, and makes it first if it is a file that is missing.
    pub async fn open(settings: &Settings, meters: &Meters) -> Result<Self, StoreError> {
        let patience = Patience::new(settings.patience, meters.busy_retries.clone());
        Ok(Self(match &settings.location {
            Location::File(file) => {
                Database::Sqlite(Sqlite::open(file, settings.read_connections, patience).await?)
            }
            Location::Server(server) => Database::Postgres(Postgres::open(server, settings, patience).await?),
        }))
    }

    /// Adds a user, or finds the one that the same `key` added before.
    pub async fn create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        ask!(self, database => database.create(profile, key, now).await)
    }

    /// One user.
    pub async fn find(&self, id: UserId) -> Result<User, StoreError> {
        ask!(self, database => database.find(id).await)
    }

    /// The first `count` users behind `after`, in order of their ids.
    pub async fn page(&self, after: Option<UserId>, count: usize) -> Result<Vec<User>, StoreError> {
        ask!(self, database => database.page(after, count).await)
    }

    /// Gives a user the profile that `decide` makes of the present one.
    ///
    /// Nobody else changes the user between the call of `decide` and the end of the change; a change that the
    /// database breaks off is decided again. A profile that is the same as before changes nothing: version and
    /// time stay.
    pub async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        now: Timestamp,
        decide: impl Fn(&User) -> Result<Profile, E> + Send + Sync,
    ) -> Result<User, E> {
        ask!(self, database => database.change(id, now, decide).await)
    }

    /// Removes a user, unless `decide` objects.
    pub async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        decide: impl Fn(&User) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        ask!(self, database => database.remove(id, decide).await)
    }

    /// Adds those users whose id and email are not there yet; answers how many that were.
    pub async fn insert_missing(&self, users: &[User]) -> Result<u64, StoreError> {
        ask!(self, database => database.insert_missing(users).await)
    }

    /// Reads a row, or finds out that it cannot.
    pub async fn ping(&self) -> Result<(), StoreError> {
        ask!(self, database => database.ping().await)
    }

    /// How the connections are used now, by pool.
    pub fn pools(&self) -> [PoolUse; 2] {
        ask!(self, database => database.pools())
    }

    /// Ends all connections, after what runs on them.
    pub async fn close(&self) {
        ask!(self, database => database.close().await);
    }
}

/// Names one creation for the caller who asks for it, so that asking twice creates once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreationKey(String);

impl CreationKey {
    /// Takes 1 to 255 visible ASCII characters or blanks, of which not all are blanks.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= 255 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        (fits && !text.trim().is_empty()).then(|| Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What became of a creation.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// The user was added.
    Now(User),
    /// The same request added the user before; this is the user as it was then.
    Before(User),
}

/// How long a creation is remembered by its key.
pub const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The connections of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// `writer` or `readers`.
    pub pool: &'static str,
    /// Connections at work.
    pub busy: u32,
    /// Connections waiting for work.
    pub idle: u32,
}

impl PoolUse {
    fn of<DB: sqlx::Database>(pool: &'static str, connections: &sqlx::Pool<DB>) -> Self {
        let idle = u32::try_from(connections.num_idle()).unwrap_or(u32::MAX);
        Self { pool, busy: connections.size().saturating_sub(idle), idle }
    }
}
