//! The store as Pingora uses it.

use std::time::{Duration, SystemTime};

use pingora::cache::trace::Span;
use pingora::http::ResponseHeader;
use proptest::prelude::*;

use super::*;

fn tiers() -> &'static Tiers {
    Tiers::new(64 << 20, &Meters::new())
}

fn trace() -> SpanHandle {
    Span::inactive().handle()
}

fn key(name: &str) -> CacheKey {
    CacheKey::new(name, "")
}

fn meta(fields: &[(&'static str, &str)]) -> CacheMeta {
    let mut header = ResponseHeader::build(200, None).unwrap();
    for (name, value) in fields {
        header.append_header(*name, *value).unwrap();
    }
    let now = SystemTime::now();
    CacheMeta::new(now + Duration::from_secs(60), now, 0, 0, header)
}

fn bounded(tiers: &Tiers, key: &CacheKey, size_max: u64) -> CacheMeta {
    let mut meta = meta(&[]);
    meta.extensions_mut().insert(Terms { purges: tiers.purges.count(&key.primary_bin()), size_max });
    meta
}

async fn begin(tiers: &'static Tiers, key: &CacheKey, meta: &CacheMeta) -> (MissHandler, HitHandler) {
    let writer = tiers.get_miss_handler(key, meta, &trace()).await.unwrap();
    let own = tiers.lookup_streaming_write(key, writer.streaming_write_tag(), &trace()).await.unwrap();
    (writer, own.unwrap().1)
}

async fn store(tiers: &'static Tiers, key: &CacheKey, meta: &CacheMeta, pieces: &[&str]) {
    let mut writer = tiers.get_miss_handler(key, meta, &trace()).await.unwrap();
    for piece in pieces {
        writer.write_body(Bytes::copy_from_slice(piece.as_bytes()), false).await.unwrap();
    }
    writer.finish().await.unwrap();
}

async fn find(tiers: &'static Tiers, key: &CacheKey) -> Option<(CacheMeta, HitHandler)> {
    tiers.lookup(key, &trace()).await.unwrap()
}

async fn read(mut reader: HitHandler) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = reader.read_body().await? {
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[tokio::test]
async fn what_is_written_is_found() {
    let tiers = tiers();
    assert!(find(tiers, &key("a")).await.is_none());
    store(tiers, &key("a"), &meta(&[("ETag", "\"1\"")]), &["one ", "", "two"]).await;
    let (found, reader) = find(tiers, &key("a")).await.unwrap();
    assert_eq!(found.headers()["etag"], "\"1\"");
    assert_eq!(read(reader).await.unwrap(), b"one two");
    assert!(find(tiers, &key("b")).await.is_none());
}

#[tokio::test]
async fn ranges_are_cut_from_stored_answers_and_from_those_on_their_way() {
    let tiers = tiers();
    let windows = [(0, 3), (2, 5), (3, 6), (5, 9), (8, 100), (0, 9)];
    let (mut writer, own) = begin(tiers, &key("a"), &meta(&[])).await;
    drop(own);
    for piece in ["012", "345", "678"] {
        writer.write_body(Bytes::from_static(piece.as_bytes()), false).await.unwrap();
    }
    let filling = find(tiers, &key("a")).await.unwrap().1;
    assert!(filling.as_any().is::<super::super::fill::Follower>());
    let mut readers = vec![filling];
    writer.finish().await.unwrap();
    readers.push(find(tiers, &key("a")).await.unwrap().1);
    for mut reader in readers {
        for (start, end) in windows {
            reader.seek(start, Some(end)).unwrap();
            let mut body = Vec::new();
            while let Some(piece) = reader.read_body().await.unwrap() {
                body.extend_from_slice(&piece);
            }
            assert_eq!(body, &b"012345678"[start..end.min(9)], "{start}..{end}");
        }
        reader.seek(4, None).unwrap();
        assert_eq!(read(reader).await.unwrap(), b"45678");
    }
    let mut reader = find(tiers, &key("a")).await.unwrap().1;
    assert!(reader.seek(9, None).is_err());
}

#[tokio::test]
async fn followers_see_what_is_written_as_it_is_written() {
    let tiers = tiers();
    let (mut writer, mut own) = begin(tiers, &key("a"), &meta(&[])).await;
    let (_, mut follower) = find(tiers, &key("a")).await.unwrap();
    writer.write_body(Bytes::from_static(b"one"), false).await.unwrap();
    assert_eq!(own.read_body().await.unwrap().unwrap(), "one");
    assert_eq!(follower.read_body().await.unwrap().unwrap(), "one");
    let waiting = tokio::spawn(read(follower));
    let (_, late) = find(tiers, &key("a")).await.unwrap();
    writer.write_body(Bytes::from_static(b"two"), true).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), b"two");
    assert_eq!(read(late).await.unwrap(), b"onetwo");
    assert_eq!(read(own).await.unwrap(), b"two");
}

#[tokio::test(start_paused = true)]
async fn nobody_new_follows_a_fill_that_its_client_holds_up_for_long() {
    let tiers = tiers();
    let (mut writer, mut own) = begin(tiers, &key("a"), &meta(&[])).await;
    let long = Duration::from_secs(5);
    tokio::time::advance(long).await;
    assert!(find(tiers, &key("a")).await.is_some(), "the origin has sent nothing yet");

    writer.write_body(Bytes::from_static(b"one"), false).await.unwrap();
    assert_eq!(own.read_body().await.unwrap().unwrap(), "one");
    assert!(find(tiers, &key("a")).await.is_some());
    // It has a piece, and does not ask for the next one.
    tokio::time::advance(long).await;
    assert!(find(tiers, &key("a")).await.is_none());
    // It asks: the origin is what is slow.
    let asks = tokio::time::timeout(Duration::from_millis(1), own.read_body()).await;
    assert!(asks.is_err());
    tokio::time::advance(long).await;
    assert!(find(tiers, &key("a")).await.is_some());
    // It goes: nobody holds up anything.
    writer.write_body(Bytes::from_static(b"two"), false).await.unwrap();
    own.read_body().await.unwrap();
    drop(own);
    tokio::time::advance(long).await;
    assert!(find(tiers, &key("a")).await.is_some());
}

#[tokio::test]
async fn a_fill_that_breaks_off_is_an_error_to_its_readers_and_stores_nothing() {
    let tiers = tiers();
    let (mut writer, own) = begin(tiers, &key("a"), &meta(&[])).await;
    writer.write_body(Bytes::from_static(b"half"), false).await.unwrap();
    let follower = find(tiers, &key("a")).await.unwrap().1;
    let waiting = tokio::spawn(read(follower));
    drop(writer);
    assert!(waiting.await.unwrap().is_err());
    assert!(read(own).await.is_err());
    assert!(find(tiers, &key("a")).await.is_none());
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_not_stored() {
    let tiers = tiers();
    for (announced, body) in [("5", "four"), ("3", "four")] {
        let (mut writer, own) = begin(tiers, &key("a"), &meta(&[("Content-Length", announced)])).await;
        writer.write_body(Bytes::from_static(body.as_bytes()), true).await.unwrap();
        assert!(writer.finish().await.is_err());
        assert!(read(own).await.is_err());
        assert!(find(tiers, &key("a")).await.is_none());
    }
    store(tiers, &key("a"), &meta(&[("Content-Length", "4")]), &["four"]).await;
    assert!(find(tiers, &key("a")).await.is_some());
}

#[tokio::test]
async fn a_body_too_large_to_store_reaches_its_readers_whole() {
    let tiers = tiers();
    let (mut writer, mut own) = begin(tiers, &key("a"), &bounded(tiers, &key("a"), 10)).await;
    writer.write_body(Bytes::from_static(b"0123456789"), false).await.unwrap();
    let follower = tokio::spawn(read(find(tiers, &key("a")).await.unwrap().1));
    let mut body = own.read_body().await.unwrap().unwrap().to_vec();
    for _ in 0..1000 {
        writer.write_body(Bytes::from(vec![b'x'; 10_000]), false).await.unwrap();
        body.extend_from_slice(&own.read_body().await.unwrap().unwrap());
        tokio::task::yield_now().await;
    }
    assert!(find(tiers, &key("a")).await.is_none(), "nobody new may follow");
    writer.finish().await.unwrap();
    assert!(own.read_body().await.unwrap().is_none());
    assert_eq!(body.len(), 10_000_010);
    assert_eq!(follower.await.unwrap().unwrap(), body);
    assert!(find(tiers, &key("a")).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_follower_too_slow_for_a_body_too_large_is_let_go_and_the_client_is_not() {
    let tiers = tiers();
    let (mut writer, mut own) = begin(tiers, &key("a"), &bounded(tiers, &key("a"), 10)).await;
    let mut slow = find(tiers, &key("a")).await.unwrap().1;
    for _ in 0..30 {
        writer.write_body(Bytes::from(vec![b'x'; 100_000]), false).await.unwrap();
        own.read_body().await.unwrap().unwrap();
    }
    assert!(slow.read_body().await.is_err());
    writer.finish().await.unwrap();
    assert!(own.read_body().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_writer_whose_client_reads_no_more_gives_up_a_body_too_large() {
    let tiers = tiers();
    let (mut writer, _own) = begin(tiers, &key("a"), &bounded(tiers, &key("a"), 10)).await;
    let mut pieces = 0;
    while writer.write_body(Bytes::from(vec![b'x'; 60_000]), false).await.is_ok() {
        pieces += 1;
        assert!(pieces < 1000, "it never gives up");
    }
    assert!(pieces > 18, "it bears with a megabyte and a little more");
}

#[tokio::test]
async fn a_body_in_crumbs_beyond_number_is_not_stored() {
    let tiers = tiers();
    let (mut writer, mut own) = begin(tiers, &key("a"), &meta(&[])).await;
    for _ in 0..70_000 {
        writer.write_body(Bytes::from_static(b"x"), false).await.unwrap();
        own.read_body().await.unwrap().unwrap();
    }
    writer.finish().await.unwrap();
    assert!(find(tiers, &key("a")).await.is_none());
}

#[tokio::test]
async fn a_purge_removes_what_is_stored_and_what_is_on_its_way() {
    let tiers = tiers();
    store(tiers, &key("a"), &meta(&[]), &["old"]).await;
    let (mut writer, own) = begin(tiers, &key("a"), &meta(&[])).await;
    assert!(tiers.purge(&key("a").primary_bin()));
    assert!(find(tiers, &key("a")).await.is_none(), "neither the stored nor the one on its way");
    writer.write_body(Bytes::from_static(b"old, too"), true).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(read(own).await.unwrap(), b"old, too", "its own client gets it");
    assert!(find(tiers, &key("a")).await.is_none());
    assert!(!tiers.purge(&key("a").primary_bin()));
    store(tiers, &key("a"), &meta(&[]), &["new"]).await;
    assert!(find(tiers, &key("a")).await.is_some());
}

#[tokio::test]
async fn pingoras_purge_does_the_same() {
    let tiers = tiers();
    store(tiers, &key("a"), &meta(&[]), &["old"]).await;
    let compact = key("a").to_compact();
    let target = PurgeTarget::Active(&compact);
    let outcome = Storage::purge(tiers, target, PurgeType::Invalidation, &trace()).await.unwrap();
    assert_eq!(outcome, PurgeOutcome::Purged(None));
    let outcome = Storage::purge(tiers, target, PurgeType::Invalidation, &trace()).await.unwrap();
    assert_eq!(outcome, PurgeOutcome::NotFound);
    assert!(find(tiers, &key("a")).await.is_none());
}

#[tokio::test]
async fn a_newer_head_goes_on_the_body_that_it_is_of_and_on_no_other() {
    let tiers = tiers();
    let one = [("ETag", "\"1\"")];
    assert!(!tiers.update_meta(&key("a"), &meta(&one), &trace()).await.unwrap());
    store(tiers, &key("a"), &meta(&one), &["body"]).await;
    let newer = meta(&[("ETag", "\"1\""), ("X-New", "1")]);
    assert!(tiers.update_meta(&key("a"), &newer, &trace()).await.unwrap());
    let (found, reader) = find(tiers, &key("a")).await.unwrap();
    assert_eq!(found.headers()["x-new"], "1");
    assert_eq!(read(reader).await.unwrap(), b"body");
    assert!(!tiers.update_meta(&key("a"), &meta(&[("ETag", "\"2\"")]), &trace()).await.unwrap());
    assert_eq!(find(tiers, &key("a")).await.unwrap().0.headers()["etag"], "\"1\"");
}

#[tokio::test]
async fn a_validation_that_began_before_a_purge_revives_nothing() {
    let tiers = tiers();
    let terms = Terms { purges: tiers.purges.count(&key("a").primary_bin()), size_max: 100 };
    tiers.purge(&key("a").primary_bin());
    store(tiers, &key("a"), &meta(&[]), &["new"]).await;
    let mut late = meta(&[("X-Old", "1")]);
    late.extensions_mut().insert(terms);
    assert!(!tiers.update_meta(&key("a"), &late, &trace()).await.unwrap());
    assert!(!find(tiers, &key("a")).await.unwrap().0.headers().contains_key("x-old"));
}

#[tokio::test]
async fn each_writer_has_its_own_reader_and_the_newest_is_found() {
    let tiers = tiers();
    let (mut first, first_own) = begin(tiers, &key("a"), &meta(&[])).await;
    let (mut second, second_own) = begin(tiers, &key("a"), &meta(&[])).await;
    first.write_body(Bytes::from_static(b"1"), true).await.unwrap();
    second.write_body(Bytes::from_static(b"2"), true).await.unwrap();
    let newest = find(tiers, &key("a")).await.unwrap().1;
    first.finish().await.unwrap();
    second.finish().await.unwrap();
    assert_eq!(read(first_own).await.unwrap(), b"1");
    assert_eq!(read(second_own).await.unwrap(), b"2");
    assert_eq!(read(newest).await.unwrap(), b"2");
}

#[tokio::test]
async fn fills_hold_no_more_than_their_bound_in_all() {
    let tiers = Tiers::new(1 << 20, &Meters::new());
    let mut open = Vec::new();
    for number in 0..40 {
        let (mut writer, mut own) = begin(tiers, &key(&number.to_string()), &meta(&[])).await;
        writer.write_body(Bytes::from(vec![b'x'; 100_000]), false).await.unwrap();
        own.read_body().await.unwrap().unwrap();
        open.push((writer, own, number));
    }
    let followed = (0..40).map(|number| tiers.fills.newest(&key(&number.to_string()).combined_bin(), 0));
    assert_eq!(followed.flatten().count(), 10);
    drop(open);
    let (mut writer, _own) = begin(tiers, &key("a"), &meta(&[])).await;
    writer.write_body(Bytes::from(vec![b'x'; 100_000]), false).await.unwrap();
    assert!(find(tiers, &key("a")).await.is_some(), "what ended is counted no more");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn however_it_is_cut_the_body_is_the_same(
        body in proptest::collection::vec(any::<u8>(), 0..2000),
        cuts in proptest::collection::vec(1..300_usize, 1..20),
        window in (0..2000_usize, 1..2000_usize),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (whole, part) = runtime.block_on(async {
            let tiers = tiers();
            let (mut writer, own) = begin(tiers, &key("a"), &meta(&[])).await;
            let (mut rest, mut cuts) = (Bytes::from(body.clone()), cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = cuts.next().copied().unwrap().min(rest.len());
                writer.write_body(rest.split_to(cut), false).await.unwrap();
            }
            let mut follower = find(tiers, &key("a")).await.unwrap().1;
            writer.finish().await.unwrap();
            follower.seek(window.0, Some(window.0 + window.1)).unwrap();
            let stored = read(find(tiers, &key("a")).await.unwrap().1).await.unwrap();
            assert_eq!(read(own).await.unwrap(), stored);
            (stored, read(follower).await.unwrap())
        });
        prop_assert_eq!(&whole, &body);
        let from = window.0.min(body.len());
        prop_assert_eq!(part, &body[from..(window.0 + window.1).min(body.len()).max(from)]);
    }
}
