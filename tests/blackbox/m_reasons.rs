//! Of several tries, the last one says what is told: to the client, in the log, in the metrics.

use serde_json::json;

use crate::support::{Answer, Certs, Client, Gate, Gateway, Origin, PATIENCE, Reply, eventually, group};

const URL: &str = "https://a.test/";

/// A gateway before these servers, asked in turn, that logs as JSON.
async fn before(certs: &Certs, servers: &[&Origin], settings: &str, road: &str) -> Gateway {
    let servers: Vec<_> = servers.iter().map(|origin| origin.address().to_string()).collect();
    let settings = format!("balance = \"round_robin\"\noutlier_detection = false\n{settings}");
    let log = "log.access = \"json\"\n";
    Gateway::start(&(log.to_owned() + &group(certs, &servers, &settings) + road)).await
}

/// An origin that says once that it is busy, and then is well.
async fn busy_once() -> Origin {
    let (origin, asked) = (Origin::start("one").await, std::sync::atomic::AtomicUsize::new(0));
    origin.answer_by("/", move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Reply::new(503, "busy").field("retry-after", "1"),
        _ => Reply::ok("well again"),
    });
    origin
}

/// It was told to the client, in the log and in the metrics, and nothing else was.
async fn is_told(gateway: &Gateway, answer: &Answer, status: u16, reason: &str, tries: usize) {
    assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)), "{}", answer.text());
    let line = gateway.access_line(answer).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&json!(reason), &json!(tries)), "{line}");
    let counted = |labels| async move { gateway.count(&format!("tidegate_refusals_total{labels}")).await };
    assert_eq!(counted(format!("{{reason=\"{reason}\"}}")).await, 1);
    assert_eq!(counted(String::new()).await, 1);
}

const ROADS: [&str; 2] = ["", "cache = true\n"];
const ON_503: &str = "retries = { on = [\"connect\", \"503\"], attempts = 2 }\n";

#[tokio::test]
async fn a_server_that_cannot_be_reached_after_one_was_busy_is_what_is_told() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (busy, mut gone) = (Origin::start("busy").await, Origin::start("gone").await);
        busy.answer("/", Reply::new(503, "busy"));
        gone.stop().await;
        let gateway = before(&certs, &[&busy, &gone], ON_503, road).await;

        let answer = Client::http2(&gateway, &certs).get(URL).await;

        is_told(&gateway, &answer, 502, "upstream-unreachable", 2).await;
        assert_eq!(gateway.count("tidegate_upstream_retries_total{reason=\"status\"}").await, 1, "{road}");
        assert_eq!(gateway.count("tidegate_upstream_retries_total").await, 1, "{road}");
    }
}

#[tokio::test]
async fn that_no_server_is_left_after_one_was_busy_is_what_is_told() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let busy = busy_once().await;
        let gateway = before(&certs, &[&busy], ON_503, road).await;
        let asking = tokio::spawn(Client::http2(&gateway, &certs).get_later(URL));
        eventually(PATIENCE, "it is asked", async || busy.requests("/") == 1).await;

        // While it waits for as long as it was told to.
        let (place, admin) = (busy.address().to_string(), gateway.admin().to_string());
        let (code, said) = Gateway::run(&["drain", "main", &place, "--admin", &admin]).await;
        assert_eq!(code, Some(0), "{said}");

        is_told(&gateway, &asking.await.unwrap(), 503, "no-server", 1).await;
    }
}

#[tokio::test]
async fn that_there_is_no_turn_after_a_server_was_busy_is_what_is_told() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (busy, gate) = (busy_once().await, Gate::closed());
        busy.answer("/other", Reply::ok("other").behind(&gate));
        let limits = format!("{ON_503}limits = {{ max_connections = 1, max_pending = 1 }}");
        let gateway = before(&certs, &[&busy], &limits, road).await;
        let client = Client::http2(&gateway, &certs);

        let asking = tokio::spawn(client.get_later(URL));
        eventually(PATIENCE, "it is asked", async || busy.requests("/") == 1).await;
        // Takes the place while the first waits, and does not give it back.
        let other = tokio::spawn(client.get_later("https://a.test/other"));

        is_told(&gateway, &asking.await.unwrap(), 503, "upstream-saturated", 1).await;
        gate.open();
        assert_eq!(other.await.unwrap().text(), "other");
    }
}

/// That another server could not be reached before is nothing to the one whose answer broke off.
#[tokio::test]
async fn an_answer_that_breaks_off_after_another_server_could_not_be_reached_is_what_is_told() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (mut gone, breaking) = (Origin::start("gone").await, Origin::start("breaking").await);
        gone.stop().await;
        breaking.answer("/", Reply::ok("x".repeat(1000)).fresh_for(60).cut_after(500));
        let gateway = before(&certs, &[&gone, &breaking], "", road).await;

        let answer = Answer::try_of(Client::http2(&gateway, &certs).request("GET", URL)).await;
        assert!(answer.is_err(), "{road}: it breaks off");

        let line = gateway.access_line_of("/", |line| line["attempts"] == 2).await;
        assert_eq!(line["reason"], "upstream-broke-off", "{road}: {line}");
    }
}

/// The same whether it goes straight through, into the store, or by way of the cache without being kept.
#[tokio::test]
async fn that_an_answer_took_too_long_is_what_is_told() {
    let certs = Certs::for_names(&["a.test"]);
    for (road, control) in [("", "no-store"), (ROADS[1], "max-age=60"), (ROADS[1], "no-store")] {
        let (silent, gate) = (Origin::start("silent").await, Gate::closed());
        let reply = Reply::ok("x".repeat(1000)).field("cache-control", control);
        silent.answer("/", reply.paused_after(500, &gate));
        let gateway = before(&certs, &[&silent], "timeouts = { idle = \"200ms\" }", road).await;

        let answer = Answer::try_of(Client::http2(&gateway, &certs).request("GET", URL)).await;
        assert!(answer.is_err(), "{road}{control}: it breaks off");

        let line = gateway.access_line_of("/", |_| true).await;
        assert_eq!(line["reason"], "upstream-timeout", "{road}{control}: {line}");
    }
}
