//! Every "no" of the gateway says the same in status, body, fields, metrics and access log, and nothing that is nobody's
//! business.

use std::collections::BTreeSet;

use tidegate::refusal::REASONS;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::speaker::{self, Speaker};
use crate::support::{Answer, Certs, Client, Gateway, Origin, Raw, Reply, https, plain};

/// A gateway with a route for each way to be refused, and what it needs to run.
struct Refusing {
    gateway: Gateway,
    origin: Origin,
    _garbled: Speaker,
    _silent: Speaker,
}

impl Refusing {
    async fn start() -> Self {
        let origin = Origin::start("one").await;
        origin.answer("/cut", Reply::ok("x").cut_after(0));
        let mut gone = Origin::start("gone").await;
        gone.stop().await;
        let garbled = Speaker::start(|mut stream| async move {
            speaker::head(&mut stream).await;
            let _ = stream.write_all(b"garbled answer\r\n\r\n").await;
        })
        .await;
        let silent = Speaker::start(|mut stream| async move {
            speaker::head(&mut stream).await;
            let _ = stream.read_u8().await; // until the gateway gives up
        })
        .await;
        let gateway = Gateway::start(&format!(
            r#"{}
log.access = "json"
trusted_proxies = ["127.0.0.1/32"]
downstream.max_header_size = "2KiB"
downstream.max_headers = 20
downstream.body_timeout = "1s"
[defaults]
host = "a.test"
upstream = "{}"
max_body = "100B"
[routes.fine-secret-name]
path = "/fine/*"
methods = ["GET", "HEAD", "POST"]
[routes.cut-secret-name]
path = "/cut"
[routes.limited-secret-name]
path = "/limited"
rate_limit = "1/h"
[routes.guarded-secret-name]
path = "/guarded"
ip = {{ deny = ["127.0.0.0/8"] }}
[routes.shared-secret-name]
path = "/shared"
cors = "https://listed-secret-name.test"
[routes.gone-secret-name]
path = "/gone"
upstream = "{}"
[routes.garbled-secret-name]
path = "/garbled"
upstream = "{}"
[routes.silent-secret-name]
path = "/silent"
upstream = "{}"
timeouts = {{ first_byte = "1s", idle = "1s" }}
[routes.nowhere-secret-name]
path = "/nowhere"
upstream = "no-such-secret-name.invalid:80"
"#,
            plain(),
            origin.address(),
            gone.address(),
            garbled.address(),
            silent.address(),
        ))
        .await;
        drop(gone);
        Self { gateway, origin, _garbled: garbled, _silent: silent }
    }

    async fn ask(&self, request: &str) -> Answer {
        Raw::tcp(self.gateway.http()).await.ask(request).await
    }
}

const HOST: &str = "Host: a.test\r\n";

/// A request for each reason that can be provoked from outside: the code, the route that is counted, the request.
fn provocations() -> Vec<(&'static str, &'static str, String)> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{HOST}\r\n");
    let fields = "X-A: 1\r\n".repeat(20);
    let long = "x".repeat(3000);
    vec![
        ("bad-request", "-", "GET /fine HTTP/1.1\r\n\r\n".to_owned()),
        ("bad-host", "-", "GET /fine HTTP/1.1\r\nHost: a..test\r\n\r\n".to_owned()),
        ("bad-path", "-", get("/fine/%2e%2e/%2e%2e/etc")),
        ("bad-body", "-", post("Transfer-Encoding: chunked", "zz\r\nabc\r\n")),
        ("address-refused", "guarded-secret-name", get("/guarded")),
        ("origin-refused", "shared-secret-name", beforehand()),
        ("host-not-found", "-", "GET /fine HTTP/1.1\r\nHost: b.test\r\n\r\n".to_owned()),
        ("route-not-found", "-", get("/none")),
        ("method-not-allowed", "-", format!("DELETE /fine HTTP/1.1\r\n{HOST}\r\n")),
        ("request-timeout", "fine-secret-name", post("Content-Length: 10", "abc")),
        ("body-too-large", "fine-secret-name", post("Content-Length: 101", &"x".repeat(101))),
        ("target-too-long", "-", get(&format!("/{long}"))),
        ("expectation-failed", "-", post("Expect: tea\r\nContent-Length: 3", "abc")),
        ("limit-exceeded", "limited-secret-name", get("/limited")),
        ("head-too-large", "-", format!("GET /fine HTTP/1.1\r\n{HOST}{fields}\r\n")),
        ("transfer-coding-unknown", "-", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        ("upstream-unreachable", "gone-secret-name", get("/gone")),
        ("upstream-broke-off", "cut-secret-name", get("/cut")),
        ("upstream-invalid", "garbled-secret-name", get("/garbled")),
        ("no-server", "nowhere-secret-name", get("/nowhere")),
        ("upstream-timeout", "silent-secret-name", get("/silent")),
    ]
}

fn beforehand() -> String {
    let fields = "Origin: https://b.test\r\nAccess-Control-Request-Method: PUT\r\n";
    format!("OPTIONS /shared HTTP/1.1\r\n{HOST}{fields}\r\n")
}

fn post(framing: &str, body: &str) -> String {
    format!("POST /fine HTTP/1.1\r\n{HOST}{framing}\r\n\r\n{body}")
}

/// What cannot be provoked by a request from outside, or is proven where its room is.
const ELSEWHERE: [&str; 22] = [
    "limits-unavailable",
    "concurrency-exceeded",
    "route-full",
    "caller-refused",
    "credentials-ambiguous",
    "credentials-missing",
    "credentials-refused",
    "identity-unavailable",
    "scope-missing",
    "upstream-tls-failed",
    "upstream-certificate-refused",
    "internal",
    "upstream-saturated",
    "circuit-open",
    "upstream-refused",
    "connect-timeout",
    "not-cached",
    "loop",
    "may-not-purge",
    "misdirected",
    "client-certificate-missing",
    "client-certificate-refused",
];

#[tokio::test]
async fn every_reason_is_the_same_in_status_body_fields_metrics_and_log() {
    let refusing = Refusing::start().await;
    let gateway = &refusing.gateway;
    assert_eq!(refusing.ask(&format!("GET /limited HTTP/1.1\r\n{HOST}\r\n")).await.status, 200);

    for (code, route, request) in provocations() {
        let answer = refusing.ask(&request).await;

        let reason = REASONS.iter().find(|reason| reason.code == code).unwrap();
        let status = reason.status.as_u16();
        assert_eq!(answer.status, status, "{code}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["reason"], code);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:tidegate:reason:{code}"));
        assert_eq!(problem["title"], reason.title);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{code}");
        let proxy_status = format!("tidegate; error={}; details=\"{code}\"", reason.proxy_error);
        assert_eq!(answer.all("proxy-status"), [proxy_status]);
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{code}");
        assert_eq!(answer.field("cache-control"), Some("no-store"), "{code}");
        assert_eq!(answer.field("x-content-type-options"), Some("nosniff"), "{code}");
        let id = answer.field("x-request-id").unwrap();
        assert!(!id.is_empty() && problem["request_id"] == id, "{code}: {id}");

        let line = gateway.access_line(&answer).await;
        assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some(code), Some(u64::from(status))));
        assert_eq!(line["client"], "127.0.0.1", "{code}");
        assert_eq!(line["route"].as_str().unwrap_or("-"), route, "{code}");
        let refused = format!("tidegate_refusals_total{{route=\"{route}\",reason=\"{code}\"}}");
        assert_eq!(gateway.count(&refused).await, 1, "{code}");
    }
    let all = u64::try_from(provocations().len()).unwrap();
    assert_eq!(gateway.count("tidegate_refusals_total").await, all);
    assert_eq!(gateway.count("tidegate_requests_total").await, all + 1);
    assert_eq!(gateway.count("tidegate_requests_in_flight").await, 0);
}

#[tokio::test]
async fn no_reason_is_forgotten_here() {
    let here: BTreeSet<_> = provocations().iter().map(|(code, _, _)| *code).chain(ELSEWHERE).collect();
    let all: BTreeSet<_> = REASONS.iter().map(|reason| reason.code).collect();
    assert_eq!(here, all);
}

#[tokio::test]
async fn nothing_internal_leaks() {
    let refusing = Refusing::start().await;
    refusing.ask(&format!("GET /limited HTTP/1.1\r\n{HOST}\r\n")).await;
    let port = refusing.origin.address().port().to_string();

    for (code, _, request) in provocations() {
        for accept in ["application/json", "text/html"] {
            let request = request.replacen("\r\n", &format!("\r\nAccept: {accept}\r\n"), 1);
            let answer = refusing.ask(&request).await;
            let mut fields = answer.fields.clone();
            // The policy of a limit is public, and named after its route.
            for name in ["ratelimit", "ratelimit-policy"] {
                fields.remove(name);
            }
            let text = answer.text().replace("limit `limited-secret-name`", "limit");
            let shown = format!("{fields:?} {text}");
            for inside in ["secret-name", &port, "pingora", "src/", "os error", "127.0.0.1", "panick"] {
                assert!(!shown.contains(inside), "{code} shows {inside}: {shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_in_which_nothing_a_client_sent_is_markup() {
    let refusing = Refusing::start().await;
    let ask = async |accept: &str| {
        let id = "X-Request-Id: \"><script>alert(1)</script>&'<img/src=x>\r\n";
        refusing.ask(&format!("GET /none?'onload='x HTTP/1.1\r\n{HOST}Accept: {accept}\r\n{id}\r\n")).await
    };

    let page = ask("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8").await;
    assert_eq!((page.status, page.field("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(page.field("proxy-status").unwrap().contains("route-not-found"));
    let text = page.text();
    assert!(text.starts_with("<!doctype html>") && text.contains("route-not-found"), "{text}");
    assert!(text.contains("&quot;&gt;&lt;script&gt;alert(1)"), "the id is there to be quoted: {text}");
    for markup in ["<script", "<img", "onload"] {
        assert!(!text.contains(markup), "{markup} in {text}");
    }
    for accept in ["*/*", "application/json", "application/problem+json, text/html;q=0.5", "text/html;q=0"] {
        let problem = ask(accept).await;
        assert_eq!(problem.field("content-type"), Some("application/problem+json"), "{accept}");
        assert_eq!(problem.json()["request_id"], "\"><script>alert(1)</script>&'<img/src=x>");
    }
}

#[tokio::test]
async fn a_refused_head_has_no_body_and_leaves_the_connection_in_order() {
    let refusing = Refusing::start().await;
    let mut client = Raw::tcp(refusing.gateway.http()).await;

    for _ in 0..2 {
        let answer = client.ask(format!("HEAD /none HTTP/1.1\r\n{HOST}\r\n")).await;
        assert_eq!(answer.status, 404);
        let length: usize = answer.field("content-length").unwrap().parse().unwrap();
        assert!(length > 100, "as long as the body of a GET would be");
        let answer = client.ask(format!("GET /none HTTP/1.1\r\n{HOST}\r\n")).await;
        assert_eq!((answer.status, answer.body.len()), (404, length));
    }
    assert_eq!(client.ask(format!("GET /fine HTTP/1.1\r\n{HOST}\r\n")).await.status, 200);
}

#[tokio::test]
async fn after_a_refusal_that_leaves_the_next_byte_in_doubt_the_connection_ends() {
    let refusing = Refusing::start().await;

    for (code, _, request) in provocations() {
        if !["bad-request", "bad-body", "body-too-large", "request-timeout"].contains(&code) {
            continue;
        }
        let mut client = Raw::tcp(refusing.gateway.http()).await;
        let answer = client.ask(&request).await;
        assert!(answer.status >= 400, "{code}");
        client.send(format!("GET /fine/smuggled HTTP/1.1\r\n{HOST}\r\n")).await;
        assert!(client.rest().await.is_empty(), "{code}: more was answered");
    }
    assert_eq!(refusing.origin.requests("/fine/smuggled"), 0);
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_refused_whatever_it_announced() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let top = https(&certs);
    let gateway = Gateway::start(&format!(
        "{top}[routes.all]\nmax_body = \"1KiB\"\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    let chunk = format!("300\r\n{}\r\n", "x".repeat(0x300));
    let answer = client
        .ask(format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"))
        .await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (413, Some("body-too-large")));
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for (bytes, status) in [(1024, 200), (1025, 413), (8_000_000, 413)] {
            let answer = client.send(client.request("POST", "https://a.test/").body("x".repeat(bytes))).await;
            assert_eq!(answer.status, status, "{bytes} in {:?}", answer.version);
        }
    }
    assert!(origin.seen().iter().all(|seen| seen.body.len() <= 1024));
}

#[tokio::test]
async fn over_http2_a_refusal_ends_one_request_and_not_its_neighbours() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let top = https(&certs);
    let gateway = Gateway::start(&format!(
        "{top}[routes.all]\npath = \"/fine\"\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await;

    let client = Client::http2(&gateway, &certs);
    for (path, status) in [("/fine", 200), ("/none", 404), ("/a%00", 400), ("/fine", 200)] {
        assert_eq!(client.get(&format!("https://a.test{path}")).await.status, status, "{path}");
    }
    assert_eq!(gateway.count("tidegate_connections_total{listener=\"https\"}").await, 1);
}

#[tokio::test]
async fn a_request_that_carries_the_gateways_own_name_is_a_loop() {
    let refusing = Refusing::start().await;

    let via =
        refusing.ask(&format!("GET /fine HTTP/1.1\r\n{HOST}\r\n")).await.field("via").unwrap().to_owned();
    let answer = refusing.ask(&format!("GET /fine HTTP/1.1\r\n{HOST}Via: 1.1 a, {via}\r\n\r\n")).await;

    assert_eq!((answer.status, answer.json()["reason"].as_str()), (508, Some("loop")));
    assert_eq!(answer.field("proxy-status"), Some("tidegate; error=proxy_loop_detected; details=\"loop\""));
    assert_eq!(refusing.gateway.access_line(&answer).await["reason"], "loop");
}
