//! Basic: it forwards, and says so when it has nowhere to forward to.

use crate::support::{Certs, Client, Gateway, Origin, Raw, Reply, https};

/// A gateway for `a.test` with everything under `/users` sent to the origin.
async fn users_behind_a_gateway(origin: &Origin, certs: &Certs) -> Gateway {
    let top = https(certs);
    let origin = origin.address();
    Gateway::start(&format!(
        r#"{top}
[routes.users]
host = "a.test"
path = "/users/*"
upstream = "{origin}"
"#
    ))
    .await
}

#[tokio::test]
async fn a_request_over_http1_reaches_the_origin_and_its_answer_the_client() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/users/1", Reply::ok("ada").field("x-note", "kept"));
    let gateway = users_behind_a_gateway(&origin, &certs).await;

    let answer = Client::http1(&gateway, &certs).get("https://a.test/users/1?full=yes").await;

    assert_eq!((answer.status, answer.version, answer.text()), (200, reqwest::Version::HTTP_11, "ada"));
    assert_eq!(answer.field("x-note"), Some("kept"));
    let seen = origin.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/users/1?full=yes"));
    assert_eq!(seen[0].field("host"), Some("a.test"));
    assert_eq!(seen[0].field("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn a_body_sent_over_http2_arrives_whole() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/users", Reply::new(201, "made").field("location", "/users/7"));
    let gateway = users_behind_a_gateway(&origin, &certs).await;
    let body = "0123456789".repeat(20_000);

    let client = Client::http2(&gateway, &certs);
    let answer = client.send(client.request("POST", "https://a.test/users").body(body.clone())).await;

    assert_eq!((answer.status, answer.version, answer.text()), (201, reqwest::Version::HTTP_2, "made"));
    assert_eq!(answer.field("location"), Some("/users/7"));
    assert!(origin.seen()[0].body == body.as_bytes(), "the origin saw another body");
}

#[tokio::test]
async fn what_no_route_matches_is_a_404_problem_and_reaches_no_origin() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gateway = users_behind_a_gateway(&origin, &certs).await;

    let answer = Client::http2(&gateway, &certs).get("https://a.test/elsewhere").await;

    assert_eq!(answer.status, 404);
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], 404);
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn two_requests_share_a_kept_alive_connection() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gateway = users_behind_a_gateway(&origin, &certs).await;

    let mut connection = Raw::tls(gateway.https(), "a.test", &certs).await;
    for user in 1..=2 {
        connection.send(format!("GET /users/{user} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let (head, body) = connection.answer().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, b"one answers");
    }
}
