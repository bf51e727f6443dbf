//! A broker that is away, crashes and comes back; events that wait for it.

use std::collections::HashSet;
use std::fs::File;

use crate::a_relay::{amqp, drained, write};
use crate::broker::{Broker, shared};
use crate::database::Home;
use crate::inbox::Inbox;
use crate::ports::free_port;
use crate::support::{Service, eventually, program};
use crate::worker::Worker;

/// A service over this database that keeps all events for whoever comes, and the file of its log.
async fn service(home: &Home, url: &str) -> (Service, std::path::PathBuf) {
    let config = home.path().join("relay.toml");
    std::fs::write(
        &config,
        format!("{}queues = {{ \"all\" = \"#\", \"users.welcome\" = \"user.created\" }}\n", amqp(url)),
    )
    .unwrap();
    let log = home.path().join(format!("log-{:08x}", fastrand::u32(..)));
    let mut command = program(home);
    command.arg("--config").arg(config).stderr(File::create(&log).unwrap());
    (Service::spawn(&mut command).await, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_or_crashes_loses_nothing_and_holds_up_nobody() {
    let broker = Broker::prepare();
    let homes = Home::both().await;
    let urls = [broker.vhost(), broker.vhost()];
    let mut services = Vec::new();
    for (home, url) in homes.iter().zip(&urls) {
        services.push(service(home, url).await);
    }
    // There is no broker yet.
    for (service, _) in &services {
        write(&[service], "early", 6, 10).await;
        assert_eq!(service.get("/readyz").send().await.unwrap().status(), 200);
        eventually("what waits is told", || async {
            service.metric("user_service_events_backlog").await == 60
                && service.metric("user_service_broker_up").await == 0
        })
        .await;
    }
    broker.start();
    for (service, _) in &services {
        drained(service, 60).await;
    }
    let workers =
        [Worker::start(&homes[0], &urls[0], "").await, Worker::start(&homes[1], &urls[1], "").await];
    // It crashes while more is published, by two relays each.
    let mut others = Vec::new();
    for (home, url) in homes.iter().zip(&urls) {
        others.push(service(home, url).await);
    }
    let (files, servers) = ([&services[0].0, &others[0].0], [&services[1].0, &others[1].0]);
    let crash = async {
        for service in [files[0], servers[0]] {
            eventually("some were sent", || async {
                service.metric("user_service_events_published_total").await > 60
            })
            .await;
        }
        tokio::task::block_in_place(|| broker.crash());
    };
    tokio::join!(write(&files, "late", 12, 15), write(&servers, "late", 12, 15), crash);
    tokio::task::block_in_place(|| broker.start());
    for ((((service, log), (other, _)), url), worker) in services.iter().zip(&others).zip(&urls).zip(&workers)
    {
        drained(service, 60).await;
        drained(other, 0).await;
        let mut all = Inbox::of(url, "all").await.take(60 + 12 * 15).await;
        all.versions.retain(|_, versions| versions.len() != 10);
        all.assert_complete(12, 15);
        eventually("all are welcomed", || async { worker.welcomed().len() >= 18 }).await;
        let welcomed = worker.welcomed();
        assert_eq!(welcomed.iter().collect::<HashSet<_>>().len(), welcomed.len(), "nobody twice");
        // Each change is told once, whatever the number of tries.
        let log = std::fs::read_to_string(log).unwrap();
        let told = |what| log.matches(what).count();
        assert_eq!(told("events wait for the broker"), 2, "{log}");
        assert_eq!(told("events go through the broker"), 2, "{log}");
        assert!(!log.contains("crEt") && !log.contains("example.com"), "{log}");
    }
}

#[tokio::test]
async fn events_wait_for_the_broker_for_longer_than_for_readers_and_not_for_ever() {
    for home in Home::both().await {
        let nobody = format!("amqp://127.0.0.1:{}", free_port());
        let config = format!("event_retention = \"100ms\"\n{}keep_unsent = \"3s\"\n", amqp(&nobody));
        let service = Service::start(&home, &config).await;
        service.create("ada").await;
        service.create("grace").await;
        home.execute("UPDATE relay_heads SET sent = 1").await;
        let forgotten = async || service.metric("user_service_events_forgotten_total").await;
        eventually("what was sent is forgotten", || async { forgotten().await == 1 }).await;
        assert_eq!(service.metric("user_service_events_lost_total").await, 0);
        let waits = service.get("/events?after=1").send().await.unwrap();
        assert_eq!(waits.status(), 200, "it waits longer than readers are promised");
        eventually("the other one is given up", || async {
            service.metric("user_service_events_lost_total").await == 1
        })
        .await;
        assert_eq!(forgotten().await, 2);
        eventually("nothing waits", || async { service.metric("user_service_events_backlog").await == 0 })
            .await;
    }
}

#[tokio::test]
async fn what_no_queue_wants_is_counted_told_once_and_holds_nothing_up() {
    for home in Home::both().await {
        let url = shared().vhost();
        let config = home.path().join("relay.toml");
        std::fs::write(&config, amqp(&url)).unwrap();
        let log = home.path().join("log");
        let mut command = program(&home);
        command.arg("--config").arg(config).stderr(File::create(&log).unwrap());
        let service = Service::spawn(&mut command).await;
        service.create("ada").await;
        service.create("edsger").await;
        drained(&service, 2).await;
        assert_eq!(service.metric("user_service_events_returned_total").await, 2);
        let mut inbox = Inbox::bound(&url, "#").await;
        service.create("grace").await;
        inbox.take(1).await.assert_complete(1, 1);
        drained(&service, 3).await;
        assert_eq!(service.metric("user_service_events_returned_total").await, 2);
        let log = std::fs::read_to_string(log).unwrap();
        assert_eq!(log.matches("no queue is bound").count(), 1, "{log}");
        assert!(!log.contains("example.com"), "{log}");
    }
}
