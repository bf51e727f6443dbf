//! The pipe to Redis: one handle for all who ask it something, with patience and a breaker.
//!
//! Redis is never on the path of a failure. A call takes as long as the patience at most, and where Redis does not
//! answer, calls are refused at once until it does. Everything else follows from four states:
//!
//! ```text
//! Idle ── first call ──> Connecting ──> Up ── connection broke ──> Connecting
//!                             │          │
//!                             │          └── calls fail ──> Open ── a PING in time ──> Up
//!                             └── cannot be had ────────────┘
//! ```
//!
//! In `Connecting` calls wait for the connection, within their patience; in `Open` they are refused. In both, one task
//! (`keeper`) connects, with growing pauses, and looks up the master or the cluster's nodes each time. A connection
//! that is given up is dropped with all that still waits for answers on it.

pub mod address;
mod away;
mod counters;
#[cfg(test)]
mod garbled;
mod health;
mod keeper;
mod link;
mod own;
mod script;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{FromRedisValue, RedisResult};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

pub use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
pub use redis::{Cmd, Pipeline, PushInfo, PushKind, Value, cmd, pipe};

pub use address::Address;
pub use away::{Away, No};
pub use counters::Counters;
#[cfg(test)]
pub use garbled::garbled;
pub use own::Own;
pub use script::Script;

use health::Health;
use keeper::Door;
use link::Link;

/// How long a call may take unless settings say otherwise.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// As many calls wait for their answers at most; one more is refused.
pub const CALLS_MAX: usize = 1024;

/// How long it may take to find and open a connection.
const OPENING: Duration = Duration::from_secs(3);

/// The slowest transfer that is waited for, in bytes per millisecond: 20 MB/s.
const BYTES_PER_MS: u64 = 20_000;

/// Where Redis is and how it is dealt with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// Certificates in PEM that sign those of the servers, in place of the system's.
    pub ca: Option<Vec<u8>>,
    /// How long a call may take.
    pub patience: Duration,
    /// What all keys and channels begin with.
    pub prefix: String,
}

/// The handle; clones are the same.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    counters: Counters,
    places: Semaphore,
    state: watch::Sender<State>,
    /// Calls that waited for the first connection in vain.
    waits: Health,
    door: Mutex<Door>,
}

/// See the picture above.
enum State {
    Idle,
    Connecting,
    Up(Arc<Live>),
    Open,
}

/// A connection in use.
struct Live {
    link: Link,
    since: Instant,
    health: Health,
}

impl Redis {
    /// A handle. Nothing is connected until the first call.
    pub fn new(settings: Settings, counters: Counters) -> Self {
        if settings.address.tls {
            // The crate takes the process's provider. An error says that there is one, which is as good.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let inner = Inner {
            settings,
            counters,
            places: Semaphore::new(CALLS_MAX),
            state: watch::Sender::new(State::Idle),
            waits: Health::default(),
            door: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What all keys and channels begin with.
    pub fn prefix(&self) -> &str {
        &self.inner.settings.prefix
    }

    /// How long a call may take that carries so many bytes, there or back.
    pub fn patience(&self, bytes: u64) -> Duration {
        self.inner.settings.patience + Duration::from_millis(bytes / BYTES_PER_MS)
    }

    /// Whether calls are refused at present.
    pub fn is_open(&self) -> bool {
        matches!(*self.inner.state.borrow(), State::Open)
    }

    /// Asks one thing; `what` names it in logs.
    pub async fn call<T: FromRedisValue>(&self, what: &'static str, command: &Cmd) -> Result<T, Away> {
        let ask = |mut link| async move { command.query_async(&mut link).await };
        self.run(what, self.patience(0), ask).await
    }

    /// Asks one thing that carries so many bytes, there or back.
    pub async fn call_sized<T: FromRedisValue>(
        &self,
        what: &'static str,
        command: &Cmd,
        bytes: u64,
    ) -> Result<T, Away> {
        let ask = |mut link| async move { command.query_async(&mut link).await };
        self.run(what, self.patience(bytes), ask).await
    }

    /// Asks several things at once, whose keys lie in one slot and which carry so many bytes.
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        what: &'static str,
        commands: &Pipeline,
        bytes: u64,
    ) -> Result<T, Away> {
        let ask = |mut link| async move { commands.query_async(&mut link).await };
        self.run(what, self.patience(bytes), ask).await
    }

    /// Runs a script, whose keys lie in one slot.
    pub async fn script(
        &self,
        what: &'static str,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, Away> {
        let bytes = args.iter().map(|arg| arg.len() as u64).sum();
        let ask = |mut link| async move { script.run(&mut link, keys, args).await };
        self.run(what, self.patience(bytes), ask).await
    }

    async fn run<T, A>(
        &self,
        what: &'static str,
        patience: Duration,
        ask: impl FnOnce(Link) -> A,
    ) -> Result<T, Away>
    where
        A: Future<Output = RedisResult<T>>,
    {
        let began = Instant::now();
        let outcome = self.ask(what, began + patience, ask).await;
        self.inner.counters.count(began.elapsed(), outcome.as_ref().err().copied());
        outcome
    }

    async fn ask<T, A>(
        &self,
        what: &'static str,
        deadline: Instant,
        ask: impl FnOnce(Link) -> A,
    ) -> Result<T, Away>
    where
        A: Future<Output = RedisResult<T>>,
    {
        let _place = self.inner.places.try_acquire().map_err(|_| Away::Busy)?;
        let live = self.live(deadline).await?;
        let away = match timeout_at(deadline, ask(live.link.clone())).await {
            Ok(Ok(answer)) => {
                live.health.well();
                return Ok(answer);
            }
            Ok(Err(error)) => {
                tracing::debug!(what, %error, "redis did not answer a call");
                Away::of(&error)
            }
            Err(_) => Away::Late,
        };
        self.inner.failed(what, &live, away);
        Err(away)
    }

    /// The connection; waits for it where it is being made.
    async fn live(&self, deadline: Instant) -> Result<Arc<Live>, Away> {
        let settled = |state: &State| match state {
            State::Up(live) => Some(Ok(Arc::clone(live))),
            State::Open => Some(Err(Away::Open)),
            State::Idle | State::Connecting => None,
        };
        if let Some(settled) = settled(&self.inner.state.borrow()) {
            return settled;
        }
        self.inner.begin();
        let mut states = self.inner.state.subscribe();
        let waited = timeout_at(deadline, states.wait_for(|state| settled(state).is_some())).await;
        if let Ok(Ok(state)) = waited {
            return settled(&state).unwrap_or(Err(Away::Open));
        }
        self.inner.waited_in_vain();
        Err(Away::Late)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("address", &self.inner.settings.address).finish_non_exhaustive()
    }
}
