//! Tests of the memory tier.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::cache::Rules;
use crate::cache::forms::Forms;
use crate::cache::stored::{Body, Pieces, Stamp, Stored, Terms};
use crate::cache::vary::Selecting;

/// An answer with a body of so many bytes.
pub(in crate::cache) fn stored(bytes: usize) -> Stored {
    let now = SystemTime::now();
    let terms = Terms { born: now, fresh_until: now + Duration::from_secs(60), ..Terms::default() };
    Stored {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(
            "cache-control".parse().unwrap(),
            HeaderValue::from_static("max-age=60"),
        )]),
        terms,
        selecting: Selecting::default(),
        body: Body::Whole(Pieces::new(vec![Bytes::from(vec![b'x'; bytes])])),
        forms: Forms::default(),
        tags: Vec::new().into(),
        stamp: Stamp::default(),
        seen: Stamp(0),
        stored: now,
        url: "https://example.com/".into(),
    }
}

/// The same, one of several variants of its URL.
pub(in crate::cache) fn variant(bytes: usize, language: &str) -> Arc<Stored> {
    let request = HeaderMap::from_iter([("x-language".parse().unwrap(), language.parse().unwrap())]);
    let rules = Rules { vary: vec!["x-language".parse().unwrap()], ..Rules::default() };
    let selecting = Selecting::of(&HeaderMap::new(), &rules, &request).unwrap();
    Arc::new(Stored { selecting, ..stored(bytes) })
}

pub(in crate::cache) fn resource(bytes: usize) -> Resource {
    Resource::default().with(Arc::new(stored(bytes)))
}

pub(in crate::cache) fn key(number: u64) -> Key {
    // The bits that tell keys apart are spread, as they are in hashes.
    Key(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

fn length(resource: &Resource) -> u64 {
    resource.variants[0].body.held()
}

fn as_it_is(now: Option<&Resource>) -> Option<Resource> {
    now.cloned()
}

impl Memory {
    fn put(&self, number: u64, bytes: usize) -> bool {
        self.update(key(number), |_| Some(resource(bytes)))
    }

    /// What the entries weigh, each weighed again.
    fn weighed(&self) -> u64 {
        let mut sum = 0;
        self.for_each(|_, resource| sum += weight::of(resource));
        sum
    }
}

fn memory(bytes: u64) -> Memory {
    Memory::new(bytes, &Meters::new())
}

#[test]
fn what_is_put_is_found_and_what_is_removed_is_not() {
    let memory = memory(1 << 20);
    assert!(memory.get(&key(1)).is_none());
    assert!(memory.put(1, 10));
    assert_eq!(memory.get(&key(1)).map(|found| length(&found)), Some(10));
    assert!(memory.put(1, 20));
    assert_eq!(memory.peek(&key(1)).map(|found| length(&found)), Some(20));
    assert_eq!(memory.len(), 1);
    assert!(memory.remove(&key(1)));
    assert!(!memory.remove(&key(1)));
    assert!(memory.get(&key(1)).is_none() && memory.is_empty());
    assert_eq!(memory.weight(), 0);
}

#[test]
fn an_update_sees_what_is_there_and_may_leave_or_remove_it() {
    let memory = memory(1 << 20);
    assert!(!memory.update(key(1), as_it_is));
    assert!(memory.is_empty());
    assert!(memory.update(key(1), |_| Some(Resource::default().with(variant(10, "en")))));
    assert!(memory.update(key(1), |now| Some(now?.with(variant(20, "de")))));
    assert_eq!(memory.get(&key(1)).unwrap().variants.len(), 2);
    assert!(!memory.update(key(1), |_| None));
    assert!(memory.is_empty());
}

#[test]
fn meters_show_what_is_held() {
    let meters = Meters::new();
    let memory = Memory::new(1 << 20, &meters);
    memory.put(1, 1000);
    let text = meters.render();
    assert!(text.contains("tidegate_cache_memory_entries{} 1\n"), "{text}");
    assert!(memory.bytes.get() > 1000 && memory.bytes.get() < 4000);
    memory.remove(&key(1));
    assert_eq!((memory.bytes.get(), memory.entries.get(), memory.evictions.get()), (0, 0, 0));
    (0..100).for_each(|number| assert!(memory.put(number, 100_000)));
    assert_eq!(u64::try_from(memory.entries.get()).unwrap() + memory.evictions.get(), 100);
}

#[test]
fn what_is_too_large_is_not_held_and_displaces_nothing_but_its_former_self() {
    let memory = memory(1 << 20);
    assert!(memory.update(key(1), |_| Some(Resource::default().with(variant(10, "en")))));
    memory.put(2, 10);
    assert!(!memory.put(2, 1 << 20));
    assert!(memory.get(&key(1)).is_some());
    assert!(memory.get(&key(2)).is_none());
    assert!(memory.update(key(1), |now| Some(now?.with(variant(30, "de")))));
    assert!(!memory.update(key(1), |now| Some(now?.with(variant(1 << 20, "fr")))));
    assert_eq!(memory.get(&key(1)).unwrap().variants.len(), 2, "the others stay");
}

#[test]
fn a_scan_does_not_displace_what_is_in_use() {
    let memory = memory(8 << 20);
    for number in 0..500 {
        memory.put(number, 10_000);
        memory.get(&key(number));
    }
    // Forty times the memory, none of it asked for twice; in between, what is hot is asked for now and then.
    for scanned in 1000..33_000 {
        memory.put(scanned, 10_000);
        memory.get(&key(scanned % 500));
    }
    let kept = (0..500).filter(|number| memory.peek(&key(*number)).is_some()).count();
    assert_eq!(kept, 500, "all of it is left");
}

#[test]
fn what_nobody_asks_for_any_more_makes_way() {
    let memory = memory(8 << 20);
    for _ in 0..4 {
        for number in 0..500 {
            if memory.get(&key(number)).is_none() {
                memory.put(number, 10_000);
            }
        }
    }
    for _ in 0..30 {
        for number in 1000..1500 {
            if memory.get(&key(number)).is_none() {
                memory.put(number, 10_000);
            }
        }
    }
    let kept = (1000..1500).filter(|number| memory.peek(&key(*number)).is_some()).count();
    assert!(kept >= 495, "{kept} of the new 500 are held");
}

#[test]
fn bodies_are_given_up_at_once() {
    let memory = memory(1 << 20);
    let body = |number: u64| {
        let bytes = Bytes::from(vec![b'x'; 100_000]);
        let watched = bytes.clone();
        memory.update(key(number), move |_| {
            let body = Body::Whole(Pieces::new(vec![bytes.clone()]));
            Some(Resource::default().with(Arc::new(Stored { body, ..stored(0) })))
        });
        watched
    };
    let removed = body(1);
    memory.remove(&key(1));
    assert!(removed.is_unique(), "removed");
    let replaced = body(2);
    memory.put(2, 10);
    assert!(replaced.is_unique(), "replaced");
    let evicted = body(3);
    (10..100).for_each(|number| assert!(memory.put(number, 100_000)));
    assert!(evicted.is_unique(), "evicted");
    let cleared = body(4);
    memory.clear();
    assert!(cleared.is_unique() && memory.is_empty(), "cleared");
}

#[test]
fn an_update_looks_again_if_anything_was_removed_meanwhile() {
    let memory = memory(1 << 20);
    memory.put(2, 10);
    for remove in [
        &(|| assert!(memory.remove(&key(2)))) as &dyn Fn(),
        &|| assert!(!memory.remove(&key(1))),
        &|| assert_eq!(memory.remove_if(|_, _| false), 0),
        &|| memory.clear(),
    ] {
        let mut calls = 0;
        let held = memory.update(key(1), |_| {
            calls += 1;
            if calls == 1 {
                remove();
            }
            (calls == 1).then(|| resource(10))
        });
        assert_eq!((held, calls), (false, 2));
        assert!(memory.peek(&key(1)).is_none());
    }
}

#[test]
fn those_that_are_met_are_removed_and_others_stay() {
    let memory = memory(8 << 20);
    (0..1000).zip(0..).for_each(|(number, bytes)| assert!(memory.put(number, bytes)));
    assert_eq!(memory.remove_if(|_, resource| length(resource).is_multiple_of(2)), 500);
    assert_eq!(memory.len(), 500);
    assert!(memory.get(&key(1)).is_some() && memory.get(&key(2)).is_none());
    assert_eq!(memory.weight(), memory.weighed());
}

#[test]
fn queues_do_not_grow_with_what_comes_and_goes() {
    let memory = memory(8 << 20);
    for number in 0..100_000 {
        memory.put(number % 7, 10);
        memory.remove(&key(number % 7));
    }
    assert!(memory.order.lock().items() < 200);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, usize),
    Vary(u64, usize, u8),
    Get(u64),
    Remove(u64),
    RemoveOdd,
    Clear,
}

fn steps(keys: u64, size: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..keys, 0..size).prop_map(|(key, size)| Step::Put(key, size)),
        3 => (0..keys, 0..size, 0..4_u8).prop_map(|(key, size, name)| Step::Vary(key, size, name)),
        6 => (0..keys).prop_map(Step::Get),
        2 => (0..keys).prop_map(Step::Remove),
        1 => Just(Step::RemoveOdd),
        1 => Just(Step::Clear),
    ];
    proptest::collection::vec(step, 1..200)
}

fn play(memory: &Memory, step: &Step) {
    match *step {
        Step::Put(number, size) => {
            memory.put(number, size);
        }
        Step::Vary(number, size, name) => {
            let answer = variant(size, &name.to_string());
            memory.update(key(number), |now| Some(now.cloned().unwrap_or_default().with(answer.clone())));
        }
        Step::Get(number) => drop(memory.get(&key(number))),
        Step::Remove(number) => drop(memory.remove(&key(number))),
        Step::RemoveOdd => drop(memory.remove_if(|_, resource| length(resource) % 2 == 1)),
        Step::Clear => memory.clear(),
    }
}

/// The same on a plain map that nothing is ever evicted from: for each key the lengths of its variants.
fn play_plainly(map: &mut HashMap<u64, Vec<(Option<u8>, u64)>>, step: &Step) {
    match *step {
        Step::Put(number, size) => drop(map.insert(number, vec![(None, size as u64)])),
        Step::Vary(number, size, name) => {
            let variants = map.entry(number).or_default();
            // The one for all goes as well: there are more to tell apart now.
            variants.retain(|(other, _)| other.is_some_and(|other| other != name));
            variants.insert(0, (Some(name), size as u64));
        }
        Step::Get(_) => {}
        Step::Remove(number) => drop(map.remove(&number)),
        Step::RemoveOdd => map.retain(|_, variants| variants[0].1 % 2 == 0),
        Step::Clear => map.clear(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_bound_holds_whatever_is_done(steps in steps(40, 300_000)) {
        let bound = 1 << 20;
        let memory = memory(bound);
        for step in &steps {
            play(&memory, step);
            prop_assert!(memory.weight() <= bound);
            prop_assert_eq!(memory.weighed(), memory.weight());
        }
    }

    #[test]
    fn with_room_enough_it_is_a_plain_map(steps in steps(20, 2000)) {
        let (memory, mut map) = (memory(64 << 20), HashMap::new());
        for step in &steps {
            play(&memory, step);
            play_plainly(&mut map, step);
            prop_assert_eq!(memory.len(), map.len());
        }
        for number in 0..20 {
            let lengths = memory.get(&key(number)).map(|found| {
                found.variants.iter().map(|variant| variant.body.held()).collect::<Vec<_>>()
            });
            let wanted = map.get(&number).map(|all| all.iter().map(|(_, length)| *length).collect::<Vec<_>>());
            prop_assert_eq!(lengths, wanted);
        }
    }

    #[test]
    fn short_of_room_it_holds_the_newest_or_nothing(steps in steps(40, 100_000)) {
        let (memory, mut map) = (memory(1 << 20), HashMap::new());
        for step in &steps {
            play(&memory, step);
            play_plainly(&mut map, step);
            memory.for_each(|held, resource| {
                let number = (0..40).find(|number| key(*number) == *held).unwrap();
                assert_eq!(map.get(&number).map(|variants| variants[0].1), Some(length(resource)));
            });
            // What was evicted or left out there is left out here.
            map.retain(|number, _| memory.peek(&key(*number)).is_some());
            for (number, variants) in &mut map {
                variants.truncate(memory.peek(&key(*number)).unwrap().variants.len());
            }
        }
    }
}

#[test]
fn the_bound_holds_and_nothing_tears_while_many_threads_work() {
    let bound = 2 << 20;
    let memory = memory(bound);
    std::thread::scope(|scope| {
        let work = |thread: u64| {
            let memory = &memory;
            move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..20_000 {
                    let (number, body) = (random.u16(0..60), random.usize(0..999));
                    let url = key(number.into());
                    match random.u8(0..10) {
                        0..4 => drop(memory.put(number.into(), usize::from(number) * 1000 + body)),
                        4 => drop(memory.remove(&url)),
                        5 => drop(memory.update(url, as_it_is)),
                        6 if random.u8(..) == 0 => memory.clear(),
                        _ => {
                            if let Some(found) = memory.get(&url) {
                                assert_eq!(length(&found) / 1000, u64::from(number));
                            }
                        }
                    }
                }
            }
        };
        let workers: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert!(memory.weight() <= bound);
        }
    });
    assert_eq!(memory.weight(), memory.weighed());
    let mut entries = 0;
    memory.for_each(|_, _| entries += 1);
    assert_eq!(memory.len(), entries);
    assert_eq!(memory.bytes.get(), i64::try_from(memory.weight()).unwrap());
    assert_eq!(memory.entries.get(), i64::try_from(memory.len()).unwrap());
}

#[test]
fn updates_at_once_lose_nothing() {
    let memory = memory(8 << 20);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let memory = &memory;
            scope.spawn(move || {
                let answer = variant(10, &thread.to_string());
                memory.update(key(1), |now| Some(now.cloned().unwrap_or_default().with(answer.clone())));
            });
        }
    });
    assert_eq!(memory.get(&key(1)).unwrap().variants.len(), 8);
}
