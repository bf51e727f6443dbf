//! What trusted proxies say of their clients: it keeps answers apart, and no purge misses one for it.

use crate::support::cached::{ask, get, is_hit, url};
use crate::support::client::Answer;
use crate::support::origin::Seen;
use crate::support::{Cached, Gateway, Reply};

const ROUTES: &str = "
[routes.keyed]
path = \"/keyed/*\"
cache = { ttl = \"60s\", key = { headers = [\"x-tenant\"] } }
upstream = \"ORIGIN\"
[routes.all]
cache = \"60s\"
upstream = \"ORIGIN\"
";

/// Requests that answers may differ by, each with something else to claim.
const CLAIMS: [&[(&str, &str)]; 6] = [
    &[],
    &[("x-forwarded-host", "other.test")],
    &[("x-forwarded-prefix", "/v1"), ("x-forwarded-port", "443")],
    &[("forwarded", "for=192.0.2.1;host=other.test;proto=https")],
    &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")],
    &[("x-forwarded-port", "8443")],
];

/// Behind proxies whose word is taken, and an origin that repeats what it is told.
async fn behind_proxies() -> Cached {
    let top = "trusted_proxies = [\"127.0.0.1/32\"]\ncache = { purge_method = true }";
    let cached = Cached::over(top, ROUTES).await;
    cached.origin.answer_by("/", told);
    cached
}

/// Says what it was told of the client's host and scheme.
fn told(seen: &Seen) -> Reply {
    let names =
        ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-prefix", "forwarded"];
    let told: Vec<String> =
        names.iter().map(|name| format!("{name}: {}", seen.all(name).join(", "))).collect();
    Reply::ok(told.join("\n"))
}

async fn order(cached: &Cached, words: &[&str]) {
    let admin = cached.gateway.admin().to_string();
    let (code, wrote) = Gateway::run(&[&["purge", "--admin", &admin], words].concat()).await;
    assert_eq!(code, Some(0), "{wrote}");
}

#[tokio::test]
async fn every_purge_meets_what_was_stored_under_claims() {
    let cached = behind_proxies().await;
    for kind in ["url", "keyed", "prefix", "method", "put", "location", "soft"] {
        let path = if kind == "keyed" { "/keyed/a".to_owned() } else { format!("/{kind}") };
        let (address, elsewhere) = (url(&path), format!("{path}/elsewhere"));
        for at in ["", "/beside"] {
            let path = format!("{path}{at}");
            cached.origin.answer_by(&path, told);
            for claims in CLAIMS {
                get(&cached.http1, &path, claims).await;
                assert!(is_hit(&get(&cached.http1, &path, claims).await), "{kind} {claims:?}");
            }
            assert_eq!(cached.origin.requests(&path), CLAIMS.len(), "{kind}: each is kept apart");
        }
        match kind {
            "prefix" => order(&cached, &["--prefix", &format!("{address}?")]).await,
            "soft" => order(&cached, &["--url", &address, "--soft"]).await,
            "method" => assert_eq!(ask(&cached.http1, "PURGE", &path, CLAIMS[1]).await.status, 200),
            "put" => assert_eq!(ask(&cached.http1, "PUT", &path, CLAIMS[1]).await.status, 200),
            "location" => {
                cached.origin.answer(&elsewhere, Reply::new(201, "").field("location", &address));
                ask(&cached.http1, "POST", &elsewhere, CLAIMS[2]).await;
            }
            _ => order(&cached, &["--url", &address]).await,
        }
        if kind == "prefix" {
            // A prefix that ends behind the path meets nothing; one that ends with it does.
            assert!(is_hit(&get(&cached.http1, &path, CLAIMS[1]).await));
            order(&cached, &["--prefix", &address]).await;
        }
        for claims in CLAIMS {
            let answer = get(&cached.http1, &path, claims).await;
            assert!(!is_hit(&answer), "{kind} {claims:?}: {answer:?}");
            let beside = get(&cached.http1, &format!("{path}/beside"), claims).await;
            assert_eq!(is_hit(&beside), kind != "prefix", "{kind} {claims:?}: {beside:?}");
        }
    }
}

#[tokio::test]
async fn what_says_nothing_new_shares_what_is_kept() {
    let cached = behind_proxies().await;
    cached.origin.answer_by("/a", told);
    get(&cached.http1, "/a", &[]).await;
    let rows: [&[(&str, &str)]; 6] = [
        &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "443")],
        &[("x-forwarded-host", "a.test")],
        &[("forwarded", "for=192.0.2.1")],
        &[("forwarded", "for=192.0.2.2;by=_me, for=\"[2001:db8::1]:1\"")],
        &[("forwarded", "for=192.0.2.3;host=a.test;proto=https")],
        &[("x-real-ip", "192.0.2.1")],
    ];
    for fields in rows {
        assert!(is_hit(&get(&cached.http1, "/a", fields).await), "{fields:?}");
    }
    let other = [("forwarded", "for=192.0.2.1;host=other.test")];
    assert!(!is_hit(&get(&cached.http1, "/a", &other).await));
    let addressed = [("forwarded", "for=192.0.2.2;host=other.test")];
    assert!(is_hit(&get(&cached.http1, "/a", &addressed).await), "an address makes no difference");
}

#[tokio::test]
async fn nobody_puts_words_of_his_own_into_an_answer_for_others() {
    let cached = behind_proxies().await;
    let rows: [&[(&str, &str)]; 8] = [
        &[("x-forwarded-host", "evil.test")],
        &[("x-forwarded-host", "a.test"), ("x-forwarded-host", "evil.test")],
        &[("x-forwarded-host", "A.test")],
        &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")],
        &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")],
        &[("forwarded", "for=\"x;host=evil.test\"")],
        &[("forwarded", "for=192.0.2.1, host=evil.test")],
        &[("x-forwarded-prefix", "/evil")],
    ];
    for (at, fields) in rows.into_iter().enumerate() {
        let path = format!("/{at}");
        cached.origin.answer_by(&path, told);
        let own: Answer = get(&cached.http1, &path, fields).await;
        for innocent in [&[][..], &[("x-forwarded-proto", "https")], &[("forwarded", "for=192.0.2.9")]] {
            let answer = get(&cached.http1, &path, innocent).await;
            assert_ne!(answer.text(), own.text(), "{fields:?} {innocent:?}");
        }
        assert_eq!(cached.origin.requests(&path), 2, "{fields:?}");
    }
}

#[tokio::test]
async fn the_desk_finds_what_was_stored_under_claims_that_are_imagined() {
    let cached = behind_proxies().await;
    cached.origin.answer_by("/a", told);
    get(&cached.http1, "/a", &[("x-forwarded-host", "other.test")]).await;
    let look = async |header: &str| {
        let path = format!("/cache?url=https://a.test/a{header}");
        cached.gateway.admin_get(&path).await.json()["verdict"]["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(look("").await, "miss");
    assert_eq!(look("&header=X-Forwarded-Host:%20other.test").await, "hit");
    get(&cached.http1, "/a", &[("x-forwarded-proto", "https"), ("x-forwarded-port", "443")]).await;
    assert_eq!(look("").await, "hit");
}
