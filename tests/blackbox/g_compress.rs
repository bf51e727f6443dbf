//! Compression on the way to clients: negotiated, streamed, and of stored answers made once.

use std::io::Read as _;

use tokio::io::AsyncWriteExt as _;

use crate::support::cached::{Cached, is_hit};
use crate::support::speaker::{self, Speaker};
use crate::support::{Answer, Client, Gate, Raw, Reply, must};

/// What stands in a body in this coding, or in none.
fn read(answer: &Answer) -> Vec<u8> {
    decoded(answer.field("content-encoding"), &answer.body)
}

fn decoded(coding: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match coding {
        None => (&*body).read_to_end(&mut text),
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_end(&mut text),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_end(&mut text),
        Some("zstd") => zstd::stream::read::Decoder::new(body).unwrap().read_to_end(&mut text),
        Some(other) => panic!("{other}"),
    }
    .unwrap();
    text
}

fn words(bytes: usize) -> Vec<u8> {
    "The quick brown fox jumps over the lazy dog. ".bytes().cycle().take(bytes).collect()
}

fn text(bytes: usize) -> Reply {
    Reply::ok(words(bytes)).field("content-type", "text/plain").field("etag", "\"1\"")
}

/// A route that compresses, with these lines more.
async fn compressing(lines: &str) -> Cached {
    Cached::with(&format!("compress = [\"zstd\", \"br\", \"gzip\"]\n{lines}")).await
}

async fn ask(client: &Client, path: &str, fields: &[(&str, &str)]) -> Answer {
    let request = client.request("GET", &format!("https://a.test{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    client.send(request).await
}

#[tokio::test]
async fn an_answer_is_put_in_the_coding_that_its_client_likes_best() {
    let it = compressing("").await;
    for (path, reply) in
        [("/length", text(9000)), ("/chunks", text(9000).chunked()), ("/close", text(9000).until_close())]
    {
        it.origin.answer(path, reply);
        for client in [&it.http1, &it.http2] {
            for (accepted, coding) in [
                ("gzip, deflate, br, zstd", Some("zstd")),
                ("gzip, br", Some("br")),
                ("gzip;q=1, br;q=0.5, zstd;q=0", Some("gzip")),
                ("*;q=0.1", Some("zstd")),
                ("identity", None),
                ("gzip;q=nonsense", None),
                ("deflate", None),
            ] {
                let answer = ask(client, path, &[("accept-encoding", accepted)]).await;
                assert_eq!(answer.field("content-encoding"), coding, "{path} {accepted}");
                assert_eq!(answer.field("vary"), Some("Accept-Encoding"), "{path} {accepted}");
                assert_eq!(read(&answer), words(9000), "{path} {accepted}");
                let tag = if coding.is_some() { "W/\"1\"" } else { "\"1\"" };
                assert_eq!(answer.field("etag"), Some(tag), "{path} {accepted}");
                if coding.is_some() {
                    assert_eq!(answer.field("content-length"), None, "{path} {accepted}");
                    assert!(answer.body.len() < 1000, "{path} {accepted}: {}", answer.body.len());
                }
            }
            assert_eq!(ask(client, path, &[]).await.body, words(9000), "{path}");
        }
    }
    let counted = it.gateway.count("tidegate_compressed_answers_total{route=\"all\",coding=\"zstd\"}").await;
    assert_eq!(counted, 12);
}

#[tokio::test]
async fn what_gains_nothing_or_may_not_be_changed_goes_as_it_is() {
    let it = compressing("").await;
    let replies = [
        ("small", text(500)),
        ("image", Reply::ok(words(9000)).field("content-type", "image/png").field("etag", "\"1\"")),
        ("untyped", Reply::ok(words(9000)).field("etag", "\"1\"")),
        ("coded", text(9000).field("content-encoding", "deflate")),
        ("fixed", text(9000).field("cache-control", "no-transform")),
        (
            "part",
            Reply::new(206, words(2000))
                .field("content-type", "text/plain")
                .field("etag", "\"1\"")
                .field("content-range", "bytes 0-1999/9000"),
        ),
        ("events", Reply::ok(words(9000)).field("content-type", "text/event-stream").field("etag", "\"1\"")),
    ];
    for (path, reply) in replies {
        it.origin.answer(&format!("/{path}"), reply.clone());
        for client in [&it.http1, &it.http2] {
            let answer = ask(client, &format!("/{path}"), &[("accept-encoding", "gzip, br, zstd")]).await;
            let coding = (path == "coded").then_some("deflate");
            assert_eq!((answer.field("content-encoding"), answer.field("vary")), (coding, None), "{path}");
            assert_eq!(answer.field("etag"), Some("\"1\""), "{path}");
            assert!(answer.body.len() >= 500 && words(9000).starts_with(&answer.body), "{path}");
        }
    }
    it.origin.answer("/text", text(9000));
    let fields = [("accept-encoding", "gzip"), ("cache-control", "no-transform")];
    assert_eq!(ask(&it.http1, "/text", &fields).await.field("content-encoding"), None);
    assert_eq!(it.gateway.count("tidegate_compressed_answers_total").await, 0);
}

#[tokio::test]
async fn head_and_304_say_what_get_does() {
    let it = compressing("").await;
    it.origin.answer_by("/text", |seen| {
        if seen.field("if-none-match").is_some_and(|tags| tags.contains("\"1\"")) {
            Reply::new(304, "").field("etag", "\"1\"")
        } else {
            text(9000)
        }
    });
    for client in [&it.http1, &it.http2] {
        let head = client.request("HEAD", "https://a.test/text").header("accept-encoding", "br");
        let head = client.send(head).await;
        let told = |name| head.field(name);
        assert_eq!((told("content-encoding"), told("content-length")), (Some("br"), None));
        assert_eq!((told("etag"), told("vary")), (Some("W/\"1\""), Some("Accept-Encoding")));

        for (held, tag, vary) in [("W/\"1\"", "W/\"1\"", Some("Accept-Encoding")), ("\"1\"", "\"1\"", None)] {
            let fields = [("accept-encoding", "br"), ("if-none-match", held)];
            let answer = ask(client, "/text", &fields).await;
            assert_eq!((answer.status, answer.field("etag"), answer.field("vary")), (304, Some(tag), vary));
        }
    }
}

#[tokio::test]
async fn a_stored_answer_is_compressed_once_for_all() {
    let it = compressing("cache = \"60s\"").await;
    for (client, base) in it.clients() {
        let path = format!("{base}/text");
        it.origin.answer(&path, text(200_000));
        for round in 0..3 {
            for coding in ["zstd", "br", "gzip"] {
                let answer = ask(client, &path, &[("accept-encoding", coding)]).await;
                assert_eq!(answer.field("content-encoding"), Some(coding));
                assert_eq!(
                    (answer.field("etag"), answer.field("vary")),
                    (Some("W/\"1\""), Some("Accept-Encoding"))
                );
                assert_eq!(read(&answer), words(200_000), "{coding}");
                if round > 0 {
                    assert!(is_hit(&answer));
                    // The length of a form that was made before is known.
                    let length = answer.body.len().to_string();
                    assert_eq!(answer.field("content-length"), Some(&*length), "{coding}");
                }
            }
            let answer = ask(client, &path, &[]).await;
            assert_eq!((answer.field("etag"), answer.body.len()), (Some("\"1\""), 200_000));
            assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
        }
        assert_eq!(it.origin.requests(&path), 1);

        let fields = [("accept-encoding", "gzip"), ("if-none-match", "W/\"1\"")];
        let answer = ask(client, &path, &fields).await;
        assert_eq!((answer.status, answer.field("etag")), (304, Some("W/\"1\"")));
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"));

        let get = ask(client, &path, &[("accept-encoding", "gzip")]).await;
        let head = client.request("HEAD", &format!("https://a.test{path}")).header("accept-encoding", "gzip");
        let head = client.send(head).await;
        for name in ["content-encoding", "content-length", "etag", "vary"] {
            assert_eq!(head.field(name), get.field(name), "{name}");
        }

        let fields = [("accept-encoding", "gzip"), ("range", "bytes=4-8")];
        let answer = ask(client, &path, &fields).await;
        assert_eq!((answer.status, answer.text()), (206, "quick"));
        assert_eq!((answer.field("content-encoding"), answer.field("etag")), (None, Some("\"1\"")));
        // A coding has no parts here: a tag that was weakened is none that could name them.
        let fields = [("accept-encoding", "gzip"), ("range", "bytes=4-8"), ("if-range", "W/\"1\"")];
        assert_eq!(ask(client, &path, &fields).await.status, 200);
    }
}

#[tokio::test]
async fn forms_count_as_memory_and_go_with_their_answer() {
    let it = compressing("cache = { ttl = \"60s\", tags = [\"all\"] }").await;
    let noise: Vec<u8> =
        std::iter::repeat_with(|| b"0123456789abcdef"[fastrand::usize(..16)]).take(100_000).collect();
    it.origin.answer("/noise", Reply::ok(noise.clone()).field("content-type", "text/plain"));
    ask(&it.http1, "/noise", &[]).await;
    let before = it.gateway.count("tidegate_cache_memory_bytes").await;
    let answer = ask(&it.http1, "/noise", &[("accept-encoding", "gzip")]).await;
    assert_eq!((read(&answer), is_hit(&answer)), (noise, true));
    // Half a byte of each is news.
    let after = it.gateway.count("tidegate_cache_memory_bytes").await;
    assert!((before + 50_000..before + 80_000).contains(&after), "{before} {after}");
}

#[tokio::test]
async fn what_is_no_smaller_in_a_coding_goes_as_it_is() {
    let it = compressing("cache = \"60s\"").await;
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5000).collect();
    it.origin.answer(
        "/noise",
        Reply::ok(noise.clone()).field("content-type", "text/plain").field("etag", "\"1\""),
    );
    ask(&it.http1, "/noise", &[]).await;
    for _ in 0..2 {
        let answer = ask(&it.http1, "/noise", &[("accept-encoding", "gzip")]).await;
        assert_eq!((answer.field("content-encoding"), answer.field("etag")), (None, Some("\"1\"")));
        assert_eq!((answer.body, is_hit(&ask(&it.http1, "/noise", &[]).await)), (noise.clone(), true));
    }
}

#[tokio::test]
async fn what_another_site_may_have_caused_is_not_compressed() {
    let it = compressing("").await;
    it.origin.answer("/text", text(9000));
    it.origin.answer("/public", text(9000).field("cache-control", "public"));
    let accepts = ("accept-encoding", "gzip");
    for (path, fields, coding) in [
        ("/text", [accepts, ("cookie", "session=1")].as_slice(), None),
        ("/text", &[accepts, ("authorization", "Basic YTpi")], None),
        ("/text", &[accepts, ("cookie", "session=1"), ("sec-fetch-site", "cross-site")], None),
        ("/text", &[accepts, ("cookie", "session=1"), ("sec-fetch-site", "same-origin")], Some("gzip")),
        ("/text", &[accepts, ("authorization", "Bearer abc")], Some("gzip")),
        ("/public", &[accepts, ("cookie", "session=1")], Some("gzip")),
    ] {
        let answer = ask(&it.http2, path, fields).await;
        assert_eq!(answer.field("content-encoding"), coding, "{path} {fields:?}");
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"), "{path} {fields:?}");
        assert_eq!(read(&answer), words(9000), "{path} {fields:?}");
    }

    // Where the operator says so, and where all get the same.
    let it = Cached::over(
        "",
        "[routes.private]\npath = \"/private\"\ncompress = { private = true }\nupstream = \"ORIGIN\"\n\
         [routes.stored]\npath = \"/stored\"\ncompress = true\ncache = \"60s\"\nupstream = \"ORIGIN\"\n",
    )
    .await;
    it.origin.answer("/private", text(9000));
    it.origin.answer("/stored", text(9000).fresh_for(60));
    for path in ["/private", "/stored", "/stored"] {
        let answer = ask(&it.http1, path, &[accepts, ("cookie", "session=1")]).await;
        assert_eq!(answer.field("content-encoding"), Some("gzip"), "{path}");
    }
}

#[tokio::test]
async fn what_a_server_has_sent_can_be_read_before_it_sends_more() {
    for cache in ["false", "true"] {
        let gate = Gate::closed();
        let opens = gate.clone();
        let origin = Speaker::start(move |mut stream| {
            let gate = opens.clone();
            async move {
                speaker::head(&mut stream).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await;
                gate.opened().await;
                let _ = stream.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
            }
        })
        .await;
        let route = format!(
            "[routes.all]\ncache = {cache}\ncompress = {{ codings = [\"gzip\"], types = [\"text/event-stream\"] }}\nupstream = \"{}\"",
            origin.address()
        );
        let it = Cached::over("", &route).await;
        let mut response = {
            let request = it.http2.request("GET", "https://a.test/events").header("accept-encoding", "gzip");
            must("the head", request.send()).await.unwrap()
        };
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let (mut sent, mut text) = (Vec::new(), [0; 9]);
        while flate2::read::GzDecoder::new(&*sent).read_exact(&mut text).is_err() {
            sent.extend_from_slice(&must("an event", response.chunk()).await.unwrap().expect("more"));
        }
        assert_eq!(&text, b"data: 1\n\n");
        gate.open();
        while let Some(more) = must("the rest", response.chunk()).await.unwrap() {
            sent.extend_from_slice(&more);
        }
        assert_eq!(decoded(Some("gzip"), &sent), b"data: 1\n\ndata: 2\n\n");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_ended_in_its_coding() {
    let it = compressing("").await;
    it.origin.answer("/text", text(90_000).cut_after(50_000));
    let mut client = Raw::tls(it.gateway.https(), "a.test", &it.certs).await;
    client.send("GET /text HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
    assert!(client.head().await.contains("content-encoding: gzip"));
    let all = client.rest().await;
    assert!(!all.ends_with(b"0\r\n\r\n"), "it looks whole");
}
