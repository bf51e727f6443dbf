//! Choosing a server and letting it go again takes nothing from the allocator, however many there are and whatever is looked at.

use std::hint::black_box;
use std::time::Duration;

use allocation_counter::measure;
use tidegate::config::units::Share;
use tidegate::telemetry::Meters;
use tidegate::upstream::{
    Affinity, Balance, CircuitBreaker, HashKey, Settings, Sticky, StickySecret, Tried, Upstream,
};

/// Every algorithm.
fn all_ways() -> [Balance; 5] {
    let hash = |max_overload| Balance::Hash { key: HashKey::Path, max_overload };
    [
        Balance::LeastRequest,
        Balance::RoundRobin,
        Balance::Ewma { decay: Duration::from_secs(10) },
        hash(None),
        hash(Some(Share(25))),
    ]
}

/// So many servers, with a breaker, cookies and slow start: all that a choice may look at.
fn settings(balance: Balance, servers: u16) -> Settings {
    let places: Vec<_> =
        (0..servers).map(|index| format!("10.0.{}.{}:80", index / 250, index % 250)).collect();
    let attributes = Sticky::attributes(Duration::ZERO, true, true, "Lax");
    Settings {
        balance,
        sticky: Some(Sticky { cookie: "server".to_owned(), attributes, secret: StickySecret::OfProcess }),
        breaker: Some(CircuitBreaker::default()),
        slow_start: Duration::from_secs(60),
        ..Settings::new("users", places.iter().map(|place| (place.as_str(), 1)))
    }
}

/// What a thousand picks take, the first not among them: threads have things of their own to make.
fn allocations(upstream: &Upstream) -> u64 {
    let token = upstream.pick(&Tried::default(), Affinity::default()).expect("a server").server().token();
    let counted = measure(|| {
        for key in 0..1000_u64 {
            let key = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut tried = Tried::default();
            for affinity in [Affinity { key, server: None }, Affinity { key: None, server: token }] {
                let mut lease = upstream.pick(&tried, affinity).expect("a server");
                tried.add(&lease);
                lease.answered(Duration::from_millis(1));
                lease.succeeded();
            }
        }
    });
    counted.count_total
}

#[test]
fn a_pick_allocates_nothing() {
    assert!(measure(|| drop(black_box(vec![0_u8; 100]))).count_total > 0, "what is taken is counted");
    for balance in all_ways() {
        for servers in [3, 1000] {
            let upstream = Upstream::new(settings(balance.clone(), servers), None, &Meters::new());
            assert_eq!(allocations(&upstream), 0, "{balance:?} of {servers}");
        }
    }
}

#[test]
fn nor_does_one_that_finds_few_who_may_be_chosen() {
    for balance in all_ways() {
        let upstream = Upstream::new(settings(balance.clone(), 1000), None, &Meters::new());
        for index in 0..900 {
            let place = format!("10.0.{}.{}:80", index / 250, index % 250);
            assert!(upstream.drain(&place, true).is_some(), "{place} is one of them");
        }
        assert_eq!(allocations(&upstream), 0, "{balance:?}");
    }
}
