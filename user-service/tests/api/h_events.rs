//! Events: every change is told, in order, and to who comes back as well.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stream::Reader;
use crate::support::{Service, directory, eventually, header, problem, service, user};

/// The number of the newest event, as an instance knows it.
const LAST: &str = "user_service_events_last";

#[tokio::test]
async fn every_change_is_told_to_who_follows_and_to_who_comes_back() {
    let directory = directory().await;
    let (one, other) = (Service::start(&directory, "").await, Service::start(&directory, "").await);
    let mut live = Reader::follow(&other, None).await;
    let created = one.post(&user("ada")).send().await.unwrap();
    let path = header(&created, "location").to_owned();
    let replicates = created.headers().contains_key("last-seen");
    let ada: Value = created.json().await.unwrap();
    let changed: Value =
        one.patch(&path, &json!({"name": "Ada"})).send().await.unwrap().json().await.unwrap();
    // Changes nothing, and refusals change nothing either.
    assert_eq!(one.patch(&path, &json!({"name": "Ada"})).send().await.unwrap().status(), 200);
    assert_eq!(one.post(&user("ada")).send().await.unwrap().status(), 409);
    assert_eq!(one.delete(&path).send().await.unwrap().status(), 204);

    let told = live.take(3).await;
    let kinds: Vec<_> = told.iter().map(|told| told.kind.as_str()).collect();
    assert_eq!(kinds, ["user.created", "user.updated", "user.deleted"]);
    let data: Vec<_> = told.iter().map(|told| &told.event["data"]).collect();
    assert_eq!(data, [&ada, &changed, &json!({ "id": ada["id"], "version": 3 })]);
    for told in &told {
        assert_eq!(told.event["type"], told.kind.as_str());
        assert_eq!(told.event["subject"], ada["id"]);
        assert_eq!(told.last_seen.is_some(), replicates);
    }

    // Whoever comes back gets the same again, from any instance.
    for service in [&one, &other] {
        let request = service.get("/events?after=oldest").header("last-event-id", &told[0].id);
        let mut again = Reader::of(request.send().await.unwrap()).await.take(2).await;
        assert_eq!(again.remove(0).event, told[1].event);
        assert_eq!(again.remove(0).event, told[2].event);
    }
    let ids: std::collections::HashSet<_> = told.iter().map(|told| told.event["id"].to_string()).collect();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn who_comes_back_learns_that_all_is_told_though_more_happens_at_once() {
    let (_directory, service) = service().await;
    service.create("ada").await;
    eventually("it has its place", || async { service.metric(LAST).await == 1 }).await;
    let mut reader = Reader::follow(&service, Some("oldest")).await;
    assert_eq!(reader.next().await.id, "1");
    service.create("grace").await;
    assert_eq!(reader.block().await.as_deref(), Some(":"));
    assert_eq!(reader.next().await.id, "2");
}

#[tokio::test]
async fn nothing_is_skipped_and_each_user_is_told_in_order_while_many_write() {
    let directory = directory().await;
    let services = [Service::start(&directory, "").await, Service::start(&directory, "").await];
    let mut reader = Reader::follow(&services[0], None).await;
    let writers = (0..8_usize).map(|writer| {
        let create = services[writer % 2].post(&user(&format!("writer{writer}"))).send();
        let (base, client) = (services[1 - writer % 2].base.clone(), services[0].client.clone());
        tokio::spawn(async move {
            let path = header(&create.await.unwrap(), "location").to_owned();
            for round in 1..25 {
                let request = client.patch(format!("{base}{path}"));
                let request = request.header("content-type", "application/merge-patch+json");
                let name = json!({ "name": format!("round {round}") });
                assert_eq!(request.body(name.to_string()).send().await.unwrap().status(), 200);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let told = reader.take(8 * 25).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let mut versions: HashMap<String, Vec<u64>> = HashMap::new();
    for (place, told) in told.iter().enumerate() {
        assert_eq!(told.id, (place + 1).to_string(), "without gaps");
        let of_user = versions.entry(told.event["subject"].to_string()).or_default();
        of_user.push(told.event["data"]["version"].as_u64().unwrap());
    }
    assert_eq!(versions.len(), 8);
    for versions in versions.into_values() {
        assert_eq!(versions, (1..=25).collect::<Vec<_>>());
    }
    // The reader may have read on before this instance heard that the other one numbered.
    eventually("both know the last", || async {
        let last = [services[0].metric(LAST).await, services[1].metric(LAST).await];
        last == [200, 200]
    })
    .await;
}

#[tokio::test]
async fn a_creation_that_is_asked_for_twice_is_told_once() {
    let (_directory, service) = service().await;
    let mut reader = Reader::follow(&service, None).await;
    for _ in 0..2 {
        let create = service.post(&user("ada")).header("idempotency-key", "k");
        assert_eq!(create.send().await.unwrap().status(), 201);
    }
    service.create("grace").await;
    let emails: Vec<_> =
        reader.take(2).await.into_iter().map(|told| told.event["data"]["email"].clone()).collect();
    assert_eq!(emails, ["ada@example.com", "grace@example.com"]);
}

#[tokio::test]
async fn old_events_are_forgotten_and_who_missed_them_is_told_so() {
    let directory = directory().await;
    let mut service = Service::start(&directory, "event_retention = \"100ms\"").await;
    service.create("ada").await;
    service.create("grace").await;
    eventually("both are forgotten", || async {
        service.metric("user_service_events_forgotten_total").await == 2
    })
    .await;
    problem(service.get("/events?after=1").send().await.unwrap(), 410, "events-gone").await;
    let ahead = service.get("/events").header("last-event-id", "3").send().await.unwrap();
    problem(ahead, 410, "events-gone").await;
    for wrong in ["/events?after=x", "/events?after=-1"] {
        problem(service.get(wrong).send().await.unwrap(), 400, "invalid-event-id").await;
    }
    problem(service.get("/events?since=1").send().await.unwrap(), 400, "invalid-query").await;
    // Numbers go on where they were.
    service.signal("-TERM").await;
    service.ended().await;
    let restarted = Service::start(&directory, "").await;
    let mut reader = Reader::follow(&restarted, Some("oldest")).await;
    restarted.create("edsger").await;
    assert_eq!(reader.next().await.id, "3");
}

#[tokio::test]
async fn only_so_many_may_follow_at_a_time() {
    let directory = directory().await;
    let service = Service::start(&directory, "max_event_streams = 1").await;
    let reader = Reader::follow(&service, None).await;
    assert_eq!(service.metric("user_service_event_streams").await, 1);
    let refused = service.get("/events").send().await.unwrap();
    assert_eq!(header(&refused, "retry-after"), "1");
    problem(refused, 503, "too-many-streams").await;
    drop(reader);
    eventually("there is room again", || async {
        service.get("/events").send().await.unwrap().status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_streams_at_once() {
    let (_directory, mut service) = service().await;
    let mut reader = Reader::follow(&service, None).await;
    let begun = Instant::now();
    service.signal("-TERM").await;
    assert!(reader.find().await.is_none(), "nothing happened");
    assert!(service.ended().await.success());
    assert!(begun.elapsed() < Duration::from_secs(9), "streams must not cost the grace of 10 s");
}
