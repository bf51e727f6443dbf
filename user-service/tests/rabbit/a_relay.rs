//! Events on their way to the broker.

use serde_json::json;

use crate::broker::shared;
use crate::database::Home;
use crate::inbox::{Inbox, event, whole};
use crate::stream::Reader;
use crate::support::{Service, eventually, user};

/// Keys that send events to this broker.
pub(crate) fn amqp(url: &str) -> String {
    format!("[events]\namqp = {url:?}\n")
}

/// Creates users and changes each of them, all at once, until they have this version.
pub(crate) async fn write(services: &[&Service], name: &str, users: usize, versions: u64) {
    let writers = (0..users).map(|writer| {
        let (create, change) = (services[writer % services.len()], services[(writer + 1) % services.len()]);
        let post = create.post(&user(&format!("{name}{writer}"))).send();
        let (base, client) = (change.base.clone(), change.client.clone());
        tokio::spawn(async move {
            let path = post.await.unwrap().headers()["location"].to_str().unwrap().to_owned();
            for round in 1..versions {
                let patch = client.patch(format!("{base}{path}"));
                let patch = patch.header("content-type", "application/merge-patch+json");
                let name = json!({ "name": format!("round {round}") });
                assert_eq!(patch.body(name.to_string()).send().await.unwrap().status(), 200);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

/// Waits until nothing is left to send.
pub(crate) async fn drained(service: &Service, published: u64) {
    eventually("all is sent", || async {
        service.metric("user_service_events_published_total").await >= published
            && service.metric("user_service_events_backlog").await == 0
            && service.metric("user_service_broker_up").await == 1
    })
    .await;
}

#[tokio::test]
async fn every_change_is_sent_as_the_stream_tells_it() {
    for home in Home::both().await {
        let url = shared().vhost();
        let mut inbox = Inbox::bound(&url, "user.#").await;
        let service = Service::start(&home, &amqp(&url)).await;
        let mut reader = Reader::follow(&service, None).await;
        let path = service.create("ada").await;
        service.patch(&path, &json!({"name": "Ada"})).send().await.unwrap();
        service.delete(&path).send().await.unwrap();
        for kind in ["user.created", "user.updated", "user.deleted"] {
            let (sent, told) = (inbox.next().await, reader.next().await);
            assert_eq!((sent.routing_key.as_str(), told.kind.as_str()), (kind, kind));
            assert_eq!(event(&sent), told.event);
            assert_eq!(whole(&sent)["lastseen"].is_string(), told.last_seen.is_some());
            let properties = &sent.properties;
            let text = |field: &Option<lapin::types::ShortString>| field.as_ref().unwrap().to_string();
            assert_eq!(text(properties.message_id()), told.event["id"].as_str().unwrap());
            assert_eq!(text(properties.content_type()), "application/cloudevents+json");
            assert_eq!(text(properties.kind()), kind);
            assert_eq!(*properties.delivery_mode(), Some(2), "kept on the disk");
        }
        drained(&service, 3).await;
        assert_eq!(service.metric("user_service_events_returned_total").await, 0);
    }
}

#[tokio::test]
async fn relays_share_the_work_and_keep_each_user_in_order() {
    for home in Home::both().await {
        let url = shared().vhost();
        let mut inbox = Inbox::bound(&url, "#").await;
        let config = amqp(&url);
        let services = [Service::start(&home, &config).await, Service::start(&home, &config).await];
        write(&[&services[0], &services[1]], "writer", 12, 20).await;
        inbox.take(12 * 20).await.assert_complete(12, 20);
        // What is counted by both together may hold repetitions.
        let mut published = 0;
        for service in &services {
            drained(service, 0).await;
            published += service.metric("user_service_events_published_total").await;
        }
        assert!(published >= 240, "{published}");
    }
}

#[tokio::test]
async fn who_stops_hands_over_and_nothing_from_before_the_first_relay_is_sent() {
    for home in Home::both().await {
        let url = shared().vhost();
        let mut inbox = Inbox::bound(&url, "#").await;
        let without = Service::start(&home, "").await;
        without.create("before").await;
        let mut first = Service::start(&home, &amqp(&url)).await;
        without.create("ada").await;
        assert_eq!(event(&inbox.next().await)["data"]["name"], "ada");
        first.signal("-TERM").await;
        assert!(first.ended().await.success());
        without.create("grace").await;
        let _second = Service::start(&home, &amqp(&url)).await;
        assert_eq!(event(&inbox.next().await)["data"]["name"], "grace");
        without.create("edsger").await;
        assert_eq!(event(&inbox.next().await)["data"]["name"], "edsger");
    }
}

#[tokio::test]
async fn declared_queues_are_there_before_their_consumers() {
    let [home, _] = Home::both().await;
    let url = shared().vhost();
    let config = format!("{}queues = {{ \"mail\" = \"user.created\" }}\n", amqp(&url));
    let service = Service::start(&home, &config).await;
    let path = service.create("ada").await;
    service.delete(&path).send().await.unwrap();
    drained(&service, 2).await;
    assert_eq!(service.metric("user_service_events_returned_total").await, 1, "nobody wants removals");

    // A consumer that cannot deal with an event finds it again with the dead letters.
    let (_connection, channel) = crate::inbox::connect(&url).await;
    let get = channel.basic_get("mail".into(), lapin::options::BasicGetOptions::default());
    let mail = get.await.unwrap().expect("the creation");
    mail.delivery.acker.reject(lapin::options::BasicRejectOptions { requeue: false }).await.unwrap();
    let dead = Inbox::of(&url, "mail.dead").await.next().await;
    assert_eq!(dead.data, mail.delivery.data);
}
