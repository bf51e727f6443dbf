//! Who may do what: the gateway by its secret, everybody else by tokens, and nobody by words alone.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::database::Home;
use crate::support::{Service, directory, eventually, header, problem, user};

const SECRET: &str = "a-secret-of-the-gateway-0123456789abcdef";
const NEXT: &str = "the-next-secret-of-the-gateway-456789abc";
const ISSUER: &str = "https://issuer.test/";

/// An issuer of tokens, with a key of its own.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn keys(&self) -> Value {
        let point: Vec<u8> = self.0.public_key().as_ref().to_vec();
        let (x, y) = point[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "alg": "ES256", "x": x, "y": y}]})
    }

    /// A token that is good for a minute, but for these claims.
    fn token(&self, changes: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"iss": ISSUER, "aud": "users", "exp": now + 60, "sub": "ada"});
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.sign(&json!({"alg": "ES256", "kid": "one", "typ": "at+jwt"}), &claims)
    }

    fn sign(&self, head: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(head), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A service that takes the secrets and the issuer's tokens.
async fn closed(directory: &Home, issuer: &Issuer, more: &str) -> Service {
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("secrets"), format!("{SECRET}\n{NEXT}\n")).unwrap();
    std::fs::write(file("keys.json"), issuer.keys().to_string()).unwrap();
    let config = format!(
        "[access]\n{more}\n[access.gateway]\nsecret_file = '{}'\n[access.tokens]\nissuer = '{ISSUER}'\naudience = 'users'\njwks_file = '{}'",
        file("secrets").display(),
        file("keys.json").display()
    );
    Service::start(directory, &config).await
}

fn through(request: RequestBuilder, scopes: &str) -> RequestBuilder {
    request.header("x-gateway-secret", SECRET).header("x-user-id", "grace").header("x-scopes", scopes)
}

#[tokio::test]
async fn the_gateway_is_believed_by_its_secret_alone() {
    let directory = directory().await;
    let service = closed(&directory, &Issuer::new(), "").await;
    let made = through(service.post(&user("ada")), "openid users:write").send().await.unwrap();
    assert_eq!(made.status(), 201);
    let path = header(&made, "location").to_owned();
    let read = || service.get(&path);
    let shown = through(read(), "users:read").send().await.unwrap();
    assert_eq!(
        (shown.status().as_u16(), header(&shown, "cache-control")),
        (200, "public, max-age=0, s-maxage=30")
    );
    let next = read().header("x-gateway-secret", NEXT).header("x-scopes", "users:read").send().await.unwrap();
    assert_eq!(next.status(), 200);
    let trail = through(service.get(&format!("{path}/audit")), "users:admin").send().await.unwrap();
    assert_eq!(trail.json::<Value>().await.unwrap()["entries"][0]["by"], "caller:grace");

    // The same words without the secret, and with another.
    let posed = read().header("x-user-id", "grace").header("x-scopes", "users:admin").send().await.unwrap();
    assert_eq!(header(&posed, "www-authenticate"), "Bearer scope=\"users:read\"");
    problem(posed, 401, "unauthenticated").await;
    let wrong = read().header("x-gateway-secret", &SECRET[1..]).header("x-scopes", "users:admin");
    problem(wrong.send().await.unwrap(), 401, "invalid-gateway-secret").await;
    let twice = through(read(), "users:read").header("x-scopes", "users:admin").send().await.unwrap();
    problem(twice, 400, "invalid-caller").await;
}

/// Each caller counts by itself.
#[tokio::test]
async fn a_key_of_repetition_is_its_callers_own() {
    let directory = directory().await;
    let service = closed(&directory, &Issuer::new(), "").await;
    let create = |who: &str, name: &str| {
        let request = service.post(&user(name)).header("x-gateway-secret", SECRET).header("x-user-id", who);
        request.header("x-scopes", "users:write").header("idempotency-key", "1").send()
    };
    let first = create("ada", "ada").await.unwrap();
    assert_eq!((first.status().as_u16(), header(&first, "idempotent-replayed")), (201, ""));
    let other = create("grace", "grace").await.unwrap();
    assert_eq!((other.status().as_u16(), header(&other, "idempotent-replayed")), (201, ""));
    let again = create("ada", "ada").await.unwrap();
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    assert_eq!(header(&again, "location"), header(&first, "location"));
}

#[tokio::test]
async fn every_path_asks_for_its_scope() {
    let directory = directory().await;
    let service = closed(&directory, &Issuer::new(), "").await;
    let made = through(service.post(&user("ada")), "users:write").send().await.unwrap();
    let path = header(&made, "location").to_owned();
    let audit = format!("{path}/audit");
    let rows = [
        (Method::GET, "/users", "users:read"),
        (Method::POST, "/users", "users:write"),
        (Method::GET, &path, "users:read"),
        (Method::HEAD, &path, "users:read"),
        (Method::PUT, &path, "users:write"),
        (Method::PATCH, &path, "users:write"),
        (Method::DELETE, &path, "users:write"),
        (Method::GET, &audit, "users:admin"),
        (Method::GET, "/users:export", "users:admin"),
        (Method::POST, "/users:import", "users:admin"),
        (Method::GET, "/events", "users:admin"),
    ];
    for (method, path, scope) in rows {
        let ask = || service.request(method.clone(), path);
        let nobody = ask().send().await.unwrap();
        assert_eq!(
            header(&nobody, "www-authenticate"),
            format!("Bearer scope=\"{scope}\""),
            "{method} {path}"
        );
        assert_eq!(nobody.status(), 401, "{method} {path}");
        let others = ["users:read", "users:write"].into_iter().filter(|other| *other != scope);
        for other in others {
            let denied = through(ask(), other).send().await.unwrap();
            let challenge = header(&denied, "www-authenticate");
            assert!(challenge.contains("insufficient_scope") && challenge.contains(scope), "{challenge}");
            assert_eq!(denied.status(), 403, "{method} {path}");
        }
    }
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"] {
        assert_eq!(service.get(open).send().await.unwrap().status(), 200, "{open}");
    }
    problem(service.get("/nowhere").send().await.unwrap(), 404, "not-found").await;
}

#[tokio::test]
async fn what_is_public_needs_nobody() {
    let directory = directory().await;
    let service = closed(&directory, &Issuer::new(), "public = ['users:read']").await;
    assert_eq!(service.get("/users").send().await.unwrap().status(), 200);
    problem(service.post(&user("ada")).send().await.unwrap(), 401, "unauthenticated").await;
    let bad = service.get("/users").bearer_auth("a.b.c").send().await.unwrap();
    problem(bad, 401, "invalid-token").await;
}

#[tokio::test]
async fn direct_callers_show_a_token_of_the_issuer_for_this_service() {
    let directory = directory().await;
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let service = closed(&directory, &issuer, "").await;
    let writes = json!({"scope": "users:write users:read"});
    let made = service.post(&user("ada")).bearer_auth(issuer.token(&writes)).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let path = header(&made, "location").to_owned();
    let shown = service.get(&path).bearer_auth(issuer.token(&json!({"scp": ["users:read"]})));
    let shown = shown.send().await.unwrap();
    assert_eq!((shown.status().as_u16(), header(&shown, "cache-control")), (200, "private, no-cache"));
    let admin =
        service.get(&format!("{path}/audit")).bearer_auth(issuer.token(&json!({"scope": "users:admin"})));
    assert_eq!(admin.send().await.unwrap().json::<Value>().await.unwrap()["entries"][0]["by"], "caller:ada");
    let denied = service.delete(&path).bearer_auth(issuer.token(&json!({"scope": "users:read"})));
    problem(denied.send().await.unwrap(), 403, "insufficient-scope").await;

    let claims = |changes: Value| {
        let mut claims = writes.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        issuer.token(&claims)
    };
    let whole = json!({"iss": ISSUER, "aud": "users", "exp": 4_000_000_000_u64, "scope": "users:read"});
    let head = |changes: Value| {
        let mut head = json!({"alg": "ES256", "kid": "one"});
        head.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        issuer.sign(&head, &whole)
    };
    let (good, tail) = (head(json!({})), "x".repeat(16 * 1024));
    assert_eq!(service.get("/users").bearer_auth(&good).send().await.unwrap().status(), 200);
    for (why, token) in [
        ("other issuer", claims(json!({"iss": "https://issuer.test"}))),
        ("no issuer", claims(json!({"iss": null}))),
        ("other audience", claims(json!({"aud": "orders"}))),
        ("no audience", claims(json!({"aud": null}))),
        ("expired", claims(json!({"exp": 1_000_000_000}))),
        ("no end", claims(json!({"exp": null}))),
        ("not yet", claims(json!({"nbf": 4_000_000_000_u64}))),
        ("bad name", claims(json!({"sub": "\u{e9}"}))),
        ("other signer", other.token(&writes)),
        ("unknown key", head(json!({"kid": "two"}))),
        ("no signature", format!("{}.", good.rsplit_once('.').unwrap().0)),
        ("none", head(json!({"alg": "none"}))),
        ("HMAC", head(json!({"alg": "HS256"}))),
        ("critical", head(json!({"crit": ["b64"], "b64": false}))),
        ("other kind", head(json!({"typ": "logout+jwt"}))),
        ("too long", format!("{good}{tail}")),
    ] {
        let answer = service.get("/users").bearer_auth(token).send().await.unwrap();
        assert!(header(&answer, "www-authenticate").contains("invalid_token"), "{why}: {answer:?}");
        assert_eq!(answer.status(), 401, "{why}");
    }
}

#[tokio::test]
async fn keys_are_fetched_and_fetched_anew_for_a_new_one() {
    let directory = directory().await;
    let issuer = Issuer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let config = format!("[access.tokens]\nissuer = '{ISSUER}'\naudience = 'users'\njwks = '{url}'");
    let service = Service::start(&directory, &config).await;
    let ask = || service.get("/users").bearer_auth(issuer.token(&json!({"scope": "users:read"})));
    let (first, ()) = tokio::join!(ask().send(), answer(&listener, "{\"keys\": []}"));
    let first = first.unwrap();
    assert_eq!(header(&first, "retry-after"), "1");
    problem(first, 503, "identity-unavailable").await;
    let keys = issuer.keys().to_string();
    let fetched = tokio::spawn(async move { answer(&listener, &keys).await });
    eventually("the key is there", || async { ask().send().await.unwrap().status() == 200 }).await;
    fetched.await.unwrap();
}

/// Answers one request with this JSON.
async fn answer(listener: &TcpListener, body: &str) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn an_address_that_others_reach_is_not_open_unless_it_is_said() {
    let directory = directory().await;
    let start = |listen: &str, secret: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
        command.env_clear().env("USER_SERVICE_DATABASE", directory.url()).env("USER_SERVICE_LISTEN", listen);
        command.envs(secret.map(|secret| ("USER_SERVICE_GATEWAY_SECRET", secret)));
        command.stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    let refused = start("0.0.0.0:0", None).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("access.open"));
    let short = start("127.0.0.1:0", Some("short")).output().await.unwrap();
    assert_eq!(short.status.code(), Some(2));
    let service = Service::spawn(&mut start("127.0.0.1:0", Some(SECRET))).await;
    problem(service.get("/users").send().await.unwrap(), 401, "unauthenticated").await;
    let read = through(service.get("/users"), "users:read").send().await.unwrap();
    assert_eq!(read.status(), 200);
}
