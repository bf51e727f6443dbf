//! Tokens that were taken back on any node, told by way of Redis.
//!
//! Redis has a log (a stream), of which each node reads what is new, twice a second. What a node has read stays with it while Redis is
//! away, and until the token would have ended by itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::time::sleep;

use crate::redis::{Away, Redis, Script, StreamId, StreamRangeReply, Value, cmd};

/// How often a node reads what is new.
const EVERY: Duration = Duration::from_millis(500);

/// So many entries are read at once, and about so many are kept: the oldest go first.
const TOGETHER: usize = 1000;
const KEPT: &str = "1000000";

/// The longest that a token can be taken back for: it must have ended by then.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// The longest name of a token, in bytes.
pub const NAME_BYTES: usize = 1024;

/// Tokens that were taken back. Outlives every plan; clones are the same. Until [`TakenBack::join`] there are none.
#[derive(Clone, Default)]
pub struct TakenBack(Arc<Inner>);

#[derive(Default)]
struct Inner {
    redis: OnceLock<Redis>,
    /// Whether any provider asks.
    wanted: AtomicBool,
    names: ArcSwap<Names>,
}

/// Until when tokens would have been good, in seconds since 1970: by provider and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names(HashMap<Box<str>, HashMap<Box<str>, u64>>);

/// Puts an entry into the log. `KEYS[1]` the log; `ARGV` about how many are kept, the provider, the name of the token, and until when it would have
/// been good.
static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
return redis.call('XADD', KEYS[1], '*', 'p', ARGV[2], 'j', ARGV[3], 'u', ARGV[4])
",
    )
});

impl TakenBack {
    /// Reads of it from this Redis, once it is [kept](Self::keep).
    pub fn join(&self, redis: Redis) {
        // A process joins once.
        let _ = self.0.redis.set(redis);
    }

    /// A provider asks from now on.
    pub fn want(&self) {
        self.0.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether the token of this name, by this provider, was taken back.
    pub(super) fn has(&self, provider: &str, name: &str) -> bool {
        let names = self.0.names.load();
        names.0.get(provider).is_some_and(|names| names.contains_key(name))
    }

    /// Reads what is new for as long as the process lives.
    pub async fn keep(self) {
        let Some(redis) = self.0.redis.get() else { return };
        let mut last = None;
        loop {
            if self.0.wanted.load(Ordering::Relaxed) && self.read(redis, &mut last).await.is_err() {
                tracing::debug!("the log of tokens that were taken back cannot be read now");
            }
            sleep(EVERY).await;
        }
    }

    /// Reads all that is new; `last` is the id of the last entry that was read.
    async fn read(&self, redis: &Redis, last: &mut Option<String>) -> Result<(), Away> {
        loop {
            let mut command = cmd("XRANGE");
            command.arg(log(redis)).arg(last.as_ref().map_or("-".to_owned(), |last| format!("({last}")));
            command.arg("+").arg("COUNT").arg(TOGETHER);
            let read: StreamRangeReply = redis.call("auth", &command).await?;
            let Some(newest) = read.ids.last() else { return Ok(()) };
            *last = Some(newest.id.clone());
            let entries: Vec<_> = read.ids.iter().filter_map(entry).collect();
            self.add(&entries, now());
            if read.ids.len() < TOGETHER {
                return Ok(());
            }
        }
    }

    fn add(&self, entries: &[(String, String, u64)], now: u64) {
        self.0.names.rcu(|names| {
            let mut names = Names::clone(names);
            for (provider, name, until) in entries {
                let of_provider = names.0.entry(provider.as_str().into()).or_default();
                of_provider.insert(name.as_str().into(), *until);
            }
            names.0.values_mut().for_each(|names| names.retain(|_, until| *until > now));
            names
        });
    }

    /// Takes a token back on all nodes, on this one at once; `lives` is how long it would be good at most.
    ///
    /// # Errors
    /// Redis does not answer, or there is none: this node has taken it back, others may not hear of it.
    pub async fn take_back(&self, provider: &str, name: &str, lives: Duration) -> Result<(), Away> {
        let until = now().saturating_add(lives.min(LONGEST).as_secs());
        self.add(&[(provider.to_owned(), name.to_owned(), until)], now());
        let redis = self.0.redis.get().ok_or(Away::Open)?;
        let until = until.to_string();
        let arguments = [KEPT, provider, name, &until].map(str::as_bytes);
        match redis.script("auth", &ADD, &[&log(redis)], &arguments).await? {
            Value::BulkString(_) => Ok(()),
            _ => Err(Away::Nonsense),
        }
    }
}

fn log(redis: &Redis) -> String {
    format!("{}:auth:revoked", redis.prefix())
}

/// What an entry says; one without an end counts for as long as any.
fn entry(entry: &StreamId) -> Option<(String, String, u64)> {
    let text = |field: &str| entry.get::<String>(field);
    let until = text("u").and_then(|until| until.parse().ok());
    Some((text("p")?, text("j")?, until.unwrap_or_else(|| now().saturating_add(LONGEST.as_secs()))))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl fmt::Debug for TakenBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenBack").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fleet::tests::address_at;
    use crate::redis::{Counters, Settings};
    use crate::redis_server::{Redis as Server, until};

    fn at(url: &str) -> TakenBack {
        let patience = Duration::from_secs(10);
        let settings = Settings { address: address_at(url), ca: None, patience, prefix: "tg".to_owned() };
        let names = TakenBack::default();
        names.join(Redis::new(settings, Counters::unread()));
        names.want();
        tokio::spawn(names.clone().keep());
        names
    }

    #[tokio::test]
    async fn what_one_takes_back_all_have_heard_of_and_who_comes_later_as_well() {
        let server = Server::start().await;
        let (one, other) = (at(&server.url()), at(&server.url()));
        assert!(!one.has("idp", "a"));
        one.take_back("idp", "a", Duration::from_secs(3600)).await.unwrap();
        assert!(one.has("idp", "a"), "here at once");
        until("the other hears", async || other.has("idp", "a")).await;
        assert!(!other.has("staff", "a") && !other.has("idp", "b"));
        let later = at(&server.url());
        until("who comes later hears", async || later.has("idp", "a")).await;

        // By hand, without an end; and nonsense, which is passed over.
        server.cli(&["XADD", "tg:auth:revoked", "*", "x", "y"]);
        server.cli(&["XADD", "tg:auth:revoked", "*", "p", "staff", "j", "b"]);
        until("all hear", async || [&one, &other, &later].iter().all(|node| node.has("staff", "b"))).await;
    }

    #[tokio::test]
    async fn many_are_read_at_a_start() {
        let server = Server::start().await;
        let script = "for i = 1, 2500 do redis.call('XADD', KEYS[1], '*', 'p', 'idp', 'j', 't' .. i) end";
        server.cli(&["EVAL", script, "1", "tg:auth:revoked"]);
        let node = at(&server.url());
        until("all are read", async || node.has("idp", "t1") && node.has("idp", "t2500")).await;
        assert!(node.has("idp", "t1001"));
    }

    #[test]
    fn a_token_that_has_ended_is_forgotten() {
        let names = TakenBack::default();
        names.add(&[("idp".to_owned(), "a".to_owned(), 100), ("idp".to_owned(), "b".to_owned(), 200)], 50);
        assert!(names.has("idp", "a") && names.has("idp", "b"));
        names.add(&[], 100);
        assert!(!names.has("idp", "a") && names.has("idp", "b"));
    }

    #[tokio::test]
    async fn without_redis_a_token_is_taken_back_here() {
        let names = TakenBack::default();
        assert!(names.take_back("idp", "a", Duration::from_secs(60)).await.is_err());
        assert!(names.has("idp", "a"));
    }
}
