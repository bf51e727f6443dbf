//! Answers that come late, early, broken or untrue: what the client sees of them.

use std::time::{Duration, Instant};

use crate::support::client::Answer;
use crate::support::{Certs, Client, Gate, Gateway, Line, Origin, PATIENCE, Raw, Reply, Wire, group, must};

const URL: &str = "https://a.test/";

/// A gateway before these servers, asked in turn, none ever ejected.
async fn gateway(certs: &Certs, servers: &[String], settings: &str) -> Gateway {
    let in_turn = "balance = \"round_robin\"\noutlier_detection = false\n";
    Gateway::start(&group(certs, servers, &format!("{in_turn}{settings}"))).await
}

fn at(origin: &Origin) -> String {
    origin.address().to_string()
}

async fn retries(gateway: &Gateway, reason: &str) -> u64 {
    gateway.count(&format!("tidegate_upstream_retries_total{{reason=\"{reason}\"}}")).await
}

/// The answer is a "no" of the gateway with this status and reason.
fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, &answer.json()["reason"]), (status, &reason.into()), "{}", answer.text());
}

// ── an answer that does not come in time ────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_a_504() {
    let certs = Certs::for_names(&["a.test"]);
    let gate = Gate::closed();
    let (slow, well) = (Origin::start("slow").await, Origin::start("well").await);
    slow.answer("/", Reply::ok("too late").behind(&gate));
    let settings = "timeouts = { first_byte = \"150ms\", idle = \"100ms\" }";
    let gateway = gateway(&certs, &[at(&slow), at(&well)], settings).await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;
    assert_refused(&answer, 504, "upstream-timeout");

    // The other one still answers, and the connection to the slow one is not used again.
    assert_eq!(Client::http1(&gateway, &certs).get(URL).await.text(), "well answers");
    slow.answer("/", Reply::ok("in time"));
    gate.open();
    assert_eq!(Client::http1(&gateway, &certs).get(URL).await.text(), "in time");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_asked_for_elsewhere_if_that_is_asked_for() {
    let certs = Certs::for_names(&["a.test"]);
    let gate = Gate::closed();
    let (slow, well) = (Origin::start("slow").await, Origin::start("well").await);
    slow.answer("/", Reply::ok("too late").behind(&gate));
    let settings =
        "timeouts = { first_byte = \"150ms\", idle = \"100ms\" }\nretries = { on = [\"timeout\"] }";
    let gateway = gateway(&certs, &[at(&slow), at(&well)], settings).await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, answer.text()), (200, "well answers"));
    assert_eq!(retries(&gateway, "timeout").await, 1);
}

/// Neither a longer bound on other waits nor a byte now and then gives it more.
#[tokio::test]
async fn the_whole_head_of_an_answer_has_the_time_of_its_first_byte() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nX-Slow: ").await;
        while line.say("x").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let settings = "timeouts = { first_byte = \"150ms\", idle = \"1h\", total = \"0s\" }";
    let gateway = gateway(&certs, &[origin.address().to_string()], settings).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for request in [client.request("GET", URL), client.request("POST", URL).body("some")] {
            let answer = client.send(request).await;
            assert_refused(&answer, 504, "upstream-timeout");
        }
    }
}

#[tokio::test]
async fn the_time_for_the_whole_counts_all_tries() {
    let certs = Certs::for_names(&["a.test"]);
    let gate = Gate::closed();
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    for origin in [&one, &two] {
        origin.answer("/", Reply::ok("too late").behind(&gate));
    }
    // A pause that would last for days, were it not for the time for the whole.
    let settings = "timeouts = { total = \"300ms\", first_byte = \"200ms\", idle = \"200ms\" }\n\
                    retries = { attempts = 9, on = [\"timeout\"], backoff = { base = \"1h\", max = \"1h\" } }";
    let gateway = gateway(&certs, &[at(&one), at(&two)], settings).await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_refused(&answer, 504, "upstream-timeout");
    assert!(one.requests("/") + two.requests("/") <= 2);
}

#[tokio::test]
async fn the_time_for_the_whole_ends_an_answer_that_trickles() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        // Never idle for long, never done: until the gateway has had enough.
        let began = Instant::now();
        while line.say("1\r\nx\r\n").await && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "timeouts = { total = \"300ms\" }").await;

    let began = Instant::now();
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = must("the answer ends", Answer::try_of(client.request("GET", URL))).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(gateway.count("tidegate_refusals_total{reason=\"upstream-timeout\"}").await, 2);
}

#[tokio::test]
async fn the_time_for_the_whole_ends_an_answer_that_falls_silent() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        line.closed().await;
    })
    .await;
    let settings = "timeouts = { total = \"300ms\", idle = \"1h\" }";
    let gateway = gateway(&certs, &[origin.address().to_string()], settings).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = must("the answer ends", Answer::try_of(client.request("GET", URL))).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(gateway.count("tidegate_refusals_total{reason=\"upstream-timeout\"}").await, 2);
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_ends_broken() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
        line.closed().await;
    })
    .await;
    let settings = "timeouts = { first_byte = \"150ms\", idle = \"150ms\" }";
    let gateway = gateway(&certs, &[origin.address().to_string()], settings).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = must("the answer ends", Answer::try_of(client.request("GET", URL))).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(origin.connections(), 2);
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 2);
}

// ── an answer that is not whole, or not true ────────────────────────────────────────────────────────────────────────

/// What a client sees of these bytes, over HTTP/1.1 and over HTTP/2.
async fn seen_of(bytes: &str) -> [Result<Answer, reqwest::Error>; 2] {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::saying(bytes).await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "").await;
    let (h1, h2) = (Client::http1(&gateway, &certs), Client::http2(&gateway, &certs));
    let ask = async |client: &Client| must("an end", Answer::try_of(client.request("GET", URL))).await;
    [ask(&h1).await, ask(&h2).await]
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_for_the_client_too() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
    ] {
        for seen in seen_of(bytes).await {
            assert!(seen.is_err(), "{bytes:?} became {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_reset_in_mid_answer_is_no_end_of_it_on_the_wire() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/chunked", Reply::ok("x".repeat(50_000)).chunked().cut_after(20_000));
    origin.answer("/length", Reply::ok("x".repeat(50_000)).cut_after(20_000));
    let gateway = gateway(&certs, &[at(&origin)], "").await;

    for path in ["/chunked", "/length"] {
        let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let rest = String::from_utf8(client.rest().await).unwrap();
        assert!(rest.starts_with("HTTP/1.1 200"), "{path}: {rest}");
        assert!(!rest.ends_with("0\r\n\r\n"), "{path} ended as if it were whole");
        assert!(rest.len() < 50_000, "{path}");
    }
    // Nothing of an answer that was begun is asked for once more.
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn what_follows_the_end_of_an_answer_is_never_the_next_one() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line: Line| async move {
        while let Some(seen) = line.request().await {
            let body = if seen.target == "/long" {
                "truth\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies"
            } else {
                "other"
            };
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}")).await;
        }
    })
    .await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "").await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for _ in 0..5 {
            assert_eq!(client.get("https://a.test/long").await.text(), "truth");
            assert_eq!(client.get("https://a.test/other").await.text(), "other");
        }
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_502() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 999999 What\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nfives",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nfives!",
        "\0\u{1}\u{2}\u{3}\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nfives",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nfives\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\nContent-Length: 5\r\n\r\nfives",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n",
    ] {
        for seen in seen_of(bytes).await {
            let answer = seen.unwrap_or_else(|error| panic!("{bytes:?}: {error:?}"));
            assert_eq!(
                (answer.status, &answer.json()["reason"]),
                (502, &"upstream-invalid".into()),
                "{bytes:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_a_502() {
    for bytes in ["", "HTTP/1.1 20"] {
        for seen in seen_of(bytes).await {
            let answer = seen.unwrap();
            assert_eq!(
                (answer.status, &answer.json()["reason"]),
                (502, &"upstream-broke-off".into()),
                "{bytes:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_ended_by_closing_is_whole() {
    // A transfer coding that means nothing leaves the end to the connection (RFC 9112 §6.3), and goes no further.
    for fields in ["", "Transfer-Encoding: cow\r\nConnection: keep-alive\r\n"] {
        for seen in seen_of(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nto the end")).await {
            let answer = seen.unwrap();
            assert_eq!(answer.text(), "to the end");
            assert!(answer.field("transfer-encoding").is_none_or(|coding| coding == "chunked"));
        }
    }
}

// ── an answer that comes early ──────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_read_reaches_the_client() {
    let certs = Certs::for_names(&["a.test"]);
    // One goes on reading, as a polite server does; the other closes with the body still in its way.
    for polite in [true, false] {
        let origin = Wire::start(move |_, mut line| async move {
            line.head().await;
            line.say("HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\nConnection: close\r\n\r\nless").await;
            if polite {
                line.closed().await;
            }
        })
        .await;
        let gateway = gateway(&certs, &[origin.address().to_string()], "").await;
        for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
            let answer = client.send(client.request("PUT", URL).body("x".repeat(3_000_000))).await;
            assert_eq!((answer.status, answer.text()), (413, "less"), "polite: {polite}");
        }
        assert_eq!(origin.connections(), 2, "polite: {polite}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_early_reaches_the_client_at_once_though_nobody_takes_the_body() {
    let certs = Certs::for_names(&["a.test"]);
    // More than fits into what lies between.
    let origin = Wire::start(|_, mut line| async move {
        line.head().await;
        line.say(format!("HTTP/1.1 413 Too Much\r\nContent-Length: {EARLY}\r\n\r\n")).await;
        line.say("x".repeat(EARLY)).await;
        // Neither reads nor closes.
        std::future::pending::<()>().await;
    })
    .await;
    let settings = "timeouts = { first_byte = \"1h\", idle = \"1h\", total = \"0s\" }";
    let gateway = gateway(&certs, &[origin.address().to_string()], settings).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = client.send(client.request("PUT", URL).body("x".repeat(9_000_000))).await;
        assert_eq!((answer.status, answer.body.len()), (413, EARLY));
    }
}

const EARLY: usize = 8 << 20;

/// A server that takes nothing of a body has `idle` to do so, and `first_byte` to answer all the same.
#[tokio::test]
async fn a_server_that_neither_reads_nor_answers_is_given_up() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let settings = "timeouts = { first_byte = \"200ms\", idle = \"200ms\", total = \"0s\" }";
    let gateway = gateway(&certs, &[origin.address().to_string()], settings).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = client.send(client.request("PUT", URL).body("x".repeat(9_000_000))).await;
        assert_refused(&answer, 504, "upstream-timeout");
    }
}

#[tokio::test]
async fn an_answer_may_stream_while_the_request_still_does() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n").await;
        line.closed().await;
    })
    .await;
    let gateway = gateway(&certs, &[origin.address().to_string()], "").await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nfives").await;

    assert!(client.head().await.starts_with("HTTP/1.1 200"));
}
