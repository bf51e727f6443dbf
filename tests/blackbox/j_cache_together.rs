//! Many at once: one fetch for all who come, within bounds, and nobody waits for what is not theirs.

use std::time::Duration;

use crate::support::cached::{ask, get, is_hit, numbered, status, url};
use crate::support::client::Answer;
use crate::support::origin::Seen;
use crate::support::{Cached, Client, Gate, PATIENCE, Raw, Reply, eventually, must, pass};

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
            cached.in_flight(12).await;
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
async fn variants_of_a_new_url_are_one_fetch_each() {
    let cached = Cached::with("cache = \"60s\"").await;
    for (client, place) in cached.clients() {
        let (gate, path) = (Gate::closed(), format!("{place}/words"));
        let held = gate.clone();
        let in_language = move |seen: &Seen| {
            let words = seen.field("accept-language").unwrap_or_default().repeat(50_000);
            Reply::ok(words).field("vary", "accept-language").paused_after(1000, &held)
        };
        cached.origin.answer_by(&path, in_language);
        let of = async |language| get(client, &path, &[("accept-language", language)]).await;
        let others = async {
            eventually(PATIENCE, "the origin is asked", async || cached.origin.requests(&path) == 1).await;
            join_all(["fr", "en", "de"].repeat(4).into_iter().map(of)).await
        };
        let open = async {
            cached.in_flight(13).await;
            eventually(PATIENCE, "each is asked for", async || cached.origin.requests(&path) >= 3).await;
            gate.open();
        };
        let (first, others, ()) = must(&path, async { tokio::join!(of("de"), others, open) }).await;
        assert!(first.text() == "de".repeat(50_000));
        for (answer, language) in others.iter().zip(["fr", "en", "de"].repeat(4)) {
            assert!(answer.text() == language.repeat(50_000), "{path}: {language}");
        }
        assert_eq!(cached.origin.requests(&path), 3, "{path}");
        for language in ["de", "fr", "en"] {
            assert!(is_hit(&of(language).await), "{path}: {language}");
        }
    }
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
                    cached.in_flight(1 + u32::from(followed)).await;
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

/// Answers that are stored, and that the origin lets nobody have without asking it.
const EACH_FOR_ONE: [(Fields<'_>, &str); 4] = [
    (&[], "no-cache"),
    (&[], "max-age=0"),
    (&[("cookie", "id=1")], "max-age=0, must-revalidate"),
    (&[("authorization", "Bearer a")], "public, max-age=0, must-revalidate"),
];

type Fields<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn an_answer_that_needs_validation_at_each_use_is_for_the_one_who_asked() {
    let cached = Cached::with("cache = true").await;
    for (client, place) in cached.clients() {
        for (row, (asked, said)) in EACH_FOR_ONE.into_iter().enumerate() {
            let path = format!("{place}/{row}");
            let reply = move |_: &Seen| Reply::ok("mine").field("cache-control", said).field("etag", "\"a\"");
            // Once while nothing is stored, and once to validate what is.
            for round in 1..=2 {
                let gate = Gate::closed();
                let held = gate.clone();
                cached.origin.answer_by(&path, numbered(move |seen| reply(seen).behind(&held)));
                let open = async {
                    cached.in_flight(4).await;
                    gate.open();
                };
                let all = join_all((0..4).map(|_| get(client, &path, asked)));
                let (answers, ()) = must(&path, async { tokio::join!(all, open) }).await;
                let mut numbers: Vec<_> =
                    answers.iter().filter_map(|answer| answer.field("x-number")).collect();
                numbers.sort_unstable();
                assert_eq!(numbers, ["0", "1", "2", "3"], "{said} in round {round}");
            }
        }
    }
}

#[tokio::test]
async fn who_wants_a_younger_answer_than_the_one_that_comes_gets_one_of_their_own() {
    let cached = Cached::with("cache = true").await;
    let (gate, path) = (Gate::closed(), "/aged");
    let held = gate.clone();
    let aged = move |_: &Seen| Reply::ok("x").field("cache-control", "max-age=1000").field("age", "100");
    cached.origin.answer_by(path, numbered(move |seen| aged(seen).behind(&held)));
    let open = async {
        cached.in_flight(2).await;
        gate.open();
    };
    let lead = get(&cached.http1, path, &[]);
    let follow = async {
        eventually(PATIENCE, "the origin is asked", async || cached.origin.requests(path) == 1).await;
        get(&cached.http2, path, &[("cache-control", "max-age=5")]).await
    };
    let (first, second, ()) =
        must("both are answered", async { tokio::join!(Box::pin(lead), Box::pin(follow), open) }).await;
    assert_eq!((first.field("x-number"), second.field("x-number")), (Some("0"), Some("1")));
}

#[tokio::test]
async fn a_body_that_outlives_its_freshness_is_not_for_those_who_come_later() {
    let cached = Cached::with("cache = true").await;
    let rows = [("/spent", "max-age=1, must-revalidate", "0"), ("/aged", "max-age=3600", "7200")];
    for (path, said, age) in rows {
        let (gate, body) = (Gate::closed(), "0123456789".repeat(30_000));
        let held = gate.clone();
        let reply = move |_: &Seen| {
            let reply = Reply::ok(body.clone()).field("cache-control", said).field("age", age);
            reply.paused_after(100_000, &held)
        };
        cached.origin.answer_by(path, numbered(reply));
        let start = async |client: &Client| client.request("GET", &url(path)).send().await.unwrap();
        // Both bodies are on their way at once; the second is asked for when the first is stale.
        let mut first = must("a head", start(&cached.http1)).await;
        assert!(must("a piece", first.chunk()).await.unwrap().is_some());
        pass(Duration::from_millis(1100)).await;
        let second = must("a head", start(&cached.http2)).await;
        assert_eq!(second.headers()["x-number"], "1", "{path}: its origin's own");
        gate.open();
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_puts_up_with_the_time_that_it_takes_to_come() {
    let cached = Cached::with("cache = true").await;
    let (gate, path) = (Gate::closed(), "/slow");
    let held = gate.clone();
    cached.origin.answer_by(path, numbered(move |_| Reply::ok("x").fresh_for(1).behind(&held)));
    let open = async {
        cached.in_flight(4).await;
        pass(Duration::from_millis(1100)).await;
        gate.open();
    };
    let all = join_all((0..4).map(|_| get(&cached.http2, path, &[])));
    let (answers, ()) = must("all are answered", async { tokio::join!(all, open) }).await;
    assert!(answers.iter().all(|answer| answer.field("x-number") == Some("0")), "{answers:?}");
}

#[tokio::test]
async fn when_a_fetch_takes_too_long_one_of_those_who_wait_makes_another() {
    let cached = Cached::with("cache = \"60s\"").await;
    let (gate, path) = (Gate::closed(), "/slow");
    cached.origin.answer(path, Reply::ok("slow").behind(&gate));
    let all = join_all((0..6).map(|_| get(&cached.http2, path, &[])));
    let open = async {
        eventually(PATIENCE, "another fetch is made", async || cached.origin.requests(path) == 2).await;
        gate.open();
    };
    let (answers, ()) = must("all are answered", async { tokio::join!(all, open) }).await;
    assert!(answers.iter().all(|answer| answer.text() == "slow"));
    assert_eq!(cached.origin.requests(path), 2);
}

#[tokio::test]
async fn who_wants_nothing_but_what_is_stored_never_reaches_the_origin() {
    let cached = Cached::with("cache = \"60s\"").await;
    cached.origin.answer("/unstored", Reply::ok("x").field("cache-control", "no-store"));
    get(&cached.http1, "/unstored", &[]).await;
    for (client, place) in cached.clients() {
        for (method, path) in [
            ("GET", "/unstored".to_owned()),
            ("HEAD", format!("{place}/new")),
            ("GET", format!("{place}/new")),
        ] {
            let answer = ask(client, method, &path, &[("cache-control", "only-if-cached")]).await;
            assert_eq!(answer.status, 504, "{method} {path}");
        }
        // What passes the cache by what it says itself does not pass it then.
        for more in [("cache-control", "no-store"), ("if-match", "\"a\"")] {
            let answer = ask(client, "GET", "/past", &[("cache-control", "only-if-cached"), more]).await;
            assert_eq!(answer.status, 504, "{more:?}");
        }
        let posted = ask(client, "POST", "/unstored", &[("cache-control", "only-if-cached")]).await;
        assert_eq!(posted.status, 200);
    }
    assert_eq!((cached.origin.requests("/unstored"), cached.origin.requests("/past")), (3, 0));
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
            cached.in_flight(5).await;
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
