//! What is stored, under which key and for how long.

use serde_json::Value;

use crate::support::cached::{ask, get, is_hit, status, ttl};
use crate::support::origin::Seen;
use crate::support::{Cached, Raw, Reply};

type Fields<'a> = &'a [(&'a str, &'a str)];

// ── hits ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_second_request_is_answered_without_the_origin() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer(&path, Reply::ok("ada").fresh_for(60).field("x-note", "kept"));

        let miss = get(client, &path, &[]).await;
        let hit = get(client, &path, &[]).await;

        assert_eq!((miss.status, miss.text(), miss.field("age")), (200, "ada", None));
        assert_eq!(status(&miss), "tidegate; fwd=uri-miss; fwd-status=200; stored");
        assert_eq!((hit.status, hit.text(), hit.field("x-note")), (200, "ada", Some("kept")));
        assert!(is_hit(&hit) && (50..=60).contains(&ttl(&hit)), "{hit:?}");
        assert!(hit.field("age").unwrap().parse::<u32>().unwrap() < 10, "{hit:?}");
        assert_eq!(cached.origin.requests(&path), 1);

        let miss = cached.gateway.access_line_of(&path, |line| line["cache"] == "miss").await;
        let hit = cached.gateway.access_line_of(&path, |line| line["cache"] == "hit").await;
        assert_eq!((&miss["attempts"], &miss["status"]), (&Value::from(1), &Value::from(200)));
        assert_eq!(miss["server"], cached.origin.address().to_string());
        assert_eq!(
            (&hit["server"], &hit["upstream"], &hit["upstream_us"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!((&hit["status"], &hit["response_bytes"]), (&Value::from(200), &Value::from(3)));
    }
    cached.counts("hit", 2).await;
    cached.counts("miss", 2).await;
    assert!(cached.gateway.metric("tidegate_cache_memory_entries").await > 1.5);
}

#[tokio::test]
async fn what_is_stored_is_served_while_the_origin_is_gone_and_nothing_else() {
    let mut cached = Cached::start().await;
    for (client, place) in cached.clients() {
        cached.origin.answer(&format!("{place}/stored"), Reply::ok("whole").fresh_for(60));
        get(client, &format!("{place}/stored"), &[]).await;
    }
    cached.origin.stop().await;
    for (client, place) in cached.clients() {
        let hit = get(client, &format!("{place}/stored"), &[]).await;
        assert!(is_hit(&hit) && hit.text() == "whole", "{hit:?}");
        let failed = get(client, &format!("{place}/other"), &[]).await;
        assert_eq!((failed.status, status(&failed)), (502, "tidegate; fwd=uri-miss"));
        let passed = ask(client, "POST", &format!("{place}/stored"), &[]).await;
        assert_eq!((passed.status, status(&passed)), (502, "tidegate; fwd=method; detail=method"));
        assert!(is_hit(&get(client, &format!("{place}/stored"), &[]).await), "a failed POST changes nothing");
    }
}

#[tokio::test]
async fn a_route_says_how_long_where_the_origin_is_silent_and_how_long_at_most() {
    let cached = Cached::over(
        "",
        r#"
[defaults]
upstream = "ORIGIN"
[routes.none]
path = "/none/*"
cache = true
[routes.ttl]
path = "/ttl/*"
cache = "100s"
[routes.max]
path = "/max/*"
cache = { ttl = "40s", ttl_max = "50s" }
[routes.ignore]
path = "/ignore/*"
cache = { ttl = "100s", ignore_origin = true }
"#,
    )
    .await;
    // For how long the second request finds it fresh; none: it finds nothing.
    let rows: [(&str, &str, Fields, Option<i64>); 20] = [
        ("/none/silent", "200", &[], None),
        ("/none/named", "200", &[("cache-control", "max-age=30")], Some(30)),
        ("/none/shared", "200", &[("cache-control", "max-age=30, s-maxage=70")], Some(70)),
        ("/none/aged", "200", &[("cache-control", "max-age=90"), ("age", "40")], Some(50)),
        ("/none/expired", "200", &[("expires", "0")], None),
        ("/none/missing", "404", &[("cache-control", "max-age=30")], Some(30)),
        ("/none/invalid", "200", &[("cache-control", "max-age=soon")], None),
        ("/ttl/silent", "200", &[], Some(100)),
        ("/ttl/moved", "301", &[("location", "/elsewhere")], Some(100)),
        ("/ttl/named", "200", &[("cache-control", "max-age=30")], Some(30)),
        ("/ttl/longer", "200", &[("cache-control", "max-age=300")], Some(300)),
        ("/ttl/zero", "200", &[("cache-control", "max-age=0")], None),
        ("/ttl/missing", "404", &[], None),
        ("/ttl/failed", "500", &[], None),
        ("/max/silent", "200", &[], Some(40)),
        ("/max/longer", "200", &[("cache-control", "max-age=300")], Some(50)),
        ("/max/shorter", "200", &[("cache-control", "max-age=30")], Some(30)),
        ("/ignore/named", "200", &[("cache-control", "max-age=30")], Some(100)),
        ("/ignore/zero", "200", &[("cache-control", "no-cache")], Some(100)),
        ("/ignore/private", "200", &[("cache-control", "private, max-age=30")], None),
    ];
    for (path, code, fields, wanted) in rows {
        let reply = Reply::new(code.parse().unwrap(), "body");
        let reply = fields.iter().fold(reply, |reply, (name, value)| reply.field(name, value));
        cached.origin.answer(path, reply);
        get(&cached.http1, path, &[]).await;
        let second = get(&cached.http2, path, &[]).await;
        match wanted {
            Some(wanted) => {
                let left = is_hit(&second).then(|| ttl(&second));
                let left = left.unwrap_or_else(|| panic!("{path}: {second:?}"));
                assert!((wanted - 10..=wanted).contains(&left), "{path}: {second:?}");
            }
            None => assert!(!is_hit(&second), "{path}: {second:?}"),
        }
        assert_eq!(cached.origin.requests(path), if wanted.is_some() { 1 } else { 2 }, "{path}");
    }
}

#[tokio::test]
async fn the_age_of_a_hit_counts_from_the_origin() {
    let cached = Cached::start().await;
    let ago = std::time::SystemTime::now() - std::time::Duration::from_secs(40);
    let date = httpdate::fmt_http_date(ago);
    cached.origin.answer("/dated", Reply::ok("old").field("date", &date).fresh_for(100));
    cached.origin.answer("/aged", Reply::ok("old").field("age", "40").fresh_for(100));
    for path in ["/dated", "/aged"] {
        get(&cached.http1, path, &[]).await;
        for client in [&cached.http1, &cached.http2] {
            let hit = get(client, path, &[]).await;
            let age: i64 = hit.field("age").unwrap().parse().unwrap();
            assert!((40..50).contains(&age), "{hit:?}");
            assert!(
                (99..=100).contains(&(age + ttl(&hit))),
                "age and what is left are the lifetime: {hit:?}"
            );
            assert_eq!(hit.fields.get_all("age").iter().count(), 1);
        }
    }
}

#[tokio::test]
async fn large_answers_pass_through_whole_and_are_not_stored() {
    let cached = Cached::with(r#"cache = { ttl = "60s", max_object = "100KiB" }"#).await;
    let (fits, large) = ("x".repeat(102_400), "y".repeat(102_401));
    for (client, place) in cached.clients() {
        let rows = [
            ("fits", Reply::ok(fits.clone()), true),
            ("fits-chunked", Reply::ok(fits.clone()).chunked(), true),
            ("fits-until-close", Reply::ok(fits.clone()).until_close(), true),
            ("large", Reply::ok(large.clone()), false),
            ("large-chunked", Reply::ok(large.clone()).chunked(), false),
            ("huge-chunked", Reply::ok(large.repeat(40)).chunked(), false),
        ];
        for (name, reply, stored) in rows {
            let path = format!("{place}/{name}");
            let length = if name.starts_with("fits") { 102_400 } else { 102_401 };
            let length = if name.starts_with("huge") { 40 * 102_401 } else { length };
            cached.origin.answer(&path, reply);
            for _ in 0..2 {
                let answer = get(client, &path, &[]).await;
                assert_eq!((answer.status, answer.body.len()), (200, length), "{path} {}", status(&answer));
            }
            let third = get(client, &path, &[]).await;
            assert!(third.body.len() == length && is_hit(&third) == stored, "{path} {}", status(&third));
            if name == "large" {
                assert!(status(&third).ends_with("; detail=too-large"), "{}", status(&third));
            }
        }
    }
}

// ── keys and variants ───────────────────────────────────────────────────────────────────────────────────────────

/// Answers each request with what it asked for.
fn echo(seen: &Seen) -> Reply {
    let host = seen.field("host").unwrap_or_default();
    Reply::ok(format!("{host} {}", seen.target)).fresh_for(60)
}

#[tokio::test]
async fn host_path_and_query_tell_answers_apart_and_their_spelling_does_not() {
    let cached = Cached::start().await;
    for path in ["/a", "/A", "/a/", "/a%2Fb", "/a/b"] {
        cached.origin.answer_by(path, echo);
    }
    // Each with how the origin is asked for it, or none where the answer is there already.
    let rows = [
        ("https://a.test/a", Some("a.test /a")),
        ("https://A.TEST/a", None),
        ("https://a.test:443/a", None),
        ("https://b.test/a", Some("b.test /a")),
        ("https://a.test/A", Some("a.test /A")),
        ("https://a.test/a/", Some("a.test /a/")),
        ("https://a.test/%61", None),
        ("https://a.test/a?x=1", Some("a.test /a?x=1")),
        ("https://a.test/a?x=2", Some("a.test /a?x=2")),
        ("https://a.test/a?", Some("a.test /a?")),
        ("https://a.test/a?x=1&y=2", Some("a.test /a?x=1&y=2")),
        ("https://a.test/a?y=2&x=1", Some("a.test /a?y=2&x=1")),
        ("https://a.test/a?x=1", None),
        ("https://a.test/a#part", None),
    ];
    for (client, wanted_hits) in [(&cached.http1, false), (&cached.http2, true)] {
        for (url, asked) in rows {
            let answer = client.get(url).await;
            assert_eq!(is_hit(&answer), wanted_hits || asked.is_none(), "{url} {answer:?}");
            if let Some(asked) = asked {
                assert_eq!(answer.text(), asked, "{url}");
            }
        }
    }
}

#[tokio::test]
async fn dots_and_escapes_in_a_path_lead_to_one_stored_answer() {
    let cached = Cached::start().await;
    cached.origin.answer_by("/a/b", echo);
    let mut connection = Raw::tls(cached.gateway.https(), "a.test", &cached.certs).await;
    for (target, hit) in [("/a/b", false), ("/a/./b", true), ("/c/../a/b", true), ("/%61/%62", true)] {
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let (head, body) = connection.answer().await;
        assert_eq!(
            (head.contains("tidegate; hit"), body.as_slice()),
            (hit, b"a.test /a/b".as_slice()),
            "{target} {head}"
        );
    }
    assert_eq!(cached.origin.requests("/a/b"), 1);
}

#[tokio::test]
async fn the_query_counts_as_the_route_says() {
    let cached = Cached::over(
        "",
        r#"
[defaults]
upstream = "ORIGIN"
[routes.none]
path = "/none"
cache = { key = { query = "none" } }
[routes.some]
path = "/some"
cache = { key = { query = ["q", "page"] } }
"#,
    )
    .await;
    cached.origin.answer_by("/none", echo);
    cached.origin.answer_by("/some", echo);
    let rows = [
        ("/none?a=1", false),
        ("/none?a=2", true),
        ("/none", true),
        ("/some?q=1", false),
        ("/some?utm=x&q=1", true),
        ("/some?q=2", false),
        ("/some?q=1&page=2", false),
        ("/some?page=2&q=1", true),
        ("/some?q=1&q=2", false),
        ("/some?q=2&q=1", false),
        ("/some", false),
        ("/some?utm=x", true),
    ];
    for (path, hit) in rows {
        let answer = get(&cached.http2, path, &[]).await;
        assert_eq!(is_hit(&answer), hit, "{path} {answer:?}");
    }
}

#[tokio::test]
async fn the_key_is_shown_where_that_is_asked_for_as_it_counts() {
    let route = "[routes.all]\nupstream = \"ORIGIN\"\ncache = { ttl = \"60s\", key = { query = [\"q\"] } }\n";
    let cached = Cached::over("cache.status_key = true", route).await;
    for (client, place) in cached.clients() {
        cached.origin.answer_by(place, echo);
        for part in ["stored", "hit"] {
            let answer = get(client, &format!("{place}?utm=x&q=1"), &[]).await;
            let said = status(&answer);
            assert!(said.split("; ").any(|found| found == part), "{said}");
            assert!(said.contains(&format!("; key=\"GET https a.test {place}?q=1\"")), "{said}");
        }
    }
}

#[tokio::test]
async fn variants_are_kept_apart_by_the_fields_that_the_origin_or_the_route_names() {
    let cached = Cached::with(r#"cache = { vary = ["x-tenant"] }"#).await;
    let reply = |seen: &Seen| {
        let said = |name| seen.field(name).unwrap_or("-").to_owned();
        let body = [said("accept-language"), said("x-theme"), said("x-tenant")].join(" ");
        Reply::ok(body).fresh_for(60).field("vary", "Accept-Language").field("vary", "X-Theme")
    };
    for (client, place) in cached.clients() {
        let path = format!("{place}/page");
        cached.origin.answer_by(&path, reply);
        let rows: [(Fields, &str, bool); 12] = [
            (&[("accept-language", "de, en")], "de, en - -", false),
            (&[("accept-language", "fr")], "fr - -", false),
            (&[], "- - -", false),
            (&[("x-theme", "dark")], "- dark -", false),
            (&[("x-theme", "")], "-  -", false),
            (&[("x-tenant", "1")], "- - 1", false),
            (&[("x-tenant", "2")], "- - 2", false),
            (&[("accept-language", "en,de")], "de, en - -", true),
            (&[("accept-language", "FR")], "fr - -", true),
            (&[("x-theme", "dark"), ("x-else", "1")], "- dark -", true),
            (&[("x-tenant", "1")], "- - 1", true),
            (&[], "- - -", true),
        ];
        for (fields, body, hit) in rows {
            let answer = get(client, &path, fields).await;
            assert_eq!((answer.text(), is_hit(&answer)), (body, hit), "{fields:?} {answer:?}");
            let first = fields.first() == Some(&("accept-language", "de, en"));
            let wanted = if first { "uri-miss" } else { "vary-miss" };
            assert!(hit || status(&answer).contains(wanted), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_coding_never_gets_an_encoded_body() {
    let cached = Cached::start().await;
    let reply = |says_so: bool| {
        move |seen: &Seen| {
            let encoded = seen.field("accept-encoding").is_some_and(|coding| coding.contains("gzip"));
            let reply = Reply::ok(if encoded { "zipped" } else { "plain" }).fresh_for(60);
            let reply = if encoded { reply.field("content-encoding", "gzip") } else { reply };
            if says_so { reply.field("vary", "accept-encoding") } else { reply }
        }
    };
    for (client, place) in cached.clients() {
        for says_so in [true, false] {
            let path = format!("{place}/{says_so}");
            cached.origin.answer_by(&path, reply(says_so));
            let rows =
                [("gzip, br", "zipped", false), ("identity", "plain", false), ("BR,gzip", "zipped", says_so)];
            for (coding, body, hit) in rows {
                let answer = get(client, &path, &[("accept-encoding", coding)]).await;
                let encoded = answer.field("content-encoding").is_some();
                assert!(coding != "identity" || (answer.text() == body && !encoded), "{coding} {answer:?}");
                assert!(!hit || (is_hit(&answer) && answer.text() == body), "{coding} {answer:?}");
                assert_eq!(encoded, answer.text() == "zipped", "{coding} {answer:?}");
            }
        }
    }
}
