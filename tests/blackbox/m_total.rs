//! The time for the whole exchange: what it ends, past the cache and on a route that has one, and who is blamed for that.

use std::time::Duration;

use tokio::sync::watch;

use crate::support::client::Answer;
use crate::support::{
    Certs, Client, Gate, Gateway, Line, Origin, PATIENCE, Raw, Reply, Silent, Wire, eventually, group, must,
    pass,
};

const URL: &str = "https://a.test/";

/// What a route has beside its upstream: nothing, or a cache, by which answers come another way.
const ROADS: [&str; 2] = ["", "cache = true\n"];

/// A gateway before these servers, asked in turn; one failure ejects.
async fn gateway(certs: &Certs, servers: &[String], settings: &str, road: &str) -> Gateway {
    let strict = "outlier_detection = { consecutive_errors = 1, max_ejected = \"100%\" }\n";
    let settings = format!("balance = \"round_robin\"\n{strict}{settings}");
    Gateway::start(&(group(certs, servers, &settings) + road)).await
}

fn at(origin: &Origin) -> String {
    origin.address().to_string()
}

/// How many tries are held against this server.
async fn blamed(gateway: &Gateway, server: &str) -> u64 {
    let series = format!("tidegate_upstream_requests_total{{server=\"{server}\",outcome=\"error\"}}");
    gateway.count(&series).await
}

/// The answer is the gateway's word that there was none in time.
fn assert_timed_out(answer: &Answer) {
    let told = (answer.status, &answer.json()["reason"]);
    assert_eq!(told, (504, &"upstream-timeout".into()), "{}", answer.text());
}

// ── a body that takes longer ────────────────────────────────────────────────────────────────────────────────────────

/// Says pieces of a body without an end, as fast as they are taken or now and then, until the gateway has had enough.
async fn endless(fields: &'static str, pause: Duration, over: watch::Sender<bool>) -> Wire {
    Wire::start(move |_, mut line: Line| {
        let over = over.clone();
        async move {
            line.request().await;
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{fields}\r\n");
            let piece = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
            line.say(head).await;
            while line.say(&piece).await {
                pass(pause).await;
            }
            over.send_replace(true);
        }
    })
    .await
}

/// Whether the answer begins and does not come to its end.
async fn is_broken_off(client: &Client) -> bool {
    let mut answer = must("a head", client.request("GET", URL).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    loop {
        match must("a piece", answer.chunk()).await {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

#[tokio::test]
async fn a_body_that_takes_longer_ends_and_its_server_is_not_blamed() {
    let certs = Certs::for_names(&["a.test"]);
    for fields in ["Cache-Control: max-age=60\r\n", "Cache-Control: no-store\r\n"] {
        for (road, pause) in ROADS.iter().flat_map(|road| [(road, 0), (road, 20)]) {
            let (over, mut is_over) = watch::channel(false);
            let origin = endless(fields, Duration::from_millis(pause), over).await;
            let server = origin.address().to_string();
            let gateway =
                gateway(&certs, std::slice::from_ref(&server), "timeouts = { total = \"700ms\" }", road)
                    .await;

            let (http1, http2) = (Client::http1(&gateway, &certs), Client::http2(&gateway, &certs));
            let broken = tokio::join!(is_broken_off(&http1), is_broken_off(&http2));
            assert_eq!(broken, (true, true), "{road}{fields}{pause}");
            must("its server is left", is_over.wait_for(|over| *over)).await.unwrap();
            assert_eq!(blamed(&gateway, &server).await, 0, "{road}{fields}{pause}");
            assert_eq!(gateway.server(&server).await["state"], "up", "{road}{fields}{pause}");
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_no_further_is_waited_for_no_longer_and_nobody_is_blamed() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (over, mut is_over) = watch::channel(false);
        let origin = endless("Cache-Control: no-store\r\n", Duration::ZERO, over).await;
        let server = origin.address().to_string();
        let gateway =
            gateway(&certs, std::slice::from_ref(&server), "timeouts = { total = \"700ms\" }", road).await;

        let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        must("its server is left", is_over.wait_for(|over| *over)).await.unwrap();
        assert_eq!(blamed(&gateway, &server).await, 0, "{road}");
    }
}

// ── all tries ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// The first server says so late that it is busy that little is left for the next; which is asked where that is wanted.
const LITTLE_LEFT: &str =
    "retries = { on = [\"503\", \"connect\", \"timeout\"] }\ntimeouts = { total = \"1s\" }";

async fn late() -> Origin {
    let late = Origin::start("late").await;
    late.answer("/", Reply::new(503, "busy").after(Duration::from_millis(700)));
    late
}

#[tokio::test]
async fn a_server_for_which_little_time_is_left_is_not_blamed_for_its_silence() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (late, gate, silent) = (late().await, Gate::closed(), Origin::start("silent").await);
        silent.answer("/", Reply::ok("too late").behind(&gate));
        let gateway = gateway(&certs, &[at(&late), at(&silent)], LITTLE_LEFT, road).await;

        assert_timed_out(&Client::http2(&gateway, &certs).get(URL).await);
        assert_eq!(blamed(&gateway, &at(&silent)).await, 0, "{road}");
    }
}

#[tokio::test]
async fn a_server_for_which_little_time_is_left_is_not_blamed_for_a_connection_that_takes_longer() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (late, silent) = (late().await, Silent::start().await);
        let servers = [at(&late), silent.address.clone()];
        let gateway = gateway(&certs, &servers, LITTLE_LEFT, road).await;

        assert_timed_out(&Client::http2(&gateway, &certs).get(URL).await);
        assert_eq!(blamed(&gateway, &silent.address).await, 0, "{road}");
    }
}

/// Else one that hangs would never be left alone where `total` is the shortest of all bounds.
#[tokio::test]
async fn a_server_that_had_the_time_for_the_whole_is_blamed() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (gate, silent, deaf) = (Gate::closed(), Origin::start("silent").await, Silent::start().await);
        silent.answer("/", Reply::ok("too late").behind(&gate));
        for server in [at(&silent), deaf.address.clone()] {
            let settings = "timeouts = { total = \"1s\" }";
            let gateway = gateway(&certs, std::slice::from_ref(&server), settings, road).await;
            assert_eq!(Client::http2(&gateway, &certs).get(URL).await.status, 504);
            assert_eq!(blamed(&gateway, &server).await, 1, "{road}");
        }
    }
}

#[tokio::test]
async fn a_pause_that_would_last_longer_is_not_made() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let origin = Origin::start("one").await;
        origin.answer("/", Reply::new(503, "busy").field("retry-after", "25"));
        let settings = "retries = { on = [\"503\"] }\ntimeouts = { total = \"20s\" }";
        let gateway = gateway(&certs, &[at(&origin)], settings, road).await;

        let answer = Client::http2(&gateway, &certs).get(URL).await;
        assert_eq!((answer.status, answer.text()), (503, "busy"), "{road}");
        assert_eq!(origin.requests("/"), 1, "{road}");
    }
}

#[tokio::test]
async fn all_tries_and_the_pauses_between_them_are_within_it() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (gate, one, two) = (Gate::closed(), Origin::start("one").await, Origin::start("two").await);
        for origin in [&one, &two] {
            origin.answer("/", Reply::ok("too late").behind(&gate));
        }
        let settings = "timeouts = { total = \"500ms\", first_byte = \"200ms\", idle = \"200ms\" }\n\
             retries = { attempts = 9, on = [\"timeout\"], backoff = { base = \"1ms\", max = \"1ms\" } }";
        let gateway = gateway(&certs, &[at(&one), at(&two)], settings, road).await;

        assert_timed_out(&Client::http2(&gateway, &certs).get(URL).await);
        let asked = one.requests("/") + two.requests("/");
        assert!((1..=3).contains(&asked), "{road}: {asked} of nine");
    }
}

// ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A stream of events whose second event comes once the gate is open.
async fn events(gate: Gate) -> Wire {
    Wire::start(move |_, mut line: Line| {
        let gate = gate.clone();
        async move {
            line.request().await;
            line.say(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .await;
            line.say("9\r\ndata: 1\n\n\r\n").await;
            gate.opened().await;
            line.say("9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_stream_of_events_lasts_longer() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let gate = Gate::closed();
        let origin = events(gate.clone()).await;
        let settings = "timeouts = { total = \"1s\" }";
        let gateway = gateway(&certs, &[origin.address().to_string()], settings, road).await;

        let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert!(client.head().await.contains("text/event-stream"));
        assert_eq!(client.chunk().await, b"data: 1\n\n", "{road}");
        pass(Duration::from_millis(1500)).await;
        gate.open();
        assert_eq!(client.chunk().await, b"data: 2\n\n", "{road}");
        assert_eq!(client.chunk().await, b"", "{road}");
    }
}

#[tokio::test]
async fn events_that_are_asked_for_elsewhere_are_no_longer_what_is_waited_for() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (gate, ill, silent) = (Gate::closed(), Origin::start("ill").await, Origin::start("silent").await);
        ill.answer("/", Reply::new(503, "data: ill\n\n").field("content-type", "text/event-stream"));
        silent.answer("/", Reply::ok("too late").behind(&gate));
        let settings = "retries = { on = [\"503\"] }\n\
             timeouts = { total = \"500ms\", first_byte = \"1h\", idle = \"1h\" }";
        let gateway = gateway(&certs, &[at(&ill), at(&silent)], settings, road).await;

        assert_timed_out(&must("an answer", Client::http2(&gateway, &certs).get(URL)).await);
        eventually(PATIENCE, "both are asked", async || silent.requests("/") == 1).await;
        assert_eq!(ill.requests("/"), 1, "{road}");
    }
}
