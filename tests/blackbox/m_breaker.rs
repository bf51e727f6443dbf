//! A whole upstream that fails: the circuit breaker that opens, what is told of it, and how it closes. And one server of a
//! group that fails now and then: its share of errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::support::{Certs, Client, Gateway, Origin, PATIENCE, Reply, eventually, group};

const URL: &str = "https://a.test/";

const BREAKER: &str = "retries = { attempts = 1 }\noutlier_detection = false\n\
    circuit_breaker = { error_share = \"50%\", min_requests = 4, open_time = \"500ms\", probes = 2 }\n";

/// An origin that answers 503 for as long as the flag says.
async fn moody() -> (Origin, Arc<AtomicBool>) {
    let (origin, ill) = (Origin::start("one").await, Arc::new(AtomicBool::new(true)));
    let mood = ill.clone();
    origin
        .answer_by("/", move |_| if mood.load(Relaxed) { Reply::new(503, "ill") } else { Reply::ok("well") });
    (origin, ill)
}

async fn state(gateway: &Gateway) -> String {
    let answer = gateway.admin_get("/upstreams").await.json();
    let main = answer.as_array().unwrap().iter().find(|upstream| upstream["name"] == "main");
    main.unwrap()["breaker"]["state"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_breaker_opens_refuses_probes_and_closes() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, ill) = moody().await;
    let long = BREAKER.replace("500ms", "3s");
    let gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], &long)).await;
    let client = Client::http2(&gateway, &certs);
    assert_eq!(state(&gateway).await, "closed");

    for _ in 0..4 {
        assert_eq!(client.get(URL).await.text(), "ill");
    }
    let refused = client.get(URL).await;
    assert_eq!((refused.status, &refused.json()["reason"]), (503, &"circuit-open".into()));
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    assert!(refused.field("proxy-status").is_some_and(|field| field.contains("circuit-open")));
    assert_eq!(origin.requests("/"), 4, "nothing is sent");
    assert_eq!(state(&gateway).await, "open");
    assert_eq!(gateway.count("tidegate_upstream_breaker_state{upstream=\"main\"}").await, 2);
    assert_eq!(gateway.count("tidegate_upstream_breaker_opened_total{upstream=\"main\"}").await, 1);
    assert!(gateway.count("tidegate_refusals_total{reason=\"circuit-open\"}").await >= 1);

    ill.store(false, Relaxed);
    eventually(PATIENCE, "a probe goes through", async || client.get(URL).await.status == 200).await;
    eventually(PATIENCE, "another closes it", async || {
        client.get(URL).await;
        state(&gateway).await == "closed"
    })
    .await;
    assert_eq!(client.get(URL).await.text(), "well");
    for (line, times) in [
        ("circuit breaker is open", 1),
        ("circuit breaker is half-open", 1),
        ("circuit breaker is closed", 1),
    ] {
        assert_eq!(gateway.output().matches(line).count(), times, "{line}");
    }
}

#[tokio::test]
async fn a_probe_that_fails_opens_it_again_for_longer() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, _ill) = moody().await;
    let gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], BREAKER)).await;
    let client = Client::http2(&gateway, &certs);
    for _ in 0..4 {
        client.get(URL).await;
    }
    let opened = "tidegate_upstream_breaker_opened_total{upstream=\"main\"}";
    eventually(PATIENCE, "three times in a row", async || {
        client.get(URL).await;
        gateway.count(opened).await >= 3
    })
    .await;
    // One probe each time, however many asked.
    assert_eq!(origin.requests("/"), 6);
    assert_eq!(gateway.output().matches("circuit breaker is open").count(), 3);
    assert!(gateway.output().contains("1.5s"), "three times as long as at first");
}

#[tokio::test]
async fn one_breaker_is_nothing_to_another_upstream_and_none_is_there_unless_asked_for() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, _ill) = moody().await;
    let settings = "retries = { attempts = 1 }\noutlier_detection = false\n";
    let gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], settings)).await;
    let client = Client::http2(&gateway, &certs);
    for _ in 0..30 {
        assert_eq!(client.get(URL).await.text(), "ill");
    }
    assert_eq!(origin.requests("/"), 30);
    assert_eq!(gateway.count("tidegate_upstream_breaker_opened_total{upstream=\"main\"}").await, 0);
}

#[tokio::test]
async fn a_server_that_fails_now_and_then_is_ejected_for_its_share_of_errors() {
    let certs = Certs::for_names(&["a.test"]);
    let (well, moody) = (Origin::start("well").await, Origin::start("moody").await);
    let asked = AtomicUsize::new(0);
    // Every other answer fails, so that there are never two in a row.
    moody.answer_by("/", move |_| {
        if asked.fetch_add(1, Relaxed) % 2 == 1 { Reply::new(503, "ill") } else { Reply::ok("well") }
    });
    let servers = [&well, &moody].map(|origin| origin.address().to_string());
    let settings = "balance = \"round_robin\"\nretries = { attempts = 1 }\n\
        outlier_detection = { consecutive_errors = 2, error_share = \"40%\", min_requests = 10, ejection_time = \"1h\" }\n";
    let gateway = Gateway::start(&group(&certs, &servers, settings)).await;
    let client = Client::http2(&gateway, &certs);

    eventually(PATIENCE, "it is ejected", async || {
        client.get(URL).await;
        gateway.server(&servers[1]).await["state"] == "ejected"
    })
    .await;
    assert!(moody.requests("/") >= 10, "not before there is enough to tell");
    assert_eq!(gateway.server(&servers[0]).await["state"], "up");
    assert_eq!(
        gateway.count(&format!("tidegate_upstream_ejections_total{{server=\"{}\"}}", servers[1])).await,
        1
    );
}

#[tokio::test]
async fn while_it_is_open_a_stored_answer_stands_in_and_nothing_is_fetched() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, _ill) = moody().await;
    let stored = Reply::ok("stored").field("cache-control", "max-age=10").field("age", "60");
    origin.answer("/stored", stored);
    let config = group(&certs, &[origin.address().to_string()], &BREAKER.replace("500ms", "1h"));
    let gateway = Gateway::start(&format!("{config}cache = {{ stale_if_unreachable = \"1h\" }}\n")).await;
    let client = Client::http2(&gateway, &certs);
    let stored = "https://a.test/stored";
    assert_eq!(client.get(stored).await.text(), "stored");

    eventually(PATIENCE, "it opens", async || {
        client.get(URL).await;
        state(&gateway).await == "open"
    })
    .await;

    let held = client.get(stored).await;
    assert_eq!((held.status, held.text()), (200, "stored"));
    assert_eq!(origin.requests("/stored"), 1);
    assert_eq!(client.get(URL).await.status, 503);
}
