//! What is counted of fetches: each once, whoever waits for it and however it ends.

use crate::support::cached::{get, status, url};
use crate::support::{Answer, Cached, Gate, Gateway, PATIENCE, Reply, eventually, must};

/// So many fetches ended so.
async fn filled(cached: &Cached, result: &str, wanted: u64) {
    counted(cached, "fills", result, wanted).await;
}

/// So many times the origin said so of what is stored.
async fn validated(cached: &Cached, result: &str, wanted: u64) {
    counted(cached, "validations", result, wanted).await;
}

async fn counted(cached: &Cached, what: &str, result: &str, wanted: u64) {
    let series = format!("tidegate_cache_{what}_total{{result=\"{result}\"}}");
    let is = async || cached.gateway.count(&series).await == wanted;
    eventually(PATIENCE, &format!("{what}: {wanted} {result}"), is).await;
}

/// The answer past its time as it comes.
fn stale(reply: Reply) -> Reply {
    reply.fresh_for(1).field("age", "5")
}

/// Purges a URL by the command line.
async fn purge(cached: &Cached, path: &str) {
    let admin = cached.gateway.admin().to_string();
    let (code, wrote) = Gateway::run(&["purge", "--admin", &admin, "--url", &url(path)]).await;
    assert_eq!(code, Some(0), "{wrote}");
}

#[tokio::test]
async fn fetches_in_the_background_are_counted_like_others() {
    let cached = Cached::with("cache = { stale_while_revalidate = \"1h\" }").await;
    cached.origin.answer("/a", stale(Reply::ok("a")).field("etag", "\"1\""));
    get(&cached.http1, "/a", &[]).await;
    filled(&cached, "stored", 1).await;
    let rows = [
        (stale(Reply::ok("b")).field("etag", "\"2\""), "replaced", "stored", 2),
        (stale(Reply::new(304, "")).field("etag", "\"2\""), "holds", "stored", 2),
        (Reply::new(503, "no"), "failed", "status", 1),
        (Reply::ok("c").field("cache-control", "private"), "replaced", "private", 1),
    ];
    let mut said = std::collections::BTreeMap::new();
    for (reply, says, result, count) in rows {
        cached.origin.answer("/a", reply);
        let held = get(&cached.http1, "/a", &[]).await;
        assert!(status(&held).contains("while-revalidate"), "{held:?}");
        *said.entry(says).or_insert(0) += 1;
        filled(&cached, result, count).await;
        for (says, count) in &said {
            validated(&cached, says, *count).await;
        }
    }
    filled(&cached, "stored", 2).await;
}

#[tokio::test]
async fn a_failure_that_a_stale_answer_stands_in_for_is_counted_once() {
    let cached = Cached::with("cache = { stale_if_error = \"1h\" }").await;
    cached.origin.answer("/a", stale(Reply::ok("a")));
    get(&cached.http1, "/a", &[]).await;
    cached.origin.answer("/a", Reply::new(503, "no"));
    let held = get(&cached.http1, "/a", &[]).await;
    assert_eq!((held.status, held.text()), (200, "a"));
    validated(&cached, "failed", 1).await;
    filled(&cached, "status", 1).await;
    cached.origin.answer("/a", Reply::ok("x").cut_after(0));
    get(&cached.http1, "/a", &[]).await;
    validated(&cached, "failed", 2).await;
    filled(&cached, "stored", 1).await;
    assert_eq!(
        cached.gateway.count("tidegate_cache_fills_total").await,
        2,
        "without an answer there is no fill"
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_counted_as_stored() {
    let cached = Cached::with("cache = \"1m\"").await;
    let part = || Reply::new(206, "0123456789").field("content-range", "bytes 0-9/99");
    let rows = [
        ("/length", Reply::ok("0123456789"), ""),
        ("/chunks", Reply::ok("0123456789").chunked(), ""),
        ("/part", part(), "bytes=0-9"),
    ];
    for (count, (path, reply, range)) in (1..).zip(rows) {
        let most = reply.bytes("GET", "one").len() - 6;
        cached.origin.answer(path, reply.closed_after(most));
        let mut request = cached.http1.request("GET", &url(path));
        if !range.is_empty() {
            request = request.header("range", range);
        }
        let answer = must(path, Answer::try_of(request)).await;
        assert!(answer.is_err(), "{path}: {answer:?}");
        filled(&cached, "broken-off", count).await;
    }
    cached.origin.answer("/part", part());
    get(&cached.http1, "/part", &[("range", "bytes=0-9")]).await;
    filled(&cached, "stored", 1).await;
}

#[tokio::test]
async fn what_a_purge_overtakes_is_not_counted_as_stored_and_says_so_while_it_can() {
    let cached = Cached::with("cache = \"1m\"").await;
    let body = &*"0123456789".repeat(30_000);
    for (count, path) in [(1, "/head"), (2, "/body")] {
        let (gate, held_after) = (Gate::closed(), if path == "/head" { 0 } else { 150_000 });
        cached.origin.answer(path, Reply::ok(body).paused_after(held_after, &gate));
        let asked = tokio::spawn(cached.http1.request("GET", &url(path)).send());
        let (response, says) = if path == "/head" {
            let seen = async || cached.origin.requests(path) == 1;
            eventually(PATIENCE, "the origin is asked", seen).await;
            purge(&cached, path).await;
            gate.open();
            (must(path, asked).await, "detail=purged")
        } else {
            let head = must(path, asked).await;
            purge(&cached, path).await;
            gate.open();
            (head, "stored")
        };
        let response = response.unwrap().unwrap();
        let said = format!("tidegate; fwd=uri-miss; fwd-status=200; {says}");
        assert_eq!(response.headers()["cache-status"], said, "{path}");
        assert_eq!(must(path, response.text()).await.unwrap(), body, "{path}");
        filled(&cached, "purged", count).await;
        cached.origin.answer(path, Reply::ok("after"));
        assert_eq!(get(&cached.http1, path, &[]).await.text(), "after", "{path}");
        filled(&cached, "stored", count).await;
    }
}
