//! Where answers are stored: Pingora's `Storage` over the tiers. Memory is the only one so far.
//!
//! A lookup asks the tiers in order of speed, then the answers that are being written. The next tier belongs between
//! the two in [`Tiers::lookup`], behind [`Tiers::store`], and in `purge` and `update_meta`.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, LAST_MODIFIED};
use pingora::cache::key::{CacheHashKey, HashBinary};
use pingora::cache::lock::{CacheKeyLockImpl, CacheLock};
use pingora::cache::storage::{HandleHit, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType};
use pingora::cache::trace::SpanHandle;
use pingora::cache::{CacheKey, CacheMeta, Storage};
use pingora::{Error, ErrorType, Result};

use super::fill::{Fills, Terms, Writer, within};
use super::marks::{Purges, Unstored};
use super::memory::{Head, Memory, Object};
use crate::telemetry::meters::Meters;

/// How long a request waits for another's answer, and how long one request may keep others waiting.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The store of a process. Outlives every reload.
pub struct Tiers {
    memory: Memory,
    pub(super) fills: Fills,
    pub(super) purges: Purges,
    pub(super) unstored: Unstored,
    lock: CacheLock,
}

impl Tiers {
    /// A store that holds up to `memory_bytes`, and as much again in answers that are being written. Made once: Pingora
    /// asks for a store that lives as long as the process.
    pub fn new(memory_bytes: u64, meters: &Meters) -> &'static Self {
        Box::leak(Box::new(Self {
            memory: Memory::new(memory_bytes, meters),
            fills: Fills::new(memory_bytes),
            purges: Purges::new(),
            unstored: Unstored::new(),
            lock: CacheLock::new(PATIENCE),
        }))
    }

    /// The lock by which concurrent misses of one URL become one fetch. Held until the head of the answer is there.
    pub fn lock(&'static self) -> &'static CacheKeyLockImpl {
        &self.lock
    }

    /// The largest body that can be stored, in bytes.
    pub fn largest(&self) -> u64 {
        self.memory.largest()
    }

    /// Forgets all variants of a URL, and sees to it that none that is on its way is stored.
    ///
    /// Variants beside the first stay in memory until they are evicted, but are not found: Pingora takes none that is
    /// older than the first. Returns whether the first was there.
    pub fn purge(&self, url: &HashBinary) -> bool {
        self.purges.note(url);
        self.memory.remove(url)
    }

    /// Stores an answer, unless its URL was purged since it was asked for.
    pub(super) fn store(&self, key: HashBinary, object: Arc<Object>, url: &HashBinary, purges: u64) {
        if self.purges.count(url) != purges {
            return;
        }
        self.memory.put(key, object);
        // A purge notes itself before it removes: one that came since the check has either removed this or is seen now.
        if self.purges.count(url) != purges {
            self.memory.remove(&key);
        }
    }

    fn stored(&self, key: &HashBinary) -> Option<(CacheMeta, HitHandler)> {
        self.memory.get(key).map(|object| (object.head.meta(), Box::new(Hit::new(object)) as HitHandler))
    }
}

#[async_trait]
impl Storage for Tiers {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let (variant, url) = (key.combined_bin(), key.primary_bin());
        if let Some(hit) = self.stored(&variant) {
            return Ok(Some(hit));
        }
        if let Some(fill) = self.fills.newest(&variant, self.purges.count(&url)) {
            let meta = fill.head.meta();
            return Ok(Some((meta, Box::new(fill.follow(false)))));
        }
        // It may have been stored between the two looks.
        Ok(self.stored(&variant))
    }

    async fn lookup_streaming_write(
        &'static self,
        key: &CacheKey,
        tag: Option<&[u8]>,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let tag = tag.and_then(|tag| tag.try_into().ok());
        let fill = tag.and_then(|tag| self.fills.tagged(&key.combined_bin(), tag));
        Ok(fill.map(|fill| (fill.head.meta(), Box::new(fill.follow(true)) as HitHandler)))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        let url = key.primary_bin();
        let terms = meta.extensions().get::<Terms>().copied();
        let terms =
            terms.unwrap_or_else(|| Terms { purges: self.purges.count(&url), size_max: self.largest() });
        let fill = self.fills.begin(key.combined_bin(), url, Head::of(meta), terms);
        Ok(Box::new(Writer::new(self, fill)))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _: PurgeType,
        _: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let key = target.key();
        self.purges.note(&key.primary_bin());
        let found = self.memory.remove(&key.combined_bin());
        Ok(if found { PurgeOutcome::Purged(None) } else { PurgeOutcome::NotFound })
    }

    /// Puts a newer head on a stored body (RFC 9111 §4.3.4), if the body is still the one that the head is of.
    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let (variant, url) = (key.combined_bin(), key.primary_bin());
        let purges =
            meta.extensions().get::<Terms>().map_or_else(|| self.purges.count(&url), |terms| terms.purges);
        let Some(object) = self.memory.get(&variant) else { return Ok(false) };
        if !same_body(object.head.headers(), meta.headers()) || self.purges.count(&url) != purges {
            return Ok(false);
        }
        let replaced = self.memory.replace(variant, Arc::new(object.freshened(Head::of(meta))));
        if self.purges.count(&url) != purges {
            self.memory.remove(&variant);
            return Ok(false);
        }
        Ok(replaced)
    }

    fn support_streaming_partial_write(&self) -> bool {
        true
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// Whether two heads are of one body, as far as their validators tell (RFC 9111 §4.3.4).
fn same_body(one: &HeaderMap, other: &HeaderMap) -> bool {
    [ETAG, LAST_MODIFIED, CONTENT_LENGTH, CONTENT_ENCODING]
        .iter()
        .all(|name| one.get(name) == other.get(name))
}

/// Reads a stored answer.
struct Hit {
    object: Arc<Object>,
    /// The piece to read next, and the offset of its first byte in the body.
    next: usize,
    offset: u64,
    /// The bytes that are wanted.
    window: Range<u64>,
}

impl Hit {
    fn new(object: Arc<Object>) -> Self {
        let window = 0..object.length;
        Self { object, next: 0, offset: 0, window }
    }
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.window.end
            && let Some(piece) = self.object.body.get(self.next)
        {
            let part = within(piece, self.offset, &self.window);
            self.next += 1;
            self.offset += piece.len() as u64;
            if !part.is_empty() {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let (start, length) = (start as u64, self.object.length);
        if start >= length {
            return Error::e_explain(
                ErrorType::InternalError,
                "the range begins behind the end of the stored body",
            );
        }
        self.window = start..end.map_or(length, |end| length.min(end as u64));
        (self.next, self.offset) = (0, 0);
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

#[cfg(test)]
#[path = "tiers_tests.rs"]
mod tests;
