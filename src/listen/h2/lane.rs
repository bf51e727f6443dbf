//! How long one stream may keep us waiting, among those of its connection.
//!
//! A stream that does not move may be waiting for its turn: clients send one body after the other, and read answers as
//! they like. So each is held to its own [`Pace`], and who is late by that is judged by what all have moved together: as
//! much as if each that we wait for kept its pace, and nobody is late. A client that holds a hundred requests has to move as
//! many bytes as a hundred clients.

use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::listen::pace::Pace;

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Bytes of all.
    moved: AtomicU64,
    /// How many we wait for.
    waiting: AtomicUsize,
    open: AtomicUsize,
    /// So many that are open, and that we do not wait for, can hold up those that we do.
    blocks: usize,
    late: Counter,
}

impl Lanes {
    /// None is open. So many that are left standing by us leave no room for others. Those that are late are counted.
    pub(super) fn new(blocks: usize, late: Counter) -> Self {
        let (waiting, open) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { moved: AtomicU64::new(0), waiting, open, blocks, late }
    }

    /// Whether one that has kept us waiting while so many bytes came on all, and who owes so many, may have been held up.
    fn excuse(&self, moved: u64, due: u64) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let standing = self.open.load(Ordering::Relaxed).saturating_sub(waiting);
        standing >= self.blocks || moved >= due.saturating_mul(waiting as u64)
    }
}

/// One stream in one direction.
#[derive(Debug)]
pub(super) struct Lane<L: Deref<Target = Lanes>> {
    lanes: L,
    pace: Pace,
    waits: bool,
    is_open: bool,
    /// What all had moved when it began to be behind.
    since: Option<u64>,
    /// What it has moved itself since then.
    own: u64,
}

impl<L: Deref<Target = Lanes>> Lane<L> {
    /// Waits of at most `most`, at `rate` bytes a second on average over that time; 0 is no rate.
    pub(super) fn new(lanes: L, most: Duration, rate: u64) -> Self {
        Self { lanes, pace: Pace::new(most, rate), waits: false, is_open: false, since: None, own: 0 }
    }

    /// There will be bytes on it, which may be left standing.
    pub(super) fn open(&mut self) {
        self.is_open = true;
        self.lanes.open.fetch_add(1, Ordering::Relaxed);
    }

    /// There will be no more.
    pub(super) fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.lanes.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The longest wait.
    pub(super) fn most(&self) -> Duration {
        self.pace.most()
    }

    /// From now on.
    pub(super) fn set_most(&mut self, most: Duration) {
        self.pace.set_most(most);
    }

    /// So many bytes were moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.stops_waiting();
        self.lanes.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        self.pace.moved(bytes);
        self.own += bytes as u64;
        if self.pace.is_full() {
            (self.since, self.own) = (None, 0);
        }
    }

    /// Whether it was waited for and has not made up for it.
    pub(super) fn is_behind(&self) -> bool {
        self.since.is_some()
    }

    /// Waits for this, but not for too long: then there is nothing, and it is counted.
    pub(super) async fn wait_for<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        poll_fn(|cx| match what.as_mut().poll(cx) {
            Poll::Ready(came) => Poll::Ready(Some(came)),
            Poll::Pending if self.is_overdue(cx) => {
                self.lanes.late.inc();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// No byte can be moved now: whether that has lasted too long.
    pub(super) fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.waits {
            self.waits = true;
            self.lanes.waiting.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            let since = *self.since.get_or_insert_with(|| self.lanes.moved.load(Ordering::Relaxed));
            if !self.pace.is_overdue(cx) {
                return false;
            }
            let moved = self.lanes.moved.load(Ordering::Relaxed);
            // Its own bytes have bought it time, in which more was due.
            if !self.lanes.excuse(moved - since, self.pace.due() + self.own) {
                return true;
            }
            (self.since, self.own) = (Some(moved), 0);
            self.pace.forgive();
        }
    }

    fn stops_waiting(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.lanes.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<L: Deref<Target = Lanes>> Drop for Lane<L> {
    fn drop(&mut self) {
        self.stops_waiting();
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);
    const RATE: u64 = 100;

    fn open(lanes: &Lanes) -> Lane<&Lanes> {
        let mut lane = Lane::new(lanes, MOST, RATE);
        lane.open();
        lane
    }

    /// Lets a second go by in which these are waited for; whether the first is late.
    async fn second(lanes: &mut [&mut Lane<&Lanes>]) -> bool {
        let overdue = poll_fn(|cx| {
            let late: Vec<_> = lanes.iter_mut().map(|lane| lane.is_overdue(cx)).collect();
            if late[0] { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(SECOND, overdue).await.is_ok()
    }

    /// After how many seconds one is late that moves nothing, while another moves so many bytes each second; up to 100.
    async fn seconds(lanes: &Lanes, bytes: usize) -> usize {
        let (mut one, mut other) = (open(lanes), open(lanes));
        for count in 0..100 {
            if second(&mut [&mut one, &mut other]).await {
                return count;
            }
            other.moved(bytes);
        }
        100
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_held_up_by_another_is_not_late() {
        let lanes = Lanes::new(8, Counter::default());
        assert_eq!(seconds(&lanes, 0).await, 9);
        assert_eq!(seconds(&lanes, 300).await, 100);
        assert_eq!(seconds(&lanes, 150).await, 9, "both are to move at the rate, together");
        assert_eq!((lanes.waiting.into_inner(), lanes.open.into_inner()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_trickles_is_late_though_it_never_stops() {
        for (bytes, most) in [(1, 12), (50, 25), (90, 110)] {
            let lanes = Lanes::new(8, Counter::default());
            let mut lane = open(&lanes);
            let mut count = 0;
            while !second(&mut [&mut lane]).await {
                lane.moved(bytes);
                count += 1;
                assert!(count < most, "it is still waited for");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_makes_up_for_it_is_not_late() {
        let lanes = Lanes::new(8, Counter::default());
        let mut lane = open(&lanes);
        for _ in 0..100 {
            assert!(!second(&mut [&mut lane]).await);
            assert!(lane.is_behind());
            lane.moved(100);
            assert!(!lane.is_behind());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_not_late_while_we_leave_others_standing() {
        let lanes = Lanes::new(2, Counter::default());
        let others = [open(&lanes), open(&lanes)];
        let mut lane = open(&lanes);
        for _ in 0..30 {
            assert!(!second(&mut [&mut lane]).await);
        }
        drop(others);
        let overdue = poll_fn(|cx| if lane.is_overdue(cx) { Poll::Ready(()) } else { Poll::Pending });
        assert!(tokio::time::timeout(MOST, overdue).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_comes_or_is_late() {
        let overdue = Counter::default();
        let lanes = Lanes::new(8, overdue.clone());
        let mut lane = open(&lanes);
        assert_eq!(lane.wait_for(tokio::time::sleep(SECOND)).await, Some(()));
        lane.moved(1000);
        assert_eq!(overdue.get(), 0);
        assert_eq!(lane.wait_for(std::future::pending::<()>()).await, None);
        assert_eq!(overdue.get(), 1);
    }
}
