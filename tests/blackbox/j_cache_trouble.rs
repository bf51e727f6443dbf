//! Redis in every kind of trouble: answers stay right and prompt, metrics and logs say what is wrong, and it heals.

use std::time::{Duration, Instant};

use crate::support::cached::{is_hit, look, numbered, status};
use crate::support::fleet::{found_in, join_all};
use crate::support::origin::Seen;
use crate::support::redis::{Passage, Redis, Way};
use crate::support::{Fleet, Node, PATIENCE, Reply, eventually, https, pass};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Killed,
    Stopped,
    Hole,
    Cut,
    Lies,
    Full,
    Forbidden,
    Flushed,
}

impl Trouble {
    fn begin(self, redis: &mut Redis, way: &Way) {
        match self {
            Self::Killed => redis.kill9(),
            Self::Stopped => redis.pause(),
            Self::Hole => way.set(Passage::Hole),
            Self::Cut => way.set(Passage::Cut),
            Self::Lies => way.set(Passage::Lies),
            Self::Full => drop(redis.cli(&["CONFIG", "SET", "maxmemory", "1"])),
            Self::Forbidden => {
                redis.cli(&["ACL", "SETUSER", "boss", "on", ">boss", "+@all", "~*", "&*"]);
                redis.cli(&["ACL", "SETUSER", "default", "-@all", "+ping", "+hello"]);
            }
            Self::Flushed => redis.flushall(),
        }
    }

    async fn end(self, redis: &mut Redis, way: &Way) {
        match self {
            Self::Killed => redis.restart().await,
            Self::Stopped => redis.resume(),
            Self::Hole => way.set(Passage::Cut),
            Self::Cut | Self::Lies | Self::Flushed => {}
            Self::Full => drop(redis.cli(&["CONFIG", "SET", "maxmemory", "0"])),
            Self::Forbidden => {
                let boss = ["--user", "boss", "--pass", "boss", "--no-auth-warning"];
                let said = redis.cli(&[&boss[..], &["ACL", "SETUSER", "default", "+@all"]].concat());
                assert!(said.contains("OK"), "{said}");
            }
        }
        way.set(Passage::Open);
    }

    /// Whether calls fail or the log of purges ends, so that the metrics must say so.
    fn fails_calls(self) -> bool {
        self != Self::Flushed
    }

    /// Whether connections are given up, which is logged, once, and once that they are back.
    fn is_away(self) -> bool {
        !matches!(self, Self::Full | Self::Forbidden | Self::Flushed)
    }
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_killed_and_it_heals() {
    endure(Trouble::Killed).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_stopped_in_its_tracks_and_it_heals() {
    endure(Trouble::Stopped).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_a_black_hole_and_it_heals() {
    endure(Trouble::Hole).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_cut_off_and_it_heals() {
    endure(Trouble::Cut).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_talking_nonsense_and_it_heals() {
    endure(Trouble::Lies).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_full_and_it_heals() {
    endure(Trouble::Full).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_closed_to_its_user_and_it_heals() {
    endure(Trouble::Forbidden).await;
}

#[tokio::test]
async fn answers_stay_right_while_redis_is_emptied_and_it_heals() {
    endure(Trouble::Flushed).await;
}

/// What a call may take here. A Redis that was ill is taken for well after three signs of life within it, and a machine that is
/// busy with other tests gives them later than an idle one.
const PATIENT: &str = "500ms";
/// The most calls that run into their patience until no more are made: a few find out that Redis is ill, and some were under
/// way meanwhile.
const LATE_MAX: f64 = 12.0;

async fn endure(trouble: Trouble) {
    let mut redis = Redis::start().await;
    let way = Way::to(redis.port).await;
    let (direct, by_way) = (redis.url(), way.url());
    let routes = "[routes.all]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n";
    let fleet = Fleet::over(&[&by_way, &direct], PATIENT, "", routes).await;
    let node = &fleet.nodes[0];
    let calls = async |outcome: &str| {
        node.gateway.metric(&format!("tidegate_redis_calls_total{{outcome=\"{outcome}\"}}")).await
    };
    let large = "0123456789".repeat(60_000);
    fleet.origin.answer("/held", Reply::ok(large.clone()));
    for _ in 0..2 {
        assert_eq!(node.get("/held").await.text(), large, "{trouble:?}");
    }

    let late_before = calls("timeout").await;
    trouble.begin(&mut redis, &way);
    let began = Instant::now();
    let mut failed = false;
    let mut count = 0;
    while count < 8 || (trouble.fails_calls() && !failed) {
        assert!(began.elapsed() < PATIENCE, "{trouble:?}: the metrics never say it");
        count += 1;
        let path = format!("/new/{count}");
        for _ in 0..2 {
            let answer = node.get(&path).await;
            assert_eq!((answer.status, answer.text()), (200, "one answers"), "{trouble:?}: {answer:?}");
        }
        let held = node.get("/held").await;
        assert!(held.status == 200 && held.text() == large, "{trouble:?}");
        // A log of purges that was lost makes all nodes forget, and so may a lie.
        let forgets = matches!(trouble, Trouble::Flushed | Trouble::Lies);
        assert!(forgets || found_in(&held) == "memory", "{trouble:?}: {}", status(&held));
        // A node that does not hear of purges asks Redis for nothing: where it has noticed first, no call fails.
        let hears = node.gateway.metric("tidegate_cache_purge_log_connected").await;
        failed = hears == 0.0 || calls("error").await + calls("timeout").await + calls("open").await > 0.0;
    }

    let late = calls("timeout").await - late_before;
    assert!(late <= LATE_MAX, "{trouble:?}: {late} calls were waited for in {count} rounds");
    if trouble == Trouble::Full {
        purges_reach(&fleet).await;
    }

    trouble.end(&mut redis, &way).await;
    for node in &fleet.nodes {
        node.joined().await;
    }
    let mut number = 0;
    eventually(PATIENCE, &format!("{trouble:?}: nodes share again"), async || {
        number += 1;
        let path = format!("/healed/{number}");
        for node in &fleet.nodes {
            assert_eq!(node.get(&path).await.text(), "one answers", "{trouble:?}");
        }
        fleet.origin.requests(&path) == 1
    })
    .await;
    heals(trouble, node).await;
}

/// Waits until nothing is wrong any more, and looks at what was said of it: each change once, and a few changes however many
/// calls failed. On a busy machine there may be more than the one that was brought about.
async fn heals(trouble: Trouble, node: &Node) {
    let said = |words: &str| node.gateway.output().matches(words).count();
    let away_and_back = || (said("redis is away"), said("redis is back"));
    // The second is in the first as well.
    let deaf_and_hearing =
        || (said("not hearing of other nodes' purges"), said("hearing of other nodes' purges"));
    eventually(PATIENCE, &format!("{trouble:?}: what was wrong is over, and said to be"), async || {
        let ((away, back), (deaf, hears)) = (away_and_back(), deaf_and_hearing());
        let open = node.gateway.metric("tidegate_redis_breaker_open").await;
        open == 0.0 && away == back && hears == 2 * deaf + 1
    })
    .await;
    let ((away, _), (deaf, _)) = (away_and_back(), deaf_and_hearing());
    assert!(away <= 8 && deaf <= 8, "{trouble:?}: {away} times away, {deaf} times deaf");
    // Who noticed that it is deaf asked for nothing, and so did not notice more.
    assert!(!trouble.is_away() || away + deaf > 0, "{trouble:?}");
}

/// The log is small, and written to however full Redis is.
async fn purges_reach(fleet: &Fleet) {
    let [one, other] = [&fleet.nodes[0], fleet.nodes.last().unwrap()];
    fleet.origin.answer_by("/purged", numbered(|_: &Seen| Reply::ok("body")));
    let number = async |node: &Node| node.get("/purged").await.field("x-number").unwrap().to_owned();
    for (from, to) in [(one, other), (other, one)] {
        let held = number(to).await;
        assert_eq!(number(to).await, held, "it is in memory");
        assert_eq!(from.purges("{\"url\": \"https://a.test/purged\"}").await, "told");
        eventually(PATIENCE, "the purge arrives", async || number(to).await != held).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_not_there_at_the_start_or_takes_nobody_in_is_done_without() {
    let redis = Redis::start().await;
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let way = Way::to(redis.port).await;
    way.set(Passage::Cut);
    let hole = Way::blackhole().await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "wrong").unwrap();
    let login = format!("username = \"default\", password = {{ file = {password:?} }}");
    let rows = [
        ("cut", way.url(), ""),
        ("hole", hole.url(), ""),
        ("none", redis.url(), ""),
        ("wrong", redis.url(), &login),
    ];
    Box::pin(join_all(rows.map(|(what, url, login)| async move {
        let mut fleet = Fleet::apart(&[], "", "", "").await;
        let comma = if login.is_empty() { "" } else { ", " };
        let config = format!(
            "{}redis = {{ url = {url:?}{comma}{login} }}\n[routes.all]\ncache = \"60s\"\nupstream = \"{}\"\n",
            https(&fleet.certs),
            fleet.origin.address()
        );
        fleet.nodes.push(Node::start(&config, &fleet.certs).await);
        let node = &fleet.nodes[0];
        for number in 0..20 {
            let path = format!("/{number}");
            for place in ["", "memory"] {
                let answer = node.get(&path).await;
                assert_eq!((answer.status, answer.text()), (200, "one answers"), "{what}: {answer:?}");
                assert_eq!(found_in(&answer), place, "{what}");
            }
        }
        let late = node.gateway.metric("tidegate_redis_calls_total{outcome=\"timeout\"}").await;
        assert!(late <= LATE_MAX, "{what}: {late} calls were waited for");
        assert_eq!(node.purges("{\"all\": true}").await, "later", "{what}");
        assert!(!is_hit(&node.get("/1").await), "{what}: purged here all the same");
        let told = async || node.gateway.output().contains("not hearing of other nodes' purges");
        eventually(PATIENCE, "it is told", told).await;
        assert_eq!(node.gateway.admin_get("/ready").await.status, 200, "{what}");
    })))
    .await;
}

#[tokio::test]
async fn a_user_that_may_do_what_the_manual_lists_is_enough() {
    let manual = include_str!("../../docs/operations.md");
    let list = manual.lines().find_map(|line| line.strip_prefix("ACL SETUSER tidegate on >PASSWORD "));
    let redis = Redis::start().await;
    let user = ["ACL", "SETUSER", "tidegate", "on", ">right"].into_iter();
    redis.cli(&user.chain(list.unwrap().split(' ')).collect::<Vec<_>>());
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "right").unwrap();
    let mut fleet = Fleet::apart(&[], "", "", "").await;
    let (url, origin) = (redis.url(), fleet.origin.address());
    let table = format!(
        "redis = {{ url = {url:?}, timeout = \"10s\", username = \"tidegate\", password = {{ file = {password:?} }} }}"
    );
    let route = format!("[routes.all]\ncache = \"60s\"\nupstream = \"{origin}\"");
    for _ in 0..2 {
        let config = format!("{}{table}\n{route}\n", https(&fleet.certs));
        fleet.nodes.push(Node::start(&config, &fleet.certs).await);
    }
    let large = "0123456789".repeat(60_000);
    fleet.origin.answer("/large", Reply::ok(large.clone()).field("etag", "\"1\""));
    for (node, place) in fleet.nodes.iter().zip(["", "redis"]) {
        node.joined().await;
        let answer = node.get("/large").await;
        assert!(answer.text() == large && found_in(&answer) == place, "{}", status(&answer));
    }
    purges_reach(&fleet).await;
    let refused = redis.cli(&["INFO", "errorstats"]);
    assert!(!refused.contains("NOPERM"), "{refused}\n{}", redis.cli(&["ACL", "LOG"]));
}

#[tokio::test]
async fn a_redis_that_comes_later_is_joined() {
    let redis = Redis::start().await;
    let way = Way::to(redis.port).await;
    way.set(Passage::Cut);
    let (direct, by_way) = (redis.url(), way.url());
    let routes = "[routes.all]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n";
    let fleet = Fleet::apart(&[&direct, &by_way], "1s", "", routes).await;
    fleet.nodes[0].joined().await;
    for node in &fleet.nodes {
        assert_eq!(node.get("/a").await.status, 200);
    }
    assert_eq!(fleet.origin.requests("/a"), 2);
    way.set(Passage::Open);
    fleet.nodes[1].joined().await;
    fleet.nodes[0].get("/b").await;
    eventually(PATIENCE, "they share", async || {
        fleet.nodes[1].purges("{\"url\": \"https://a.test/b\"}").await;
        fleet.nodes[1].get("/b").await;
        found_in(&fleet.nodes[0].get("/b").await) == "redis"
    })
    .await;
}

// ── what lies in Redis ──────────────────────────────────────────────────────────────────────────────────────────

/// What a test makes of the keys of a URL.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Head(&'static str),
    HeadByte(usize),
    Version(&'static str),
    OtherKind,
    ChunkGone,
    ChunkByte(usize),
    Swapped,
}

#[tokio::test]
async fn what_cannot_be_read_is_fetched_and_put_right() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = \"60s\"").await;
    let all = [
        Damage::Head(""),
        Damage::Head("garbage"),
        // The version.
        Damage::HeadByte(3),
        Damage::HeadByte(4),
        Damage::HeadByte(12),
        Damage::HeadByte(20),
        Damage::HeadByte(33),
        Damage::HeadByte(60),
        Damage::Version("x"),
        Damage::Version("99999999999999999999999"),
        Damage::Version("-1"),
        Damage::OtherKind,
        Damage::ChunkGone,
        Damage::ChunkByte(2),
        Damage::ChunkByte(100_000),
        Damage::Swapped,
    ];
    let body = "0123456789".repeat(60_000);
    for (at, damage) in all.into_iter().enumerate() {
        let path = format!("/{at}");
        fleet.origin.answer_by(
            &path,
            numbered({
                let body = body.clone();
                move |_: &Seen| Reply::ok(body.clone())
            }),
        );
        let before = heads(&redis);
        fleet.nodes[0].get(&path).await;
        let mut key = None;
        eventually(PATIENCE, "it is shared", async || {
            key = heads(&redis).into_iter().find(|key| !before.contains(key));
            key.is_some()
        })
        .await;
        let key = key.unwrap();
        harm(&redis, &key, damage);
        let asked = Instant::now();
        let answer = fleet.nodes[1].get(&path).await;
        assert!(answer.status == 200 && answer.text() == body, "{damage:?}: {}", status(&answer));
        assert!(asked.elapsed() < Duration::from_secs(5), "{damage:?}: {:?}", asked.elapsed());
        assert_eq!(found_in(&fleet.nodes[1].get(&path).await), "memory", "{damage:?}");
        // Where only its version is damaged, or what was there is intact, it may be served as it is.
        let asked = fleet.origin.requests(&path);
        assert!((1..=2).contains(&asked), "{damage:?}: {asked} requests");
    }
    let unreadable = fleet.nodes[1].gateway.metric("tidegate_redis_unreadable_total").await;
    assert!(unreadable >= 9.0, "{unreadable}");
    assert_eq!(fleet.nodes[1].gateway.metric("tidegate_redis_breaker_open").await, 0.0);
}

/// The keys of all URLs.
fn heads(redis: &Redis) -> Vec<String> {
    redis.cli(&["KEYS", "tidegate:{*}"]).lines().map(str::to_owned).collect()
}

fn harm(redis: &Redis, key: &str, damage: Damage) {
    let fields = redis.cli(&["HKEYS", key]);
    let field = fields.lines().find(|field| *field != "v").unwrap().to_owned();
    let chunks = redis.cli(&["KEYS", &format!("{key}:b:*")]);
    let mut chunks: Vec<_> = chunks.lines().map(str::to_owned).collect();
    chunks.sort_unstable();
    assert_eq!(chunks.len(), 3, "{chunks:?}");
    // Bytes are changed inside, as they are no text to send.
    let flip_hash = "local h = redis.call('HGET', KEYS[1], ARGV[1]); local at = tonumber(ARGV[2]); \
        local b = string.char(bit.bxor(string.byte(h, at + 1), 85)); \
        return redis.call('HSET', KEYS[1], ARGV[1], string.sub(h, 1, at) .. b .. string.sub(h, at + 2))";
    let flip = "local b = string.char(bit.bxor(string.byte(redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[1])), 85)); \
        return redis.call('SETRANGE', KEYS[1], ARGV[1], b)";
    let swap = "local a, b = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]); \
        redis.call('SET', KEYS[1], b); return redis.call('SET', KEYS[2], a)";
    let said = match damage {
        Damage::Head(text) => redis.cli(&["HSET", key, &field, text]),
        Damage::HeadByte(at) => redis.cli(&["EVAL", flip_hash, "1", key, &field, &at.to_string()]),
        Damage::Version(text) => redis.cli(&["HSET", key, "v", text]),
        Damage::OtherKind => redis.cli(&["SET", key, "text"]),
        Damage::ChunkGone => redis.cli(&["DEL", &chunks[1]]),
        Damage::ChunkByte(at) => redis.cli(&["EVAL", flip, "1", &chunks[0], &at.to_string()]),
        Damage::Swapped => redis.cli(&["EVAL", swap, "2", &chunks[0], &chunks[1]]),
    };
    assert!(!said.contains("ERR"), "{damage:?}: {said}");
}

// ── blind ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn memory_is_trusted_for_as_long_as_blind_max_says_and_again_afterwards() {
    let servers = [Redis::start().await, Redis::start().await];
    let ways = [Way::to(servers[0].port).await, Way::to(servers[1].port).await];
    let urls = ways.each_ref().map(Way::url);
    let routes = "[routes.all]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n";
    let fleet = Fleet::over(&[&urls[0]], PATIENT, "cache.blind_max = \"1500ms\"", routes).await;
    let other = Fleet::over(&[&urls[1]], PATIENT, "", routes).await;
    for (fleet, way) in [(&fleet, &ways[0]), (&other, &ways[1])] {
        let reply = numbered(|seen: &Seen| match seen.field("if-none-match") {
            Some(_) => Reply::new(304, "").field("etag", "\"1\""),
            None => Reply::ok("body").field("etag", "\"1\""),
        });
        fleet.origin.answer_by("/a", reply);
        assert_eq!(fleet.nodes[0].get("/a").await.text(), "body");
        way.set(Passage::Cut);
        fleet.nodes[0].left().await;
    }
    let began = Instant::now();
    let hit = async |node: &Node| is_hit(&node.get("/a").await);
    assert!(hit(&fleet.nodes[0]).await || began.elapsed() > Duration::from_secs(1));
    // What was confirmed is trusted for as long again.
    eventually(PATIENCE, "a look says that it would ask", async || {
        let seen = look(&fleet.nodes[0].gateway, "/a", &[]).await;
        seen["verdict"]["why"].as_str().is_some_and(|why| why.contains("`blind_max`"))
    })
    .await;
    eventually(PATIENCE, "it asks", async || !hit(&fleet.nodes[0]).await).await;
    eventually(PATIENCE, "it is trusted again", async || hit(&fleet.nodes[0]).await).await;
    assert!(hit(&other.nodes[0]).await, "the usual is far longer");
    ways[0].set(Passage::Open);
    fleet.nodes[0].joined().await;
    pass(Duration::from_millis(1600)).await;
    assert!(hit(&fleet.nodes[0]).await, "it hears again");
}
