//! What is stored, under which key and for how long, and how requests are answered from it.

use serde_json::Value;

use crate::support::cached::{ask, get, is_hit, status, ttl, url};
use crate::support::client::Answer;
use crate::support::origin::Seen;
use crate::support::{Cached, Client, Raw, Reply, https};

type Fields<'a> = &'a [(&'a str, &'a str)];
/// A range and `If-Range`; the status, the body and `Content-Range` of its answer.
type Part<'a> = (&'a str, Option<&'a str>, u16, &'a str, Option<&'a str>);

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
cache = { ttl = "100s", ttl_max = "50s" }
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
        ("/max/silent", "200", &[], Some(50)),
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

// ── HEAD, ranges, conditions ────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn head_is_answered_from_what_get_has_stored_and_stores_nothing_itself() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer(&path, Reply::ok("ada").fresh_for(60).field("etag", "\"1\""));

        for _ in 0..2 {
            let before = ask(client, "HEAD", &path, &[]).await;
            assert_eq!(status(&before), "tidegate; fwd=uri-miss; fwd-status=200; detail=head");
        }
        get(client, &path, &[]).await;
        let after = ask(client, "HEAD", &path, &[]).await;
        let part = ask(client, "HEAD", &path, &[("range", "bytes=0-1")]).await;
        let same = ask(client, "HEAD", &path, &[("if-none-match", "\"1\"")]).await;

        assert!(is_hit(&after) && after.body.is_empty() && after.status == 200, "{after:?}");
        assert_eq!((after.field("content-length"), after.field("etag")), (Some("3"), Some("\"1\"")));
        assert_eq!(
            (part.status, part.field("content-length")),
            (200, Some("3")),
            "ranges are for GET: {part:?}"
        );
        assert_eq!(same.status, 304, "{same:?}");
        let methods: Vec<_> = cached.origin.seen().into_iter().filter(|seen| seen.target == path).collect();
        let methods: Vec<_> = methods.iter().map(|seen| seen.method.as_str()).collect();
        assert_eq!(methods, ["HEAD", "HEAD", "GET"]);
    }
}

#[tokio::test]
async fn parts_are_cut_from_a_stored_whole() {
    let cached = Cached::start().await;
    let body = "0123456789".repeat(100);
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (client, place) in cached.clients() {
        let path = format!("{place}/file");
        let reply = Reply::ok(body.clone()).fresh_for(60).field("etag", "\"1\"").field("last-modified", date);
        cached.origin.answer(&path, reply);
        get(client, &path, &[]).await;
        // The part, its `Content-Range`; none where the whole is to come, or 416.
        let rows: [Part<'_>; 14] = [
            ("bytes=0-8", None, 206, &body[..9], Some("bytes 0-8/1000")),
            ("bytes=990-", None, 206, &body[990..], Some("bytes 990-999/1000")),
            ("bytes=-10", None, 206, &body[990..], Some("bytes 990-999/1000")),
            ("bytes=995-2000", None, 206, &body[995..], Some("bytes 995-999/1000")),
            ("bytes=0-8, 2000-3000", None, 206, &body[..9], Some("bytes 0-8/1000")),
            ("bytes=1000-", None, 416, "", Some("bytes */1000")),
            ("bytes=-0", None, 200, &body, None),
            ("bytes=5-2", None, 416, "", Some("bytes */1000")),
            ("lines=0-8", None, 200, &body, None),
            ("bytes=a-b", None, 200, &body, None),
            ("bytes=0-8", Some("\"1\""), 206, &body[..9], Some("bytes 0-8/1000")),
            ("bytes=0-8", Some("\"2\""), 200, &body, None),
            ("bytes=0-8", Some("W/\"1\""), 200, &body, None),
            ("bytes=0-8", Some(date), 206, &body[..9], Some("bytes 0-8/1000")),
        ];
        for (range, if_range, code, part, content_range) in rows {
            let mut fields = vec![("range", range)];
            fields.extend(if_range.map(|value| ("if-range", value)));
            let answer = get(client, &path, &fields).await;
            assert!(is_hit(&answer), "{range} {answer:?}");
            assert_eq!((answer.status, answer.text()), (code, part), "{range} {if_range:?}");
            assert_eq!(answer.field("content-range"), content_range, "{range} {if_range:?}");
            assert_eq!(answer.field("content-length"), Some(part.len().to_string().as_str()), "{range}");
        }
        assert_eq!(cached.origin.requests(&path), 1);
    }
}

#[tokio::test]
async fn several_parts_come_as_one_multipart_body() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/file");
        cached
            .origin
            .answer(&path, Reply::ok("0123456789").fresh_for(60).field("content-type", "text/plain"));
        get(client, &path, &[]).await;

        let answer = get(client, &path, &[("range", "bytes=0-1,-3")]).await;

        assert_eq!((answer.status, answer.field("content-range")), (206, None));
        let kind = answer.field("content-type").unwrap().to_owned();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect(&kind);
        let parts: Vec<&str> = answer.text().split(&format!("--{boundary}")).map(str::trim).collect();
        assert_eq!(parts.len(), 4, "{parts:?}");
        assert!(
            parts[1].contains("Content-Range: bytes 0-1/10") && parts[1].ends_with("\r\n\r\n01"),
            "{parts:?}"
        );
        assert!(
            parts[2].contains("Content-Range: bytes 7-9/10") && parts[2].ends_with("\r\n\r\n789"),
            "{parts:?}"
        );
        assert_eq!(
            (parts[3], answer.field("content-length")),
            ("--", Some(answer.body.len().to_string().as_str()))
        );
        // More parts than anybody needs.
        let many: Vec<String> = (0..200).map(|n| format!("{}-{}", n * 2, n * 2)).collect();
        let whole = get(client, &path, &[("range", &format!("bytes={}", many.join(",")))]).await;
        assert_eq!((whole.status, whole.text()), (200, "0123456789"));
        let nothing = get(client, &path, &[("range", "bytes=0-1,-0")]).await;
        assert_eq!((nothing.status, nothing.text()), (200, "0123456789"), "a part without a byte");
    }
}

#[tokio::test]
async fn no_range_of_an_empty_body_confuses_anybody() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/empty");
        cached.origin.answer(&path, Reply::ok("").fresh_for(60));
        get(client, &path, &[]).await;
        for range in ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=-0", "bytes=-0,-1", "bytes=0-,-1"] {
            let answer = get(client, &path, &[("range", range)]).await;
            assert!(is_hit(&answer) && answer.body.is_empty(), "{range} {answer:?}");
            assert_eq!((answer.status, answer.field("content-range")), (200, None), "{range}");
        }
    }
}

#[tokio::test]
async fn a_range_of_what_is_not_stored_goes_to_the_origin_and_its_part_is_not_stored() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/file");
        cached.origin.answer_by(&path, |seen| match seen.field("range") {
            Some("bytes=0-1") => Reply::new(206, "01").field("content-range", "bytes 0-1/10").fresh_for(60),
            _ => Reply::ok("0123456789").fresh_for(60),
        });
        for _ in 0..2 {
            let part = get(client, &path, &[("range", "bytes=0-1")]).await;
            assert_eq!((part.status, part.text()), (206, "01"));
            assert_eq!(status(&part), "tidegate; fwd=uri-miss; fwd-status=206; detail=range");
        }
        let whole = get(client, &path, &[]).await;
        assert_eq!((whole.status, whole.text(), is_hit(&whole)), (200, "0123456789", false));
        let part = get(client, &path, &[("range", "bytes=0-1")]).await;
        assert!(is_hit(&part) && part.status == 206, "{part:?}");
        assert_eq!(cached.origin.requests(&path), 3);
    }
}

#[tokio::test]
async fn conditions_are_answered_from_the_store() {
    let cached = Cached::start().await;
    let (date, before, after) =
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT", "Mon, 07 Nov 1994 08:49:37 GMT");
    let (none_match, since) = ("if-none-match", "if-modified-since");
    for (client, place) in cached.clients() {
        for tag in ["\"1\"", "W/\"1\""] {
            let path = format!("{place}/{}", tag.len());
            let reply = Reply::ok("ada").fresh_for(60).field("etag", tag).field("last-modified", date);
            cached.origin.answer(&path, reply.field("vary", "x-theme").field("content-language", "en"));
            get(client, &path, &[]).await;
            let rows: [(&[(&str, &str)], u16); 14] = [
                (&[(none_match, "\"1\"")], 304),
                (&[(none_match, "W/\"1\"")], 304),
                (&[(none_match, "\"0\", W/\"1\" , \"2\"")], 304),
                (&[(none_match, "\"0\""), (none_match, "\"1\"")], 304),
                (&[(none_match, "*")], 304),
                (&[(none_match, "\"2\"")], 200),
                (&[(none_match, "\"11\"")], 200),
                (&[(none_match, "\"0\", \"2\"")], 200),
                (&[(since, date)], 304),
                (&[(since, after)], 304),
                (&[(since, before)], 200),
                (&[(since, "once")], 200),
                (&[(none_match, "\"2\""), (since, after)], 200),
                (&[(none_match, "\"1\""), (since, before)], 304),
            ];
            for (fields, code) in rows {
                let answer = get(client, &path, fields).await;
                assert!(is_hit(&answer), "{fields:?} {answer:?}");
                assert_eq!(answer.status, code, "{fields:?}");
                assert_eq!(answer.text(), if code == 200 { "ada" } else { "" }, "{fields:?}");
                let told = [answer.field("etag"), answer.field("cache-control"), answer.field("vary")];
                assert_eq!(told, [Some(tag), Some("max-age=60"), Some("x-theme")], "{answer:?}");
                assert!(answer.field("age").is_some() && answer.field("date").is_some(), "{answer:?}");
            }
            assert_eq!(cached.origin.requests(&path), 1);
        }
    }
}

#[tokio::test]
async fn a_condition_on_a_miss_fetches_the_whole_and_is_answered_by_us() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer(&path, Reply::ok("ada").fresh_for(60).field("etag", "\"1\""));

        let same = get(client, &path, &[("if-none-match", "\"1\"")]).await;
        let whole = get(client, &path, &[]).await;

        assert_eq!((same.status, status(&same)), (304, "tidegate; fwd=uri-miss; fwd-status=200; stored"));
        assert!(same.body.is_empty() && is_hit(&whole) && whole.text() == "ada", "{same:?} {whole:?}");
        assert_eq!(cached.origin.seen().last().unwrap().field("if-none-match"), None);
    }
}

#[tokio::test]
async fn a_condition_reaches_the_origin_untouched_where_nothing_is_cached() {
    let cached = Cached::over(
        "",
        "[routes.off]\npath = \"/off/*\"\nupstream = \"ORIGIN\"\n[routes.on]\ncache = true\nupstream = \"ORIGIN\"\n",
    )
    .await;
    let fields = [
        ("if-none-match", "\"1\", W/\"2\""),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("range", "bytes=0-1"),
        ("if-range", "\"1\""),
    ];
    for (client, place) in cached.clients() {
        for (path, more) in [
            (format!("/off{place}"), None),
            (format!("{place}/bypassed"), Some(("cache-control", "no-store"))),
            (format!("{place}/matched"), Some(("if-match", "\"1\""))),
        ] {
            cached.origin.answer(&path, Reply::new(304, ""));
            let asked: Vec<_> = fields.into_iter().chain(more).collect();
            let answer = get(client, &path, &asked).await;
            assert_eq!(answer.status, 304, "{path}");
            let seen = cached.origin.seen().pop().unwrap();
            for (name, value) in asked {
                assert_eq!(seen.all(name), [value], "{path} {name}");
            }
            assert_eq!(answer.field("cache-status").is_none(), path.starts_with("/off"), "{answer:?}");
        }
    }
}

/// Answers 304 to the tag, and the whole with it otherwise.
fn tagged(
    tag: &'static str,
    body: &'static str,
    lifetime: &'static str,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| {
        let same = seen.field("if-none-match") == Some(tag);
        let reply = if same { Reply::new(304, "").field("x-renewed", "yes") } else { Reply::ok(body) };
        reply.field("etag", tag).field("cache-control", lifetime)
    }
}

#[tokio::test]
async fn what_is_stale_is_validated_and_renewed_by_a_304() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer_by(&path, tagged("\"1\"", "ada", "max-age=0"));
        get(client, &path, &[]).await;
        cached.origin.answer_by(&path, tagged("\"1\"", "ada", "max-age=60"));

        let renewed = get(client, &path, &[("if-none-match", "\"9\"")]).await;
        let hit = get(client, &path, &[]).await;

        assert_eq!(
            (renewed.status, renewed.text()),
            (200, "ada"),
            "the client holds another one: {renewed:?}"
        );
        assert!(status(&renewed).starts_with("tidegate; fwd=stale; fwd-status=304"), "{}", status(&renewed));
        assert_eq!(renewed.field("x-renewed"), Some("yes"));
        let asked = cached.origin.seen().pop().unwrap();
        assert_eq!(asked.all("if-none-match"), ["\"1\""], "the store's own condition, not the client's");
        assert!(is_hit(&hit) && hit.text() == "ada" && hit.field("x-renewed") == Some("yes"), "{hit:?}");
        assert_eq!(cached.origin.requests(&path), 2);

        cached.origin.answer_by(&path, tagged("\"2\"", "bob", "max-age=60"));
        let replaced = get(client, &path, &[("cache-control", "no-cache"), ("if-none-match", "\"2\"")]).await;
        assert_eq!(replaced.status, 304, "the client holds the new one already: {replaced:?}");
        assert_eq!(status(&replaced), "tidegate; fwd=request; fwd-status=200; stored");
        assert_eq!(get(client, &path, &[]).await.text(), "bob");
    }
}

#[tokio::test]
async fn a_request_says_how_fresh_its_answer_is_to_be() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer(&path, Reply::ok("ada").fresh_for(100).field("age", "40"));
        get(client, &path, &[]).await;
        // Whether the store will do, and if not, what `Cache-Status` says.
        let rows = [
            ("max-age=90", None),
            ("min-fresh=30", None),
            ("only-if-cached", None),
            ("max-stale", None),
            ("max-age=10", Some("fwd=request")),
            ("max-age=0", Some("fwd=request")),
            ("min-fresh=90", Some("fwd=request")),
            ("no-cache", Some("fwd=request")),
            ("no-store", Some("fwd=request; fwd-status=200; detail=no-store")),
        ];
        for (directive, wanted) in rows {
            let asked = cached.origin.requests(&path);
            let answer = get(client, &path, &[("cache-control", directive)]).await;
            let went = cached.origin.requests(&path) - asked;
            assert_eq!((answer.status, answer.text()), (200, "ada"), "{directive}");
            assert_eq!(went, usize::from(wanted.is_some()), "{directive} {answer:?}");
            assert!(status(&answer).contains(wanted.unwrap_or("; hit")), "{directive} {answer:?}");
        }
        let pragma = get(client, &path, &[("pragma", "no-cache")]).await;
        assert!(status(&pragma).contains("fwd=request"), "{pragma:?}");

        let fresh = format!("{place}/other");
        let nothing = get(client, &fresh, &[("cache-control", "only-if-cached")]).await;
        assert_eq!((nothing.status, nothing.field("content-type")), (504, Some("application/problem+json")));
        assert!(status(&nothing).contains("detail=only-if-cached"), "{nothing:?}");
        assert_eq!(nothing.json()["status"], 504);
        assert_eq!(cached.origin.requests(&fresh), 0);
        get(client, &fresh, &[("cache-control", "no-store")]).await;
        let nothing = get(client, &fresh, &[("cache-control", "only-if-cached")]).await;
        assert_eq!(nothing.status, 504, "what was asked for with no-store is not stored");
    }
}

// ── what changes, and what is not stored ────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_change_that_succeeded_makes_the_next_get_a_miss() {
    let cached = Cached::start().await;
    let rows: [(&str, u16, Option<&str>, bool); 12] = [
        ("POST", 200, None, true),
        ("PUT", 204, None, true),
        ("PATCH", 200, None, true),
        ("DELETE", 204, None, true),
        ("PURGE", 200, None, true),
        ("POST", 303, None, true),
        ("POST", 400, None, false),
        ("PUT", 409, None, false),
        ("DELETE", 500, None, false),
        ("OPTIONS", 204, None, false),
        ("POST", 201, Some("/LOCATED"), true),
        ("POST", 201, Some("https://b.test/LOCATED"), false),
    ];
    for (client, place) in cached.clients() {
        for (number, (method, code, location, forgotten)) in rows.into_iter().enumerate() {
            let path = format!("{place}/{number}");
            // Where a location is named, that is what is forgotten as well.
            let watched = if location.is_some() { format!("{path}/located") } else { path.clone() };
            cached.origin.answer_by(&watched, |seen| Reply::ok(seen.method.clone()).fresh_for(60));
            get(client, &watched, &[]).await;
            assert!(is_hit(&get(client, &watched, &[]).await));

            let mut reply = Reply::new(code, "changed").fresh_for(60);
            if let Some(location) = location {
                reply = reply.field("location", &location.replace("/LOCATED", &watched));
            }
            cached.origin.answer(&path, reply.clone());
            let changed = ask(client, method, &path, &[]).await;
            assert_eq!((changed.status, is_hit(&changed)), (code, false), "{method} {code}");
            assert!(status(&changed).starts_with("tidegate; fwd=method"), "{changed:?}");
            cached.origin.answer_by(&watched, |_| Reply::ok("GET").fresh_for(60));

            let next = get(client, &watched, &[]).await;
            assert_eq!(is_hit(&next), !forgotten, "{method} {code} {location:?} {next:?}");
            assert_eq!(next.text(), "GET", "what a {method} was answered is stored for nobody");
        }
    }
}

#[tokio::test]
async fn a_change_forgets_all_variants() {
    let cached = Cached::start().await;
    cached.origin.answer("/page", Reply::ok("page").fresh_for(60).field("vary", "x-theme"));
    let themes: [&[(&str, &str)]; 3] = [&[("x-theme", "dark")], &[("x-theme", "light")], &[]];
    for client in [&cached.http1, &cached.http2] {
        for hit in [false, true] {
            for theme in themes {
                assert_eq!(is_hit(&get(client, "/page", theme).await), hit, "{theme:?}");
            }
        }
        ask(client, "DELETE", "/page", &[]).await;
    }
}

#[tokio::test]
async fn a_route_without_a_cache_caches_nothing_whatever_the_defaults_say() {
    let cached = Cached::over(
        "",
        "[defaults]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n[routes.on]\npath = \"/on\"\n[routes.off]\npath = \"/off\"\ncache = false\n",
    )
    .await;
    for client in [&cached.http1, &cached.http2] {
        for _ in 0..2 {
            let off = get(client, "/off", &[]).await;
            assert_eq!((off.status, off.field("cache-status"), off.field("age")), (200, None, None));
            get(client, "/on", &[]).await;
        }
    }
    assert_eq!((cached.origin.requests("/off"), cached.origin.requests("/on")), (4, 1));
    assert!(cached.gateway.metric("tidegate_cache_requests_total{route=\"off\"}").await < 0.5);
    let line = cached.gateway.access_line_of("/off", |_| true).await;
    assert_eq!(line["cache"], Value::Null);
}

#[tokio::test]
async fn redirects_and_fixed_words_of_the_gateway_are_not_for_the_store() {
    let certs = crate::support::Certs::for_names(&["a.test"]);
    let listen = https(&certs)
        .replace("[\"https://127.0.0.1:0\"]", "[\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]");
    let gateway = crate::support::Gateway::start(&format!(
        "{listen}[defaults]\ncache = \"60s\"\n[routes.words]\nrespond = {{ body = \"words\" }}\n"
    ))
    .await;
    let mut plain = Raw::tcp(gateway.http()).await;
    for _ in 0..2 {
        plain.send("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let (head, _) = plain.answer().await;
        assert!(head.starts_with("HTTP/1.1 308") && !head.to_lowercase().contains("age:"), "{head}");
    }
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let words = client.get(&url("/a")).await;
        assert_eq!((words.status, words.text(), words.field("age")), (200, "words", None));
    }
    assert!(gateway.metric("tidegate_cache_requests_total").await < 0.5);
}

// ── fields ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn fields_of_a_request_or_a_connection_are_not_replayed() {
    let cached = Cached::with(
        "cache = true\nrate_limit = \"100/h\"\nresponse_headers = { set = { x-edge = \"yes\" }, remove = [\"x-secret\"] }",
    )
    .await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        let reply = Reply::ok("ada").fresh_for(60).field("x-secret", "1").field("via", "1.1 origin");
        let reply = reply.field("connection", "x-hop").field("x-hop", "1").field("keep-alive", "timeout=5");
        let reply = reply.field("proxy-authenticate", "Basic").field("x-request-id", "of-the-origin");
        cached.origin.answer(&path, reply.field("cache-status", "inner; hit"));

        let miss = get(client, &path, &[]).await;
        let hit = get(client, &path, &[]).await;

        let asked = cached.origin.seen().pop().unwrap();
        assert_eq!(miss.field("x-request-id"), asked.field("x-request-id"));
        assert_ne!(miss.field("x-request-id"), hit.field("x-request-id"));
        let left = |answer: &Answer| {
            let field =
                answer.field("ratelimit").unwrap_or_else(|| panic!("no RateLimit: {answer:?}")).to_owned();
            let left = field.split(';').find_map(|part| part.strip_prefix("r="));
            left.expect(&field).parse::<u32>().unwrap()
        };
        assert_eq!(left(&hit) + 1, left(&miss), "a hit is charged as well: {hit:?}");
        for answer in [&miss, &hit] {
            assert_eq!((answer.field("x-edge"), answer.field("x-secret")), (Some("yes"), None));
            for name in ["x-hop", "keep-alive", "proxy-authenticate"] {
                assert_eq!(answer.field(name), None, "{name} {answer:?}");
            }
            assert_eq!(answer.fields.get_all("x-request-id").iter().count(), 1);
            assert_eq!(answer.fields.get_all("date").iter().count(), 1);
            let all = |name: &str| {
                let values = answer.fields.get_all(name).iter().map(|value| value.to_str().unwrap());
                values.collect::<Vec<_>>().join(", ")
            };
            assert_eq!(all("via").matches("1.1 ").count(), 2, "the origin's and ours, each once: {answer:?}");
            let statuses = all("cache-status");
            assert!(statuses.starts_with("inner; hit, tidegate; "), "{statuses}");
            assert_eq!(statuses.matches("tidegate").count(), 1, "{statuses}");
        }
    }
}

#[tokio::test]
async fn limits_are_charged_on_hits_and_each_refusal_says_what_the_cache_did() {
    let cached = Cached::with("cache = \"60s\"\nrate_limit = \"3/h\"\nmax_body = \"1KiB\"").await;
    get(&cached.http1, "/users", &[]).await;
    assert!(is_hit(&get(&cached.http2, "/users", &[]).await));
    let large = cached.http2.request("POST", &url("/users")).body("x".repeat(2000));
    let large = cached.http2.send(large).await;
    assert_eq!((large.status, status(&large)), (413, "tidegate; detail=body-too-large"));

    for client in [&cached.http1, &cached.http2] {
        let refused = get(client, "/users", &[]).await;
        assert_eq!((refused.status, status(&refused)), (429, "tidegate; detail=limit-exceeded"));
        assert!(
            refused.field("retry-after").is_some() && refused.field("ratelimit").is_some(),
            "{refused:?}"
        );
    }
    assert_eq!(cached.origin.requests("/users"), 1);
}

#[tokio::test]
async fn failures_of_the_upstream_say_what_the_cache_did_and_are_not_stored() {
    let cached = Cached::over(
        "",
        "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\ntimeouts = { first_byte = \"300ms\", idle = \"300ms\" }\nretries = { attempts = 1 }\n[routes.all]\ncache = \"60s\"\nupstream = \"one\"\n",
    )
    .await;
    let never = crate::support::Gate::closed();
    for (client, place) in cached.clients() {
        let rows = [
            ("reset", Reply::ok("x").cut_after(0), 502, "tidegate; fwd=uri-miss"),
            ("late", Reply::ok("x").behind(&never), 504, "tidegate; fwd=uri-miss"),
            ("503", Reply::new(503, "x"), 503, "tidegate; fwd=uri-miss; fwd-status=503; detail=status"),
        ];
        for (name, reply, code, wanted) in rows {
            let path = format!("{place}/{name}");
            cached.origin.answer(&path, reply);
            let failed = get(client, &path, &[]).await;
            assert_eq!((failed.status, status(&failed)), (code, wanted), "{name}");
            cached.origin.answer(&path, Reply::ok("well again"));
            let next = get(client, &path, &[]).await;
            assert_eq!((next.status, next.text()), (200, "well again"), "{name}");
            assert!(is_hit(&get(client, &path, &[]).await), "{name}");
        }
    }
}

#[tokio::test]
async fn what_the_second_server_answers_is_stored_like_any_other() {
    let broken = crate::support::Origin::start("broken").await;
    let first = broken.address();
    let cached = Cached::over(
        "",
        &format!("[upstreams.two]\nservers = [\"{first}\", \"ORIGIN\"]\nbalance = \"round_robin\"\nretries = {{ attempts = 3, budget = \"100%\" }}\n[routes.all]\ncache = true\nupstream = \"two\"\n"),
    )
    .await;
    for (client, place) in cached.clients() {
        for number in 0..4 {
            let path = format!("{place}/{number}");
            broken.answer(&path, Reply::ok("x").cut_after(0));
            cached.origin.answer(&path, Reply::ok("whole").fresh_for(60));
            let answer = get(client, &path, &[]).await;
            assert_eq!((answer.status, answer.text()), (200, "whole"));
            assert_eq!(status(&answer), "tidegate; fwd=uri-miss; fwd-status=200; stored");
            assert!(is_hit(&get(client, &path, &[]).await));
        }
    }
    assert!(!broken.seen().is_empty(), "the broken server was never tried");
}
