//! The cache follows what is written past the gateway: by events from a broker, and by those that the service tells itself.

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use crate::support::cached::{get, is_hit, status};
use crate::support::followed::{create, rename};
use crate::support::rabbit;
use crate::support::redis::Redis;
use crate::support::users::{Database, Service};
use crate::support::{Cached, Followed, Gateway, PATIENCE, Reply, eventually, pass};

const BROKER: &str = "amqp = { env = \"AMQP_URL\" }";

/// A service whose events go to this broker.
async fn sending(database: &Database, amqp: &str) -> Service {
    Service::start_with(database, &["--amqp", amqp]).await
}

fn stream_of(service: &Service) -> String {
    format!("events = \"http://{}/events\"", service.address())
}

/// Writes at the service; every node is to show it, though each had kept what was there before.
async fn all_follow(service: &Service, nodes: &[Followed], name: &str) {
    let path = create(service, name).await;
    for node in nodes {
        node.shows("/users", name).await;
        node.keeps(&path).await;
        node.keeps("/users").await;
    }
    let new = format!("{name} the second");
    rename(service, &path, &new).await;
    for node in nodes {
        node.shows(&path, &new).await;
        node.shows("/users", &new).await;
        node.keeps(&path).await;
    }
}

// ── by a broker ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn what_is_written_past_the_gateways_is_seen_on_all_of_them() {
    let amqp = rabbit::shared().vhost();
    let database = Database::new();
    let service = sending(&database, &amqp).await;
    let redis = Redis::start().await;
    for top in ["", &format!("redis = {{ url = \"{}\", timeout = \"10s\" }}", redis.url())] {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Followed::start(service.address(), top, BROKER, &amqp).await);
        }
        all_follow(&service, &nodes, if top.is_empty() { "Ada" } else { "Grace" }).await;
        for node in &nodes {
            let two = async || node.count("events").await == 2;
            eventually(PATIENCE, "each has heard both events", two).await;
            assert_eq!((node.count("unreadable").await, node.count("missed").await), (0, 1));
            let view = node.0.admin_get("/cache").await.json();
            assert_eq!(
                (&view["invalidate"]["heard"], &view["invalidate"]["events"]),
                (&true.into(), &2.into())
            );
            assert!(!node.0.output().contains("crEt"), "{}", node.0.output());
        }
        if !top.is_empty() {
            // Three have heard of each, and one was first to say so: two tags each, and what each start may have missed.
            let log = redis.cli(&["XRANGE", "tidegate:purges", "-", "+"]);
            let hard = log.matches("1 hard tag").count();
            assert!((4..12).contains(&hard), "{hard} in {log}");
        }
    }
}

#[tokio::test]
async fn while_events_are_away_answers_are_trusted_no_longer_than_said() {
    // One of its own: it is killed.
    let broker = rabbit::Broker::prepare();
    broker.start();
    let amqp = broker.vhost();
    let database = Database::new();
    let service = sending(&database, &amqp).await;
    let node = async |unheard: &str| {
        let events = format!("{BROKER}\nunheard_max = \"{unheard}\"");
        Followed::start(service.address(), "", &events, &amqp).await
    };
    let (wary, soon, trusting) = (node("0s").await, node("1s").await, node("1h").await);
    let path = create(&service, "Ada").await;
    for node in [&wary, &soon, &trusting] {
        node.shows("/users", "Ada").await;
        node.keeps(&path).await;
    }
    let others = create(&service, "Grace").await;
    trusting.keeps(&others).await;

    broker.crash();
    for node in [&wary, &soon, &trusting] {
        node.hears(false).await;
    }
    rename(&service, &path, "Ada the second").await;
    let answer = wary.get(&path).await;
    assert!(answer.text().contains("second") && status(&answer).contains("fwd=stale"), "{answer:?}");
    soon.shows(&path, "second").await;
    let answer = trusting.get(&path).await;
    assert!(is_hit(&answer) && !answer.text().contains("second"), "{answer:?}");
    let view = trusting.0.admin_get("/cache").await.json();
    assert_eq!(view["invalidate"]["heard"], false, "{view}");
    assert_eq!(trusting.0.admin_get("/ready").await.status, 200);

    broker.start();
    for node in [&wary, &soon, &trusting] {
        node.hears(true).await;
    }
    trusting.shows(&path, "second").await;
    // Nothing has happened to the other one, and its origin says so.
    let answer = trusting.get(&others).await;
    assert!(is_hit(&answer) || status(&answer).contains("fwd=stale; fwd-status=304"), "{answer:?}");
    assert_eq!(trusting.count("missed").await, 2);
    all_follow(&service, &[wary, soon, trusting], "Edsger").await;
}

#[tokio::test]
async fn what_cannot_be_read_counts_as_missed_and_harms_nobody() {
    let amqp = rabbit::shared().vhost();
    let database = Database::new();
    let service = sending(&database, &amqp).await;
    let node = Followed::start(service.address(), "", BROKER, &amqp).await;
    let path = create(&service, "Ada").await;
    node.shows("/users", "Ada").await;
    node.keeps(&path).await;
    let first = async || node.count("events").await == 1;
    eventually(PATIENCE, "the creation is heard", first).await;
    node.keeps(&path).await;
    let heard = 1;

    let connection = Connection::connect(&amqp, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let send = async |body: &[u8]| {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel
            .basic_publish("users.events".into(), "user.x".into(), options, body, properties)
            .await
            .unwrap();
    };
    let large = format!("{{\"id\":\"e\",\"data\":{{\"id\":\"{}\"}}}}", "x".repeat(1 << 20));
    let deep = "[".repeat(100_000);
    let bad: [&[u8]; 6] =
        [b"", b"\xff\x00garbage", b"[]", b"{\"id\":\"e1\",\"data\":[]}", deep.as_bytes(), large.as_bytes()];
    for body in bad {
        send(body).await;
    }
    let counted = async || node.count("unreadable").await == 6;
    eventually(PATIENCE, "each of them is counted", counted).await;
    assert_eq!(node.count("events").await, heard);
    // One at the start, and one for all that came within a second of the one before.
    let settled = async || node.count("missed").await >= 2;
    eventually(PATIENCE, "what may have been missed is asked for again", settled).await;
    assert!(node.count("missed").await <= 5);
    node.keeps(&path).await;
    assert_eq!(node.0.output().matches("leads to no tag").count(), 1, "{}", node.0.output());

    // Without a name of its own, an event is no less one.
    send(
        format!("{{\"subject\":\"x\",\"data\":{{\"id\":\"{}\"}}}}", path.rsplit('/').next().unwrap())
            .as_bytes(),
    )
    .await;
    let gone = async || node.count("events").await == heard + 1;
    eventually(PATIENCE, "it is heard", gone).await;
    all_follow(&service, &[node], "Grace").await;
}

#[tokio::test]
async fn what_is_fetched_after_an_event_is_asked_for_with_its_token() {
    let amqp = rabbit::shared().vhost();
    let connection = Connection::connect(&amqp, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (topic, none) = (lapin::ExchangeKind::Topic, lapin::types::FieldTable::default());
    channel
        .exchange_declare("users.events".into(), topic, ExchangeDeclareOptions::default(), none)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("amqp");
    std::fs::write(&url, &amqp).unwrap();
    let top = format!(
        "cache.read_your_writes = \"header\"\n\
         cache.invalidate = {{ amqp = {{ file = {url:?} }}, tags = [\"{{id}}\"], upstream = \"users\" }}"
    );
    let routes = "[upstreams.users]\nservers = [\"ORIGIN\"]\nhealth = false\n\
                  [routes.all]\ncache = true\nupstream = \"users\"\n";
    let cached = Cached::over(&top, routes).await;
    cached.origin.answer_by("/page", |seen| {
        let reply = Reply::ok(format!("asked with {:?}", seen.all("last-seen").join(",")));
        reply.field("cache-control", "max-age=600").field("cache-tag", "page")
    });
    let heard = async || cached.gateway.count("tidegate_cache_feed_up").await == 1;
    eventually(PATIENCE, "events are heard", heard).await;
    let kept = async || is_hit(&get(&cached.http1, "/page", &[]).await);
    eventually(PATIENCE, "it is kept", kept).await;
    assert_eq!(get(&cached.http1, "/page", &[]).await.text(), "asked with \"\"");
    let event = br#"{"id":"e","data":{"id":"page"},"lastseen":"abc"}"#;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent =
        channel.basic_publish("users.events".into(), "user.x".into(), options, event, properties).await;
    sent.unwrap().await.unwrap();
    let told = async || get(&cached.http1, "/page", &[]).await.text() == "asked with \"abc\"";
    eventually(PATIENCE, "the event is heard, and who fetches then has its token", told).await;
    eventually(PATIENCE, "what came of that is kept", kept).await;
}

#[tokio::test]
async fn a_broker_is_spoken_to_by_tls_and_must_prove_who_it_is() {
    let broker = rabbit::shared();
    let amqp = broker.vhost();
    let database = Database::new();
    let service = sending(&database, &amqp).await;
    let secure = broker.by_tls(&amqp);
    let trusted = format!("{BROKER}\nca = {:?}", broker.ca());
    let node = Followed::start(service.address(), "", &trusted, &secure).await;
    all_follow(&service, &[node], "Ada").await;

    let config = Followed::config(service.address(), "", BROKER);
    let doubting = Gateway::start_where(&config, &[("AMQP_URL", &secure)]).await;
    let told = async || doubting.wrote().contains("no events for the cache are heard");
    eventually(PATIENCE, "an authority that nobody knows is not believed", told).await;
    assert_eq!(doubting.count("tidegate_cache_feed_up").await, 0);
    assert!(!doubting.wrote().contains("crEt"), "{}", doubting.wrote());
}

// ── by the service itself ───────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_stream_is_taken_up_where_it_ended_and_nothing_is_missed() {
    let database = Database::new();
    let mut service = Service::start(&database).await;
    let redis = Redis::start().await;
    let top = format!("redis = {{ url = \"{}\", timeout = \"10s\" }}", redis.url());
    let events = format!("{}\nunheard_max = \"1h\"", stream_of(&service));
    let mut nodes = Vec::new();
    for top in ["", &top, &top] {
        nodes.push(Followed::start(service.address(), top, &events, "").await);
    }
    all_follow(&service, &nodes, "Ada").await;
    let path = create(&service, "Grace").await;
    for node in &nodes {
        node.shows("/users", "Grace").await;
        node.keeps(&path).await;
    }

    service.kill();
    for node in &nodes {
        node.hears(false).await;
        assert!(is_hit(&node.get(&path).await), "it is trusted for an hour");
    }
    // Written before any of them is back, most likely; it is told in any case.
    service.restart().await;
    rename(&service, &path, "Grace the second").await;
    for node in &nodes {
        node.shows(&path, "second").await;
        assert_eq!(node.count("missed").await, 1, "what happened meanwhile was told: {}", node.0.output());
    }
    all_follow(&service, &nodes, "Edsger").await;
}

#[tokio::test]
async fn where_a_place_is_gone_everything_is_asked_for_again() {
    let database = Database::new();
    let mut service = Service::start(&database).await;
    let events = format!("{}\nunheard_max = \"1h\"", stream_of(&service));
    let node = Followed::start(service.address(), "", &events, "").await;
    let path = create(&service, "Ada").await;
    node.shows("/users", "Ada").await;
    node.keeps("/users").await;
    node.keeps(&path).await;

    // Another database stands in: none of its events are behind the place that the node has.
    service.kill();
    node.hears(false).await;
    let other = Database::new();
    service.restart_over(&other).await;
    let again = async || node.count("missed").await == 2;
    eventually(PATIENCE, "what may have been missed is asked for again", again).await;
    node.hears(true).await;
    assert!(!node.get("/users").await.text().contains("Ada"));
}

#[tokio::test]
async fn a_reload_begins_changes_and_ends_what_is_followed() {
    let database = Database::new();
    let service = Service::start(&database).await;
    let config = |events: &str| Followed::config(service.address(), "watch = false\n", events);
    let node = Followed(Gateway::start(&config("")).await);
    let reload = async |events: &str| {
        node.0.rewrite(&config(events));
        let (code, printed) = Gateway::run(&["reload", "--admin", &node.0.admin().to_string()]).await;
        assert!(code == Some(0) && !printed.contains("restart"), "{printed}");
    };
    let view = async || node.0.admin_get("/cache").await.json()["invalidate"].clone();
    let path = create(&service, "Ada").await;
    node.keeps(&path).await;
    assert_eq!(view().await, serde_json::Value::Null);

    rename(&service, &path, "Ada the second").await;
    reload(&stream_of(&service)).await;
    node.hears(true).await;
    // What was written before is among what may have been missed.
    node.shows(&path, "second").await;
    rename(&service, &path, "Ada the third").await;
    node.shows(&path, "third").await;

    reload("events = \"http://127.0.0.1:9/events\"\nunheard_max = \"0s\"").await;
    node.hears(false).await;
    assert_eq!(view().await["source"], "http://127.0.0.1:9/events");
    assert!(!is_hit(&node.get(&path).await));
    reload("").await;
    assert_eq!(view().await, serde_json::Value::Null);
    node.keeps(&path).await;
    rename(&service, &path, "Ada the fourth").await;
    pass(std::time::Duration::from_millis(300)).await;
    assert!(is_hit(&node.get(&path).await), "nobody listens any more");
}
