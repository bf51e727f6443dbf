//! A primary and its replicas: who is there, how far each is, and whom to ask.
//!
//! Each server is looked at five times a second over a connection of its own. What a read may rely on is always
//! something that was true: a replica has at least replayed what it said it had.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::lag::History;
use super::location::Server;
use super::seen::Position;
use super::{PoolUse, ServerReport, ServerState, Settings, StoreError};

/// How often each server is looked at: what a reader may wait for its own write to be seen at a replica.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest time for one look, after which a server counts as away. Generous, since a primary that is merely slow must
/// not be given up; requests find out sooner that a replica hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// All servers of one database.
pub(super) struct Fleet {
    primary: Node,
    replicas: Vec<Node>,
    history: Mutex<History>,
    max_lag: Duration,
    turn: AtomicUsize,
}

/// One server: its connections for reading, and how it was found.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) pool: PgPool,
    options: PgConnectOptions,
    health: Arc<Mutex<Health>>,
}

#[derive(Clone, Copy, Debug)]
struct Health {
    state: ServerState,
    /// What the server has at least replayed.
    replayed: Position,
    lag: Option<Duration>,
}

impl Fleet {
    /// Servers of which nothing is known yet. The primary is believed to be there: it was a moment ago.
    pub(super) fn open(primary: &Server, settings: &Settings) -> Self {
        let replica = |(number, server): (usize, &Server)| {
            Node::replica(format!("replica-{}", number + 1), server, settings)
        };
        Self {
            primary: Node::primary(primary, settings),
            replicas: settings.replicas.iter().enumerate().map(replica).collect(),
            history: Mutex::default(),
            max_lag: settings.max_lag,
            turn: AtomicUsize::new(0),
        }
    }

    /// Looks after all servers until the set is dropped.
    pub(super) fn watch(self: &Arc<Self>) -> JoinSet<()> {
        let mut watchers = JoinSet::new();
        for index in 0..=self.replicas.len() {
            let fleet = self.clone();
            watchers.spawn(async move { fleet.look_after(index).await });
        }
        watchers
    }

    /// The replicas that may answer a reader who has seen this much, from a different one each time.
    pub(super) fn fresh(&self, seen: Position) -> impl Iterator<Item = &Node> {
        let count = self.replicas.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).filter_map(move |step| self.replicas.get(first.wrapping_add(step) % count));
        in_turn.filter(move |node| {
            let Health { state, replayed, .. } = node.health();
            state == ServerState::Up && replayed >= seen
        })
    }

    pub(super) fn primary(&self) -> &Node {
        &self.primary
    }

    /// How each server was found, the primary first.
    pub(super) fn reports(&self) -> Vec<ServerReport> {
        self.nodes().map(Node::report).collect()
    }

    pub(super) fn pools(&self) -> impl Iterator<Item = PoolUse> {
        self.nodes().map(|node| PoolUse::of(&node.name, &node.pool))
    }

    pub(super) async fn close(&self) {
        for node in self.nodes() {
            node.pool.close().await;
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    async fn look_after(&self, index: usize) {
        let Some(node) = self.nodes().nth(index) else { return };
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            ticks.tick().await;
            let seen = timeout(LOOK_WITHIN, look(&node.options, &mut connection)).await;
            let health = match seen {
                Ok(Ok(seen)) if index == 0 => self.judge_primary(seen),
                Ok(Ok(seen)) => self.judge_replica(seen),
                Ok(Err(_)) | Err(_) => {
                    connection = None;
                    Health { state: ServerState::Away, ..node.health() }
                }
            };
            node.set(health);
        }
    }

    fn judge_primary(&self, Seen { in_recovery, position, .. }: Seen) -> Health {
        if in_recovery {
            return Health { state: ServerState::WrongRole, ..Health::UNKNOWN };
        }
        held(&self.history).note(Instant::now(), position);
        Health { state: ServerState::Up, replayed: position, lag: Some(Duration::ZERO) }
    }

    /// A replica that was made a primary goes its own way from there.
    ///
    /// One that is told nothing by a primary that is up may be a primary of before: its positions are on a way of its own.
    fn judge_replica(&self, Seen { in_recovery, position, is_fed }: Seen) -> Health {
        if !in_recovery {
            return Health { state: ServerState::WrongRole, ..Health::UNKNOWN };
        }
        let lag = held(&self.history).lag(position);
        let fresh = lag.is_some_and(|lag| lag <= self.max_lag) && (is_fed || !self.primary.is_up());
        let state = if fresh { ServerState::Up } else { ServerState::Lagging };
        Health { state, replayed: position, lag }
    }
}

impl Health {
    const UNKNOWN: Self = Self { state: ServerState::Away, replayed: Position::START, lag: None };
}

impl Node {
    fn primary(server: &Server, settings: &Settings) -> Self {
        let health = Health { state: ServerState::Up, ..Health::UNKNOWN };
        Self {
            name: "primary".to_owned(),
            pool: to_primary(server, settings.read_connections, settings),
            options: server.options(),
            health: Arc::new(Mutex::new(health)),
        }
    }

    fn replica(name: String, server: &Server, settings: &Settings) -> Self {
        let health = Arc::new(Mutex::new(Health::UNKNOWN));
        let pool = to_replica(server, settings, health.clone());
        Self { name, pool, options: server.options(), health }
    }

    /// Whether the server was there when it was last looked at.
    pub(super) fn is_up(&self) -> bool {
        self.health().state == ServerState::Up
    }

    /// Takes the word of a request that the server is away, until it is looked at again. A server that is busy, or
    /// that broke a read off because it has to replay a change, is not.
    pub(super) fn failed(&self, error: sqlx::Error) {
        if matches!(StoreError::from(error), StoreError::Away(_)) {
            self.set(Health { state: ServerState::Away, ..self.health() });
        }
    }

    fn health(&self) -> Health {
        *held(&self.health)
    }

    fn set(&self, health: Health) {
        let before = std::mem::replace(&mut *held(&self.health), health);
        if before.state != health.state {
            let (server, was, is) = (&self.name, before.state.word(), health.state.word());
            if health.state == ServerState::Up {
                tracing::info!(server, was, is, "a server of the database changed");
            } else {
                tracing::warn!(server, was, is, "a server of the database changed");
            }
        }
    }

    fn report(&self) -> ServerReport {
        let Health { state, lag, .. } = self.health();
        ServerReport { name: self.name.clone(), state, lag }
    }
}

/// Nothing that is held here can be left half changed.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a connection may rest inside a transaction before the server ends it: its process is stuck or gone, and
/// what it has locked is wanted.
const IDLE_IN_TRANSACTION: &str = "30s";

/// A pool whose connections all lead to a server that writes, whoever answers at its address by now.
pub(super) fn to_primary(server: &Server, size: u32, settings: &Settings) -> PgPool {
    let pool = pool(size, settings.patience).after_connect(|connection, _| {
        Box::pin(async move {
            let Seen { in_recovery, .. } = ask(connection).await?;
            if in_recovery { Err(not_any_more("the primary follows another server")) } else { Ok(()) }
        })
    });
    pool.connect_lazy_with(bounded(server, settings))
}

/// A pool whose connections all lead to a server that has what it was found to have: after a crash it may have less.
fn to_replica(server: &Server, settings: &Settings, health: Arc<Mutex<Health>>) -> PgPool {
    let pool = pool(settings.read_connections, REPLICA_PATIENCE).after_connect(move |connection, _| {
        let replayed = held(&health).replayed;
        Box::pin(async move {
            let Seen { position, .. } = ask(connection).await?;
            if position < replayed { Err(not_any_more("the replica has less than before")) } else { Ok(()) }
        })
    });
    pool.connect_lazy_with(bounded(server, settings).options([("default_transaction_read_only", "on")]))
}

/// Longest wait for a connection to a replica: there are other servers to ask.
const REPLICA_PATIENCE: Duration = Duration::from_millis(500);

fn pool(size: u32, patience: Duration) -> PgPoolOptions {
    let pool = PgPoolOptions::new().max_connections(size).min_connections(1);
    let pool = pool.acquire_timeout(patience).test_before_acquire(false);
    // A server that is lost without a farewell answers nothing, and is not to keep who waits, or a place in the pool.
    let pool = pool.before_acquire(|connection, PoolConnectionMetadata { idle_for, .. }| {
        Box::pin(async move {
            if idle_for > TRUSTED {
                answers(connection).await?;
            }
            Ok(true)
        })
    });
    pool.after_release(|connection, _| Box::pin(async move { answers(connection).await.map(|()| true) }))
}

/// For how long a connection is taken to be there since it was last used.
const TRUSTED: Duration = Duration::from_secs(1);

/// Longest wait for the word that it is.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

async fn answers(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match timeout(ANSWERS_WITHIN, connection.ping()).await {
        Ok(answered) => answered,
        Err(_) => Err(not_any_more("the server does not answer")),
    }
}

fn bounded(server: &Server, settings: &Settings) -> PgConnectOptions {
    server.options().options([
        ("statement_timeout", settings.statement_timeout.as_millis().to_string()),
        ("lock_timeout", settings.patience.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION.to_owned()),
    ])
}

fn not_any_more(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, what))
}

/// What a server says of itself.
struct Seen {
    in_recovery: bool,
    position: Position,
    /// Whether another server sends it changes.
    is_fed: bool,
}

const LOOK: &str = "SELECT pg_is_in_recovery(), (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                    ELSE pg_current_wal_insert_lsn() END)::text, EXISTS (SELECT FROM pg_stat_wal_receiver)";

async fn look(
    options: &PgConnectOptions,
    connection: &mut Option<PgConnection>,
) -> Result<Seen, sqlx::Error> {
    // A connection that broke says nothing of a server that may have started anew since.
    if let Some(mut open) = connection.take()
        && let Ok(seen) = ask(&mut open).await
    {
        *connection = Some(open);
        return Ok(seen);
    }
    let mut open = options.connect().await?;
    let seen = ask(&mut open).await?;
    *connection = Some(open);
    Ok(seen)
}

async fn ask(connection: &mut PgConnection) -> Result<Seen, sqlx::Error> {
    let (in_recovery, position, is_fed): (bool, Option<String>, bool) =
        sqlx::query_as(LOOK).fetch_one(connection).await?;
    let position = position.as_deref().and_then(Position::parse).unwrap_or(Position::START);
    Ok(Seen { in_recovery, position, is_fed })
}
