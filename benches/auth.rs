//! What callers cost: `cargo bench --bench auth`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::{Bencher, black_box};
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use tidegate::auth::{
    Algorithm, ApiKey, ApiKeySettings, By, Claims, Credentials, Door, Expected, Headers, JwtSettings, KeySet,
    KeySettings, KeySource, Needed, Pace, Provider, Requirements, Revoked, Settings,
};
use tidegate::telemetry::Meters;

fn main() {
    divan::main();
}

/// An issuer with one key of P-256, and a door for callers that it vouches for.
struct Scene {
    pair: EcdsaKeyPair,
    door: Door,
}

const ISSUER: &str = "https://id.example.com/";

impl Scene {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "one", "x": x, "y": y }] });
        let keys = KeySet::read(keys.to_string().as_bytes()).expect("a set of keys");
        let minute = Duration::from_secs(60);
        let jwt = JwtSettings {
            expected: Expected {
                issuer: ISSUER.to_owned(),
                audiences: vec!["users-api".to_owned()],
                kind: None,
                leeway: Duration::from_secs(30),
            },
            algorithms: vec![Algorithm::Es256],
            keys: KeySettings {
                source: KeySource::Fixed(keys),
                pace: Pace { refresh: minute, floor: minute },
                authorities: None,
            },
        };
        let headers = Headers(vec![(header::HeaderName::from_static("x-user-id"), "sub".to_owned())]);
        let settings = Settings { headers, roles_claim: "roles".to_owned(), by: By::Jwt(Box::new(jwt)) };
        let provider = Provider::follow("idp", settings, Revoked::none(), None, &Meters::new());
        let requirements = Requirements { scopes: vec!["users:write".to_owned()], ..Requirements::default() };
        Self { pair, door: Door::new(vec![provider], Needed::Always, requirements) }
    }

    /// The fields of a request with a token as issuers make them, padded to some length.
    fn request(&self, number: u64, padding: usize) -> HeaderMap {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": "users-api", "exp": now + 3600, "iat": now, "sub": number.to_string(),
            "scope": "openid users:read users:write", "tenant": "acme", "pad": "x".repeat(padding),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({ "alg": "ES256", "kid": "one" })), part(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        let token = format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        [(header::AUTHORIZATION, token.parse().expect("a field"))].into_iter().collect()
    }

    fn is_admitted(&self, runtime: &tokio::runtime::Runtime, request: &HeaderMap) -> bool {
        let identified = runtime.block_on(self.door.identify(&shown(request)));
        self.door.admit(&Method::POST, &identified).is_ok()
    }
}

fn shown(fields: &HeaderMap) -> Credentials<'_> {
    Credentials { fields, certificate: None }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// A caller whose token was verified before, with so many more bytes in it: found, and its scope asked.
#[divan::bench(args = [0, 512, 4096])]
fn a_token_that_is_remembered(bencher: Bencher<'_, '_>, padding: usize) {
    let (scene, runtime) = (Scene::new(), runtime());
    let request = scene.request(7, padding);
    assert!(scene.is_admitted(&runtime, &request));
    bencher.bench_local(|| {
        let identified = scene.door.recall(&shown(black_box(&request))).expect("it is remembered");
        scene.door.admit(&Method::POST, &identified).is_ok()
    });
}

/// The same from two threads at once.
#[divan::bench(threads = 2)]
fn a_token_that_is_remembered_by_two_threads(bencher: Bencher<'_, '_>) {
    let scene = Arc::new(Scene::new());
    let requests: Vec<HeaderMap> = (0..64).map(|number| scene.request(number, 512)).collect();
    let runtime = runtime();
    assert!(requests.iter().all(|request| scene.is_admitted(&runtime, request)));
    bencher.with_inputs(|| fastrand::usize(..requests.len())).bench_values(|number| {
        let identified = scene.door.recall(&shown(black_box(&requests[number]))).expect("it is remembered");
        scene.door.admit(&Method::POST, &identified).is_ok()
    });
}

/// A caller whose token was not seen before: read, its signature by P-256 verified, and remembered.
#[divan::bench]
fn a_token_that_is_new(bencher: Bencher<'_, '_>) {
    let (scene, runtime) = (Scene::new(), runtime());
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            scene.request(number, 0)
        })
        .bench_local_values(|request| scene.is_admitted(&runtime, &request));
}

/// One that is not good: its signature is another's.
#[divan::bench]
fn a_token_that_is_forged(bencher: Bencher<'_, '_>) {
    let (scene, stranger, runtime) = (Scene::new(), Scene::new(), runtime());
    let request = stranger.request(7, 0);
    bencher.bench_local(|| assert!(!scene.is_admitted(&runtime, black_box(&request))));
}

/// An API key, one of a hundred thousand.
#[divan::bench]
fn an_api_key(bencher: Bencher<'_, '_>) {
    let field = header::HeaderName::from_static("x-api-key");
    let key = |number: u32| ApiKey {
        id: number.to_string(),
        sha256: digest(&SHA256, format!("a-key-of-ours-{number}").as_bytes())
            .as_ref()
            .try_into()
            .expect("32 bytes"),
        claims: Claims::new(),
        until: None,
    };
    let keys = ApiKeySettings { field: field.clone(), keys: (0..100_000).map(key).collect() };
    let settings =
        Settings { headers: Headers::default(), roles_claim: "roles".to_owned(), by: By::ApiKey(keys) };
    let provider = Provider::follow("partners", settings, Revoked::none(), None, &Meters::new());
    let door = Door::new(vec![provider], Needed::Always, Requirements::default());
    let request: HeaderMap = [(field, "a-key-of-ours-777".parse().expect("a field"))].into_iter().collect();
    bencher.bench_local(|| {
        let identified = door.recall(&shown(black_box(&request))).expect("it is known");
        door.admit(&Method::POST, &identified).is_ok()
    });
}
