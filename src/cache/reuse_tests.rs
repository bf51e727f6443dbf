//! Reuse, row by row.

use std::time::UNIX_EPOCH;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, PRAGMA};
use proptest::prelude::*;

use super::*;
use Reuse::{Serve, ServeStale, ServeStaleAndRefresh, Validate};

const NOW: u64 = 784_111_777;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn asks(name: HeaderName, value: &str) -> RequestDirectives {
    RequestDirectives::of(&HeaderMap::from_iter([(name, value.parse().unwrap())]))
}

fn nothing() -> RequestDirectives {
    RequestDirectives::of(&HeaderMap::new())
}

/// Made 20 seconds ago for 60.
fn fresh() -> Terms {
    Terms { born: at(NOW - 20), fresh_until: at(NOW + 40), ..Terms::default() }
}

/// Made 70 seconds ago for 60.
fn stale() -> Terms {
    Terms { born: at(NOW - 70), fresh_until: at(NOW - 10), ..Terms::default() }
}

fn found(asked: &RequestDirectives, terms: &Terms) -> Reuse {
    reuse(asked, terms, false, at(NOW), at(NOW))
}

#[test]
fn a_request_that_asks_for_nothing_is_served_what_is_fresh() {
    assert_eq!(found(&nothing(), &fresh()), Serve);
    assert_eq!(found(&nothing(), &stale()), Validate(Why::Stale));
    let over = Terms { fresh_until: at(NOW), ..fresh() };
    assert_eq!(found(&nothing(), &over), Validate(Why::Stale), "as old as its lifetime is stale (§4.2)");
    let no_cache = Terms { validate_always: true, never_stale: true, ..fresh() };
    assert_eq!(found(&nothing(), &no_cache), Validate(Why::NoCache));
    let never = Terms { born: at(NOW + 5), fresh_until: at(NOW + 5), ..Terms::default() };
    assert_eq!(
        found(&nothing(), &never),
        Validate(Why::Stale),
        "a clock that was set back makes nothing fresh"
    );
}

#[test]
fn the_request_says_which_fresh_answer_it_takes() {
    // RFC 9111 §5.2.1, §5.4.
    for (asked, wanted) in [
        ("no-cache", Validate(Why::Request)),
        ("max-age=0", Validate(Why::Request)),
        ("max-age=19", Validate(Why::Request)),
        ("max-age=20", Serve),
        ("max-age=x", Validate(Why::Request)),
        ("min-fresh=40", Serve),
        ("min-fresh=41", Validate(Why::Request)),
        ("min-fresh=x", Serve),
        ("max-stale", Serve),
        ("only-if-cached", Serve),
        ("nothing-to-see-here", Serve),
    ] {
        assert_eq!(found(&asks(CACHE_CONTROL, asked), &fresh()), wanted, "{asked}");
    }
    assert_eq!(found(&asks(PRAGMA, "no-cache"), &fresh()), Validate(Why::Request));
    assert_eq!(found(&asks(PRAGMA, "other"), &fresh()), Serve);
}

#[test]
fn the_request_says_which_stale_answer_it_takes() {
    // RFC 9111 §4.2.4, §5.2.1.1-3.
    for (asked, wanted) in [
        ("max-stale", true),
        ("max-stale=10", true),
        ("max-stale=9", false),
        ("max-stale=x", false),
        ("max-stale, no-cache", false),
        ("max-stale, max-age=60", false),
        ("max-stale, max-age=80", true),
        ("max-stale, min-fresh=1", false),
        ("max-age=80", false),
        ("only-if-cached", false),
    ] {
        let asked = asks(CACHE_CONTROL, asked);
        let wanted = if wanted { ServeStale } else { Validate(Why::Stale) };
        assert_eq!(found(&asked, &stale()), wanted, "{asked:?}");
        let forbidden = Terms { never_stale: true, ..stale() };
        assert_eq!(found(&asked, &forbidden), Validate(Why::Stale), "{asked:?}");
    }
}

#[test]
fn within_its_window_a_stale_answer_is_served_and_refreshed() {
    // RFC 5861 §3.
    for (window, asked, wanted) in [
        (0, "", Validate(Why::Stale)),
        (9, "", Validate(Why::Stale)),
        (10, "", ServeStaleAndRefresh),
        (10, "no-cache", Validate(Why::Stale)),
        (10, "max-age=0", Validate(Why::Stale)),
        (10, "max-age=80", Validate(Why::Stale)),
        (10, "max-age=80, max-stale", ServeStaleAndRefresh),
        (10, "min-fresh=0", Validate(Why::Stale)),
        (10, "max-stale=5", Validate(Why::Stale)),
        (10, "max-stale=50", ServeStaleAndRefresh),
        (9, "max-stale=50", ServeStale),
    ] {
        let terms = Terms { while_revalidate: seconds(window), ..stale() };
        let asked = if asked.is_empty() { nothing() } else { asks(CACHE_CONTROL, asked) };
        assert_eq!(found(&asked, &terms), wanted, "{window} {asked:?}");
        let beside_s_maxage = Terms { never_stale: true, ..terms };
        let wanted = if wanted == ServeStale { Validate(Why::Stale) } else { wanted };
        assert_eq!(found(&asked, &beside_s_maxage), wanted, "{window} {asked:?}");
    }
}

#[test]
fn a_soft_purge_makes_stale_what_is_fresh() {
    let soft = |terms: &Terms| reuse(&nothing(), terms, true, at(NOW), at(NOW));
    assert_eq!(soft(&fresh()), Validate(Why::Stale));
    assert_eq!(soft(&Terms { while_revalidate: seconds(1), ..fresh() }), ServeStaleAndRefresh);
    assert_eq!(reuse(&asks(CACHE_CONTROL, "max-stale"), &fresh(), true, at(NOW), at(NOW)), ServeStale);
}

#[test]
fn what_never_changes_is_not_validated_for_a_reload() {
    // RFC 8246 §2.
    let immutable = Terms { immutable: true, ..fresh() };
    assert_eq!(found(&asks(CACHE_CONTROL, "max-age=0"), &immutable), Serve);
    assert_eq!(found(&asks(CACHE_CONTROL, "no-cache"), &immutable), Validate(Why::Request));
    let old = Terms { immutable: true, ..stale() };
    assert_eq!(found(&asks(CACHE_CONTROL, "max-age=0"), &old), Validate(Why::Stale));
}

#[test]
fn an_answer_asked_for_after_the_request_came_needs_no_validation_for_it() {
    let no_cache = asks(CACHE_CONTROL, "no-cache");
    let terms = Terms { born: at(NOW - 1), ..fresh() };
    assert_eq!(reuse(&no_cache, &terms, false, at(NOW - 1), at(NOW)), Serve);
    assert_eq!(reuse(&no_cache, &terms, false, at(NOW), at(NOW)), Validate(Why::Request));
    let never = Terms { validate_always: true, ..terms };
    assert_eq!(reuse(&no_cache, &never, false, at(NOW - 1), at(NOW)), Validate(Why::NoCache));
}

#[test]
fn a_stale_answer_stands_in_for_one_that_cannot_be_had() {
    // RFC 5861 §4, RFC 9111 §4.2.4.
    let failure = |status: u16| Failure::Status(StatusCode::from_u16(status).unwrap());
    let on_error = Terms { if_error: seconds(10), ..stale() };
    let away = Terms { if_unreachable: seconds(10), ..stale() };
    let none = [Failure::Unreachable, Failure::BrokeOff, Failure::TimedOut];
    let stands = |terms: &Terms, failure| may_stand_in(&nothing(), terms, failure, at(NOW));
    assert!(!stands(&away, Failure::TimedOut), "that is no failure of a connection");
    for failed in none {
        assert!(stands(&on_error, failed) && !stands(&stale(), failed), "{failed:?}");
        assert!(stands(&away, failed) || failed == Failure::TimedOut, "{failed:?}");
        assert!(!may_stand_in(&nothing(), &away, failed, at(NOW + 1)), "{failed:?}");
        assert!(!stands(&Terms { validate_always: true, ..away.clone() }, failed), "{failed:?}");
    }
    for status in [500, 502, 503, 504] {
        assert!(stands(&on_error, failure(status)) && !stands(&away, failure(status)), "{status}");
    }
    for status in [200, 404, 429, 501, 505, 599] {
        assert!(!stands(&on_error, failure(status)), "{status}");
    }
    assert!(
        stands(&Terms { if_error: seconds(1), ..fresh() }, failure(503)),
        "fresh, but asked about all the same"
    );
}

#[test]
fn the_request_says_what_may_stand_in() {
    let both = Terms { if_error: seconds(10), if_unreachable: seconds(10), ..stale() };
    let never = Terms { never_stale: true, ..stale() };
    for (terms, asked, wanted) in [
        (&both, "no-cache", false),
        (&both, "max-age=0", false),
        (&both, "max-age=80", true),
        (&both, "min-fresh=1", false),
        (&both, "max-age=0, stale-if-error=10", true),
        (&both, "max-age=0, stale-if-error=9", false),
        (&both, "no-cache, stale-if-error=10", false),
        (&stale(), "stale-if-error=10", true),
        (&stale(), "stale-if-error=9", false),
        (&never, "stale-if-error=10", false),
    ] {
        for failure in [Failure::Unreachable, Failure::Status(StatusCode::BAD_GATEWAY)] {
            let found = may_stand_in(&asks(CACHE_CONTROL, asked), terms, failure, at(NOW));
            assert_eq!(found, wanted, "{asked} {failure:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_was_stale_is_not_served_as_fresh_later(
        born in 0..500_u64, lifetime in 0..500_u64, now in 0..1000_u64, later in 0..1000_u64,
        asked in prop_oneof![Just(""), Just("max-age=100"), Just("min-fresh=10"), Just("no-cache"), Just("max-stale=50")],
    ) {
        let terms = Terms { born: at(born), fresh_until: at(born + lifetime), ..Terms::default() };
        let asked = if asked.is_empty() { nothing() } else { asks(CACHE_CONTROL, asked) };
        // A request that came before the answer was asked for, as long as time goes on, may be served it.
        let (now, later) = (at(born + now), at(born + now + later));
        if reuse(&asked, &terms, false, now, now) != Serve && terms.born < now {
            prop_assert_ne!(reuse(&asked, &terms, false, later, later), Serve);
        }
    }

    #[test]
    fn nothing_is_served_unvalidated_where_the_origin_wants_each_use_validated(
        born in 0..500_u64, lifetime in 0..500_u64, now in 0..1000_u64, window in 0..1000_u64, soft in any::<bool>(),
    ) {
        let window = seconds(window);
        let terms = Terms {
            born: at(born), fresh_until: at(born + lifetime), validate_always: true,
            while_revalidate: window, if_error: window, if_unreachable: window, ..Terms::default()
        };
        prop_assert_eq!(reuse(&nothing(), &terms, soft, at(now), at(now)), Validate(Why::NoCache));
        prop_assert!(!may_stand_in(&nothing(), &terms, Failure::Unreachable, at(now)));
    }
}
