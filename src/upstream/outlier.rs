//! Leaving a server alone for a while when its answers to real requests fail.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::units::Share;

use super::clock::Moment;
use super::window::Window;

/// When a server is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row before ejection; at least 1.
    pub consecutive_errors: u16,
    /// The share of failures among the tries of the last ten seconds that ejects; `0%` for none.
    pub error_share: Share,
    /// Tries of the last ten seconds without which the share says nothing.
    pub min_requests: u32,
    /// How long the first ejection lasts; the n-th of recent ones lasts n times as long, up to ten times.
    pub ejection_time: Duration,
    /// The greatest share of the group that may be ejected at once, rounded down.
    pub max_ejected: Share,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            error_share: Share(50),
            min_requests: 100,
            ejection_time: Duration::from_secs(30),
            max_ejected: Share(50),
        }
    }
}

/// The most that an ejection is longer than the first.
const MOST_TIMES: u64 = 10;

impl Outlier {
    /// Whether one more of a group may be ejected.
    ///
    /// `ejected` of its `servers` are so already; `others_usable` says whether a request would still find a server.
    pub fn permits(&self, servers: usize, ejected: usize, others_usable: bool) -> bool {
        others_usable && ejected < servers * usize::from(self.max_ejected.0) / 100
    }

    /// Whether a server that has been left alone for so long may be let in early, so that another can be ejected: after a
    /// tenth of `ejection_time`, lest servers that all fail put each other out without end.
    pub fn yields(&self, left_alone: Duration) -> bool {
        left_alone >= self.ejection_time / 10
    }
}

/// What a server's recent answers say of it. Time comes in as an argument; reading costs two loads.
#[derive(Debug, Default)]
pub struct Conduct {
    errors: AtomicU32,
    recent: Window,
    /// End of the present or last ejection in milliseconds; 0 before the first.
    until: AtomicU64,
    /// When it began.
    since: AtomicU64,
    /// How many times the usual time the last ejection took.
    times: AtomicU64,
    ejections: AtomicU64,
}

impl Conduct {
    /// Whether the server is to be left alone now.
    pub fn is_ejected(&self, now: Moment) -> bool {
        now.millis() < self.until.load(Relaxed)
    }

    /// When the present ejection ends; `None` while there is none.
    pub fn ejected_until(&self, now: Moment) -> Option<Moment> {
        self.is_ejected(now).then(|| Moment::from_millis(self.until.load(Relaxed)))
    }

    /// Since when the server has been ejected; `None` while it is not.
    pub fn ejected_since(&self, now: Moment) -> Option<Moment> {
        self.is_ejected(now).then(|| Moment::from_millis(self.since.load(Relaxed)))
    }

    /// Ends the present ejection, which makes no later one longer.
    pub fn let_in(&self, now: Moment) {
        if self.is_ejected(now) {
            self.times.store(self.times.load(Relaxed).saturating_sub(1), Relaxed);
            self.until.store(now.millis(), Relaxed);
        }
    }

    /// When the last ejection ended; `None` before the first, and while one lasts.
    pub fn returned(&self, now: Moment) -> Option<Moment> {
        let until = self.until.load(Relaxed);
        (until != 0 && until <= now.millis()).then(|| Moment::from_millis(until))
    }

    /// How often the server was ejected so far.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Notes an answer that came as it should.
    pub fn succeeded(&self, now: Moment) {
        self.recent.count(false, now);
        // Most servers answer well most of the time: a look is cheaper than a write that every core must hear of.
        if self.errors.load(Relaxed) != 0 {
            self.errors.store(0, Relaxed);
        }
    }

    /// Notes a failure; `true` when the server is due for ejection.
    ///
    /// What fails while the server is ejected was sent before, and is not held against it twice.
    pub fn failed(&self, rules: &Outlier, now: Moment) -> bool {
        if self.is_ejected(now) {
            return false;
        }
        self.recent.count(true, now);
        let errors = self.errors.fetch_add(1, Relaxed).saturating_add(1);
        errors >= u32::from(rules.consecutive_errors.max(1)) || self.fails_too_often(rules, now)
    }

    fn fails_too_often(&self, rules: &Outlier, now: Moment) -> bool {
        let share = rules.error_share.0;
        share > 0 && self.recent.sums(now).reaches(share, rules.min_requests.into())
    }

    /// Ejects the server from now on, and says for how long.
    ///
    /// One former ejection is forgiven for each `ejection_time` that the server was back since.
    pub fn eject(&self, rules: &Outlier, now: Moment) -> Duration {
        let back_for = now.since(Moment::from_millis(self.until.load(Relaxed)));
        let forgiven = back_for.as_millis() / rules.ejection_time.as_millis().max(1);
        let forgiven = u64::try_from(forgiven).unwrap_or(u64::MAX);
        let times = self.times.load(Relaxed).saturating_sub(forgiven).saturating_add(1).min(MOST_TIMES);
        let time = rules.ejection_time.saturating_mul(u32::try_from(times).unwrap_or(1));

        self.errors.store(0, Relaxed);
        self.recent.clear();
        self.times.store(times, Relaxed);
        self.since.store(now.millis(), Relaxed);
        self.until.store(now.plus(time).millis(), Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        time
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Outlier = Outlier {
        consecutive_errors: 3,
        error_share: Share(0),
        min_requests: 100,
        ejection_time: Duration::from_secs(10),
        max_ejected: Share(50),
    };

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1000)
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let conduct = Conduct::default();
        assert!(!conduct.failed(&RULES, at(1)));
        assert!(!conduct.failed(&RULES, at(1)));
        conduct.succeeded(at(1));
        assert!(!conduct.failed(&RULES, at(1)));
        assert!(!conduct.failed(&RULES, at(1)));
        assert!(conduct.failed(&RULES, at(1)));
    }

    #[test]
    fn a_share_of_failures_over_ten_seconds_counts_whatever_their_order() {
        let rules = Outlier { error_share: Share(40), min_requests: 10, ..RULES };
        let conduct = Conduct::default();
        let mut due = Vec::new();
        for second in 1..=5 {
            conduct.succeeded(at(second));
            due.push(conduct.failed(&rules, at(second)));
        }
        assert_eq!(due, [false, false, false, false, true], "half of ten");

        conduct.eject(&rules, at(5));
        assert!(!conduct.failed(&rules, at(15)), "what was before the ejection is paid for");
        assert!(!Conduct::default().failed(&rules, at(1)), "one is too few to tell");
    }

    #[test]
    fn failures_of_long_ago_are_no_part_of_the_share() {
        let rules = Outlier { consecutive_errors: 1000, error_share: Share(50), min_requests: 10, ..RULES };
        let conduct = Conduct::default();
        assert!((0..9).all(|_| !conduct.failed(&rules, at(1))));
        (0..10).for_each(|_| conduct.succeeded(at(11)));
        assert!(!conduct.failed(&rules, at(11)), "one of eleven");
    }

    #[test]
    fn an_ejection_ends_by_itself_and_the_count_starts_anew() {
        let conduct = Conduct::default();
        assert!(!conduct.is_ejected(at(0)));
        assert_eq!(conduct.eject(&RULES, at(100)), Duration::from_secs(10));
        assert!(conduct.is_ejected(at(109)));
        assert!(!conduct.failed(&RULES, at(109)), "sent before the ejection");
        assert!(!conduct.is_ejected(at(110)));
        assert!(!conduct.failed(&RULES, at(110)), "one failure is not three");
        assert_eq!(conduct.ejections(), 1);
    }

    #[test]
    fn who_is_let_in_early_has_that_ejection_forgiven() {
        let conduct = Conduct::default();
        conduct.eject(&RULES, at(100));
        assert_eq!(conduct.ejected_since(at(103)), Some(at(100)));
        conduct.let_in(at(103));
        assert_eq!((conduct.ejected_since(at(103)), conduct.returned(at(103))), (None, Some(at(103))));
        conduct.let_in(at(104));
        assert_eq!(conduct.returned(at(104)), Some(at(103)), "it was in");
        assert_eq!(conduct.eject(&RULES, at(105)), Duration::from_secs(10));
    }

    #[test]
    fn ejections_that_follow_soon_last_longer_up_to_ten_times() {
        let conduct = Conduct::default();
        let mut now = at(1000);
        let mut times = Vec::new();
        for _ in 0..12 {
            let time = conduct.eject(&RULES, now);
            times.push(time.as_secs());
            now = now.plus(time);
        }
        assert_eq!(times, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100, 100]);
    }

    #[test]
    fn good_conduct_is_rewarded_step_by_step() {
        let conduct = Conduct::default();
        conduct.eject(&RULES, at(1000));
        conduct.eject(&RULES, at(1010));
        assert_eq!(conduct.eject(&RULES, at(1030)), Duration::from_secs(30));
        assert_eq!(conduct.eject(&RULES, at(1060 + 10)), Duration::from_secs(30), "one forgiven");
        assert_eq!(conduct.eject(&RULES, at(1100 + 25)), Duration::from_secs(20), "two forgiven");
        assert_eq!(conduct.eject(&RULES, at(9000)), Duration::from_secs(10), "all forgiven");
    }

    #[test]
    fn a_server_alone_is_never_ejected() {
        let all = Outlier { max_ejected: Share(100), ..RULES };
        assert!(!all.permits(1, 0, false));
        assert!(!RULES.permits(1, 0, true));
        assert!(RULES.permits(2, 0, true));
        assert!(!RULES.permits(3, 1, true));
    }

    proptest! {
        #[test]
        fn no_more_than_the_share_is_ever_permitted(servers in 1_usize..=10, percent in 0_u8..=100) {
            let rules = Outlier { max_ejected: Share(percent), ..RULES };
            let mut ejected = 0;
            while rules.permits(servers, ejected, ejected + 1 < servers) {
                ejected += 1;
            }
            prop_assert!(ejected * 100 <= servers * usize::from(percent));
            prop_assert!(ejected < servers);
        }

        #[test]
        fn an_ejection_lasts_between_one_and_ten_times_the_usual(gaps in prop::collection::vec(0_u64..200, 1..50)) {
            let conduct = Conduct::default();
            let mut now = at(1);
            for gap in gaps {
                let time = conduct.eject(&RULES, now);
                prop_assert!(time >= RULES.ejection_time && time <= RULES.ejection_time * 10);
                prop_assert!(conduct.is_ejected(now));
                now = now.plus(time).plus(Duration::from_secs(gap));
                prop_assert!(!conduct.is_ejected(now));
            }
        }
    }
}
