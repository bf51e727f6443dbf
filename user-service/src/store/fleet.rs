//! A primary and its replicas: who is there, how far each is, and whom to ask.
//!
//! Each server is looked at five times a second over a connection of its own. What a read may rely on is always
//! something that was true: a replica has at least replayed what it said it had.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::lag::History;
use super::seen::Position;
use super::{PoolUse, ServerReport, ServerState};

/// How often each server is looked at: what a reader may wait for its own write to be seen at a replica.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest time for one look, after which a server counts as away.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

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
    name: String,
    pub(super) pool: PgPool,
    options: PgConnectOptions,
    health: Mutex<Health>,
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
    pub(super) fn new(primary: Node, replicas: Vec<Node>, max_lag: Duration) -> Self {
        primary.set(Health { state: ServerState::Up, ..Health::UNKNOWN });
        Self { primary, replicas, history: Mutex::default(), max_lag, turn: AtomicUsize::new(0) }
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

    fn judge_primary(&self, Seen { in_recovery, position }: Seen) -> Health {
        if in_recovery {
            return Health { state: ServerState::WrongRole, ..Health::UNKNOWN };
        }
        self.history().note(Instant::now(), position);
        Health { state: ServerState::Up, replayed: position, lag: Some(Duration::ZERO) }
    }

    /// A replica that was made a primary goes its own way from there.
    fn judge_replica(&self, Seen { in_recovery, position }: Seen) -> Health {
        if !in_recovery {
            return Health { state: ServerState::WrongRole, ..Health::UNKNOWN };
        }
        let lag = self.history().lag(position);
        let fresh = lag.is_some_and(|lag| lag <= self.max_lag);
        let state = if fresh { ServerState::Up } else { ServerState::Lagging };
        Health { state, replayed: position, lag }
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    const UNKNOWN: Self = Self { state: ServerState::Away, replayed: Position::START, lag: None };
}

impl Node {
    /// A server of this name, with these connections to read from it.
    pub(super) fn new(name: String, pool: PgPool, options: PgConnectOptions) -> Self {
        Self { name, pool, options, health: Mutex::new(Health::UNKNOWN) }
    }

    /// Whether the server was there when it was last looked at.
    pub(super) fn is_up(&self) -> bool {
        self.health().state == ServerState::Up
    }

    /// Takes the word of a request that the server is away, until it is looked at again.
    pub(super) fn failed(&self) {
        self.set(Health { state: ServerState::Away, ..self.health() });
    }

    fn health(&self) -> Health {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, health: Health) {
        let before = std::mem::replace(&mut *self.health.lock().unwrap_or_else(PoisonError::into_inner), health);
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

/// What a server says of itself.
struct Seen {
    in_recovery: bool,
    position: Position,
}

const LOOK: &str = "SELECT pg_is_in_recovery(), (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                    ELSE pg_current_wal_insert_lsn() END)::text";

async fn look(
    options: &PgConnectOptions,
    connection: &mut Option<PgConnection>,
) -> Result<Seen, sqlx::Error> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => options.connect().await?,
    };
    let (in_recovery, position): (bool, Option<String>) = sqlx::query_as(LOOK).fetch_one(&mut open).await?;
    *connection = Some(open);
    let position = position.as_deref().and_then(Position::parse).unwrap_or(Position::START);
    Ok(Seen { in_recovery, position })
}
