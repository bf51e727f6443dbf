//! What single steps of a request cost, apart from the network: `cargo bench`.
//!
//! Whole processes, beside nginx, are measured by `cargo xtask bench`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate::cache::Rules;
use tidegate::cache::key::{self, Target};
use tidegate::config::units::Share;
use tidegate::limit::{
    CommonSeats, Concurrency, ConcurrencyRule, Facts, KeyRule, Limit, Methods, Moment, Part, Rate, Rule,
};
use tidegate::route::{Pattern, Table, path};
use tidegate::telemetry::Meters;
use tidegate::upstream::{Affinity, Balance, HashKey, Settings, Sticky, StickySecret, Tried, Upstream};

fn main() {
    divan::main();
}

/// A path that is in its normal form, and one that has to be brought there.
#[divan::bench(args = ["/users/01941f29-7c00-7000-8000-000000000001", "/a/./b/../c%7Ed//e"])]
fn normal_form_of_a_path(raw: &str) -> usize {
    path::normalise(black_box(raw)).map_or(0, |path| path.len())
}

/// Finding a route among this many, each a prefix on a host of its own.
#[divan::bench(args = [10, 1000])]
fn finding_a_route(bencher: Bencher<'_, '_>, routes: usize) {
    let pattern = |index: usize| Pattern {
        host: format!("host-{index}.example.com").parse().expect("a host"),
        path: "/users/*".parse().expect("a path"),
        methods: None,
    };
    let table = Table::build((0..routes).map(|index| (pattern(index), index)).collect());
    let table = table.unwrap_or_else(|_| unreachable!("each host stands once"));
    let host = format!("host-{}.example.com", routes / 2);
    bencher.bench_local(|| table.find(black_box(&host), black_box("/users/1"), &Method::GET).copied().ok());
}

/// Charging a client, one of this many, each of whom has asked before. Says what they take.
#[divan::bench(args = [1, 100_000, 10_000_000])]
fn charging_a_limit(bencher: Bencher<'_, '_>, clients: u32) {
    let limit = wide_limit(KeyRule::client_ip());
    let fields = HeaderMap::new();
    let before = resident_mib();
    for client in 0..clients {
        let _ = limit.charge_at_once(&from(client, &fields));
    }
    eprintln!("{clients} clients asked: {} MiB more", resident_mib().saturating_sub(before));
    let mut next = 0;
    bencher.bench_local(move || {
        next = (next + 1) % clients;
        limit.charge_at_once(&from(black_box(next), &fields)).is_ok()
    });
}

/// What this process holds of the machine's memory.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0_u64) / 1024
}

/// The same by the value of a field, of this many bytes.
#[divan::bench(args = [16, 1024])]
fn charging_a_limit_by_field(bencher: Bencher<'_, '_>, size: usize) {
    let limit = wide_limit(KeyRule(vec![Part::Header(HeaderName::from_static("x-tenant"))]));
    let fields = HeaderMap::from_iter([(
        HeaderName::from_static("x-tenant"),
        HeaderValue::from_str(&"t".repeat(size)).expect("letters"),
    )]);
    bencher.bench_local(move || limit.charge_at_once(&from(1, black_box(&fields))).is_ok());
}

/// The same by so many threads at once, each with clients of its own.
#[divan::bench(threads = [1, 2, 8])]
fn charging_a_limit_together(bencher: Bencher<'_, '_>) {
    let limit = wide_limit(KeyRule::client_ip());
    let fields = HeaderMap::new();
    let next = AtomicU32::new(0);
    bencher.bench(|| {
        limit.charge_at_once(&from(next.fetch_add(1, Ordering::Relaxed) % 100_000, &fields)).is_ok()
    });
}

/// Taking a seat among those that are under way and giving it back, of a whole route and of one client, by so many threads.
#[divan::bench(args = [Part::Route, Part::ClientIp], threads = [1, 8])]
fn taking_a_seat(bencher: Bencher<'_, '_>, part: &Part) {
    let key = KeyRule(vec![part.clone()]);
    let rule = ConcurrencyRule { most: u32::MAX, key, methods: Methods::All, observe: false };
    let bounds = Concurrency::new("bench", &[rule], None, &mut CommonSeats::default(), &Meters::new());
    let (bounds, fields, next) = (bounds.expect("one rule"), HeaderMap::new(), AtomicU32::new(0));
    bencher.bench(|| {
        let mut seats = Vec::new();
        let client = next.fetch_add(1, Ordering::Relaxed) % 100_000;
        let entered = bounds.enter(&from(client, &fields), Moment::Came, &mut seats).is_ok();
        (entered, seats)
    });
}

fn wide_limit(key: KeyRule) -> Limit {
    let rate = Rate { count: u32::MAX / 2, per: Duration::from_secs(1), burst: u32::MAX / 2 };
    Limit::new("bench", Rule { key, ..Rule::per_client(rate) }, &Meters::new())
}

fn from(client: u32, fields: &HeaderMap) -> Facts<'_> {
    let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + client));
    Facts { client, method: &Method::GET, fields, caller: None }
}

/// Servers to choose among.
#[derive(Clone, Copy)]
struct Group {
    all: u16,
    /// How many of them may not be chosen.
    away: u16,
}

const GROUPS: [Group; 3] =
    [Group { all: 3, away: 0 }, Group { all: 1000, away: 0 }, Group { all: 1000, away: 900 }];

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { all, away: 0 } => write!(f, "{all}"),
            Self { all, away } => write!(f, "{all}, {away} of them away"),
        }
    }
}

/// Choosing among servers and letting go again: constant, whatever their number.
#[divan::bench(args = GROUPS)]
fn choosing_by_least_request(bencher: Bencher<'_, '_>, group: Group) {
    choosing(bencher, Balance::LeastRequest, group);
}

/// The same, one after the other.
#[divan::bench(args = GROUPS)]
fn choosing_by_round_robin(bencher: Bencher<'_, '_>, group: Group) {
    choosing(bencher, Balance::RoundRobin, group);
}

/// The same by what answers took; each tells what it took.
#[divan::bench(args = GROUPS)]
fn choosing_by_ewma(bencher: Bencher<'_, '_>, group: Group) {
    let upstream = upstream(Balance::Ewma { decay: Duration::from_secs(10) }, group);
    bencher.bench_local(|| {
        let lease = upstream.pick(&Tried::default(), Affinity::default());
        lease.map(|mut lease| lease.answered(black_box(Duration::from_millis(3)))).is_ok()
    });
}

/// The same by a key, within a bound.
#[divan::bench(args = GROUPS)]
fn choosing_by_hash(bencher: Bencher<'_, '_>, group: Group) {
    choosing(bencher, Balance::Hash { key: HashKey::Path, max_overload: Some(Share(25)) }, group);
}

/// The same by a cookie.
#[divan::bench(args = GROUPS)]
fn choosing_by_cookie(bencher: Bencher<'_, '_>, group: Group) {
    let upstream = upstream(Balance::LeastRequest, group);
    let first = upstream.pick(&Tried::default(), Affinity::default());
    let server = first.ok().and_then(|lease| lease.server().token());
    let affinity = Affinity { key: None, server };
    bencher.bench_local(|| upstream.pick(&Tried::default(), black_box(affinity)).is_ok());
}

fn choosing(bencher: Bencher<'_, '_>, balance: Balance, group: Group) {
    let upstream = upstream(balance, group);
    let mut key = 0_u64;
    bencher.bench_local(|| {
        key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        upstream.pick(&Tried::default(), Affinity { key: Some(key), server: None }).is_ok()
    });
}

fn upstream(balance: Balance, group: Group) -> Arc<Upstream> {
    let places: Vec<_> =
        (0..group.all).map(|index| format!("10.0.{}.{}:80", index / 250, index % 250)).collect();
    let settings = Settings::new("bench", places.iter().map(|place| (place.as_str(), 1)));
    let attributes = Sticky::attributes(Duration::ZERO, true, true, "Lax");
    let sticky = Sticky { cookie: "server".to_owned(), attributes, secret: StickySecret::OfProcess };
    let upstream =
        Upstream::new(Settings { balance, sticky: Some(sticky), ..settings }, None, &Meters::new());
    for place in places.iter().take(group.away.into()) {
        upstream.drain(place, true);
    }
    upstream
}

/// The key under which an answer is stored.
#[divan::bench]
fn key_of_an_answer() -> u8 {
    let target = Target {
        scheme: "https",
        host: black_box("api.example.com"),
        claims: "",
        path: black_box("/users/01941f29-7c00-7000-8000-000000000001"),
        query: Some("page=2"),
    };
    key::of(&Rules::default(), &target, &HeaderMap::new()).0[0]
}
