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
    /// Takes room in the storage that a certificate will need.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    room: String,
}

/// Bytes of a key and a chain, and some more.
const ROOM: usize = 16 << 10;

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
        Self { version: VERSION, order: None, refusals: 0, outages: 0, not_before: 0, room: String::new() }
    }

    /// What is stored of a host.
    pub(super) async fn read(store: &Store, host: &str) -> Result<Self, StoreError> {
        let text = store.read(Record::Pending(host)).await?;
        let stored = text.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        let stored = stored.filter(|stored| stored.version == VERSION);
        Ok(stored.map_or_else(Self::none, |stored| Self { room: String::new(), ..stored }))
    }

    /// Stores it.
    pub(super) async fn write(&self, store: &Store, host: &str) -> Result<(), StoreError> {
        // Numbers and texts: there is nothing in it that cannot be written.
        let text = serde_json::to_vec(self).unwrap_or_default();
        store.write(Record::Pending(host), text).await
    }

    /// Stores it along with room for a certificate, which the next that is stored of this host gives free.
    pub(super) async fn reserve(&self, store: &Store, host: &str) -> Result<(), StoreError> {
        Self { room: " ".repeat(ROOM), ..self.clone() }.write(store, host).await
    }

    /// Before when there is no try.
    pub(super) fn not_before(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_before)
    }

    /// Notes a try that failed at this time. What an earlier refusal asks for stays asked for. `life` is that of the
    /// certificate to be renewed, if there is one: it is to be tried some times before that ends.
    pub(super) fn failed(&mut self, kind: Kind, now: SystemTime, life: Option<Duration>) {
        let count = match kind {
            Kind::Passing => &mut self.outages,
            Kind::Refused | Kind::TooMany => {
                self.outages = 0;
                &mut self.refusals
            }
        };
        *count = count.saturating_add(1);
        let pause = when::pause(kind, *count);
        let next = now + life.map_or(pause, |life| pause.min(when::longest(life)));
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
        pending.failed(Kind::Refused, now, None);
        let refused = wait(&pending);
        assert!(refused > Duration::from_secs(140), "{refused:?}");
        pending.failed(Kind::Passing, now, None);
        assert_eq!(wait(&pending), refused);
        assert_eq!((pending.refusals, pending.outages), (1, 1));
        pending.failed(Kind::Refused, now, None);
        assert!(wait(&pending) > Duration::from_secs(280));
        assert_eq!((pending.refusals, pending.outages), (2, 0));
    }

    #[test]
    fn a_certificate_of_minutes_is_tried_for_again_before_it_ends() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let minute = Duration::from_secs(60);
        for (life, longest) in [(minute, minute / 12), (10 * minute, 10 * minute / 12)] {
            let mut pending = Pending::none();
            for _ in 0..10 {
                pending.failed(Kind::TooMany, now, Some(life));
            }
            let wait = pending.not_before().duration_since(now).unwrap();
            assert!(wait <= longest + Duration::from_secs(1), "{wait:?} of {life:?}");
        }
        let mut pending = Pending::none();
        pending.failed(Kind::Refused, now, Some(90 * 24 * 60 * minute));
        assert!(pending.not_before() > now + 2 * minute, "as ever");
    }

    #[test]
    fn the_key_of_an_order_is_not_printed() {
        let draft = Draft { url: "https://ca.test/1".to_owned(), key: "s3cret".to_owned() };
        assert!(!format!("{draft:?}").contains("s3cret"));
    }
}
