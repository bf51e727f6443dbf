//! Sending a request once more: after which failures, how long to wait, and how often at most.

use std::time::Duration;

use crate::config::units::Share;

use super::clock::Moment;
use super::window::{SECONDS, Tally, Window};

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection could be made; nothing was sent.
    Connect,
    /// The connection broke before the answer was whole, or what came is not HTTP.
    Reset,
    /// The answer did not begin in time.
    Timeout,
    /// The server answered with this status.
    Status(u16),
}

impl Failure {
    /// The failure that an answer with this status is; `None` for an answer that counts as the server's word, and is
    /// none of those that are worth another try.
    pub const fn of_status(status: u16, on: &Failures) -> Option<Self> {
        let failure = Self::Status(status);
        if failure.is_servers() || on.contains(failure) { Some(failure) } else { None }
    }

    /// Whether it is held against the server: of answers, 502, 503 and 504 alone. Any other is its word on the request.
    pub const fn is_servers(self) -> bool {
        match self {
            Self::Connect | Self::Reset | Self::Timeout => true,
            Self::Status(status) => matches!(status, 502..=504),
        }
    }

    /// The failure's place in a set; `None` for a status that is no error.
    const fn bit(self) -> Option<usize> {
        match self {
            Self::Connect => Some(0),
            Self::Reset => Some(1),
            Self::Timeout => Some(2),
            Self::Status(status @ 400..=599) => Some(3 + status as usize - 400),
            Self::Status(_) => None,
        }
    }
}

/// A set of failures; of statuses, 400 to 599 can be in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures([u64; 4]);

impl Failures {
    /// Whether the failure is one of the set.
    pub const fn contains(&self, failure: Failure) -> bool {
        match failure.bit() {
            Some(bit) => self.0[bit / 64] & (1 << (bit % 64)) != 0,
            None => false,
        }
    }
}

impl FromIterator<Failure> for Failures {
    fn from_iter<I: IntoIterator<Item = Failure>>(failures: I) -> Self {
        let mut set = [0; 4];
        for bit in failures.into_iter().filter_map(Failure::bit) {
            set[bit / 64] |= 1 << (bit % 64);
        }
        Self(set)
    }
}

/// When a request is sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// All tries, the first included; 1 for no retries.
    pub attempts: u16,
    /// The failures after which another try is worth it.
    pub on: Failures,
    /// The wait before a retry.
    pub backoff: Backoff,
    /// Retries as a share of the upstream's requests of the last ten seconds; `0%` for none.
    pub budget: Share,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: Failures::from_iter([Failure::Connect, Failure::Reset]),
            backoff: Backoff::default(),
            budget: Share(20),
        }
    }
}

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait; each further bound is twice the one before.
    pub base: Duration,
    /// The bound of every wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_secs(1) }
    }
}

impl Backoff {
    /// The wait before a retry: `random`, from 0 to 1, of the bound.
    ///
    /// `retry` counts from 1. The whole of the bound is drawn from, so that requests which failed together do not
    /// come back together.
    pub fn wait(&self, retry: u32, random: f64) -> Duration {
        let doubled = 2_u32.checked_pow(retry.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(doubled).min(self.max).mul_f64(random.clamp(0.0, 1.0))
    }
}

/// Retries per second that are always allowed, lest a single failure on a quiet upstream reach its client.
const FLOOR_PER_SECOND: u64 = 3;

/// Requests and retries of the last ten seconds. Without locks; never admits beyond the share, not even at once.
#[derive(Debug, Default)]
pub struct Budget {
    /// All requests, and the retries, which are not counted as requests.
    recent: Window,
}

impl Budget {
    /// Counts a request (not a retry) of which retries may become a share.
    pub fn request(&self, now: Moment) {
        self.recent.update(now, |tally| Tally { all: tally.all + 1, ..tally });
    }

    /// Takes one retry out of the budget, or `false` if none is left.
    pub fn spend(&self, share: Share, now: Moment) -> bool {
        if share.0 == 0 {
            return false;
        }
        // Counted before it is compared: of two that take the last one at once, neither can overlook the other.
        self.recent.update(now, |tally| Tally { some: tally.some + 1, ..tally });
        let Tally { all: requests, some: retries } = self.recent.sums(now);
        let allowed = (requests * u64::from(share.0) / 100).max(FLOOR_PER_SECOND * SECONDS);
        if retries <= allowed {
            return true;
        }
        self.recent.update(now, |tally| Tally { some: tally.some.saturating_sub(1), ..tally });
        false
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1000)
    }

    #[test]
    fn without_more_words_only_502_503_and_504_are_failures() {
        let none = Failures::default();
        let failing: Vec<u16> =
            (100..600).filter(|status| Failure::of_status(*status, &none).is_some()).collect();
        assert_eq!(failing, [502, 503, 504]);
    }

    #[test]
    fn a_status_that_is_worth_another_try_is_not_held_against_the_server() {
        let on = Failures::from_iter([Failure::Status(429), Failure::Status(503)]);
        assert_eq!(Failure::of_status(429, &on), Some(Failure::Status(429)));
        assert!(!Failure::Status(429).is_servers());
        assert!(Failure::Status(503).is_servers());
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let kinds = [Failure::Connect, Failure::Reset, Failure::Timeout];
        let all: Vec<_> = kinds.into_iter().chain((400..600).map(Failure::Status)).collect();
        for one in &all {
            let set = Failures::from_iter([*one]);
            let held: Vec<_> = all.iter().filter(|other| set.contains(**other)).collect();
            assert_eq!(held, [one]);
        }
        assert_eq!(Failures::from_iter([Failure::Status(200), Failure::Status(600)]), Failures::default());
    }

    #[test]
    fn the_bound_of_the_wait_doubles_up_to_the_greatest() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(150) };
        let bounds: Vec<u128> = (1..=5).map(|retry| backoff.wait(retry, 1.0).as_millis()).collect();
        assert_eq!(bounds, [25, 50, 100, 150, 150]);
        assert_eq!(backoff.wait(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.wait(3, 0.5), Duration::from_millis(50));
    }

    #[test]
    fn a_quiet_upstream_may_retry_up_to_the_floor() {
        let budget = Budget::default();
        budget.request(at(100));
        let granted = (0..1000).filter(|_| budget.spend(Share(20), at(100))).count();
        assert_eq!(granted, 30);
        assert!(!budget.spend(Share(20), at(109)), "spent within the last ten seconds");
        assert!(budget.spend(Share(20), at(110)), "the window moved on");
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let budget = Budget::default();
        budget.request(at(1));
        assert!(!budget.spend(Share(0), at(1)));
    }

    #[test]
    fn threads_that_spend_at_once_stay_within_the_share() {
        let budget = Budget::default();
        for _ in 0..10_000 {
            budget.request(at(5));
        }
        let granted: usize = thread::scope(|scope| {
            let spend = || (0..2_000).filter(|_| budget.spend(Share(20), at(5))).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(spend)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(granted <= 2_000, "{granted} of 10000");
        assert!(granted >= 1_990, "{granted}: the share may be used");
    }

    #[test]
    fn an_old_second_does_not_come_back_as_a_new_one() {
        let budget = Budget::default();
        for _ in 0..10_000 {
            budget.request(at(7));
        }
        let granted = (0..1000).filter(|_| budget.spend(Share(100), at(7 + 3 * SECONDS))).count();
        assert_eq!(granted, 30);
    }

    proptest! {
        #[test]
        fn a_wait_stays_between_nothing_and_the_bound(
            base in 0_u64..10_000, max in 0_u64..100_000, retry in 0_u32..100, random in 0.0..1.0_f64,
        ) {
            let backoff = Backoff { base: Duration::from_millis(base), max: Duration::from_millis(max) };
            let wait = backoff.wait(retry, random);
            prop_assert!(wait <= backoff.max);
            prop_assert!(wait <= backoff.wait(retry, 1.0));
            prop_assert!(backoff.wait(retry, 1.0) <= backoff.wait(retry + 1, 1.0));
        }

        #[test]
        fn retries_never_exceed_their_share_of_any_window(
            seconds in prop::collection::vec((0_u64..400, 0_u64..400), 1..40), share in 1_u8..=100,
        ) {
            let budget = Budget::default();
            let mut history = Vec::new();
            for (second, (requests, wanted)) in (1000..).zip(seconds) {
                (0..requests).for_each(|_| budget.request(at(second)));
                let granted = (0..wanted).filter(|_| budget.spend(Share(share), at(second))).count() as u64;
                history.push((requests, granted));
                let window = &history[history.len().saturating_sub(10)..];
                let requests: u64 = window.iter().map(|(requests, _)| requests).sum();
                let retries: u64 = window.iter().map(|(_, retries)| retries).sum();
                let allowed = (requests * u64::from(share) / 100).max(30);
                // A window with less traffic than the one before may hold retries granted while there was more.
                prop_assert!(granted == 0 || retries <= allowed, "{} of {}", retries, requests);
            }
        }
    }
}
