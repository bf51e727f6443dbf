//! A bound on how long a client may take no bytes, or too few.
//!
//! Pingora's own write timeout covers bodies alone; heads, flushes and everything on HTTP/2 wait without an end.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::pace::Pace;

/// Ends a write whose bytes are taken too slowly.
#[derive(Debug)]
pub(super) struct SendDeadline {
    pace: Pace,
    /// What the client had taken of this connection when it was asked last; nothing where no write waits.
    ///
    /// A system lets a writer go on only once a third of its buffer is free, and that may hold megabytes: a client
    /// which takes them steadily is no slow one because none of it shows meanwhile.
    taken: Option<u64>,
    /// Bytes that gave time before the writer could go on, and give none when they are written over.
    credited: u64,
    counts: SendCounts,
    /// Whether it is counted as waiting.
    waits: bool,
    /// Whether a wait was too long: it is counted, and nothing is waited for again.
    is_late: bool,
}

/// Counts connections by how their clients take what they are sent.
#[derive(Clone, Debug, Default)]
pub(super) struct SendCounts {
    /// Those that take no bytes, or too few.
    pub(super) late: Counter,
    /// Those that are waited for now.
    pub(super) waiting: Gauge,
}

impl SendDeadline {
    /// No wait longer than `within`; `rate` bytes a second on average over that time, 0 for no rate. Those that were
    /// too long are counted.
    pub(super) fn new(within: Duration, rate: u64, counts: SendCounts) -> Self {
        Self { pace: Pace::new(within, rate), taken: None, credited: 0, counts, waits: false, is_late: false }
    }

    /// Takes the outcome of a write; one that has waited for too long becomes an error. Writes that are taken at once
    /// cost nothing: the timer is armed only when one waits. `taken` tells how many bytes the client's system has
    /// confirmed of all that it was ever sent, where that is known.
    pub(super) fn written(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
        taken: impl Fn() -> Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let bytes = if let Poll::Ready(Ok(bytes)) = outcome { bytes } else { 0 };
        self.judge(outcome, bytes, cx, taken)
    }

    /// The same for what brings no bytes of its own.
    pub(super) fn flushed(
        &mut self,
        outcome: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
        taken: impl Fn() -> Option<u64>,
    ) -> Poll<io::Result<()>> {
        self.judge(outcome, 0, cx, taken)
    }

    fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        bytes: usize,
        cx: &mut Context<'_>,
        taken: impl Fn() -> Option<u64>,
    ) -> Poll<io::Result<T>> {
        self.is_waited_for(outcome.is_pending());
        if outcome.is_ready() {
            self.went_on(bytes);
            return outcome;
        }
        if self.taken.is_none() {
            self.taken = taken();
        }
        while !self.is_late && self.pace.is_overdue(cx) {
            self.is_late = !self.has_taken_more(&taken);
            if self.is_late {
                // Once for each connection: whoever ends it may try to write a last time.
                self.counts.late.inc();
            }
        }
        if !self.is_late {
            return Poll::Pending;
        }
        let why = "the client takes no bytes, or too few";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }

    fn is_waited_for(&mut self, waits: bool) {
        if waits != std::mem::replace(&mut self.waits, waits) {
            if waits {
                self.counts.waiting.inc()
            } else {
                self.counts.waiting.dec()
            };
        }
    }

    /// The writer could go on, by so many bytes.
    fn went_on(&mut self, bytes: usize) {
        let news = (bytes as u64).saturating_sub(self.credited);
        self.credited = self.credited.saturating_sub(bytes as u64);
        self.taken = None;
        self.pace.moved(usize::try_from(news).unwrap_or(usize::MAX));
    }

    /// Gives time for what the client has taken meanwhile, if there is anything.
    fn has_taken_more(&mut self, taken: impl Fn() -> Option<u64>) -> bool {
        let (Some(before), Some(now)) = (self.taken, taken()) else { return false };
        let news = now.saturating_sub(before);
        self.taken = Some(now);
        self.credited = self.credited.saturating_add(news);
        self.pace.moved(usize::try_from(news).unwrap_or(usize::MAX));
        news > 0 && self.pace.has_time()
    }
}

impl Drop for SendDeadline {
    fn drop(&mut self) {
        self.is_waited_for(false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    fn deadline(rate: u64) -> SendDeadline {
        SendDeadline::new(WITHIN, rate, SendCounts::default())
    }

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_too_long_fails() {
        for taken in [None, Some(7)] {
            let mut deadline = deadline(0);
            let began = Instant::now();
            let waits = poll_fn(|cx| deadline.written(Poll::Pending, cx, || taken));
            let error = waits.await.unwrap_err();
            assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, WITHIN));
            let again = poll_fn(|cx| deadline.flushed(Poll::Pending, cx, || taken.map(|taken| taken + 1)));
            assert_eq!(again.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed(), WITHIN, "nothing is waited for again");
            assert_eq!(deadline.counts.late.get(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_waited_for_is_counted_until_that_is_over() {
        let mut deadline = deadline(0);
        let counts = deadline.counts.clone();
        let mut counted = Vec::new();
        for outcome in [Poll::Pending, Poll::Pending, Poll::Ready(Ok(1)), Poll::Pending] {
            let mut outcome = Some(outcome);
            poll_fn(|cx| {
                let _ = deadline.written(outcome.take().unwrap(), cx, || None);
                Poll::Ready(())
            })
            .await;
            counted.push(counts.waiting.get());
        }
        drop(deadline);
        assert_eq!((counted, counts.waiting.get()), (vec![1, 1, 0, 1], 0));
    }

    /// How often a client that takes so many bytes each half of the time is let go on, up to 20 times.
    async fn times(rate: u64, bytes: usize) -> usize {
        let mut deadline = deadline(rate);
        for time in 0..20 {
            let waited = poll_fn(|cx| deadline.written(Poll::Pending, cx, || None));
            if tokio::time::timeout(WITHIN / 2, waited).await.is_ok() {
                return time;
            }
            poll_fn(|cx| deadline.written(Poll::Ready(Ok(bytes)), cx, || None)).await.unwrap();
            poll_fn(|cx| deadline.flushed(Poll::Ready(Ok(())), cx, || None)).await.unwrap();
        }
        20
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_taken_give_time_anew_by_the_rate() {
        assert_eq!(times(0, 1).await, 20);
        assert_eq!(times(100, 501).await, 20);
        assert_eq!(times(100, 1).await, 2);
    }

    /// How long a write waits whose client takes so many bytes a second out of the buffers of systems.
    async fn lasts(rate: u64, a_second: u64) -> Duration {
        let (mut deadline, began) = (deadline(rate), Instant::now());
        let taken = || Some(began.elapsed().as_secs() * a_second);
        let waits = poll_fn(|cx| deadline.written(Poll::Pending, cx, taken));
        let _ = tokio::time::timeout(WITHIN * 50, waits).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_leave_the_buffers_of_systems_count_before_the_writer_may_go_on() {
        assert_eq!(lasts(100, 150).await, WITHIN * 50);
        assert_eq!(lasts(0, 1).await, WITHIN * 50);
        let slow = lasts(100, 50).await;
        assert!(slow > WITHIN && slow <= WITHIN * 2, "{slow:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_byte_gives_time_twice() {
        let (mut deadline, began) = (deadline(100), Instant::now());
        let taken = || Some(began.elapsed().as_secs() * 60);
        let mut times = 0;
        loop {
            let waits = poll_fn(|cx| deadline.written(Poll::Pending, cx, taken));
            if tokio::time::timeout(WITHIN + Duration::from_secs(2), waits).await.is_ok() {
                break;
            }
            let bytes = 720;
            poll_fn(|cx| deadline.written(Poll::Ready(Ok(bytes)), cx, taken)).await.unwrap();
            times += 1;
            assert!(times < 20, "60 bytes a second are too few");
        }
    }
}
