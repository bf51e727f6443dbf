//! Where users are kept. What callers see of it is the same for every database; the SQL is in a file of its own.

mod sqlite;
mod postgres;
mod fleet;
mod pools;
mod lag;
mod bell;
mod rows;
mod trail;
mod search;
pub mod relay;
pub mod welcome;
mod error;
pub mod seen;
pub mod location;
pub mod patience;

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::{Act, Entry};
use crate::event::{Event, Seq};
use crate::metrics::Meters;
use crate::page::{Cursor, Search, Sort};
use crate::profile::Profile;
use crate::user::{Timestamp, User, UserId};
pub use bell::Bell;
pub use error::StoreError;
use location::{Location, Server};
use patience::Patience;
use postgres::Postgres;
use relay::{Share, Unsent};
use search::Begin;
use seen::Position;
use sqlite::Sqlite;
use welcome::{Begun, Holder};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which database.
    pub location: Location,
    /// Copies of a server's database that only read.
    pub replicas: Vec<Server>,
    /// How far behind a replica may be to answer readers who have seen nothing newer.
    pub max_lag: Duration,
    /// Most connections that only read, per server.
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
    Postgres(Box<Postgres>),
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
    /// How many events are forgotten in one transaction at most.
    pub const FORGET_AT_ONCE: usize = trail::FORGET_AT_ONCE;

    /// Opens the database, brings its tables up to date, and makes it first if it is a file that is missing.
    pub async fn open(settings: &Settings, meters: &Meters) -> Result<Self, StoreError> {
        let patience = Patience::new(settings.patience, meters.busy_retries.clone());
        Ok(Self(match &settings.location {
            Location::File(file) => {
                Database::Sqlite(Sqlite::open(file, settings.read_connections, patience).await?)
            }
            Location::Server(server) => {
                let reads = meters.reads.clone();
                Database::Postgres(Box::new(Postgres::open(server, settings, patience, reads).await?))
            }
        }))
    }

    /// Adds a user, or finds the one that the same `key` added before.
    pub async fn create(
        &self,
        profile: &Profile,
        key: Option<&CreationKey>,
        act: &Act,
    ) -> Result<Written<Created>, StoreError> {
        ask!(self, database => database.create(profile, key, act).await)
    }

    /// One user, at least as new as what the reader has seen.
    pub async fn find(&self, id: UserId, seen: Position) -> Result<User, StoreError> {
        ask!(self, database => database.find(id, seen).await)
    }

    /// The first `count` users behind `after`, in order of their ids, at least as new as what the reader has seen.
    pub async fn page(
        &self,
        after: Option<UserId>,
        count: usize,
        seen: Position,
    ) -> Result<Vec<User>, StoreError> {
        ask!(self, database => database.page(after, count, seen).await)
    }

    /// The first `count` users behind `after` of those that are searched for, at least as new as what the reader has seen.
    pub async fn search(
        &self,
        search: &Search,
        after: Option<&Cursor>,
        count: usize,
        seen: Position,
    ) -> Result<Vec<User>, StoreError> {
        if search.sort == Sort::Id {
            let after = after.and_then(|after| if let Cursor::Id(id) = after { Some(*id) } else { None });
            return self.page(after, count, seen).await;
        }
        let begin = Begin::of(search, after);
        ask!(self, database => database.search(search, &begin, count, seen).await)
    }

    /// Gives a user the profile that `decide` makes of the present one.
    ///
    /// Nobody else changes the user between the call of `decide` and the end of the change; a change that the
    /// database breaks off is decided again. A profile that is the same as before changes nothing: version and
    /// time stay.
    pub async fn change<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<Profile, E> + Send + Sync,
    ) -> Result<Written<User>, E> {
        ask!(self, database => database.change(id, act, decide).await)
    }

    /// Removes a user, unless `decide` objects.
    pub async fn remove<E: From<StoreError>>(
        &self,
        id: UserId,
        act: &Act,
        decide: impl Fn(&User) -> Result<(), E> + Send + Sync,
    ) -> Result<Written<()>, E> {
        ask!(self, database => database.remove(id, act, decide).await)
    }

    /// Adds those users whose id and email are not there yet; answers how many that were.
    pub async fn insert_missing(&self, users: &[User], act: &Act) -> Result<u64, StoreError> {
        ask!(self, database => database.insert_missing(users, act).await)
    }

    /// Adds all of these users, or none; answers the places of those whose email another one has, in which case it is none.
    pub async fn create_all(&self, users: &[User], act: &Act) -> Result<Vec<usize>, StoreError> {
        ask!(self, database => database.create_all(users, act).await)
    }

    /// The first `count` entries behind `after` in the trail of one user, at least as new as what the reader has seen.
    /// The trail of a user who is gone is still there.
    pub async fn trail(
        &self,
        id: UserId,
        after: i64,
        count: usize,
        seen: Position,
    ) -> Result<Vec<Entry>, StoreError> {
        ask!(self, database => database.trail(id, after, count, seen).await)
    }

    /// The first `count` events behind `after`, and what a reader of them has to know besides: by one question, since
    /// each reader asks it for each event.
    pub async fn events(&self, after: Seq, count: usize) -> Result<Told, StoreError> {
        ask!(self, database => database.events(after, count).await)
    }

    /// Which events there are.
    pub async fn kept_events(&self) -> Result<Kept, StoreError> {
        ask!(self, database => database.kept_events().await)
    }

    /// Gives events that were committed their numbers, and answers the last number. To be called when the bell rings:
    /// an event without a number is shown to nobody.
    pub async fn number_events(&self) -> Result<Seq, StoreError> {
        ask!(self, database => database.number_events().await)
    }

    /// Removes some of the events that happened before a moment, the oldest first.
    pub async fn forget_events(&self, before: Before) -> Result<Forgotten, StoreError> {
        ask!(self, database => database.forget_events(before).await)
    }

    /// From now on events are to be sent on, if they were not before.
    pub async fn begin_relay(&self) -> Result<(), StoreError> {
        ask!(self, database => database.begin_relay().await)
    }

    /// The oldest events that are to be sent on and that nobody sends, up to `count` of one shard.
    pub async fn claim_events(&self, count: usize) -> Result<Option<Share>, StoreError> {
        ask!(self, database => database.claim_events(count).await)
    }

    /// The oldest event that is to be sent on.
    pub async fn unsent(&self) -> Result<Option<Unsent>, StoreError> {
        ask!(self, database => database.unsent().await)
    }

    /// Begins to welcome a user, whom others leave alone for so long.
    pub async fn begin_welcome(&self, user: UserId, lease: Duration) -> Result<Begun, StoreError> {
        ask!(self, database => database.begin_welcome(user, lease).await)
    }

    /// Puts down that a user has a welcome.
    pub async fn end_welcome(&self, user: UserId) -> Result<(), StoreError> {
        ask!(self, database => database.end_welcome(user).await)
    }

    /// Puts down that a try has failed, so that another one may begin.
    pub async fn fail_welcome(&self, user: UserId, holder: Holder) -> Result<(), StoreError> {
        ask!(self, database => database.fail_welcome(user, holder).await)
    }

    /// A bell that rings when there may be new events.
    pub fn bell(&self) -> Bell {
        ask!(self, database => database.bell())
    }

    /// Reads a row, or finds out that it cannot.
    pub async fn ping(&self) -> Result<(), StoreError> {
        ask!(self, database => database.ping().await)
    }

    /// How far somebody has seen who brings this token of a write.
    pub fn seen(&self, token: &str) -> Position {
        ask!(self, database => database.seen(token))
    }

    /// A token of all that was written up to now: whoever brings it to a read sees it. `None` where every read does.
    pub async fn newest(&self) -> Result<Option<String>, StoreError> {
        match &self.0 {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(database) => database.newest().await.map(Some),
        }
    }

    /// How each server of the database was found, the primary first. None for a file.
    pub fn servers(&self) -> Vec<ServerReport> {
        ask!(self, database => database.servers())
    }

    /// How the connections are used now, by pool.
    pub fn pools(&self) -> Vec<PoolUse> {
        ask!(self, database => database.pools())
    }

    /// Ends all connections, after what runs on them; a server is not waited for for longer than a second.
    pub async fn close(&self) {
        ask!(self, database => database.close().await);
    }
}

/// Names one creation for the caller who asks for it, so that asking twice creates once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreationKey(String);

impl CreationKey {
    /// The key as this caller's own: others may name creations of theirs by the same text. What it was is not in it.
    #[must_use]
    pub fn of(&self, caller: Option<&str>) -> Self {
        let said = [caller.unwrap_or_default().as_bytes(), &[0], self.0.as_bytes()].concat();
        Self(URL_SAFE_NO_PAD.encode(digest(&SHA256, &said)))
    }

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

/// What a write has done.
#[derive(Debug)]
pub struct Written<T> {
    /// What came of it.
    pub outcome: T,
    /// Whoever brings this to a read sees the write. None where every read does.
    pub token: Option<String>,
}

/// Which events are kept: those behind `forgotten`, up to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// This and all before it were removed.
    pub forgotten: Seq,
    /// The newest.
    pub last: Seq,
}

/// What a reader of events is told at once.
#[derive(Debug)]
pub struct Told {
    /// This event and all before it were removed. Where it is behind the one after which was asked, some are missing.
    pub forgotten: Seq,
    /// The events.
    pub events: Vec<Event>,
    /// A token of all that they tell of, as [`Store::newest`] has it.
    pub token: Option<String>,
}

/// Before which moments events are old enough to be removed.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// Those that are to be sent nowhere, or were sent.
    pub sent: Timestamp,
    /// Those that are still to be sent on. Not later than `sent`.
    pub unsent: Timestamp,
}

/// How many events were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// All of them.
    pub events: usize,
    /// Those that were still to be sent on.
    pub unsent: usize,
}

/// How a server of the database was found when it was last looked at.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// `primary`, or `replica-` and its place in the configuration, from 1.
    pub name: String,
    /// Whether it is asked.
    pub state: ServerState,
    /// How far behind the primary it is.
    pub lag: Option<Duration>,
}

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It is.
    Up,
    /// It is a replica too far behind.
    Lagging,
    /// It does not answer.
    Away,
    /// It is a primary that follows another server, or a replica that follows none.
    WrongRole,
}

impl ServerState {
    /// The same in a word, for operators.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Lagging => "lagging",
            Self::Away => "away",
            Self::WrongRole => "wrong role",
        }
    }
}

/// How long a creation is remembered by its key.
pub const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The connections of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// `writer`, or what is read from: `readers` of a file, the name of a server.
    pub pool: String,
    /// Connections at work.
    pub busy: u32,
    /// Connections waiting for work.
    pub idle: u32,
}

impl PoolUse {
    fn of<DB: sqlx::Database>(pool: &str, connections: &sqlx::Pool<DB>) -> Self {
        let idle = u32::try_from(connections.num_idle()).unwrap_or(u32::MAX);
        Self { pool: pool.to_owned(), busy: connections.size().saturating_sub(idle), idle }
    }
}
