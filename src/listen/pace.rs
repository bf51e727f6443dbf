//! How long a client may keep us waiting: for a while at once, and in all only as long as its bytes are worth.
//!
//! A bound on each wait alone lets a client that moves one byte now and then hold a request for good. Here waits are
//! paid from a purse that is full in the beginning, and which bytes fill again. Time that is spent elsewhere, on a server
//! or on other work, costs nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The purse of one direction.
#[derive(Debug)]
pub(super) struct Pace {
    /// What it holds at most: the longest wait.
    most: Duration,
    left: Duration,
    /// Bytes that are worth a second; 0: each is worth the longest wait.
    rate: u64,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    /// Waits of at most `most`, at `rate` bytes a second on average over that time; 0 is no rate.
    pub(super) fn new(most: Duration, rate: u64) -> Self {
        Self { most, left: most, rate, waiting: None }
    }

    /// The longest wait.
    pub(super) fn most(&self) -> Duration {
        self.most
    }

    /// From now on.
    pub(super) fn set_most(&mut self, most: Duration) {
        (self.most, self.left) = (most, most);
    }

    /// From now on, no rate.
    pub(super) fn set_no_rate(&mut self) {
        self.rate = 0;
    }

    /// Bytes that are worth the longest wait: at least one.
    pub(super) fn due(&self) -> u64 {
        let millis = u64::try_from(self.most.as_millis()).unwrap_or(u64::MAX);
        (self.rate.saturating_mul(millis) / 1000).max(1)
    }

    /// Whether the purse is as full as it can be.
    pub(super) fn is_full(&self) -> bool {
        self.left == self.most && self.waiting.is_none()
    }

    /// The wait so far was not the client's fault: the purse is full again.
    pub(super) fn forgive(&mut self) {
        (self.left, self.waiting) = (self.most, None);
    }

    /// So many bytes were moved. Costs nothing for one who was not waited for.
    pub(super) fn moved(&mut self, bytes: usize) {
        if let Some(waiting) = self.waiting.take() {
            self.left = self.left.saturating_sub(waiting.since.elapsed());
        }
        if self.left < self.most && bytes > 0 {
            let worth = (bytes as u64).saturating_mul(1_000_000).checked_div(self.rate);
            let worth = worth.map_or(self.most, Duration::from_micros);
            self.left = self.most.min(self.left.saturating_add(worth));
        }
    }

    /// Whether there is any left to wait.
    pub(super) fn has_time(&self) -> bool {
        !self.left.is_zero()
    }

    /// No byte can be moved now: whether that has lasted too long.
    pub(super) fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let left = self.left;
        let waiting = self.waiting.get_or_insert_with(|| {
            let since = Instant::now();
            Waiting { since, timer: Box::pin(tokio::time::sleep_until(since + left)) }
        });
        waiting.timer.as_mut().poll(cx) == Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MOST: Duration = Duration::from_secs(10);
    const ALMOST: Duration = Duration::from_secs(9);

    /// Moves so many bytes at a time, after so long a wait each, until it is too slow; how many times, up to 1000.
    async fn times(pace: &mut Pace, bytes: usize, wait: Duration) -> usize {
        for time in 0..1000 {
            let overdue = poll_fn(|cx| if pace.is_overdue(cx) { Poll::Ready(()) } else { Poll::Pending });
            if tokio::time::timeout(wait, overdue).await.is_ok() {
                return time;
            }
            pace.moved(bytes);
        }
        1000
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_bounded_whatever_came_before() {
        let mut pace = Pace::new(MOST, 100);
        assert_eq!(times(&mut pace, 1_000_000, ALMOST).await, 1000);
        assert_eq!(times(&mut pace, 1, MOST * 2).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slower_than_the_rate_is_found_out() {
        let second = Duration::from_secs(1);
        assert_eq!(times(&mut Pace::new(MOST, 100), 101, second).await, 1000);
        let slow = times(&mut Pace::new(MOST, 100), 50, second).await;
        assert!((15..25).contains(&slow), "{slow}");
        let drip = times(&mut Pace::new(MOST, 100), 1, second).await;
        assert!((9..12).contains(&drip), "{drip}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_each_byte_is_worth_the_longest_wait() {
        assert_eq!(times(&mut Pace::new(MOST, 0), 1, ALMOST).await, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_is_spent_elsewhere_costs_nothing() {
        let mut pace = Pace::new(MOST, 100);
        for _ in 0..10 {
            tokio::time::sleep(MOST * 2).await;
            pace.moved(1);
        }
        assert_eq!(times(&mut pace, 1, MOST / 2).await, 2);
    }
}
