//! What a client may send beside its requests, and how long their heads may take.
//!
//! Frames that manage a connection cost their sender a few bytes, and us some work each: they are paid from a purse,
//! which time and answers fill (RFC 9113 section 10.5). What `h2` bounds by itself is not counted again: requests at
//! once, resets before a request is begun, empty and small DATA, CONTINUATION, and fields beyond their bound.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::Reason;
use tokio::time::{Instant, Sleep};

use super::frames::{Frames, Kind};

/// Frames that may come at once: a purse begins full.
const BURST: u64 = 1000;
/// Frames that may come each second, on average, from a client that is sent nothing.
const PER_SECOND: u64 = 100;
/// Bytes sent to a client that allow it one more frame. The busiest clients that are known tell of their room twice for
/// each 4 KiB that they read.
const BYTES_PER_FRAME: u64 = 1024;

/// Follows what a client sends.
#[derive(Debug)]
pub(super) struct Intake {
    frames: Frames,
    /// Frames that the purse still pays for.
    left: u64,
    /// When the purse was last filled.
    filled: Instant,
    /// Bytes that were sent to the client since then.
    sent: u64,
    exceeded: bool,
    /// Longest time from the first byte of a request's head to its last.
    within: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Intake {
    /// Of a connection that nothing was read from. Heads must be whole `within` a time, and so must the preface.
    pub(super) fn new(within: Duration) -> Self {
        let filled = Instant::now();
        Self { frames: Frames::new(), left: BURST, filled, sent: 0, exceeded: false, within, timer: None }
    }

    /// These bytes came from the client: as many of them may pass. What is to pass in place of the rest is put in `instead`.
    pub(super) fn received(&mut self, bytes: &[u8], instead: &mut Vec<u8>) -> usize {
        let (mut costs, mut passes) = (0, 0);
        let mut see = |kind| costs += cost(kind);
        if !self.frames.rewrites() {
            passes = self.frames.follow(bytes, &mut see);
        }
        if passes < bytes.len() {
            self.frames.rewrite(&bytes[passes..], instead, see);
        }
        if self.frames.take_closed() {
            // The next head has the whole time for itself.
            self.timer = None;
        }
        if costs > self.left {
            self.fill();
        }
        self.exceeded |= costs > self.left;
        self.left = self.left.saturating_sub(costs);
        passes
    }

    /// So many bytes were sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Whether the client has sent more than it may.
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    /// Why the connection is to end: the client has sent more than it may, or a frame of a form that it cannot have.
    pub(super) fn verdict(&self) -> Option<Reason> {
        if self.exceeded { Some(Reason::ENHANCE_YOUR_CALM) } else { self.frames.fault() }
    }

    /// Nothing can be read now: whether a head has taken too long.
    pub(super) fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.frames.is_open() {
            return false;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.within)));
        timer.as_mut().poll(cx) == Poll::Ready(())
    }

    /// What was earned since the last time. Looked at only when the purse is empty, so that frames cost a subtraction.
    fn fill(&mut self) {
        let now = Instant::now();
        let millis = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let earned = (millis.saturating_mul(PER_SECOND) / 1000).saturating_add(self.sent / BYTES_PER_FRAME);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            (self.filled, self.sent) = (now, 0);
        }
    }
}

/// What a frame costs: nothing where it is a request, or the body of one.
fn cost(kind: Kind) -> u64 {
    match kind {
        Kind::Headers | Kind::Data { empty: false } => 0,
        Kind::Data { empty: true } | Kind::Continuation | Kind::Control => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);
    /// The preface, and settings that change nothing.
    const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// A request, whole.
    fn headers(stream: u32) -> Vec<u8> {
        [&[0, 0, 1, 1, 5], &stream.to_be_bytes()[..], &[0x82]].concat()
    }

    /// The begin of a request.
    fn begun_on(stream: u32) -> Vec<u8> {
        [&[0, 0, 1, 1, 1], &stream.to_be_bytes()[..], &[0x82]].concat()
    }

    fn receives(intake: &mut Intake, bytes: &[u8]) {
        let mut instead = Vec::new();
        let passes = intake.received(bytes, &mut instead);
        assert_eq!(passes + instead.len(), bytes.len());
    }

    fn begun() -> Intake {
        let mut intake = Intake::new(WITHIN);
        receives(&mut intake, START);
        intake
    }

    /// How many pings are taken, up to so many.
    fn pings(intake: &mut Intake, most: u64) -> u64 {
        for ping in 0..most {
            receives(intake, &PING);
            if intake.is_exceeded() {
                return ping;
            }
        }
        most
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_and_a_flood_is_not() {
        assert_eq!(pings(&mut begun(), 10_000), BURST - 1, "the first settings cost as well");
        let mut intake = begun();
        let all = PING.repeat(2000);
        receives(&mut intake, &all);
        assert!(intake.is_exceeded(), "however they come");
    }

    #[tokio::test(start_paused = true)]
    async fn time_pays_for_frames() {
        let mut intake = begun();
        for _ in 0..100 {
            assert_eq!(pings(&mut intake, PER_SECOND), PER_SECOND);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(Duration::from_secs(10_000)).await;
        let most = pings(&mut intake, 10_000);
        assert!((BURST..=2 * BURST).contains(&most), "a purse holds only so much: {most}");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_pay_for_frames() {
        let mut intake = begun();
        for _ in 0..20_000 {
            intake.sent(4096);
            // Room on the stream, and room on the connection.
            assert_eq!(pings(&mut intake, 2), 2);
        }
        assert!(pings(&mut intake, 10_000) <= 2 * BURST);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_free() {
        let mut intake = begun();
        let requests: Vec<_> = (0..10_000).flat_map(|number| headers(2 * number + 1)).collect();
        receives(&mut intake, &requests);
        assert!(!intake.is_exceeded());
    }

    /// Waits for the deadline to strike, at most for `patience`; how long it took.
    async fn strikes(intake: &mut Intake, patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        let overdue = poll_fn(|cx| if intake.is_overdue(cx) { Poll::Ready(()) } else { Poll::Pending });
        tokio::time::timeout(patience, overdue).await.ok().map(|()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_must_begin_in_time_and_may_then_be_idle() {
        assert_eq!(strikes(&mut Intake::new(WITHIN), WITHIN * 2).await, Some(WITHIN));
        assert_eq!(strikes(&mut begun(), WITHIN * 10).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_the_whole_time_for_itself_and_no_more() {
        let mut intake = begun();
        receives(&mut intake, &headers(1));
        receives(&mut intake, &begun_on(3));
        assert_eq!(strikes(&mut intake, WITHIN / 2).await, None);
        // The end of it, and the begin of another.
        receives(&mut intake, &[0, 0, 0, 9, 4, 0, 0, 0, 3]);
        receives(&mut intake, &begun_on(5));
        assert_eq!(strikes(&mut intake, WITHIN / 2).await, None);
        receives(&mut intake, &[0, 0, 0, 9, 0, 0, 0, 0, 5]);
        assert_eq!(strikes(&mut intake, WITHIN).await, Some(WITHIN / 2), "however often bytes arrive");
    }
}
