//! Whether a request is sent once more, and when.

use std::time::Duration;

use super::Upstream;
use super::clock::Moment;
use super::lease::Tried;
use super::retry::Failure;

/// A try that failed, and what there is to know for another.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// How it failed.
    pub failure: Failure,
    /// The servers that were tried, the one that failed included.
    pub tried: &'a Tried,
    /// How long the server asks to be left alone (`Retry-After`).
    pub told: Option<Duration>,
    /// What is left of the time for the whole exchange; `None` for as long as it takes.
    pub left: Option<Duration>,
}

/// The longest that a client is kept waiting because a server asked to be left alone.
const LONGEST_TOLD: Duration = Duration::from_secs(30);

impl Upstream {
    /// Whether to try once more after this failure, and after what wait; takes the retry out of the budget.
    ///
    /// Whether the request may be repeated at all (an idempotent method, or nothing sent) is for the caller to know first.
    pub fn may_retry(&self, failed: &Failed<'_>) -> Option<Duration> {
        self.may_retry_at(failed, Moment::now(), fastrand::f64())
    }

    pub(super) fn may_retry_at(&self, failed: &Failed<'_>, now: Moment, random: f64) -> Option<Duration> {
        let retries = &self.settings.retries;
        let tries = failed.tried.counted();
        if tries >= usize::from(retries.attempts) || !retries.on.contains(failed.failure) {
            return None;
        }
        let wait = retries.backoff.wait(u32::try_from(tries).unwrap_or(u32::MAX), random);
        // One server's word on when to ask it again is nothing to the others.
        let told = failed.told.filter(|_| !self.has_untried(failed.tried, now));
        let wait = wait.max(told.unwrap_or_default());
        let in_time =
            told.is_none_or(|told| told <= LONGEST_TOLD) && failed.left.is_none_or(|left| wait < left);
        if !in_time || self.is_open(now) {
            return None;
        }
        if !self.budget.spend(retries.budget, now) {
            self.counts.denied.inc();
            return None;
        }
        self.counts.retries(failed.failure).inc();
        Some(wait)
    }

    /// Whether to send a request once more that its server, which left, has not looked at.
    ///
    /// Nobody does anything twice, and a farewell ends as many as there were on its connection: the budget is not for that.
    pub fn may_move(&self) -> bool {
        let may = !self.is_open(Moment::now());
        if may {
            self.counts.retries(Failure::Reset).inc();
        }
        may
    }

    fn is_open(&self, now: Moment) -> bool {
        self.breaker.as_ref().is_some_and(|breaker| breaker.refuses(now).is_some())
    }

    fn has_untried(&self, tried: &Tried, now: Moment) -> bool {
        let group = self.group.load();
        let stock = group.stock();
        let mut all = group.endpoints().iter();
        all.any(|endpoint| stock.permits(endpoint.tier(), endpoint, now) && !tried.contains(endpoint))
    }
}
