//! What an operator sees: metrics, health, configuration and upstreams on the admin listener, and the access log.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::telemetry::meters::TABLE;

use crate::support::{
    Answer, Certs, Client, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, https, must, plain,
};

/// Asks the admin listener with a raw head of the test's own.
async fn admin(gateway: &Gateway, head: &str) -> Answer {
    Raw::tcp(gateway.admin()).await.ask(head).await
}

/// The families of an exposition: kind and samples by name; panics at what OpenMetrics does not allow.
fn families(text: &str) -> BTreeMap<String, (String, Vec<Sample>)> {
    let mut families: BTreeMap<String, (String, Vec<Sample>)> = BTreeMap::new();
    let body = text.strip_suffix("# EOF\n").expect("the last line is `# EOF`");
    let mut family = String::new();
    for line in body.lines() {
        assert!(!line.is_empty() && line.trim() == line, "{line:?}");
        if let Some(meta) = line.strip_prefix("# ") {
            let (word, rest) = meta.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (name, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            match word {
                "HELP" => name.clone_into(&mut family),
                "TYPE" => {
                    name.clone_into(&mut family);
                    let before = families.insert(family.clone(), (rest.to_owned(), Vec::new()));
                    assert!(before.is_none_or(|(_, samples)| samples.is_empty()), "{name} comes twice");
                }
                other => assert_eq!(other, "UNIT", "{line}"),
            }
            continue;
        }
        let sample = Sample::parse(line);
        let (kind, samples) = families.get_mut(&family).unwrap_or_else(|| panic!("no type before {line}"));
        let suffix = sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let fits = match kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "histogram" => ["_bucket", "_count", "_sum"].contains(&suffix),
            _ => false,
        };
        assert!(fits, "{line} in a {kind}");
        samples.push(sample);
    }
    families
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (of, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let (name, labels) = of.split_once('{').unwrap_or((of, "}"));
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {line}"));
        let word = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        assert!(word(name), "{line}");
        let mut all = BTreeMap::new();
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            let value = value.strip_suffix('"').unwrap_or(value);
            assert!(word(key) && !value.contains(['\n', '"']), "{line}");
            assert!(all.insert(key.to_owned(), value.to_owned()).is_none(), "{key} twice: {line}");
        }
        Self { name: name.to_owned(), labels: all, value: value.parse().unwrap_or_else(|_| panic!("{line}")) }
    }
}

/// Every histogram's buckets grow and end at its count.
fn check_histograms(families: &BTreeMap<String, (String, Vec<Sample>)>) {
    let mut seen = 0;
    for (name, (_, samples)) in families.iter().filter(|(_, (kind, _))| kind == "histogram") {
        let mut last: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
        for sample in samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le").map(|bound| bound.replace("+Inf", "inf").parse::<f64>().unwrap());
            match bound {
                Some(bound) => {
                    let (before, count) = last.get(&labels).copied().unwrap_or((f64::NEG_INFINITY, 0.0));
                    assert!(before < bound && count <= sample.value, "{name}: {sample:?}");
                    last.insert(labels, (bound, sample.value));
                }
                None if sample.name.ends_with("_sum") => assert!(sample.value >= 0.0),
                None => seen += 1,
            }
        }
        for sample in samples.iter().filter(|sample| sample.name.ends_with("_count")) {
            assert_eq!(last[&sample.labels], (f64::INFINITY, sample.value), "{name}");
        }
    }
    assert!(seen > 0, "no histogram was filled");
}

#[tokio::test]
async fn metrics_are_valid_and_count_what_was_done() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/users/missing", Reply::new(404, "none"));
    let top = https(&certs);
    let gateway = Gateway::start(&format!(
        "{top}[routes.users]\npath = \"/users/*\"\nrate_limit = \"6/h\"\nupstream = \"{}\"\n\
         [routes.fixed]\npath = \"/fixed\"\nrespond = {{ body = \"fixed\" }}\n",
        origin.address()
    ))
    .await;

    let http2 = Client::http2(&gateway, &certs);
    for (path, status) in
        [("users/1", 200), ("users/2", 200), ("users/missing", 404), ("fixed", 200), ("nowhere", 404)]
    {
        assert_eq!(http2.get(&format!("https://a.test/{path}")).await.status, status);
    }
    let http1 = Client::http1(&gateway, &certs);
    for status in [200, 200, 200, 429] {
        assert_eq!(http1.get("https://a.test/users/1").await.status, status);
    }

    let page = gateway.admin_get("/metrics").await;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((page.status, page.field("content-type")), (200, Some(media_type)));
    let families = families(page.text());
    check_histograms(&families);
    let known: BTreeSet<_> =
        TABLE.iter().map(|row| row.name.strip_suffix("_total").unwrap_or(row.name)).collect();
    let shown: BTreeSet<_> = families.keys().map(String::as_str).collect();
    assert!(shown.is_subset(&known), "not documented: {:?}", shown.difference(&known));

    let server = origin.address();
    for (series, value) in [
        ("tidegate_connections_total{listener=\"https\"}".to_owned(), 2),
        ("tidegate_tls_handshakes_total{version=\"1.3\",resumed=\"no\"}".to_owned(), 2),
        ("tidegate_tls_handshake_seconds_count".to_owned(), 2),
        ("tidegate_requests_total{route=\"users\",status=\"200\"}".to_owned(), 5),
        ("tidegate_requests_total{route=\"users\",status=\"404\"}".to_owned(), 1),
        ("tidegate_requests_total{route=\"users\",status=\"429\"}".to_owned(), 1),
        ("tidegate_requests_total{route=\"fixed\",status=\"200\"}".to_owned(), 1),
        ("tidegate_requests_total{route=\"-\",status=\"404\"}".to_owned(), 1),
        ("tidegate_request_seconds_count{route=\"users\"}".to_owned(), 7),
        ("tidegate_request_seconds_count{route=\"fixed\"}".to_owned(), 1),
        ("tidegate_refusals_total{route=\"-\",reason=\"route-not-found\"}".to_owned(), 1),
        ("tidegate_refusals_total{route=\"users\",reason=\"limit-exceeded\"}".to_owned(), 1),
        ("tidegate_refusals_total".to_owned(), 2),
        ("tidegate_limit_decisions_total{route=\"users\",outcome=\"admitted\"}".to_owned(), 6),
        ("tidegate_limit_decisions_total{route=\"users\",outcome=\"refused\"}".to_owned(), 1),
        ("tidegate_limit_keys{route=\"users\"}".to_owned(), 1),
        (format!("tidegate_upstream_requests_total{{server=\"{server}\",outcome=\"ok\"}}"), 6),
        ("tidegate_upstream_seconds_count".to_owned(), 6),
        (format!("tidegate_upstream_server_up{{server=\"{server}\"}}"), 1),
        ("tidegate_requests_in_flight".to_owned(), 0),
        ("tidegate_upstream_in_flight".to_owned(), 0),
        ("tidegate_panics_total".to_owned(), 0),
        ("tidegate_access_log_dropped_total".to_owned(), 0),
    ] {
        assert_eq!(gateway.count(&series).await, value, "{series}");
    }
}

#[tokio::test]
async fn what_clients_send_never_becomes_a_label() {
    let gateway =
        Gateway::start(&(plain() + "[routes.a]\nhost = \"a.test\"\nrespond = { body = \"a\" }\n")).await;

    let mut client = Raw::tcp(gateway.http()).await;
    for index in 0..20 {
        let head =
            format!("M{index} /p{index}?q{index} HTTP/1.1\r\nHost: h{index}.test\r\nX-N{index}: 1\r\n\r\n");
        assert_eq!(client.ask(head).await.status, 404);
    }

    let page = gateway.admin_get("/metrics").await;
    let rows = |page: &Answer| {
        page.text().lines().filter(|line| line.starts_with("tidegate_requests_total")).count()
    };
    assert_eq!(rows(&page), 1, "{}", page.text());
    assert!(!page.text().contains("h7") && !page.text().contains("M7"));
}

#[tokio::test]
async fn requests_in_flight_are_counted_and_the_count_returns_to_zero() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/held", Reply::ok("late").behind(&gate));
    let top = https(&certs);
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{}\"\n", origin.address())).await;

    let client = Client::http2(&gateway, &certs);
    let held = [(); 3].map(|()| tokio::spawn(client.get_later("https://a.test/held")));
    let leaving = tokio::spawn(client.get_later("https://a.test/held"));
    let in_flight = async |count: u64| {
        gateway.count("tidegate_requests_in_flight").await == count
            && gateway.count("tidegate_upstream_in_flight").await == count
    };
    eventually(PATIENCE, "four are in flight", async || in_flight(4).await).await;
    assert_eq!(gateway.count("tidegate_connections_open{listener=\"https\"}").await, 1);
    leaving.abort();
    eventually(PATIENCE, "one has left", async || in_flight(3).await).await;
    gate.open();
    for held in held {
        assert_eq!(must("an answer", held).await.unwrap().text(), "late");
    }
    eventually(PATIENCE, "nothing is in flight", async || in_flight(0).await).await;
    drop(client);
    let open = async || gateway.count("tidegate_connections_open{listener=\"https\"}").await == 0;
    eventually(PATIENCE, "the connection is gone", open).await;
}

#[tokio::test]
async fn the_admin_listener_tells_how_things_are() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let mut gone = Origin::start("gone").await;
    gone.stop().await;
    let top = https(&certs);
    let gateway = Gateway::start(&format!(
        "{top}[upstreams.users]\nservers = [\"{}\", \"{}\"]\nhealth = \"/healthz\"\n[routes.all]\nupstream = \"users\"\n",
        origin.address(),
        gone.address()
    ))
    .await;
    gateway.ready().await;

    let health = gateway.admin_get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("alive")));
    let ready = gateway.admin_get("/ready").await.json();
    assert_eq!(
        (ready["status"].as_str(), ready["missing"].as_array().map(Vec::len)),
        (Some("ready"), Some(0))
    );

    let config = gateway.admin_get("/config").await.json();
    assert_eq!(config["routes"]["all"]["upstream"], "users");
    assert_eq!(config["upstreams"]["users"]["timeouts"]["first_byte"], "15s", "defaults are shown, too");
    assert!(!config.to_string().contains("PRIVATE KEY"));

    let is_settled = async || {
        let upstreams = gateway.admin_get("/upstreams").await.text().to_owned();
        upstreams.contains("refused") || upstreams.contains("connect")
    };
    eventually(PATIENCE, "the server that is gone is known to be", is_settled).await;
    let upstreams = gateway.admin_get("/upstreams").await.json();
    assert_eq!(upstreams[0]["name"], "users");
    let servers = upstreams[0]["servers"].to_string();
    assert!(servers.contains(&origin.address().to_string()) && servers.contains(&gone.address().to_string()));

    let index = gateway.admin_get("/").await.json();
    let orders = ["/purge", "/revoked"];
    for page in index["pages"].as_object().unwrap().keys().filter(|page| !orders.contains(&page.as_str())) {
        let answer = gateway.admin_get(page).await;
        assert_eq!((answer.status, answer.field("cache-control")), (200, Some("no-store")), "{page}");
    }
    assert_eq!(gateway.admin_get("/nothing").await.status, 404);
}

#[tokio::test]
async fn the_admin_listener_is_read_by_this_machine_alone() {
    let gateway = Gateway::start(&(plain() + "[routes.a]\nrespond = { body = \"a\" }\n")).await;
    let port = gateway.admin().port();

    for page in ["/metrics", "/config", "/upstreams", "/ready", "/"] {
        for host in ["evil.test", "localhost.evil.test", "10.0.0.1", "127.0.0.1.nip.io"] {
            let answer =
                admin(&gateway, &format!("GET {page} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")).await;
            assert_eq!(answer.status, 421, "{host}{page}");
            assert!(!answer.text().contains("tidegate"), "{}", answer.text());
        }
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let answer =
                admin(&gateway, &format!("GET {page} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")).await;
            assert_eq!(answer.status, 200, "{host}{page}");
        }
    }
    let answer = admin(&gateway, "GET http://evil.test/config HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status, 421);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let answer = admin(&gateway, &format!("{method} /config HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // What the admin listener serves, clients do not get.
    let answer = Raw::tcp(gateway.http()).await.ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.text(), "a");
}

const SECRETS: &str =
    "Authorization: Bearer top-s3cr3t\r\nCookie: sid=top-s3cr3t\r\nX-Api-Key: top-s3cr3t\r\n";

#[tokio::test]
async fn the_access_log_has_one_json_line_for_each_request() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/users", Reply::new(201, "made"));
    let top = https(&certs);
    let address = origin.address().to_string();
    let gateway = Gateway::start(&format!(
        "{top}log.access = \"json\"\n[upstreams.main]\nservers = [\"{address}\"]\n\
         [routes.users]\npath = \"/users/*\"\nupstream = \"main\"\n"
    ))
    .await;

    let client = Client::http2(&gateway, &certs);
    let url = "https://a.test/users?page=2&access_token=top-s3cr3t&X-Signature=top-s3cr3t";
    let request = client.request("POST", url).body("12345").header("authorization", "Bearer top-s3cr3t");
    let made = client.send(request.header("cookie", "sid=top-s3cr3t")).await;
    let mut raw = Raw::tls(gateway.https(), "a.test", &certs).await;
    let missing = raw.ask(format!("GET /a//b HTTP/1.1\r\nHost: A.test:443\r\n{SECRETS}\r\n")).await;

    let line = gateway.access_line(&made).await;
    for (name, value) in [
        ("client", serde_json::json!("127.0.0.1")),
        ("method", "POST".into()),
        ("host", "a.test".into()),
        ("path", "/users".into()),
        ("query", "page=2&access_token=[redacted]&X-Signature=[redacted]".into()),
        ("protocol", "HTTP/2".into()),
        ("tls", "1.3".into()),
        ("status", 201.into()),
        ("route", "users".into()),
        ("upstream", "main".into()),
        ("server", address.into()),
        ("attempts", 1.into()),
        ("request_bytes", 5.into()),
        ("response_bytes", 4.into()),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line.get("reason").is_none() && line.get("cache").is_none(), "{line}");
    assert!(line["upstream_us"].as_u64() <= line["elapsed_us"].as_u64(), "{line}");
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == "2025-01-01T00:00:00.000Z".len() && time.ends_with('Z'), "{time}");

    let line = gateway.access_line(&missing).await;
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(404), Some("route-not-found")));
    assert_eq!((line["host"].as_str(), line["path"].as_str()), (Some("a.test"), Some("/a//b")), "as it came");
    assert_eq!(line["protocol"], "HTTP/1.1");
    for absent in ["route", "upstream", "server", "upstream_us", "query"] {
        assert!(line.get(absent).is_none(), "{absent} in {line}");
    }
    assert_eq!(gateway.access_lines().len(), 2);
    assert!(!gateway.wrote().contains("s3cr3t"), "{}", gateway.wrote());
}

#[tokio::test]
async fn the_text_form_is_one_line_of_words_that_nobody_can_forge() {
    let gateway = Gateway::start(
        &(plain()
            + "log.access = \"text\"\n[routes.all]\nhost = \"a.test\"\nrespond = { body = \"fine\" }\n"),
    )
    .await;

    let mut client = Raw::tcp(gateway.http()).await;
    let fine =
        client.ask(format!("GET /x?code=top-s3cr3t&y HTTP/1.1\r\nHost: a.test\r\n{SECRETS}\r\n")).await;
    let id = fine.field("x-request-id").unwrap();
    let line = || gateway.wrote().lines().find(|line| line.contains(id)).map(str::to_owned);
    eventually(PATIENCE, "the line is written", async || line().is_some()).await;

    let line = line().unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[1..6], ["127.0.0.1", "200", "GET", "a.test/x?code=[redacted]&y", "HTTP/1.1"]);
    assert!(words[6].strip_suffix("us").is_some_and(|micros| micros.parse::<u64>().is_ok()), "{line}");
    assert_eq!(words[7..], ["route=all", "attempts=0", "in=0", "out=4", &format!("id={id}")]);

    client.ask("GET /%0a200%20forged HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    client.ask("GET /%1b[31m\" HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let ended = async || gateway.wrote().matches("reason=bad-path").count() == 2;
    eventually(PATIENCE, "both are logged", ended).await;
    assert!(!gateway.wrote().contains(['\u{1b}']), "{}", gateway.wrote());
    assert!(!gateway.wrote().contains("s3cr3t"), "{}", gateway.wrote());
}

#[tokio::test]
async fn every_request_on_a_busy_gateway_has_its_line() {
    let gateway =
        Gateway::start(&(plain() + "log.access = \"json\"\n[routes.all]\nrespond = { body = \"fine\" }\n"))
            .await;

    let clients = (0..8).map(|_| {
        let address = gateway.http();
        tokio::spawn(async move {
            let mut client = Raw::tcp(address).await;
            for _ in 0..50 {
                assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        must("a client is done", client).await.unwrap();
    }

    eventually(PATIENCE, "all lines are written", async || gateway.access_lines().len() == 400).await;
    let lines = gateway.access_lines();
    let ids: BTreeSet<_> = lines.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 400, "each has an id of its own");
}

#[tokio::test]
async fn a_client_that_leaves_is_told_apart_from_a_failure() {
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/held", Reply::ok("late").behind(&gate));
    let config =
        format!("{}log.access = \"json\"\n[routes.all]\nupstream = \"{}\"\n", plain(), origin.address());
    let gateway = Gateway::start(&config).await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    eventually(PATIENCE, "the origin is asked", async || origin.requests("/held") == 1).await;
    drop(client);

    eventually(PATIENCE, "it is logged", async || !gateway.access_lines().is_empty()).await;
    let line = &gateway.access_lines()[0];
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(0), Some("client-left")), "{line}");
    assert_eq!(gateway.count("tidegate_refusals_total").await, 0);
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_amid_a_stored_answer_is_no_failure_of_ours_either() {
    let origin = Origin::start("one").await;
    origin.answer("/large", Reply::ok("x".repeat(8 << 20)).field("cache-control", "max-age=600"));
    let top = format!("{}log.access = \"json\"\n", plain());
    let route =
        format!("[routes.all]\ncache = {{ max_object = \"16MiB\" }}\nupstream = \"{}\"\n", origin.address());
    let gateway = Gateway::start(&(top + &route)).await;
    // From the origin, from memory without a session, and from memory with one.
    for (lines, fields) in [(1, ""), (2, ""), (3, "Connection: close\r\n")] {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(format!("GET /large HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
        client.bytes(1000).await;
        drop(client);
        eventually(PATIENCE, "it is logged", async || gateway.access_lines().len() == lines).await;
        let line = gateway.access_lines().pop().unwrap();
        assert_eq!(
            (line["status"].as_u64(), line["reason"].as_str()),
            (Some(200), Some("client-left")),
            "{line}"
        );
        // The fetch goes on without its client.
        eventually(PATIENCE, "it is stored", async || {
            gateway.count("tidegate_cache_memory_entries").await == 1
        })
        .await;
    }
    assert_eq!(gateway.count("tidegate_refusals_total").await, 0);
}

#[tokio::test]
async fn the_access_log_can_be_turned_off() {
    let gateway =
        Gateway::start(&(plain() + "log.access = \"off\"\n[routes.all]\nrespond = { body = \"fine\" }\n"))
            .await;

    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client.ask("GET /looked-for HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(answer.field("x-request-id").is_some());
    let mut gateway = gateway;
    assert!(gateway.stop().await.success());

    assert!(!gateway.wrote().contains("looked-for"), "{}", gateway.wrote());
}
