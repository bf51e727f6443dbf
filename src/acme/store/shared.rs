//! Records in the fleet's Redis, and a lock there.
//!
//! | key | holds |
//! |---|---|
//! | `PREFIX:acme:AUTHORITY:NAME` | a record; it has no time to live |
//! | `PREFIX:acme:AUTHORITY:version` | another value after each certificate that was stored |
//! | `PREFIX:acme:AUTHORITY:lock` | the token of the node that orders, for as long as it says that it lives |
//!
//! Whoever may read this Redis may read the private keys in it.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Record, StoreError};
use crate::redis::{Redis, Script, Value, cmd};

/// How many times a node that lives says so before its lock would lapse.
const SAID: u32 = 3;

/// `KEYS[1]` the lock, `ARGV` the token and the time to live: 1 while the token has it.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

/// The same to give it back.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])",
    )
});

/// Records of one authority.
pub(in crate::acme) struct Shared {
    redis: Redis,
    prefix: String,
}

impl Shared {
    pub(super) fn new(redis: Redis, authority: &str) -> Self {
        let prefix = format!("{}:acme:{authority}", redis.prefix());
        Self { redis, prefix }
    }

    pub(super) fn key(&self, record: Record<'_>) -> String {
        format!("{}:{record}", self.prefix)
    }

    pub(super) async fn read(&self, record: Record<'_>) -> Result<Option<Vec<u8>>, StoreError> {
        let mut get = cmd("GET");
        get.arg(self.key(record));
        Ok(self.redis.call("acme record", &get).await?)
    }

    /// Writes it, or only where there is none.
    pub(super) async fn write(
        &self,
        record: Record<'_>,
        value: &[u8],
        absent: bool,
    ) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(self.key(record)).arg(value);
        if absent {
            set.arg("NX");
        }
        self.redis.call_sized::<Value>("acme record", &set, value.len() as u64).await?;
        if let Record::Certificate(_) = record {
            self.tell().await;
        }
        Ok(())
    }

    /// Has the others look. It comes after what it tells of, and is no part of it: those that do not hear look by
    /// themselves, only later.
    async fn tell(&self) {
        let mut set = cmd("SET");
        set.arg(self.key(Record::Version)).arg(format!("{:016x}", fastrand::u64(..)));
        if let Err(error) = self.redis.call::<Value>("acme record", &set).await {
            tracing::debug!(%error, "the other nodes are not told of a certificate");
        }
    }

    pub(super) async fn remove(&self, record: Record<'_>) -> Result<(), StoreError> {
        let mut del = cmd("DEL");
        del.arg(self.key(record));
        Ok(self.redis.call("acme record", &del).await?)
    }

    pub(super) async fn lock(&self, lapses: Duration) -> Result<Option<Lock>, StoreError> {
        let lock = Lock {
            lapses,
            redis: self.redis.clone(),
            key: format!("{}:lock", self.prefix),
            token: uuid::Uuid::now_v7().to_string(),
        };
        let mut set = cmd("SET");
        set.arg(&lock.key).arg(&lock.token).arg("NX").arg("PX").arg(millis(lapses));
        let taken: Option<String> = self.redis.call("acme lock", &set).await?;
        Ok(taken.map(|_| lock))
    }
}

/// The lock, held.
pub(in crate::acme) struct Lock {
    redis: Redis,
    key: String,
    token: String,
    /// How long it outlives a node that has died.
    lapses: Duration,
}

impl Lock {
    /// Says again and again that this node lives; returns when another may have the lock.
    pub(super) async fn lost(&self) {
        let mut held_until = Instant::now() + self.lapses;
        while Instant::now() < held_until {
            sleep(self.lapses / SAID).await;
            let asked = Instant::now();
            let lapses = millis(self.lapses).to_string();
            let args: &[&[u8]] = &[self.token.as_bytes(), lapses.as_bytes()];
            match self.redis.script("acme lock", &RENEW, &[&self.key], args).await {
                Ok(Value::Int(1)) => held_until = asked + self.lapses,
                Ok(_) => return,
                // It may come back before the lock lapses.
                Err(_) => {}
            }
        }
    }

    pub(super) async fn release(self) {
        // Where Redis is away the lock lapses.
        let _ = self.redis.script("acme lock", &RELEASE, &[&self.key], &[self.token.as_bytes()]).await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::LAPSES;
    use super::*;
    use crate::boot::fleet::tests::address_at;
    use crate::redis::{Counters, Settings};
    use crate::redis_server::Redis as Server;

    fn shared(server: &Server) -> Shared {
        let settings = Settings {
            address: address_at(&server.url()),
            ca: None,
            patience: Duration::from_secs(10),
            prefix: "tg".to_owned(),
        };
        Shared::new(Redis::new(settings, Counters::unread()), "ca")
    }

    #[tokio::test]
    async fn records_are_written_read_restored_only_where_absent_and_removed() {
        let server = Server::start().await;
        let shared = shared(&server);
        let record = Record::Certificate("a.test");
        assert_eq!(shared.read(record).await.unwrap(), None);
        shared.write(record, b"one", true).await.unwrap();
        shared.write(record, b"two", true).await.unwrap();
        assert_eq!(shared.read(record).await.unwrap().unwrap(), b"one");
        let version = async || shared.read(Record::Version).await.unwrap().unwrap();
        let before = version().await;
        shared.write(Record::Account, b"{}", false).await.unwrap();
        assert_eq!(version().await, before, "nobody needs to look");
        shared.write(record, b"two", false).await.unwrap();
        assert_ne!(version().await, before);
        assert_eq!(shared.read(record).await.unwrap().unwrap(), b"two");
        shared.remove(record).await.unwrap();
        assert_eq!(shared.read(record).await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_node_has_the_lock_until_it_gives_it_back_or_another_has_it() {
        let server = Server::start().await;
        let (one, other) = (shared(&server), shared(&server));
        let held = one.lock(LAPSES).await.unwrap().unwrap();
        assert!(other.lock(LAPSES).await.unwrap().is_none());
        held.release().await;
        let held = other.lock(LAPSES).await.unwrap().unwrap();

        // As after a pause in which it lapsed: the one before must notice, and must not take the lock from another.
        server.cli(&["DEL", &held.key]);
        let another = one.lock(LAPSES).await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(30), held.lost()).await.unwrap();
        held.release().await;
        assert!(other.lock(LAPSES).await.unwrap().is_none());
        another.release().await;
        assert!(other.lock(LAPSES).await.unwrap().is_some());
    }
}
