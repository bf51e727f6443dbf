//! What decides which server a request goes to besides weights: keys, cookies, tiers, drains, warmth.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::{
    Answer, Certs, Client, Gate, Gateway, Issuer, Origin, PATIENCE, Reply, eventually, group, https,
};

const URL: &str = "https://a.test/";

/// So many origins, called `0`, `1`, …
async fn origins(count: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for number in 0..count {
        origins.push(Origin::start(&number.to_string()).await);
    }
    origins
}

fn at(origin: &Origin) -> String {
    origin.address().to_string()
}

fn addresses(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(at).collect()
}

fn backup(origin: &Origin) -> String {
    format!(r#"{{ address = "{}", backup = true }}"#, at(origin))
}

/// Asks with these fields; the answer, which must be a 200.
async fn ask(client: &Client, url: &str, fields: &[(&str, &str)]) -> Answer {
    let request = client.request("GET", url);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = client.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

fn server(answer: &Answer) -> usize {
    answer.field("served-by").unwrap().parse().unwrap()
}

/// The servers that answer so many requests of this kind.
async fn servers(client: &Client, url: &str, fields: &[(&str, &str)], times: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for _ in 0..times {
        found.insert(server(&ask(client, url, fields).await));
    }
    found
}

/// The cookie that an answer sets, as a client sends it back.
fn cookie(answer: &Answer) -> Option<String> {
    let set = answer.all("set-cookie");
    assert!(set.len() <= 1, "{set:?}");
    Some(set.first()?.split(';').next()?.to_owned())
}

/// `tidegate drain`: its exit code and what it printed.
async fn drain(gateway: &Gateway, words: &[&str]) -> (Option<i32>, String) {
    let admin = gateway.admin().to_string();
    Gateway::run(&[&["drain"], words, &["--admin", &admin]].concat()).await
}

// ── hash ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn hash_sends_what_has_the_same_key_to_the_same_server() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(4).await;
    for (key, fields) in [
        ("path", ["x-any", "x-any"]),
        ("header:X-Tenant", ["x-tenant", "cookie"]),
        ("cookie:tenant", ["cookie", "x-tenant"]),
    ] {
        let settings = format!(r#"balance = {{ algorithm = "hash", key = "{key}" }}"#);
        let gateway = Gateway::start(&group(&certs, &addresses(&origins), &settings)).await;
        let (one, two) = (Client::http1(&gateway, &certs), Client::http2(&gateway, &certs));
        let mut chosen = BTreeMap::new();
        for tenant in 0..24 {
            let (url, value) = match key {
                "path" => (format!("https://a.test/{tenant}"), "same".to_owned()),
                "cookie:tenant" => (URL.to_owned(), format!("a=1; tenant={tenant}; b=2")),
                _ => (URL.to_owned(), tenant.to_string()),
            };
            let noise = (fields[1], "tenant=1; x=y");
            let first = servers(&one, &url, &[(fields[0], &value)], 3).await;
            let more: &[_] = if fields[0] == fields[1] { &[] } else { &[noise] };
            let then =
                servers(&two, &(url + "?any=query"), &[&[(fields[0], &*value)], more].concat(), 3).await;
            assert_eq!((first.len(), &first), (1, &then), "{key} {tenant}");
            chosen.insert(tenant, first);
        }
        let all: BTreeSet<_> = chosen.into_values().flatten().collect();
        assert!(all.len() > 2, "{key}: {all:?}");
    }
}

#[tokio::test]
async fn hash_goes_by_what_is_vouched_for_of_the_caller() {
    let (certs, issuer) = (Certs::for_names(&["a.test"]), Issuer::start().await);
    let origins = origins(4).await;
    let settings = r#"balance = { algorithm = "hash", key = "jwt:org.tenant" }"#;
    let group = group(&certs, &addresses(&origins), settings);
    let gateway = Gateway::start(&(group + "auth = \"idp\"\n" + &issuer.provider(""))).await;
    let (one, two) = (Client::http1(&gateway, &certs), Client::http2(&gateway, &certs));
    let bearer = |sub: &str, tenant: usize| {
        format!("Bearer {}", issuer.token(json!({ "sub": sub, "org": { "tenant": tenant } })))
    };
    let mut all = BTreeSet::new();
    for tenant in 0..24 {
        let ada = servers(&one, URL, &[("authorization", &bearer("ada", tenant))], 3).await;
        let bob = servers(&two, URL, &[("authorization", &bearer("bob", tenant))], 3).await;
        assert_eq!((ada.len(), &ada), (1, &bob), "{tenant}");
        all.extend(ada);
    }
    assert!(all.len() > 2, "{all:?}");
}

#[tokio::test]
async fn hash_goes_by_the_client_and_takes_another_server_while_its_own_is_away() {
    let certs = Certs::for_names(&["a.test"]);
    let mut origins = origins(3).await;
    let settings =
        "balance = \"hash\"\nretries = { attempts = 3 }\noutlier_detection = { consecutive_errors = 1 }";
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), settings)).await;
    let client = Client::http2(&gateway, &certs);
    let mine = *servers(&client, URL, &[], 10).await.first().unwrap();
    assert_eq!(servers(&Client::http1(&gateway, &certs), URL, &[], 10).await, BTreeSet::from([mine]));

    origins[mine].stop().await;
    let other = servers(&client, URL, &[], 10).await;
    assert!(other.len() == 1 && !other.contains(&mine), "{other:?}");
}

#[tokio::test]
async fn a_key_that_is_hot_is_shared_once_its_server_has_more_than_its_bound() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(3).await;
    let gate = Gate::closed();
    for origin in &origins {
        origin.answer("/hot", Reply::ok("at last").behind(&gate));
    }
    let settings = r#"balance = { algorithm = "hash", key = "path", max_overload = "20%" }"#;
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), settings)).await;
    let client = Client::http2(&gateway, &certs);
    let hot: Vec<_> = (0..60).map(|_| tokio::spawn(client.get_later("https://a.test/hot"))).collect();
    let seen = |origin: &Origin| origin.requests("/hot");
    eventually(PATIENCE, "all are there", async || origins.iter().map(seen).sum::<usize>() == 60).await;

    let counts: Vec<_> = origins.iter().map(seen).collect();
    assert!(counts.iter().all(|count| *count <= 24), "a fifth more than 20 each: {counts:?}");
    gate.open();
    for one in hot {
        assert_eq!(one.await.unwrap().status, 200);
    }
    assert_eq!(servers(&client, "https://a.test/hot", &[], 10).await.len(), 1, "one at a time");
}

// ── ewma ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn ewma_leaves_a_slow_server_alone() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    // So much slower that no pause of a busy machine makes up for it.
    origins[0].answer("/", Reply::ok("slow").after(std::time::Duration::from_secs(2)));
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), r#"balance = "ewma""#)).await;
    let client = Client::http2(&gateway, &certs);
    let is_known = async || server(&ask(&client, URL, &[]).await) == 0;
    eventually(PATIENCE, "it was asked once", is_known).await;

    assert_eq!(servers(&client, URL, &[], 30).await, BTreeSet::from([1]));
}

// ── sticky ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_cookie_brings_a_client_back_also_after_a_reload() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(4).await;
    let settings = "balance = \"round_robin\"\nsticky = \"server\"";
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), settings)).await;
    let client = Client::http2(&gateway, &certs);
    let first = ask(&client, URL, &[]).await;
    let set = first.field("set-cookie").unwrap();
    let value = set.strip_prefix("server=").unwrap().split(';').next().unwrap();
    assert_eq!(set, format!("server={value}; Path=/; Secure; HttpOnly; SameSite=Lax"));
    assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{value}");

    let mine = cookie(&first).unwrap();
    let fields = [("cookie", &*format!("theme=dark; {mine}"))];
    for client in [&client, &Client::http1(&gateway, &certs)] {
        for _ in 0..8 {
            let again = ask(client, URL, &fields).await;
            assert_eq!((server(&again), cookie(&again)), (server(&first), None));
            let seen = origins[server(&first)].seen();
            assert_eq!(seen.last().unwrap().all("cookie"), ["theme=dark"], "it is not for servers");
        }
    }
    assert_eq!(servers(&client, URL, &[], 8).await.len(), 4, "without it, all have their turn");

    // The same servers in another order, and one more.
    let more = Origin::start("4").await;
    let places: Vec<_> = origins.iter().rev().chain([&more]).map(at).collect();
    gateway.rewrite(&group(&certs, &places, settings));
    let (code, said) = Gateway::run(&["reload", "--admin", &gateway.admin().to_string()]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(servers(&client, URL, &fields, 10).await, BTreeSet::from([server(&first)]));
}

#[tokio::test]
async fn a_cookie_that_names_nobody_is_replaced_and_so_is_one_of_a_server_that_fails() {
    let certs = Certs::for_names(&["a.test"]);
    let mut origins = origins(2).await;
    let settings = r#"sticky = { name = "server", ttl = "1h", secure = false, same_site = "strict" }"#;
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), settings)).await;
    let client = Client::http2(&gateway, &certs);
    for odd in ["server=", "server=0", "server=00000000000000000000000000000000", "server=10.0.0.1:80"] {
        let answer = ask(&client, URL, &[("cookie", odd)]).await;
        assert!(
            answer
                .field("set-cookie")
                .unwrap()
                .ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict")
        );
    }
    let first = ask(&client, URL, &[]).await;
    let mine = cookie(&first).unwrap();

    origins[server(&first)].stop().await;
    let next = ask(&client, URL, &[("cookie", &*mine)]).await;
    assert_ne!(server(&next), server(&first));
    let new = cookie(&next).unwrap();
    assert_ne!(new, mine);
    assert_eq!(cookie(&ask(&client, URL, &[("cookie", &*new)]).await), None);
}

#[tokio::test]
async fn gateways_with_one_secret_know_each_others_cookies_and_others_do_not() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(3).await;
    let settings =
        "balance = \"round_robin\"\nsticky = { name = \"server\", secret = { file = \"secret\" } }";
    let config = group(&certs, &addresses(&origins), settings);
    let start = async |secret| Gateway::start_with(&config, &[("secret", secret)]).await;
    let (one, two) = (start("a secret of the fleet\n").await, start("a secret of the fleet").await);
    let first = ask(&Client::http2(&one, &certs), URL, &[]).await;
    let mine = cookie(&first).unwrap();
    let fields = [("cookie", &*mine)];

    assert_eq!(
        servers(&Client::http2(&two, &certs), URL, &fields, 6).await,
        BTreeSet::from([server(&first)])
    );
    let stranger = start("a secret of somebody else").await;
    assert!(cookie(&ask(&Client::http2(&stranger, &certs), URL, &fields).await).is_some());
    let again = one.restart().await;
    assert_eq!(
        servers(&Client::http2(&again, &certs), URL, &fields, 6).await,
        BTreeSet::from([server(&first)])
    );
}

/// A route with a cache, of a group with cookies.
fn cached(certs: &Certs, origins: &[Origin]) -> String {
    let settings = "balance = \"round_robin\"\nsticky = \"server\"";
    group(certs, &addresses(origins), settings).replace("[routes.all]", "[routes.all]\ncache = true")
}

#[tokio::test]
async fn what_is_stored_sets_no_cookie_and_what_is_passed_on_does() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    for origin in &origins {
        origin.answer("/stored", Reply::ok("for all").fresh_for(60));
        origin.answer("/private", Reply::ok("for one").field("cache-control", "private"));
    }
    let gateway = Gateway::start(&cached(&certs, &origins)).await;
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for _ in 0..3 {
            let stored = ask(&client, "https://a.test/stored", &[]).await;
            assert_eq!(cookie(&stored), None, "{stored:?}");
        }
        // The first is fetched for the store, which cannot keep it; the others go past it.
        for _ in 0..3 {
            let private = ask(&client, "https://a.test/private", &[]).await;
            let fields = [("cookie", &*cookie(&private).unwrap())];
            let mine = servers(&client, "https://a.test/private", &fields, 4).await;
            assert_eq!(mine, BTreeSet::from([server(&private)]));
        }
    }
    assert_eq!(origins.iter().map(|origin| origin.requests("/stored")).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_fetch_for_the_store_goes_where_the_cookie_says_and_is_kept_without_it() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(3).await;
    // Kept by the route's word alone: nothing tells caches on the way to keep it.
    let config = cached(&certs, &origins).replace("cache = true", "cache = { ttl = \"60s\" }");
    let gateway = Gateway::start(&config).await;
    let client = Client::http2(&gateway, &certs);
    let posted = client.send(client.request("POST", URL)).await;
    let (mine, fields) = (server(&posted), cookie(&posted).unwrap());

    for path in 0..6 {
        let url = format!("https://a.test/{path}");
        let fetched = ask(&client, &url, &[("cookie", &fields)]).await;
        assert_eq!((server(&fetched), cookie(&fetched)), (mine, None));
        let hit = ask(&client, &url, &[]).await;
        assert!(hit.field("cache-status").unwrap().starts_with("tidegate; hit"), "{hit:?}");
        assert_eq!((server(&hit), cookie(&hit)), (mine, None));
    }
}

#[tokio::test]
async fn what_caches_on_the_way_may_keep_carries_no_cookie() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(1).await;
    origins[0].answer("/", Reply::ok("for all").field("cache-control", "public, max-age=60"));
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), "sticky = \"server\"")).await;
    let client = Client::http1(&gateway, &certs);

    assert_eq!(cookie(&ask(&client, URL, &[]).await), None);
    assert!(cookie(&ask(&client, "https://a.test/page", &[]).await).is_some());
}

// ── drain ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_drained_server_gets_nothing_new_and_ends_what_it_has() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    let gate = Gate::closed();
    for origin in &origins {
        origin.answer("/slow", Reply::ok("at last").behind(&gate));
    }
    let settings = "balance = \"round_robin\"\nsticky = \"server\"";
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), settings)).await;
    let client = Client::http2(&gateway, &certs);
    let mine = cookie(&ask(&client, URL, &[]).await).unwrap();
    let fields = [("cookie", &*mine)];
    let slow: Vec<_> = (0..4).map(|_| tokio::spawn(client.get_later("https://a.test/slow"))).collect();
    let place = at(&origins[0]);
    let busy = async || gateway.server(&place).await["in_flight"] == 2;
    eventually(PATIENCE, "two at each", busy).await;
    let running = tokio::spawn({
        let client = Client::http2(&gateway, &certs);
        async move { servers(&client, URL, &[], 200).await }
    });
    eventually(PATIENCE, "requests come", async || origins[0].requests("/") > 3).await;

    let (code, said) = drain(&gateway, &["main", &place]).await;
    // One of those may be there as well.
    let wanted = format!("{place} of `main` gets no new requests; ");
    assert!(code == Some(0) && said.starts_with(&wanted) && said.ends_with(" are in flight\n"), "{said}");
    assert_eq!(servers(&client, URL, &fields, 10).await, BTreeSet::from([1]), "its cookie is no way in");
    assert_eq!(running.await.unwrap().len(), 2, "nobody was refused meanwhile");
    let shown = gateway.server(&place).await;
    assert_eq!((&shown["state"], &shown["in_flight"]), (&json!("draining"), &json!(2)));
    let gauge = async |name: &str| {
        gateway.count(&format!("tidegate_upstream_server_{name}{{server=\"{place}\"}}")).await
    };
    assert_eq!((gauge("draining").await, gauge("up").await), (1, 0));

    // Known to the next configuration, too.
    gateway.rewrite(&group(&certs, &addresses(&origins), &format!("{settings}\nslow_start = \"1ms\"")));
    let (code, said) = Gateway::run(&["reload", "--admin", &gateway.admin().to_string()]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(servers(&client, URL, &fields, 10).await, BTreeSet::from([1]));
    gate.open();
    for one in slow {
        assert_eq!(one.await.unwrap().text(), "at last");
    }
    eventually(PATIENCE, "it is empty", async || gateway.server(&place).await["in_flight"] == 0).await;

    let (code, said) = drain(&gateway, &["main", &place, "--undo"]).await;
    assert_eq!((code, &*said), (Some(0), &*format!("{place} of `main` gets requests again\n")));
    let is_back = async || servers(&client, URL, &fields, 4).await == BTreeSet::from([0]);
    eventually(PATIENCE, "its clients come back", is_back).await;
}

#[tokio::test]
async fn a_drain_says_what_it_cannot_do_and_what_it_costs() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(1).await;
    let place = at(&origins[0]);
    let mut gateway = Gateway::start(&group(&certs, &addresses(&origins), "")).await;
    let (code, said) = drain(&gateway, &["mian", &place]).await;
    assert!(code == Some(2) && said.contains("there is no upstream `mian`; there are `main`"), "{said}");
    let (code, said) = drain(&gateway, &["main", "10.0.0.1:80"]).await;
    assert!(code == Some(2) && said.contains(&format!("no server `10.0.0.1:80`; it has {place}")), "{said}");

    let (code, said) = drain(&gateway, &["main", &place]).await;
    assert!(code == Some(0) && said.contains("no server of `main` may be chosen now"), "{said}");
    let refused = Client::http2(&gateway, &certs).get(URL).await;
    assert_eq!((refused.status, &refused.json()["reason"]), (503, &json!("no-server")));
    assert!(gateway.process().output().contains("server is drained"));
    // Kept in memory alone.
    let gateway = gateway.restart().await;
    assert_eq!(ask(&Client::http2(&gateway, &certs), URL, &[]).await.status, 200);
}

// ── tiers and panic ─────────────────────────────────────────────────────────────────────────────────────────────────

const HEALTH: &str =
    "health = { path = \"/healthz\", interval = \"100ms\", healthy_threshold = 1, unhealthy_threshold = 1 }";

async fn has_state(gateway: &Gateway, origin: &Origin, state: &str) {
    let is = async || gateway.server(&at(origin)).await["state"] == state;
    eventually(PATIENCE, state, is).await;
}

#[tokio::test]
async fn backups_are_used_while_no_other_server_is_up_and_only_then() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(3).await;
    let places = [at(&origins[0]), at(&origins[1]), backup(&origins[2])];
    let gateway = Gateway::start(&group(&certs, &places, HEALTH)).await;
    gateway.ready().await;
    let client = Client::http2(&gateway, &certs);
    for origin in &origins {
        has_state(&gateway, origin, "up").await;
    }
    assert_eq!(servers(&client, URL, &[], 30).await, BTreeSet::from([0, 1]));
    origins[0].answer("/healthz", Reply::new(503, "ill"));
    has_state(&gateway, &origins[0], "down").await;
    assert_eq!(servers(&client, URL, &[], 10).await, BTreeSet::from([1]));
    origins[1].answer("/healthz", Reply::new(503, "ill"));
    has_state(&gateway, &origins[1], "down").await;
    assert_eq!(servers(&client, URL, &[], 10).await, BTreeSet::from([2]));
    origins[0].answer("/healthz", Reply::ok("well"));
    has_state(&gateway, &origins[0], "up").await;
    assert_eq!(servers(&client, URL, &[], 10).await, BTreeSet::from([0]));
    assert_eq!(gateway.server(&at(&origins[2])).await["backup"], true);
}

#[tokio::test]
async fn a_backup_answers_for_the_only_server_that_refuses() {
    let certs = Certs::for_names(&["a.test"]);
    let mut origins = origins(2).await;
    let places = [at(&origins[0]), backup(&origins[1])];
    let gateway = Gateway::start(&group(&certs, &places, "")).await;
    let client = Client::http1(&gateway, &certs);
    assert_eq!(servers(&client, URL, &[], 5).await, BTreeSet::from([0]));

    origins[0].stop().await;
    assert_eq!(servers(&client, URL, &[], 5).await, BTreeSet::from([1]));
}

#[tokio::test]
async fn where_too_few_are_up_all_are_used_whatever_their_state() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(3).await;
    let settings = format!("balance = \"round_robin\"\npanic_threshold = \"50%\"\n{HEALTH}");
    let mut gateway = Gateway::start(&group(&certs, &addresses(&origins), &settings)).await;
    let client = Client::http2(&gateway, &certs);
    for origin in &origins {
        has_state(&gateway, origin, "up").await;
    }
    let panics = async || gateway.count("tidegate_upstream_panic_mode{upstream=\"main\"}").await;
    assert_eq!(panics().await, 0);
    for (ill, left) in [(0, BTreeSet::from([1, 2])), (1, BTreeSet::from([0, 1, 2]))] {
        origins[ill].answer("/healthz", Reply::new(500, "ill"));
        has_state(&gateway, &origins[ill], "down").await;
        assert_eq!(servers(&client, URL, &[], 6).await, left, "{ill} is ill");
    }
    assert_eq!(panics().await, 1);
    assert_eq!(gateway.admin_get("/upstreams").await.json()[0]["panic"], true);

    origins[0].answer("/healthz", Reply::ok("well"));
    has_state(&gateway, &origins[0], "up").await;
    assert_eq!(servers(&client, URL, &[], 6).await, BTreeSet::from([0, 2]));
    assert_eq!(panics().await, 0);
    let said = gateway.process().output();
    let times = |what: &str| said.matches(what).count();
    // At the start nobody is up, and then each comes.
    assert_eq!(times("too few servers are up"), times("enough servers are up again"), "{said}");
}

// ── slow start ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_server_that_comes_back_takes_its_share_little_by_little() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    origins[0].answer("/fail", Reply::new(503, "ill"));
    let settings = "balance = \"round_robin\"\nslow_start = \"8s\"\n\
        outlier_detection = { consecutive_errors = 1, ejection_time = \"100ms\" }";
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), settings)).await;
    let client = Client::http2(&gateway, &certs);
    let share = async || {
        let mut count = 0;
        for _ in 0..100 {
            count += usize::from(server(&ask(&client, URL, &[]).await) == 0);
        }
        count
    };
    assert_eq!(share().await, 50, "at the start nobody is behind");

    let fails = async || client.get("https://a.test/fail").await.status == 503;
    eventually(PATIENCE, "it fails", fails).await;
    has_state(&gateway, &origins[0], "up").await;
    let mut shares = vec![share().await];
    let is_warm = async || {
        shares.push(share().await);
        shares.last() == Some(&50)
    };
    eventually(PATIENCE, "it has its share again", is_warm).await;

    assert!(shares[0] < 40, "{shares:?}");
    // Chance moves a few, but the share grows.
    assert!(shares.windows(2).all(|pair| pair[0] < pair[1] + 20), "{shares:?}");
}

// ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn gateways_that_share_a_redis_need_one_secret_for_their_cookies() {
    let certs = Certs::for_names(&["a.test"]);
    let top = https(&certs);
    let config = format!(
        "{top}redis = \"redis://127.0.0.1:1\"\n[upstreams.main]\nservers = [\"10.0.0.1:80\"]\nsticky = \"lb\"\n\
         [routes.all]\nupstream = \"main\"\n"
    );
    let (code, said) = Gateway::refuse(&config).await;
    assert!(code == Some(2) && said.contains("would not know each other's cookies"), "{said}");
    assert!(said.contains("secret = { env = \"STICKY_SECRET\" }"), "{said}");
}
