//! A bound on how long a client may take no bytes.
//!
//! Pingora's own write timeout covers bodies alone; heads, flushes and everything on HTTP/2 wait without an end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// Ends a write that no byte of is taken for too long.
#[derive(Debug)]
pub(super) struct SendDeadline {
    within: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl SendDeadline {
    pub(super) fn new(within: Duration) -> Self {
        Self { within, timer: None }
    }

    /// Takes the outcome of a write or flush; one that has waited for too long becomes an error. Writes that are
    /// taken at once cost nothing: the timer is armed only when one waits.
    pub(super) fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.timer = None;
            return outcome;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.within)));
        match timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn waits() -> Poll<io::Result<()>> {
        Poll::Pending
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_too_long_fails() {
        let mut deadline = SendDeadline::new(WITHIN);
        let began = Instant::now();
        let error = poll_fn(|cx| deadline.judge(waits(), cx)).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, WITHIN));
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_taken_gives_the_whole_time_anew() {
        let mut deadline = SendDeadline::new(WITHIN);
        for _ in 0..3 {
            let waited = poll_fn(|cx| deadline.judge(waits(), cx));
            assert!(tokio::time::timeout(WITHIN / 2, waited).await.is_err());
            poll_fn(|cx| deadline.judge(Poll::Ready(Ok(1)), cx)).await.unwrap();
        }
    }
}
