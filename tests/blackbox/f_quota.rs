//! Quotas: so many requests in each month, kept in Redis for all nodes, and how operators see and settle them.

use serde_json::{Value, json};

use crate::support::redis::{Passage, Redis, Way};
use crate::support::{Answer, Fleet, Gateway, Issuer, Node, PATIENCE, Raw, eventually, must};

/// A route that answers by itself, with this limit.
fn routes(limit: &str) -> String {
    format!("[routes.users]\npath = \"/users/*\"\nrate_limit = {limit}\nrespond = {{ body = \"fine\" }}\n")
}

async fn over(redis: &Redis, nodes: usize, routes: &str) -> Fleet {
    let url = redis.url();
    Fleet::over(&vec![&*url; nodes], "10s", "", routes).await
}

/// The longest month, in seconds.
const MONTH: u64 = 31 * 24 * 3600;

/// `POST` to `/quotas` of the admin listener.
async fn settle(node: &Node, order: &Value) -> Answer {
    let body = order.to_string();
    let head = format!("POST /quotas HTTP/1.1\r\nHost: {}\r\n", node.gateway.admin());
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    must("an order is answered", async {
        Raw::tcp(node.gateway.admin()).await.ask(head + &fields + &body).await
    })
    .await
}

/// `tidegate quota` with these words: its exit code and what it printed.
async fn command(gateway: &Gateway, words: &[&str]) -> (Option<i32>, String) {
    let admin = gateway.admin().to_string();
    Gateway::run(&[&["quota", "--admin", &admin], words].concat()).await
}

#[tokio::test]
async fn a_quota_is_that_of_all_nodes_and_tells_what_is_left_until_when() {
    let redis = Redis::start().await;
    let fleet = over(&redis, 2, &routes("[\"100/h\", { quota = \"4/month\" }]")).await;
    let mut ends = Vec::new();
    for left in [3, 2, 1, 0] {
        let answer = fleet.nodes[left % 2].get("/users").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("ratelimit-policy"), Some("\"users\";q=100;w=3600, \"users-2\";q=4"));
        let standing = answer.field("ratelimit").unwrap();
        let end = standing
            .strip_prefix(&format!("\"users-2\";r={left};t="))
            .unwrap_or_else(|| panic!("{standing}"));
        ends.push(end.parse::<u64>().unwrap());
    }
    assert!(ends.iter().all(|end| (1..=MONTH).contains(end)), "until the month ends: {ends:?}");
    for node in &fleet.nodes {
        let refused = node.get("/users").await;
        assert_eq!((refused.status, refused.json()["reason"].as_str()), (429, Some("limit-exceeded")));
        let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=ends[0]).contains(&wait) && ends[3] - wait < 300, "{wait} of {ends:?}");
        assert_eq!(refused.field("ratelimit"), Some(&*format!("\"users-2\";r=0;t={wait}")));
        assert_eq!(refused.json()["detail"], format!("limit `users-2`: ask again in {wait} s"));
    }
}

#[tokio::test]
async fn what_was_used_survives_a_restart_of_every_node_and_a_larger_quota() {
    let redis = Redis::start().await;
    let mut fleet = over(&redis, 2, &routes("{ quota = \"3/month\", key = \"header:x-tenant\" }")).await;
    let acme = [("x-tenant", "acme")];
    let mut statuses = Vec::new();
    for turn in 0..5 {
        statuses.push(fleet.nodes[turn % 2].get_with("/users", &acme).await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    fleet.restart(0).await;
    fleet.restart(1).await;
    for node in &fleet.nodes {
        assert_eq!(node.get_with("/users", &acme).await.status, 429);
    }
    assert_eq!(fleet.nodes[0].get_with("/users", &[("x-tenant", "other")]).await.status, 200);

    let node = &fleet.nodes[0].gateway;
    let config = std::fs::read_to_string(node.folder().join("tidegate.toml")).unwrap();
    node.rewrite(&config.replace("3/month", "4/month"));
    let admin = node.admin().to_string();
    let reloaded = Gateway::run(&["reload", "--admin", &admin]).await;
    assert_eq!(reloaded.0, Some(0), "{}", reloaded.1);
    let mut answer = fleet.nodes[0].get_with("/users", &acme).await;
    eventually(PATIENCE, "there is one more", async || {
        if answer.status == 429 {
            answer = fleet.nodes[0].get_with("/users", &acme).await;
        }
        answer.status == 200
    })
    .await;
    assert!(answer.field("ratelimit").unwrap().starts_with("\"users\";r=0;"), "{answer:?}");
}

#[tokio::test]
async fn operators_read_an_account_grant_more_and_forget_what_was_used() {
    let (redis, issuer) = (Redis::start().await, Issuer::start().await);
    let route = r#"
[routes.users]
respond = { body = "fine" }
auth = "idp"
rate_limit = ["1000/s", { quota = "2/month", key = "jwt:tenant" }]
"#;
    let fleet = over(&redis, 2, &(issuer.provider("") + route)).await;
    let token = format!("Bearer {}", issuer.token(json!({ "tenant": "acme" })));
    let ask = async |node: usize| fleet.nodes[node].get_with("/", &[("authorization", &token)]).await.status;
    assert_eq!([ask(0).await, ask(1).await, ask(0).await, ask(1).await], [200, 200, 429, 429]);

    let listed = fleet.nodes[0].gateway.admin_get("/quotas").await;
    let quota = json!({ "limit": "users-2", "route": "users", "quota": "2/month", "key": ["jwt:tenant"] });
    assert_eq!(listed.json(), json!([quota]));
    let order = json!({ "limit": "users-2", "key": { "jwt:tenant": "acme" }, "provider": "idp" });
    let account = settle(&fleet.nodes[0], &order).await.json();
    assert_eq!(
        (&account["used"], &account["left"], &account["quota"]),
        (&json!(2), &json!(0), &json!("2/month"))
    );
    let (from, until) = (account["from"].as_str().unwrap(), account["until"].as_str().unwrap());
    assert!(from.ends_with("-01T00:00:00.000Z") && until.ends_with("-01T00:00:00.000Z"), "{account}");

    let words = ["users-2", "--key", "jwt:tenant=acme", "--provider", "idp"];
    let read = command(&fleet.nodes[1].gateway, &words).await;
    let line = format!("`users-2`: 0 left of 2/month, 2 used; anew at {until}\n");
    assert_eq!(read, (Some(0), line));
    let granted = command(&fleet.nodes[1].gateway, &[&words[..], &["--grant", "2"]].concat()).await;
    let line = format!("`users-2`: 2 left of 2/month and 2 granted on top, 2 used; anew at {until}\n");
    assert_eq!(granted, (Some(0), line));
    for node in 0..2 {
        eventually(PATIENCE, "more is granted", async || ask(node).await == 200).await;
    }
    assert_eq!([ask(0).await, ask(1).await], [429, 429]);

    let mut reset = order.clone();
    reset["reset"] = json!(true);
    assert_eq!(settle(&fleet.nodes[0], &reset).await.json()["left"], 2);
    eventually(PATIENCE, "all is forgotten", async || ask(1).await == 200).await;
    let told = async || fleet.nodes[0].gateway.output().contains("an account was settled");
    eventually(PATIENCE, "the log says so", told).await;
}

#[tokio::test]
async fn an_order_that_names_no_account_is_refused_with_what_is_missing() {
    let redis = Redis::start().await;
    let fleet = over(&redis, 1, &routes("{ quota = \"2/month\", key = \"header:x-tenant\" }")).await;
    for (order, status, why) in [
        (json!({ "limit": "orders" }), 404, "no quota is called `orders`"),
        (json!({ "limit": "users" }), 404, "which `header:x-tenant`?"),
        (json!({ "limit": "users", "key": { "jwt:sub": "a" } }), 404, "not counted by `jwt:sub`"),
        (json!({ "limit": "users", "grant": 0 }), 400, "1 request at least"),
        (json!([]), 400, "JSON object"),
    ] {
        let answer = settle(&fleet.nodes[0], &order).await;
        assert_eq!(answer.status, status, "{order}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(why), "{answer:?}");
    }
    let gateway = &fleet.nodes[0].gateway;
    let (code, said) = command(gateway, &["users"]).await;
    assert!(code == Some(2) && said.contains("which `header:x-tenant`?"), "{code:?} {said}");
    let (code, said) = command(gateway, &["users", "--key", "header:x-tenant=a"]).await;
    assert!(code == Some(0) && said.starts_with("`users`: 2 left of 2/month, 0 used;"), "{code:?} {said}");
}

#[tokio::test]
async fn while_redis_is_away_a_quota_is_shared_out_and_nothing_of_it_is_forgotten() {
    for (passage, what) in [(Passage::Hole, "black-holed"), (Passage::Cut, "gone")] {
        let redis = Redis::start().await;
        let way = Way::to(redis.port).await;
        let url = way.url();
        let denied = routes(r#"{ quota = "9/month", on_store_failure = "deny" }"#).replace("users", "orders");
        let both = routes("{ quota = \"12/month\" }") + &denied;
        let fleet = Fleet::over(&[&url, &url, &url], "50ms", "", &both).await;
        for node in &fleet.nodes {
            let seen = async || node.gateway.metric("tidegate_limit_nodes").await == 3.0;
            eventually(PATIENCE, "all nodes are seen", seen).await;
        }
        way.set(passage);
        let mut admitted = [0; 3];
        for _ in 0..10 {
            for (node, admitted) in fleet.nodes.iter().zip(&mut admitted) {
                let status = node.get("/users").await.status;
                assert!([200, 429].contains(&status), "{status}");
                *admitted += usize::from(status == 200);
            }
        }
        assert_eq!(admitted, [4, 4, 4], "{what}: nobody had asked before");
        let refused = fleet.nodes[0].get("/orders").await;
        assert_eq!((refused.status, &refused.json()["reason"]), (503, &json!("limits-unavailable")));
        assert_eq!(
            settle(&fleet.nodes[0], &json!({ "limit": "users", "key": { "client_ip": "127.0.0.1" } }))
                .await
                .status,
            503
        );

        way.set(Passage::Open);
        let order = json!({ "limit": "users", "key": { "client_ip": "127.0.0.1" } });
        let told = async || {
            for node in &fleet.nodes {
                node.get("/users").await;
            }
            settle(&fleet.nodes[0], &order).await.json()["used"].as_u64() >= Some(12)
        };
        eventually(PATIENCE, "redis is told of all", told).await;
        let spent = async || fleet.nodes[1].get("/users").await.status == 429;
        eventually(PATIENCE, "all of it is used", spent).await;
        eventually(PATIENCE, "it counts again", async || fleet.nodes[0].get("/orders").await.status == 200)
            .await;
    }
}
