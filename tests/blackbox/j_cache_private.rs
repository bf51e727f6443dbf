//! What a caller is answered is for that caller: the cache under routes that ask who asks.

use serde_json::{Value, json};

use crate::support::cached::is_hit;
use crate::support::{Answer, Cached, Client, Issuer, Reply};

async fn cached(issuer: &Issuer, rules: &str) -> Cached {
    let headers = "headers = { x-user-id = \"sub\" }";
    let route = format!("[routes.all]\nupstream = \"ORIGIN\"\n{rules}\n");
    Cached::over("", &(issuer.provider(headers) + &route)).await
}

async fn get(client: &Client, path: &str, token: Option<&str>) -> Answer {
    let request = client.request("GET", &format!("https://a.test{path}"));
    let request = match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    };
    client.send(request).await
}

/// Answers with the name of who asked.
fn names_its_caller(cached: &Cached, path: &str, control: &'static str) {
    cached.origin.answer_by(path, move |seen| {
        Reply::ok(seen.field("x-user-id").unwrap_or("nobody")).field("cache-control", control)
    });
}

fn of(issuer: &Issuer, subject: &str) -> String {
    issuer.token(json!({ "sub": subject }))
}

#[tokio::test]
async fn who_asks_is_asked_before_anything_is_served() {
    let issuer = Issuer::start().await;
    let cached = cached(&issuer, "cache = true\nauth = \"idp\"").await;
    let (ada, bob) = (of(&issuer, "ada"), of(&issuer, "bob"));
    for (client, path) in cached.clients() {
        cached.origin.answer(path, Reply::ok("for all callers").field("cache-control", "public, max-age=60"));
        assert_eq!(get(client, path, Some(&ada)).await.status, 200);
        let hit = get(client, path, Some(&bob)).await;
        assert!(hit.status == 200 && is_hit(&hit), "{hit:?}");
        for (token, status) in [
            (None, 401),
            (Some("x.y.z"), 401),
            (Some(&*issuer.token(json!({ "exp": 1 }))), 401),
            (Some(&*issuer.token(json!({ "aud": "others" }))), 401),
        ] {
            let refused = get(client, path, token).await;
            assert_eq!(refused.status, status);
            assert!(!refused.text().contains("for all callers"));
        }
        assert_eq!(cached.origin.requests(path), 1);
    }
}

#[tokio::test]
async fn what_one_caller_gets_no_other_does() {
    let issuer = Issuer::start().await;
    let cached =
        cached(&issuer, "cache = \"60s\"\nauth = { providers = \"idp\", methods = \"unsafe\" }").await;
    let (ada, bob) = (of(&issuer, "ada"), of(&issuer, "bob"));
    for (client, path) in cached.clients() {
        names_its_caller(&cached, path, "max-age=60");
        for (token, name) in [
            (Some(&ada), "ada"),
            (Some(&bob), "bob"),
            (None, "nobody"),
            (Some(&ada), "ada"),
            (None, "nobody"),
        ] {
            assert_eq!(get(client, path, token.map(String::as_str)).await.text(), name);
        }
        assert_eq!(cached.origin.requests(path), 4, "what nobody in particular gets is shared among them");
    }
}

#[tokio::test]
async fn where_the_key_has_the_caller_each_has_answers_of_its_own() {
    let issuer = Issuer::start().await;
    let cached = cached(&issuer, "cache = { ttl = \"60s\", key = { caller = true } }\nauth = \"idp\"").await;
    let claims = |name: &str, more: Value| {
        let mut claims = json!({ "sub": name });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        issuer.token(claims)
    };
    for (client, path) in cached.clients() {
        names_its_caller(&cached, path, "max-age=60");
        let rows = [
            (claims("ada", json!({})), "ada", false),
            (claims("bob", json!({})), "bob", false),
            (claims("ada", json!({ "jti": "another", "iat": 7 })), "ada", true),
            (claims("bob", json!({})), "bob", true),
            // With other scopes the same caller may be shown something else.
            (claims("ada", json!({ "scope": "admin" })), "ada", false),
        ];
        for (token, name, hit) in rows {
            let answer = get(client, path, Some(&token)).await;
            assert_eq!((answer.text(), is_hit(&answer)), (name, hit), "{answer:?}");
        }
        // What is private is kept for nobody by a cache that many share.
        let private = format!("{path}/private");
        names_its_caller(&cached, &private, "private, max-age=60");
        for _ in 0..2 {
            let answer = get(client, &private, Some(&claims("ada", json!({})))).await;
            assert!(answer.text() == "ada" && !is_hit(&answer), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn answers_differ_by_the_fields_that_name_the_caller() {
    let issuer = Issuer::start().await;
    let cached = cached(&issuer, "cache = true\nauth = \"idp\"").await;
    let (ada, bob) = (of(&issuer, "ada"), of(&issuer, "bob"));
    for (client, path) in cached.clients() {
        cached.origin.answer_by(path, |seen| {
            Reply::ok(seen.field("x-user-id").unwrap_or("nobody"))
                .field("cache-control", "public, max-age=60")
                .field("vary", "x-user-id")
        });
        for (token, name, hit) in
            [(&ada, "ada", false), (&bob, "bob", false), (&ada, "ada", true), (&bob, "bob", true)]
        {
            let answer = get(client, path, Some(token)).await;
            assert_eq!((answer.text(), is_hit(&answer)), (name, hit), "{answer:?}");
        }
        // A client that says it is somebody else is who its token says.
        let request = client.request("GET", &format!("https://a.test{path}"));
        let request = request.header("authorization", format!("Bearer {bob}")).header("x-user-id", "ada");
        assert_eq!(client.send(request).await.text(), "bob");
    }
}
