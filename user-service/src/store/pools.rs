//! Connections to the servers of a database, which end when their server is another one than it was, or is lost.
//!
//! A server that is lost without a farewell answers nothing for as long as the kernel hopes, a quarter of an hour. So that none of its
//! connections keeps who waits, or a place in the pool, they are asked whether they are there: before they are used after a rest, and,
//! as that costs a tenth of a query, when they are given back while there is [`Doubt`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::time::timeout;

use super::Settings;
use super::fleet::{Seen, ask, held};
use super::location::Server;
use super::seen::Position;

/// How long a connection may rest inside a transaction before the server ends it: its process is stuck or gone, and
/// what it has locked is wanted.
const IDLE_IN_TRANSACTION: &str = "30s";

/// A pool whose connections all lead to a server that writes, whoever answers at its address by now.
pub(super) fn to_primary(server: &Server, size: u32, settings: &Settings, doubt: &Arc<Doubt>) -> PgPool {
    let pool = pool(size, settings.patience, doubt.clone()).after_connect(|connection, _| {
        Box::pin(async move {
            let Seen { in_recovery, .. } = ask(connection).await?;
            if in_recovery { Err(not_any_more("the primary follows another server")) } else { Ok(()) }
        })
    });
    pool.connect_lazy_with(bounded(server, settings))
}

/// A pool whose connections all lead to a server that has what it was found to have: after a crash it may have less.
pub(super) fn to_replica(
    server: &Server,
    settings: &Settings,
    doubt: &Arc<Doubt>,
    replayed: impl Fn() -> Position + Send + Sync + 'static,
) -> PgPool {
    let pool = pool(settings.read_connections, REPLICA_PATIENCE, doubt.clone());
    let pool = pool.after_connect(move |connection, _| {
        let replayed = replayed();
        Box::pin(async move {
            let Seen { position, .. } = ask(connection).await?;
            if position < replayed { Err(not_any_more("the replica has less than before")) } else { Ok(()) }
        })
    });
    pool.connect_lazy_with(bounded(server, settings).options([("default_transaction_read_only", "on")]))
}

/// Longest wait for a connection to a replica: there are other servers to ask.
const REPLICA_PATIENCE: Duration = Duration::from_millis(500);

fn pool(size: u32, patience: Duration, doubt: Arc<Doubt>) -> PgPoolOptions {
    let pool = PgPoolOptions::new().max_connections(size).min_connections(1);
    let pool = pool.acquire_timeout(patience).test_before_acquire(false);
    let pool = pool.before_acquire(|connection, PoolConnectionMetadata { idle_for, .. }| {
        Box::pin(async move {
            if idle_for > TRUSTED {
                answers(connection, TAKEN_WITHIN).await?;
            }
            Ok(true)
        })
    });
    // The pool asks as well, and waits for ever, with the place taken.
    pool.after_release(move |connection, _| {
        let is_raised = doubt.is_raised();
        Box::pin(async move {
            if is_raised {
                answers(connection, RELEASED_WITHIN).await?;
            }
            Ok(true)
        })
    })
}

/// For how long a connection is taken to be there since it was last used.
const TRUSTED: Duration = Duration::from_secs(1);

/// Longest wait for the word that it is, of one that is to be used.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// The same of one that is given back, for which nobody waits.
const RELEASED_WITHIN: Duration = Duration::from_secs(3);

async fn answers(connection: &mut PgConnection, within: Duration) -> Result<(), sqlx::Error> {
    match timeout(within, connection.ping()).await {
        Ok(answered) => answered,
        Err(_) => Err(not_any_more("the server does not answer")),
    }
}

/// Whether a server may have been lost without a farewell, as who looks at it finds.
#[derive(Debug, Default)]
pub(super) struct Doubt(Mutex<Option<Instant>>);

impl Doubt {
    /// A look was not answered in time.
    pub(super) fn raise(&self) {
        *held(&self.0) = Some(Instant::now());
    }

    fn is_raised(&self) -> bool {
        held(&self.0).is_some_and(|raised| raised.elapsed() < LASTS)
    }
}

/// How long it lasts: longer than requests that were under way then.
const LASTS: Duration = Duration::from_secs(120);

fn bounded(server: &Server, settings: &Settings) -> PgConnectOptions {
    server.options().options([
        ("statement_timeout", settings.statement_timeout.as_millis().to_string()),
        ("lock_timeout", settings.patience.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION.to_owned()),
        // What a database's owner may have set as a default is not what is relied on here.
        ("default_transaction_isolation", "read committed".to_owned()),
    ])
}

fn not_any_more(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, what))
}
