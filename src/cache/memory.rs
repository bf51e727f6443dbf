//! The first tier: answers in this process's memory, bounded by their bytes.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use pingora::cache::CacheMeta;
use pingora::cache::key::HashBinary;
use pingora::http::ResponseHeader;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::telemetry::meters::Meters;

/// What an entry takes besides its fields and its body: key, table entry, object, header map.
const ENTRY_OVERHEAD: u64 = 1024;
/// What a header field takes besides its name and value, in the header map and in the list of names as written.
const FIELD_OVERHEAD: u64 = 160;
/// What a segment of the body takes besides its bytes.
const SEGMENT_OVERHEAD: u64 = 64;
/// Bodies that came in smaller pieces than this, on average, are copied together before they are stored.
const PIECE_MIN: usize = 4 << 10;
/// The pieces into which they are copied.
const PIECE: usize = 64 << 10;
/// The memory that one shard of the table has at least, so that large answers fit: each may take half of it.
const SHARD_MIN: u64 = 32 << 20;

/// The head of a stored answer: what Pingora's `CacheMeta` holds, unpacked, so that a hit decodes nothing.
#[derive(Debug)]
pub(super) struct Head {
    /// When the answer, or the first of those that it replaced while they were validated, was stored.
    admitted: SystemTime,
    fresh_until: SystemTime,
    born: SystemTime,
    variance: Option<HashBinary>,
    header: ResponseHeader,
}

impl Head {
    pub(super) fn of(meta: &CacheMeta) -> Self {
        Self {
            admitted: meta.provenance(),
            fresh_until: meta.fresh_until(),
            born: meta.epoch(),
            variance: meta.variance(),
            header: meta.response_header_copy(),
        }
    }

    /// As Pingora wants it. `created` is told as the time of admission: Pingora compares it with that of the URL's
    /// first variant to know variants that a purge has orphaned, and it has no setter for the finer distinction.
    pub(super) fn meta(&self) -> CacheMeta {
        let mut meta = CacheMeta::new(self.fresh_until, self.admitted, 0, 0, self.header.clone());
        meta.set_epoch_override(self.born);
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.header.headers
    }
}

/// A stored answer.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) head: Arc<Head>,
    /// The body as it came, or copied together where it came in crumbs.
    pub(super) body: Arc<[Bytes]>,
    /// Bytes of the body.
    pub(super) length: u64,
    weight: u64,
}

impl Object {
    pub(super) fn new(head: Arc<Head>, segments: Vec<Bytes>) -> Self {
        let length: usize = segments.iter().map(Bytes::len).sum();
        Self::with_body(head, together(segments, length).into(), length as u64)
    }

    /// The same body under a newer head.
    pub(super) fn freshened(&self, head: Head) -> Self {
        Self::with_body(Arc::new(head), Arc::clone(&self.body), self.length)
    }

    fn with_body(head: Arc<Head>, body: Arc<[Bytes]>, length: u64) -> Self {
        let fields: u64 = head
            .headers()
            .iter()
            .map(|(name, value)| (2 * name.as_str().len() + value.len()) as u64 + FIELD_OVERHEAD)
            .sum();
        let weight = ENTRY_OVERHEAD + fields + length + body.len() as u64 * SEGMENT_OVERHEAD;
        Self { head, body, length, weight }
    }
}

/// Fewer, larger pieces where there are many small ones: each piece costs its overhead and a write on every hit.
fn together(segments: Vec<Bytes>, length: usize) -> Vec<Bytes> {
    if segments.len() <= 1 + length / PIECE_MIN {
        return segments;
    }
    let mut pieces = Vec::with_capacity(1 + length / PIECE);
    let mut left = length;
    let mut piece = BytesMut::with_capacity(left.min(PIECE));
    for mut segment in segments {
        while !segment.is_empty() {
            let part = segment.split_to(segment.len().min(PIECE - piece.len()));
            piece.extend_from_slice(&part);
            if piece.len() == PIECE {
                left -= PIECE;
                pieces.push(std::mem::replace(&mut piece, BytesMut::with_capacity(left.min(PIECE))).freeze());
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece.freeze());
    }
    pieces
}

/// The table of stored answers. Never holds more bytes than it was given; keeps what is asked for again over what was
/// asked for once (scan-resistant).
pub(super) struct Memory {
    table: Cache<HashBinary, Arc<Object>, ByWeight, DefaultHashBuilder, KeepEvicted>,
    largest: u64,
    bytes: Gauge,
    entries: Gauge,
    evictions: Counter,
}

impl Memory {
    /// Holds up to `bytes`, overhead included.
    pub(super) fn new(bytes: u64, meters: &Meters) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        // The count is rounded up to a power of two within the table: give it one.
        let shards = 1 << (bytes / SHARD_MIN).clamp(1, 4 * cores).ilog2();
        let entries = (bytes / (16 << 10)).clamp(64 * shards, 1 << 24);
        let to_size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(to_size(shards))
            .weight_capacity(bytes / shards * shards)
            .estimated_items_capacity(to_size(entries))
            .build()
            .expect("both capacities are set");
        let table = Cache::with_options(options, ByWeight, DefaultHashBuilder::default(), KeepEvicted);
        Self {
            largest: table.shard_capacity() / 2,
            table,
            bytes: meters.cache_bytes.with([]),
            entries: meters.cache_entries.with([]),
            evictions: meters.cache_evictions.with([]),
        }
    }

    /// The largest body that fits, in bytes.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) fn get(&self, key: &HashBinary) -> Option<Arc<Object>> {
        self.table.get(key)
    }

    /// Stores an answer in place of the one that is there. One that is larger than [`Memory::largest`] is dropped, and
    /// so is the one before it.
    pub(super) fn put(&self, key: HashBinary, object: Arc<Object>) {
        if object.weight > self.largest {
            self.remove(&key);
            return;
        }
        let mut evicted = Vec::new();
        self.table.insert_with_lifecycle(key, object, &mut evicted);
        self.evictions.inc_by(evicted.len() as u64);
        self.measure();
    }

    /// Replaces an answer that is there; one that has gone meanwhile stays gone.
    pub(super) fn replace(&self, key: HashBinary, object: Arc<Object>) -> bool {
        let mut evicted = Vec::new();
        let replaced = self.table.replace_with_lifecycle(key, object, true, &mut evicted).is_ok();
        self.evictions.inc_by(evicted.len() as u64);
        self.measure();
        replaced
    }

    /// Whether there was one.
    pub(super) fn remove(&self, key: &HashBinary) -> bool {
        let removed = self.table.remove(key).is_some();
        self.measure();
        removed
    }

    fn measure(&self) {
        self.bytes.set(i64::try_from(self.table.weight()).unwrap_or(i64::MAX));
        self.entries.set(i64::try_from(self.table.len()).unwrap_or(i64::MAX));
    }
}

#[derive(Clone, Debug)]
struct ByWeight;

impl Weighter<HashBinary, Arc<Object>> for ByWeight {
    fn weight(&self, _: &HashBinary, object: &Arc<Object>) -> u64 {
        object.weight
    }
}

/// Hands evicted answers to the caller, who counts them and frees them once the shard is unlocked.
#[derive(Clone, Debug)]
struct KeepEvicted;

impl Lifecycle<HashBinary, Arc<Object>> for KeepEvicted {
    type RequestState = Vec<Arc<Object>>;

    fn on_evict(&self, evicted: &mut Self::RequestState, _: HashBinary, object: Arc<Object>) {
        evicted.push(object);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn head() -> Arc<Head> {
        let mut header = ResponseHeader::build(200, None).unwrap();
        header.append_header("Cache-Control", "max-age=60").unwrap();
        let now = SystemTime::now();
        Arc::new(Head::of(&CacheMeta::new(now + Duration::from_secs(60), now, 0, 0, header)))
    }

    fn object(bytes: usize) -> Arc<Object> {
        Arc::new(Object::new(head(), vec![Bytes::from(vec![b'x'; bytes])]))
    }

    fn key(number: u64) -> HashBinary {
        pingora::cache::key::hash_key(number.to_be_bytes())
    }

    #[test]
    fn the_head_survives_its_packing() {
        let now = SystemTime::now();
        let mut meta = CacheMeta::new(
            now + Duration::from_secs(60),
            now,
            0,
            0,
            ResponseHeader::build(203, None).unwrap(),
        );
        meta.set_epoch_override(now - Duration::from_secs(7));
        meta.set_variance(*b"a variance------");
        let again = Head::of(&meta).meta();
        assert_eq!(again.fresh_until(), meta.fresh_until());
        assert_eq!(again.created(), now);
        assert_eq!(again.provenance(), now);
        assert_eq!(again.epoch(), meta.epoch());
        assert_eq!(again.variance(), meta.variance());
        assert_eq!(again.response_header().status, 203);
    }

    #[test]
    fn meters_show_what_is_held() {
        let meters = Meters::new();
        let memory = Memory::new(1 << 20, &meters);
        memory.put(key(1), object(1000));
        let text = meters.render();
        assert!(text.contains("tidegate_cache_memory_entries{} 1\n"), "{text}");
        assert!(memory.bytes.get() > 1000 && memory.bytes.get() < 4000);
        assert!(memory.remove(&key(1)));
        assert!(!memory.remove(&key(1)));
        assert_eq!((memory.bytes.get(), memory.entries.get(), memory.evictions.get()), (0, 0, 0));
    }

    #[test]
    fn what_is_too_large_is_not_held_and_displaces_nothing_but_its_former_self() {
        let memory = Memory::new(1 << 20, &Meters::new());
        memory.put(key(1), object(10));
        memory.put(key(2), object(10));
        memory.put(key(2), object(1 << 20));
        assert!(memory.get(&key(1)).is_some());
        assert!(memory.get(&key(2)).is_none());
    }

    #[test]
    fn making_room_is_counted() {
        let memory = Memory::new(1 << 20, &Meters::new());
        for number in 0..100 {
            memory.put(key(number), object(100_000));
        }
        assert_eq!(u64::try_from(memory.entries.get()).unwrap() + memory.evictions.get(), 100);
    }

    #[test]
    fn crumbs_are_copied_together_and_large_pieces_are_not() {
        let crumbs: Vec<Bytes> = (0..200_000_u32).map(|n| Bytes::from(vec![n.to_le_bytes()[0]])).collect();
        let stored = Object::new(head(), crumbs.clone());
        assert_eq!(stored.body.len(), 4);
        assert_eq!(stored.body.concat(), crumbs.concat());
        let large = vec![Bytes::from(vec![0; 10_000]); 5];
        let stored = Object::new(head(), large.clone());
        assert_eq!(stored.body[3].as_ptr(), large[3].as_ptr());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_bound_holds_whatever_is_put(puts in proptest::collection::vec((0..40_u64, 0..300_000_usize), 1..120)) {
            let bound = 1 << 20;
            let memory = Memory::new(bound, &Meters::new());
            for (number, bytes) in puts {
                memory.put(key(number), object(bytes));
                prop_assert!(memory.table.weight() <= bound);
                let held: u64 = memory.table.iter().map(|(_, object)| object.weight).sum();
                prop_assert_eq!(held, memory.table.weight());
            }
        }
    }
}
