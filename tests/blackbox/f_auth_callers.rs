//! Callers who are known by an API key, or by the certificate of their connection.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::version::TLS13;
use serde_json::{Value, json};

use crate::support::cached::is_hit;
use crate::support::handshake::handshake;
use crate::support::{
    Answer, Certs, Gateway, Issuer, Origin, PATIENCE, Raw, Reply, eventually, https, plain,
};

/// A table of the file of keys.
fn table(name: &str, key: &str, more: &str) -> String {
    let bytes = digest(&SHA256, key.as_bytes());
    let hash: Vec<String> = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let hash = hash.concat();
    format!("[{name}]\nsha256 = \"{hash}\"\n{more}\n")
}

const ADA: &str = "key-of-ada-0123456789";
const BOB: &str = "key-of-bob-0123456789";

fn keys() -> String {
    table(
        "ada",
        ADA,
        "tenant = \"acme\"\nplan = \"gold\"\nscopes = [\"users:read\", \"users:write\"]\nroles = [\"editor\"]\nclaims = { region = [\"eu\", \"us\"] }",
    ) + &table("bob", BOB, "claims = { sub = \"Bob\" }\nexpires = 2900-01-01T00:00:00Z")
        + &table("eve", "key-of-eve", "expires = 2020-01-01")
}

const PARTNERS: &str = "[auth.partners.api_key]\nfile = \"keys.toml\"\n\
                        headers = { x-user-id = \"sub\", x-tenant = \"tenant\", x-region = \"region\" }\n";

/// A gateway before an origin, with the file of keys.
struct Shop {
    origin: Origin,
    gateway: Gateway,
}

impl Shop {
    async fn open(providers: &str, rules: &str) -> Self {
        let origin = Origin::start("one").await;
        let route = format!("[routes.all]\nupstream = \"{}\"\n{rules}\n", origin.address());
        let config = format!("{}log.access = \"json\"\n{providers}{route}", plain());
        let gateway = Gateway::start_with(&config, &[("keys.toml", &keys())]).await;
        Self { origin, gateway }
    }

    async fn ask(&self, method: &str, path: &str, lines: &[(&str, &str)]) -> Answer {
        let lines: Vec<String> = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n");
        let request = format!("{head}{}\r\n", lines.concat());
        Raw::tcp(self.gateway.http()).await.ask(request).await
    }

    async fn get(&self, lines: &[(&str, &str)]) -> Answer {
        self.ask("GET", "/", lines).await
    }
}

fn reason(answer: &Answer) -> Value {
    answer.json()["reason"].clone()
}

#[tokio::test]
async fn who_shows_a_key_is_known_and_the_key_stays_here() {
    let shop = Shop::open(PARTNERS, "auth = \"partners\"").await;
    let answer = shop.get(&[("X-Api-Key", ADA), ("x-tenant", "other"), ("x-user-id", "root")]).await;
    assert_eq!(answer.status, 200);
    let seen = shop.origin.seen().pop().unwrap();
    assert_eq!((seen.all("x-user-id"), seen.all("x-tenant")), (vec!["ada"], vec!["acme"]));
    assert_eq!((seen.field("x-region"), seen.field("x-api-key")), (Some("eu,us"), None));
    let line = shop.gateway.access_line(&answer).await;
    assert_eq!((&line["caller"], &line["provider"]), (&json!("ada"), &json!("partners")));

    assert_eq!(shop.get(&[("x-api-key", BOB)]).await.status, 200);
    let seen = shop.origin.seen().pop().unwrap();
    assert_eq!((seen.field("x-user-id"), seen.field("x-tenant")), (Some("Bob"), None));

    let missing = shop.get(&[]).await;
    assert_eq!((missing.status, reason(&missing)), (401, json!("credentials-missing")));
    assert_eq!(missing.field("www-authenticate"), Some("ApiKey header=\"x-api-key\""));
    for (key, told) in [
        ("key-of-nobody", "the API key is not known"),
        ("", "the API key is not known"),
        ("key-of-eve", "the API key has expired"),
        (&ADA[1..], "the API key is not known"),
        (&ADA.to_uppercase(), "the API key is not known"),
    ] {
        let refused = shop.get(&[("x-api-key", key)]).await;
        assert_eq!((refused.status, reason(&refused)), (401, json!("credentials-refused")), "{key}");
        assert_eq!(refused.json()["detail"], told, "{key}");
    }
    let two = shop.get(&[("x-api-key", ADA), ("x-api-key", BOB)]).await;
    assert_eq!((two.status, reason(&two)), (400, json!("credentials-ambiguous")));
    assert_eq!(shop.get(&[("authorization", &format!("Bearer {ADA}"))]).await.status, 401);
    assert_eq!(shop.origin.seen().len(), 2);
    for (outcome, count) in [("verified", 2), ("unknown", 4), ("expired", 1)] {
        let series = format!("tidegate_auth_api_keys_total{{provider=\"partners\",outcome=\"{outcome}\"}}");
        assert_eq!(shop.gateway.count(&series).await, count, "{outcome}");
    }
    assert!(!shop.gateway.wrote().contains(ADA));
}

#[tokio::test]
async fn what_a_key_is_for_is_asked_as_of_tokens() {
    let rows = [
        ("scopes = [\"users:write\"]", 200, 403, "scope-missing"),
        ("roles = [\"editor\", \"owner\"]", 200, 403, "caller-refused"),
        ("claims = { plan = [\"gold\", \"silver\"], region = \"us\" }", 200, 403, "caller-refused"),
    ];
    for (rules, of_ada, of_bob, told) in rows {
        let shop = Shop::open(PARTNERS, &format!("auth = {{ providers = \"partners\", {rules} }}")).await;
        assert_eq!(shop.get(&[("x-api-key", ADA)]).await.status, of_ada, "{rules}");
        let refused = shop.get(&[("x-api-key", BOB)]).await;
        assert_eq!((refused.status, reason(&refused)), (of_bob, json!(told)), "{rules}");
        assert_eq!(refused.field("www-authenticate"), None);
        assert_eq!(shop.gateway.access_line(&refused).await["caller"], "Bob");
    }
}

#[tokio::test]
async fn the_file_of_keys_is_watched_and_a_broken_one_changes_nothing() {
    let shop = Shop::open(PARTNERS, "auth = \"partners\"").await;
    let file = shop.gateway.folder().join("keys.toml");
    let status = async |key: &str| shop.get(&[("x-api-key", key)]).await.status;
    assert_eq!((status(ADA).await, status(BOB).await), (200, 200));
    std::fs::write(&file, table("bob", BOB, "") + &table("new", "key-of-somebody-new", "")).unwrap();
    eventually(PATIENCE, "the new key is known", async || status("key-of-somebody-new").await == 200).await;
    assert_eq!((status(ADA).await, status(BOB).await), (401, 200));

    std::fs::write(&file, "[bob]\nsha256 = \"a-key-in-plain-words\"\n").unwrap();
    let told = "`sha256` of the key `bob` is none";
    eventually(PATIENCE, "it is refused", async || shop.gateway.wrote().contains(told)).await;
    assert_eq!((status("key-of-somebody-new").await, status(BOB).await), (200, 200));
    assert!(!shop.gateway.wrote().contains("a-key-in-plain-words"));
}

#[tokio::test]
async fn a_token_or_a_key_will_do_but_not_both() {
    let issuer = Issuer::start().await;
    let shop =
        Shop::open(&(issuer.provider("") + PARTNERS), "auth = { providers = [\"idp\", \"partners\"] }").await;
    let token = format!("Bearer {}", issuer.token(json!({})));
    for (shown, provider) in [(("authorization", &*token), "idp"), (("x-api-key", ADA), "partners")] {
        let answer = shop.get(&[shown]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(shop.gateway.access_line(&answer).await["provider"], provider);
    }
    let both = shop.get(&[("authorization", &token), ("x-api-key", ADA)]).await;
    assert_eq!((both.status, reason(&both)), (400, json!("credentials-ambiguous")));
    let missing = shop.get(&[]).await;
    assert_eq!(missing.field("www-authenticate"), Some("Bearer, ApiKey header=\"x-api-key\""));
    // What is no token is none of ours.
    assert_eq!(shop.get(&[("authorization", "Basic YTpi"), ("x-api-key", ADA)]).await.status, 200);
}

#[tokio::test]
async fn what_is_answered_to_a_key_is_for_its_caller() {
    let rules = "auth = { providers = \"partners\", methods = \"unsafe\" }\ncache = \"60s\"";
    let shop = Shop::open(PARTNERS, rules).await;
    // A key that is not good says who asks as well, if badly.
    let keys = [(ADA, "ada"), (BOB, "Bob"), (ADA, "ada"), ("key-of-nobody", "nobody")];
    for (path, control) in [("/own", "max-age=60"), ("/all", "public, max-age=60")] {
        shop.origin.answer_by(path, move |seen| {
            Reply::ok(seen.field("x-user-id").unwrap_or("nobody")).field("cache-control", control)
        });
        for (index, (key, name)) in keys.into_iter().enumerate() {
            let answer = shop.ask("GET", path, &[("x-api-key", key)]).await;
            let (shared, first) = (path == "/all", index == 0);
            assert_eq!(is_hit(&answer), shared && !first, "{path} {key}");
            assert_eq!(answer.text(), if shared { "ada" } else { name }, "{path} {key}");
        }
    }
    assert_eq!((shop.origin.requests("/own"), shop.origin.requests("/all")), (4, 1));
}

#[tokio::test]
async fn where_the_key_has_the_caller_each_api_key_has_answers_of_its_own() {
    let shop =
        Shop::open(PARTNERS, "auth = \"partners\"\ncache = { ttl = \"60s\", key = { caller = true } }").await;
    shop.origin.answer_by("/", |seen| Reply::ok(seen.field("x-user-id").unwrap_or("nobody")));
    for (key, name, hit) in [(ADA, "ada", false), (BOB, "Bob", false), (ADA, "ada", true), (BOB, "Bob", true)]
    {
        let answer = shop.get(&[("x-api-key", key)]).await;
        assert_eq!((answer.text(), is_hit(&answer)), (name, hit));
    }
    assert_eq!(shop.get(&[("x-api-key", "key-of-nobody")]).await.status, 401);
}

// === Certificates ===

const MESH: &str = "[auth.mesh.client_cert]\nheaders = { x-user-id = \"sub\", x-tenant = \"tenant\" }\nrules = [\
                    { san = \"DNS:ann.members.test\", tenant = \"acme\", scopes = [\"users:write\"] },\
                    { cn = \"bob\" },\
                    { san = \"DNS:*.members.test\", claims = { sub = \"member\" } }]\n";

/// A gateway that asks its clients for certificates, and lets in who has none.
struct Club {
    certs: Certs,
    origin: Origin,
    gateway: Gateway,
}

impl Club {
    async fn open(providers: &str, rules: &str) -> Self {
        let (certs, origin) = (Certs::for_names(&["a.test"]), Origin::start("one").await);
        let asked = "tls.client_ca = { file = \"ca.pem\", mode = \"optional\" }\nlog.access = \"json\"\n";
        let route = format!("[routes.all]\nupstream = \"{}\"\n{rules}\n", origin.address());
        let config = format!("{}{asked}{providers}{route}", https(&certs));
        let beside = [("ca.pem", &*certs.authority_pem()), ("keys.toml", &*keys())];
        let gateway = Gateway::start_with(&config, &beside).await;
        Self { certs, origin, gateway }
    }

    /// Asks over a connection with the certificate of a member, or none.
    async fn ask(&self, member: Option<&str>, method: &str, lines: &str) -> Answer {
        let client = match member {
            Some(name) => self.certs.client_as(&self.certs.member(name, 1), &[&TLS13]),
            None => self.certs.client_of(&[&TLS13], &["http/1.1"]),
        };
        let stream = handshake(self.gateway.https(), "a.test", &client).await.unwrap();
        let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n{lines}\r\n");
        Raw::over(stream).ask(request).await
    }
}

#[tokio::test]
async fn a_certificate_says_who_asks() {
    let club = Club::open(MESH, "auth = \"mesh\"").await;
    let rows = [("ann", "ann.members.test", Some("acme")), ("bob", "bob", None), ("cid", "member", None)];
    for (member, subject, tenant) in rows {
        let answer = club.ask(Some(member), "GET", "x-user-id: root\r\nx-tenant: other\r\n").await;
        assert_eq!(answer.status, 200);
        let seen = club.origin.seen().pop().unwrap();
        assert_eq!((seen.all("x-user-id"), seen.field("x-tenant")), (vec![subject], tenant));
        let line = club.gateway.access_line(&answer).await;
        assert_eq!((&line["caller"], &line["provider"]), (&json!(subject), &json!("mesh")));
    }
    let refused = club.ask(None, "GET", "").await;
    assert_eq!((refused.status, reason(&refused)), (403, json!("client-certificate-missing")));
    let series = "tidegate_auth_certificates_total{provider=\"mesh\",outcome=\"verified\"}";
    assert_eq!(club.gateway.count(series).await, 3);
}

#[tokio::test]
async fn a_certificate_that_no_rule_is_for_is_of_nobody() {
    let ann_alone = "[auth.mesh.client_cert]\nrules = [{ cn = \"ann\", scopes = [\"a\"] }]\n";
    let rules = "auth = { providers = \"mesh\", methods = \"unsafe\", scopes = [\"a\"] }";
    let club = Club::open(ann_alone, rules).await;
    assert_eq!(club.ask(Some("ann"), "POST", "").await.status, 200);
    let refused = club.ask(Some("bob"), "POST", "").await;
    assert_eq!((refused.status, reason(&refused)), (403, json!("caller-refused")));
    assert_eq!(club.ask(Some("bob"), "GET", "").await.status, 200);
    assert_eq!(club.ask(None, "GET", "").await.status, 200);
    let series = "tidegate_auth_certificates_total{outcome=\"unknown\"}";
    assert_eq!(club.gateway.count(series).await, 2);
}

#[tokio::test]
async fn what_the_request_says_itself_goes_before_its_connection() {
    let issuer = Issuer::start().await;
    let providers = issuer.provider("") + PARTNERS + MESH;
    let club = Club::open(&providers, "auth = { providers = [\"mesh\", \"partners\", \"idp\"] }").await;
    let token = format!("authorization: Bearer {}\r\n", issuer.token(json!({})));
    let key = format!("x-api-key: {ADA}\r\n");
    for (lines, provider) in
        [(&*token, "idp"), (&*key, "partners"), ("", "mesh"), ("authorization: Basic x\r\n", "mesh")]
    {
        let answer = club.ask(Some("ann"), "GET", lines).await;
        assert_eq!(answer.status, 200, "{lines}");
        assert_eq!(club.gateway.access_line(&answer).await["provider"], provider, "{lines}");
    }
    // What is shown and not good is not mended by a certificate.
    for bad in ["authorization: Bearer x.y.z\r\n", "x-api-key: key-of-nobody\r\n"] {
        assert_eq!(club.ask(Some("ann"), "GET", bad).await.status, 401, "{bad}");
    }
    let missing = club.ask(None, "GET", "").await;
    assert_eq!(
        (missing.status, missing.field("www-authenticate")),
        (401, Some("Bearer, ApiKey header=\"x-api-key\""))
    );
}

#[tokio::test]
async fn what_is_answered_to_a_certificate_is_for_its_caller() {
    let club =
        Club::open(MESH, "auth = { providers = \"mesh\", methods = \"unsafe\" }\ncache = \"60s\"").await;
    club.origin.answer_by("/", |seen| {
        Reply::ok(seen.field("x-user-id").unwrap_or("nobody")).field("cache-control", "max-age=60")
    });
    let rows = [
        (Some("ann"), "ann.members.test", false),
        (None, "nobody", false),
        (Some("bob"), "bob", false),
        (None, "nobody", true),
        (Some("ann"), "ann.members.test", false),
    ];
    for (member, name, hit) in rows {
        let answer = club.ask(member, "GET", "").await;
        assert_eq!((answer.text(), is_hit(&answer)), (name, hit), "{member:?}");
    }
}

#[tokio::test]
async fn requests_with_the_same_key_share_a_limit_wherever_they_come_from() {
    let top = format!("trusted_proxies = [\"127.0.0.1/32\"]\n{PARTNERS}");
    let rules = "auth = \"partners\"\nrate_limit = { rate = \"2/h\", key = \"api_key\" }";
    let shop = Shop::open(&top, rules).await;
    let ask = async |key: Option<&str>, client: &str| {
        let from = ("x-forwarded-for", client);
        match key {
            Some(key) => shop.get(&[("x-api-key", key), from]).await,
            None => shop.get(&[from]).await,
        }
    };
    let mut statuses = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"] {
        statuses.push(ask(Some(ADA), client).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    let refused = ask(Some(ADA), "192.0.2.4").await;
    assert_eq!(reason(&refused), "limit-exceeded");
    assert!(refused.field("ratelimit").unwrap().starts_with("\"all\";r=0;"), "{refused:?}");
    assert_eq!(ask(Some(BOB), "192.0.2.1").await.status, 200, "another key has its own");

    // Keys that nobody knows, and none, are counted by the address: who guesses uses up nobody's rate.
    let guesses = [Some("key-of-nobody-012345"), Some("key-of-eve"), None, Some("key-of-nobody-543210")];
    let mut statuses = Vec::new();
    for key in guesses {
        statuses.push(ask(key, "192.0.2.9").await.status);
    }
    assert_eq!(statuses, [401, 401, 429, 429]);
    assert_eq!(ask(None, "192.0.2.10").await.status, 401);
    assert_eq!(ask(Some(BOB), "192.0.2.9").await.status, 200, "and those have a rate of their own");
    assert_eq!(shop.origin.seen().len(), 4, "who is refused does not come through");
}
