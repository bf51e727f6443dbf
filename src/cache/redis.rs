//! The second tier: answers in Redis, shared by all nodes of the fleet, and the lease that lets one of them fetch.
//!
//! | key | holds |
//! |---|---|
//! | `PREFIX:{KEY}` | a hash: the head of each variant under a hash of what chose it, and `v`, the version |
//! | `PREFIX:{KEY}:b:VARIANT:CONTENT:N` | the chunk `N` of content that is too large for its head |
//! | `PREFIX:{KEY}:l:KIND` | the lease: whoever holds it fetches for all requests of a kind ([`super::vary::kind`]) |
//! | `PREFIX:fills` | a channel: how fetches under a lease ended |
//!
//! The braces make all keys of a URL lie in one slot of a cluster. Everything has a time to live. What cannot be read is
//! not there: entries of another version, of another key, corrupt ones, content with a chunk missing.
//!
//! A version that is compared with the lease makes one fetch of many: who looked, found nothing and comes late to the
//! lease is told what has been stored since instead.

mod scripts;
mod waiting;
mod writing;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use xxhash_rust::xxh3::Xxh3;

use super::entry::{self, Apart, CHUNK, Entry};
use super::stored::{Key, Stored};
use crate::redis::{Away, Redis, Value, cmd};

pub use waiting::{Told, Verdict, Waiter};
pub use writing::{QUEUE_BYTES, QUEUE_JOBS, Written, kept};

use waiting::{Waiting, message};
use writing::Queue;

/// Chunks that are asked for together.
const TOGETHER: u64 = 4;

/// The tier. One per process; it outlives every plan.
pub struct Tier {
    redis: Redis,
    max_object: u64,
    valid: Box<Valid>,
    counters: TierCounters,
    channel: String,
    looking: Mutex<HashMap<Key, Looking>>,
    waiting: Waiting,
    queue: Queue,
}

/// Whether an answer may still be stored under a key, as far as this node knows: no purge covers it.
pub type Valid = dyn Fn(&Key, &Stored) -> bool + Send + Sync;

/// What the tier counts.
#[derive(Clone, Debug, Default)]
pub struct TierCounters {
    /// Answers that were to be written behind and were not: too much waited, or Redis was away.
    pub dropped: Counter,
    /// Heads and chunks that could not be read.
    pub unreadable: Counter,
}

/// What is stored of a URL.
#[derive(Debug, Default)]
pub struct Found {
    /// Which state of the URL this is; 0 if nothing is stored.
    pub version: u64,
    /// What can be read of it, newest first.
    pub variants: Vec<Entry>,
}

impl Found {
    /// The newest answer that suits a request's fields (RFC 9111 §4.1).
    pub fn select(&self, request: &HeaderMap) -> Option<&Entry> {
        self.variants.iter().find(|entry| entry.stored.selecting.matches(request))
    }
}

/// What the lease came to.
pub enum Lease {
    /// This node fetches, for all. The token keeps it, with [`Tier::renew`], and gives it back, with [`Tier::store`] or [`Tier::release`].
    Taken(Token),
    /// Another node fetches: wait for it.
    Held(Waiter),
    /// Something has been stored since the look.
    Changed(Found),
}

/// Proof of a lease.
#[derive(Clone, Debug)]
pub struct Token {
    word: String,
    kind: u64,
}

type Answer = Result<Arc<Found>, Away>;
type Looking = watch::Receiver<Option<Answer>>;

impl Tier {
    /// A tier that stores bodies up to `max_object` bytes. Nothing is written behind, and no word of other nodes is
    /// heard, until [`Tier::run`] runs.
    pub fn new(redis: Redis, max_object: u64, valid: Box<Valid>, counters: TierCounters) -> Self {
        let channel = format!("{}:fills", redis.prefix());
        Self {
            redis,
            max_object,
            valid,
            counters,
            channel,
            looking: Mutex::default(),
            waiting: Waiting::default(),
            queue: Queue::new(),
        }
    }

    /// Writes behind and hears of other nodes' fetches, for as long as it is polled.
    pub async fn run(&self) {
        let hear = self.waiting.hear(&self.redis, &self.channel);
        // Two writers: one large answer does not hold up the small ones.
        tokio::join!(hear, self.write_behind(), self.write_behind());
    }

    /// What is stored of a URL. Asks once for all who look at the same time.
    pub async fn look(&self, key: &Key) -> Answer {
        loop {
            let joined = {
                let mut looking = self.looking.lock();
                if let Some(other) = looking.get(key) {
                    Err(other.clone())
                } else {
                    let (sender, receiver) = watch::channel(None);
                    looking.insert(*key, receiver);
                    Ok(Look { key: *key, sender, tier: self })
                }
            };
            match joined {
                Ok(look) => {
                    let answer = self.look_alone(key).await.map(Arc::new);
                    look.sender.send_replace(Some(answer.clone()));
                    return answer;
                }
                Err(mut other) => {
                    // Whoever looked may have left before it was answered: then somebody else looks.
                    if let Ok(answer) = other.wait_for(Option::is_some).await {
                        return answer.clone().unwrap_or(Err(Away::Lost));
                    }
                }
            }
        }
    }

    async fn look_alone(&self, key: &Key) -> Result<Found, Away> {
        let names = Names::of(self.redis.prefix(), key);
        let fields = self.redis.call("look", cmd("HGETALL").arg(&names.heads)).await?;
        Ok(self.found(key, fields))
    }

    /// What the fields of a hash say. What cannot be read is left out.
    fn found(&self, key: &Key, fields: Value) -> Found {
        let mut found = Found::default();
        for (field, value) in pairs(fields) {
            let (Value::BulkString(field), Value::BulkString(value)) = (field, value) else { continue };
            if field == b"v" {
                found.version = std::str::from_utf8(&value).ok().and_then(|v| v.parse().ok()).unwrap_or(0);
                continue;
            }
            match entry::read(key, &Bytes::from(value)) {
                Ok(entry) if field_of(&entry.stored).as_bytes() == field => found.variants.push(entry),
                _ => {
                    self.counters.unreadable.inc();
                }
            }
        }
        found.variants.sort_by_key(|entry| std::cmp::Reverse(entry.stored.stored));
        found.variants = told_apart(found.variants);
        found
    }

    /// The answer with all of its content. `None`: it is too large, or a chunk is missing or unreadable.
    pub async fn whole(&self, key: &Key, entry: &Entry) -> Result<Option<Arc<Stored>>, Away> {
        let Some(apart) = &entry.apart else { return Ok(Some(Arc::new(entry.stored.clone()))) };
        if apart.length > self.max_object {
            return Ok(None);
        }
        let segments = self.content(key, entry, apart).await?;
        let body = segments.and_then(|segments| apart.body(segments));
        if body.is_none() {
            self.counters.unreadable.inc();
        }
        Ok(body.map(|body| Arc::new(Stored { body, ..entry.stored.clone() })))
    }

    async fn content(&self, key: &Key, entry: &Entry, apart: &Apart) -> Result<Option<Vec<Bytes>>, Away> {
        let (names, field) = (Names::of(self.redis.prefix(), key), field_of(&entry.stored));
        let mut segments = Vec::new();
        for first in (0..apart.chunks()).step_by(usize::try_from(TOGETHER).unwrap_or(1)) {
            let last = (first + TOGETHER).min(apart.chunks());
            let mut command = cmd("MGET");
            for at in first..last {
                command.arg(names.chunk(&field, apart.content, at));
            }
            let bytes = (last - first) * CHUNK as u64;
            let chunks: Vec<Option<Bytes>> = self.redis.call_sized("content", &command, bytes).await?;
            for (at, chunk) in (first..last).zip(chunks) {
                let read = chunk.and_then(|chunk| entry::read_chunk(apart.content, at, &chunk).ok());
                let Some(segment) = read else { return Ok(None) };
                segments.push(segment);
            }
        }
        Ok(Some(segments))
    }

    /// Takes the lease of a URL, for requests of this kind and for so long, unless it is held or something has been stored
    /// since the state that was seen.
    pub async fn lease(&self, key: &Key, kind: u64, seen: u64, ttl: Duration) -> Result<Lease, Away> {
        let names = Names::of(self.redis.prefix(), key);
        let lease = names.lease(kind);
        // Before it is asked for: whoever holds it may be done by the time that the answer is here.
        let waiter = self.waiting.register((*key, kind), lease.clone(), self.redis.clone());
        let word = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let (seen, ttl) = (seen.to_string(), ttl.as_millis().max(1).to_string());
        let args = [seen.as_bytes(), word.as_bytes(), ttl.as_bytes()];
        match self.redis.script("lease", &scripts::LEASE, &[&names.heads, &lease], &args).await? {
            Value::Int(1) => Ok(Lease::Taken(Token { word, kind })),
            Value::Int(0) => Ok(Lease::Held(waiter)),
            fields @ (Value::Array(_) | Value::Map(_)) => Ok(Lease::Changed(self.found(key, fields))),
            _ => Err(Away::Nonsense),
        }
    }

    /// Keeps a lease for so long from now; whether it was still held.
    pub async fn renew(&self, key: &Key, token: &Token, ttl: Duration) -> Result<bool, Away> {
        let lease = Names::of(self.redis.prefix(), key).lease(token.kind);
        let ttl = ttl.as_millis().max(1).to_string();
        let args = [token.word.as_bytes(), ttl.as_bytes()];
        Ok(self.redis.script("renew", &scripts::RENEW, &[&lease], &args).await? == Value::Int(1))
    }

    /// Gives a lease back without storing anything, and tells the waiting why.
    pub async fn release(&self, key: &Key, token: &Token, verdict: Verdict) -> Result<(), Away> {
        let lease = Names::of(self.redis.prefix(), key).lease(token.kind);
        let message = message(&(*key, token.kind), verdict);
        let args = [token.word.as_bytes(), self.channel.as_bytes(), &message];
        self.redis.script("release", &scripts::RELEASE, &[&lease], &args).await?;
        Ok(())
    }

    /// Forgets all variants of a URL.
    pub async fn purge_url(&self, key: &Key) -> Result<(), Away> {
        let names = Names::of(self.redis.prefix(), key);
        self.redis.script("purge", &scripts::PURGE, &[&names.heads], &[names.chunks.as_bytes()]).await?;
        Ok(())
    }
}

/// Variants, newest first, without those that were chosen by fewer fields than a newer one: the origin has come to tell
/// more requests apart than they do, as in memory ([`Resource::with`](super::stored::Resource::with)).
fn told_apart(variants: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::with_capacity(variants.len());
    for entry in variants {
        let own = &entry.stored.selecting;
        if kept.iter().all(|newer| own.tells_apart(&newer.stored.selecting)) {
            kept.push(entry);
        }
    }
    kept
}

/// The one look at a key; when it goes, however it ended, the next one asks anew.
struct Look<'a> {
    key: Key,
    sender: watch::Sender<Option<Answer>>,
    tier: &'a Tier,
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.tier.looking.lock().remove(&self.key);
    }
}

/// Names of the keys of a URL.
struct Names {
    heads: String,
    /// What the names of chunks begin with.
    chunks: String,
}

impl Names {
    fn of(prefix: &str, key: &Key) -> Self {
        let mut heads = String::with_capacity(prefix.len() + 35);
        // Writing to a string cannot fail.
        let _ = write!(heads, "{prefix}:{{{:032x}}}", u128::from_be_bytes(key.0));
        Self { chunks: format!("{heads}:b:"), heads }
    }

    fn lease(&self, kind: u64) -> String {
        format!("{}:l:{kind:016x}", self.heads)
    }

    fn chunk(&self, field: &str, content: u128, at: u64) -> String {
        format!("{}{field}:{content:032x}:{at}", self.chunks)
    }
}

/// The field of a variant: a hash of what chose it.
fn field_of(stored: &Stored) -> String {
    let mut hash = Xxh3::new();
    for (name, value) in stored.selecting.selectors() {
        let value = value.as_deref();
        hash.update(&(name.as_str().len() as u64).to_le_bytes());
        hash.update(name.as_str().as_bytes());
        let length = value.map_or(u64::MAX, |value| value.len() as u64);
        hash.update(&length.to_le_bytes());
        hash.update(value.unwrap_or_default());
    }
    format!("{:032x}", hash.digest128())
}

/// The fields of a hash, as either protocol answers them.
fn pairs(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Map(pairs) => pairs,
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            std::iter::from_fn(|| flat.next().zip(flat.next())).collect()
        }
        _ => Vec::new(),
    }
}
