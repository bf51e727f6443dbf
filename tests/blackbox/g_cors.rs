//! Pages of other origins: who may read, what browsers are told that ask beforehand, and who says so.

use crate::support::cached::is_hit;
use crate::support::{Answer, Cached, Client, Reply};

const PAGE: &str = "https://www.test";

async fn ask(client: &Client, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let request = client.request(method, &format!("https://a.test{path}"));
    client.send(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

/// A browser asks whether a page may ask with this method, and these fields if any.
async fn beforehand(client: &Client, origin: &str, method: &str) -> Answer {
    let fields = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "content-type,x-one"),
    ];
    ask(client, "OPTIONS", "/users", &fields).await
}

fn reader(answer: &Answer) -> Vec<&str> {
    answer.all("access-control-allow-origin")
}

#[tokio::test]
async fn browsers_that_ask_beforehand_are_answered_here() {
    let it = Cached::with(
        "methods = [\"GET\", \"PUT\"]\nrate_limit = \"1/h\"\n\
         cors = { origins = [\"https://www.test\"], credentials = true }",
    )
    .await;
    for client in [&it.http1, &it.http2] {
        let answer = beforehand(client, PAGE, "PUT").await;
        assert_eq!((answer.status, answer.text()), (204, ""), "{answer:?}");
        assert_eq!(reader(&answer), [PAGE]);
        for (name, value) in [
            ("access-control-allow-credentials", Some("true")),
            ("access-control-allow-methods", Some("PUT")),
            ("access-control-allow-headers", Some("content-type,x-one")),
            ("access-control-max-age", Some("600")),
            ("vary", Some("origin, access-control-request-method, access-control-request-headers")),
            ("content-length", None),
        ] {
            assert_eq!(answer.field(name), value, "{name}");
        }
        let stranger = beforehand(client, "https://evil.test", "PUT").await;
        assert_eq!((stranger.status, &stranger.json()["reason"]), (403, &"origin-refused".into()));
        assert_eq!((reader(&stranger).len(), stranger.field("vary")), (0, Some("origin")));
        // What no route takes is answered as such.
        assert_eq!(beforehand(client, PAGE, "DELETE").await.status, 405);
    }
    assert!(it.origin.seen().is_empty());
    assert_eq!(ask(&it.http1, "GET", "/users", &[]).await.status, 200, "none of that was counted");
}

#[tokio::test]
async fn what_the_rules_list_is_what_browsers_are_told() {
    let it = Cached::with(
        "cors = { origins = \"https://*.test\", methods = [\"GET\", \"PATCH\"], headers = [\"x-two\"], \
         max_age = \"5s\" }",
    )
    .await;
    let answer = beforehand(&it.http2, PAGE, "DELETE").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.field("access-control-allow-methods"), Some("GET, PATCH"));
    assert_eq!(answer.field("access-control-allow-headers"), Some("x-two"));
    assert_eq!(answer.field("access-control-max-age"), Some("5"));
    assert_eq!(answer.field("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn each_answer_is_for_the_page_that_asked_whoever_made_it() {
    let it = Cached::with(
        "cache = true\nmax_body = \"1B\"\n\
         cors = { origins = [\"https://www.test\", \"https://app.test\"], expose = [\"etag\"] }",
    )
    .await;
    let said =
        Reply::ok("it").field("access-control-allow-origin", "*").field("vary", "accept").fresh_for(60);
    it.origin.answer("/h1", said.clone());
    it.origin.answer("/h2", said);
    for (client, path) in it.clients() {
        for (round, origin) in [PAGE, "https://app.test", PAGE].into_iter().enumerate() {
            let answer = ask(client, "GET", path, &[("origin", origin)]).await;
            assert_eq!(is_hit(&answer), round > 0, "{answer:?}");
            assert_eq!(reader(&answer), [origin]);
            assert_eq!(answer.all("access-control-expose-headers"), ["etag"]);
            assert_eq!(answer.all("vary"), ["accept", "origin"]);
        }
        for fields in [&[("origin", "https://evil.test")][..], &[("origin", "null")], &[]] {
            let answer = ask(client, "GET", path, fields).await;
            assert!(is_hit(&answer) && reader(&answer).is_empty(), "{answer:?}");
            assert_eq!(answer.all("vary"), ["accept", "origin"]);
        }
        let refused =
            client.send(client.request("POST", "https://a.test/").header("origin", PAGE).body("too much"));
        let refused = refused.await;
        assert_eq!((refused.status, reader(&refused)), (413, vec![PAGE]), "a page can read why");
        assert_eq!(refused.field("vary"), Some("origin"));
    }
}

#[tokio::test]
async fn parts_heads_and_confirmations_of_what_is_stored_are_for_the_page_that_asks() {
    let it =
        Cached::with("cache = true\ncors = { origins = [\"https://www.test\", \"https://app.test\"] }").await;
    for (client, path) in it.clients() {
        it.origin.answer(path, Reply::ok("it").field("etag", "\"1\"").fresh_for(60));
        assert_eq!(reader(&ask(client, "GET", path, &[("origin", PAGE)]).await), [PAGE]);
        let rows = [
            ("GET", ("if-none-match", "\"1\""), 304),
            ("GET", ("range", "bytes=0-0"), 206),
            ("GET", ("range", "bytes=9-"), 416),
            ("HEAD", ("accept", "*/*"), 200),
        ];
        for (method, field, status) in rows {
            for origin in ["https://app.test", "https://evil.test"] {
                let answer = ask(client, method, path, &[("origin", origin), field]).await;
                let may = if origin.contains("app") { vec![origin] } else { Vec::new() };
                assert_eq!((answer.status, reader(&answer)), (status, may), "{method} {field:?}");
                assert_eq!(answer.all("vary"), ["origin"], "{method} {field:?}");
            }
        }
        assert_eq!(it.origin.requests(path), 1);
    }
}

#[tokio::test]
async fn what_is_for_all_is_the_same_for_all() {
    let it = Cached::with("cors = \"*\"").await;
    for fields in [&[("origin", PAGE)][..], &[]] {
        let answer = ask(&it.http2, "GET", "/", fields).await;
        assert_eq!((answer.status, reader(&answer), answer.field("vary")), (200, vec!["*"], None));
    }
    assert_eq!(reader(&beforehand(&it.http2, PAGE, "PUT").await), ["*"]);
}

#[tokio::test]
async fn without_rules_the_upstream_speaks_for_itself() {
    let it = Cached::over(
        "[defaults]\ncors = \"*\"",
        "[routes.all]\ncors = false\nupstream = \"ORIGIN\"\n[routes.fixed]\npath = \"/fixed\"\nrespond = {}\n",
    )
    .await;
    it.origin.answer("/users", Reply::ok("").field("access-control-allow-origin", "https://its.test"));
    let answer = beforehand(&it.http2, PAGE, "PUT").await;
    assert_eq!((answer.status, reader(&answer)), (200, vec!["https://its.test"]));
    assert_eq!(it.origin.seen().len(), 1);
    let fixed = ask(&it.http2, "GET", "/fixed", &[]).await;
    assert_eq!((fixed.status, reader(&fixed)), (200, vec!["*"]));
}
