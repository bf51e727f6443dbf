//! Everybody gets every byte or an error, and nobody holds anybody up.

use http::HeaderMap;
use prometheus_client::metrics::gauge::Gauge;
use proptest::prelude::*;

use super::pilot::STALL_MAX;
use super::*;
use crate::cache::stored::testing;

const LANE: Lane = Lane { key: Key([1; 16]), kind: 0 };

type Tale = &'static str;

fn at(stamp: u64) -> Began {
    Began { stamp: Stamp(stamp), seen: Stamp(0) }
}

fn head() -> Arc<ResponseHeader> {
    Arc::new(ResponseHeader::build(200, None).unwrap())
}

fn stored() -> Arc<Stored> {
    Arc::new(testing::stored(HeaderMap::new(), b""))
}

fn lead(flights: &Arc<Flights<Tale>>) -> (Pilot<Tale>, Follower<Tale>) {
    match flights.join(LANE, at(1), |_| false) {
        Joined::Lead(pilot, follower) => (pilot, follower),
        Joined::Follow(_) => panic!("nobody else has begun"),
    }
}

fn follow(flights: &Arc<Flights<Tale>>) -> Follower<Tale> {
    match flights.join(LANE, at(1), |_| false) {
        Joined::Follow(follower) => follower,
        Joined::Lead(..) => panic!("it should be under way"),
    }
}

async fn all(mut follower: Follower<Tale>) -> Result<Vec<u8>, BrokenOff> {
    let mut body = Vec::new();
    while let Some(piece) = follower.next().await? {
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[tokio::test]
async fn all_who_follow_get_all_bytes_whenever_they_came() {
    let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
    let (mut pilot, first) = lead(&flights);
    let early = follow(&flights);
    pilot.fill(head(), stored(), 100, "tale");
    pilot.push(Bytes::from_static(b"one ")).await.unwrap();
    let late = follow(&flights);
    pilot.push(Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(pilot.pieces().concat(), b"one two");
    pilot.land();
    for follower in [first, early, late] {
        assert_eq!(all(follower).await.unwrap(), b"one two");
    }
    lead(&flights);
}

#[tokio::test]
async fn a_pilot_that_is_lost_breaks_the_body_off() {
    let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
    let (mut pilot, first) = lead(&flights);
    pilot.fill(head(), stored(), 100, "tale");
    pilot.push(Bytes::from_static(b"one")).await.unwrap();
    drop(pilot);
    assert_eq!(all(first).await, Err(BrokenOff::Broken));
}

#[tokio::test]
async fn a_pilot_that_is_lost_without_a_word_has_failed() {
    let flights = Flights::<Tale>::new(Held::new(1 << 20, Gauge::default()));
    let (pilot, mut first) = lead(&flights);
    drop(pilot);
    assert!(matches!(first.news().await, News::Verdict(Verdict::Failed, None)));
}

#[tokio::test]
async fn interim_answers_are_for_the_one_who_caused_the_fetch() {
    let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
    let (pilot, mut first) = lead(&flights);
    let mut other = follow(&flights);
    pilot.interim(ResponseHeader::build(103, None).unwrap());
    pilot.settle(Verdict::Failed, Some("tale"));
    assert!(matches!(first.news().await, News::Interim(_)));
    assert!(matches!(first.news().await, News::Verdict(Verdict::Failed, Some("tale"))));
    assert!(matches!(other.news().await, News::Verdict(Verdict::Failed, Some("tale"))));
}

#[tokio::test]
async fn a_fetch_that_a_purge_has_overtaken_is_not_joined() {
    let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
    let (_pilot, _first) = lead(&flights);
    let joined = flights.join(LANE, at(2), |flight| flight.stamp < Stamp(2));
    assert!(matches!(joined, Joined::Lead(..)));
    assert!(flights.begin(LANE, at(2)).is_none());
}

#[tokio::test]
async fn an_answer_for_one_releases_the_others() {
    let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
    let (mut pilot, _first) = lead(&flights);
    let mut other = follow(&flights);
    pilot.pass(head(), "tale");
    assert!(matches!(other.news().await, News::Verdict(Verdict::Passing(_), _)));
    lead(&flights);
}

#[tokio::test]
async fn what_turns_out_too_large_goes_on_at_the_pace_of_its_reader() {
    let flights = Flights::new(Held::new(1 << 30, Gauge::default()));
    let (mut pilot, mut first) = lead(&flights);
    pilot.fill(head(), stored(), 10, "tale");
    let piece = Bytes::from(vec![7; 60 << 10]);
    let writer = tokio::spawn(async move {
        for _ in 0..40 {
            pilot.push(piece.clone()).await.unwrap();
            assert!(pilot.flight.state.borrow().held <= LEAD_MAX + (120 << 10));
        }
        pilot.land();
    });
    let mut read = 0;
    while let Some(piece) = first.next().await.unwrap() {
        read += piece.len();
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert_eq!(read, 40 * (60 << 10));
    assert!(flights.held.bytes() > 0, "what a reader may yet read counts, whatever became of the fetch");
    drop(first);
    assert_eq!(flights.held.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_reads_on_is_waited_for_however_slow_it_is() {
    let flights = Flights::new(Held::new(1 << 30, Gauge::default()));
    let (mut pilot, mut first) = lead(&flights);
    pilot.pass(head(), "tale");
    let writer = tokio::spawn(async move {
        for _ in 0..40 {
            pilot.push(Bytes::from(vec![7; 300 << 10])).await?;
        }
        pilot.land();
        Ok::<_, Abandoned>(())
    });
    while first.next().await.unwrap().is_some() {
        tokio::time::sleep(STALL_MAX * 2 / 3).await;
    }
    assert_eq!(writer.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_reads_no_more_holds_a_writer_up_for_a_time() {
    let flights = Flights::new(Held::new(1 << 30, Gauge::default()));
    let (mut pilot, _first) = lead(&flights);
    pilot.pass(head(), "tale");
    let began = Instant::now();
    while pilot.push(Bytes::from(vec![7; 300 << 10])).await.is_ok() {}
    assert_eq!(began.elapsed(), STALL_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_takes_long_is_joined_no_more_until_its_answer_begins() {
    let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
    let (mut late, _first) = lead(&flights);
    tokio::time::advance(PATIENCE).await;
    let (second, _leads) = lead(&flights);
    follow(&flights);
    late.fill(head(), stored(), 100, "tale");
    late.land();
    follow(&flights);
    drop(second);
    let (mut third, _leads) = lead(&flights);
    third.fill(head(), stored(), 100, "tale");
    tokio::time::advance(PATIENCE).await;
    follow(&flights);
}

#[tokio::test]
async fn who_lags_behind_what_is_not_stored_is_let_go_and_holds_nobody_up() {
    let flights = Flights::new(Held::new(1 << 30, Gauge::default()));
    let (mut pilot, slow) = lead(&flights);
    let mut fast = follow(&flights);
    pilot.fill(head(), stored(), 10, "tale");
    for _ in 0..40 {
        pilot.push(Bytes::from(vec![7; 60 << 10])).await.unwrap();
        fast.next().await.unwrap();
    }
    pilot.land();
    assert_eq!(all(slow).await, Err(BrokenOff::Broken));
    assert_eq!(fast.next().await, Ok(None));
}

#[tokio::test]
async fn what_is_stored_waits_for_nobody_and_what_is_not_needs_a_reader() {
    let flights = Flights::new(Held::new(1 << 30, Gauge::default()));
    let (mut pilot, first) = lead(&flights);
    pilot.fill(head(), stored(), 10 << 20, "tale");
    drop(first);
    for _ in 0..20 {
        pilot.push(Bytes::from(vec![7; 300 << 10])).await.unwrap();
    }
    assert!(pilot.is_storing() && !pilot.is_read());
    let (mut pilot, first) = flights.alone(at(1));
    pilot.pass(head(), "tale");
    drop(first);
    assert_eq!(pilot.push(Bytes::from_static(b"x")).await, Err(Abandoned));
}

#[tokio::test]
async fn all_unfinished_answers_together_stay_within_their_bound() {
    let flights = Flights::new(Held::new(1000, Gauge::default()));
    let (mut pilot, mut first) = lead(&flights);
    pilot.fill(head(), stored(), 10_000, "tale");
    pilot.push(Bytes::from(vec![1; 900])).await.unwrap();
    let (mut second, mut reader) = flights.alone(at(1));
    second.fill(head(), stored(), 10_000, "tale");
    second.push(Bytes::from(vec![2; 200])).await.unwrap();
    assert!(pilot.is_storing() && !second.is_storing());
    assert_eq!(reader.next().await.unwrap().unwrap().len(), 200);
    assert_eq!(first.next().await.unwrap().unwrap().len(), 900);
}

proptest! {
    #[test]
    fn whatever_the_pieces_every_follower_reads_the_same(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
        joins in 0..20_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let flights = Flights::new(Held::new(1 << 20, Gauge::default()));
            let (mut pilot, first) = lead(&flights);
            pilot.fill(head(), stored(), 1 << 20, "tale");
            let mut followers = vec![first];
            for (at, piece) in pieces.iter().enumerate() {
                if at == joins {
                    followers.push(follow(&flights));
                }
                pilot.push(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            pilot.land();
            for follower in followers {
                prop_assert_eq!(all(follower).await.unwrap(), pieces.concat());
            }
            Ok(())
        })?;
    }
}
