//! The log of purges against real servers: how fast it is, and what an absence costs.

use std::sync::Arc;
use std::time::Instant as Clock;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::stored::Key;
use super::super::untold::QUEUE;
use super::*;
use crate::boot::fleet::tests::address_at;
use crate::redis::{Counters, PATIENCE, Settings};
use crate::redis_server::{Cluster, Passage, Redis as Server, Watched, Way, until};

fn redis_at(url: &str) -> Redis {
    let address = address_at(url);
    let settings = Settings { address, ca: None, patience: 4 * PATIENCE, prefix: "tg".to_owned() };
    Redis::new(settings, Counters::unread())
}

/// A node: its end of the log, and what it was told.
struct Node {
    bus: Arc<Bus>,
    told: mpsc::UnboundedReceiver<Event>,
    running: JoinHandle<()>,
}

impl Node {
    fn start(url: &str) -> Self {
        Self::of(Bus::new(redis_at(url)))
    }

    fn of(bus: Bus) -> Self {
        let bus = Arc::new(bus);
        let (sender, told) = mpsc::unbounded_channel();
        let runs = Arc::clone(&bus);
        let running = tokio::spawn(async move { runs.run(|event| drop(sender.send(event))).await });
        Self { bus, told, running }
    }

    async fn seeing(url: &str) -> Self {
        let node = Self::start(url);
        node.sees().await;
        node
    }

    async fn sees(&self) {
        until("the node sees the log", async || *self.bus.sight().borrow() == Sight::Seeing).await;
    }

    async fn is_blind(&self) {
        until("the node is blind", async || *self.bus.sight().borrow() != Sight::Seeing).await;
    }

    /// What it is told next that is no beginning.
    async fn next(&mut self) -> Event {
        let wait = Duration::from_secs(20);
        loop {
            match tokio::time::timeout(wait, self.told.recv()).await.expect("it is told something").unwrap() {
                Event::Began { .. } => {}
                event => return event,
            }
        }
    }

    /// The tags of the next purges.
    async fn tags(&mut self, count: usize) -> Vec<u64> {
        let mut tags = Vec::new();
        while tags.len() < count {
            match self.next().await {
                Event::Purged { purge: Purge { target: Target::Tag(tag), .. }, .. } => tags.push(tag),
                other => panic!("not a purge by tag: {other:?}"),
            }
        }
        tags
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn tag(tag: u64) -> Purge {
    Purge { target: Target::Tag(tag), soft: false }
}

async fn published(node: &Node, purge: Purge) -> Stamp {
    node.bus.publish(purge).await.unwrap()
}

#[tokio::test]
async fn every_node_is_told_in_order_with_places_and_who_it_was() {
    let server = Server::start().await;
    let (one, mut two) = (Node::seeing(&server.url()).await, Node::seeing(&server.url()).await);
    let purges = [
        Purge { target: Target::Url(Key([7; 16])), soft: true },
        tag(9),
        Purge { target: Target::Prefix("https://a.test/users".into()), soft: false },
        Purge { target: Target::Everything, soft: true },
    ];
    let mut last = Stamp(0);
    for purge in purges {
        let place = published(&one, purge.clone()).await;
        assert!(place > last);
        last = place;
        assert_eq!(two.next().await, Event::Purged { place, purge, own: false });
    }
    let place = published(&two, tag(1)).await;
    assert_eq!(two.next().await, Event::Purged { place, purge: tag(1), own: true });
}

#[tokio::test]
async fn a_purge_reaches_other_nodes_within_milliseconds() {
    let server = Server::start().await;
    let (one, mut two) = (Node::seeing(&server.url()).await, Node::seeing(&server.url()).await);
    let mut took = Vec::new();
    for at in 0..200 {
        let began = Clock::now();
        published(&one, tag(at)).await;
        assert_eq!(two.tags(1).await, [at]);
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("node to node: median {:?}, 99 % {:?}", took[100], took[198]);
    assert!(took[198] < Duration::from_millis(100), "{:?}", took[198]);
}

#[tokio::test]
async fn a_node_that_starts_reads_from_the_beginning() {
    let server = Server::start().await;
    let one = Node::seeing(&server.url()).await;
    for at in 0..2500 {
        published(&one, tag(at)).await;
    }
    let mut late = Node::start(&server.url());
    let Event::Began { floor } = late.told.recv().await.unwrap() else { panic!("not the beginning") };
    assert_eq!(late.tags(2500).await, (0..2500).collect::<Vec<_>>());
    assert!(floor < published(&one, tag(0)).await);
}

#[tokio::test]
async fn a_node_that_was_cut_off_reads_on_and_misses_nothing() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let (one, mut two) = (Node::seeing(&server.url()).await, Node::seeing(&way.url()).await);
    for (round, passage) in [(0, Passage::Cut), (100, Passage::Hole), (200, Passage::Lies)] {
        let began = Clock::now();
        way.set(passage);
        two.is_blind().await;
        assert!(began.elapsed() < Duration::from_secs(5), "noticed after {:?}", began.elapsed());
        for at in 0..10 {
            published(&one, tag(round + at)).await;
        }
        way.set(Passage::Open);
        assert_eq!(two.tags(10).await, (round..round + 10).collect::<Vec<_>>());
        two.sees().await;
    }
}

#[tokio::test]
async fn a_log_that_is_lost_is_told_and_begun_anew() {
    let mut server = Server::start().await;
    let (one, mut two) = (Node::seeing(&server.url()).await, Node::seeing(&server.url()).await);
    published(&one, tag(1)).await;
    assert_eq!(two.tags(1).await, [1]);
    server.flushall();
    assert_eq!(two.next().await, Event::Lost);
    published(&one, tag(2)).await;
    assert_eq!(two.tags(1).await, [2]);

    server.restart().await;
    assert_eq!(two.next().await, Event::Lost, "an empty server took over");
    two.sees().await;
    until("it is published", async || one.bus.unsent() == 0 && one.bus.publish(tag(3)).await.is_ok()).await;
    assert_eq!(two.next().await, Event::Purged { place: two_place(&server), purge: tag(3), own: false });
}

/// The place of the log's first purge, as the server has it.
#[tokio::test]
async fn news_of_a_log_that_was_begun_anew_meanwhile_are_not_taken_for_those_of_the_old_one() {
    let server = Server::start().await;
    let mut node = Node::seeing(&server.url()).await;
    let anew = "redis.call('DEL', KEYS[1]); return redis.call('XADD', KEYS[1], '*', 'p', ARGV[1])";
    // In one step, so that the node cannot find the log missing; by one who publishes, and by one who begins it.
    for words in ["1 hard tag 0000000000000007", ""] {
        server.cli(&["EVAL", anew, "1", "tg:purges", words]);
        assert_eq!(node.next().await, Event::Lost, "{words}");
        if !words.is_empty() {
            let told = node.next().await;
            assert!(matches!(&told, Event::Purged { purge, own: false, .. } if *purge == tag(7)), "{told:?}");
        }
    }
}

fn two_place(server: &Server) -> Stamp {
    let read = server.cli(&["XRANGE", "tg:purges", "-", "+"]);
    let id = read.lines().filter(|line| line.contains('-')).find(|line| {
        let place = line.trim();
        Id::parse(place).is_ok_and(|_| server.cli(&["XRANGE", "tg:purges", place, place]).contains("hard"))
    });
    Id::parse(id.unwrap().trim()).unwrap().stamp()
}

#[tokio::test]
async fn a_log_that_was_cut_off_beyond_what_was_read_is_lost() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let (one, mut two) = (Node::seeing(&server.url()).await, Node::seeing(&way.url()).await);
    published(&one, tag(1)).await;
    assert_eq!(two.tags(1).await, [1]);
    way.set(Passage::Cut);
    two.is_blind().await;
    for at in 2..20 {
        published(&one, tag(at)).await;
    }
    server.cli(&["XTRIM", "tg:purges", "MAXLEN", "=", "5"]);
    way.set(Passage::Open);
    assert_eq!(two.next().await, Event::Lost);
    assert_eq!(two.tags(5).await, [15, 16, 17, 18, 19], "and what is there is read");
}

#[tokio::test]
async fn purges_wait_for_redis_and_too_many_become_one_of_everything() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let (one, mut two) = (Node::seeing(&way.url()).await, Node::seeing(&server.url()).await);
    way.set(Passage::Cut);
    for at in 0..3 {
        assert!(one.bus.publish(tag(at)).await.is_err());
    }
    assert!(one.bus.unsent() > 0);
    way.set(Passage::Open);
    let mut tags = two.tags(3).await;
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2]);

    until("all is sent", async || one.bus.unsent() == 0).await;
    way.set(Passage::Cut);
    for at in 0..=QUEUE as u64 + 1 {
        assert!(one.bus.publish(tag(at)).await.is_err());
    }
    assert!(one.bus.unsent() < QUEUE);
    way.set(Passage::Open);
    let mut all = false;
    while !all {
        let event = two.next().await;
        all = matches!(event, Event::Purged { purge: Purge { target: Target::Everything, soft: false }, .. });
    }
}

/// What an event says that leads to this tag.
fn event(name: &str) -> Said {
    Said { name: Some(name.to_owned()), newer: Newer::of("users", &format!("token-{name}")) }
}

#[tokio::test]
async fn what_many_have_heard_is_in_the_log_once_with_what_it_says() {
    let server = Server::start().await;
    let (one, two) = (Node::seeing(&server.url()).await, Node::seeing(&server.url()).await);
    let mut reader = Node::seeing(&server.url()).await;
    // More than any look at the end of the log would find.
    let mut places = Vec::new();
    for at in 0..200 {
        let sent = one.bus.publish_heard(&event(&at.to_string()), &[&tag(at), &tag(1000)]).await;
        places.push(sent.unwrap());
    }
    for (at, first) in (0..200).zip(places) {
        let sent = two.bus.publish_heard(&event(&at.to_string()), &[&tag(at), &tag(1000)]).await;
        assert_eq!(sent.unwrap(), first);
    }
    assert_eq!(server.cli(&["XLEN", "tg:purges"]).trim(), "401", "two for each, after the one that begins");
    // Of the same event another configuration makes something else.
    two.bus.publish_heard(&event("0"), &[&tag(0), &tag(1001)]).await.unwrap();
    two.bus.publish_heard(&Said::default(), &[&tag(1002)]).await.unwrap();
    assert_eq!(server.cli(&["XLEN", "tg:purges"]).trim(), "404");
    assert_eq!(reader.next().await, Event::Said(Newer::of("users", "token-0").unwrap()));
    assert!(matches!(reader.next().await, Event::Purged { purge, own: false, .. } if purge == tag(0)));
}

#[tokio::test]
async fn what_was_heard_is_not_news_in_the_log_and_the_other_way_round() {
    let server = Server::start().await;
    let (one, two) = (Node::seeing(&server.url()).await, Bus::new(redis_at(&server.url())));
    for node in [&one.bus, &two] {
        assert!(!node.has_place(&event("0"), &tag(0)));
        node.publish_heard(&event("0"), &[&tag(0)]).await.unwrap();
    }
    one.bus.publish_heard(&event("1"), &[&tag(1)]).await.unwrap();
    let mut two = Node::of(two);
    let (mut own, mut said) = (Vec::new(), Vec::new());
    while own.len() < 2 {
        match two.next().await {
            Event::Purged { own: known, .. } => own.push(known),
            Event::Said(newer) => said.push(newer),
            _ => {}
        }
    }
    assert_eq!(own, [true, false]);
    assert_eq!(said, [Newer::of("users", "token-1").unwrap()], "its own word is no news to it");
    until("it is noted", async || two.bus.has_place(&event("1"), &tag(1))).await;
    assert!(!two.bus.has_place(&event("1"), &tag(0)));
    let without = Said { newer: None, ..event("1") };
    assert!(
        !two.bus.has_place(&without, &tag(1)),
        "another configuration, which says nothing of what is newer"
    );
}

#[tokio::test]
async fn entries_of_later_versions_and_none_at_all() {
    let server = Server::start().await;
    let mut node = Node::seeing(&server.url()).await;
    server.cli(&["XADD", "tg:purges", "*", "p", "nonsense"]);
    server.cli(&["XADD", "tg:purges", "*", "q", "1"]);
    server.cli(&["XADD", "tg:purges", "*", "p", "2 whatever comes"]);
    let Event::Purged { purge, own: false, .. } = node.next().await else { panic!("no purge") };
    assert_eq!(purge, Purge { target: Target::Everything, soft: false });
}

#[tokio::test]
async fn a_paused_server_is_noticed_and_read_on() {
    let server = Server::start().await;
    let mut node = Node::seeing(&server.url()).await;
    server.pause();
    node.is_blind().await;
    server.resume();
    node.sees().await;
    until("it is published", async || node.bus.publish(tag(1)).await.is_ok()).await;
    assert_eq!(node.tags(1).await, [1]);
}

#[tokio::test]
async fn a_full_server_takes_purges_and_the_beginning_of_a_log() {
    let server = Server::start().await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let (one, mut two) = (Node::seeing(&server.url()).await, Node::seeing(&server.url()).await);
    published(&one, tag(1)).await;
    assert_eq!(two.tags(1).await, [1]);
    assert!(server.cli(&["SET", "tg:any", "1"]).contains("OOM"));
}

#[tokio::test]
async fn under_a_sentinel_and_in_a_cluster() {
    let cluster = Cluster::start().await;
    let (one, mut two) = (Node::seeing(&cluster.url()).await, Node::seeing(&cluster.url()).await);
    until("it is published", async || one.bus.publish(tag(1)).await.is_ok()).await;
    assert_eq!(two.tags(1).await, [1]);
    cluster.move_slot_of("tg:purges");
    until("it is published", async || one.bus.publish(tag(2)).await.is_ok()).await;
    assert_eq!(two.tags(1).await, [2], "the log moved, and nothing is lost");
    let heard = Said { name: Some("e".to_owned()), newer: None };
    for node in [&one, &two] {
        let sent = async || node.bus.publish_heard(&heard, &[&tag(3)]).await.is_ok();
        until("it is published", sent).await;
    }
    published(&one, tag(4)).await;
    assert_eq!(two.tags(2).await, [3, 4], "both keys are in one slot");

    let mut watched = Watched::start().await;
    let (one, mut two) = (Node::seeing(&watched.url()).await, Node::seeing(&watched.url()).await);
    published(&one, tag(1)).await;
    assert_eq!(two.tags(1).await, [1]);
    let followed = async || watched.servers[1].cli(&["XLEN", "tg:purges"]) == "2";
    until("the replica has it", followed).await;
    watched.servers[0].kill9();
    until("it is published", async || one.bus.publish(tag(2)).await.is_ok()).await;
    let mut tags = Vec::new();
    while !tags.contains(&2) {
        tags.extend(two.tags(1).await);
    }
}

#[test]
fn ids_become_stamps_in_their_order() {
    let stamp = |id: &str| Id::parse(id).unwrap().stamp();
    assert_eq!(stamp("1-0"), Stamp(1 << 20));
    assert_eq!(stamp("1-5"), Stamp((1 << 20) + 5));
    assert_eq!(
        stamp("1-99999999"),
        Stamp((2 << 20) - 1),
        "a count that is too large stays within its millisecond"
    );
    assert!(stamp("18446744073709551615-18446744073709551615") > stamp("1700000000000-0"));
    assert!(["", "-", "1", "x-1", "1-x", "-1-2"].iter().all(|id| Id::parse(id).is_err()));
}
