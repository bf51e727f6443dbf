//! Routes for callers who say who they are, by a token of an issuer.

use serde_json::json;

use crate::support::issuer::Key;
use crate::support::{Answer, Cached, Client, Issuer};

/// An issuer, and a gateway that believes it: `rules` is `auth` of its one route.
async fn guarded(issuer: &Issuer, rules: &str) -> Cached {
    let headers = "headers = { x-user-id = \"sub\", x-tenant = \"tenant\" }";
    let routes = "[routes.all]\nupstream = \"ORIGIN\"\nauth = RULES\n\
                  [routes.open]\npath = \"/open/*\"\nupstream = \"ORIGIN\"\n";
    Cached::over("", &(issuer.provider(headers) + &routes.replace("RULES", rules))).await
}

async fn ask(client: &Client, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let request = client.request(method, &format!("https://a.test{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    client.send(request).await
}

/// A token in its field.
fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn a_write_needs_a_token_and_a_read_does_not() {
    let issuer = Issuer::start().await;
    let cached =
        guarded(&issuer, r#"{ providers = "idp", methods = "unsafe", scopes = ["users:write"] }"#).await;
    let token = bearer(&issuer.token(json!({ "scope": "users:read users:write", "tenant": "acme" })));
    for (client, path) in cached.clients() {
        assert_eq!(ask(client, "GET", path, &[]).await.status, 200);

        let refused = ask(client, "POST", path, &[]).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.field("www-authenticate"), Some("Bearer scope=\"users:write\""));
        assert_eq!(refused.json()["reason"], "credentials-missing");

        let allowed = ask(client, "POST", path, &[("authorization", &token)]).await;
        assert_eq!(allowed.status, 200);
        let seen = cached.origin.seen().pop().unwrap();
        assert_eq!((seen.field("x-user-id"), seen.field("x-tenant")), (Some("ada"), Some("acme")));
        assert_eq!(seen.field("authorization"), Some(&*token));

        // Who says so is known without being asked, too.
        ask(client, "GET", path, &[("authorization", &token)]).await;
        assert_eq!(cached.origin.seen().pop().unwrap().field("x-user-id"), Some("ada"));
        let wrong = ask(client, "GET", path, &[("authorization", "Bearer x.y.z")]).await;
        assert_eq!((wrong.status, cached.origin.seen().pop().unwrap().field("x-user-id")), (200, None));
    }
}

#[tokio::test]
async fn who_may_not_do_this_is_told_so() {
    let issuer = Issuer::start().await;
    let rules = r#"{ providers = "idp", scopes = ["a", "b"], roles = ["editor", "owner"], claims = { groups = "ops", plan = ["gold", "free"] } }"#;
    let cached = guarded(&issuer, rules).await;
    let good = json!({ "scope": "a b c", "roles": ["owner"], "groups": ["dev", "ops"], "plan": "gold" });
    let rows = [
        (json!({}), 200, "", ""),
        (
            json!({ "scope": "a" }),
            403,
            "scope-missing",
            r#"Bearer error="insufficient_scope", error_description="this needs a scope that is missing", scope="a b""#,
        ),
        (json!({ "scope": null, "scp": ["a", "b"] }), 200, "", ""),
        (
            json!({ "roles": ["reader"] }),
            403,
            "caller-refused",
            r#"Bearer error="insufficient_scope", error_description="this is for other callers""#,
        ),
        (json!({ "groups": ["dev"] }), 403, "caller-refused", ""),
        (json!({ "groups": "ops" }), 200, "", ""),
        (json!({ "plan": "silver" }), 403, "caller-refused", ""),
        (json!({ "plan": null }), 403, "caller-refused", ""),
    ];
    for (client, path) in cached.clients() {
        for (changes, status, reason, challenge) in &rows {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let answer = ask(client, "GET", path, &[("authorization", &bearer(&issuer.token(claims)))]).await;
            assert_eq!(answer.status, *status, "{changes}");
            if *status != 200 {
                assert_eq!(answer.json()["reason"], *reason, "{changes}");
                let line = cached.gateway.access_line(&answer).await;
                assert_eq!((&line["caller"], &line["provider"]), (&json!("ada"), &json!("idp")), "{changes}");
            }
            if !challenge.is_empty() {
                assert_eq!(answer.field("www-authenticate"), Some(*challenge), "{changes}");
            }
        }
    }
}

#[tokio::test]
async fn nobody_can_claim_to_be_somebody() {
    let issuer = Issuer::start().await;
    let cached = guarded(&issuer, r#"{ providers = "idp", methods = ["POST"] }"#).await;
    let token = bearer(&issuer.token(json!({})));
    let claims = [("x-user-id", "root"), ("X-Tenant", "acme"), ("x_user_id", "root")];
    for (client, path) in cached.clients() {
        for path in [path.to_owned(), format!("/open{path}")] {
            assert_eq!(ask(client, "GET", &path, &claims).await.status, 200);
            let seen = cached.origin.seen().pop().unwrap();
            assert_eq!((seen.field("x-user-id"), seen.field("x-tenant")), (None, None), "{path}");
            assert_eq!(seen.field("x_user_id"), None);
        }
        let with_token = [&claims[..], &[("authorization", &token)]].concat();
        assert_eq!(ask(client, "POST", path, &with_token).await.status, 200);
        let seen = cached.origin.seen().pop().unwrap();
        // The token claims no tenant, and nobody does in its place.
        assert_eq!((seen.all("x-user-id"), seen.field("x-tenant")), (vec!["ada"], None));
    }
    // A field that is named as one of the connection would be taken off on the way, and with it who asks.
    let fields = [("authorization", &*token), ("connection", "x-user-id")];
    assert_eq!(ask(&cached.http1, "POST", "/", &fields).await.status, 200);
    assert_eq!(cached.origin.seen().pop().unwrap().all("x-user-id"), ["ada"]);
}

#[tokio::test]
async fn tokens_are_verified_by_keys_of_every_kind() {
    let keys = [
        Key::p256("p2"),
        Key::p384("p3"),
        Key::p521("p5"),
        Key::ed25519("e"),
        Key::rsa("r2", "RS256"),
        Key::rsa("r3", "RS384"),
        Key::rsa("r5", "RS512"),
        Key::rsa("ps2", "PS256"),
        Key::rsa("ps3", "PS384"),
        Key::rsa("ps5", "PS512"),
    ];
    let issuer = Issuer::start().await;
    issuer.show(&keys.each_ref());
    let cached = guarded(&issuer, "\"idp\"").await;
    for key in &keys {
        let token = bearer(&issuer.token_by(key, json!({})));
        let answer = ask(&cached.http2, "GET", "/", &[("authorization", &token)]).await;
        assert_eq!(answer.status, 200, "{}", key.algorithm());
    }
}

#[tokio::test]
async fn who_guesses_pays_for_each_guess() {
    let issuer = Issuer::start().await;
    let rules = "\"idp\"\nrate_limit = \"3/h\"";
    let cached = guarded(&issuer, rules).await;
    for status in [401, 401, 401, 429] {
        let answer = ask(&cached.http1, "GET", "/", &[("authorization", "Bearer a.b.c")]).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn the_access_line_names_the_caller_and_never_the_token() {
    let issuer = Issuer::start().await;
    let cached = guarded(&issuer, "\"idp\"").await;
    let token = issuer.token(json!({ "sub": "ada\" status=500" }));
    for (client, path) in cached.clients() {
        let answer = ask(client, "GET", path, &[("authorization", &bearer(&token))]).await;
        let line = cached.gateway.access_line(&answer).await;
        assert_eq!((&line["caller"], &line["provider"]), (&json!("ada\" status=500"), &json!("idp")));
        let answer = ask(client, "GET", path, &[("authorization", &bearer(&token[1..]))]).await;
        let line = cached.gateway.access_line(&answer).await;
        assert_eq!((&line["caller"], &line["reason"]), (&json!(null), &json!("credentials-refused")));
    }
    let signature = token.rsplit_once('.').unwrap().1;
    assert!(!cached.gateway.wrote().contains(signature));
    assert_eq!(
        cached.gateway.count("tidegate_auth_tokens_total{provider=\"idp\",outcome=\"verified\"}").await,
        1
    );
    assert_eq!(cached.gateway.count("tidegate_auth_tokens_total{outcome=\"remembered\"}").await, 1);
    assert_eq!(cached.gateway.count("tidegate_auth_tokens_total{outcome=\"form\"}").await, 2);
}

#[tokio::test]
async fn redirects_and_fixed_words_are_for_callers_alone_too() {
    let issuer = Issuer::start().await;
    let routes = "[defaults]\nauth = \"idp\"\n\
                  [routes.words]\npath = \"/words\"\nrespond = { body = \"fine\" }\n\
                  [routes.away]\npath = \"/away\"\nredirect = { to = \"/words\" }\n\
                  [routes.free]\npath = \"/free\"\nauth = false\nrespond = { body = \"free\" }\n";
    let cached = Cached::over("", &(issuer.provider("") + routes)).await;
    let token = bearer(&issuer.token(json!({})));
    for (path, status) in [("/words", 200), ("/away", 308), ("/free", 200)] {
        let refused = if path == "/free" { 200 } else { 401 };
        assert_eq!(ask(&cached.http1, "GET", path, &[]).await.status, refused, "{path}");
        assert_eq!(
            ask(&cached.http1, "GET", path, &[("authorization", &token)]).await.status,
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn one_of_several_issuers_will_do() {
    let (one, other, stranger) = (Issuer::start().await, Issuer::start().await, Issuer::start().await);
    let second = other.provider("").replace("[auth.idp.jwt]", "[auth.partners.jwt]");
    let routes = "[routes.all]\nupstream = \"ORIGIN\"\nauth = { providers = [\"idp\", \"partners\"] }\n";
    let cached = Cached::over("", &(one.provider("") + &second + routes)).await;
    let get =
        async |token: String| ask(&cached.http2, "GET", "/", &[("authorization", &bearer(&token))]).await;
    for (issuer, provider) in [(&one, "idp"), (&other, "partners")] {
        let answer = get(issuer.token(json!({}))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(cached.gateway.access_line(&answer).await["provider"], provider);
        // Its own issuer's word is told, not that the other does not know it.
        let expired = get(issuer.token(json!({ "exp": 1 }))).await;
        assert_eq!((expired.status, &expired.json()["detail"]), (401, &json!("the token has expired")));
        // A key of the one signs nothing for the other.
        let forged = if provider == "idp" {
            one.token_by(&other.key, json!({}))
        } else {
            other.token_by(&one.key, json!({}))
        };
        assert_eq!(get(forged).await.status, 401);
    }
    let unknown = get(stranger.token(json!({}))).await;
    assert_eq!((unknown.status, &unknown.json()["detail"]), (401, &json!("the token is of another issuer")));
}
