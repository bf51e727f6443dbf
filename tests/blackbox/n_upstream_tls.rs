//! TLS to servers: who is believed, what is shown, and what never mixes.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use crate::support::{Backend, Certs, Client, Gateway, Manners, Origin, PATIENCE, eventually, https};

const URL: &str = "https://a.test/";
const HEALTH: &str = "health = { path = \"/healthz\", interval = \"100ms\" }";

/// A gateway before `servers`, with lines of `[upstreams.main]` and the authority of `ours` in `ca.pem` beside it.
async fn before(front: &Certs, servers: &[String], settings: &str, ours: &Certs) -> Gateway {
    let config = config(front, servers, settings);
    Gateway::start_with(&config, &[("ca.pem", &ours.authority_pem())]).await
}

fn config(front: &Certs, servers: &[String], settings: &str) -> String {
    let top = https(front);
    format!(
        "{top}\n[upstreams.main]\nservers = {servers:?}\n{settings}\n\n[routes.all]\nupstream = \"main\"\n"
    )
}

fn secure(backend: &Backend) -> Vec<String> {
    vec![format!("https://{}", backend.address())]
}

fn authority(name: &str) -> Certs {
    Certs::for_names(&[name])
}

/// How one request is answered: the status, and the reason where the gateway has one.
async fn outcome(client: &Client, url: &str) -> (u16, String) {
    let answer = client.get(url).await;
    let reason = || answer.json()["reason"].as_str().unwrap_or_default().to_owned();
    (answer.status, if answer.status == 200 { String::new() } else { reason() })
}

fn fine() -> (u16, String) {
    (200, String::new())
}

fn refused(reason: &str) -> (u16, String) {
    (502, reason.to_owned())
}

const BAD_CERTIFICATE: &str = "upstream-certificate-refused";
const NO_TLS: &str = "upstream-tls-failed";

/// How often the gateway has logged this.
fn logged(gateway: &Gateway, words: &str) -> usize {
    gateway.wrote().lines().filter(|line| line.contains(words)).count()
}

// ── who is believed ─────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn requests_and_checks_go_under_tls_and_connections_are_kept() {
    let (front, ours) = (authority("a.test"), authority("x.test"));
    let backend = Backend::secure(ours.server(&["127.0.0.1"], None)).await;
    let settings = format!("tls = {{ ca = \"ca.pem\" }}\n{HEALTH}");
    let gateway = before(&front, &secure(&backend), &settings, &ours).await;
    gateway.ready().await;

    for client in [Client::http1(&gateway, &front), Client::http2(&gateway, &front)] {
        assert_eq!(outcome(&client, URL).await, fine());
    }

    let heard = backend.heard("/");
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].connection, heard[1].connection, "kept for the next request");
    assert_eq!(heard[0].alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert!(!backend.heard("/healthz").is_empty(), "checks go the same way");
    assert_eq!(gateway.count("tidegate_upstream_tls_errors_total").await, 0);
}

#[tokio::test]
async fn a_server_is_asked_for_by_name_and_must_have_it() {
    let (front, ours) = (authority("a.test"), authority("x.test"));
    let backend = Backend::secure(ours.server(&["b.test"], None)).await;
    let by_name = "tls = { ca = \"ca.pem\", server_name = \"b.test\" }";
    let named = before(&front, &secure(&backend), by_name, &ours).await;
    assert_eq!(outcome(&Client::http1(&named, &front), URL).await, fine());
    assert_eq!(backend.heard("/")[0].name.as_deref(), Some("b.test"));

    for other in ["", ", server_name = \"c.test\""] {
        let settings = format!("tls = {{ ca = \"ca.pem\"{other} }}");
        let gateway = before(&front, &secure(&backend), &settings, &ours).await;
        assert_eq!(outcome(&Client::http1(&gateway, &front), URL).await, refused(BAD_CERTIFICATE), "{other}");
    }
    assert_eq!(backend.heard("/").len(), 1, "nothing was sent to whom was not believed");
}

#[tokio::test]
async fn who_is_not_believed_gets_no_request_and_that_is_told_once_and_counted() {
    let (front, ours, others) = (authority("a.test"), authority("x.test"), authority("x.test"));
    let mut over = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (over.not_before, over.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let strange = Backend::secure(others.server(&["127.0.0.1"], None)).await;
    let over = Backend::secure(ours.server_with(&over, None)).await;
    let plain = Backend::start(Manners::default()).await;
    for (backend, reason) in [(&strange, BAD_CERTIFICATE), (&over, BAD_CERTIFICATE), (&plain, NO_TLS)] {
        let settings = "tls = { ca = \"ca.pem\" }\noutlier_detection = false";
        let gateway = before(&front, &secure(backend), settings, &ours).await;
        let client = Client::http1(&gateway, &front);
        for _ in 0..3 {
            assert_eq!(outcome(&client, URL).await, refused(reason));
        }
        assert!(backend.heard("/").is_empty(), "nothing was sent");
        assert_eq!(logged(&gateway, "no TLS with server"), 1, "{}", gateway.wrote());
        assert!(gateway.count("tidegate_upstream_tls_errors_total").await >= 3);
        let refusals = format!("tidegate_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(gateway.count(&refusals).await, 3);
    }
}

#[tokio::test]
async fn checks_find_out_what_requests_would_and_say_why() {
    let (front, ours, others) = (authority("a.test"), authority("x.test"), authority("x.test"));
    let backend = Backend::secure(others.server(&["127.0.0.1"], None)).await;
    let settings = format!("tls = {{ ca = \"ca.pem\" }}\n{HEALTH}");
    let gateway = before(&front, &secure(&backend), &settings, &ours).await;
    let place = secure(&backend).remove(0);
    let told = async || gateway.server(&place).await["reason"].as_str().unwrap_or_default().to_owned();
    let why = "the certificate is not believed";
    eventually(PATIENCE, "a check has failed", async || told().await.contains(why)).await;
    assert_eq!(gateway.server(&place).await["state"], "down");
    assert!(gateway.count("tidegate_upstream_tls_errors_total").await >= 1);
    assert_eq!(outcome(&Client::http1(&gateway, &front), URL).await.0, 503);
}

#[tokio::test]
async fn another_server_is_tried_where_one_is_not_believed() {
    let (front, ours, others) = (authority("a.test"), authority("x.test"), authority("x.test"));
    let bad = Backend::secure(others.server(&["127.0.0.1"], None)).await;
    let good = Backend::secure(ours.server(&["127.0.0.1"], None)).await;
    let servers = [secure(&bad), secure(&good)].concat();
    let settings = "tls = { ca = \"ca.pem\" }\nbalance = \"round_robin\"\noutlier_detection = false";
    let gateway = before(&front, &servers, settings, &ours).await;
    let client = Client::http1(&gateway, &front);
    for _ in 0..4 {
        // Nothing was sent, so that any method is safe to send elsewhere.
        let answer = client.send(client.request("POST", URL).body("once")).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(good.heard("/").len(), 4);
    assert!(gateway.count("tidegate_upstream_retries_total{reason=\"connect\"}").await >= 1);
}

#[tokio::test]
async fn whoever_is_believed_unseen_is_warned_of_once() {
    let (front, others) = (authority("a.test"), authority("x.test"));
    let backend = Backend::secure(others.server(&["elsewhere.test"], None)).await;
    let settings = format!("tls = {{ verify = false }}\n{HEALTH}");
    let gateway = before(&front, &secure(&backend), &settings, &others).await;
    gateway.ready().await;
    let client = Client::http1(&gateway, &front);
    assert_eq!([outcome(&client, URL).await, outcome(&client, URL).await], [fine(), fine()]);
    assert_eq!(logged(&gateway, "are not verified"), 1);
}

#[tokio::test]
async fn a_system_without_authorities_starts_and_says_what_is_missing() {
    let (front, ours) = (authority("a.test"), authority("x.test"));
    let backend = Backend::secure(ours.server(&["127.0.0.1"], None)).await;
    let origin = Origin::start("plain").await;
    let top = https(&front);
    let config = format!(
        "{top}\n[routes.secure]\npath = \"/secure\"\nupstream = {:?}\n\n[routes.plain]\nupstream = \"{}\"\n",
        secure(&backend)[0],
        origin.address()
    );
    let nowhere = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nowhere")];
    let gateway = Gateway::start_where(&config, &nowhere).await;
    let client = Client::http1(&gateway, &front);
    assert_eq!(outcome(&client, URL).await, fine(), "who needs none is served");
    assert_eq!(outcome(&client, "https://a.test/secure").await, refused(BAD_CERTIFICATE));
    assert!(logged(&gateway, "the system has no authorities") >= 1, "{}", gateway.wrote());
    assert!(backend.heard("/secure").is_empty(), "nothing was sent");
}

#[tokio::test]
async fn the_systems_authorities_are_believed_where_none_is_named() {
    let (front, ours) = (authority("a.test"), authority("x.test"));
    let backend = Backend::secure(ours.server(&["127.0.0.1"], None)).await;
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.pem");
    std::fs::write(&bundle, ours.authority_pem()).unwrap();
    let place = format!("{}", backend.address());
    let config = config(&front, &[place], "tls = true");
    let gateway = Gateway::start_where(&config, &[("SSL_CERT_FILE", bundle.to_str().unwrap())]).await;
    assert_eq!(outcome(&Client::http1(&gateway, &front), URL).await, fine());
}

#[tokio::test]
async fn a_certificate_of_nobody_else_is_believed_where_it_is_named() {
    let front = authority("a.test");
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let its_key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = ServerConfig::builder().with_no_client_auth();
    let backend = Backend::secure(tls.with_single_cert(vec![own.der().clone()], its_key).unwrap()).await;
    let config = config(&front, &secure(&backend), "tls = { ca = \"own.pem\" }");
    let gateway = Gateway::start_with(&config, &[("own.pem", &own.pem())]).await;
    assert_eq!(outcome(&Client::http1(&gateway, &front), URL).await, fine());
}

// ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_certificate_is_shown_to_servers_that_ask_for_one() {
    let (front, ours, members) = (authority("a.test"), authority("x.test"), authority("m.test"));
    let backend = Backend::secure(ours.server(&["127.0.0.1"], Some(&members))).await;
    let (cert, key) = members.issue(&["gateway.test"]);
    let files = [("ca.pem", &*ours.authority_pem()), ("us.pem", &*cert), ("us.key", &*key)];

    let settings = format!("tls = {{ ca = \"ca.pem\", cert = \"us.pem\" }}\n{HEALTH}");
    let gateway = Gateway::start_with(&config(&front, &secure(&backend), &settings), &files).await;
    gateway.ready().await;
    assert_eq!(outcome(&Client::http1(&gateway, &front), URL).await, fine());
    assert!(backend.heard("/")[0].shown.is_some());

    let (strange, its_key) = ours.issue(&["gateway.test"]);
    let files = [("ca.pem", &*ours.authority_pem()), ("us.pem", &*strange), ("us.key", &*its_key)];
    for shown in ["", ", cert = \"us.pem\""] {
        let settings = format!("tls = {{ ca = \"ca.pem\"{shown} }}\noutlier_detection = false");
        let gateway = Gateway::start_with(&config(&front, &secure(&backend), &settings), &files).await;
        let client = Client::http1(&gateway, &front);
        for _ in 0..2 {
            assert_eq!(outcome(&client, URL).await, refused(NO_TLS), "{shown}");
        }
        assert_eq!(logged(&gateway, "no TLS with server"), 1, "{}", gateway.wrote());
    }
    assert_eq!(backend.heard("/").len(), 1);
}

// ── what never mixes ────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn upstreams_to_one_address_do_not_share_connections() {
    let (front, ours, members) = (authority("a.test"), authority("x.test"), authority("m.test"));
    let mut tls = ours.server(&["127.0.0.1", "b.test", "c.test"], None);
    tls.max_early_data_size = 0;
    let backend = Backend::secure(tls).await;
    let (cert, key) = members.issue(&["gateway.test"]);
    let (other, its_key) = members.issue(&["gateway.test"]);
    let policies = [
        ("one", "ca = \"ca.pem\""),
        ("named", "ca = \"ca.pem\", server_name = \"b.test\""),
        ("other", "ca = \"ca.pem\", server_name = \"c.test\""),
        ("shows", "ca = \"ca.pem\", cert = \"us.pem\""),
        ("also", "ca = \"ca.pem\", cert = \"them.pem\""),
        ("blind", "verify = false"),
        ("wary", "ca = \"them-ca.pem\""),
    ];
    let upstream = |(name, tls): &(&str, &str)| {
        let servers = secure(&backend);
        format!(
            "[upstreams.{name}]\nservers = {servers:?}\ntls = {{ {tls} }}\n[routes.{name}]\npath = \"/{name}\"\nupstream = \"{name}\"\n"
        )
    };
    let tables: String = policies.iter().map(upstream).collect();
    let files = [
        ("ca.pem", ours.authority_pem()),
        ("them-ca.pem", members.authority_pem()),
        ("us.pem", cert + &key),
        ("them.pem", other + &its_key),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let gateway = Gateway::start_with(&format!("{}\n{tables}", https(&front)), &files).await;
    let client = Client::http1(&gateway, &front);
    for round in 0..2 {
        for (name, _) in policies {
            let expected = if name == "wary" { refused(BAD_CERTIFICATE) } else { fine() };
            assert_eq!(
                outcome(&client, &format!("https://a.test/{name}")).await,
                expected,
                "{name}, {round}"
            );
        }
    }
    let mut connections = Vec::new();
    for (name, _) in policies.iter().filter(|(name, _)| *name != "wary") {
        let heard = backend.heard(&format!("/{name}"));
        assert_eq!(heard[0].connection, heard[1].connection, "{name} keeps its own");
        connections.push(heard[0].connection);
    }
    let all = connections.len();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), all, "nobody has another's");
    assert_eq!(backend.heard("/named")[0].name.as_deref(), Some("b.test"));
    assert_eq!(backend.heard("/other")[0].name.as_deref(), Some("c.test"));
}

#[tokio::test]
async fn a_change_of_authorities_ends_the_use_of_connections_that_were_made_before() {
    let (front, ours, others) = (authority("a.test"), authority("x.test"), authority("x.test"));
    let backend = Backend::secure(ours.server(&["127.0.0.1"], None)).await;
    let settings = "tls = { ca = \"ca.pem\" }\noutlier_detection = false";
    let gateway = before(&front, &secure(&backend), settings, &ours).await;
    let client = Client::http1(&gateway, &front);
    assert_eq!(outcome(&client, URL).await, fine());
    let ca = gateway.folder().join("ca.pem");

    std::fs::write(&ca, others.authority_pem()).unwrap();
    let is_refused = async || outcome(&client, URL).await == refused(BAD_CERTIFICATE);
    eventually(PATIENCE, "the file was read again", is_refused).await;
    assert_eq!(outcome(&client, URL).await, refused(BAD_CERTIFICATE));

    std::fs::write(&ca, "nothing").unwrap();
    let count = async || gateway.count("tidegate_config_reloads_total{outcome=\"refused\"}").await == 1;
    eventually(PATIENCE, "a file without certificates is refused", count).await;
    assert_eq!(outcome(&client, URL).await, refused(BAD_CERTIFICATE), "what was read before is in force");

    std::fs::write(&ca, ours.authority_pem() + &others.authority_pem()).unwrap();
    let is_fine = async || outcome(&client, URL).await == fine();
    eventually(PATIENCE, "it is believed again", is_fine).await;
    let heard = backend.heard("/");
    assert_ne!(heard[0].connection, heard[heard.len() - 1].connection);
    let said = async || logged(&gateway, "TLS with server works again") == 1;
    eventually(PATIENCE, "that is said", said).await;
}
