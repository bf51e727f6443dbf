//! Nobody is served what is another's, and nobody a part for the whole.

use crate::support::cached::{ask, get, is_hit, numbered, status, url};
use crate::support::client::Answer;
use crate::support::origin::Seen;
use crate::support::{Cached, Gate, Raw, Reply, must};

// ── whose ───────────────────────────────────────────────────────────────────────────────────────────────────────

type Fields = &'static [(&'static str, &'static str)];

/// What a first client asks and is answered, where nobody else may be served that answer.
const NOT_FOR_OTHERS: &[(Fields, u16, Fields)] = &[
    (&[], 200, &[("cache-control", "private")]),
    (&[], 200, &[("cache-control", "max-age=60, Private")]),
    (&[], 200, &[("cache-control", "max-age=60"), ("cache-control", "private")]),
    (&[], 200, &[("cache-control", "no-store, max-age=60")]),
    (&[], 200, &[("cache-control", "public, no-store")]),
    (&[], 200, &[("cache-control", "no-cache")]),
    (&[], 200, &[("cache-control", "max-age=0")]),
    (&[], 200, &[("cache-control", "s-maxage=0, max-age=60")]),
    (&[], 200, &[("cache-control", "max-age=60"), ("age", "61")]),
    (&[], 200, &[("cache-control", "max-age=60, max-age=0")]),
    (&[], 200, &[("expires", "Sun, 06 Nov 1994 08:49:37 GMT")]),
    (&[], 200, &[("set-cookie", "id=1")]),
    (&[], 200, &[("set-cookie", "id=1"), ("cache-control", "public, max-age=60")]),
    (&[], 200, &[("vary", "*")]),
    (&[], 200, &[("vary", "accept, *"), ("cache-control", "public, max-age=60")]),
    (&[], 200, &[("vary", "cookie"), ("cache-control", "public, max-age=60")]),
    (&[], 200, &[("content-type", "text/event-stream")]),
    (&[], 206, &[("content-range", "bytes 0-3/10"), ("cache-control", "max-age=60")]),
    (&[], 302, &[("location", "/elsewhere")]),
    (&[], 307, &[("location", "/elsewhere")]),
    (&[], 404, &[]),
    (&[], 429, &[("cache-control", "max-age=60")]),
    (&[("authorization", "Bearer a")], 200, &[]),
    (&[("authorization", "Bearer a")], 200, &[("cache-control", "max-age=60")]),
    (&[("authorization", "Bearer a")], 200, &[("expires", "Fri, 01 Jan 2100 00:00:00 GMT")]),
    (&[("authorization", "Bearer a")], 200, &[("cache-control", "public, private")]),
    (&[("authorization", "Bearer a")], 404, &[("cache-control", "max-age=60")]),
    (&[("cookie", "id=1")], 200, &[]),
    (&[("cache-control", "no-store")], 200, &[("cache-control", "public, max-age=60")]),
];

#[tokio::test]
async fn what_is_not_for_all_is_served_to_nobody_else() {
    let cached = Cached::over(
        "",
        "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\n[routes.all]\ncache = \"60s\"\nupstream = \"one\"\n",
    )
    .await;
    let [one, other] = [&cached.http1, &cached.http2];
    for (row, (asked, code, fields)) in NOT_FOR_OTHERS.iter().enumerate() {
        for (first, second, place) in [(one, other, "/h1"), (other, one, "/h2")] {
            let path = format!("{place}/{row}");
            let reply = move |_: &Seen| {
                fields.iter().fold(Reply::new(*code, "body"), |reply, (name, value)| reply.field(name, value))
            };
            cached.origin.answer_by(&path, numbered(reply));
            let its = get(first, &path, asked).await;
            assert_eq!((its.status, its.field("x-number")), (*code, Some("0")), "{asked:?} {fields:?}");
            // Once stored, all of these would be answered from the store.
            for (client, number) in [(second, "1"), (first, "2"), (second, "3")] {
                // Where it is the request that kept its answer from others, one without those words may store its own.
                if number > "1" && !asked.is_empty() {
                    continue;
                }
                let answer = get(client, &path, &[]).await;
                assert_eq!(answer.field("x-number"), Some(number), "{asked:?} {code} {fields:?} {answer:?}");
                assert!(!is_hit(&answer), "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_to_a_known_caller_is_shared_only_on_the_origins_word() {
    let cached = Cached::with("cache = \"60s\"").await;
    let known: Fields = &[("authorization", "Bearer a")];
    for (client, place) in cached.clients() {
        for word in ["public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"] {
            let path = format!("{place}/{}", word.len());
            cached
                .origin
                .answer_by(&path, numbered(move |_| Reply::ok("for all").field("cache-control", word)));
            get(client, &path, known).await;
            assert!(is_hit(&get(client, &path, &[]).await), "{word}");
            assert!(is_hit(&get(client, &path, known).await), "{word}");
        }
        // Stored for callers who do not say who they are, and not for those who do.
        let path = format!("{place}/anonymous");
        cached.origin.answer_by(&path, |seen| {
            Reply::ok(seen.field("authorization").unwrap_or("nobody").to_owned()).fresh_for(60)
        });
        get(client, &path, &[]).await;
        let own = get(client, &path, known).await;
        assert_eq!((own.text(), is_hit(&own)), ("Bearer a", false));
        assert!(status(&own).contains("fwd=miss") && status(&own).contains("authorization"), "{own:?}");
        let shared = get(client, &path, &[]).await;
        assert_eq!((shared.text(), is_hit(&shared)), ("nobody", true));
    }
}

#[tokio::test]
async fn a_url_whose_answers_become_public_is_stored_from_then_on() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer(&path, Reply::ok("mine").field("cache-control", "private"));
        get(client, &path, &[]).await;
        let again = get(client, &path, &[]).await;
        assert!(status(&again).ends_with("; detail=private"), "{again:?}");
        cached.origin.answer(&path, Reply::ok("ours").fresh_for(60));
        get(client, &path, &[]).await;
        let hit = get(client, &path, &[]).await;
        assert!(is_hit(&hit) && hit.text() == "ours", "{hit:?}");
        // And back again.
        ask(client, "DELETE", &path, &[]).await;
        cached.origin.answer_by(&path, numbered(|_| Reply::ok("mine").field("cache-control", "private")));
        for number in ["0", "1"] {
            assert_eq!(get(client, &path, &[]).await.field("x-number"), Some(number));
        }
    }
}

#[tokio::test]
async fn a_cookie_set_while_an_answer_is_validated_is_for_one_client() {
    let cached = Cached::start().await;
    let reply = |seen: &Seen| {
        let reply = match seen.field("if-none-match") {
            Some(_) => Reply::new(304, "").field("set-cookie", "id=1").fresh_for(60),
            None => Reply::ok("ada").fresh_for(0),
        };
        reply.field("etag", "\"1\"")
    };
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        cached.origin.answer_by(&path, reply);
        get(client, &path, &[]).await;
        let validated = get(client, &path, &[]).await;
        assert_eq!((validated.text(), validated.field("set-cookie")), ("ada", Some("id=1")));
        let hit = get(client, &path, &[]).await;
        assert!(is_hit(&hit) && hit.field("set-cookie").is_none(), "{hit:?}");
    }
}

#[tokio::test]
async fn no_request_field_that_we_write_ourselves_gets_into_what_others_are_served() {
    let cached = Cached::with("cache = \"60s\"").await;
    let echo = |seen: &Seen| {
        let names =
            ["host", "forwarded", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"];
        let said = names.map(|name| seen.all(name).join("|"));
        Reply::ok(said.join(" "))
    };
    for (number, (client, place)) in cached.clients().into_iter().enumerate() {
        let path = format!("{place}/page");
        cached.origin.answer_by(&path, echo);
        let evil = [
            ("forwarded", "host=evil.test"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "6.6.6.6"),
        ];
        get(client, &path, &evil).await;
        let served = get(client, &path, &[]).await;
        assert!(is_hit(&served), "{number} {served:?}");
        assert!(!served.text().contains("evil") && !served.text().contains("6.6.6.6"), "{served:?}");
        assert!(served.text().starts_with("a.test  a.test https "), "{served:?}");
    }
}

#[tokio::test]
async fn no_spelling_of_the_host_gets_into_what_others_are_served() {
    let cached = Cached::with("cache = \"60s\"").await;
    let echo = |seen: &Seen| Reply::ok(seen.field("host").unwrap_or_default().to_owned());
    let heads = [
        "GET /N HTTP/1.1\r\nHost: a.test:\r\n",
        "GET /N HTTP/1.1\r\nHost: a.test:99999\r\n",
        "GET /N HTTP/1.1\r\nHost: a.test:0443\r\n",
        "GET /N HTTP/1.1\r\nHost: a.test:8443\r\n",
        "GET /N HTTP/1.1\r\nHost: a.test.\r\n",
        "GET /N HTTP/1.1\r\nHost: A.TEST\r\n",
        "GET https://a.test/N HTTP/1.1\r\nHost: b.test\r\n",
        "GET https://b.test/N HTTP/1.1\r\nHost: a.test\r\n",
        "GET https://a.test:8443/N HTTP/1.1\r\nHost: a.test\r\n",
        "GET http://a.test/N HTTP/1.1\r\nHost: a.test\r\n",
        "GET /N HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n",
        "GET https://x@a.test/N HTTP/1.1\r\nHost: a.test\r\n",
    ];
    for (number, head) in heads.into_iter().enumerate() {
        let path = format!("/{number}");
        cached.origin.answer_by(&path, echo);
        let mut connection = Raw::tls(cached.gateway.https(), "a.test", &cached.certs).await;
        connection.send(format!("{}Connection: close\r\n\r\n", head.replace("/N", &path))).await;
        connection.rest().await;
        for (host, client) in [("a.test", &cached.http1), ("b.test", &cached.http2)] {
            let answer = client.get(&format!("https://{host}{path}")).await;
            assert_eq!(answer.text(), host, "{head} {answer:?}");
        }
    }
    let mixed = cached.http2.request("GET", &url("/mixed")).header("host", "b.test");
    cached.origin.answer_by("/mixed", echo);
    cached.http2.send(mixed).await;
    for host in ["a.test", "b.test"] {
        assert_eq!(cached.http2.get(&format!("https://{host}/mixed")).await.text(), host);
    }
}

#[tokio::test]
async fn a_get_with_content_is_neither_answered_from_the_store_nor_stored() {
    let cached = Cached::with("cache = \"60s\"").await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/search");
        cached.origin.answer_by(&path, |seen| Reply::ok(seen.body.clone()));
        let send =
            async |body: &str| client.send(client.request("GET", &url(&path)).body(body.to_owned())).await;
        for body in ["one", "two"] {
            let answer = send(body).await;
            assert_eq!((answer.text(), is_hit(&answer)), (body, false));
            assert!(status(&answer).contains("detail=content"), "{answer:?}");
        }
        assert_eq!(get(client, &path, &[]).await.text(), "");
        assert!(is_hit(&get(client, &path, &[]).await));
        assert_eq!(send("three").await.text(), "three");
    }
}

#[tokio::test]
async fn an_origin_that_comes_to_differ_by_more_fields_is_believed() {
    let cached = Cached::with("cache = \"60s\"").await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/page");
        cached.origin.answer(&path, Reply::ok("for all").field("vary", "accept-language"));
        get(client, &path, &[("accept-language", "de")]).await;
        // From now on, answers differ by the tenant as well, which the first answer did not say.
        cached.origin.answer_by(&path, |seen| {
            Reply::ok(seen.field("x-tenant").unwrap_or("-").to_owned())
                .field("vary", "accept-language, x-tenant")
        });
        for tenant in ["1", "2", "1"] {
            let answer = get(client, &path, &[("accept-language", "en"), ("x-tenant", tenant)]).await;
            assert_eq!(answer.text(), tenant, "{answer:?}");
        }
        for tenant in ["1", "2"] {
            let answer = get(client, &path, &[("accept-language", "de"), ("x-tenant", tenant)]).await;
            assert_eq!(answer.text(), tenant, "what the first answer was is known to be wrong: {answer:?}");
        }
    }
}

// ── whole ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_answer_that_breaks_off_is_whole_to_nobody_and_is_not_stored() {
    let cached = Cached::over(
        "",
        "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\n[routes.all]\ncache = \"60s\"\nupstream = \"one\"\n",
    )
    .await;
    let body = "0123456789".repeat(30_000);
    let (whole, half) = (Reply::ok(body.clone()).bytes("GET", "one").len(), 150_000);
    let chunked = Reply::ok(body.clone()).chunked();
    let last_chunk = chunked.bytes("GET", "one").len() - 5;
    let rows = [
        ("length-reset", Reply::ok(body.clone()).cut_after(half)),
        ("length-closed", Reply::ok(body.clone()).closed_after(half)),
        ("length-one-byte-short", Reply::ok(body.clone()).closed_after(whole - 1)),
        ("chunked-reset", chunked.clone().cut_after(half)),
        ("chunked-closed", chunked.clone().closed_after(half)),
        ("chunked-without-its-last-chunk", chunked.clone().closed_after(last_chunk)),
        ("chunked-in-the-last-chunk", chunked.closed_after(last_chunk + 3)),
        ("until-close-reset", Reply::ok(body.clone()).until_close().cut_after(half)),
        ("nothing-after-the-head", Reply::ok(body.clone()).closed_after(whole - body.len())),
    ];
    for (client, place) in cached.clients() {
        for (name, reply) in &rows {
            let path = format!("{place}/{name}");
            let gate = Gate::closed();
            cached.origin.answer(&path, reply.clone().behind(&gate));
            // Two at once: one fetches, the other follows.
            let (one, other) = (client.request("GET", &url(&path)), client.request("GET", &url(&path)));
            let both = async { tokio::join!(Answer::try_of(one), Answer::try_of(other)) };
            let open = async {
                cached.in_flight(2).await;
                gate.open();
            };
            let all = Box::pin(async { tokio::join!(both, open) });
            let ((one, other), ()) = must(name, all).await;
            for answer in [one, other].into_iter().flatten() {
                assert_ne!(answer.status, 200, "{name}: {} bytes", answer.body.len());
            }
            cached.origin.answer(&path, Reply::ok(body.clone()));
            let next = get(client, &path, &[]).await;
            assert!(!is_hit(&next) && next.text() == body, "{name} {}", status(&next));
            let hit = get(client, &path, &[]).await;
            assert!(is_hit(&hit) && hit.text() == body, "{name} {}", status(&hit));
        }
    }
}

#[tokio::test]
async fn an_old_client_gets_a_stored_body_of_unknown_length_whole() {
    let cached = Cached::start().await;
    let body = "0123456789".repeat(1000);
    cached.origin.answer("/file", Reply::ok(body.clone()).chunked().fresh_for(60));
    get(&cached.http2, "/file", &[]).await;
    let mut connection = Raw::tls(cached.gateway.https(), "a.test", &cached.certs).await;
    connection.send("GET /file HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
    let answer = String::from_utf8(connection.rest().await).unwrap();
    let (head, got) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("tidegate; hit") && !head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert!(got == body, "{} bytes", got.len());
}
