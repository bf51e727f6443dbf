//! Servers that are found by name: what a name stands for, again and again, and what if nobody says.

use std::net::SocketAddr;

use crate::support::{Certs, Client, Gateway, Names, Origin, PATIENCE, Wire, eventually, group};

const URL: &str = "https://a.test/";

/// Addresses of `main` with the state of each, as `/upstreams` has them.
async fn shown(gateway: &Gateway) -> Vec<(String, String)> {
    let answer = gateway.admin_get("/upstreams").await.json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let main = answer.as_array().unwrap().iter().find(|upstream| upstream["name"] == "main");
    let servers = main.unwrap()["servers"].as_array().unwrap();
    servers.iter().map(|server| (text(&server["address"]), text(&server["state"]))).collect()
}

/// Waits until `main` is at these addresses, all of them up.
async fn stands_for(gateway: &Gateway, addresses: &[SocketAddr]) {
    let wanted: Vec<_> = addresses.iter().map(|address| (address.to_string(), "up".to_owned())).collect();
    eventually(PATIENCE, "the name stands for its addresses", async || shown(gateway).await == wanted).await;
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[tokio::test]
async fn a_name_that_changes_is_followed_when_its_time_to_live_is_over() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let port = origin.address().port();
    let mut names = Names::with(&["host-record=web.test,127.0.0.1"]).await;
    let settings = names.setting();
    let gateway = Gateway::start(&group(&certs, &[format!("dns://web.test:{port}")], &settings)).await;
    stands_for(&gateway, &[at("127.0.0.1", port)]).await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "one answers");

    names.now(&["host-record=web.test,127.0.0.1", "host-record=web.test,127.0.0.2"]).await;
    stands_for(&gateway, &[at("127.0.0.1", port), at("127.0.0.2", port)]).await;

    names.now(&["host-record=web.test,127.0.0.3"]).await;
    stands_for(&gateway, &[at("127.0.0.3", port)]).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_stops_no_start_and_is_told_why() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let port = origin.address().port();
    let mut names = Names::with(&["host-record=other.test,127.0.0.1"]).await;
    let server = format!("web.test:{port}");
    let settings = names.setting();
    let gateway = Gateway::start(&group(&certs, std::slice::from_ref(&server), &settings)).await;
    let client = Client::http2(&gateway, &certs);

    let refused = client.get(URL).await;
    assert_eq!((refused.status, &refused.json()["reason"]), (503, &"no-server".into()));
    let told = async || {
        let server = gateway.server(&server).await;
        server["state"] == "unresolved"
            && server["reason"].as_str().is_some_and(|reason| reason.starts_with("the name does not resolve"))
    };
    eventually(PATIENCE, "it is told why", told).await;
    eventually(PATIENCE, "and logged", async || gateway.output().contains("server is unresolved")).await;

    names.now(&[&format!("host-record=web.test,{}", origin.address().ip())]).await;
    eventually(PATIENCE, "it is found", async || client.get(URL).await.status == 200).await;
    // Looked up often by then, and told once.
    assert_eq!(gateway.output().matches("server is unresolved").count(), 1);
}

#[tokio::test]
async fn while_name_servers_are_away_the_last_addresses_are_used() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let server = format!("dns://web.test:{}", origin.address().port());
    let mut names = Names::with(&["host-record=web.test,127.0.0.1"]).await;
    let settings = names.setting();
    let gateway = Gateway::start(&group(&certs, std::slice::from_ref(&server), &settings)).await;
    stands_for(&gateway, &[origin.address()]).await;

    names.go().await;
    let missed = async || gateway.server(&server).await["reason"].is_string();
    eventually(PATIENCE, "the failure is told", missed).await;
    assert_eq!(gateway.server(&server).await["state"], "up");
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "one answers");

    names.now(&["host-record=web.test,127.0.0.1"]).await;
    let healed = async || gateway.server(&server).await["reason"].is_null();
    eventually(PATIENCE, "and forgotten", healed).await;
}

#[tokio::test]
async fn a_service_is_where_its_records_are_by_priority_and_weight() {
    let certs = Certs::for_names(&["a.test"]);
    let (mut one, mut three, spare) =
        (Origin::start("one").await, Origin::start("three").await, Origin::start("spare").await);
    let record = |origin: &Origin, priority: u16, weight: u16| {
        format!("srv-host=_http._tcp.web.test,here.test,{},{priority},{weight}", origin.address().port())
    };
    let records = [
        "host-record=here.test,127.0.0.1".to_owned(),
        record(&one, 1, 10),
        record(&three, 1, 30),
        record(&spare, 2, 100),
    ];
    let names = Names::with(&records.each_ref().map(String::as_str)).await;
    let settings = format!("{}balance = \"round_robin\"\nretries = {{ attempts = 3 }}\n", names.setting());
    let gateway = Gateway::start(&group(&certs, &["srv://_http._tcp.web.test".to_owned()], &settings)).await;
    let client = Client::http2(&gateway, &certs);
    eventually(PATIENCE, "it is found", async || client.get(URL).await.status == 200).await;

    let before = (one.requests("/"), three.requests("/"));
    for _ in 0..40 {
        assert_eq!(client.get(URL).await.status, 200);
    }
    assert_eq!((one.requests("/") - before.0, three.requests("/") - before.1), (10, 30));
    assert_eq!(spare.requests("/"), 0);

    one.stop().await;
    three.stop().await;
    for _ in 0..10 {
        assert_eq!(client.get(URL).await.text(), "spare answers");
    }
}

#[tokio::test]
async fn a_host_of_a_service_that_is_not_found_keeps_its_last_address_and_takes_no_other_with_it() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let record = |origin: &Origin, host: &str| {
        format!("srv-host=_http._tcp.web.test,{host}.test,{},1,1", origin.address().port())
    };
    let host = |name: &str| format!("host-record={name}.test,127.0.0.1");
    let (here, there) = (record(&one, "here"), record(&two, "there"));
    let mut names = Names::with(&[&host("here"), &here, &there]).await;
    let server = "srv://_http._tcp.web.test".to_owned();
    let gateway = Gateway::start(&group(&certs, std::slice::from_ref(&server), &names.setting())).await;
    stands_for(&gateway, &[one.address()]).await;
    let reason = gateway.server(&server).await["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("there.test.: the name does not resolve"), "{reason}");

    names.now(&[&host("here"), &host("there"), &here, &there]).await;
    let mut both = [one.address(), two.address()];
    both.sort_unstable();
    stands_for(&gateway, &both).await;
    assert!(gateway.server(&server).await["reason"].is_null());

    names.now(&[&host("here"), &here, &there]).await;
    let missed = async || {
        let server = gateway.server(&server).await;
        server["reason"].as_str().is_some_and(|reason| reason.starts_with("there.test."))
    };
    eventually(PATIENCE, "one is missed", missed).await;
    stands_for(&gateway, &both).await;

    names.now(&[&host("here"), &here]).await;
    stands_for(&gateway, &[one.address()]).await;
}

#[tokio::test]
async fn an_answer_that_would_hold_for_long_is_asked_for_again_within_bounds() {
    let certs = Certs::for_names(&["a.test"]);
    let port = Origin::start("one").await.address().port();
    let mut names = Names::with(&["host-record=web.test,127.0.0.1,86400"]).await;
    let settings = format!("{}dns.max_ttl = \"2s\"\n", names.setting());
    let gateway = Gateway::start(&group(&certs, &[format!("web.test:{port}")], &settings)).await;
    stands_for(&gateway, &[at("127.0.0.1", port)]).await;

    names.now(&["host-record=web.test,127.0.0.2,86400"]).await;
    stands_for(&gateway, &[at("127.0.0.2", port)]).await;
}

#[tokio::test]
async fn what_is_known_of_an_address_outlives_the_others_of_its_name() {
    let certs = Certs::for_names(&["a.test"]);
    let (well, ill) = (Origin::start("well").await, Origin::start("ill").await);
    ill.answer("/", crate::support::Reply::new(503, "ill"));
    let mut names = Names::with(&["host-record=here.test,127.0.0.1"]).await;
    let record =
        |origin: &Origin| format!("srv-host=_http._tcp.web.test,here.test,{},1,1", origin.address().port());
    let host = "host-record=here.test,127.0.0.1";
    names.now(&[host, &record(&well), &record(&ill)]).await;
    let settings = format!(
        "{}balance = \"round_robin\"\noutlier_detection = {{ consecutive_errors = 1, ejection_time = \"1h\", max_ejected = \"100%\" }}\n",
        names.setting()
    );
    let gateway = Gateway::start(&group(&certs, &["srv://_http._tcp.web.test".to_owned()], &settings)).await;
    let client = Client::http2(&gateway, &certs);
    let state = async |origin: &Origin| {
        let shown = shown(&gateway).await;
        shown
            .into_iter()
            .find(|(address, _)| *address == origin.address().to_string())
            .map(|(_, state)| state)
    };
    let ejected = async || {
        client.get(URL).await;
        state(&ill).await.as_deref() == Some("ejected")
    };
    eventually(PATIENCE, "the one that is ill is ejected", ejected).await;

    // Another joins.
    let third = Origin::start("third").await;
    names.now(&[host, &record(&well), &record(&ill), &record(&third)]).await;
    eventually(PATIENCE, "the third is there", async || state(&third).await.as_deref() == Some("up")).await;
    assert_eq!(state(&ill).await.as_deref(), Some("ejected"), "still");
    let asked = ill.requests("/");
    for _ in 0..20 {
        assert_eq!(client.get(URL).await.status, 200);
    }
    assert_eq!(ill.requests("/"), asked);
}

#[tokio::test]
async fn a_name_stands_for_its_ipv6_addresses_too() {
    let certs = Certs::for_names(&["a.test"]);
    let six = Wire::at("[::1]:0", |_, mut line| async move {
        while line.request().await.is_some() {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nsix").await;
        }
    })
    .await;
    let port = six.address().port();
    let mut names = Names::with(&["host-record=web.test,::1"]).await;
    let settings = names.setting();
    let gateway = Gateway::start(&group(&certs, &[format!("dns://web.test:{port}")], &settings)).await;
    let client = Client::http2(&gateway, &certs);
    stands_for(&gateway, &[at("::1", port)]).await;
    assert_eq!(client.get(URL).await.text(), "six");

    // Both kinds of address, and then the other alone: nobody listens there.
    names.now(&["host-record=web.test,127.0.0.1,::1"]).await;
    stands_for(&gateway, &[at("127.0.0.1", port), at("::1", port)]).await;
    for _ in 0..4 {
        assert_eq!(client.get(URL).await.text(), "six", "the one that answers");
    }
    names.now(&["host-record=web.test,127.0.0.1"]).await;
    stands_for(&gateway, &[at("127.0.0.1", port)]).await;
    assert_eq!(client.get(URL).await.json()["reason"], "upstream-unreachable");
}

#[tokio::test]
async fn the_hosts_of_a_service_may_have_ipv6_addresses() {
    let certs = Certs::for_names(&["a.test"]);
    let six = Wire::at("[::1]:0", |_, mut line| async move {
        while line.request().await.is_some() {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nsix").await;
        }
    })
    .await;
    let port = six.address().port();
    let service = format!("srv-host=_http._tcp.web.test,six.test,{port},1,1");
    let names = Names::with(&["host-record=six.test,::1", &service]).await;
    let servers = ["srv://_http._tcp.web.test".to_owned()];
    let gateway = Gateway::start(&group(&certs, &servers, &names.setting())).await;
    stands_for(&gateway, &[at("::1", port)]).await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "six");
}
