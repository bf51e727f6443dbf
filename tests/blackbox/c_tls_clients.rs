//! Certificates of clients: who gets in where, what the origin is told, and what is kept from whom.

use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

use crate::support::handshake::handshake;
use crate::support::redis::Redis;
use crate::support::{Answer, Certs, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, h2, https};

/// `open.test` for everybody, `members.test` for those with a certificate.
struct Club {
    certs: Certs,
    origin: Origin,
    gateway: Gateway,
}

const ROUTES: &str = "
[routes.open]
host = \"open.test\"
upstream = \"ORIGIN\"
cache = \"60s\"
hsts = \"365d\"
[routes.members]
host = \"members.test\"
upstream = \"ORIGIN\"
cache = \"60s\"
client_cert = true
request_headers.set = { x-member = \"{tls_client_subject}\", client-cert = \"{tls_client_certificate}\", x-san = \"{tls_client_san}\" }
[routes.ann]
host = \"members.test\"
path = \"/ann\"
upstream = \"ORIGIN\"
client_cert = { subjects = [\"CN=ann,O=Members\"] }
";

impl Club {
    async fn open() -> Self {
        Self::with("crl = \"list.crl\"", |certs| certs.revoking(&[], 4000), ROUTES).await
    }

    /// With more settings of the members' authority, and its revocation list.
    async fn with(settings: &str, list: impl Fn(&Certs) -> String, routes: &str) -> Self {
        let certs = Certs::for_names(&["open.test", "members.test"]);
        let origin = Origin::start("one").await;
        let routes = routes.replace("ORIGIN", &origin.address().to_string());
        let hosts =
            format!("[tls.hosts.\"members.test\"]\nclient_ca = {{ file = \"ca.pem\", {settings} }}\n");
        let config = format!("{}log.access = \"json\"\n{hosts}{routes}", https(&certs));
        let beside = [("ca.pem", certs.authority_pem()), ("list.crl", list(&certs))];
        let beside: Vec<_> = beside.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let gateway = Gateway::start_with(&config, &beside).await;
        Self { certs, origin, gateway }
    }

    /// A connection for `sni`, if the handshake and the first answer over it come about.
    async fn come(
        &self,
        sni: &str,
        client: &Arc<ClientConfig>,
        host: &str,
        path: &str,
    ) -> Option<(Raw, Answer)> {
        let stream = handshake(self.gateway.https(), sni, client).await.ok()?;
        let mut raw = Raw::over(stream);
        let answer = raw.ask_or_end(get(host, path)).await?;
        Some((raw, answer))
    }

    async fn failed(&self, reason: &str, times: u64) {
        let series =
            format!("tidegate_tls_handshake_failures_total{{reason=\"client_certificate_{reason}\"}}");
        let what = format!("{times} counted as {reason}");
        eventually(PATIENCE, &what, async || self.gateway.count(&series).await == times).await;
    }
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn reason(answer: &Answer) -> String {
    answer.json()["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_shows_a_certificate_gets_in_and_the_origin_is_told_who_it_is() {
    let club = Club::open().await;
    let ann = club.certs.member("ann", 1);
    for version in [&TLS12, &TLS13] {
        let path = format!("/told-{:?}", version.version);
        let client = club.certs.client_as(&ann, &[version]);
        let (_, answer) = club.come("members.test", &client, "members.test", &path).await.unwrap();
        assert_eq!(answer.status, 200);
        let seen = club.origin.seen().pop().unwrap();
        assert_eq!(seen.field("x-member"), Some("CN=ann,O=Members"));
        assert_eq!(seen.field("x-san"), Some("DNS:ann.members.test"));
        let certificate = seen.field("client-cert").unwrap();
        assert!(certificate.starts_with(":MII") && certificate.ends_with(':'), "{certificate}");
    }
    let logged = async || club.gateway.output().contains("\"tls_client\":\"CN=ann,O=Members\"");
    eventually(PATIENCE, "the access line names the client", logged).await;
}

#[tokio::test]
async fn who_shows_none_or_a_bad_one_is_refused_in_the_handshake_and_counted() {
    let others = Certs::for_names(&["x.test"]);
    let stranger = others.member("ann", 1);
    let certs = Club::open().await;
    let client = certs.certs.client(&[]);
    assert!(certs.come("members.test", &client, "members.test", "/").await.is_none());
    certs.failed("missing", 1).await;
    let client = certs.certs.client_as(&stranger, &[&TLS13]);
    assert!(certs.come("members.test", &client, "members.test", "/").await.is_none());
    certs.failed("invalid", 1).await;
    assert_eq!(certs.origin.seen().len(), 0);
    assert!(certs.come("open.test", &client, "open.test", "/").await.is_some(), "it is not asked for there");
}

#[tokio::test]
async fn a_route_says_which_certificates_may_ask() {
    let club = Club::open().await;
    let [ann, bob] = [("ann", 1), ("bob", 2)].map(|(name, serial)| club.certs.member(name, serial));
    let client = club.certs.client_as(&bob, &[&TLS13]);
    let (_, answer) = club.come("members.test", &client, "members.test", "/ann").await.unwrap();
    assert_eq!((answer.status, reason(&answer)), (403, "client-certificate-refused".to_owned()));
    let client = club.certs.client_as(&ann, &[&TLS13]);
    let (_, answer) = club.come("members.test", &client, "members.test", "/ann").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn where_certificates_are_optional_the_route_refuses() {
    let club = Club::with("mode = \"optional\"", |certs| certs.revoking(&[], 4000), ROUTES).await;
    let client = club.certs.client(&[]);
    let (_, answer) = club.come("members.test", &client, "members.test", "/").await.unwrap();
    assert_eq!((answer.status, reason(&answer)), (403, "client-certificate-missing".to_owned()));
    assert_eq!(club.origin.seen().len(), 0);
}

#[tokio::test]
async fn another_host_than_the_connection_was_made_for_is_misdirected_also_where_its_answer_is_stored() {
    let club = Club::open().await;
    let ann = club.certs.client_as(&club.certs.member("ann", 1), &[&TLS13]);
    let anybody = club.certs.client(&["http/1.1"]);
    // Both hosts have an answer in the store.
    for (host, client) in [("members.test", &ann), ("open.test", &anybody)] {
        for _ in 0..2 {
            let (_, answer) = club.come(host, client, host, "/kept").await.unwrap();
            assert_eq!(answer.status, 200, "{host}");
        }
    }
    let asked = club.origin.seen().len();
    for (sni, host) in
        [("open.test", "members.test"), ("127.0.0.1", "members.test"), ("members.test", "open.test")]
    {
        let stream =
            handshake_unchecked(&club, sni, if sni == "members.test" { &ann } else { &anybody }).await;
        let mut raw = Raw::over(stream);
        for path in ["/kept", "/new"] {
            let answer = raw.ask(get(host, path)).await;
            assert_eq!(
                (answer.status, reason(&answer)),
                (421, "misdirected".to_owned()),
                "{sni} {host} {path}"
            );
        }
        let own = if sni == "members.test" { "members.test" } else { "open.test" };
        assert_eq!(raw.ask(get(own, "/kept")).await.status, 200, "the connection goes on");
    }
    assert_eq!(club.origin.seen().len(), asked, "no server saw any of it");
}

#[tokio::test]
async fn another_host_is_misdirected_over_http2_while_its_connection_goes_on() {
    let club = Club::open().await;
    let anybody = club.certs.client(&["h2"]);
    let mut raw = Raw::over(handshake(club.gateway.https(), "open.test", &anybody).await.unwrap());
    raw.send(h2::PREFACE).await;
    for (stream, host, status) in
        [(1, "members.test", 421), (3, "open.test", 200), (5, "members.test:443", 421)]
    {
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/h2")];
        raw.send(h2::frame(h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, stream, &h2::block(&fields))).await;
        let block = loop {
            let (kind, .., payload) = h2::read(&mut raw).await.expect("the connection goes on");
            if kind == h2::HEADERS {
                break payload;
            }
        };
        // The second of two equal statuses is told by the number that the first was remembered by.
        assert!(h2::status(&block) == status || stream == 5 && block[0] >= 0xbe, "{host}: {block:?}");
    }
    assert_eq!(club.origin.requests("/h2"), 1);
}

/// A handshake that may name no host at all: an address is never sent as a name, and the certificate does not have it.
async fn handshake_unchecked(
    club: &Club,
    sni: &str,
    client: &Arc<ClientConfig>,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut config = ClientConfig::clone(client);
    config.enable_sni = sni != "127.0.0.1";
    let name = if config.enable_sni { sni } else { "open.test" };
    handshake(club.gateway.https(), name, &Arc::new(config)).await.unwrap()
}

#[tokio::test]
async fn what_one_member_is_answered_is_not_kept_for_another() {
    let club = Club::open().await;
    club.origin.answer_by("/mine", |seen| Reply::ok(seen.field("x-member").unwrap_or("nobody")));
    for (name, serial) in [("ann", 1), ("bob", 2)] {
        let client = club.certs.client_as(&club.certs.member(name, serial), &[&TLS13]);
        for _ in 0..2 {
            let (_, answer) = club.come("members.test", &client, "members.test", "/mine").await.unwrap();
            assert_eq!(answer.text(), format!("CN={name},O=Members"));
        }
    }
    assert_eq!(club.origin.requests("/mine"), 2, "each has its own, and it is kept");
}

#[tokio::test]
async fn nobody_writes_himself_a_certificate() {
    let club = Club::open().await;
    let (mut raw, _) = club.come("open.test", &club.certs.client(&[]), "open.test", "/first").await.unwrap();
    let names =
        ["Client-Cert", "Client-Cert-Chain", "X-SSL-Client-S-DN", "X-Client-Cert", "X-Forwarded-Client-Cert"];
    let fields: String = names.map(|name| [name, ": CN=ann\r\n"].concat()).concat();
    raw.ask(format!("GET /forged HTTP/1.1\r\nHost: open.test\r\n{fields}\r\n")).await;
    let seen = club.origin.seen().pop().unwrap();
    assert_eq!(seen.target, "/forged");
    assert!(names.iter().all(|name| seen.field(&name.to_ascii_lowercase()).is_none()), "{seen:?}");
}

#[tokio::test]
async fn a_revocation_takes_effect_without_a_restart_and_on_sessions_that_would_be_resumed() {
    let club = Club::open().await;
    let [ann, bob] = [("ann", 1), ("bob", 2)].map(|(name, serial)| club.certs.member(name, serial));
    let (as_ann, as_bob) = (club.certs.client_as(&ann, &[&TLS13]), club.certs.client_as(&bob, &[&TLS13]));
    for client in [&as_ann, &as_bob] {
        assert!(club.come("members.test", client, "members.test", "/").await.is_some());
    }
    let file = club.gateway.folder().join("list.crl");
    std::fs::write(&file, club.certs.revoking(&[&bob], 4000)).unwrap();
    let loaded = "tidegate_certificate_reloads_total{result=\"loaded\"}";
    eventually(PATIENCE, "the list is taken", async || club.gateway.count(loaded).await == 1).await;
    assert!(club.come("members.test", &as_bob, "members.test", "/").await.is_none());
    assert!(club.come("members.test", &as_ann, "members.test", "/").await.is_some());
    club.failed("revoked", 1).await;

    // A list that is over is refused, and the one before stays.
    std::fs::write(&file, club.certs.revoking(&[], 2025)).unwrap();
    let refused = "tidegate_certificate_reloads_total{result=\"refused\"}";
    eventually(PATIENCE, "the old list is refused", async || club.gateway.count(refused).await == 1).await;
    assert!(club.come("members.test", &as_bob, "members.test", "/").await.is_none());
}

/// A connection over HTTP/2 on which nothing was asked yet.
async fn multiplexed(club: &Club, client: &Arc<ClientConfig>) -> Raw {
    let mut config = ClientConfig::clone(client);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = handshake(club.gateway.https(), "members.test", &Arc::new(config)).await.unwrap();
    let mut raw = Raw::over(stream);
    raw.send(h2::PREFACE).await;
    raw
}

/// A request of a member on this stream.
fn asks(stream: u32) -> Vec<u8> {
    let fields =
        [(":method", "GET"), (":scheme", "https"), (":authority", "members.test"), (":path", "/asked")];
    h2::frame(h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, stream, &h2::block(&fields))
}

/// The status of the next answer, and whether there was a farewell before it.
async fn answered(raw: &mut Raw) -> (u16, bool) {
    let mut told = false;
    loop {
        match h2::read(raw).await.expect("the connection goes on") {
            (h2::HEADERS, _, _, block) => return (h2::status(&block), told),
            (h2::GOAWAY, _, _, payload) => {
                assert_eq!(payload[4..], [0; 4], "nothing was wrong with its frames");
                told = true;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_revocation_ends_the_connections_that_are_open_and_no_others() {
    let club = Club::open().await;
    let [ann, bob] = [("ann", 1), ("bob", 2)].map(|(name, serial)| club.certs.member(name, serial));
    let (as_ann, as_bob) = (club.certs.client_as(&ann, &[&TLS13]), club.certs.client_as(&bob, &[&TLS13]));
    let (mut anns, _) = club.come("members.test", &as_ann, "members.test", "/").await.unwrap();
    let (mut bobs, _) = club.come("members.test", &as_bob, "members.test", "/").await.unwrap();
    let mut many = multiplexed(&club, &as_bob).await;
    many.send(asks(1)).await;
    assert_eq!(answered(&mut many).await, (200, false));
    let gate = Gate::closed();
    club.origin.answer("/slow", Reply::ok("at last").behind(&gate));
    let (mut busy, _) = club.come("members.test", &as_bob, "members.test", "/").await.unwrap();
    busy.send(get("members.test", "/slow")).await;
    eventually(PATIENCE, "it is with the origin", async || club.origin.requests("/slow") == 1).await;
    let before = club.origin.seen().len();

    std::fs::write(club.gateway.folder().join("list.crl"), club.certs.revoking(&[&bob], 4000)).unwrap();
    assert_eq!(bobs.rest().await, b"", "who waits for nothing is let go");
    // Over HTTP/2 a farewell says so first, and what comes before its client has heard it is refused.
    let (kind, .., payload) = loop {
        let frame = h2::read(&mut many).await.expect("a farewell");
        if frame.0 == h2::GOAWAY {
            break frame;
        }
    };
    assert_eq!((kind, payload[4..].to_vec()), (h2::GOAWAY, vec![0; 4]));
    many.send(asks(3)).await;
    assert_eq!(answered(&mut many).await.0, 421);
    many.rest().await;

    // What was asked before is answered, and the connection says that it ends.
    gate.open();
    let (head, body) = busy.answer().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"at last", "{head}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert_eq!(busy.rest().await, b"");
    assert_eq!(club.origin.seen().len(), before, "no server saw any more of it");
    assert_eq!(anns.ask(get("members.test", "/")).await.status, 200, "others go on");
}

#[tokio::test]
async fn an_authority_that_is_taken_away_takes_the_connections_of_its_clients_along() {
    let club = Club::open().await;
    let ann = club.certs.client_as(&club.certs.member("ann", 1), &[&TLS13]);
    let (mut idle, _) = club.come("members.test", &ann, "members.test", "/").await.unwrap();
    let (mut open, _) = club.come("open.test", &ann, "open.test", "/").await.unwrap();
    let others = Certs::for_names(&["x.test"]);
    std::fs::write(club.gateway.folder().join("ca.pem"), others.authority_pem()).unwrap();
    std::fs::write(club.gateway.folder().join("list.crl"), others.revoking(&[], 4000)).unwrap();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(open.ask(get("open.test", "/")).await.status, 200, "who was not asked for one goes on");
}

#[tokio::test]
async fn a_session_is_resumed_under_the_policy_that_it_was_made_under_alone() {
    let club = Club::open().await;
    let ann = club.certs.member("ann", 1);
    for version in [&TLS12, &TLS13] {
        let client = club.certs.client_as(&ann, &[version]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = handshake(club.gateway.https(), "members.test", &client).await.unwrap();
            let path = format!("/{kind:?}-{:?}", version.version);
            let found = stream.get_ref().1.handshake_kind();
            let mut raw = Raw::over(stream);
            assert_eq!(raw.ask(get("members.test", &path)).await.status, 200, "{kind:?}");
            assert_eq!(found, Some(kind));
            let seen = club.origin.seen().pop().unwrap();
            assert_eq!(seen.field("x-member"), Some("CN=ann,O=Members"), "also of a resumed session");
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_at_another_node_of_the_fleet() {
    let redis = Redis::start().await;
    let certs = Certs::for_names(&["a.test"]);
    let config = |share: bool| {
        let redis = format!("redis = {{ url = \"{}\", timeout = \"10s\" }}\n", redis.url());
        let share = format!("tls.share_tickets = {share}\n");
        format!("{}{redis}{share}[routes.all]\nrespond = {{ body = \"fine\" }}\n", https(&certs))
    };
    let [one, other] = [Gateway::start(&config(true)).await, Gateway::start(&config(true)).await];
    let apart = Gateway::start(&config(false)).await;

    for version in [&TLS12, &TLS13] {
        // Until both have met; each time with a client that has no session yet.
        let resumes = async |to: &Gateway| {
            let client = certs.client_of(&[version], &["http/1.1"]);
            let mut kinds = Vec::new();
            for gateway in [&one, to] {
                let stream = handshake(gateway.https(), "a.test", &client).await.unwrap();
                kinds.push(stream.get_ref().1.handshake_kind());
                assert_eq!(Raw::over(stream).ask(get("a.test", "/")).await.status, 200);
            }
            assert_eq!(kinds[0], Some(HandshakeKind::Full));
            kinds[1] == Some(HandshakeKind::Resumed)
        };
        eventually(PATIENCE, "sessions are resumed elsewhere", async || resumes(&other).await).await;
        assert!(!resumes(&apart).await, "who does not share has keys of its own");
    }
    let kept = redis.cli(&["KEYS", "tidegate:tickets:*"]);
    assert_eq!(kept.lines().count(), 2, "{kept}");
    for key in kept.lines() {
        let left: u64 = redis.cli(&["TTL", key]).parse().unwrap();
        assert!((1..=18 * 3600).contains(&left), "{key} goes after {left} s");
    }
}

#[tokio::test]
async fn hsts_is_on_every_answer_under_tls_and_on_no_other() {
    let routes = format!(
        "[defaults]\nhsts = {{ max_age = \"730d\", include_subdomains = true, preload = true }}\n{ROUTES}\n\
         [routes.gone]\nhost = \"open.test\"\npath = \"/gone\"\nredirect = {{ to = \"/\" }}\nhsts = false\n"
    );
    let club = Club::with("mode = \"optional\"", |certs| certs.revoking(&[], 4000), &routes).await;
    club.origin.answer("/own", Reply::ok("x").field("strict-transport-security", "max-age=1"));
    let (mut raw, _) = club.come("open.test", &club.certs.client(&[]), "open.test", "/first").await.unwrap();
    let whole = "max-age=63072000; includeSubDomains; preload";
    for (host, path, status, hsts) in [
        ("open.test", "/kept", 200, Some("max-age=31536000")),
        ("open.test", "/kept", 200, Some("max-age=31536000")),
        ("open.test", "/own", 200, Some("max-age=31536000")),
        ("open.test", "/gone", 308, None),
        ("nowhere.test", "/", 404, Some(whole)),
        ("members.test", "/", 421, Some(whole)),
    ] {
        let answer = raw.ask(get(host, path)).await;
        let found = answer.all("strict-transport-security");
        assert_eq!((answer.status, found), (status, hsts.into_iter().collect()), "{host}{path}");
    }
}
