//! Time as a number that fits an atomic.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A point in time: milliseconds since shortly before the first reading, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The present.
    pub fn now() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(1 + millis(START.elapsed()))
    }

    /// The moment that [`Moment::millis`] gave this number for.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A number for this moment; later moments have greater ones.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The second in which this moment lies.
    pub const fn second(self) -> u64 {
        self.0 / 1000
    }

    /// The moment this much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// The time from an earlier moment to this one; none if `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards() {
        let before = Moment::now();
        let after = Moment::now();
        assert!(after >= before);
        assert!(before.millis() > 0);
        assert_eq!(before.since(before.plus(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(before.plus(Duration::from_secs(1)).since(before), Duration::from_secs(1));
    }
}
