//! Counting in this process, by `governor`.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::{Quota, RateLimiter};
use prometheus_client::metrics::gauge::Gauge;

use super::Rate;
use super::counts::Counts;
use super::key::Key;

/// Longest time that a whole burst may take to come back.
///
/// Times are kept in nanoseconds since the start, in 64 bits: 584 years. A century leaves room for both.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What is used of a rate under each key.
#[derive(Debug)]
pub(super) struct Local<C: Clock = DefaultClock> {
    limiter: RateLimiter<Key, Counts, C, StateInformationMiddleware>,
    clock: C,
    interval: Duration,
    burst: u32,
}

impl<C: Clock + Clone> Local<C> {
    /// Counts from zero. `held` is told how many keys are remembered.
    pub(super) fn new(rate: Rate, held: Gauge, clock: C) -> Self {
        let interval = (rate.per / rate.count.max(1)).clamp(Duration::from_nanos(1), LONGEST);
        let most = u32::try_from(LONGEST.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(rate.burst.min(most)).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::with_period(interval).expect("the interval is at least a nanosecond").allow_burst(burst);
        let limiter = RateLimiter::new(quota, Counts::new(interval, held), clock.clone());
        Self { limiter, clock, interval, burst: burst.get() }
    }

    /// Counts one request: what is left and when all of it is back, or how long to wait.
    pub(super) fn charge(&self, key: Key) -> Result<(u32, Duration), Duration> {
        match self.limiter.check_key(&key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Ok((remaining, self.interval.saturating_mul(self.burst.saturating_sub(remaining))))
            }
            Err(refused) => Err(refused.wait_time_from(self.clock.now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn extreme_rules_neither_overflow_nor_divide_by_zero() {
        for (count, per, burst) in [
            (u32::MAX, Duration::from_secs(1), u32::MAX),
            (1, Duration::from_secs(86_400), u32::MAX),
            (1, Duration::MAX, 1),
            (0, Duration::ZERO, 0),
        ] {
            let clock = FakeRelativeClock::default();
            let local = Local::new(Rate { count, per, burst }, Gauge::default(), clock.clone());
            assert!(local.charge(Key::numbered(1)).is_ok(), "{count} per {per:?}");
            clock.advance(Duration::from_secs(86_400 * 365 * 50));
            assert!(local.charge(Key::numbered(2)).is_ok(), "{count} per {per:?}");
        }
    }
}
