//! How requests are answered from what is stored: HEAD, ranges, conditions, directives.

use crate::support::cached::{ask, get, is_hit, status};
use crate::support::origin::Seen;
use crate::support::{Cached, Reply};

/// A range and `If-Range`; the status, the body and `Content-Range` of its answer.
type Part<'a> = (&'a str, Option<&'a str>, u16, &'a str, Option<&'a str>);

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
            ("bytes=-0", None, 416, "", Some("bytes */1000")),
            ("bytes=5-2", None, 200, &body, None),
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
        assert_eq!((nothing.status, nothing.text()), (206, "01"), "a part without a byte is left out");
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
async fn a_range_of_what_is_not_stored_goes_to_the_origin_and_its_part_is_stored() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/file");
        cached.origin.answer_by(&path, |seen| match seen.field("range") {
            Some("bytes=0-1") => Reply::new(206, "01").field("content-range", "bytes 0-1/10").fresh_for(60),
            _ => Reply::ok("0123456789").fresh_for(60),
        });
        let part = get(client, &path, &[("range", "bytes=0-1")]).await;
        assert_eq!((part.status, part.text()), (206, "01"));
        assert_eq!(status(&part), "tidegate; fwd=uri-miss; fwd-status=206; stored");
        for (range, text) in [("bytes=0-1", "01"), ("bytes=1-1", "1")] {
            let part = get(client, &path, &[("range", range)]).await;
            assert_eq!((part.status, part.text(), is_hit(&part)), (206, text, true), "{range}");
        }
        let whole = get(client, &path, &[]).await;
        assert_eq!((whole.status, whole.text(), is_hit(&whole)), (200, "0123456789", false));
        let part = get(client, &path, &[("range", "bytes=0-1")]).await;
        assert!(is_hit(&part) && part.status == 206, "{part:?}");
        assert_eq!(cached.origin.requests(&path), 2);
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
