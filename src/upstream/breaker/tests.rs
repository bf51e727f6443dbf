//! How a breaker opens and closes, by a clock that is moved by hand.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use proptest::prelude::*;

use crate::telemetry::Meters;

use super::*;

const RULES: CircuitBreaker =
    CircuitBreaker { error_share: Share(50), min_requests: 4, open_time: Duration::from_secs(5), probes: 2 };

fn breaker() -> Arc<Breaker> {
    let name: Arc<str> = "users".into();
    let counts = Arc::new(GroupCounts::new(&name, &Meters::new()));
    Arc::new(Breaker::new(RULES, name, counts))
}

fn at(seconds: u64) -> Moment {
    Moment::from_millis(seconds * 1000)
}

fn opened(now: Moment) -> Arc<Breaker> {
    let breaker = breaker();
    (0..4).for_each(|_| breaker.note(true, now));
    assert_eq!(breaker.phase(now).0, Phase::Open);
    breaker
}

fn probe(breaker: &Arc<Breaker>, now: Moment) -> Probe {
    breaker.enter(now).unwrap().unwrap()
}

#[test]
fn it_opens_once_the_failures_reach_their_share_of_enough_tries() {
    let breaker = breaker();
    for failed in [true, true, true] {
        breaker.note(failed, at(1));
        assert!(breaker.enter(at(1)).unwrap().is_none(), "three are too few to tell");
    }
    breaker.note(false, at(1));
    assert_eq!(breaker.phase(at(1)).0, Phase::Closed, "a success opens nothing");
    breaker.note(true, at(1));
    assert_eq!(breaker.enter(at(2)).unwrap_err(), Duration::from_secs(4));
    assert_eq!((breaker.counts.breaker.get(), breaker.counts.opened.get()), (2, 1));
}

#[test]
fn failures_below_the_share_leave_it_closed() {
    let breaker = breaker();
    for turn in 0..300 {
        breaker.note(turn % 3 == 2, at(1));
    }
    assert_eq!(breaker.phase(at(1)).0, Phase::Closed);
}

#[test]
fn probes_that_pass_close_it() {
    let breaker = opened(at(1));
    let (first, second) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
    assert_eq!(breaker.counts.breaker.get(), 1);
    assert!(breaker.enter(at(6)).is_err(), "as many as may are under way");
    first.passed();
    assert_eq!(breaker.phase(at(6)).0, Phase::HalfOpen);
    assert!(breaker.enter(at(6)).is_err(), "the other may still pass");
    second.passed();
    assert!(breaker.enter(at(6)).unwrap().is_none());
    assert_eq!(breaker.counts.breaker.get(), 0);

    breaker.note(true, at(6));
    assert_eq!(breaker.phase(at(6)).0, Phase::Closed, "what was before is forgotten");
}

#[test]
fn a_probe_that_fails_opens_it_for_longer_up_to_ten_times() {
    let mut now = at(1);
    let breaker = opened(now);
    let mut times = Vec::new();
    for _ in 0..12 {
        let open = breaker.enter(now).unwrap_err();
        times.push(open.as_secs());
        now = now.plus(open);
        probe(&breaker, now).failed(now);
    }
    assert_eq!(times, [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 50, 50]);
    assert_eq!(breaker.counts.opened.get(), 13);
}

#[test]
fn a_probe_whose_client_left_makes_room_for_another() {
    let breaker = opened(at(1));
    let (one, two) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
    drop(one);
    drop(two);
    probe(&breaker, at(6)).passed();
    probe(&breaker, at(6)).passed();
    assert_eq!(breaker.phase(at(6)).0, Phase::Closed);
}

#[test]
fn probes_that_are_never_heard_of_do_not_keep_it_half_open() {
    let breaker = opened(at(1));
    let (lost, late) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
    assert_eq!(breaker.enter(at(8)).unwrap_err(), Duration::from_secs(3));
    probe(&breaker, at(11)).passed();
    probe(&breaker, at(11)).passed();
    assert_eq!(breaker.phase(at(11)).0, Phase::Closed);
    late.failed(at(11));
    drop(lost);
    assert_eq!(breaker.phase(at(11)).0, Phase::Closed, "that trial is over");
}

#[test]
fn probes_that_were_given_up_have_no_place_to_give_back() {
    let breaker = opened(at(1));
    let lost = [probe(&breaker, at(6)), probe(&breaker, at(6))];
    let _under_way = [probe(&breaker, at(11)), probe(&breaker, at(11))];
    drop(lost);
    assert!(breaker.enter(at(11)).is_err(), "as many as may are under way");
}

#[test]
fn a_probe_that_was_given_up_and_fails_opens_it_all_the_same() {
    let breaker = opened(at(1));
    let (late, _other) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
    let _under_way = probe(&breaker, at(11));
    late.failed(at(12));
    assert_eq!(breaker.enter(at(12)).unwrap_err(), Duration::from_secs(10));
}

#[test]
fn nobody_is_given_up_while_there_is_room() {
    let breaker = opened(at(1));
    let slow = probe(&breaker, at(6));
    let next = probe(&breaker, at(60));
    assert!(breaker.enter(at(60)).is_err(), "as many as may are under way");
    drop(slow);
    assert!(breaker.enter(at(60)).is_ok());
    drop(next);
}

#[test]
fn however_many_ask_at_once_so_many_are_let_through_and_no_more() {
    const ASKING: usize = 4;
    let breaker = opened(at(1));
    let (under_way, begin) = (AtomicUsize::new(0), Barrier::new(ASKING));
    std::thread::scope(|scope| {
        for _ in 0..ASKING {
            scope.spawn(|| {
                begin.wait();
                for _ in 0..10_000 {
                    let Ok(probe) = breaker.enter(at(6)) else { continue };
                    assert!(under_way.fetch_add(1, SeqCst) < usize::from(RULES.probes));
                    under_way.fetch_sub(1, SeqCst);
                    drop(probe); // its client left
                }
            });
        }
    });
    let probes: Vec<_> = std::iter::repeat_with(|| breaker.enter(at(6))).take(ASKING).collect();
    assert_eq!(probes.iter().filter(|probe| probe.is_ok()).count(), usize::from(RULES.probes));
}

#[test]
fn what_was_sent_before_it_opened_tells_nothing_new() {
    let breaker = opened(at(1));
    let _probe = probe(&breaker, at(6));
    (0..100).for_each(|_| breaker.note(true, at(6)));
    assert_eq!(breaker.phase(at(6)).0, Phase::HalfOpen);
    assert_eq!(breaker.counts.opened.get(), 1);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Enter,
    Pass,
    Fail,
    Leave,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Enter),
        1 => Just(Event::Pass),
        1 => Just(Event::Fail),
        1 => Just(Event::Leave),
        1 => (1_u64..8_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn it_is_never_stuck_and_lets_no_more_through_than_it_may(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let (breaker, mut now) = (breaker(), at(1));
        let mut under_way: Vec<Option<Probe>> = Vec::new();
        for event in events {
            match event {
                Event::Wait(millis) => now = now.plus(Duration::from_millis(millis)),
                Event::Enter => match breaker.enter(now) {
                    Ok(probe) => under_way.push(probe),
                    Err(wait) => prop_assert!(!wait.is_zero() && wait <= RULES.open_time * MOST_TIMES),
                },
                Event::Pass | Event::Fail | Event::Leave => {
                    match (event, under_way.pop()) {
                        (Event::Pass, Some(Some(probe))) => probe.passed(),
                        (Event::Fail, Some(Some(probe))) => probe.failed(now),
                        (Event::Pass, Some(None)) => breaker.note(false, now),
                        (Event::Fail, Some(None)) => breaker.note(true, now),
                        _ => {}
                    }
                }
            }
            if let State::HalfOpen(trial) = *breaker.state.lock() {
                prop_assert!(trial.under_way <= RULES.probes && trial.passed < RULES.probes);
            }
        }
        // Whatever happened: let it be, and probes that pass close it; some may have to wait until others are given up.
        now = now.plus(RULES.open_time * MOST_TIMES);
        for _ in 0..2 {
            while let Ok(Some(probe)) = breaker.enter(now) {
                probe.passed();
            }
            now = now.plus(RULES.open_time);
        }
        prop_assert_eq!(breaker.phase(now).0, Phase::Closed);
    }
}
