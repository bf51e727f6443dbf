//! Nodes over real servers: what they admit of a quota together, and what is left of it afterwards.

use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::boot::fleet::tests::address_at;
use crate::redis::{Counters, Redis, Settings};
use crate::redis_server::{Cluster, Passage, Redis as Server, Watched, Way, until};

/// Far beyond what a Redis on this machine takes.
const PATIENT: Duration = Duration::from_secs(10);

/// A node that sees this Redis.
struct Node {
    ledger: Arc<Ledger>,
    nodes: Nodes,
    terms: Terms,
}

impl Node {
    fn at(url: &str, identity: &str, count: u32, patience: Duration) -> Self {
        let settings = Settings { address: address_at(url), ca: None, patience, prefix: "tg".to_owned() };
        let nodes = Nodes::default();
        nodes.join(Redis::new(settings, Counters::unread()), Gauge::default());
        tokio::spawn(nodes.clone().keep());
        let ledger = Ledger::new(identity, Window::Month, nodes.clone(), &Meters::new(), "users");
        let quota = Quota { count, window: Window::Month };
        let terms = Terms { quota, on_failure: StoreFailure::Local };
        Self { ledger: Arc::new(ledger), nodes, terms }
    }

    async fn admits(&self, client: u32) -> bool {
        self.ledger.charge(Key::numbered(client), self.terms).await.is_ok()
    }

    async fn account(&self, deed: Deed) -> Account {
        self.ledger.account(&Key::numbered(1), self.terms.quota.count, deed).await.unwrap()
    }

    /// How many of so many requests at once are admitted.
    async fn admitted_of(&self, requests: u32) -> u32 {
        let ask = |_| {
            let (ledger, terms) = (Arc::clone(&self.ledger), self.terms);
            tokio::spawn(async move { ledger.charge(Key::numbered(1), terms).await.is_ok() })
        };
        let asked: Vec<_> = (0..requests).map(ask).collect();
        let mut admitted = 0;
        for asked in asked {
            admitted += u32::from(asked.await.unwrap());
        }
        admitted
    }
}

fn nodes(url: &str, identity: &str, count: u32, patience: Duration) -> [Node; 3] {
    [(); 3].map(|()| Node::at(url, identity, count, patience))
}

async fn all_seen(nodes: &[Node]) {
    let count = u32::try_from(nodes.len()).unwrap();
    until("all nodes are seen", async || nodes.iter().all(|node| node.nodes.live() == count)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_admit_the_quota_and_not_one_more() {
    let (alone, watched, cluster) = (Server::start().await, Watched::start().await, Cluster::start().await);
    for url in [alone.url(), watched.url(), cluster.url()] {
        for count in [1, 25, 20_000] {
            let nodes = nodes(&url, &count.to_string(), count, PATIENT);
            let mut admitted = 0;
            for turn in 0.. {
                let asked = nodes[turn % 3].admitted_of(count / 4 + 2).await;
                admitted += asked;
                // What one has in hand is admitted by nobody else, and given back when it is not asked for.
                if asked == 0 && nodes[0].account(Deed::Read).await.used == u64::from(admitted) {
                    break;
                }
                assert!(admitted <= count, "{admitted} of {count} at {url}");
            }
            assert_eq!(admitted, count, "at {url}");
            assert!(nodes[0].admits(2).await, "another key has an account of its own");
        }
    }
}

#[tokio::test]
async fn what_was_used_outlives_all_nodes_and_a_restart_of_redis() {
    let mut server = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let before = Node::at(&server.url(), "users", 5, PATIENT);
    for _ in 0..5 {
        assert!(before.admits(1).await);
    }
    drop(before);
    server.kill9();
    server.restart().await;
    let after = Node::at(&server.url(), "users", 5, PATIENT);
    assert!(!after.admits(1).await);
    let Account { used, left, span, .. } = after.account(Deed::Read).await;
    assert_eq!((used, left), (5, 0));
    let key = server.cli(&["KEYS", "tg:quota:*"]);
    let ends: u64 = server.cli(&["EXPIRETIME", key.trim()]).trim().parse().unwrap();
    assert_eq!(ends, span.until, "it is forgotten with its window");
}

#[tokio::test]
async fn what_is_in_hand_and_not_used_is_given_back() {
    let server = Server::start().await;
    let node = Node::at(&server.url(), "users", 1_000_000, PATIENT);
    for _ in 0..3000 {
        assert!(node.admits(1).await);
    }
    assert!(node.ledger.leases.granted.get() < 1500, "a busy key does not ask for each request");
    until("Redis knows what was used", async || node.account(Deed::Read).await.used == 3000).await;
    assert!(node.admits(1).await);
    until("and goes on", async || node.account(Deed::Read).await.used == 3001).await;
}

#[tokio::test]
async fn windows_are_those_of_redis_whatever_a_node_thinks() {
    let server = Server::start().await;
    let (right, wrong) =
        (Node::at(&server.url(), "users", 3, PATIENT), Node::at(&server.url(), "users", 3, PATIENT));
    wrong.ledger.ahead.store(400 * 24 * 3600 * 1000, Ordering::Relaxed);
    assert!(right.admits(1).await && wrong.admits(1).await && right.admits(1).await);
    assert!(!wrong.admits(1).await && !right.admits(1).await);
    assert_eq!(wrong.account(Deed::Read).await, right.account(Deed::Read).await);
    assert!(wrong.ledger.ahead.load(Ordering::Relaxed).abs() < 60_000, "it has learnt what time it is");

    // What was used in the window before is of no account.
    let key = server.cli(&["KEYS", "tg:quota:*"]);
    server.cli(&["HSET", key.trim(), "from", "1735689600", "granted", "9"]);
    let account = right.account(Deed::Read).await;
    assert_eq!((account.used, account.granted, account.left), (0, 0, 3));
    until("a new window is new", async || right.admits(1).await).await;
    assert_eq!(right.account(Deed::Read).await.used, 1);
}

#[tokio::test]
async fn an_account_is_read_granted_more_and_forgotten() {
    let server = Server::start().await;
    let nodes = nodes(&server.url(), "users", 2, PATIENT);
    assert_eq!(nodes[2].account(Deed::Read).await.left, 2);
    assert!(server.cli(&["KEYS", "tg:quota:*"]).trim().is_empty(), "who reads leaves nothing behind");
    assert!(nodes[0].admits(1).await && nodes[1].admits(1).await);
    assert!(!nodes[0].admits(1).await && !nodes[1].admits(1).await);

    let granted = nodes[2].account(Deed::Grant(2)).await;
    assert_eq!((granted.used, granted.granted, granted.left), (2, 2, 2));
    for node in &nodes[..2] {
        until("more is granted", async || node.admits(1).await).await;
    }
    until("and used up", async || !nodes[0].admits(1).await && !nodes[1].admits(1).await).await;

    assert_eq!(nodes[2].account(Deed::Reset).await.left, 2);
    let mut admitted = 0;
    until("all is forgotten", async || {
        admitted += u32::from(nodes[0].admits(1).await);
        admitted == 2
    })
    .await;
    let account = nodes[1].account(Deed::Read).await;
    assert_eq!((account.used, account.granted, account.left), (2, 0, 0));
}

#[tokio::test]
async fn while_redis_is_away_each_node_admits_its_part_of_what_was_left_and_tells_of_it() {
    for (passage, what) in [(Passage::Hole, "black-holed"), (Passage::Cut, "gone")] {
        let server = Server::start().await;
        let way = Way::to(server.port).await;
        let nodes = nodes(&way.url(), "users", 33, Duration::from_millis(50));
        all_seen(&nodes).await;
        // Three are used; each node hears of thirty or a few more that are left.
        for node in &nodes {
            let heard = || node.ledger.leases.granted.get() > 0;
            until("redis answers", async || heard() || (node.admits(1).await && heard())).await;
        }
        let used = nodes[0].account(Deed::Read).await.used;
        way.set(passage);
        let mut admitted = 0;
        for _ in 0..40 {
            for node in &nodes {
                admitted += u64::from(node.admits(1).await);
            }
        }
        assert!((20..=33).contains(&admitted) && used + admitted <= 33, "{what}: {admitted} after {used}");

        way.set(Passage::Open);
        // Nobody asks for the key any more.
        let told = async || {
            let account = nodes[0].ledger.account(&Key::numbered(1), 33, Deed::Read).await;
            account.is_some_and(|account| account.used >= used + admitted)
        };
        until("redis is told", told).await;
        let all_used = async || {
            for node in &nodes {
                node.admits(1).await;
            }
            nodes[0].account(Deed::Read).await.used >= 33
        };
        until("what is left is had", all_used).await;
        assert!(!nodes[1].admits(1).await, "{what}");
    }
}
