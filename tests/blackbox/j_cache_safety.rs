//! Nobody is served what is another's, nobody a part for the whole, and nobody waits for what is not theirs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::cached::{ask, get, is_hit, status, url};
use crate::support::client::Answer;
use crate::support::origin::Seen;
use crate::support::{Cached, Client, Gate, PATIENCE, Raw, Reply, eventually, must};

/// Answers each request with a number of its own, and the fields of `reply`.
fn numbered(reply: impl Fn(&Seen) -> Reply + Send + Sync) -> impl Fn(&Seen) -> Reply + Send + Sync {
    let count = AtomicUsize::new(0);
    move |seen| reply(seen).field("x-number", &count.fetch_add(1, Ordering::Relaxed).to_string())
}

/// Waits until so many requests are in the gateway, the ones waiting for others included.
async fn in_flight(cached: &Cached, wanted: u32) {
    let is =
        async || (cached.gateway.metric("tidegate_requests_in_flight").await - f64::from(wanted)).abs() < 0.5;
    eventually(PATIENCE, &format!("{wanted} requests in flight"), is).await;
}

// ── whose ───────────────────────────────────────────────────────────────────────────────────────────────────────

type Fields = &'static [(&'static str, &'static str)];

/// What a first client asks and is answered, where nobody else may be served that answer.
const NOT_FOR_OTHERS: &[(Fields, u16, Fields)] = &[
    (&[], 200, &[("cache-control", "private")]),
    (&[], 200, &[("cache-control", "max-age=60, Private")]),
    (&[], 200, &[("cache-control", "private=\"x-a\", max-age=60")]),
    (&[], 200, &[("cache-control", "max-age=60"), ("cache-control", "private")]),
    (&[], 200, &[("cache-control", "no-store, max-age=60")]),
    (&[], 200, &[("cache-control", "public, no-store")]),
    (&[], 200, &[("cache-control", "no-cache")]),
    (&[], 200, &[("cache-control", "no-cache=\"x-a\", max-age=60")]),
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
    (&[], 200, &[("content-range", "bytes 0-3/10"), ("cache-control", "max-age=60")]),
    (&[], 200, &[("content-type", "text/event-stream")]),
    (&[], 206, &[("content-range", "bytes 0-3/10"), ("cache-control", "max-age=60")]),
    (&[], 201, &[("cache-control", "max-age=60")]),
    (&[], 202, &[("cache-control", "max-age=60")]),
    (&[], 207, &[("cache-control", "max-age=60")]),
    (&[], 226, &[("cache-control", "max-age=60")]),
    (&[], 299, &[("cache-control", "max-age=60")]),
    (&[], 302, &[("location", "/elsewhere")]),
    (&[], 303, &[("location", "/elsewhere"), ("cache-control", "max-age=60")]),
    (&[], 307, &[("location", "/elsewhere")]),
    (&[], 400, &[("cache-control", "max-age=60")]),
    (&[], 401, &[("cache-control", "max-age=60")]),
    (&[], 403, &[("cache-control", "public, max-age=60")]),
    (&[], 404, &[]),
    (&[], 409, &[("cache-control", "max-age=60")]),
    (&[], 429, &[("cache-control", "max-age=60")]),
    (&[], 500, &[("cache-control", "max-age=60")]),
    (&[], 502, &[("cache-control", "max-age=60")]),
    (&[], 503, &[("cache-control", "max-age=60"), ("retry-after", "1")]),
    (&[], 504, &[("cache-control", "max-age=60")]),
    (&[("authorization", "Bearer a")], 200, &[]),
    (&[("authorization", "Bearer a")], 200, &[("cache-control", "max-age=60")]),
    (&[("authorization", "Bearer a")], 200, &[("expires", "Fri, 01 Jan 2100 00:00:00 GMT")]),
    (&[("authorization", "Bearer a")], 200, &[("cache-control", "public, private")]),
    (&[("authorization", "Bearer a")], 404, &[("cache-control", "max-age=60")]),
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
        assert!(status(&own).contains("fwd=bypass") && status(&own).contains("authorization"), "{own:?}");
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
                in_flight(&cached, 2).await;
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

// ── together ────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn concurrent_misses_of_one_url_are_one_fetch_and_all_get_the_whole() {
    let cached = Cached::with("cache = \"60s\"").await;
    let body = "0123456789".repeat(30_000);
    for (framing, reply) in
        [("length", Reply::ok(body.clone())), ("chunked", Reply::ok(body.clone()).chunked())]
    {
        let (gate, path) = (Gate::closed(), format!("/{framing}"));
        cached.origin.answer(&path, reply.behind(&gate));
        let all = (0..12).map(|number| {
            let client = if number % 2 == 0 { &cached.http1 } else { &cached.http2 };
            get(client, &path, &[])
        });
        let open = async {
            in_flight(&cached, 12).await;
            gate.open();
        };
        let (answers, ()) = must("all are answered", async { tokio::join!(join_all(all), open) }).await;
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == body));
        let collapsed =
            answers.iter().filter(|answer| status(answer) == "tidegate; fwd=uri-miss; collapsed").count();
        let fetched = "tidegate; fwd=uri-miss; fwd-status=200; stored";
        let fetched = answers.iter().filter(|answer| status(answer) == fetched).count();
        assert_eq!((fetched, collapsed, cached.origin.requests(&path)), (1, 11, 1));
    }
    cached.counts("collapsed", 22).await;
    cached.counts("miss", 2).await;
}

/// All of them, at once.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waits = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => waits = true,
                }
            }
        }
        if waits { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().map(|(_, output)| output.expect("all are ready")).collect()
}

#[tokio::test]
async fn who_comes_while_a_body_streams_follows_it_from_its_first_byte() {
    let cached = Cached::with("cache = \"60s\"").await;
    let body = "0123456789".repeat(30_000);
    for (client, place) in cached.clients() {
        for (framing, reply) in
            [("length", Reply::ok(body.clone())), ("chunked", Reply::ok(body.clone()).chunked())]
        {
            let (gate, path) = (Gate::closed(), format!("{place}/{framing}"));
            cached.origin.answer(&path, reply.paused_after(100_000, &gate));
            let start = async |client: &Client| client.request("GET", &url(&path)).send().await.unwrap();
            // Each has the head and some of the body while the rest is not there yet.
            let mut streams = Vec::new();
            for client in [client, &cached.http1, &cached.http2] {
                let mut stream = must("a head", start(client)).await;
                let first = must("a piece", stream.chunk()).await.unwrap().expect("the body has begun");
                streams.push((stream, first.to_vec()));
            }
            gate.open();
            for (mut stream, mut got) in streams {
                while let Some(piece) = must("a piece", stream.chunk()).await.unwrap() {
                    got.extend(piece);
                }
                assert!(got == body.as_bytes(), "{path}: {} bytes", got.len());
            }
            assert_eq!(cached.origin.requests(&path), 1, "{path}");
            assert!(is_hit(&get(client, &path, &[]).await));
        }
    }
}

#[tokio::test]
async fn the_fetch_goes_on_when_its_client_leaves_before_or_amid_the_answer() {
    let cached = Cached::with("cache = \"60s\"").await;
    let body = "0123456789".repeat(30_000);
    for (client, place) in cached.clients() {
        for amid in [false, true] {
            for followed in [false, true] {
                let (gate, path) = (Gate::closed(), format!("{place}/{amid}/{followed}"));
                let reply = Reply::ok(body.clone()).chunked();
                let reply = if amid { reply.paused_after(100_000, &gate) } else { reply.behind(&gate) };
                cached.origin.answer(&path, reply);

                let leaver = client.request("GET", &url(&path)).send();
                let leaver = tokio::spawn(async move {
                    let mut stream = leaver.await.unwrap();
                    let _ = stream.chunk().await;
                    stream
                });
                eventually(PATIENCE, "the origin is asked", async || cached.origin.requests(&path) == 1)
                    .await;
                let follower = async {
                    let answer = if followed { Some(get(&cached.http2, &path, &[]).await) } else { None };
                    answer.is_none_or(|answer| answer.text() == body)
                };
                let leave = async {
                    in_flight(&cached, 1 + u32::from(followed)).await;
                    if amid {
                        // It has the first piece: dropping what it reads hangs up on the rest.
                        drop(leaver.await.unwrap());
                    } else {
                        leaver.abort();
                        let _ = leaver.await;
                    }
                    gate.open();
                };
                let (whole, ()) = must(&path, async { tokio::join!(follower, leave) }).await;
                assert!(whole, "{path}: the follower got less than the whole");
                let mut next = None;
                eventually(PATIENCE, "it is stored", async || {
                    next = Some(get(client, &path, &[]).await);
                    is_hit(next.as_ref().unwrap())
                })
                .await;
                assert!(next.unwrap().text() == body, "{path}");
                assert_eq!(cached.origin.requests(&path), 1, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn requests_whose_answers_are_not_shared_do_not_wait_for_each_other() {
    let cached = Cached::with("cache = \"60s\"").await;
    let private = |_: &Seen| Reply::ok("mine").field("cache-control", "private");
    for (client, place) in cached.clients() {
        let path = format!("{place}/me");
        // The first ones wait to see whether there is something to share; then each is answered its own.
        let gate = Gate::closed();
        let held = gate.clone();
        cached.origin.answer_by(&path, numbered(move |seen| private(seen).behind(&held)));
        let open = async {
            in_flight(&cached, 5).await;
            gate.open();
        };
        let all = (0..5).map(|_| get(client, &path, &[]));
        let (answers, ()) = must("all are answered", async { tokio::join!(join_all(all), open) }).await;
        assert_numbered(&answers);
        // From then on nobody waits: all are at the origin before it answers any.
        let gate = Gate::closed();
        let held = gate.clone();
        cached.origin.answer_by(&path, numbered(move |seen| private(seen).behind(&held)));
        let open = async {
            eventually(PATIENCE, "all are at the origin", async || cached.origin.requests(&path) == 10).await;
            gate.open();
        };
        let all = (0..5).map(|_| get(client, &path, &[]));
        let (answers, ()) = must("all are answered", async { tokio::join!(join_all(all), open) }).await;
        assert_numbered(&answers);
    }
}

/// Each has an answer of its own.
fn assert_numbered(answers: &[Answer]) {
    let mut numbers: Vec<_> =
        answers.iter().map(|answer| answer.field("x-number").unwrap_or("none")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["0", "1", "2", "3", "4"]);
    assert!(!answers.iter().any(is_hit));
}

#[tokio::test]
async fn what_was_asked_for_before_a_change_is_not_stored_after_it() {
    let cached = Cached::with("cache = \"60s\"").await;
    for (client, place) in cached.clients() {
        for amid in [false, true] {
            let (gate, path) = (Gate::closed(), format!("{place}/{amid}"));
            let before = Reply::ok("before".repeat(50_000));
            let before = if amid { before.paused_after(1000, &gate) } else { before.behind(&gate) };
            cached.origin.answer(&path, before);
            let change = async {
                eventually(PATIENCE, "the origin is asked", async || cached.origin.requests(&path) == 1)
                    .await;
                cached.origin.answer(&path, Reply::ok("after"));
                assert_eq!(ask(client, "PUT", &path, &[]).await.status, 200);
                let seen = get(client, &path, &[]).await;
                gate.open();
                seen
            };
            let (old, new) = must(&path, async { tokio::join!(get(client, &path, &[]), change) }).await;
            assert_eq!((old.text().len(), new.text()), (300_000, "after"), "{path}");
            let next = get(client, &path, &[]).await;
            assert!(is_hit(&next) && next.text() == "after", "{path} {next:?}");
        }
    }
}

// ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn memory_stays_within_its_bound_however_much_is_asked_for() {
    let cached =
        Cached::over("cache.memory = \"1MiB\"", "[routes.all]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n")
            .await;
    let metric = async |name: &str| cached.gateway.metric(&format!("tidegate_cache_memory_{name}")).await;
    let bound = f64::from(1 << 20);
    for round in 0..10 {
        let all = (0..40).map(|number| {
            let path = format!("/{round}/{number}");
            cached.origin.answer(&path, Reply::ok("x".repeat(2_000 + 1_000 * number)).chunked());
            let client = if number % 2 == 0 { &cached.http1 } else { &cached.http2 };
            async move { get(client, &path, &[]).await.body.len() == 2_000 + 1_000 * number }
        });
        assert!(join_all(all).await.into_iter().all(|whole| whole), "round {round}");
        let bytes = metric("bytes").await;
        assert!(bytes > 0.0 && bytes <= bound, "{bytes} in round {round}");
    }
    let (entries, evictions) = (metric("entries").await, metric("evictions_total").await);
    assert!(entries > 10.0 && evictions > 300.0, "{entries} entries, {evictions} evictions");
    assert!((entries + evictions - 400.0).abs() < 0.5, "{entries} entries, {evictions} evictions");

    // One that is larger than the memory takes passes through, and costs nobody a place.
    cached.origin.answer("/large", Reply::ok("x".repeat(900_000)));
    for _ in 0..2 {
        let large = get(&cached.http2, "/large", &[]).await;
        assert!(
            large.body.len() == 900_000 && status(&large).ends_with("detail=too-large"),
            "{}",
            status(&large)
        );
    }
    assert!((metric("entries").await - entries).abs() < 0.5);
}

// Far more than the buffers between a client and the gateway hold.
const LARGE: usize = 16 << 20;

/// A gateway with room for that.
async fn roomy() -> Cached {
    let route = "[routes.all]\ncache = { ttl = \"60s\", max_object = \"40MiB\" }\nupstream = \"ORIGIN\"\n";
    Cached::over("cache.memory = \"1GiB\"", route).await
}

#[tokio::test]
async fn who_reads_a_stored_answer_slowly_stops_nobody_else() {
    let cached = roomy().await;
    cached.origin.answer("/large", Reply::ok("x".repeat(LARGE)));
    get(&cached.http1, "/large", &[]).await;
    for (client, _) in cached.clients() {
        // Has the head, and reads nothing of the body.
        let slow = client.request("GET", &url("/large")).send().await.unwrap();
        for client in [&cached.http1, &cached.http2] {
            let answer = must("another is served", get(client, "/large", &[])).await;
            assert!(is_hit(&answer) && answer.body.len() == LARGE, "{}", status(&answer));
        }
        drop(slow);
    }
    assert_eq!(cached.origin.requests("/large"), 1);
}

#[tokio::test]
async fn who_reads_slowly_over_http1_does_not_slow_the_fetch_that_others_follow() {
    let cached = roomy().await;
    cached.origin.answer("/large", Reply::ok("x".repeat(LARGE)));
    let slow = cached.http1.request("GET", &url("/large")).send().await.unwrap();
    for client in [&cached.http1, &cached.http2] {
        let answer = tokio::time::timeout(Duration::from_secs(15), get(client, "/large", &[])).await;
        assert_eq!(answer.expect("others do not wait for the slow one").body.len(), LARGE);
    }
    assert_eq!(cached.origin.requests("/large"), 1);
    drop(slow);
}

#[tokio::test]
async fn who_comes_after_a_fetch_was_held_up_by_its_client_does_not_wait_for_it() {
    let cached = roomy().await;
    for ((client, place), other) in cached.clients().into_iter().zip([&cached.http2, &cached.http1]) {
        let path = format!("{place}/large");
        cached.origin.answer(&path, Reply::ok("x".repeat(LARGE)).until_close());
        let slow = client.request("GET", &url(&path)).send().await.unwrap();
        // The first ones to come follow it, as a HEAD tells; soon nobody does.
        eventually(PATIENCE, "nobody new follows", async || {
            !status(&ask(other, "HEAD", &path, &[]).await).contains("collapsed")
        })
        .await;
        assert_eq!(must("the whole", get(other, &path, &[])).await.body.len(), LARGE);
        assert!(is_hit(&get(other, &path, &[]).await), "{path}");
        drop(slow);
    }
}

#[tokio::test]
async fn a_condition_that_spares_the_client_a_large_body_keeps_its_connection_free() {
    let cached = Cached::with("cache = { ttl = \"60s\", max_object = \"100KiB\" }").await;
    cached.origin.answer("/large", Reply::ok("x".repeat(LARGE)).chunked().field("etag", "\"1\""));
    let mut connection = Raw::tls(cached.gateway.https(), "a.test", &cached.certs).await;
    for _ in 0..2 {
        connection.send("GET /large HTTP/1.1\r\nHost: a.test\r\nIf-None-Match: \"1\"\r\n\r\n").await;
        let head = connection.head().await;
        assert!(head.starts_with("HTTP/1.1 304"), "{head}");
        connection.send("GET /other HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(connection.answer().await.1, b"one answers");
    }
}
