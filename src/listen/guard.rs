//! The deadline of a request head: from its first byte to its last, on every request of a connection.
//!
//! Pingora bounds each read, so a client that sends one byte now and then holds a connection for as long as it likes.
//! Here a clock starts with the first byte of a head and stops when the whole head has been read. The clock is a
//! timer only once a read finds nothing more to read in the middle of a head; a head that arrives in one piece costs
//! two stores and a few loads of one atomic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Sleep;

/// Nothing of the next head has been read.
const WAITING: u8 = 0;
/// Part of a head has been read.
const READING: u8 = 1;
/// The head is whole; what is read now is a body.
const WHOLE: u8 = 2;
/// The head took too long.
const OVERDUE: u8 = 3;

/// What is known of the head being read; shared by a connection's stream and its requests.
#[derive(Clone, Debug)]
pub struct HeadGuard {
    state: Arc<AtomicU8>,
    /// Whether many requests share the connection (HTTP/2).
    multiplexed: bool,
}

impl HeadGuard {
    /// For a connection that nothing has been read from.
    ///
    /// On HTTP/1 the clock starts with a byte. HTTP/2 begins with bytes of its own, for which Pingora waits without a
    /// bound, so there the clock runs from the start to the first whole request, and once only: later heads share the
    /// connection with other requests, and its idle timeout bounds them.
    pub fn new(multiplexed: bool) -> Self {
        let state = if multiplexed { READING } else { WAITING };
        Self { state: Arc::new(AtomicU8::new(state)), multiplexed }
    }

    /// The head is whole: the clock stops.
    pub fn request_begins(&self) {
        self.state.store(WHOLE, Ordering::Relaxed);
    }

    /// The answer is written: what is read from now on has a deadline again, be it the next head or the rest of a body
    /// that nobody waited for.
    pub fn request_ends(&self) {
        if !self.multiplexed {
            self.state.store(WAITING, Ordering::Relaxed);
        }
    }

    /// The next head on an HTTP/1 connection is awaited. What was read before is no part of it, unless it has `begun`.
    pub(super) fn awaited(&self, begun: bool) {
        if !self.multiplexed {
            self.set(if begun { READING } else { WAITING });
        }
    }

    fn is(&self, state: u8) -> bool {
        // One task reads, writes and runs the requests of an HTTP/1 connection, and on HTTP/2 the state only ever
        // changes once: there is nothing to order.
        self.state.load(Ordering::Relaxed) == state
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }
}

/// Ends a read that waits for the rest of a head for too long.
#[derive(Debug)]
pub(super) struct Deadline {
    head: HeadGuard,
    within: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    failures: HeadFailures,
}

/// Counts connections that ended for their head.
#[derive(Clone, Debug)]
pub(super) struct HeadFailures {
    pub(super) timeout: Counter,
    pub(super) malformed: Counter,
}

impl Deadline {
    pub(super) fn new(head: HeadGuard, within: Duration, failures: HeadFailures) -> Self {
        Self { head, within, timer: None, failures }
    }

    /// Bytes were read.
    pub(super) fn received(&mut self) {
        if self.head.is(WAITING) {
            self.head.set(READING);
            // One left over from an earlier head would strike too soon.
            self.timer = None;
        }
    }

    /// Nothing can be read now: whether that has lasted too long. Arms the timer if it has not.
    pub(super) fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        if !self.head.is(READING) {
            self.timer = None;
            return self.head.is(OVERDUE);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.within)));
        if timer.as_mut().poll(context) == Poll::Pending {
            return false;
        }
        self.head.set(OVERDUE);
        self.failures.timeout.inc();
        true
    }

    /// Bytes are written. The next head may have come with the one that they answer, and has its own time.
    pub(super) fn sending(&mut self) {
        self.timer = None;
    }

    /// The head that was read is refused.
    pub(super) fn refused(&mut self) {
        self.head.set(WHOLE);
        self.failures.malformed.inc();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn deadline(multiplexed: bool) -> (Deadline, HeadGuard) {
        let head = HeadGuard::new(multiplexed);
        let failures = HeadFailures { timeout: Counter::default(), malformed: Counter::default() };
        (Deadline::new(head.clone(), WITHIN, failures), head)
    }

    /// Waits for the deadline to strike, at most for `patience`; how long it took.
    async fn strikes(deadline: &mut Deadline, patience: Duration) -> Option<Duration> {
        let began = tokio::time::Instant::now();
        let overdue = poll_fn(|cx| if deadline.is_overdue(cx) { Poll::Ready(()) } else { Poll::Pending });
        tokio::time::timeout(patience, overdue).await.ok().map(|()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_requests_is_not_its_business() {
        let (mut deadline, _head) = deadline(false);
        assert_eq!(strikes(&mut deadline, WITHIN * 10).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_must_be_whole_in_time_however_often_bytes_arrive() {
        let (mut deadline, _head) = deadline(false);
        deadline.received();
        assert_eq!(strikes(&mut deadline, WITHIN / 2).await, None);
        deadline.received();
        let left = strikes(&mut deadline, WITHIN).await.unwrap();
        assert!(left <= WITHIN / 2, "{left:?}");
        assert_eq!(deadline.failures.timeout.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_longer() {
        let (mut deadline, head) = deadline(false);
        deadline.received();
        assert_eq!(strikes(&mut deadline, WITHIN / 2).await, None);
        head.request_begins();
        assert_eq!(strikes(&mut deadline, WITHIN * 10).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_the_whole_time_for_itself() {
        let (mut deadline, head) = deadline(false);
        deadline.received();
        assert_eq!(strikes(&mut deadline, WITHIN / 2).await, None);
        head.request_begins();
        head.request_ends();
        deadline.received();
        let whole = strikes(&mut deadline, WITHIN * 2).await.unwrap();
        assert!(whole >= WITHIN, "{whole:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_is_no_part_of_the_next_head() {
        let (mut deadline, head) = deadline(false);
        head.request_begins();
        head.request_ends();
        deadline.received();
        assert_eq!(strikes(&mut deadline, WITHIN / 2).await, None);
        head.awaited(false);
        assert_eq!(strikes(&mut deadline, WITHIN * 10).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn http2_has_until_the_first_request_from_the_start() {
        let (mut deadline, head) = deadline(true);
        head.awaited(false);
        assert!(strikes(&mut deadline, WITHIN * 2).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_left_alone_after_its_first_request() {
        let (mut deadline, head) = deadline(true);
        head.request_begins();
        head.request_ends();
        deadline.received();
        assert_eq!(strikes(&mut deadline, WITHIN * 10).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_head_is_counted_and_waited_for_no_longer() {
        let (mut deadline, _head) = deadline(false);
        deadline.received();
        deadline.refused();
        assert_eq!(deadline.failures.malformed.get(), 1);
        assert_eq!(strikes(&mut deadline, WITHIN * 10).await, None);
    }
}
