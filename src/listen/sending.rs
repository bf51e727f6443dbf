//! A bound on how long a client may take no bytes, or too few.
//!
//! Pingora's own write timeout covers bodies alone; heads, flushes and everything on HTTP/2 wait without an end.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::pace::Pace;

/// Ends a write whose bytes are taken too slowly.
#[derive(Debug)]
pub(super) struct SendDeadline(Pace);

impl SendDeadline {
    /// No wait longer than `within`; `rate` bytes a second on average over that time, 0 for no rate.
    pub(super) fn new(within: Duration, rate: u64) -> Self {
        Self(Pace::new(within, rate))
    }

    /// Takes the outcome of a write; one that has waited for too long becomes an error. Writes that are taken at once
    /// cost nothing: the timer is armed only when one waits.
    pub(super) fn written(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let bytes = if let Poll::Ready(Ok(bytes)) = outcome { bytes } else { 0 };
        self.judge(outcome, bytes, cx)
    }

    /// The same for what brings no bytes of its own.
    pub(super) fn flushed(
        &mut self,
        outcome: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.judge(outcome, 0, cx)
    }

    fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.0.moved(bytes);
            return outcome;
        }
        if !self.0.is_overdue(cx) {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes, or too few")))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_too_long_fails() {
        let mut deadline = SendDeadline::new(WITHIN, 0);
        let began = Instant::now();
        let error = poll_fn(|cx| deadline.written(Poll::Pending, cx)).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, WITHIN));
    }

    /// How often a client that takes so many bytes each half of the time is let go on, up to 20 times.
    async fn times(rate: u64, bytes: usize) -> usize {
        let mut deadline = SendDeadline::new(WITHIN, rate);
        for time in 0..20 {
            let waited = poll_fn(|cx| deadline.written(Poll::Pending, cx));
            if tokio::time::timeout(WITHIN / 2, waited).await.is_ok() {
                return time;
            }
            poll_fn(|cx| deadline.written(Poll::Ready(Ok(bytes)), cx)).await.unwrap();
            poll_fn(|cx| deadline.flushed(Poll::Ready(Ok(())), cx)).await.unwrap();
        }
        20
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_taken_give_time_anew_by_the_rate() {
        assert_eq!(times(0, 1).await, 20);
        assert_eq!(times(100, 501).await, 20);
        assert_eq!(times(100, 1).await, 2);
    }
}
