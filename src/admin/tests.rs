//! The admin listener over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use reqwest::{Client, Method, Response};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// An admin listener on a free port, ended when dropped.
struct Served {
    address: SocketAddr,
    admin: Admin,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

fn admin(token: Option<Arc<str>>) -> Admin {
    Admin {
        meters: Arc::new(Meters::new()),
        token,
        ready: Arc::new(Ready::waiting_for(["listeners"])),
        config: Arc::new(|| json!({ "admin": "127.0.0.1:9000" })),
        upstreams: Arc::new(|| json!({ "users": { "servers": [] } })),
        drain: Arc::new(drained),
        quotas: Arc::new(|| json!([{ "limit": "users-3", "quota": "10/month" }])),
        settle: Arc::new(|order| Box::pin(async move { settled(&order) })),
        revoke: Arc::new(|order| Box::pin(async move { taken_back(&order) })),
        cache: Arc::new(|| json!({ "bytes": 1024 })),
        inspect: Arc::new(|asked: Inspect| Box::pin(async move { inspected(&asked) })),
        purge: Arc::new(|order: PurgeOrder| Box::pin(async move { purged(&order) })),
        in_force: Arc::new(in_force),
        reload: Arc::new(|| Box::pin(async { Err(refused()) })),
    }
}

fn settled(order: &QuotaOrder) -> Result<QuotaDone, NoAccount> {
    match order.limit.as_str() {
        "users-3" => Ok(QuotaDone {
            quota: "10/month".to_owned(),
            used: 7,
            granted: order.grant.unwrap_or(0).into(),
            left: 3 + order.grant.unwrap_or(0),
            from: "2026-12-01T00:00:00.000Z".to_owned(),
            until: "2027-01-01T00:00:00.000Z".to_owned(),
        }),
        "away" => Err(NoAccount::Away),
        other => Err(NoAccount::Wrong(format!("no quota is called `{other}`"))),
    }
}

fn taken_back(order: &RevokeOrder) -> Result<(), NotTakenBack> {
    match order.provider.as_str() {
        "idp" => Ok(()),
        "away" => Err(NotTakenBack::Here),
        other => Err(NotTakenBack::Wrong(format!("no provider `{other}` heeds this"))),
    }
}

fn in_force() -> InForce {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    InForce { generation: 3, since, restart: vec!["threads".to_owned()], refused: Some(refused()) }
}

fn refused() -> Refused {
    Refused { report: "1 error".to_owned(), wrong: true }
}

fn inspected(asked: &Inspect) -> Result<Value, String> {
    let language = asked.headers.get("accept-language").map(|value| value.to_str().unwrap());
    match asked.url.as_str() {
        "https://nowhere/" => Err("no route takes it".to_owned()),
        url => Ok(json!({ "url": url, "language": language })),
    }
}

fn drained(order: &DrainOrder) -> Result<DrainDone, String> {
    match order.server.as_str() {
        "a:80" => Ok(DrainDone { in_flight: 3, usable: usize::from(!order.drain) }),
        _ => Err("there is no such server".to_owned()),
    }
}

fn purged(order: &PurgeOrder) -> Result<PurgeDone, String> {
    match &order.target {
        Target::Url(url) if url == "https://nowhere/" => Err("no route takes it".to_owned()),
        Target::Url(_) => Ok(PurgeDone { here: Some(3), fleet: Fleet::Told }),
        Target::All => Ok(PurgeDone { here: None, fleet: Fleet::Later }),
        _ => Ok(PurgeDone { here: Some(0), fleet: Fleet::Alone }),
    }
}

impl Served {
    fn start() -> Self {
        Self::start_with(None)
    }

    fn start_with(token: Option<Arc<str>>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let admin = admin(token);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shown = admin.clone();
        let task = tokio::spawn(async move {
            serve(Socket::Tcp(listener), shown, async {
                let _ = stopped.await;
            })
            .await
        });
        Self { address, admin, stop: Some(stop), task }
    }

    async fn ask(&self, method: Method, path: &str) -> Response {
        // The client wants a provider of TLS even for plain HTTP; another test may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let url = format!("http://{}{path}", self.address);
        Client::builder().no_proxy().build().unwrap().request(method, url).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).await
    }

    async fn order(&self, media_type: &str, body: impl Into<reqwest::Body>) -> Response {
        let request =
            Client::builder().no_proxy().build().unwrap().post(format!("http://{}/purge", self.address));
        request.header("content-type", media_type).body(body).send().await.unwrap()
    }

    /// Sends bytes as they are and reads to the end.
    async fn raw(&self, request: String) -> String {
        let address = self.address;
        let exchange = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        tokio::task::spawn_blocking(exchange).await.unwrap()
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_metrics_are_valid_openmetrics() {
    let served = Served::start();
    let meters = &served.admin.meters;
    meters.requests.with(["a \"quoted\"\\\nname", "200"]).inc_by(3);
    meters.request_seconds.with(["users"]).observe(0.012);
    meters.handshake_seconds.with([]).observe(0.2);
    meters.upstream_up.with(["users", "10.0.0.1:80"]).set(1);

    let response = served.get("/metrics").await;
    assert_eq!(
        header(&response, "content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = response.text().await.unwrap();
    let samples = parse(&text);
    let count = |name: &str, labels: &[(&str, &str)]| {
        let labels: Labels =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        samples.get(&(name.to_owned(), labels)).copied()
    };
    let route = ("route", "a \"quoted\"\\\nname");
    assert_eq!(count("tidegate_requests_total", &[route, ("status", "200")]), Some(3.0));
    assert_eq!(count("tidegate_request_seconds_count", &[("route", "users")]), Some(1.0));
    assert_eq!(count("tidegate_request_seconds_bucket", &[("route", "users"), ("le", "0.01")]), Some(0.0));
    assert_eq!(count("tidegate_request_seconds_bucket", &[("route", "users"), ("le", "+Inf")]), Some(1.0));
    assert_eq!(
        count("tidegate_upstream_server_up", &[("upstream", "users"), ("server", "10.0.0.1:80")]),
        Some(1.0)
    );
    assert_eq!(
        count("tidegate_panics_total", &[]),
        Some(0.0),
        "rows without labels are there from the start"
    );
}

#[tokio::test]
async fn the_table_of_metrics_names_what_is_served() {
    let served = Served::start();
    served.admin.meters.touch_all();
    let text = served.get("/metrics").await.text().await.unwrap();
    let samples = parse(&text);
    let mut families = 0;
    for row in crate::telemetry::meters::TABLE {
        let family = row.name.strip_suffix("_total").unwrap_or(row.name);
        assert!(text.contains(&format!("# TYPE {family} {}\n", row.kind)), "{}", row.name);
        let labels = row.labels.iter().map(|label| ((*label).to_owned(), (*label).to_owned())).collect();
        let name = if row.kind == "histogram" { format!("{}_count", row.name) } else { row.name.to_owned() };
        assert_eq!(samples.get(&(name, labels)), Some(&0.0), "{}", row.name);
        families += 1;
    }
    assert_eq!(text.matches("# TYPE ").count(), families, "nothing is served that the table does not name");
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_goes_with_the_drain() {
    let served = Served::start();
    let response = served.get("/ready").await;
    assert_eq!(response.status(), 503);
    assert_eq!(
        response.json::<Value>().await.unwrap(),
        json!({ "status": "not ready", "missing": ["listeners"] })
    );
    served.admin.ready.has("listeners");
    assert_eq!(served.get("/ready").await.status(), 200);
    served.admin.ready.drain();
    let response = served.get("/ready").await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.json::<Value>().await.unwrap()["missing"], json!(["draining"]));
    assert_eq!(served.get("/health").await.status(), 200);
}

#[tokio::test]
async fn pages_show_what_they_are_given() {
    let served = Served::start();
    assert_eq!(
        served.get("/config").await.json::<Value>().await.unwrap(),
        json!({ "admin": "127.0.0.1:9000" })
    );
    assert_eq!(
        served.get("/upstreams").await.json::<Value>().await.unwrap(),
        json!({ "users": { "servers": [] } })
    );
    let index = served.get("/").await.json::<Value>().await.unwrap();
    for page in index["pages"].as_object().unwrap().keys() {
        assert_ne!(served.get(page).await.status(), 404, "{page}");
    }
    let browser = format!("GET / HTTP/1.1\r\nHost: {}\r\nAccept: text/html,*/*\r\n\r\n", served.address);
    let page = served.raw(browser).await;
    assert!(page.contains("text/html") && page.contains("<a href=\"/ready\">"), "{page}");
}

#[tokio::test]
async fn every_answer_is_kept_from_caches_and_other_sites() {
    let served = Served::start();
    for (method, path) in [(Method::GET, "/metrics"), (Method::GET, "/nowhere"), (Method::POST, "/config")] {
        let response = served.ask(method, path).await;
        assert_eq!(header(&response, "cache-control"), "no-store", "{path}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{path}");
        assert!(
            response.headers().keys().all(|name| !name.as_str().starts_with("access-control-")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn only_reads_are_answered() {
    let served = Served::start();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
        for path in ["/config", "/nowhere"] {
            let response = served.ask(method.clone(), path).await;
            assert_eq!(response.status(), 405, "{method} {path}");
            let allow: Vec<_> = response.headers().get_all("allow").iter().collect();
            assert_eq!(allow, ["GET, HEAD"], "{method} {path}");
            assert_eq!(header(&response, "content-type"), "application/problem+json");
            assert_eq!(response.json::<Value>().await.unwrap()["status"], 405);
        }
    }
    let response = served.ask(Method::HEAD, "/metrics").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_order_is_posted_as_json_and_says_what_came_of_it() {
    let served = Served::start();
    let rows = [
        (
            json!({ "url": "https://h/a" }),
            json!({ "purged": { "url": "https://h/a", "soft": false }, "fleet": "told", "here": 3 }),
        ),
        (
            json!({ "tag": "users", "soft": true }),
            json!({ "purged": { "tag": "users", "soft": true }, "fleet": "alone", "here": 0 }),
        ),
        (
            json!({ "prefix": "https://h" }),
            json!({ "purged": { "prefix": "https://h/", "soft": false }, "fleet": "alone", "here": 0 }),
        ),
        (json!({ "all": true }), json!({ "purged": { "all": true, "soft": false }, "fleet": "later" })),
    ];
    for (order, wanted) in rows {
        let response = served.order("application/json; charset=utf-8", order.to_string()).await;
        assert_eq!(response.status(), 200, "{order}");
        assert_eq!(header(&response, "cache-control"), "no-store");
        assert_eq!(response.json::<Value>().await.unwrap(), wanted);
    }
}

#[tokio::test]
async fn what_is_no_order_is_refused_with_the_reason() {
    let served = Served::start();
    let all = json!({ "all": true }).to_string();
    let rows = [
        ("application/json", "{}".to_owned(), 400, "name one of"),
        ("application/json", "{".to_owned(), 400, "EOF"),
        ("application/json", json!({ "url": "https://nowhere/" }).to_string(), 400, "no route takes it"),
        ("application/json", " ".repeat(64 * 1024) + &all, 413, "at most 65536 bytes"),
        ("text/plain", all.clone(), 415, "application/json"),
        ("application/x-www-form-urlencoded", all, 415, "application/json"),
    ];
    for (media_type, body, status, why) in rows {
        let response = served.order(media_type, body).await;
        assert_eq!(response.status(), status, "{why}");
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        let problem = response.json::<Value>().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    // Not even a read asks for it, and no other site's page may post to it.
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let response = served.ask(method.clone(), "/purge").await;
        assert_eq!((response.status().as_u16(), header(&response, "allow")), (405, "POST"), "{method}");
    }
    let foreign = "POST /purge HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\n\
                   Content-Length: 12\r\n\r\n{\"all\":true}";
    assert!(served.raw(foreign.to_owned()).await.starts_with("HTTP/1.1 421"));
}

#[tokio::test]
async fn a_look_into_the_cache_names_a_url_and_fields() {
    let served = Served::start();
    let get = async |path: &str| served.get(path).await.json::<Value>().await.unwrap();
    assert_eq!(get("/cache").await, json!({ "bytes": 1024 }));
    assert_eq!(
        get("/cache?url=https%3A%2F%2Fh%2Fa%3Fb%26c&header=Accept-Language:%20de").await,
        json!({ "url": "https://h/a?b&c", "language": "de" })
    );
    assert_eq!(get("/cache?url=https://h").await, json!({ "url": "https://h/", "language": null }));
    for (query, why) in [
        ("url=https://nowhere/", "no route takes it"),
        ("url=https://h/?a&b=c", "percent-encode"),
        ("url=%FF", "percent-encoded"),
        ("header=a:b", "which `url`"),
    ] {
        let response = served.get(&format!("/cache?{query}")).await;
        assert_eq!(response.status(), 400, "{query}");
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        let problem = response.json::<Value>().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_there_is_a_problem() {
    let response = Served::start().get("/admin").await;
    assert_eq!(response.status(), 404);
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert_eq!(response.json::<Value>().await.unwrap()["title"], "Not Found");
}

#[tokio::test]
async fn a_name_from_outside_is_turned_away() {
    let served = Served::start();
    let port = served.address.port();
    for host in
        ["localhost".to_owned(), format!("localhost:{port}"), "127.0.0.1:1".to_owned(), "[::1]".to_owned()]
    {
        let answer = served.raw(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
    for host in
        ["evil.example".to_owned(), format!("evil.example:{port}"), "localhost.evil.example".to_owned()]
    {
        let answer = served.raw(format!("GET /config HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
    }
    // The target in full decides, not the field.
    let absolute = "GET http://evil.example/config HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(served.raw(absolute.to_owned()).await.starts_with("HTTP/1.1 421"));
    for fields in ["", "Host: localhost\r\nHost: evil.example\r\n", "Host: \r\n", "Host: a b\r\n"] {
        let answer = served.raw(format!("GET /config HTTP/1.1\r\n{fields}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let served = Served::start();
    let began = std::time::Instant::now();
    let answer = served.raw("GET /health HTTP/1.1\r\nHost: local".to_owned()).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_hold_the_answer() {
    let served = Served::start();
    let request =
        format!("GET /health HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\nhalf", served.address);
    let answer = served.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn ends_when_told_even_with_an_idle_connection() {
    let mut served = Served::start();
    let idle = TcpStream::connect(served.address).unwrap();
    assert_eq!(served.get("/health").await.status(), 200);
    served.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), &mut served.task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(served.address).is_err());
    drop(idle);
}

#[test]
fn loopback_is_told_from_the_rest() {
    for address in ["127.0.0.1:9000", "127.1.2.3:1", "[::1]:9000", "[::ffff:127.0.0.1]:9000"] {
        assert!(is_loopback(address.parse().unwrap()), "{address}");
    }
    for address in ["0.0.0.0:9000", "[::]:9000", "10.0.0.1:9000", "[::ffff:10.0.0.1]:9000"] {
        assert!(!is_loopback(address.parse().unwrap()), "{address}");
    }
}

type Labels = BTreeMap<String, String>;

/// Parses OpenMetrics text strictly, as far as counters, gauges and histograms go; panics at what is wrong.
///
/// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
fn parse(text: &str) -> BTreeMap<(String, Labels), f64> {
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = String::new();
    let mut kind = "";
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').expect("help text");
            assert!(!meaning.contains(['"', '\\']), "unescaped: {line}");
            assert!(families.insert(name), "metadata twice: {line}");
            name.clone_into(&mut family);
            kind = "";
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, is) = typed.split_once(' ').expect("a type");
            assert_eq!(name, family, "metadata apart from its family");
            assert!(["counter", "gauge", "histogram"].contains(&is), "{line}");
            kind = is;
        } else {
            let ((name, labels), value) = sample(line);
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => panic!("a sample without a type: {line}"),
            };
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("interleaved: {line}"));
            assert!(suffixes.contains(&suffix), "{line}");
            assert_eq!(suffix == "_bucket", labels.contains_key("le"), "{line}");
            assert!(kind == "gauge" || value >= 0.0, "{line}");
            assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    samples
}

/// `name{label="value",…} number`
fn sample(line: &str) -> ((String, Labels), f64) {
    let end = line.find(['{', ' ']).expect("labels or a value");
    let name = &line[..end];
    assert!(name.starts_with(|c: char| c.is_ascii_alphabetic()), "{line}");
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
    let mut labels = Labels::new();
    let mut rest = &line[end..];
    if let Some(mut inner) = rest.strip_prefix('{') {
        while !inner.starts_with('}') {
            let (label, after) = inner.split_once("=\"").expect("a label");
            assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            inner = match after.strip_prefix(',') {
                Some(more) => {
                    assert!(!more.starts_with('}'), "a comma too many: {line}");
                    more
                }
                None => after,
            };
        }
        rest = &inner[1..];
    }
    let number = rest.strip_prefix(' ').expect("one space before the value");
    ((name.to_owned(), labels), number.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().expect("something escaped").1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => panic!("`\\{other}` is no escape"),
            },
            other => value.push(other),
        }
    }
    panic!("no closing quote: {text}")
}

#[tokio::test]
async fn a_token_guards_everything_but_what_probes_ask() {
    let served = Served::start_with(Some("0123456789abcdef".into()));
    let ask = async |path: &str, token: Option<&str>| {
        let client = Client::builder().no_proxy().build().unwrap();
        let request =
            client.get(format!("http://{}{path}", served.address)).header("host", "gateway.internal");
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        request.send().await.unwrap()
    };
    for path in ["/", "/metrics", "/config", "/upstreams", "/cache", "/nowhere"] {
        let refused = ask(path, None).await;
        assert_eq!(
            (refused.status().as_u16(), header(&refused, "www-authenticate")),
            (401, "Bearer"),
            "{path}"
        );
        assert_eq!(ask(path, Some("0123456789abcdeX")).await.status(), 401, "{path}");
        assert_eq!(ask(path, Some("0123456789abcdef0")).await.status(), 401, "{path}");
        assert_ne!(ask(path, Some("0123456789abcdef")).await.status(), 401, "{path}");
    }
    assert_eq!(served.order("application/json", "{\"all\":true}").await.status(), 401);
    assert_eq!(ask("/health", None).await.status(), 200);
    assert_eq!(ask("/ready", None).await.status(), 503, "nothing is ready here");
}

#[tokio::test]
async fn a_socket_of_the_file_system_serves_its_owner_and_goes_with_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    // Left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = Socket::unix(&path).unwrap();
    assert_eq!(socket.address().unwrap(), format!("unix:{}", path.display()));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(Socket::unix(&path).is_err(), "in use");

    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(socket, admin(None), async {
        let _ = stopped.await;
    }));
    let asked = path.clone();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(asked).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: anything\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200 "));
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_in_force_is_shown_and_a_reload_is_an_order() {
    let served = Served::start();
    let shown: Value = served.get("/reload").await.json().await.unwrap();
    let wanted = json!({
        "generation": 3,
        "since": "2001-09-09T01:46:40.000Z",
        "restart": ["threads"],
        "refused": { "report": "1 error", "wrong": true },
    });
    assert_eq!(shown, wanted);
    let config = served.get("/config").await;
    assert_eq!(header(&config, "last-modified"), "Sun, 09 Sep 2001 01:46:40 GMT");

    let plain = served.ask(Method::POST, "/reload").await;
    assert_eq!(plain.status(), 415, "a form cannot order it");
    let order = |body: &'static str| {
        let client = Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://{}/reload", served.address));
        request.header("content-type", "application/json").body(body).send()
    };
    assert_eq!(order("{\"all\": true}").await.unwrap().status(), 400);
    let answer = order("{}").await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-type")),
        (422, "application/problem+json")
    );
    let problem: Value = answer.json().await.unwrap();
    assert_eq!((&problem["detail"], &problem["wrong"]), (&json!("1 error"), &json!(true)));
    let other = served.ask(Method::DELETE, "/reload").await;
    assert_eq!((other.status().as_u16(), header(&other, "allow")), (405, "GET, HEAD, POST"));
}

#[tokio::test]
async fn a_server_is_drained_by_an_order() {
    let served = Served::start();
    let order = |media_type: &'static str, body: Value| {
        let client = Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://{}/upstreams", served.address));
        request.header("content-type", media_type).body(body.to_string()).send()
    };
    let wanted = json!({ "upstream": "users", "server": "a:80", "drain": true });
    let done = order("application/json", wanted.clone()).await.unwrap();
    assert_eq!(done.status().as_u16(), 200);
    let said: Value = done.json().await.unwrap();
    let wanted_back =
        json!({ "upstream": "users", "server": "a:80", "drain": true, "in_flight": 3, "usable": 0 });
    assert_eq!(said, wanted_back);

    assert_eq!(order("text/plain", wanted).await.unwrap().status().as_u16(), 415);
    let unknown = json!({ "upstream": "users", "server": "b:80", "drain": true });
    assert_eq!(order("application/json", unknown).await.unwrap().status().as_u16(), 404);
    assert_eq!(order("application/json", json!({})).await.unwrap().status().as_u16(), 400);
    let long = json!({ "upstream": "u".repeat(5000), "server": "a:80", "drain": true });
    assert_eq!(order("application/json", long).await.unwrap().status().as_u16(), 413);
    let other = served.ask(Method::DELETE, "/upstreams").await;
    assert_eq!((other.status().as_u16(), header(&other, "allow")), (405, "GET, HEAD, POST"));
}
