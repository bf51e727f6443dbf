//! Most basic: the actors of these tests do what tests rely on.

use std::time::Duration;

use crate::support::users::{Database, Service};
use crate::support::{Gate, Origin, Raw, Reply, eventually};

const GET: &str = "GET /users/1 HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test]
async fn an_origin_answers_as_scripted_and_remembers_what_was_asked() {
    let origin = Origin::start("one").await;
    origin.answer("/users", Reply::new(201, "made").field("x-note", "yes"));
    let mut client = Raw::tcp(origin.address()).await;

    client.send("POST /users?a=b HTTP/1.1\r\nX-Name: Ada\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;

    let (head, body) = client.answer().await;
    assert!(
        head.starts_with("HTTP/1.1 201 ") && head.contains("Served-By: one") && head.contains("x-note: yes")
    );
    assert_eq!(body, b"made");
    let seen = &origin.seen()[0];
    assert_eq!((seen.field("x-name"), seen.body.as_slice()), (Some("Ada"), b"abcde".as_slice()));
    assert_eq!((origin.requests("/users"), origin.requests("/other")), (1, 0));
}

#[tokio::test]
async fn a_stopped_origin_resets_and_refuses_and_comes_back_at_its_address() {
    let mut origin = Origin::start("one").await;
    let address = origin.address();
    let mut client = Raw::tcp(address).await;
    client.send(GET).await;
    client.answer().await;

    origin.stop().await;
    assert!(client.rest().await.is_empty());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());

    origin.restart();
    let mut client = Raw::tcp(address).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.1, b"one answers");
}

#[tokio::test]
async fn a_reply_can_be_held_back_until_the_test_lets_it_go() {
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/users/1", Reply::ok("late").behind(&gate));
    let mut client = Raw::tcp(origin.address()).await;

    client.send(GET).await;
    eventually(Duration::from_secs(10), "the request is there", async || origin.requests("/users/1") == 1)
        .await;
    gate.open();

    assert_eq!(client.answer().await.1, b"late");
}

#[tokio::test]
async fn a_reply_can_be_cut_off_in_the_middle() {
    let origin = Origin::start("one").await;
    origin.answer("/users/1", Reply::ok("x".repeat(1000)).cut_after(100));
    let mut client = Raw::tcp(origin.address()).await;

    client.send(GET).await;

    assert_eq!(client.rest().await.len(), 100);
}

#[tokio::test]
async fn a_chunked_reply_and_one_until_close_carry_their_framing() {
    let origin = Origin::start("one").await;
    origin.answer("/chunked", Reply::ok("abc").chunked());
    origin.answer("/close", Reply::ok("abc").until_close());
    let mut client = Raw::tcp(origin.address()).await;

    client.send("GET /chunked HTTP/1.1\r\n\r\n").await;
    assert!(client.head().await.contains("Transfer-Encoding: chunked"));
    client.send("GET /close HTTP/1.1\r\n\r\n").await;
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert!(rest.starts_with("3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200"), "{rest}");
    assert!(rest.ends_with("\r\n\r\nabc"), "{rest}");
}

#[tokio::test]
async fn a_killed_user_service_comes_back_at_its_address() {
    let database = Database::new();
    let mut service = Service::start(&database).await;
    let address = service.address();

    service.kill();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    service.restart().await;

    let mut client = Raw::tcp(address).await;
    client.send("GET /readyz HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert!(service.stop().await.success());
}
