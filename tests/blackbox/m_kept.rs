//! Connections that are kept for the next request: how many there are, and what is sent again when one turns out to be dead.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::support::{Certs, Client, Gateway, Line, Origin, PATIENCE, Reply, Wire, eventually, group, must};

const URL: &str = "https://a.test/";

async fn before(origin: &Wire, certs: &Certs, settings: &str, road: &str) -> Gateway {
    let settings = format!("outlier_detection = false\n{settings}");
    Gateway::start(&(group(certs, &[origin.address().to_string()], &settings) + road)).await
}

// ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Who is let in next finds the connection of the one before: HTTP/2's share of this is in `n_http2_upstream`.
#[tokio::test]
async fn there_are_no_more_connections_than_requests_may_be_in_flight() {
    const CLIENTS: usize = 16;
    const EACH: usize = 30;
    let certs = Certs::for_names(&["a.test"]);
    // Straight through, into the store, and by way of the cache without being kept.
    for (road, field) in [
        ("", "X-Any: 1"),
        ("cache = true\n", "Cache-Control: max-age=60"),
        ("cache = true\n", "Cache-Control: no-store"),
    ] {
        let origin = Wire::start(move |_, mut line: Line| async move {
            while line.request().await.is_some() {
                line.say(format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 5\r\n\r\nfives")).await;
            }
        })
        .await;
        let limits = "limits = { max_connections = 2, max_pending = 1000 }\ntimeouts = { connect = \"1m\" }";
        let gateway = before(&origin, &certs, limits, road).await;

        let clients: Vec<_> = (0..CLIENTS).map(|_| Client::http2(&gateway, &certs)).collect();
        let asking = clients.into_iter().enumerate().map(|(number, client)| {
            tokio::spawn(async move {
                for turn in 0..EACH {
                    let answer = client.get(&format!("{URL}{number}/{turn}")).await;
                    assert_eq!((answer.status, answer.text()), (200, "fives"));
                }
            })
        });
        for asking in asking.collect::<Vec<_>>() {
            must("all answers", asking).await.unwrap();
        }
        assert!(origin.connections() <= 2, "{} connections: {road}{field}", origin.connections());
    }
}

// ── one that is dead ────────────────────────────────────────────────────────────────────────────────────────────────

/// What an origin was asked for, by method.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn note(&self, method: &str) {
        self.0.lock().unwrap().push(method.to_owned());
    }

    fn times(&self, method: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|asked| *asked == method).count()
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives";

/// Closed by its server while it was idle, it is not used: whatever comes next is sent once, over another.
#[tokio::test]
async fn what_comes_after_a_connection_was_closed_is_sent_over_another() {
    let certs = Certs::for_names(&["a.test"]);
    let (asked, (closing, closed)) = (Asked::default(), watch::channel(0));
    let noted = asked.clone();
    let origin = Wire::start(move |_, mut line| {
        let (noted, closing) = (noted.clone(), closing.clone());
        async move {
            if let Some(seen) = line.request().await {
                noted.note(&seen.method);
                line.say(ANSWER).await;
            }
            drop(line);
            closing.send_modify(|times| *times += 1);
        }
    })
    .await;
    let gateway = before(&origin, &certs, "", "").await;

    let mut times = 0;
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for method in ["GET", "POST", "POST"] {
            let answer = client.send(client.request(method, URL).body("once")).await;
            assert_eq!((answer.status, answer.text()), (200, "fives"), "{method}");
            times += 1;
            eventually(PATIENCE, "it is closed", async || *closed.borrow() == times).await;
        }
    }
    assert_eq!((asked.times("GET"), asked.times("POST")), (2, 4));
    assert_eq!(gateway.count("tidegate_upstream_retries_total").await, 0);
}

/// Reset after the head was read, it may have done what was asked: only what changes nothing is sent again.
#[tokio::test]
async fn what_a_server_has_read_before_it_reset_a_kept_connection_is_not_sent_again_if_it_may_change_something()
 {
    let certs = Certs::for_names(&["a.test"]);
    let asked = Asked::default();
    let noted = asked.clone();
    // The first request of a connection is answered, the second is not.
    let origin = Wire::start(move |_, mut line| {
        let noted = noted.clone();
        async move {
            line.request().await;
            line.say(ANSWER).await;
            if let Some(seen) = line.head().await {
                noted.note(&seen.method);
                line.reset();
            }
        }
    })
    .await;
    let gateway = before(&origin, &certs, "", "").await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for (method, status) in [("POST", 502), ("PATCH", 502), ("GET", 200), ("PUT", 200)] {
            // Leaves a connection that has had one request, whatever there was before.
            assert_eq!(client.send(client.request("OPTIONS", URL)).await.text(), "fives");
            let answer = client.send(client.request(method, URL).body("once")).await;
            assert_eq!(answer.status, status, "{method}");
            if status == 502 {
                assert_eq!(answer.json()["reason"], "upstream-broke-off");
            }
        }
    }
    assert_eq!(["POST", "PATCH", "GET", "PUT"].map(|method| asked.times(method)), [2; 4]);
}

/// What has begun to answer was not found closed: what ends it is the server's failure, though its connection was kept.
#[tokio::test]
async fn a_server_that_breaks_off_once_it_has_been_heard_is_blamed_on_a_kept_connection_too() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ["", "cache = true\n"] {
        // The first request of a connection is answered; of the second, only that there will be more.
        let origin = Wire::start(|_, mut line| async move {
            line.request().await;
            line.say(ANSWER).await;
            line.request().await;
            line.say("HTTP/1.1 103 Early Hints\r\n\r\n").await;
        })
        .await;
        let gateway = before(&origin, &certs, "", road).await;
        let client = Client::http2(&gateway, &certs);
        for path in ["first", "second"] {
            let answer = client.get(&format!("{URL}{path}")).await;
            assert_eq!((answer.status, answer.text()), (200, "fives"), "{road}{path}");
        }
        let failed = "tidegate_upstream_requests_total{outcome=\"error\"}";
        assert_eq!(gateway.count(failed).await, 1, "{road}");
    }
}

// ── what is asked for anew ──────────────────────────────────────────────────────────────────────────────────────────

/// A server whose 304 is of nothing that is kept has not failed: it is asked again, and no backup.
#[tokio::test]
async fn what_a_304_has_asked_for_anew_goes_where_it_would_go_first() {
    let certs = Certs::for_names(&["a.test"]);
    let (primary, backup) = (Origin::start("primary").await, Origin::start("backup").await);
    primary.answer_by("/", |seen| {
        let reply = match seen.field("if-none-match") {
            None => Reply::ok("whole").field("etag", "\"1\""),
            Some(_) => Reply::new(304, "").field("etag", "\"2\""),
        };
        reply.field("cache-control", "max-age=0")
    });
    let servers =
        [primary.address().to_string(), format!("{{ address = \"{}\", backup = true }}", backup.address())];
    let gateway = Gateway::start(&(group(&certs, &servers, "") + "cache = true\n")).await;
    let client = Client::http2(&gateway, &certs);
    for _ in 0..2 {
        let answer = client.get(URL).await;
        assert_eq!((answer.status, answer.text()), (200, "whole"));
    }
    assert_eq!((primary.requests("/"), backup.requests("/")), (3, 0));
}

#[tokio::test]
async fn what_a_304_has_asked_for_anew_has_all_its_tries() {
    let certs = Certs::for_names(&["a.test"]);
    let asked = Arc::new(AtomicUsize::new(0));
    let origin = Wire::start(move |_, mut line: Line| {
        let asked = asked.clone();
        async move {
            while line.request().await.is_some() {
                let (head, body) = match asked.fetch_add(1, Ordering::SeqCst) {
                    0 => ("200 OK\r\nETag: \"1\"\r\nCache-Control: max-age=0\r\nContent-Length: 3", "old"),
                    1 => ("304 Not Modified\r\nETag: \"2\"", ""),
                    2 => return line.reset(),
                    _ => ("200 OK\r\nContent-Length: 3", "new"),
                };
                line.say(format!("HTTP/1.1 {head}\r\n\r\n{body}")).await;
            }
        }
    })
    .await;
    let gateway = before(&origin, &certs, "", "cache = true\n").await;
    let client = Client::http2(&gateway, &certs);
    assert_eq!(client.get(URL).await.text(), "old");
    let answer = client.get(URL).await;
    assert_eq!((answer.status, answer.text()), (200, "new"));
    assert_eq!(gateway.count("tidegate_upstream_retries_total{reason=\"reset\"}").await, 1);
}
