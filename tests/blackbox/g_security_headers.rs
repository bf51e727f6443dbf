//! What browsers are told to be careful with: `security_headers`.

use crate::support::cached::{get, is_hit};
use crate::support::{Cached, Reply};

const USUAL: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("x-permitted-cross-domain-policies", "none"),
];

#[tokio::test]
async fn the_usual_fields_stand_on_answers_that_do_not_say_so_themselves() {
    let cached = Cached::with("cache = \"60s\"\nsecurity_headers = true").await;
    for (client, path) in cached.clients() {
        let own = format!("{path}/own");
        let frames = Reply::ok("x").field("x-frame-options", "SAMEORIGIN").field("x-frame-options", "DENY");
        cached.origin.answer(&own, frames);
        for hit in [false, true] {
            let answer = get(client, path, &[]).await;
            assert_eq!(is_hit(&answer), hit);
            for (name, value) in USUAL {
                assert_eq!(answer.all(name), [value], "{name} {hit}");
            }
            let answer = get(client, &own, &[]).await;
            assert_eq!((is_hit(&answer), answer.all("x-frame-options")), (hit, vec!["SAMEORIGIN", "DENY"]));
            assert_eq!(answer.field("referrer-policy"), Some("strict-origin-when-cross-origin"));
        }
    }
}

#[tokio::test]
async fn a_route_may_have_others_or_none() {
    let routes = "[defaults]\nsecurity_headers = true\n\
                  [policies.pages]\nsecurity_headers = { X-Frame-Options = \"sameorigin\", referrer-policy = false, content-security-policy = \"default-src 'self'\" }\n\
                  [routes.pages]\npath = \"/pages/*\"\nuse = [\"pages\"]\nupstream = \"ORIGIN\"\n\
                  [routes.plain]\npath = \"/plain/*\"\nsecurity_headers = false\nupstream = \"ORIGIN\"\n\
                  [routes.words]\npath = \"/words\"\nrespond = { body = \"x\" }\nresponse_headers = { remove = [\"x-frame-options\"] }\n";
    let cached = Cached::over("", routes).await;
    let client = &cached.http2;
    let pages = get(client, "/pages/1", &[]).await;
    assert_eq!(pages.field("x-frame-options"), Some("sameorigin"));
    assert_eq!(pages.field("content-security-policy"), Some("default-src 'self'"));
    assert_eq!(
        (pages.field("referrer-policy"), pages.field("x-content-type-options")),
        (None, Some("nosniff"))
    );
    let plain = get(client, "/plain/1", &[]).await;
    assert!(USUAL.iter().all(|(name, _)| plain.field(name).is_none()), "{plain:?}");
    // What the operator takes out is out.
    let words = get(client, "/words", &[]).await;
    assert_eq!((words.field("x-frame-options"), words.field("referrer-policy").is_some()), (None, true));
}
