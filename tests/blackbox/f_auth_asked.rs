//! Tokens of which their issuer is asked (RFC 7662), and tokens that were taken back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::issuer::now;
use crate::support::origin::Seen;
use crate::support::redis::Redis;
use crate::support::{
    Answer, Fleet, Gate, Gateway, Issuer, Node, Origin, PATIENCE, Raw, Reply, eventually, plain,
};

/// Where the issuer is asked.
const INTROSPECT: &str = "/introspect";

const CLIENT: &str = "client_id = \"gateway\"\nclient_secret = { file = \"secret\" }";

/// An issuer that says of tokens what a test has it say, and a gateway that asks it.
struct Asked {
    issuer: Origin,
    says: Arc<Mutex<HashMap<String, Value>>>,
    gateway: Gateway,
}

impl Asked {
    /// With these lines of the provider.
    async fn start(lines: &str) -> Self {
        let issuer = Origin::start("issuer").await;
        let says: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
        let known = says.clone();
        issuer.answer_by(INTROSPECT, move |seen| {
            let said = known.lock().unwrap().get(&*form(seen, "token")).cloned();
            Reply::ok(said.unwrap_or_else(|| json!({ "active": false })).to_string())
        });
        let address = issuer.address();
        let provider = format!(
            "[auth.opaque.introspection]\nurl = \"http://{address}{INTROSPECT}\"\n{CLIENT}\n{lines}\n"
        );
        let route = "[routes.all]\nrespond = { body = \"in\" }\nauth = { providers = \"opaque\", scopes = [\"a\"] }\n";
        let config = format!("{}log.access = \"json\"\n{provider}{route}", plain());
        let gateway = Gateway::start_with(&config, &[("secret", "s3cr3t\n")]).await;
        Self { issuer, says, gateway }
    }

    /// Says this of a token from now on, besides that it is active and within the scope.
    fn say(&self, token: &str, more: &Value) {
        let mut said = json!({ "active": true, "scope": "a b", "sub": "ada" });
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.says.lock().unwrap().insert(token.to_owned(), said);
    }

    async fn get(&self, token: &str) -> Answer {
        ask(&self.gateway, token).await
    }

    fn questions(&self) -> usize {
        self.issuer.requests(INTROSPECT)
    }

    async fn count(&self, outcome: &str) -> u64 {
        self.gateway
            .count(&format!("tidegate_auth_tokens_total{{provider=\"opaque\",outcome=\"{outcome}\"}}"))
            .await
    }
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    Raw::tcp(gateway.http()).await.ask(request).await
}

/// A field of the form that came.
fn form(seen: &Seen, name: &str) -> String {
    let body = std::str::from_utf8(&seen.body).unwrap();
    let field = body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    field.unwrap_or_default().replace("%2D", "-")
}

#[tokio::test]
async fn the_issuer_is_asked_once_and_its_answer_counts_for_a_while() {
    let asked = Asked::start("cache = \"1m\"\naudience = \"users\"").await;
    asked.say("good", &json!({ "aud": ["users", "others"], "exp": now() + 600, "client_id": "shop" }));
    for _ in 0..3 {
        let answer = asked.get("good").await;
        assert_eq!(answer.status, 200);
        assert_eq!(asked.gateway.access_line(&answer).await["caller"], "ada");
    }
    assert_eq!(
        (asked.questions(), asked.count("verified").await, asked.count("remembered").await),
        (1, 1, 2)
    );
    let question = asked.issuer.seen().pop().unwrap();
    assert_eq!((&*question.method, question.field("accept")), ("POST", Some("application/json")));
    assert_eq!(question.field("authorization"), Some("Basic Z2F0ZXdheTpzM2NyM3Q="));
    assert_eq!(question.body, b"token=good&token_type_hint=access_token");

    asked.say("other", &json!({ "aud": "others" }));
    asked.say("narrow", &json!({ "aud": "users", "scope": "b" }));
    asked.say("over", &json!({ "aud": "users", "exp": now() - 1 }));
    for (token, status, told) in [
        ("unknown", 401, "the token is not active"),
        ("other", 401, "the token is for somebody else"),
        ("over", 401, "the token has expired"),
        ("narrow", 403, "this needs a scope that is missing"),
    ] {
        for _ in 0..2 {
            let refused = asked.get(token).await;
            assert_eq!((refused.status, &refused.json()["detail"]), (status, &json!(told)), "{token}");
        }
    }
    assert_eq!(asked.questions(), 5, "that a token is not good counts for a while, too");
    let huge = asked.get(&"x".repeat((16 << 10) + 1)).await;
    assert_eq!((huge.status, asked.questions()), (401, 5));
    for secret in ["s3cr3t", "good", "Z2F0ZXdheTpzM2NyM3Q"] {
        assert!(!asked.gateway.wrote().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn who_shows_the_same_token_waits_for_one_answer_and_may_leave() {
    let asked = Asked::start("cache = \"1m\"\ntimeout = \"10s\"").await;
    let gate = Gate::closed();
    let said = json!({ "active": true, "scope": "a" }).to_string();
    asked.issuer.answer(INTROSPECT, Reply::ok(said).behind(&gate));
    // The first to ask leaves before there is an answer.
    let mut leaver = Raw::tcp(asked.gateway.http()).await;
    leaver.send("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer same\r\n\r\n").await;
    eventually(PATIENCE, "the issuer is asked", async || asked.questions() == 1).await;
    drop(leaver);
    let address = asked.gateway.http();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        waiting.spawn(async move {
            let request = "GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer same\r\n\r\n";
            Raw::tcp(address).await.ask(request.to_owned()).await.status
        });
    }
    let all = async || asked.gateway.count("tidegate_requests_in_flight").await >= 20;
    eventually(PATIENCE, "all wait", all).await;
    gate.open();
    assert!(waiting.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(asked.questions(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_away_lets_nobody_in_beyond_what_is_remembered() {
    let mut asked = Asked::start("cache = \"2s\"\ntimeout = \"1s\"").await;
    asked.say("good", &json!({}));
    asked.say("new", &json!({}));
    assert_eq!(asked.get("good").await.status, 200);
    asked.issuer.stop().await;
    let away = asked.get("new").await;
    assert_eq!((away.status, away.field("retry-after")), (503, Some("5")));
    assert_eq!(away.json()["reason"], "identity-unavailable");
    eventually(PATIENCE, "the answer is over", async || asked.get("good").await.status == 503).await;

    asked.issuer.restart();
    eventually(PATIENCE, "it is back", async || asked.get("new").await.status == 200).await;
    let wrote = asked.gateway.wrote();
    assert_eq!(wrote.matches("tokens cannot be verified").count(), 1, "{wrote}");
    assert_eq!(wrote.matches("the issuer answers again").count(), 1, "{wrote}");
    assert!(asked.count("unavailable").await >= 2);
}

#[tokio::test]
async fn answers_that_say_nothing_let_nobody_in() {
    let asked = Asked::start("cache = \"0s\"").await;
    for reply in [
        Reply::ok("active"),
        Reply::ok("{}"),
        Reply::ok(r#"{"active":"true","scope":"a"}"#),
        Reply::ok(r#"{"active":false,"active":true,"scope":"a"}"#),
        Reply::ok(format!(r#"{{"active":true,"scope":"a","x":"{}"}}"#, "x".repeat(1 << 20))),
        Reply::new(401, "{\"error\":\"invalid_client\"}"),
        Reply::new(500, r#"{"active":true,"scope":"a"}"#),
        Reply::new(302, "").field("location", "http://127.0.0.1:1/"),
        Reply::ok(r#"{"active":true,"scope":"a"}"#).cut_after(80),
    ] {
        asked.issuer.answer(INTROSPECT, reply);
        // After a failure nobody is asked for a moment.
        let before = asked.questions();
        eventually(PATIENCE, "it is asked", async || {
            assert_eq!(asked.get("good").await.status, 503);
            asked.questions() > before
        })
        .await;
    }
    asked.issuer.answer(INTROSPECT, Reply::ok(r#"{"active":true,"scope":"a"}"#));
    eventually(PATIENCE, "it answers", async || asked.get("good").await.status == 200).await;
    assert!(asked.gateway.wrote().contains("is `active`"), "{}", asked.gateway.wrote());
}

#[tokio::test]
async fn a_token_that_the_issuer_chokes_on_harms_no_other() {
    let asked = Asked::start("cache = \"0s\"").await;
    asked.issuer.answer_by(INTROSPECT, |seen| match &*form(seen, "token") {
        "poison" => Reply::new(500, ""),
        "strange" => Reply::new(400, r#"{"error":"invalid_request"}"#),
        _ => Reply::ok(r#"{"active":true,"scope":"a"}"#),
    });
    for _ in 0..3 {
        for (token, status) in [("poison", 503), ("good", 200), ("strange", 401), ("good", 200)] {
            assert_eq!(asked.get(token).await.status, status, "{token}");
        }
    }
    let told = asked.gateway.wrote().matches("tokens cannot be verified").count();
    assert_eq!(told, 1, "nobody fills the log with tokens: {}", asked.gateway.wrote());
}

#[tokio::test]
async fn a_token_that_was_taken_back_counts_no_longer_than_its_answer() {
    let asked = Asked::start("cache = \"1s\"").await;
    asked.say("good", &json!({}));
    assert_eq!(asked.get("good").await.status, 200);
    asked.says.lock().unwrap().clear();
    eventually(PATIENCE, "it is refused", async || asked.get("good").await.status == 401).await;

    let always = Asked::start("cache = \"0s\"").await;
    always.say("good", &json!({}));
    assert_eq!(always.get("good").await.status, 200);
    always.says.lock().unwrap().clear();
    assert_eq!(always.get("good").await.status, 401);
    assert_eq!(always.questions(), 2);
}

#[tokio::test]
async fn an_answer_counts_no_longer_than_its_token() {
    let asked = Asked::start("cache = \"5m\"").await;
    asked.say("short", &json!({ "exp": now() + 6 }));
    assert_eq!(asked.get("short").await.status, 200);
    eventually(PATIENCE, "it is over", async || asked.get("short").await.status == 401).await;
    assert_eq!(asked.questions(), 2, "it was asked again, and the answer was past its time");
}

#[tokio::test]
async fn signed_tokens_and_others_are_told_apart_by_who_knows_them() {
    let issuer = Issuer::start().await;
    let opaque = Origin::start("opaque").await;
    opaque.answer(INTROSPECT, Reply::ok(r#"{"active":true,"sub":"bob"}"#));
    let providers = format!(
        "{}[auth.opaque.introspection]\nurl = \"http://{}{INTROSPECT}\"\n{CLIENT}\nclient_auth = \"post\"\n",
        issuer.provider(""),
        opaque.address(),
    );
    let route = "[routes.all]\nrespond = { body = \"in\" }\nauth = { providers = [\"idp\", \"opaque\"] }\n";
    let config = format!("{}log.access = \"json\"\n{providers}{route}", plain());
    let gateway = Gateway::start_with(&config, &[("secret", "s3cr3t")]).await;
    for (token, caller, questions) in [(issuer.token(json!({})), "ada", 0), ("opaque".to_owned(), "bob", 1)] {
        let answer = ask(&gateway, &token).await;
        assert_eq!(answer.status, 200);
        assert_eq!(gateway.access_line(&answer).await["caller"], caller);
        assert_eq!(opaque.requests(INTROSPECT), questions, "a token that was verified is not asked about");
    }
    let question = opaque.seen().pop().unwrap();
    assert_eq!(
        (form(&question, "client_id"), form(&question, "client_secret")),
        ("gateway".into(), "s3cr3t".into())
    );
    assert_eq!(question.field("authorization"), None);
    opaque.answer(INTROSPECT, Reply::ok(r#"{"active":false}"#));
    let refused = ask(&gateway, "gone").await;
    assert_eq!((refused.status, &refused.json()["detail"]), (401, &json!("the token is not active")));
}

// === Tokens that were taken back ===

#[tokio::test]
async fn a_token_on_the_list_is_refused_though_it_is_remembered() {
    let issuer = Issuer::start().await;
    let provider = issuer.provider("revoked_file = \"revoked\"");
    let config = plain() + &provider + "[routes.all]\nrespond = { body = \"in\" }\nauth = \"idp\"\n";
    let gateway = Gateway::start_with(&config, &[("revoked", "# nobody yet\n")]).await;
    let [one, two] = ["one", "two"].map(|id| issuer.token(json!({ "jti": id })));
    let list = |text: &str| std::fs::write(gateway.folder().join("revoked"), text).unwrap();
    assert_eq!((ask(&gateway, &one).await.status, ask(&gateway, &two).await.status), (200, 200));

    list("one # lost\n");
    eventually(PATIENCE, "it is refused", async || ask(&gateway, &one).await.status == 401).await;
    let refused = ask(&gateway, &one).await;
    assert_eq!(refused.json()["detail"], "the token was revoked");
    assert_eq!(ask(&gateway, &two).await.status, 200);
    // What was verified before is remembered still, and so are the keys.
    assert_eq!(gateway.count("tidegate_auth_key_fetches_total{result=\"fetched\"}").await, 1);
    assert!(gateway.count("tidegate_auth_tokens_total{outcome=\"revoked\"}").await >= 1);
    assert!(gateway.count("tidegate_auth_tokens_total{outcome=\"remembered\"}").await >= 1);
    // Nobody could take back a token without a name.
    assert_eq!(ask(&gateway, &issuer.token(json!({}))).await.status, 401);

    list("two words\n");
    let told = async || gateway.wrote().contains("this is no name of a token");
    eventually(PATIENCE, "it is told", told).await;
    assert_eq!((ask(&gateway, &one).await.status, ask(&gateway, &two).await.status), (401, 200));
    list("two\n");
    eventually(PATIENCE, "the one comes back", async || ask(&gateway, &one).await.status == 200).await;
    assert_eq!(ask(&gateway, &two).await.status, 401);
}

#[tokio::test]
async fn a_token_that_is_taken_back_on_one_node_is_refused_on_all() {
    let (redis, issuer) = (Redis::start().await, Issuer::start().await);
    let provider = issuer.provider("revoked_redis = true");
    let other = issuer.provider("").replace("auth.idp.", "auth.other.");
    let routes = "[routes.all]\nrespond = { body = \"in\" }\nauth = \"idp\"\n";
    let url = redis.url();
    let mut fleet = Fleet::over(&[&url, &url], "10s", "", &(provider + &other + routes)).await;
    let bearer = |id: &str| format!("Bearer {}", issuer.token(json!({ "jti": id })));
    let (one, two) = (bearer("one"), bearer("two"));
    let status =
        async |node: &Node, token: &str| node.get_with("/", &[("authorization", token)]).await.status;
    for node in &fleet.nodes {
        assert_eq!((status(node, &one).await, status(node, &two).await), (200, 200));
    }

    let revoke = async |node: &Node, words: &[&str]| {
        let admin = node.gateway.admin().to_string();
        Gateway::run(&[&["revoke", "--admin", &admin], words].concat()).await
    };
    let (code, said) = revoke(&fleet.nodes[0], &["one", "--provider", "idp", "--for", "1h"]).await;
    assert_eq!((code, &*said), (Some(0), "the token `one` of `idp` is refused for 1h\n"));
    assert_eq!(status(&fleet.nodes[0], &one).await, 401, "here at once, though it is remembered");
    eventually(PATIENCE, "the other hears", async || status(&fleet.nodes[1], &one).await == 401).await;
    let refused = fleet.nodes[1].get_with("/", &[("authorization", &one)]).await;
    assert_eq!(refused.json()["detail"], "the token was revoked");
    assert_eq!(status(&fleet.nodes[1], &two).await, 200);

    fleet.restart(1).await;
    eventually(PATIENCE, "who starts later hears", async || status(&fleet.nodes[1], &one).await == 401).await;
    let nameless = format!("Bearer {}", issuer.token(json!({})));
    assert_eq!(
        status(&fleet.nodes[1], &nameless).await,
        401,
        "nobody could take back a token without a name"
    );
    for (words, why) in [
        (["two", "--provider", "other"], "no provider `other` heeds this"),
        (["two", "--provider", "none"], "no provider `none` heeds this"),
    ] {
        let (code, said) = revoke(&fleet.nodes[0], &words).await;
        assert!(code == Some(2) && said.contains(why), "{code:?} {said}");
    }

    // What is known stays, whatever becomes of Redis.
    drop(redis);
    assert_eq!((status(&fleet.nodes[0], &one).await, status(&fleet.nodes[1], &two).await), (401, 200));
}
