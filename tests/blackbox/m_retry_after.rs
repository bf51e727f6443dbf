//! Servers that ask to be left alone for a while, and statuses that are worth another try.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::{Certs, Client, Gateway, Origin, Reply, group};

const URL: &str = "https://a.test/";

/// Answers so often with the first reply, then with the second.
fn at_first(origin: &Origin, times: usize, first: Reply, then: Reply) {
    let asked = AtomicUsize::new(0);
    origin.answer_by(
        "/",
        move |_| {
            if asked.fetch_add(1, Relaxed) < times { first.clone() } else { then.clone() }
        },
    );
}

fn at(origin: &Origin) -> String {
    origin.address().to_string()
}

async fn gateway(certs: &Certs, origins: &[&Origin], settings: &str) -> Gateway {
    let servers: Vec<_> = origins.iter().map(|origin| at(origin)).collect();
    let settings = format!("balance = \"round_robin\"\noutlier_detection = false\n{settings}");
    Gateway::start(&group(certs, &servers, &settings)).await
}

#[tokio::test]
async fn the_only_server_is_asked_again_when_it_wants_to_be_and_not_before() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    at_first(&origin, 1, Reply::new(503, "busy").field("retry-after", "2"), Reply::ok("well again"));
    let gateway = gateway(&certs, &[&origin], "retries = { on = [\"503\"] }").await;

    let began = Instant::now();
    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, answer.text()), (200, "well again"));
    assert!(began.elapsed() >= Duration::from_secs(2), "not before: {:?}", began.elapsed());
    assert_eq!(origin.requests("/"), 2);
}

#[tokio::test]
async fn an_answer_that_asks_for_more_time_than_there_is_is_passed_on() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/", Reply::new(503, "busy").field("retry-after", "25"));
    let settings = "retries = { on = [\"503\"] }\ntimeouts = { total = \"20s\" }";
    let gateway = gateway(&certs, &[&origin], settings).await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, answer.text(), answer.field("retry-after")), (503, "busy", Some("25")));
    assert_eq!(origin.requests("/"), 1);
    assert_eq!(gateway.count("tidegate_upstream_retries_total{reason=\"status\"}").await, 0);
}

#[tokio::test]
async fn another_server_is_asked_at_once() {
    let certs = Certs::for_names(&["a.test"]);
    let (busy, well) = (Origin::start("busy").await, Origin::start("well").await);
    busy.answer("/", Reply::new(503, "busy").field("retry-after", "3600"));
    let gateway = gateway(&certs, &[&busy, &well], "retries = { on = [\"503\"] }").await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, answer.text()), (200, "well answers"));
    assert_eq!(busy.requests("/"), 1);
}

#[tokio::test]
async fn any_error_may_be_worth_another_try_and_its_server_is_not_blamed_for_a_word_on_the_request() {
    let certs = Certs::for_names(&["a.test"]);
    for status in [429, 500] {
        let (strict, well) = (Origin::start("strict").await, Origin::start("well").await);
        strict.answer("/", Reply::new(status, "no"));
        let settings = format!("retries = {{ on = [\"{status}\"] }}");
        let gateway = gateway(&certs, &[&strict, &well], &settings).await;

        let answer = Client::http2(&gateway, &certs).get(URL).await;

        assert_eq!((answer.status, answer.text()), (200, "well answers"), "{status}");
        let blamed =
            format!("tidegate_upstream_requests_total{{server=\"{}\",outcome=\"error\"}}", at(&strict));
        assert_eq!(gateway.count(&blamed).await, 0, "{status}");
        assert_eq!(gateway.count("tidegate_upstream_retries_total{reason=\"status\"}").await, 1, "{status}");
    }
}

#[tokio::test]
async fn tries_and_the_pauses_between_them_are_within_the_time_for_the_whole() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    // A first try that takes a while and fails, and a second that would take for ever.
    let late = Reply::new(503, "busy").after(Duration::from_millis(400));
    at_first(&origin, 1, late, Reply::ok("too late").after(Duration::from_secs(3600)));
    let settings =
        "retries = { on = [\"503\"] }\ntimeouts = { total = \"1s\", first_byte = \"30s\", idle = \"30s\" }";
    let gateway = gateway(&certs, &[&origin], settings).await;

    let began = Instant::now();
    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, &answer.json()["reason"]), (504, &"upstream-timeout".into()));
    assert_eq!(origin.requests("/"), 2);
    assert!(began.elapsed() >= Duration::from_secs(1), "not before its time: {:?}", began.elapsed());
}
