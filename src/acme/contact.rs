//! Whom the authority writes to: an account that is stored keeps its contact until the authority is told another.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;
use super::account;
use super::order::Failure;
use super::store::{LAPSES, Store};
use super::when::{self, Kind};

/// How often it is looked whether another node that orders has finished.
const POLL: Duration = Duration::from_secs(2);

/// What is left to be told.
pub(super) struct Contact {
    /// When to try; nothing once it is told.
    next: Option<Instant>,
    /// How often in a row it came to nothing.
    failures: u32,
}

impl Contact {
    /// Nobody knows yet what the authority was told.
    pub(super) fn new() -> Self {
        Self { next: Some(Instant::now()), failures: 0 }
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Has the authority told, if it is time.
    pub(super) async fn keep(&mut self, settings: &Settings, store: &Store) {
        if self.next.is_none_or(|next| next > Instant::now()) {
            return;
        }
        self.next = match tell(settings, store).await {
            Ok(true) => None,
            Ok(false) => Some(Instant::now() + POLL),
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures == 1 {
                    tracing::warn!(reason = %failure, "the authority was not told whom to write to; it is tried again");
                }
                // No certificate waits for it: no more often than after a refusal.
                Some(Instant::now() + when::pause(Kind::Refused, self.failures))
            }
        };
    }
}

/// Whether that is done; not while another one orders, and may be making the account.
async fn tell(settings: &Settings, store: &Store) -> Result<bool, Failure> {
    if account::knows_contact(settings, store).await? {
        return Ok(true);
    }
    let Some(lock) = store.lock(LAPSES).await? else { return Ok(false) };
    let told = account::keep_contact(settings, store).await;
    lock.release().await;
    told.map(|()| true)
}
