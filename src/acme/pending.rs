//! What is between two certificates of a host: an order under way, and tries that failed.
//!
//! It is stored, so that it outlives a restart and is the same for all nodes of a fleet: neither is a reason to ask the
//! authority more often than it allows, and whoever holds the lock goes on where another one has died.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::store::{Record, Store, StoreError};
use super::when::{self, Kind};

/// The version of what is stored. Another one is not read: the host begins anew.
const VERSION: u32 = 1;

/// What is between two certificates of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    version: u32,
    /// The order under way.
    pub(super) order: Option<Draft>,
    /// How often in a row the authority said no.
    pub(super) refusals: u32,
    /// How often in a row it could not be asked.
    outages: u32,
    /// There is no try before this, in seconds of Unix time.
    not_before: u64,
}

/// An order, and the key that its certificate will be for. Written down before the order is made final: the certificate
/// can be fetched with it at any time later.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Draft {
    /// Where the authority has it.
    pub(super) url: String,
    /// The private key, in PEM.
    pub(super) key: String,
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Pending {
    /// Nothing has happened.
    fn none() -> Self {
        Self { version: VERSION, order: None, refusals: 0, outages: 0, not_before: 0 }
    }

    /// What is stored of a host.
    pub(super) async fn read(store: &Store, host: &str) -> Result<Self, StoreError> {
        let text = store.read(Record::Pending(host)).await?;
        let stored = text.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        Ok(stored.filter(|stored| stored.version == VERSION).unwrap_or_else(Self::none))
    }

    /// Stores it.
    pub(super) async fn write(&self, store: &Store, host: &str) -> Result<(), StoreError> {
        // Numbers and texts: there is nothing in it that cannot be written.
        let text = serde_json::to_vec(self).unwrap_or_default();
        store.write(Record::Pending(host), text).await
    }

    /// Before when there is no try.
    pub(super) fn not_before(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_before)
    }

    /// Notes a try that failed at this time. What an earlier refusal asks for stays asked for.
    pub(super) fn failed(&mut self, kind: Kind, now: SystemTime) {
        let count = match kind {
            Kind::Passing => &mut self.outages,
            Kind::Refused | Kind::TooMany => {
                self.outages = 0;
                &mut self.refusals
            }
        };
        *count = count.saturating_add(1);
        let next = now + when::pause(kind, *count);
        let next = next.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.not_before = self.not_before.max(next.as_secs() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_takes_nothing_from_the_pause_after_a_refusal() {
        let mut pending = Pending::none();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let wait = |pending: &Pending| pending.not_before().duration_since(now).unwrap();
        pending.failed(Kind::Refused, now);
        let refused = wait(&pending);
        assert!(refused > Duration::from_secs(140), "{refused:?}");
        pending.failed(Kind::Passing, now);
        assert_eq!(wait(&pending), refused);
        assert_eq!((pending.refusals, pending.outages), (1, 1));
        pending.failed(Kind::Refused, now);
        assert!(wait(&pending) > Duration::from_secs(280));
        assert_eq!((pending.refusals, pending.outages), (2, 0));
    }

    #[test]
    fn the_key_of_an_order_is_not_printed() {
        let draft = Draft { url: "https://ca.test/1".to_owned(), key: "s3cret".to_owned() };
        assert!(!format!("{draft:?}").contains("s3cret"));
    }
}
