//! A primary and its replicas: who is there, how far each is, and whom to ask.
//!
//! Each server is looked at five times a second over a connection of its own. What a read may rely on is always
//! something that was true: a replica has at least replayed what it said it had.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::lag::History;
use super::location::Server;
use super::pools::{Doubt, to_primary, to_replica};
use super::seen::Position;
use super::{PoolUse, ServerReport, ServerState, Settings, StoreError};

/// How often each server is looked at: what a reader may wait for its own write to be seen at a replica.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest time for one look, after which a server counts as away. Generous, since a primary that is merely slow must
/// not be given up; requests find out sooner that a replica hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// Time for one look, after which it is doubted that the server is there. Less than any request waits.
const DOUBTED_AFTER: Duration = Duration::from_millis(500);

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
    doubt: Arc<Doubt>,
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
            let seen = node.in_time(look(&node.options, &mut connection)).await;
            let health = match seen {
                Some(seen) if index == 0 => self.judge_primary(seen),
                Some(seen) => self.judge_replica(seen),
                None => {
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
        let doubt = Arc::default();
        Self {
            name: "primary".to_owned(),
            pool: to_primary(server, settings.read_connections, settings, &doubt),
            options: server.options(),
            health: Arc::new(Mutex::new(health)),
            doubt,
        }
    }

    fn replica(name: String, server: &Server, settings: &Settings) -> Self {
        let health = Arc::new(Mutex::new(Health::UNKNOWN));
        let (found, doubt) = (health.clone(), Arc::default());
        let pool = to_replica(server, settings, &doubt, move || held(&found).replayed);
        Self { name, pool, options: server.options(), health, doubt }
    }

    /// Further connections to it, which only one that writes has.
    pub(super) fn more(&self, server: &Server, size: u32, settings: &Settings) -> PgPool {
        to_primary(server, size, settings, &self.doubt)
    }

    /// What comes of a look. One that is late raises doubt, and is waited for all the same.
    async fn in_time(&self, look: impl Future<Output = Result<Seen, sqlx::Error>>) -> Option<Seen> {
        let mut look = pin!(look);
        if let Ok(seen) = timeout(DOUBTED_AFTER, &mut look).await {
            return seen.ok();
        }
        self.doubt.raise();
        timeout(LOOK_WITHIN.saturating_sub(DOUBTED_AFTER), look).await.ok()?.ok()
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
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server says of itself.
pub(super) struct Seen {
    pub(super) in_recovery: bool,
    pub(super) position: Position,
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

pub(super) async fn ask(connection: &mut PgConnection) -> Result<Seen, sqlx::Error> {
    let (in_recovery, position, is_fed): (bool, Option<String>, bool) =
        sqlx::query_as(LOOK).fetch_one(connection).await?;
    let position = position.as_deref().and_then(Position::parse).unwrap_or(Position::START);
    Ok(Seen { in_recovery, position, is_fed })
}
