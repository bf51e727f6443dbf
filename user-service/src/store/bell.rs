//! What wakes those who wait for events. It may ring for nothing, and it may be late, but not by more than a moment.

use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How often a file is looked at, which other processes may have written to.
const LOOK_AT_FILE: Duration = Duration::from_millis(250);

/// How often a server is looked at whose word may have been lost.
const LOOK_AT_SERVER: Duration = Duration::from_secs(1);

/// After how long without a word it is asked for one.
const SILENCE: Duration = Duration::from_secs(30);

/// The channel of PostgreSQL that is notified.
const CHANNEL: &str = "user_events";

/// Rings when there may be new events.
pub struct Bell(Ring);

enum Ring {
    File(watch::Receiver<()>),
    Server { pool: PgPool, name: String, listener: Option<Box<PgListener>>, heard: Instant },
}

impl Bell {
    /// Of a file that this process writes to.
    pub(super) fn of_file(written: watch::Receiver<()>) -> Self {
        Self(Ring::File(written))
    }

    /// Of a server. Keeps one connection of the pool. What this instance says by its name is no news to it.
    pub(super) fn of_server(pool: PgPool, name: String) -> Self {
        Self(Ring::Server { pool, name, listener: None, heard: Instant::now() })
    }

    /// Waits until it rings.
    pub async fn rings(&mut self) {
        match &mut self.0 {
            Ring::File(written) => {
                // The sender lives in the store, which whoever holds a bell has.
                let _ = timeout(LOOK_AT_FILE, written.changed()).await;
            }
            Ring::Server { pool, name, listener, heard } => {
                if timeout(LOOK_AT_SERVER, hear(pool, name, listener)).await.is_ok() {
                    *heard = Instant::now();
                } else if heard.elapsed() > SILENCE {
                    *heard = Instant::now();
                    leave_if_lost(listener).await;
                }
            }
        }
    }
}

/// Waits for a word of the server; for ever if it is away, since whoever waits looks at the clock as well.
async fn hear(pool: &PgPool, own: &str, kept: &mut Option<Box<PgListener>>) {
    if let Some(listener) = kept {
        while let Ok(word) = listener.recv().await {
            let rest = std::iter::from_fn(|| listener.next_buffered());
            if rest.chain([word]).filter(|word| word.payload() != own).count() > 0 {
                return;
            }
        }
        *kept = None;
    }
    if let Ok(listener) = listen(pool).await {
        // What was said before we listened is unheard: look at once.
        *kept = Some(Box::new(listener));
        return;
    }
    sleep(LOOK_AT_SERVER).await;
}

/// Lets go of a listener that does not answer: its server may be lost without a farewell.
async fn leave_if_lost(kept: &mut Option<Box<PgListener>>) {
    if let Some(listener) = kept
        && !matches!(timeout(LOOK_AT_SERVER, listener.execute("SELECT 1")).await, Ok(Ok(_)))
    {
        *kept = None;
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
