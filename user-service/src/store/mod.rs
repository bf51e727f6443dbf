//! Where users are kept. What callers see of it is the same for every database; the SQL is in a file of its own.

pub mod sqlite;
pub mod location;
pub mod patience;

use std::time::Duration;

use crate::metrics::Meters;
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};
use location::Location;
use patience::Patience;
use sqlite::Sqlite;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which database.
    pub location: Location,
    /// Most connections that only read.
    pub read_connections: u32,
    /// Longest wait for a turn at the database before a request is told to come again.
    pub patience: Duration,
}

/// All users.
///
/// Every method is one transaction: all of it happens, or nothing.
pub struct Store {
    sqlite: Sqlite,
}

impl Store {
    /// Opens the database, makes it if it is missing, and brings its tables up to date.
    pub async fn open(settings: &Settings, meters: &Meters) -> Result<Self, StoreError> {
        let patience = Patience::new(settings.patience, meters.busy_retries.clone());
        Ok(Self { sqlite: Sqlite::open(&settings.location, settings.read_connections, patience).await? })
    }

    /// Adds a user, or finds the one that the same `key` added before.
    pub async fn create(
        &self,
        profile: Profile,
        key: Option<&CreationKey>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        self.sqlite.create(profile, key, now).await
    }

    /// One user.
    pub async fn find(&self, id: UserId) -> Result<User, StoreError> {
        self.sqlite.find(id).await
    }

    /// The first `count` users behind `after`, in order of their ids.
    pub async fn page(&self, after: Option<UserId>, count: usize) -> Result<Vec<User>, StoreError> {
        self.sqlite.page(after, count).await
    }

    /// Gives a user the profile that `decide` makes of the present one.
    ///
    /// Nobody else changes the user between the call of `decide` and the end of the change. A profile that is
    /// the same as before changes nothing: version and time stay.
    pub async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        now: Timestamp,
        decide: impl FnOnce(&User) -> Result<Profile, E> + Send,
    ) -> Result<User, E> {
        self.sqlite.change(id, now, decide).await
    }

    /// Removes a user, unless `decide` objects.
    pub async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        decide: impl FnOnce(&User) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        self.sqlite.remove(id, decide).await
    }

    /// Adds those users whose id and email are not there yet; answers how many that were.
    pub async fn insert_missing(&self, users: &[User]) -> Result<u64, StoreError> {
        self.sqlite.insert_missing(users).await
    }

    /// Reads a row, or finds out that it cannot.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.sqlite.ping().await
    }

    /// How the connections are used now, by pool.
    pub fn pools(&self) -> [PoolUse; 2] {
        self.sqlite.pools()
    }

    /// Ends all connections, after what runs on them.
    pub async fn close(&self) {
        self.sqlite.close().await;
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
    /// The database cannot be reached or written: no file, no space, no device. An operator can help.
    #[error("the database is away")]
    Away(#[source] sqlx::Error),
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
