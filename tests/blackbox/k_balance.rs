//! Which server of a group a request goes to, how many may be on their way at once, and when their places are free
//! again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{
    Certs, Client, Gate, Gateway, Line, Origin, PATIENCE, Raw, Reply, Wire, eventually, group,
};

const URL: &str = "https://a.test/";

/// So many origins, called `0`, `1`, …
async fn origins(count: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for number in 0..count {
        origins.push(Origin::start(&number.to_string()).await);
    }
    origins
}

fn addresses(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(|origin| origin.address().to_string()).collect()
}

/// Asks so often, one request after the other on one connection; the names of the servers that answered.
async fn ask(client: &Client, times: usize) -> String {
    let mut names = String::new();
    for _ in 0..times {
        let answer = client.get(URL).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        names += answer.field("served-by").unwrap();
    }
    names
}

fn counts(names: &str) -> BTreeMap<char, usize> {
    names.chars().fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1;
        counts
    })
}

#[tokio::test]
async fn least_request_passes_by_a_server_that_is_busy() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    let gate = Gate::closed();
    for origin in &origins {
        origin.answer("/slow", Reply::ok("at last").behind(&gate));
    }
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), "")).await;
    let slow = Client::http1(&gateway, &certs);
    let slow = tokio::spawn(async move { slow.get("https://a.test/slow").await });
    let seen = |origin: &Origin| origin.requests("/slow");
    eventually(PATIENCE, "a server is busy", async || origins.iter().map(seen).sum::<usize>() == 1).await;
    let idle = origins.iter().position(|origin| origin.requests("/slow") == 0).unwrap();

    let names = ask(&Client::http1(&gateway, &certs), 30).await;

    assert_eq!(names, idle.to_string().repeat(30));
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "at last");
}

#[tokio::test]
async fn least_request_gives_idle_servers_their_share_by_weight() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    let servers = [
        format!(r#"{{ address = "{}", weight = 4 }}"#, origins[0].address()),
        origins[1].address().to_string(),
    ];
    let gateway = Gateway::start(&group(&certs, &servers, r#"balance = "least_request""#)).await;

    let counts = counts(&ask(&Client::http1(&gateway, &certs), 150).await);

    // Shares of 120 and 30 are to be expected; chance may move a few, but not turn them around.
    assert!(counts[&'0'] > 90 && counts[&'1'] > 3, "{counts:?}");
}

#[tokio::test]
async fn round_robin_takes_the_servers_one_after_the_other() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(3).await;
    let gateway = Gateway::start(&group(&certs, &addresses(&origins), r#"balance = "round_robin""#)).await;

    assert_eq!(ask(&Client::http2(&gateway, &certs), 9).await, "012012012");
}

#[tokio::test]
async fn round_robin_gives_each_server_its_weight_in_every_round() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    let servers = [
        origins[0].address().to_string(),
        format!(r#"{{ address = "{}", weight = 3 }}"#, origins[1].address()),
    ];
    let gateway = Gateway::start(&group(&certs, &servers, r#"balance = "round_robin""#)).await;

    let names = ask(&Client::http2(&gateway, &certs), 12).await;

    for round in [&names[..4], &names[4..8], &names[8..]] {
        assert_eq!(counts(round), BTreeMap::from([('0', 1), ('1', 3)]), "{names}");
    }
}

#[tokio::test]
async fn a_split_sends_nothing_to_a_weight_of_nothing() {
    let certs = Certs::for_names(&["a.test"]);
    let origins = origins(2).await;
    let top = crate::support::https(&certs);
    let (blue, green) = (origins[0].address(), origins[1].address());
    let gateway = Gateway::start(&format!(
        r#"{top}
[upstreams.blue]
servers = ["{blue}"]
[upstreams.green]
servers = ["{green}"]
[routes.all]
upstream = {{ blue = 0, green = 5 }}
"#
    ))
    .await;

    assert_eq!(ask(&Client::http2(&gateway, &certs), 10).await, "1".repeat(10));
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("0").await;
    let name = format!("localhost:{}", origin.address().port());
    let gateway = Gateway::start(&group(&certs, std::slice::from_ref(&name), "")).await;
    gateway.ready().await;

    assert_eq!(ask(&Client::http2(&gateway, &certs), 3).await, "000");
    assert_eq!(gateway.count(&format!("tidegate_upstream_server_up{{server=\"{name}\"}}")).await, 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_shown_and_stops_nothing() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("0").await;
    let servers = ["no-such-host.invalid:80".to_owned(), origin.address().to_string()];
    let gateway = Gateway::start(&group(&certs, &servers, "")).await;
    gateway.ready().await;

    assert_eq!(ask(&Client::http2(&gateway, &certs), 5).await, "00000");
    let server = gateway.server(&servers[0]).await;
    assert_eq!(server["state"], "unresolved", "{server}");
    assert!(server["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{server}");
    let up =
        async |server| gateway.count(&format!("tidegate_upstream_server_up{{server=\"{server}\"}}")).await;
    assert_eq!((up(&servers[0]).await, up(&servers[1]).await), (0, 1));
}

#[tokio::test]
async fn a_group_without_an_address_answers_503() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = Gateway::start(&group(&certs, &["no-such-host.invalid:80".to_owned()], "")).await;

    let answer = Client::http2(&gateway, &certs).get(URL).await;

    assert_eq!((answer.status, &answer.json()["reason"]), (503, &"no-server".into()));
    assert!(answer.field("retry-after").is_some());
}

#[tokio::test]
async fn beyond_the_bound_one_request_waits_and_the_next_is_refused() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("0").await;
    let gate = Gate::closed();
    origin.answer("/slow", Reply::ok("at last").behind(&gate));
    let settings = "limits = { max_connections = 1, max_pending = 1 }\ntimeouts = { connect = \"30s\" }";
    let mut gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], settings)).await;
    let client = Arc::new(Client::http2(&gateway, &certs));
    let slow = || {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.get("https://a.test/slow").await })
    };

    let first = slow();
    eventually(PATIENCE, "one is there", async || origin.requests("/slow") == 1).await;
    let second = slow();
    let pending = "tidegate_upstream_pending{upstream=\"main\"}";
    eventually(PATIENCE, "one waits", async || gateway.count(pending).await == 1).await;

    let third = client.get(URL).await;
    assert_eq!((third.status, &third.json()["reason"]), (503, &"upstream-saturated".into()));
    assert!(third.field("retry-after").is_some());
    assert_eq!(origin.requests("/slow"), 1);
    let logged =
        async || gateway.process().output().contains("reason=upstream-saturated route=all upstream=main");
    eventually(PATIENCE, "the access line names the upstream", logged).await;

    gate.open();
    for waiting in [first, second] {
        assert_eq!(waiting.await.unwrap().text(), "at last");
    }
    assert_eq!(client.get(URL).await.status, 200);
    assert_eq!(gateway.count(pending).await, 0);
}

#[tokio::test]
async fn who_waits_too_long_is_refused() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("0").await;
    let gate = Gate::closed();
    origin.answer("/slow", Reply::ok("at last").behind(&gate));
    let settings = "limits = { max_connections = 1, max_pending = 9 }\ntimeouts = { connect = \"50ms\" }";
    let gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], settings)).await;
    let client = Client::http2(&gateway, &certs);
    let slow = Client::http2(&gateway, &certs);
    let slow = tokio::spawn(async move { slow.get("https://a.test/slow").await });
    eventually(PATIENCE, "one is there", async || origin.requests("/slow") == 1).await;

    let late = client.get(URL).await;

    assert_eq!((late.status, &late.json()["reason"]), (503, &"upstream-saturated".into()));
    gate.open();
    assert_eq!(slow.await.unwrap().status, 200);
}

/// An origin that begins an answer of this status at once, and ends it when the gate opens. In chunks: what has a
/// length may be gathered before it is sent on over HTTP/1.1.
async fn origin_in_mid_answer(status: u16, gate: &Gate) -> Wire {
    let gate = gate.clone();
    Wire::start(move |_, mut line: Line| {
        let gate = gate.clone();
        async move {
            while line.request().await.is_some() {
                let head = format!("HTTP/1.1 {status} Begun\r\nTransfer-Encoding: chunked\r\n\r\n");
                line.say(head + "4\r\nhalf\r\n").await;
                gate.opened().await;
                line.say("4\r\nhalf\r\n0\r\n\r\n").await;
            }
        }
    })
    .await
}

/// A gateway that lets one request at a time through to this origin, none waiting.
async fn one_at_a_time(origin: &Wire, certs: &Certs) -> Gateway {
    let settings = "limits = { max_connections = 1, max_pending = 0 }";
    Gateway::start(&group(certs, &[origin.address().to_string()], settings)).await
}

const IN_FLIGHT: &str = "tidegate_upstream_in_flight{upstream=\"main\"}";

#[tokio::test]
async fn a_request_keeps_its_place_until_its_answer_has_ended() {
    // Also where the answer is a failure that is passed on.
    for status in [200, 503] {
        let certs = Certs::for_names(&["a.test"]);
        let gate = Gate::closed();
        let origin = origin_in_mid_answer(status, &gate).await;
        let gateway = one_at_a_time(&origin, &certs).await;
        let client = Client::http2(&gateway, &certs);

        let mut begun = client.request("GET", URL).send().await.unwrap();
        assert_eq!(begun.chunk().await.unwrap().unwrap(), "half");
        assert_eq!(gateway.count(IN_FLIGHT).await, 1, "{status}");
        assert_eq!(client.get(URL).await.json()["reason"], "upstream-saturated", "{status}");

        gate.open();
        assert_eq!(begun.chunk().await.unwrap().unwrap(), "half");
        let is_free = async || gateway.count(IN_FLIGHT).await == 0;
        eventually(PATIENCE, "the place is free", is_free).await;
        assert_eq!(client.get(URL).await.text(), "halfhalf", "{status}");
    }
}

/// A client has left in the middle of an answer: nothing is in flight, the next one is served, and the server is not
/// to blame.
async fn nothing_is_left_behind(gateway: &Gateway, certs: &Certs, gate: &Gate) {
    for gauge in [IN_FLIGHT, "tidegate_requests_in_flight"] {
        eventually(PATIENCE, gauge, async || gateway.count(gauge).await == 0).await;
    }
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"ok\"}").await, 0);
    gate.open();
    assert_eq!(Client::http2(gateway, certs).get(URL).await.text(), "halfhalf");
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 0);
    assert_eq!(gateway.count("tidegate_upstream_retries_total").await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_answer_over_http1_frees_its_place() {
    let certs = Certs::for_names(&["a.test"]);
    let gate = Gate::closed();
    let origin = origin_in_mid_answer(200, &gate).await;
    let gateway = one_at_a_time(&origin, &certs).await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    drop(client);

    nothing_is_left_behind(&gateway, &certs, &gate).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_answer_over_http2_frees_its_place() {
    let certs = Certs::for_names(&["a.test"]);
    let gate = Gate::closed();
    let origin = origin_in_mid_answer(200, &gate).await;
    let gateway = one_at_a_time(&origin, &certs).await;

    let client = Client::http2(&gateway, &certs);
    let begun = client.request("GET", URL).send().await.unwrap();
    assert_eq!(begun.status(), 200);
    // The stream is reset; the connection stays.
    drop(begun);

    nothing_is_left_behind(&gateway, &certs, &gate).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_its_place() {
    let certs = Certs::for_names(&["a.test"]);
    let gate = Gate::closed();
    let origin = Origin::start("0").await;
    origin.answer("/slow", Reply::ok("too late").behind(&gate));
    let gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], "")).await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    eventually(PATIENCE, "the request is there", async || origin.requests("/slow") == 1).await;
    drop(client);

    eventually(PATIENCE, "nothing is in flight", async || gateway.count(IN_FLIGHT).await == 0).await;
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 0);
    assert_eq!(origin.requests("/slow"), 1);
}
