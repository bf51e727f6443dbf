//! Nodes over real servers: what they admit together, and alone.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::boot::fleet::tests::address_at;
use crate::limit::Rate;
use crate::redis::{Counters, Redis, Settings};
use crate::redis_server::{Cluster, Passage, Redis as Server, Watched, Way, until};

const HOUR: Duration = Duration::from_secs(3600);

/// Far beyond what a Redis on this machine takes.
const PATIENT: Duration = Duration::from_secs(10);

/// A node that sees this Redis; it counts `burst` an hour.
struct Node {
    fleet: Arc<Fleet>,
    nodes: Nodes,
}

impl Node {
    fn at(url: &str, burst: u32, patience: Duration) -> Self {
        let settings = Settings { address: address_at(url), ca: None, patience, prefix: "tg".to_owned() };
        let nodes = Nodes::default();
        nodes.join(Redis::new(settings, Counters::unread()), Gauge::default());
        tokio::spawn(nodes.clone().keep());
        let rate = Rate { count: burst, per: HOUR, burst };
        let rule = Rule::per_client(rate);
        let fleet = Fleet::new("users", rate, &rule, nodes.clone(), &Meters::new(), "users");
        let fleet = Arc::new(fleet);
        Self { fleet, nodes }
    }

    async fn admits(&self, client: u32) -> bool {
        self.fleet.charge(Key::numbered(client)).await.is_ok()
    }

    /// How many of so many requests at once are admitted.
    async fn admitted_of(&self, requests: u32) -> u32 {
        let ask = |_| {
            let fleet = Arc::clone(&self.fleet);
            tokio::spawn(async move { fleet.charge(Key::numbered(1)).await.is_ok() })
        };
        let asked: Vec<_> = (0..requests).map(ask).collect();
        let mut admitted = 0;
        for asked in asked {
            admitted += u32::from(asked.await.unwrap());
        }
        admitted
    }
}

fn nodes(url: &str, count: usize, burst: u32, patience: Duration) -> Vec<Node> {
    (0..count).map(|_| Node::at(url, burst, patience)).collect()
}

async fn all_seen(nodes: &[Node]) {
    let count = u32::try_from(nodes.len()).unwrap();
    until("all nodes are seen", async || nodes.iter().all(|node| node.nodes.live() == count)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_admit_the_burst_and_no_more_of_each_key() {
    let (alone, watched, cluster) = (Server::start().await, Watched::start().await, Cluster::start().await);
    for url in [alone.url(), watched.url(), cluster.url()] {
        for count in 1..=3 {
            let burst = 60 + u32::try_from(count).unwrap(); // another rule each time
            let nodes = nodes(&url, count, burst, PATIENT);
            let mut admitted = 0;
            for node in nodes.iter().cycle().take(12) {
                admitted += node.admitted_of(30).await;
            }
            // What is in the hands of a node that is not asked any more is lost: a batch at the most.
            let lost = u32::try_from(count).unwrap() * (burst / 10);
            assert!(
                admitted <= burst && admitted + lost >= burst,
                "{admitted} of {burst}, {count} nodes at {url}"
            );
            assert!(nodes[0].admits(2).await, "another key has a count of its own");
        }
    }
}

#[tokio::test]
async fn what_was_counted_outlives_the_nodes() {
    let server = Server::start().await;
    let before = Node::at(&server.url(), 5, PATIENT);
    for _ in 0..5 {
        assert!(before.admits(1).await);
    }
    let after = Node::at(&server.url(), 5, PATIENT);
    assert!(!after.admits(1).await);
    assert!(server.cli(&["KEYS", "tg:limit:*"]).lines().count() >= 1);
    let lives: i64 = server
        .cli(&["PTTL", server.cli(&["KEYS", "tg:limit:????????????????????????????????"]).trim()])
        .trim()
        .parse()
        .unwrap();
    assert!((3_500_000..=3_600_001).contains(&lives), "for as long as anything is owed: {lives} ms");
}

#[tokio::test]
async fn while_redis_is_away_each_node_admits_its_part_and_is_back_without_a_jump() {
    for (passage, what) in [(Passage::Hole, "black-holed"), (Passage::Cut, "gone")] {
        let server = Server::start().await;
        let way = Way::to(server.port).await;
        let nodes = nodes(&way.url(), 3, 30, Duration::from_millis(50));
        all_seen(&nodes).await;
        way.set(passage);
        let mut admitted = [0; 3];
        for _ in 0..30 {
            for (node, admitted) in nodes.iter().zip(&mut admitted) {
                *admitted += u32::from(node.admits(1).await);
            }
        }
        assert_eq!(admitted, [10, 10, 10], "{what}");

        server.flushall();
        way.set(Passage::Open);
        until("redis is back", async || !nodes.iter().any(|node| node.nodes.are_away())).await;
        let mut after = 0;
        let leased = || nodes.iter().map(|node| node.fleet.leases.refused.get()).sum::<u64>();
        until("redis is asked again", async || {
            for node in &nodes {
                after += u32::from(node.admits(1).await);
            }
            leased() > 0
        })
        .await;
        // The burst comes back within an hour, one in two minutes.
        assert!(after <= 1, "{what}: {after} more, though Redis has forgotten all");
    }
}

#[tokio::test]
async fn a_full_redis_is_as_good_as_none() {
    let server = Server::start_with(&["--maxmemory", "1"]).await;
    let node = Node::at(&server.url(), 4, PATIENT);
    let mut admitted = 0;
    for _ in 0..20 {
        admitted += u32::from(node.admits(1).await);
    }
    assert_eq!(admitted, 4);
}
