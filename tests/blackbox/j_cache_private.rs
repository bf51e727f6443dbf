//! What a caller is answered is for that caller: the cache under routes that ask who asks.

use serde_json::{Value, json};

use crate::support::cached::is_hit;
use crate::support::{Answer, Cached, Client, Gateway, Issuer, Origin, Raw, Reply, plain};

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

#[tokio::test]
async fn what_one_caller_gets_is_not_compressed_where_another_site_may_have_caused_it() {
    let issuer = Issuer::start().await;
    let own = issuer.provider("headers = { x-user-id = \"sub\" }");
    let routes = "[routes.keyed]\npath = \"/caller\"\nauth = \"idp\"\nupstream = \"ORIGIN\"\n\
        cache = { ttl = \"60s\", key = { caller = true } }\n\
        [routes.named]\npath = \"/field\"\nupstream = \"ORIGIN\"\n\
        cache = { ttl = \"60s\", key = { headers = [\"authorization\"] } }\n\
        [routes.varied]\npath = \"/vary\"\nupstream = \"ORIGIN\"\ncache = true\n";
    let routes = routes.replace("upstream", "compress = true\nupstream");
    let cached = Cached::over("", &(own + &routes)).await;
    let text = Reply::ok("words and words ".repeat(600)).field("content-type", "text/plain");
    let shared = text.clone().field("cache-control", "s-maxage=60");
    cached.origin.answer("/caller", text.fresh_for(60));
    cached.origin.answer("/field", shared.clone());
    cached.origin.answer("/vary", shared.field("vary", "authorization"));
    let bearer = format!("Bearer {}", of(&issuer, "ada"));
    let password = "Basic YTpi";
    for (path, authorization) in [("/caller", &*bearer), ("/field", password), ("/vary", password)] {
        for hit in [false, true] {
            let request = cached.http2.request("GET", &format!("https://a.test{path}"));
            let request = request.header("accept-encoding", "gzip").header("cookie", "session=1");
            let answer = cached.http2.send(request.header("authorization", authorization)).await;
            assert_eq!(
                (is_hit(&answer), answer.field("content-encoding")),
                (hit, None),
                "{path}: {answer:?}"
            );
        }
    }
}

// === All that may be asked, one after the other ===

/// A caller, as it comes: what it shows, and whom the upstream is told of.
struct Comer {
    field: Option<(&'static str, String)>,
    user: Option<&'static str>,
}

fn comers(issuer: &Issuer) -> Vec<Comer> {
    let by = |name, value: String, user| Comer { field: Some((name, value)), user };
    vec![
        Comer { field: None, user: None },
        by("authorization", format!("Bearer {}", of(issuer, "ada")), Some("ada")),
        by("authorization", format!("Bearer {}", of(issuer, "bob")), Some("bob")),
        by("x-api-key", "abc".to_owned(), Some("partner")),
        by("authorization", "Bearer x.y.z".to_owned(), None),
        by("x-api-key", "nobody-has-this".to_owned(), None),
    ]
}

/// What origins say, and whether it makes an answer to a caller one for all (§3.5).
const CONTROLS: &[(&str, bool)] = &[
    ("", false),
    ("max-age=60", false),
    ("private, max-age=60", false),
    ("no-store", false),
    ("public, max-age=60", true),
    ("s-maxage=60", true),
    ("must-revalidate, max-age=60", true),
];

/// `auth` and `cache` of routes, by the first step of their paths, and whether each caller has answers of its own.
const ROUTES: &[(&str, &str, bool)] = &[
    ("/open", "auth = { providers = [\"idp\", \"partners\"], methods = \"unsafe\" }\ncache = \"60s\"", false),
    ("/all", "auth = { providers = [\"idp\", \"partners\"] }\ncache = \"60s\"", false),
    (
        "/own",
        "auth = { providers = [\"idp\", \"partners\"], methods = \"unsafe\" }\ncache = { ttl = \"60s\", key = { caller = true } }",
        true,
    ),
];

/// The SHA-256 of `abc`.
const PARTNER: &str =
    "[partner]\nsha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";

#[tokio::test]
async fn of_all_combinations_none_shows_one_caller_what_is_anothers() {
    let (issuer, origin) = (Issuer::start().await, Origin::start("one").await);
    let route = |(path, lines, _): &(&str, &str, bool)| {
        format!(
            "[routes{}]\npath = \"{path}/*\"\nupstream = \"{}\"\n{lines}\n",
            path.replace('/', "."),
            origin.address()
        )
    };
    let partners = "[auth.partners.api_key]\nfile = \"keys.toml\"\nheaders = { x-user-id = \"sub\" }\n";
    let routes: Vec<String> = ROUTES.iter().map(route).collect();
    let idp = issuer.provider("headers = { x-user-id = \"sub\" }");
    let config = format!("{}{idp}{partners}{}", plain(), routes.concat());
    let gateway = Gateway::start_with(&config, &[("keys.toml", PARTNER)]).await;
    let mut raw = Raw::tcp(gateway.http()).await;
    let mut ask = async |path: &str, comer: &Comer| {
        let field =
            comer.field.as_ref().map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
        raw.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{field}\r\n")).await
    };
    let comers = comers(&issuer);
    let (mut combinations, mut shared) = (0, 0);
    for (route, _, apart) in ROUTES {
        for (control, for_all) in CONTROLS {
            for vary in ["", "x-user-id"] {
                for (one, first) in comers.iter().enumerate() {
                    for second in
                        comers.iter().enumerate().filter(|(other, _)| *other != one).map(|(_, it)| it)
                    {
                        combinations += 1;
                        let path = format!("{route}/{combinations}");
                        names_who_asked(&origin, &path, control, vary);
                        let answers = [ask(&path, first).await, ask(&path, second).await];
                        let admitted = |comer: &Comer| *route != "/all" || comer.user.is_some();
                        let may = *for_all
                            && (first.user == second.user || vary.is_empty() && !apart)
                            && [first, second].iter().all(|comer| admitted(comer));
                        let is =
                            origin.requests(&path) == 1 && answers.iter().all(|answer| answer.status == 200);
                        let what =
                            format!("{route} {control:?} {vary:?} {:?} {:?}", first.field, second.field);
                        assert_eq!(is, may, "{what}: {answers:?}");
                        for (comer, answer) in [first, second].into_iter().zip(&answers) {
                            assert_eq!(answer.status, if admitted(comer) { 200 } else { 401 }, "{what}");
                            let own = comer.user.unwrap_or("nobody");
                            assert!(
                                may || answer.status == 401 || answer.text() == own,
                                "{what}: {answers:?}"
                            );
                        }
                        shared += u32::from(is);
                    }
                }
            }
        }
    }
    assert!(combinations > 1000 && shared > 100, "{combinations} combinations, {shared} shared");
}

fn names_who_asked(origin: &Origin, path: &str, control: &'static str, vary: &'static str) {
    origin.answer_by(path, move |seen| {
        let reply = Reply::ok(seen.field("x-user-id").unwrap_or("nobody"));
        let fields =
            [("cache-control", control), ("vary", vary)].into_iter().filter(|(_, value)| !value.is_empty());
        fields.fold(reply, |reply, (name, value)| reply.field(name, value))
    });
}
