//! Sending a request once more: after which failures, how long to wait, and how often at most.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::units::Share;

use super::clock::Moment;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection could be made; nothing was sent.
    Connect,
    /// The connection broke before the answer was whole, or what came is not HTTP.
    Reset,
    /// The answer did not begin in time.
    Timeout,
    /// The server answered 502.
    Status502,
    /// The server answered 503.
    Status503,
    /// The server answered 504.
    Status504,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Reset, Self::Timeout, Self::Status502, Self::Status503, Self::Status504];

    /// The failure that an answer with this status is; `None` for an answer that counts as the server's word.
    pub const fn of_status(status: u16) -> Option<Self> {
        match status {
            502 => Some(Self::Status502),
            503 => Some(Self::Status503),
            504 => Some(Self::Status504),
            _ => None,
        }
    }

    /// The failure as the configuration calls it: `connect`, `reset`, `timeout`, `502`, `503`, `504`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status502 => "502",
            Self::Status503 => "503",
            Self::Status504 => "504",
        }
    }
}

/// A set of failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures(u8);

impl Failures {
    /// Whether the failure is one of the set.
    pub const fn contains(self, failure: Failure) -> bool {
        self.0 & (1 << failure as u8) != 0
    }
}

impl FromIterator<Failure> for Failures {
    fn from_iter<I: IntoIterator<Item = Failure>>(failures: I) -> Self {
        Self(failures.into_iter().fold(0, |set, failure| set | 1 << failure as u8))
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

/// How many seconds a budget looks back.
const WINDOW: u64 = SLOTS as u64;
const SLOTS: usize = 10;

/// Retries per second that are always allowed, lest a single failure on a quiet upstream reach its client.
const FLOOR_PER_SECOND: u64 = 3;

/// Requests and retries of the last ten seconds. Without locks; never admits beyond the share, not even at once.
#[derive(Debug)]
pub struct Budget {
    seconds: [AtomicU64; SLOTS],
}

impl Default for Budget {
    fn default() -> Self {
        Self { seconds: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Budget {
    /// Counts a request (not a retry) of which retries may become a share.
    pub fn request(&self, now: Moment) {
        self.update(now, |second| Second { requests: second.requests + 1, ..second });
    }

    /// Takes one retry out of the budget, or `false` if none is left.
    pub fn spend(&self, share: Share, now: Moment) -> bool {
        if share.0 == 0 {
            return false;
        }
        // Counted before it is compared: of two that take the last one at once, neither can overlook the other.
        self.update(now, |second| Second { retries: second.retries + 1, ..second });
        let (requests, retries) = self.sums(now);
        let allowed = (requests * u64::from(share.0) / 100).max(FLOOR_PER_SECOND * WINDOW);
        if retries <= allowed {
            return true;
        }
        self.update(now, |second| Second { retries: second.retries.saturating_sub(1), ..second });
        false
    }

    /// Requests and retries of the window that ends now.
    fn sums(&self, now: Moment) -> (u64, u64) {
        let in_window = |second: &Second| now.second().wrapping_sub(second.stamp) & STAMP_MASK < WINDOW;
        self.seconds
            .iter()
            .map(|bits| Second::unpack(bits.load(Relaxed)))
            .filter(in_window)
            .fold((0, 0), |(requests, retries), second| {
                (requests + second.requests, retries + second.retries)
            })
    }

    fn update(&self, now: Moment, change: impl Fn(Second) -> Second) {
        let stamp = now.second() & STAMP_MASK;
        let bits = &self.seconds[slot(now)];
        let mut seen = bits.load(Relaxed);
        loop {
            let second = Second::unpack(seen);
            let second =
                if second.stamp == stamp { second } else { Second { stamp, requests: 0, retries: 0 } };
            match bits.compare_exchange_weak(seen, change(second).pack(), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(newer) => seen = newer,
            }
        }
    }
}

fn slot(now: Moment) -> usize {
    usize::try_from(now.second() % WINDOW).unwrap_or(0)
}

/// What one second counted: 24 bits say which second, 20 bits each how many; counts beyond a million stay there.
#[derive(Clone, Copy)]
struct Second {
    stamp: u64,
    requests: u64,
    retries: u64,
}

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const STAMP_MASK: u64 = (1 << 24) - 1;

impl Second {
    const fn unpack(bits: u64) -> Self {
        Self {
            stamp: bits >> (2 * COUNT_BITS),
            requests: bits >> COUNT_BITS & COUNT_MAX,
            retries: bits & COUNT_MAX,
        }
    }

    fn pack(self) -> u64 {
        self.stamp << (2 * COUNT_BITS)
            | self.requests.min(COUNT_MAX) << COUNT_BITS
            | self.retries.min(COUNT_MAX)
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
    fn only_bad_gateway_unavailable_and_gateway_timeout_are_failures() {
        let failing: Vec<u16> = (100..600).filter(|status| Failure::of_status(*status).is_some()).collect();
        assert_eq!(failing, [502, 503, 504]);
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        for one in Failure::ALL {
            let set = Failures::from_iter([one]);
            for other in Failure::ALL {
                assert_eq!(set.contains(other), one == other, "{} {}", one.name(), other.name());
            }
        }
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
        let granted = (0..1000).filter(|_| budget.spend(Share(100), at(7 + 3 * WINDOW))).count();
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
