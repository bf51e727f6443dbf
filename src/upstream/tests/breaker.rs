//! An upstream with a circuit breaker.

use super::*;
use crate::upstream::{CircuitBreaker, UpstreamView};

fn guarded(weights: &[u16]) -> Arc<Upstream> {
    let breaker = Some(CircuitBreaker { min_requests: 4, probes: 1, ..CircuitBreaker::default() });
    upstream_of(Settings { breaker, outlier: None, ..settings(weights) })
}

fn pick(upstream: &Upstream, now: Moment) -> Result<Lease, NoServer> {
    upstream.pick_with(&Tried::default(), Affinity::default(), now, &mut Rng::new())
}

fn break_circuit(upstream: &Upstream, now: Moment) {
    for _ in 0..4 {
        pick(upstream, now).unwrap().failed_at(Failure::Status(503), now);
    }
}

#[test]
fn while_the_breaker_is_open_nobody_is_chosen_and_nothing_is_tried_again() {
    let upstream = guarded(&[1, 1]);
    break_circuit(&upstream, NOW);
    let wait = Duration::from_secs(5);
    assert_eq!(pick(&upstream, NOW).unwrap_err(), NoServer::Open { upstream: "users".into(), wait });
    let tried = tried(&upstream, 1);
    let failed = Failed { failure: Failure::Connect, tried: &tried, told: None, left: None };
    assert_eq!(upstream.may_retry_at(&failed, NOW, 0.0), None);
    let view = UpstreamView::of(&upstream, NOW).breaker.unwrap();
    assert_eq!(view.state, "open");
    assert!(view.reason.unwrap().ends_with("another 5s"));
}

#[test]
fn a_head_that_is_no_failure_is_enough_of_a_probe() {
    let upstream = guarded(&[1, 1]);
    break_circuit(&upstream, NOW);
    let later = NOW.plus(Duration::from_secs(5));
    let mut stream = pick(&upstream, later).unwrap();
    assert!(pick(&upstream, later).is_err(), "one probe at once");
    stream.answered(Duration::from_millis(1));
    assert!(pick(&upstream, later).is_ok());
    assert_eq!(UpstreamView::of(&upstream, later).breaker.unwrap().state, "closed");
}

#[test]
fn a_reload_keeps_a_breaker_whose_rules_are_the_same() {
    let meters = Meters::new();
    let breaker = Some(CircuitBreaker { min_requests: 4, ..CircuitBreaker::default() });
    let with = |breaker, weights: &[u16]| Settings { breaker, outlier: None, ..settings(weights) };
    let old = Upstream::new(with(breaker, &[1, 1]), None, &meters);
    break_circuit(&old, NOW);

    let same = Upstream::new(with(breaker, &[1, 2]), Some(&old), &meters);
    assert!(pick(&same, NOW).is_err());
    let other = Some(CircuitBreaker { min_requests: 5, ..CircuitBreaker::default() });
    assert!(pick(&Upstream::new(with(other, &[1, 1]), Some(&old), &meters), NOW).is_ok());
    assert!(pick(&Upstream::new(with(None, &[1, 1]), Some(&old), &meters), NOW).is_ok());
}

#[tokio::test]
async fn what_was_sent_before_a_breaker_was_replaced_is_not_shown_as_its_successors() {
    let meters = Meters::new();
    let breaker = Some(CircuitBreaker { min_requests: 4, ..CircuitBreaker::default() });
    let old = Upstream::new(Settings { breaker, outlier: None, ..settings(&[1, 1]) }, None, &meters);
    let mut leases: Vec<_> = (0..4).map(|_| pick(&old, NOW).unwrap()).collect();

    let new = Upstream::new(Settings { outlier: None, ..settings(&[1, 1]) }, Some(&old), &meters);
    new.start();
    for lease in &mut leases {
        lease.failed_at(Failure::Status(503), NOW);
    }

    let shown = meters.render();
    assert!(shown.contains("upstream_breaker_state{upstream=\"users\"} 0\n"), "{shown}");
    assert!(shown.contains("upstream_breaker_opened_total{upstream=\"users\"} 0\n"), "{shown}");
}
