//! Asking twice creates once.

use serde_json::Value;
use sqlx::Executor;

use crate::support::{Service, directory, header, problem, service, user};

async fn count(service: &Service) -> usize {
    let page: Value = service.get("/users?limit=100").send().await.unwrap().json().await.unwrap();
    page["users"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_same_request_is_answered_the_same() {
    let (_directory, service) = service().await;
    let first = service.post(&user("ada")).header("idempotency-key", "\"k-1\"").send().await.unwrap();
    assert_eq!((first.status().as_u16(), header(&first, "idempotent-replayed")), (201, ""));
    let (location, tag) = (header(&first, "location").to_owned(), header(&first, "etag").to_owned());
    let first = first.bytes().await.unwrap();

    // Not even a change of the user changes what its creation was answered with.
    service.patch(&location, &serde_json::json!({"name": "X"})).send().await.unwrap();
    for key in ["\"k-1\"", "k-1"] {
        let again = service.post(&user("ada")).header("idempotency-key", key).send().await.unwrap();
        assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed")), (201, "true"));
        assert_eq!((header(&again, "location"), header(&again, "etag")), (location.as_str(), tag.as_str()));
        assert_eq!(again.bytes().await.unwrap(), first);
    }
    assert_eq!(count(&service).await, 1);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let (_directory, service) = service().await;
    service.post(&user("ada")).header("idempotency-key", "k").send().await.unwrap();
    let other = service.post(&user("grace")).header("idempotency-key", "k").send().await.unwrap();
    problem(other, 422, "idempotency-key-reused").await;
    assert_eq!(count(&service).await, 1);
}

#[tokio::test]
async fn a_refusal_does_not_use_up_the_key() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let taken = service.post(&user("ada")).header("idempotency-key", "k").send().await.unwrap();
    problem(taken, 409, "email-taken").await;
    service.delete(&path).send().await.unwrap();
    let created = service.post(&user("ada")).header("idempotency-key", "k").send().await.unwrap();
    assert_eq!((created.status().as_u16(), header(&created, "idempotent-replayed")), (201, ""));
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_time() {
    let (directory, service) = service().await;
    service.post(&user("ada")).header("idempotency-key", "k").send().await.unwrap();
    let mut database = directory.connect().await;
    let (lifetime,): (i64,) = sqlx::query_as("SELECT expires_at - created_at FROM idempotency_keys")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(lifetime, 24 * 60 * 60 * 1000);
    database.execute("UPDATE idempotency_keys SET expires_at = 1").await.unwrap();
    let created = service.post(&user("grace")).header("idempotency-key", "k").send().await.unwrap();
    assert_eq!((created.status().as_u16(), header(&created, "idempotent-replayed")), (201, ""));
}

#[tokio::test]
async fn a_duplicate_during_the_first_is_told_to_wait() {
    let (directory, service) = service().await;
    // While the test holds the write lock, the first request cannot end.
    let hold = directory.hold_writes().await;
    let ask = || Box::pin(service.post(&user("ada")).header("idempotency-key", "k").send());
    // Whichever comes second is answered first.
    let (mut one, mut other) = (ask(), ask());
    let (refused, waiting) = tokio::select! {
        answer = &mut one => (answer, other),
        answer = &mut other => (answer, one),
    };
    let refused = refused.unwrap();
    assert_eq!(header(&refused, "retry-after"), "1");
    problem(refused, 409, "idempotency-key-in-use").await;

    hold.release().await;
    assert_eq!(waiting.await.unwrap().status(), 201);
    let after = service.post(&user("ada")).header("idempotency-key", "k").send().await.unwrap();
    assert_eq!(header(&after, "idempotent-replayed"), "true");
}

#[tokio::test]
async fn racing_duplicates_in_two_processes_create_one_user() {
    let directory = directory().await;
    let services = [Service::start(&directory, "").await, Service::start(&directory, "").await];
    let requests = (0..20).map(|number| {
        let request = services[number % 2].post(&user("ada")).header("idempotency-key", "k");
        tokio::spawn(request.send())
    });
    let mut locations = std::collections::BTreeSet::new();
    for request in requests.collect::<Vec<_>>() {
        let answer = request.await.unwrap().unwrap();
        match answer.status().as_u16() {
            201 => drop(locations.insert(header(&answer, "location").to_owned())),
            409 => drop(problem(answer, 409, "idempotency-key-in-use").await),
            other => panic!("status {other}"),
        }
    }
    assert_eq!(locations.len(), 1);
    assert_eq!(count(&services[0]).await, 1);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let (_directory, service) = service().await;
    for key in ["", "\"\"", "\"open", &"k".repeat(256)] {
        let answer = service.post(&user("ada")).header("idempotency-key", key).send().await.unwrap();
        problem(answer, 400, "invalid-idempotency-key").await;
    }
    let two = service.post(&user("ada")).header("idempotency-key", "a").header("idempotency-key", "b");
    problem(two.send().await.unwrap(), 400, "invalid-idempotency-key").await;
    assert_eq!(count(&service).await, 0);
}
