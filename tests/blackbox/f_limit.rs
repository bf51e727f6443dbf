//! How often a client may ask, and what it is told when that was too often.

use std::time::Duration;

use crate::support::{Answer, Gateway, Raw, eventually, plain};

/// A gateway whose routes answer by themselves; `top` are keys before the first table.
async fn gateway(top: &str, routes: &[(&str, &str)]) -> Gateway {
    let table = |(name, limit): &(&str, &str)| {
        format!(
            "[routes.{name}]\npath = \"/{name}/*\"\nrate_limit = {limit}\nrespond = {{ body = \"fine\" }}\n"
        )
    };
    Gateway::start(&(plain() + top + "\n" + &routes.iter().map(table).collect::<String>())).await
}

async fn get(gateway: &Gateway, path: &str) -> Answer {
    get_as(gateway, path, "").await
}

/// Asks with more fields, whole lines.
async fn get_as(gateway: &Gateway, path: &str, fields: &str) -> Answer {
    let mut client = Raw::tcp(gateway.http()).await;
    client.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await
}

/// Asks as the client that a trusted proxy names.
async fn get_for(gateway: &Gateway, path: &str, client: &str) -> u16 {
    get_as(gateway, path, &format!("X-Forwarded-For: {client}\r\n")).await.status
}

#[tokio::test]
async fn at_the_limit_a_client_is_told_how_it_stands_and_when_to_come_back() {
    let gateway = gateway("", &[("users", "\"3/h\"")]).await;

    for left in ["2", "1", "0"] {
        let answer = get(&gateway, "/users").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("ratelimit-policy"), Some("\"users\";q=3;w=3600"));
        let standing = answer.field("ratelimit").unwrap();
        assert!(standing.starts_with(&format!("\"users\";r={left};t=")), "{standing}");
    }
    let answer = get(&gateway, "/users").await;

    assert_eq!(answer.status, 429);
    let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=1200).contains(&wait), "one of three in an hour comes back within 20 minutes: {wait}");
    assert_eq!(answer.field("ratelimit"), Some(format!("\"users\";r=0;t={wait}").as_str()));
    assert_eq!(answer.field("ratelimit-policy"), Some("\"users\";q=3;w=3600"));
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!((problem["status"].as_u64(), problem["reason"].as_str()), (Some(429), Some("limit-exceeded")));
    assert_eq!(problem["detail"], format!("limit `users`: ask again in {wait} s"));
    let counted =
        |outcome| format!("tidegate_limit_decisions_total{{route=\"users\",outcome=\"{outcome}\"}}");
    assert_eq!(gateway.count(&counted("admitted")).await, 3);
    assert_eq!(gateway.count(&counted("refused")).await, 1);
}

#[tokio::test]
async fn who_waits_for_as_long_as_it_was_told_is_let_in_again() {
    let gateway = gateway("", &[("users", "{ rate = \"1/s\", burst = 1 }")]).await;

    // On a slow machine a second may pass between two requests: then the next pair decides.
    let mut refused = None;
    eventually(Duration::from_secs(30), "a refusal", async || {
        let answer = get(&gateway, "/users").await;
        refused = (answer.status == 429).then_some(answer);
        refused.is_some()
    })
    .await;
    let wait: u64 = refused.unwrap().field("retry-after").unwrap().parse().unwrap();
    assert_eq!(wait, 1, "one request a second");

    let began = std::time::Instant::now();
    let told = Duration::from_secs(wait);
    eventually(Duration::from_secs(30), "the wait is over", async || began.elapsed() >= told).await;
    assert_eq!(get(&gateway, "/users").await.status, 200);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_counted_apart() {
    let gateway =
        gateway("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]", &[("users", "\"2/h\"")]).await;

    for client in ["192.0.2.1", "192.0.2.2", "203.0.113.9, 192.0.2.3", "203.0.113.9, 192.0.2.4, 10.0.0.1"] {
        let asked = [
            get_for(&gateway, "/users", client).await,
            get_for(&gateway, "/users", client).await,
            get_for(&gateway, "/users", client).await,
        ];
        assert_eq!(asked, [200, 200, 429], "{client}");
    }
    // What a client writes in front of what the proxy says makes no new client of it.
    assert_eq!(get_for(&gateway, "/users", "198.51.100.7, 192.0.2.1").await, 429);
    assert_eq!(gateway.count("tidegate_limit_keys{route=\"users\"}").await, 4);
}

#[tokio::test]
async fn an_ipv6_site_is_one_client() {
    let gateway = gateway("trusted_proxies = [\"127.0.0.1/32\"]", &[("users", "\"2/h\"")]).await;

    assert_eq!(get_for(&gateway, "/users", "2001:db8:1:2::1").await, 200);
    assert_eq!(get_for(&gateway, "/users", "2001:db8:1:2:ffff:eeee:dddd:cccc").await, 200);
    assert_eq!(get_for(&gateway, "/users", "[2001:db8:1:2::3]:4711").await, 429);
    assert_eq!(get_for(&gateway, "/users", "2001:db8:1:3::1").await, 200, "another /64");
    assert_eq!(get_for(&gateway, "/users", "::ffff:192.0.2.1").await, 200);
    assert_eq!(get_for(&gateway, "/users", "192.0.2.1").await, 200);
    assert_eq!(get_for(&gateway, "/users", "192.0.2.1").await, 429, "IPv4 in IPv6 form is IPv4");
}

#[tokio::test]
async fn a_stranger_does_not_choose_whom_it_is_counted_as() {
    let gateway = gateway("trusted_proxies = [\"10.0.0.0/8\"]", &[("users", "\"2/h\"")]).await;

    let asked = [
        get_for(&gateway, "/users", "192.0.2.1").await,
        get_for(&gateway, "/users", "192.0.2.2").await,
        get_for(&gateway, "/users", "192.0.2.3").await,
        get_as(&gateway, "/users", "Forwarded: for=192.0.2.4\r\nX-Real-IP: 192.0.2.4\r\n").await.status,
    ];

    assert_eq!(asked, [200, 200, 429, 429]);
}

#[tokio::test]
async fn each_route_counts_for_itself() {
    let gateway = gateway("", &[("users", "\"1/h\""), ("orders", "\"1/h\"")]).await;

    assert_eq!(get(&gateway, "/users").await.status, 200);
    assert_eq!(get(&gateway, "/users/7").await.status, 429);
    assert_eq!(get(&gateway, "/orders").await.status, 200);
    assert_eq!(get(&gateway, "/orders").await.status, 429);
}

#[tokio::test]
async fn of_several_limits_the_tightest_is_told_and_decides() {
    let gateway = gateway("", &[("users", "[\"100/h\", { rate = \"2/h\", burst = 1 }]")]).await;

    let answer = get(&gateway, "/users").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("ratelimit-policy"), Some("\"users\";q=100;w=3600, \"users-2\";q=2;w=3600"));
    assert!(answer.field("ratelimit").unwrap().starts_with("\"users-2\";r=0;"));
    let answer = get(&gateway, "/users").await;
    assert_eq!(answer.status, 429, "the burst is 1, though two may come in an hour");
    assert!(answer.field("ratelimit").unwrap().starts_with("\"users-2\";r=0;"));
}

#[tokio::test]
async fn one_connection_and_many_are_counted_together() {
    let gateway = gateway("", &[("users", "\"10/h\"")]).await;

    let mut admitted = 0;
    for _ in 0..4 {
        let mut client = Raw::tcp(gateway.http()).await;
        for _ in 0..5 {
            let status = client.ask("GET /users HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status;
            admitted += u32::from(status == 200);
        }
    }

    assert_eq!(admitted, 10);
}
