//! Clients are shown what they wrote, whatever lies in the cache and however far replicas lag behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::support::cached::{ask, get, is_hit, status};
use crate::support::client::Answer;
use crate::support::fleet::{Node, found_in};
use crate::support::origin::Seen;
use crate::support::redis::Redis;
use crate::support::{Cached, Client, Fleet, Gate, Gateway, PATIENCE, Reply, eventually, must};

const BOTH: &str = "cache.read_your_writes = \"both\"";
const CACHED: &str = "[routes.all]\ncache = true\nupstream = \"ORIGIN\"\n";
const OWN_WRITE: &str = "tidegate; fwd=request; fwd-status=200; stored; detail=own-write";

/// A primary, and a replica that replays nothing until it is told to. Who brings a token is answered by the replica only
/// if that has replayed as much.
#[derive(Default)]
struct Lagging {
    written: AtomicU64,
    replayed: AtomicU64,
    ill: AtomicBool,
}

impl Lagging {
    fn answer(&self, seen: &Seen, fields: &str) -> Reply {
        if !matches!(seen.method.as_str(), "GET" | "HEAD") {
            let token = format!("p{}", self.written.fetch_add(1, SeqCst) + 1);
            return Reply::ok("written").field("last-seen", &token);
        }
        if self.ill.load(SeqCst) {
            return Reply::new(503, "ill");
        }
        let tokens = seen.all("last-seen").join(",");
        let wanted = tokens.split(',').filter_map(|token| token.trim().strip_prefix('p')?.parse().ok()).max();
        let replayed = self.replayed.load(SeqCst);
        let version = if wanted > Some(replayed) { self.written.load(SeqCst) } else { replayed };
        let tag = format!("\"{version}\"");
        let confirmed = seen.field("if-none-match").is_some_and(|tags| tags.contains(&tag));
        let reply = if confirmed { Reply::new(304, "") } else { Reply::ok(format!("version {version}")) };
        reply.field("cache-control", fields).field("etag", &tag).field("last-seen", "of-a-read")
    }

    /// Answers these paths, each with this `Cache-Control`.
    fn at(origin: &crate::support::Origin, paths: &[(&str, &'static str)]) -> Arc<Self> {
        let database = Arc::new(Self::default());
        for (path, fields) in paths {
            let (database, fields) = (database.clone(), *fields);
            origin.answer_by(path, move |seen| database.answer(seen, fields));
        }
        database
    }
}

/// Writes, and gives the marker of that.
async fn write(client: &Client, path: &str) -> String {
    let answer = must(path, ask(client, "POST", path, &[])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.field("last-seen").unwrap().to_owned()
}

/// The cookie that a write was answered with, as a browser sends it.
fn cookie(answer: &Answer) -> &str {
    answer.field("set-cookie").unwrap().split(';').next().unwrap()
}

#[tokio::test]
async fn who_wrote_is_shown_nothing_older_and_others_profit() {
    let cached = Cached::over(BOTH, CACHED).await;
    let database = Lagging::at(&cached.origin, &[("/list", "max-age=60"), ("/user", "max-age=60")]);
    assert_eq!(get(&cached.http1, "/list", &[]).await.text(), "version 0");
    for (client, version) in [(&cached.http1, "version 1"), (&cached.http2, "version 2")] {
        let answer = ask(client, "POST", "/user", &[]).await;
        let marker = answer.field("last-seen").unwrap();
        assert!(marker.starts_with("tide."), "{marker}");
        let ways = [("last-seen", marker), ("cookie", cookie(&answer))];
        assert!(is_hit(&get(client, "/list", &[]).await), "who wrote nothing is served what there is");
        let first = get(client, "/list", &ways[..1]).await;
        assert_eq!((first.text(), status(&first)), (version, OWN_WRITE));
        for way in ways {
            let again = get(client, "/list", &[way]).await;
            assert_eq!((again.text(), is_hit(&again)), (version, true), "{}", status(&again));
        }
        let other = get(client, "/list", &[]).await;
        assert_eq!((other.text(), is_hit(&other)), (version, true));
        assert_eq!(other.field("last-seen"), None, "what one read was told is not for others");
    }
    database.replayed.store(2, SeqCst);
    assert_eq!(cached.gateway.count("tidegate_cache_own_writes_total{event=\"given\"}").await, 2);
    assert_eq!(cached.gateway.count("tidegate_cache_own_writes_total{event=\"skipped\"}").await, 2);
    assert_eq!(cached.gateway.count("tidegate_cache_own_writes_total{event=\"shown\"}").await, 6);
}

#[tokio::test]
async fn what_a_write_outdates_is_not_filled_from_a_replica_that_lags_behind() {
    let cached = Cached::over(BOTH, CACHED).await;
    Lagging::at(
        &cached.origin,
        &[("/user", "max-age=60"), ("/checked", "no-cache"), ("/other", "max-age=60")],
    );
    for path in ["/user", "/checked"] {
        assert_eq!(get(&cached.http1, path, &[]).await.text(), "version 0");
    }
    write(&cached.http1, "/user").await;
    let filled = get(&cached.http2, "/user", &[]).await;
    assert_eq!((filled.text(), is_hit(&filled)), ("version 1", false), "{}", status(&filled));
    // A replica that lags behind would confirm what is outdated.
    let checked = get(&cached.http2, "/checked", &[]).await;
    assert_eq!(checked.text(), "version 1", "{}", status(&checked));
    let head = ask(&cached.http2, "HEAD", "/other", &[]).await;
    assert_eq!(head.field("etag"), Some("\"1\""));
    let sent: Vec<_> = cached.origin.seen().iter().map(|seen| seen.all("last-seen").join("|")).collect();
    assert_eq!(sent, ["", "", "", "p1", "p1", "p1"]);
}

#[tokio::test]
async fn no_window_and_no_way_of_asking_shows_who_wrote_what_was_before() {
    const STALE: &str = "max-age=0, stale-while-revalidate=60, stale-if-error=60";
    let cached = Cached::over(BOTH, CACHED).await;
    let paths = [("/fresh", "max-age=60, stale-if-error=60"), ("/stale", STALE), ("/user", "max-age=60")];
    let database = Lagging::at(&cached.origin, &paths);
    let client = &cached.http1;
    for (path, _) in &paths[..2] {
        assert_eq!(get(client, path, &[]).await.text(), "version 0");
    }
    let marker = write(client, "/user").await;
    let mark = ("last-seen", marker.as_str());
    let alone = get(client, "/fresh", &[mark, ("cache-control", "only-if-cached")]).await;
    assert_eq!(alone.status, 504);
    database.ill.store(true, SeqCst);
    for path in ["/fresh", "/stale"] {
        assert_eq!(get(client, path, &[mark]).await.status, 503, "{path}: nothing older in its place");
        assert_eq!(ask(client, "HEAD", path, &[mark]).await.status, 503, "{path}");
        assert_eq!(get(client, path, &[]).await.text(), "version 0", "{path}");
    }
    database.ill.store(false, SeqCst);
    let head = ask(client, "HEAD", "/fresh", &[mark]).await;
    assert_eq!(head.field("etag"), Some("\"1\""));
    let part = get(client, "/fresh", &[mark, ("range", "bytes=8-8")]).await;
    assert!(part.text().ends_with('1'), "{part:?}");
    assert_eq!(get(client, "/stale", &[mark, ("cache-control", "max-stale")]).await.text(), "version 1");
    let condition = [mark, ("if-none-match", "\"0\"")];
    assert_eq!(get(client, "/fresh", &condition).await.status, 200);
}

#[tokio::test]
async fn who_wrote_does_not_share_a_fetch_that_began_before() {
    let cached = Cached::over(BOTH, CACHED).await;
    let database = Arc::new(Lagging::default());
    let (gate, first) = (Gate::closed(), AtomicBool::new(true));
    let (shared, closed) = (database.clone(), gate.clone());
    cached.origin.answer_by("/list", move |seen| {
        let reply = shared.answer(seen, "max-age=60");
        if first.swap(false, SeqCst) { reply.behind(&closed) } else { reply }
    });
    let shared = database.clone();
    cached.origin.answer_by("/user", move |seen| shared.answer(seen, "max-age=60"));
    let reads = async {
        eventually(PATIENCE, "the first is under way", async || cached.origin.requests("/list") == 1).await;
        let marker = write(&cached.http2, "/user").await;
        let mine = get(&cached.http2, "/list", &[("last-seen", &marker)]).await;
        assert_eq!(mine.text(), "version 1", "{}", status(&mine));
        gate.open();
        marker
    };
    let before = get(&cached.http1, "/list", &[]);
    let (before, marker) = Box::pin(must("both are answered", async { tokio::join!(before, reads) })).await;
    assert_eq!(before.text(), "version 0");
    // Whichever was stored last: who wrote is served nothing older.
    let mine = get(&cached.http2, "/list", &[("last-seen", &marker)]).await;
    assert_eq!(mine.text(), "version 1", "{}", status(&mine));
}

#[tokio::test]
async fn cookies_are_for_browsers_over_tls_and_go_no_further() {
    let cached =
        Cached::over("cache.read_your_writes = \"cookie\"\ncache.read_your_writes_for = \"30s\"", CACHED)
            .await;
    Lagging::at(&cached.origin, &[("/user", "max-age=60")]);
    let answer = ask(&cached.http1, "POST", "/user", &[]).await;
    assert_eq!(answer.field("last-seen"), Some("p1"), "the field is the server's");
    let set = answer.field("set-cookie").unwrap();
    assert!(set.starts_with("__Host-tide-") && set.contains("=tide."), "{set}");
    assert!(set.ends_with("; Path=/; Max-Age=30; Secure; HttpOnly; SameSite=Lax"), "{set}");
    let cookies = format!("{}; a=1", cookie(&answer));
    assert_eq!(get(&cached.http1, "/user", &[("cookie", &cookies)]).await.text(), "version 1");
    assert_eq!(cached.origin.seen().last().unwrap().all("cookie"), ["a=1"]);
    get(&cached.http1, "/nothing-known", &[("cookie", cookie(&answer))]).await;
    assert!(cached.origin.seen().last().unwrap().all("cookie").is_empty());
}

#[tokio::test]
async fn what_is_no_marker_of_ours_is_passed_over_and_counted() {
    let named =
        "[upstreams.named]\nservers = [\"ORIGIN\"]\n[routes.all]\ncache = true\nupstream = \"named\"\n";
    let cached = Cached::over(BOTH, named).await;
    Lagging::at(&cached.origin, &[("/list", "max-age=60"), ("/user", "max-age=60")]);
    get(&cached.http1, "/list", &[]).await;
    let other = Cached::over(BOTH, named).await;
    Lagging::at(&other.origin, &[("/user", "max-age=60")]);
    let foreign = write(&other.http1, "/user").await;
    let own = write(&cached.http1, "/user").await;
    // What seals it may be a node's that has not been heard of yet: nobody is shown less than they may have written.
    let shown = get(&cached.http1, "/list", &[("last-seen", &foreign)]).await;
    assert_eq!((shown.text(), status(&shown)), ("version 1", OWN_WRITE));
    let (touched, long) = (format!("{own}A"), format!("tide.{}", "A".repeat(4000)));
    for (number, wrong) in [touched.as_str(), &long, "tide.", "tide.\u{e9}"].iter().enumerate() {
        let answer = get(&cached.http1, "/list", &[("last-seen", wrong)]).await;
        assert_eq!((answer.status, is_hit(&answer)), (200, true), "{wrong}");
        let refused = cached.gateway.count("tidegate_cache_own_writes_total{event=\"refused\"}").await;
        assert_eq!(refused, number as u64 + 2, "{wrong}");
    }
    let many = vec!["tide.x"; 100].join(",");
    assert!(is_hit(&get(&cached.http1, "/list", &[("last-seen", &many)]).await));
}

#[tokio::test]
async fn a_token_of_the_servers_own_goes_on_to_it_and_without_the_key_all_is_as_it_was() {
    for (top, own) in [("", true), (BOTH, false)] {
        let cached = Cached::over(top, CACHED).await;
        Lagging::at(&cached.origin, &[("/list", "max-age=60"), ("/user", "max-age=60")]);
        let written = ask(&cached.http1, "POST", "/user", &[]).await;
        assert_eq!(written.field("last-seen") == Some("p1"), own);
        assert_eq!(written.field("set-cookie").is_none(), own);
        let read = get(&cached.http1, "/list", &[("last-seen", "p1")]).await;
        assert_eq!((read.text(), read.field("last-seen")), ("version 1", Some("of-a-read")));
        assert_eq!(cached.origin.seen().last().unwrap().all("last-seen"), ["p1"]);
        assert_eq!(get(&cached.http1, "/list", &[]).await.field("last-seen").is_some(), own);
    }
}

#[tokio::test]
async fn writes_that_change_nothing_that_is_kept_get_no_marker() {
    let routes = "[routes.all]\nupstream = \"ORIGIN\"\n";
    let cached = Cached::over(BOTH, routes).await;
    for (path, reply, given) in [
        ("/plain", Reply::ok(""), false),
        ("/failed", Reply::new(409, "").field("last-seen", "p1"), false),
        ("/date", Reply::ok("").field("last-seen", "Fri, 27 Nov 2026 00:00:00 GMT"), false),
        ("/token", Reply::ok("").field("last-seen", "p1"), true),
    ] {
        cached.origin.answer(path, reply);
        let answer = ask(&cached.http1, "POST", path, &[]).await;
        let marked = answer.field("last-seen").is_some_and(|it| it.starts_with("tide."));
        assert_eq!((marked, answer.field("set-cookie").is_some()), (given, given), "{path}");
    }
}

// ── the fleet ───────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_marker_holds_at_every_node_and_what_nodes_share_is_judged_by_it() {
    let redis = Redis::start().await;
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url, &url], crate::support::fleet::PATIENT, BOTH, CACHED).await;
    Lagging::at(&fleet.origin, &[("/list", "max-age=60"), ("/user", "max-age=60")]);
    let keys = async || redis.cli(&["EXISTS", "tidegate:marker-key"]).trim() == "1";
    eventually(PATIENCE, "nodes have a key in common", keys).await;
    for node in &fleet.nodes {
        assert_eq!(node.get("/list").await.text(), "version 0");
        assert_eq!(node.get("/user").await.text(), "version 0");
    }
    let marker = write(&fleet.nodes[0].client, "/user").await;
    let mark = [("last-seen", marker.as_str())];
    let first = fleet.nodes[1].get_with("/list", &mark).await;
    assert_eq!(first.text(), "version 1", "{}", status(&first));
    // Once a node has heard of the write, it knows with which token to ask; and what then is stored serves all.
    let shared = async || {
        let answer = fleet.nodes[1].get_with("/list", &mark).await;
        assert_eq!(answer.text(), "version 1", "{}", status(&answer));
        is_hit(&answer)
    };
    eventually(PATIENCE, "what is stored serves who wrote", shared).await;
    let taken = async || {
        let answer = fleet.nodes[2].get_with("/list", &mark).await;
        assert_eq!(answer.text(), "version 1", "{}", status(&answer));
        found_in(&answer) == "memory"
    };
    eventually(PATIENCE, "another node takes it", taken).await;
    for node in &fleet.nodes {
        let fresh = async || node.get("/user").await.text() == "version 1";
        eventually(PATIENCE, "what was outdated goes", fresh).await;
        assert_eq!(node.get("/user").await.text(), "version 1");
    }
    for seen in fleet.origin.seen().iter().filter(|seen| seen.method == "GET").skip(2) {
        assert_eq!(seen.all("last-seen"), ["p1"], "{}", seen.target);
    }
}

#[tokio::test]
async fn nodes_agree_on_a_key_once_they_make_markers_and_not_before() {
    let redis = Redis::start().await;
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url], crate::support::fleet::PATIENT, "", CACHED).await;
    Lagging::at(&fleet.origin, &[("/list", "max-age=60"), ("/user", "max-age=60")]);
    assert_eq!(fleet.nodes[0].get("/list").await.text(), "version 0");
    assert_eq!(redis.cli(&["EXISTS", "tidegate:marker-key"]), "0", "nobody makes markers");

    for Node { gateway, .. } in &fleet.nodes {
        gateway.rewrite(&format!("{BOTH}\n{}", gateway.written()));
        let (code, printed) = Gateway::run(&["reload", "--admin", &gateway.admin().to_string()]).await;
        assert_eq!(code, Some(0), "{printed}");
        assert_eq!(redis.cli(&["EXISTS", "tidegate:marker-key"]), "1");
    }
    let marker = write(&fleet.nodes[0].client, "/user").await;
    let answer = fleet.nodes[1].get_with("/list", &[("last-seen", &marker)]).await;
    assert_eq!(answer.text(), "version 1", "{}", status(&answer));
}

#[tokio::test]
async fn without_redis_who_wrote_is_answered_by_the_origin() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url], "1s", BOTH, CACHED).await;
    let database = Lagging::at(&fleet.origin, &[("/list", "max-age=60"), ("/user", "max-age=60")]);
    let before = write(&fleet.nodes[0].client, "/user").await;
    for node in &fleet.nodes {
        let agreed = async || node.get_with("/list", &[("last-seen", &before)]).await.text() == "version 1";
        eventually(PATIENCE, "nodes have a key in common", agreed).await;
    }
    redis.kill9();
    for node in &fleet.nodes {
        node.left().await;
    }
    let marker = write(&fleet.nodes[0].client, "/user").await;
    for node in [1, 0, 1] {
        let answer = fleet.nodes[node].get_with("/list", &[("last-seen", &marker)]).await;
        assert_eq!((answer.text(), is_hit(&answer)), ("version 2", false), "{}", status(&answer));
    }
    assert_eq!(database.written.load(SeqCst), 2);
}
