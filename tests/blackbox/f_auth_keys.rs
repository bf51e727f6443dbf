//! The keys of an issuer: found, fetched early, kept new, and kept while it is away.

use serde_json::json;

use crate::support::issuer::{DESCRIPTION, KEYS, Key};
use crate::support::{Answer, Certs, Gate, Gateway, Issuer, PATIENCE, Raw, Reply, eventually, plain};

const ROUTE: &str = "[routes.all]\nrespond = { body = \"in\" }\nauth = \"idp\"\n";

async fn before(issuer: &Issuer, lines: &str) -> Gateway {
    Gateway::start(&(plain() + &issuer.provider(lines) + ROUTE)).await
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    Raw::tcp(gateway.http()).await.ask(request).await
}

/// Waits until the gateway has fetched so often.
async fn fetched(gateway: &Gateway, result: &str, times: u64) {
    let series = format!("tidegate_auth_key_fetches_total{{result=\"{result}\"}}");
    eventually(PATIENCE, &format!("{times} {result}"), async || gateway.count(&series).await >= times).await;
}

/// As often as is allowed.
const OFTEN: &str = "jwks = { refresh = \"1s\", min_interval = \"1s\" }";

#[tokio::test]
async fn keys_are_there_before_anybody_asks() {
    let issuer = Issuer::start().await;
    let gateway = before(&issuer, "").await;
    fetched(&gateway, "fetched", 1).await;
    assert_eq!((issuer.origin.requests(DESCRIPTION), issuer.origin.requests(KEYS)), (1, 1));
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 200);
    }
    assert_eq!(issuer.origin.requests(KEYS), 1);
    let at = gateway.count("tidegate_auth_keys_fetched_seconds{provider=\"idp\"}").await;
    assert!(at.abs_diff(crate::support::issuer::now()) < 300, "{at}");
}

#[tokio::test]
async fn an_issuer_that_is_away_stops_no_start_and_is_found_when_it_comes() {
    let mut issuer = Issuer::start().await;
    let token = issuer.token(json!({}));
    issuer.origin.stop().await;
    let gateway = before(&issuer, OFTEN).await;
    fetched(&gateway, "failed", 1).await;

    let refused = ask(&gateway, &token).await;
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("5")));
    assert_eq!(refused.json()["reason"], "identity-unavailable");
    assert_eq!(refused.field("www-authenticate"), None);
    // What is wrong without any key is told all the same.
    assert_eq!(ask(&gateway, "x").await.status, 401);

    issuer.origin.restart();
    eventually(PATIENCE, "the keys are there", async || ask(&gateway, &token).await.status == 200).await;
    // Away again: what is known stays in use.
    issuer.origin.stop().await;
    let failed = gateway.count("tidegate_auth_key_fetches_total{result=\"failed\"}").await;
    fetched(&gateway, "failed", failed + 2).await;
    assert_eq!(ask(&gateway, &issuer.token(json!({ "sub": "bob" }))).await.status, 200);
    let told = gateway.wrote().matches("the keys of the issuer cannot be fetched").count();
    assert_eq!(told, 2, "once for each time that it went: {}", gateway.wrote());
}

#[tokio::test]
async fn requests_wait_for_the_first_keys_and_share_one_fetch() {
    let issuer = Issuer::start().await;
    let gate = Gate::closed();
    let keys = json!({ "keys": [issuer.key.public()] }).to_string();
    issuer.origin.answer(KEYS, Reply::ok(keys).behind(&gate));
    let gateway = before(&issuer, "").await;
    let token = issuer.token(json!({}));
    let asking: Vec<_> = (0..20).map(|_| ask(&gateway, &token)).collect();
    let all = futures_join(asking);
    let opened = async {
        let waiting = async || gateway.count("tidegate_requests_in_flight").await == 20;
        eventually(PATIENCE, "all wait", waiting).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(all, opened);
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(issuer.origin.requests(KEYS), 1);
}

async fn futures_join(asking: Vec<impl Future<Output = Answer>>) -> Vec<Answer> {
    let mut asking: Vec<_> = asking.into_iter().map(Box::pin).collect();
    let mut answers: Vec<Option<Answer>> = asking.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (asked, answer) in asking.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(came) = asked.as_mut().poll(context)
            {
                *answer = Some(came);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(answers.iter_mut().filter_map(Option::take).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn a_new_key_is_fetched_when_its_first_token_comes_and_a_made_up_one_once() {
    let issuer = Issuer::start().await;
    let gateway = before(&issuer, "jwks = { min_interval = \"1s\" }").await;
    assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 200);

    let (new, made_up) = (Key::ed25519("two"), Key::ed25519("three"));
    issuer.show(&[&issuer.key, &new]);
    let token = issuer.token_by(&new, json!({}));
    // Within a second of the start none is fetched; after it, one is.
    eventually(PATIENCE, "the new key is known", async || ask(&gateway, &token).await.status == 200).await;
    assert_eq!(issuer.origin.requests(KEYS), 2);

    let forged = issuer.token_by(&made_up, json!({}));
    for _ in 0..50 {
        let answer = ask(&gateway, &forged).await;
        assert_eq!((answer.status, &answer.json()["detail"]), (401, &json!("the issuer has no such key")));
    }
    let fetches = issuer.origin.requests(KEYS);
    assert!(fetches < 20, "{fetches} fetches for 50 tokens");
    assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 200, "the old one holds");
}

#[tokio::test]
async fn a_key_that_is_withdrawn_takes_its_tokens_with_it() {
    let issuer = Issuer::start().await;
    let gateway = before(&issuer, OFTEN).await;
    let token = issuer.token(json!({}));
    assert_eq!(ask(&gateway, &token).await.status, 200);
    let new = Key::p256("two");
    issuer.show(&[&new]);
    eventually(PATIENCE, "the remembered token is refused", async || {
        ask(&gateway, &token).await.status == 401
    })
    .await;
    assert_eq!(ask(&gateway, &issuer.token_by(&new, json!({}))).await.status, 200);
    // An answer that is no set of keys takes nothing away.
    issuer.origin.answer(KEYS, Reply::ok("{\"keys\":[]}"));
    fetched(&gateway, "failed", 1).await;
    assert_eq!(ask(&gateway, &issuer.token_by(&new, json!({}))).await.status, 200);
}

#[tokio::test]
async fn who_describes_another_issuer_gives_no_keys() {
    let issuer = Issuer::start().await;
    issuer.describe("http://127.0.0.1:1");
    let gateway = before(&issuer, "").await;
    fetched(&gateway, "failed", 1).await;
    assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 503);
    assert!(gateway.wrote().contains("its `issuer` is another, letter for letter"), "{}", gateway.wrote());
    assert_eq!(issuer.origin.requests(KEYS), 0);
}

#[tokio::test]
async fn an_issuer_that_points_elsewhere_or_says_too_much_gives_no_keys() {
    let good = |issuer: &Issuer| json!({ "keys": [issuer.key.public()] });
    let issuer = Issuer::start().await;
    issuer.origin.answer("/elsewhere", Reply::ok(good(&issuer).to_string()));
    let padded = format!("{}{}", good(&issuer), " ".repeat(1 << 20));
    let many = json!({ "keys": vec![issuer.key.public(); 65] }).to_string();
    let away = Reply::new(302, "").field("location", &format!("{}/elsewhere", issuer.url()));
    let rows = [
        ("redirected", away, "is answered with 302"),
        ("without an end", Reply::ok(padded), "length limit exceeded"),
        ("many", Reply::ok(many), "has more than 64 keys"),
    ];
    for (what, reply, told) in rows {
        issuer.origin.answer(KEYS, reply);
        let gateway = before(&issuer, "").await;
        fetched(&gateway, "failed", 1).await;
        assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 503, "{what}");
        assert!(gateway.wrote().contains(told), "{what}: {}", gateway.wrote());
    }
    assert_eq!(issuer.origin.requests("/elsewhere"), 0, "where it points is not asked");

    // In the clear keys are fetched on this machine alone, whatever the description says.
    let description = json!({ "issuer": issuer.url(), "jwks_uri": "http://id.example.com/keys" });
    issuer.origin.answer(DESCRIPTION, Reply::ok(description.to_string()));
    let gateway = before(&issuer, "").await;
    fetched(&gateway, "failed", 1).await;
    assert!(gateway.wrote().contains("is no `https` URL"), "{}", gateway.wrote());
}

#[tokio::test]
async fn an_issuer_may_describe_itself_as_oauth_does() {
    let issuer = Issuer::start().await;
    issuer.origin.answer(DESCRIPTION, Reply::new(404, ""));
    let description = json!({ "issuer": issuer.url(), "jwks_uri": format!("{}{KEYS}", issuer.url()) });
    issuer.origin.answer("/.well-known/oauth-authorization-server", Reply::ok(description.to_string()));
    let gateway = before(&issuer, "").await;
    assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 200);
}

#[tokio::test]
async fn keys_may_stand_in_a_file_which_is_watched() {
    let issuer = Issuer::start().await;
    let set = |key: &Key| json!({ "keys": [key.public()] }).to_string();
    let config = plain() + &issuer.provider("jwks = { file = \"keys.json\" }") + ROUTE;
    let gateway = Gateway::start_with(&config, &[("keys.json", &set(&issuer.key))]).await;
    let new = Key::p256("two");
    let (old_token, new_token) = (issuer.token(json!({})), issuer.token_by(&new, json!({})));
    assert_eq!((ask(&gateway, &old_token).await.status, ask(&gateway, &new_token).await.status), (200, 401));

    std::fs::write(gateway.folder().join("keys.json"), set(&new)).unwrap();
    eventually(PATIENCE, "the new file holds", async || ask(&gateway, &new_token).await.status == 200).await;
    assert_eq!(ask(&gateway, &old_token).await.status, 401);
    assert!(issuer.origin.seen().is_empty(), "nobody is asked for what stands in a file");
}

#[tokio::test]
async fn a_reload_keeps_keys_and_what_is_remembered() {
    let issuer = Issuer::start().await;
    let config = plain() + &issuer.provider("") + ROUTE;
    let gateway = Gateway::start(&config).await;
    let token = issuer.token(json!({}));
    assert_eq!(ask(&gateway, &token).await.status, 200);
    gateway.rewrite(&config.replace("\"in\"", "\"still in\""));
    eventually(PATIENCE, "reloaded", async || ask(&gateway, &token).await.text() == "still in").await;
    assert_eq!(issuer.origin.requests(KEYS), 1);
    assert_eq!(gateway.count("tidegate_auth_tokens_total{outcome=\"verified\"}").await, 1);

    // Another audience is another provider: nothing that the one before has verified holds for it.
    gateway.rewrite(&config.replace("audience = \"users\"", "audience = \"orders\""));
    eventually(PATIENCE, "reloaded", async || ask(&gateway, &token).await.status == 401).await;
    assert_eq!(ask(&gateway, &issuer.token(json!({ "aud": "orders" }))).await.status, 200);
}

#[tokio::test]
async fn an_issuer_is_believed_by_its_certificate() {
    let certs = Certs::for_names(&["localhost"]);
    let strangers = Certs::for_names(&["localhost"]);
    let issuer = Issuer::start().await;
    // The issuer stands behind a gateway of its own, which ends TLS for it.
    let front = crate::support::https(&certs)
        + &format!("[routes.all]\nupstream = \"{}\"\n", issuer.origin.address());
    let front = Gateway::start(&front).await;
    let keys = format!("https://localhost:{}{KEYS}", front.https().port());
    let config = plain() + &issuer.provider(&format!("jwks = {keys:?}\nca = \"ca.pem\"")) + ROUTE;
    for (authority, status) in [(&certs, 200), (&strangers, 503)] {
        let gateway = Gateway::start_with(&config, &[("ca.pem", &authority.authority_pem())]).await;
        let result = if status == 200 { "fetched" } else { "failed" };
        fetched(&gateway, result, 1).await;
        assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, status);
    }
    assert_eq!(issuer.origin.requests(DESCRIPTION), 0, "it was said where the keys are");
}
