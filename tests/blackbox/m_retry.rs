//! When a server fails: what is tried again, where, how often; what the client sees if nothing helps.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::support::client::Answer;
use crate::support::{
    Certs, Client, Gateway, Line, Origin, PATIENCE, Reply, Silent, Wire, eventually, group,
};

const URL: &str = "https://a.test/";

/// In turn, so that a test knows who is asked first.
const IN_TURN: &str = "balance = \"round_robin\"\noutlier_detection = false\n";

/// A gateway before these servers, asked in turn, none ever ejected.
async fn gateway(certs: &Certs, servers: &[String], settings: &str) -> Gateway {
    Gateway::start(&group(certs, servers, &format!("{IN_TURN}{settings}"))).await
}

fn at(origin: &Origin) -> String {
    origin.address().to_string()
}

/// An origin that has gone: its port is kept, and refuses.
async fn gone() -> Origin {
    let mut origin = Origin::start("gone").await;
    origin.stop().await;
    origin
}

/// An origin that reads each request to its end, and resets.
async fn resetting() -> Wire {
    Wire::start(|_, mut line| async move {
        line.request().await;
        line.reset();
    })
    .await
}

async fn retries(gateway: &Gateway, reason: &str) -> u64 {
    gateway.count(&format!("tidegate_upstream_retries_total{{reason=\"{reason}\"}}")).await
}

/// The answer is a "no" of the gateway with this status and reason.
fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, &answer.json()["reason"]), (status, &reason.into()), "{}", answer.text());
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert!(answer.field("proxy-status").is_some_and(|field| field.contains(reason)));
}

// ── no connection ───────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn what_could_not_be_sent_goes_to_another_server_whatever_its_method() {
    let certs = Certs::for_names(&["a.test"]);
    let (gone, well) = (gone().await, Origin::start("well").await);
    let gateway = gateway(&certs, &[at(&gone), at(&well)], "").await;
    let client = Client::http2(&gateway, &certs);

    // A retry takes a turn as well, so that each request meets the server that is gone first.
    for method in ["GET", "POST", "PATCH"] {
        let answer = client.send(client.request(method, URL).body("x".repeat(200_000))).await;
        assert_eq!((answer.status, answer.text()), (200, "well answers"), "{method}");
    }
    assert_eq!(retries(&gateway, "connect").await, 3);
    assert!(well.seen().iter().all(|seen| seen.body.len() == 200_000));
}

#[tokio::test]
async fn where_no_server_can_be_reached_it_is_a_502() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (gone().await, gone().await);
    let gateway = gateway(&certs, &[at(&one), at(&two)], "").await;

    let answer = Client::http1(&gateway, &certs).get(URL).await;

    assert_refused(&answer, 502, "upstream-unreachable");
}

#[tokio::test]
async fn connections_that_are_not_made_in_time_are_a_504() {
    let certs = Certs::for_names(&["a.test"]);
    let silent = Silent::start().await;
    let settings = "timeouts = { connect = \"100ms\" }\nretries = { attempts = 1 }";
    let gateway = gateway(&certs, std::slice::from_ref(&silent.address), settings).await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_refused(&answer, 504, "connect-timeout");
}

#[tokio::test]
async fn connections_that_are_not_made_in_time_are_made_to_another_server() {
    let certs = Certs::for_names(&["a.test"]);
    let (silent, well) = (Silent::start().await, Origin::start("well").await);
    let servers = [silent.address.clone(), at(&well)];
    let gateway = gateway(&certs, &servers, "timeouts = { connect = \"100ms\" }").await;
    let client = Client::http2(&gateway, &certs);

    let answer = client.send(client.request("POST", URL).body("once")).await;

    assert_eq!((answer.status, answer.text()), (200, "well answers"));
    assert_eq!(well.seen().len(), 1);
}

// ── no answer ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_reset_before_an_answer_is_tried_again_where_asking_twice_changes_nothing() {
    let certs = Certs::for_names(&["a.test"]);
    let (resetting, well) = (resetting().await, Origin::start("well").await);
    let gateway = gateway(&certs, &[resetting.address().to_string(), at(&well)], "").await;
    let client = Client::http2(&gateway, &certs);

    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answer = client.send(client.request(method, URL)).await;
        assert_eq!((answer.status, answer.text()), (200, "well answers"), "{method}");
    }
    assert_eq!((resetting.connections(), well.seen().len()), (4, 4));
    assert_eq!(retries(&gateway, "reset").await, 4);
}

#[tokio::test]
async fn a_reset_before_an_answer_is_a_502_where_asking_twice_might_change_something() {
    let certs = Certs::for_names(&["a.test"]);
    let (resetting, well) = (resetting().await, Origin::start("well").await);
    let gateway = gateway(&certs, &[resetting.address().to_string(), at(&well)], "").await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = client.send(client.request("POST", URL).body("once")).await;
        assert_refused(&answer, 502, "upstream-broke-off");
        let answer = client.send(client.request("PATCH", URL).body("once")).await;
        assert_eq!(answer.text(), "well answers");
    }
    assert_eq!((resetting.connections(), well.seen().len()), (2, 2));
    assert_eq!(retries(&gateway, "reset").await, 0);
}

#[tokio::test]
async fn a_retry_sends_the_whole_body_again() {
    let certs = Certs::for_names(&["a.test"]);
    let (resetting, well) = (resetting().await, Origin::start("well").await);
    let gateway = gateway(&certs, &[resetting.address().to_string(), at(&well)], "").await;
    let body = (0..6000).map(|number| format!("{number:09}")).collect::<Vec<_>>().join(",");
    assert!(body.len() < 64 * 1024);

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = client.send(client.request("PUT", URL).body(body.clone())).await;
        assert_eq!(answer.text(), "well answers");
    }
    assert_eq!(resetting.connections(), 2);
    assert!(well.seen().iter().all(|seen| seen.body == body.as_bytes()), "another body arrived");
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_not_sent_twice() {
    let certs = Certs::for_names(&["a.test"]);
    let (resetting, well) = (resetting().await, Origin::start("well").await);
    let gateway = gateway(&certs, &[resetting.address().to_string(), at(&well)], "").await;
    let client = Client::http2(&gateway, &certs);

    let answer = client.send(client.request("PUT", URL).body("x".repeat(100_000))).await;

    assert_refused(&answer, 502, "upstream-broke-off");
    assert!(well.seen().is_empty());
}

#[tokio::test]
async fn a_retry_never_asks_the_same_server_while_another_is_up() {
    let certs = Certs::for_names(&["a.test"]);
    let servers = [resetting().await, resetting().await, resetting().await];
    let addresses = servers.each_ref().map(|server| server.address().to_string());
    for balance in ["round_robin", "least_request"] {
        let settings = format!(
            "balance = \"{balance}\"\noutlier_detection = false\n\
             retries = {{ attempts = 3, budget = \"100%\", backoff = {{ base = \"1ms\", max = \"1ms\" }} }}"
        );
        let gateway = Gateway::start(&group(&certs, &addresses, &settings)).await;
        let client = Client::http2(&gateway, &certs);
        for _ in 0..5 {
            let before = servers.each_ref().map(Wire::connections);
            assert_refused(&client.get(URL).await, 502, "upstream-broke-off");
            let asked = [0, 1, 2].map(|index: usize| servers[index].connections() - before[index]);
            assert_eq!(asked, [1, 1, 1], "{balance}");
        }
    }
}

#[tokio::test]
async fn there_are_as_many_tries_as_attempts_say() {
    let certs = Certs::for_names(&["a.test"]);
    for (attempts, expected) in [(1, 1), (2, 2), (5, 5)] {
        let server = resetting().await;
        let settings =
            format!("retries = {{ attempts = {attempts}, backoff = {{ base = \"1ms\", max = \"1ms\" }} }}");
        let gateway = gateway(&certs, &[server.address().to_string()], &settings).await;

        let answer = Client::http1(&gateway, &certs).get(URL).await;

        assert_refused(&answer, 502, "upstream-broke-off");
        assert_eq!(server.connections(), expected);
    }
}

#[tokio::test]
async fn in_a_total_outage_retries_stay_within_their_budget() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (resetting().await, resetting().await);
    let servers = [one.address().to_string(), two.address().to_string()];
    let settings =
        "retries = { attempts = 2, budget = \"10%\", backoff = { base = \"1ms\", max = \"1ms\" } }";
    let gateway = gateway(&certs, &servers, settings).await;
    let client = Client::http2(&gateway, &certs);

    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.get(URL).await.status, 502);
    }

    let tries = one.connections() + two.connections();
    let retried = retries(&gateway, "reset").await;
    let denied = gateway.count("tidegate_upstream_retries_denied_total").await;
    assert_eq!(retried + denied, 100);
    assert_eq!(retried, tries as u64 - 100);
    // A tenth of a hundred is less than the floor of three a second, of which ten seconds count at once.
    let most = 30 * (1 + began.elapsed().as_secs().div_ceil(10));
    assert!((30..=most).contains(&retried), "{retried} retries");
}

#[tokio::test]
async fn without_a_budget_nothing_is_tried_again() {
    let certs = Certs::for_names(&["a.test"]);
    let (resetting, well) = (resetting().await, Origin::start("well").await);
    let servers = [resetting.address().to_string(), at(&well)];
    let gateway = gateway(&certs, &servers, "retries = { budget = \"0%\" }").await;

    let answer = Client::http1(&gateway, &certs).get(URL).await;

    assert_refused(&answer, 502, "upstream-broke-off");
    assert_eq!(gateway.count("tidegate_upstream_retries_denied_total").await, 1);
}

// ── an answer that is a failure ─────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_503_is_tried_again_if_that_is_asked_for() {
    let certs = Certs::for_names(&["a.test"]);
    let (ill, well) = (Origin::start("ill").await, Origin::start("well").await);
    ill.answer("/", Reply::new(503, "ill").field("retry-after", "9"));
    let settings = "retries = { on = [\"connect\", \"503\"] }";
    let gateway = gateway(&certs, &[at(&ill), at(&well)], settings).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = client.get(URL).await;
        assert_eq!((answer.status, answer.text()), (200, "well answers"));
        assert_eq!(answer.field("retry-after"), None);
    }
    assert_eq!((ill.requests("/"), well.requests("/")), (2, 2));
    assert_eq!(retries(&gateway, "status").await, 2);

    // Not where asking twice might change something.
    let client = Client::http2(&gateway, &certs);
    let answer = client.send(client.request("POST", URL).body("once")).await;
    assert_eq!((answer.status, answer.text()), (503, "ill"));
}

#[tokio::test]
async fn a_503_is_passed_on_as_it_is_unless_asked_otherwise() {
    let certs = Certs::for_names(&["a.test"]);
    let (ill, well) = (Origin::start("ill").await, Origin::start("well").await);
    ill.answer("/", Reply::new(503, "ill").field("retry-after", "9"));
    let gateway = gateway(&certs, &[at(&ill), at(&well)], "").await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, answer.text(), answer.field("retry-after")), (503, "ill", Some("9")));
    assert!(well.seen().is_empty());
}

#[tokio::test]
async fn where_all_tries_end_in_503_the_last_one_is_passed_on() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    one.answer("/", Reply::new(503, "one is ill"));
    two.answer("/", Reply::new(503, "two is ill"));
    let gateway = gateway(&certs, &[at(&one), at(&two)], "retries = { on = [\"503\"] }").await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, answer.text()), (503, "two is ill"));
}

// ── connections that were kept ──────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_kept_connection_that_the_server_has_closed_is_not_noticed_by_clients() {
    let certs = Certs::for_names(&["a.test"]);
    // Closes each connection after its first answer, without a word of it in that answer.
    let origin = Wire::saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives").await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "").await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for _ in 0..20 {
            assert_eq!(client.get(URL).await.text(), "fives");
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_is_closed_as_a_request_comes_is_no_fault_of_the_server() {
    let certs = Certs::for_names(&["a.test"]);
    // The worst moment: the second request on a connection is what makes the server close it.
    let tired = || {
        Wire::start(|_, mut line| async move {
            line.request().await;
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives").await;
            line.request().await;
            line.reset();
        })
    };
    let (one, two) = (tired().await, tired().await);
    let servers = [one.address().to_string(), two.address().to_string()];
    let settings = "balance = \"round_robin\"\nretries = { attempts = 3 }\n\
                    outlier_detection = { consecutive_errors = 1, ejection_time = \"1m\" }";
    let gateway = Gateway::start(&group(&certs, &servers, settings)).await;
    let client = Client::http2(&gateway, &certs);

    for _ in 0..20 {
        assert_eq!(client.get(URL).await.text(), "fives");
    }

    assert!(retries(&gateway, "reset").await > 0);
    assert_eq!(gateway.count("tidegate_upstream_ejections_total").await, 0);
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line: Line| async move {
        while line.request().await.is_some() {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives").await;
        }
    })
    .await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "").await;
    let client = Client::http1(&gateway, &certs);

    for _ in 0..10 {
        assert_eq!(client.get(URL).await.text(), "fives");
    }

    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_not_kept_for_longer_than_it_may() {
    let certs = Certs::for_names(&["a.test"]);
    let (closing, closed) = tokio::sync::watch::channel(false);
    let origin = Wire::start(move |_, mut line: Line| {
        let closing = closing.clone();
        async move {
            while line.request().await.is_some() {
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives").await;
            }
            closing.send_replace(true);
        }
    })
    .await;
    let gateway =
        gateway(&certs, &[origin.address().to_string()], "timeouts = { keep_alive = \"100ms\" }").await;

    assert_eq!(Client::http1(&gateway, &certs).get(URL).await.text(), "fives");

    eventually(PATIENCE, "the gateway closes it", async || *closed.borrow()).await;
}

/// A body of unknown length, the last part first. Over HTTP/2 it ends with an empty frame.
struct Parts(Vec<&'static str>);

impl hyper::body::Body for Parts {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop().map(|part| Ok(hyper::body::Frame::data(part.into()))))
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_leaves_nothing_behind_on_a_kept_connection() {
    let certs = Certs::for_names(&["a.test"]);
    let (bodies, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    // Whatever follows the end of a request is the next one, or makes this origin hang up.
    let origin = Wire::start(move |_, mut line: Line| {
        let bodies = bodies.clone();
        async move {
            while let Some(seen) = line.request().await {
                bodies.send(seen.body).unwrap();
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives").await;
            }
        }
    })
    .await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "").await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for _ in 0..10 {
            let body = reqwest::Body::wrap(Parts(vec!["world", "hello "]));
            let answer = client.send(client.request("POST", URL).body(body)).await;
            assert_eq!((answer.status, answer.text()), (200, "fives"));
            assert_eq!(arrived.recv().await.unwrap(), b"hello world");
        }
    }
    assert_eq!(origin.connections(), 1);
}
