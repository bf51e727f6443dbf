//! Several processes on one file; starts and stops.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{SOON, Service, directory, eventually, header, service, user};

#[tokio::test]
async fn processes_that_start_at_once_on_a_new_file_all_start() {
    let directory = directory().await;
    let start = || Service::start(&directory, "");
    let services = tokio::join!(start(), start(), start(), start());
    for service in [&services.0, &services.1, &services.2, &services.3] {
        assert_eq!(service.get("/readyz").send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn concurrent_writes_of_three_processes_all_succeed_and_stay() {
    let directory = directory().await;
    let services = [
        Service::start(&directory, "").await,
        Service::start(&directory, "").await,
        Service::start(&directory, "").await,
    ];
    let writes = (0..150).map(|number| {
        let service = &services[number % 3];
        tokio::spawn(service.post(&user(&format!("user{number}"))).send())
    });
    for write in writes.collect::<Vec<_>>() {
        assert_eq!(write.await.unwrap().unwrap().status(), 201);
    }
    for service in &services {
        let first: Value = service.get("/users?limit=100").send().await.unwrap().json().await.unwrap();
        let after = format!("/users?limit=100&after={}", first["next"].as_str().unwrap());
        let second: Value = service.get(&after).send().await.unwrap().json().await.unwrap();
        let count = |page: &Value| page["users"].as_array().unwrap().len();
        assert_eq!((count(&first), count(&second)), (100, 50));
    }
}

#[tokio::test]
async fn users_outlive_a_stop_and_a_kill() {
    let directory = directory().await;
    let mut first = Service::start(&directory, "").await;
    let path = first.create("ada").await;
    first.signal("-TERM").await;
    assert!(first.ended().await.success());

    let mut second = Service::start(&directory, "").await;
    assert_eq!(second.get(&path).send().await.unwrap().status(), 200);
    let later = second.create("grace").await;
    second.signal("-KILL").await;
    second.ended().await;

    let third = Service::start(&directory, "").await;
    for path in [path, later] {
        assert_eq!(third.get(&path).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (directory, mut service) = service().await;
    let hold = directory.hold_writes().await;
    let waiting = tokio::spawn(service.post(&user("ada")).send());
    eventually("the request is in flight", || async {
        let page = service.get("/metrics").send().await.unwrap().text().await.unwrap();
        page.contains("user_service_http_requests_in_flight 2")
    })
    .await;

    service.signal("-TERM").await;
    let address = service.base.trim_start_matches("http://").to_owned();
    eventually("new connections are refused", || async { TcpStream::connect(&address).await.is_err() }).await;
    assert!(!waiting.is_finished());

    hold.release().await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "connection")), (201, "close"));
    assert!(service.ended().await.success());
}

#[tokio::test]
async fn a_stop_with_idle_connections_only_is_at_once() {
    for signal in ["-TERM", "-INT"] {
        let (_directory, mut service) = service().await;
        let address = service.base.trim_start_matches("http://");
        let mut used = TcpStream::connect(address).await.unwrap();
        used.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        used.read_exact(&mut answer).await.unwrap();
        let mut unused = TcpStream::connect(address).await.unwrap();

        let begun = Instant::now();
        service.signal(signal).await;
        assert!(service.ended().await.success());
        assert!(begun.elapsed() < Duration::from_secs(5), "idle connections must not cost the grace of 10 s");
        assert_eq!(unused.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn what_is_still_in_flight_after_the_grace_is_cut_off() {
    let directory = directory().await;
    let mut service = Service::start(&directory, "shutdown_grace = \"100ms\"").await;
    let _hold = directory.hold_writes().await;
    let waiting = tokio::spawn(service.post(&user("ada")).send());
    eventually("the request is in flight", || async {
        let page = service.get("/metrics").send().await.unwrap().text().await.unwrap();
        page.contains("user_service_http_requests_in_flight 2")
    })
    .await;
    let begun = Instant::now();
    service.signal("-TERM").await;
    service.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "the database's patience must not hold up the end");
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let directory = directory().await;
    let service = Service::start(&directory, "head_timeout = \"100ms\"").await;
    let mut slow = TcpStream::connect(service.base.trim_start_matches("http://")).await.unwrap();
    slow.write_all(b"GET /users HTT").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, slow.read_to_end(&mut rest)).await.expect("the connection ends").unwrap_or(0);
    assert_eq!(service.get("/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up_and_changes_nothing() {
    let directory = directory().await;
    let service = Service::start(&directory, "request_timeout = \"1s\"").await;
    let hold = directory.hold_writes().await;
    let late = service.post(&user("ada")).send().await.unwrap();
    crate::support::problem(late, 503, "timeout").await;
    hold.release().await;
    let page: Value = service.get("/users").send().await.unwrap().json().await.unwrap();
    assert_eq!(page["users"].as_array().unwrap().len(), 0);
    assert_eq!(service.post(&user("ada")).send().await.unwrap().status(), 201);
}
