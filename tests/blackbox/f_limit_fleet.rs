//! Limits that nodes count together over one Redis, and each by itself while it is away.

use crate::support::redis::{Cluster, Passage, Redis, Watched, Way, until};
use crate::support::{Fleet, PATIENCE, eventually};

/// A route that answers by itself, with this limit; and one with another, so that nodes can be waited for.
fn routes(limit: &str) -> String {
    format!("[routes.users]\npath = \"/users/*\"\nrate_limit = {limit}\nrespond = {{ body = \"fine\" }}\n")
}

/// How many of so many requests are admitted, the nodes asked in turn.
async fn admitted(fleet: &Fleet, requests: usize) -> Vec<usize> {
    let mut admitted = vec![0; fleet.nodes.len()];
    for turn in 0..requests {
        let at = turn % fleet.nodes.len();
        let answer = fleet.nodes[at].get("/users").await;
        assert!([200, 429].contains(&answer.status), "{answer:?}");
        admitted[at] += usize::from(answer.status == 200);
    }
    admitted
}

/// Waits until every node sees all.
async fn all_seen(fleet: &Fleet) {
    let wanted = f64::from(u32::try_from(fleet.nodes.len()).unwrap());
    let all = async || {
        for node in &fleet.nodes {
            if node.gateway.metric("tidegate_limit_nodes").await != wanted {
                return false;
            }
        }
        true
    };
    eventually(PATIENCE, "all nodes are seen", all).await;
}

#[tokio::test]
async fn nodes_count_together_and_a_restart_forgives_nobody() {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut fleet = Fleet::over(&[&url, &url, &url], "10s", "", &routes("\"9/h\"")).await;

    assert_eq!(admitted(&fleet, 18).await.iter().sum::<usize>(), 9);
    let refused = fleet.nodes[1].get("/users").await;
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (429, Some("limit-exceeded")));
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=400).contains(&wait), "one of nine in an hour comes back within 400 s: {wait}");
    assert_eq!(refused.field("ratelimit"), Some(&*format!("\"users\";r=0;t={wait}")));

    fleet.restart(0).await;
    assert_eq!(admitted(&fleet, 6).await.iter().sum::<usize>(), 0);
    assert!(fleet.nodes[1].gateway.metric("tidegate_limit_leases_total{outcome=\"granted\"}").await > 0.5);
}

#[tokio::test]
async fn the_standing_is_that_of_the_fleet() {
    let redis = Redis::start().await;
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url], "10s", "", &routes("\"9/h\"")).await;
    for (turn, left) in (0..9).rev().enumerate() {
        let answer = fleet.nodes[turn % 2].get("/users").await;
        let standing = answer.field("ratelimit").unwrap();
        assert!(standing.starts_with(&format!("\"users\";r={left};")), "{turn}: {standing}");
        assert_eq!(answer.field("ratelimit-policy"), Some("\"users\";q=9;w=3600"));
    }
}

#[tokio::test]
async fn a_rule_may_be_for_each_node_and_a_word_for_all_routes_of_all() {
    let redis = Redis::start().await;
    let url = redis.url();
    let own = routes(r#"{ rate = "2/h", scope = "node" }"#);
    let fleet = Fleet::over(&[&url, &url], "10s", "", &own).await;
    assert_eq!(admitted(&fleet, 8).await, [2, 2]);
    drop(fleet);

    let word = r#"{ rate = "3/h", key = "const:all" }"#;
    let both = routes(word) + &routes(word).replace("users", "orders");
    let fleet = Fleet::over(&[&url, &url], "10s", "", &both).await;
    let mut statuses = Vec::new();
    for (node, path) in [(0, "/users"), (1, "/orders"), (1, "/users"), (0, "/orders"), (1, "/users")] {
        statuses.push(fleet.nodes[node].get(path).await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}

#[tokio::test]
async fn what_is_stored_is_counted_by_the_fleet_as_well() {
    let redis = Redis::start().await;
    let url = redis.url();
    let routes = "[routes.all]\nupstream = \"ORIGIN\"\ncache = \"60s\"\nrate_limit = \"8/h\"\n";
    let fleet = Fleet::over(&[&url, &url], "10s", "", routes).await;
    let mut statuses = Vec::new();
    for turn in 0..12 {
        statuses.push(fleet.nodes[turn % 2].get("/stored").await.status);
    }
    assert_eq!(statuses, [[200; 8].as_slice(), &[429; 4]].concat());
    assert_eq!(fleet.origin.requests("/stored"), 1);
}

#[tokio::test]
async fn while_redis_is_away_each_node_admits_its_part() {
    for (passage, what) in [(Passage::Hole, "black-holed"), (Passage::Cut, "gone")] {
        let redis = Redis::start().await;
        let way = Way::to(redis.port).await;
        let url = way.url();
        let fleet = Fleet::over(&[&url, &url, &url], "50ms", "", &routes("\"12/h\"")).await;
        all_seen(&fleet).await;
        way.set(passage);
        assert_eq!(admitted(&fleet, 45).await, [4, 4, 4], "{what}");

        // Redis has forgotten all, the nodes have not.
        redis.flushall();
        way.set(Passage::Open);
        let asks = "tidegate_limit_leases_total{outcome=\"refused\"}";
        let mut after = 0;
        eventually(PATIENCE, "redis is asked again", async || {
            after += admitted(&fleet, 3).await.iter().sum::<usize>();
            fleet.nodes[0].gateway.metric(asks).await > 0.5
        })
        .await;
        assert!(after <= 1, "{what}: one comes back in five minutes: {after}");
    }
}

#[tokio::test]
async fn while_redis_is_away_a_rule_may_admit_all_or_none() {
    for (passage, what) in [(Passage::Hole, "black-holed"), (Passage::Cut, "gone")] {
        let redis = Redis::start().await;
        let way = Way::to(redis.port).await;
        let url = way.url();
        let limit = r#"{ rate = "3/h", on_store_failure = "allow" }"#;
        let denied = routes(r#"{ rate = "3/h", on_store_failure = "deny" }"#).replace("users", "orders");
        let fleet = Fleet::over(&[&url, &url], "50ms", "", &(routes(limit) + &denied)).await;
        assert_eq!(fleet.nodes[0].get("/orders").await.status, 200);

        way.set(passage);
        assert_eq!(admitted(&fleet, 20).await, [10, 10], "{what}: all");
        for node in &fleet.nodes {
            let answer = node.get("/orders").await;
            let problem = answer.json();
            assert_eq!(
                (answer.status, problem["reason"].as_str()),
                (503, Some("limits-unavailable")),
                "{what}"
            );
            assert_eq!(problem["detail"], "limit `orders` cannot be counted");
            assert_eq!((answer.field("retry-after"), answer.field("ratelimit")), (Some("1"), None));
        }
        let uncounted = "tidegate_limit_decisions_total{route=\"orders\",outcome=\"uncounted\"}";
        assert_eq!(fleet.nodes[1].gateway.count(uncounted).await, 1);

        way.set(Passage::Open);
        let counts = async || fleet.nodes[0].get("/orders").await.status == 200;
        eventually(PATIENCE, "redis is asked again", counts).await;
        // Those that were let in while nobody could count them have used up the rate, as far as it goes.
        let refuses = async || fleet.nodes[0].get("/users").await.status == 429;
        eventually(PATIENCE, "all are counted again", refuses).await;
    }
}

/// Two routes that answer by themselves: one with a rate, one with a quota, of each tenant.
fn by_tenant() -> String {
    let by_tenant = |amount: &str| routes(&format!("{{ {amount}, key = \"header:x-tenant\" }}"));
    by_tenant("rate = \"5/h\"") + &by_tenant("quota = \"4/month\"").replace("users", "orders")
}

/// How many of so many requests of a tenant are admitted, the nodes asked in turn.
async fn admitted_of(fleet: &Fleet, path: &str, tenant: &str, requests: usize) -> usize {
    let mut admitted = 0;
    for turn in 0..requests {
        let node = &fleet.nodes[turn % fleet.nodes.len()];
        let answer = node.get_with(path, &[("x-tenant", tenant)]).await;
        assert!([200, 429].contains(&answer.status), "{answer:?}");
        admitted += usize::from(answer.status == 200);
    }
    admitted
}

/// How often these nodes were told by Redis.
async fn told(fleet: &Fleet) -> Vec<f64> {
    let mut told = Vec::new();
    for node in &fleet.nodes {
        let of = async |outcome| {
            node.gateway.metric(&format!("tidegate_limit_leases_total{{outcome=\"{outcome}\"}}")).await
        };
        told.push(of("granted").await + of("refused").await);
    }
    told
}

#[tokio::test]
async fn a_failover_forgets_nobody_and_fails_no_request() {
    let mut watched = Watched::start().await;
    let url = watched.url();
    let fleet = Fleet::over(&[&url, &url, &url], "1s", "", &by_tenant()).await;
    all_seen(&fleet).await;
    assert_eq!(admitted_of(&fleet, "/users", "acme", 9).await, 5);
    assert_eq!(admitted_of(&fleet, "/orders", "acme", 9).await, 4);
    let [master, replica] = &watched.servers;
    let held = |server: &Redis| {
        let mut keys: Vec<_> =
            server.cli(&["KEYS", "*:????????????????????????????????"]).lines().map(str::to_owned).collect();
        keys.sort();
        keys
    };
    until("the replica has it all", async || held(master).len() == 2 && held(master) == held(replica)).await;

    watched.servers[0].kill9();
    let before = told(&fleet).await;
    let mut admitted = 0;
    let mut others = 0;
    let all_told = async || {
        admitted += admitted_of(&fleet, "/users", "acme", 3).await;
        admitted += admitted_of(&fleet, "/orders", "acme", 3).await;
        others += admitted_of(&fleet, "/users", "other", 3).await;
        told(&fleet).await.iter().zip(&before).all(|(now, before)| now > before)
    };
    until("every node is told by the new master", all_told).await;
    assert!(admitted <= 1, "one comes back in twelve minutes: {admitted}");
    // Of one whom nobody knew, nodes that were alone admit a part each, of which the new master is told.
    assert!((1..=6).contains(&others), "{others} of 5");
    assert_eq!(
        admitted_of(&fleet, "/users", "acme", 6).await + admitted_of(&fleet, "/orders", "acme", 6).await,
        0
    );
    assert_eq!(watched.servers[1].cli(&["ROLE"]).lines().next(), Some("master"));
}

#[tokio::test]
async fn nodes_of_a_cluster_hold_a_part_of_the_keys_each_and_all_are_counted() {
    let cluster = Cluster::start().await;
    let url = cluster.url();
    let fleet = Fleet::over(&[&url, &url, &url], "10s", "", &by_tenant()).await;
    all_seen(&fleet).await;
    let tenants: Vec<String> = (0..12).map(|number| format!("tenant-{number}")).collect();
    for tenant in &tenants {
        assert_eq!(admitted_of(&fleet, "/users", tenant, 9).await, 5, "{tenant}");
        assert_eq!(admitted_of(&fleet, "/orders", tenant, 9).await, 4, "{tenant}");
    }
    let keys = |pattern: &str| {
        let of = |node: &Redis| node.cli(&["KEYS", pattern]).lines().filter(|key| !key.is_empty()).count();
        cluster.nodes.iter().map(of).collect::<Vec<_>>()
    };
    for pattern in ["*:limit:????????????????????????????????", "*:quota:*"] {
        let held = keys(pattern);
        assert_eq!(held.iter().sum::<usize>(), 12, "{pattern}: {held:?}");
        assert!(held.iter().filter(|keys| **keys > 0).count() > 1, "{pattern}: {held:?}");
    }

    // A slot that moves takes what is counted in it along.
    let owner = cluster.nodes.iter().find_map(|node| {
        node.cli(&["KEYS", "*:quota:*"]).lines().next().filter(|key| !key.is_empty()).map(str::to_owned)
    });
    cluster.move_slot_of(&owner.unwrap());
    for tenant in &tenants {
        assert_eq!(admitted_of(&fleet, "/orders", tenant, 3).await, 0, "{tenant}");
    }
    assert_eq!(keys("*:quota:*").iter().sum::<usize>(), 12);
}
