//! What the memory tier and the log of purges cost: `cargo bench --bench cache`.
//!
//! Printed first: what a process of a million small entries really takes, beside what they are reckoned at.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use divan::{Bencher, black_box};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, SERVER, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate::cache::forms::Forms;
use tidegate::cache::stored::{Body, Key, Pieces, Resource, Stamp, Stored, Terms};
use tidegate::cache::vary::Selecting;
use tidegate::cache::{Memory, Purge, Purges, Target, compact};
use tidegate::telemetry::Meters;

/// As in the binary: what an answer really takes is the allocator's doing.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    weigh();
    divan::main();
}

/// Reckoned and real bytes of entries with bodies of several sizes. All are kept to the end, lest one fill the gaps that
/// another left.
fn weigh() {
    // Whatever is held back of what was evicted shows as growth under a steady load.
    let full = Memory::new(256 << 20, &Meters::new());
    (0..20_000).for_each(|number| fill(&full, number, 64 << 10));
    let before = resident();
    (20_000..60_000).for_each(|number| fill(&full, number, 64 << 10));
    let grown = resident().saturating_sub(before) >> 10;
    println!("256 MiB full, 2.5 GiB more put through: {grown} KiB more are resident");
    let mut kept = vec![full];
    for (entries, bytes) in [(1_000_000, 100), (100_000, 1024), (20_000, 16 << 10)] {
        let before = resident();
        let memory = filled(entries, bytes);
        let (real, reckoned) = ((resident() - before) / entries, memory.weight() / entries);
        println!("{entries} entries of {bytes} bytes: real {real} bytes each, reckoned {reckoned}");
        kept.push(memory);
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

fn key(number: u64) -> Key {
    Key(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

fn stored(number: u64, bytes: usize) -> Stored {
    let now = SystemTime::now();
    let fields = [
        (CACHE_CONTROL, "public, max-age=60"),
        (CONTENT_TYPE, "application/json"),
        (CONTENT_LENGTH, "1024"),
        (DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (ETAG, "\"0123456789abcdef\""),
        (LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (SERVER, "origin"),
        (VARY, "Accept-Encoding"),
    ];
    let headers: HeaderMap =
        fields.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
    Stored {
        status: StatusCode::OK,
        headers: compact(&headers),
        terms: Terms { born: now, fresh_until: now + Duration::from_secs(60), ..Terms::default() },
        selecting: Selecting::default(),
        body: Body::Whole(Pieces::new(vec![Bytes::from(vec![b'x'; bytes])])),
        forms: Forms::default(),
        tags: [1, number].into(),
        stamp: Stamp(1),
        seen: Stamp(0),
        stored: now,
        url: format!("https://api.example.com/users/{number}").into(),
    }
}

fn fill(memory: &Memory, number: u64, bytes: usize) {
    let stored = Arc::new(stored(number, bytes));
    memory.update(key(number), |_| Some(Resource::default().with(Arc::clone(&stored))));
}

fn filled(entries: u64, bytes: usize) -> Memory {
    let memory = Memory::new(64 << 30, &Meters::new());
    (0..entries).for_each(|number| fill(&memory, number, bytes));
    memory
}

/// Finding an answer among this many, each time another one.
#[divan::bench(args = [1, 1_000_000], threads = [1, 2])]
fn hit(bencher: Bencher<'_, '_>, entries: u64) {
    let memory = filled(entries, 100);
    bencher
        .with_inputs(|| key(fastrand::u64(0..entries)))
        .bench_refs(|key| memory.get(black_box(key)).is_some());
}

/// Not finding one.
#[divan::bench(args = [1_000_000])]
fn miss(bencher: Bencher<'_, '_>, entries: u64) {
    let memory = filled(entries, 100);
    bencher
        .with_inputs(|| key(entries + fastrand::u64(0..entries)))
        .bench_refs(|key| memory.get(black_box(key)).is_some());
}

/// Storing an answer where another has to make way.
#[divan::bench(args = [1024, 65_536], threads = [1, 2])]
fn insert_with_eviction(bencher: Bencher<'_, '_>, bytes: usize) {
    let memory = Memory::new(256 << 20, &Meters::new());
    (0..400_000.min((300 << 20) / bytes as u64)).for_each(|number| fill(&memory, number, bytes));
    bencher
        .with_inputs(|| {
            let number = fastrand::u64(1 << 40..);
            (key(number), Arc::new(stored(number, bytes)))
        })
        .bench_refs(|(key, stored)| {
            memory.update(*key, |_| Some(Resource::default().with(Arc::clone(stored))))
        });
}

/// Replacing an answer among a million.
#[divan::bench]
fn replace(bencher: Bencher<'_, '_>) {
    let memory = filled(1_000_000, 100);
    bencher
        .with_inputs(|| {
            let number = fastrand::u64(0..1_000_000);
            (key(number), Arc::new(stored(number, 100)))
        })
        .bench_refs(|(key, stored)| memory.update(*key, |now| Some(now?.with(Arc::clone(stored)))));
}

/// A purge by tag that meets this many answers.
#[divan::bench(args = [1, 1_000_000])]
fn purge_by_tag(bencher: Bencher<'_, '_>, entries: u64) {
    let memory = filled(entries, 100);
    let purges = Purges::new();
    bencher.bench_local(|| purges.note(&Purge { target: Target::Tag(black_box(1)), soft: false }));
    let found = memory.get(&key(0)).expect("it is held");
    assert!(purges.covers(&key(0), &found.variants[0]).is_some());
}

/// A purge by prefix, with the search for what it frees, among this many.
#[divan::bench(args = [1_000_000], sample_count = 5, sample_size = 1)]
fn purge_by_prefix_and_free(bencher: Bencher<'_, '_>, entries: u64) {
    let memory = filled(entries, 100);
    bencher.bench_local(|| {
        let begins = |resource: &Resource| {
            resource
                .variants
                .iter()
                .any(|stored| stored.url.starts_with(black_box("https://api.example.org/")))
        };
        memory.remove_if(|_, resource| begins(resource))
    });
}

/// Asking about a hit: nothing newer was purged; other tags were; other prefixes were, too.
#[divan::bench(args = ["nothing", "tags", "prefixes"])]
fn covers(bencher: Bencher<'_, '_>, purged: &str) {
    let log = Purges::new();
    for number in 10..100 {
        match purged {
            "tags" => drop(log.note(&Purge { target: Target::Tag(number), soft: false })),
            "prefixes" => {
                let prefix = format!("https://api.example.org/{number}/");
                log.note(&Purge { target: Target::Prefix(prefix.into()), soft: false });
            }
            _ => {}
        }
    }
    let stored = stored(5, 100);
    bencher.bench_local(|| log.covers(black_box(&key(5)), black_box(&stored)));
}
