//! How many frames a client may send beside its requests.
//!
//! Frames that manage a connection cost their sender a few bytes, and us some work each: they are paid from a purse,
//! which time and answers fill (RFC 9113 section 10.5). Requests are bounded otherwise, and so are bodies.

use tokio::time::Instant;

/// Frames that may come at once: a purse begins full.
const BURST: u64 = 1000;
/// Frames that may come each second, on average, from a client that is sent nothing.
const PER_SECOND: u64 = 100;
/// Bytes sent to a client that allow it one more frame. The busiest clients that are known tell of their room twice for
/// each 4 KiB that they read.
const BYTES_PER_FRAME: u64 = 1024;

/// What is left to be spent.
#[derive(Debug)]
pub(super) struct Purse {
    left: u64,
    /// When it was last filled.
    filled: Instant,
    /// Bytes that were sent to the client since then.
    sent: u64,
}

impl Purse {
    pub(super) fn new() -> Self {
        Self { left: BURST, filled: Instant::now(), sent: 0 }
    }

    /// A frame came that has its price. Whether it was paid.
    pub(super) fn pays(&mut self) -> bool {
        self.pays_for(1)
    }

    /// The same of what costs us as much as so many frames.
    pub(super) fn pays_for(&mut self, frames: u64) -> bool {
        if self.left < frames {
            self.fill();
        }
        let pays = self.left >= frames;
        self.left = self.left.saturating_sub(frames);
        pays
    }

    /// So many bytes were sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many frames are paid for, up to so many.
    fn frames(purse: &mut Purse, most: u64) -> u64 {
        (0..most).take_while(|_| purse.pays()).count() as u64
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_and_a_flood_is_not() {
        assert_eq!(frames(&mut Purse::new(), 10_000), BURST);
    }

    #[tokio::test(start_paused = true)]
    async fn time_pays_for_frames() {
        let mut purse = Purse::new();
        for _ in 0..100 {
            assert_eq!(frames(&mut purse, PER_SECOND), PER_SECOND);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(Duration::from_secs(10_000)).await;
        let most = frames(&mut purse, 10_000);
        assert!((BURST..=2 * BURST).contains(&most), "a purse holds only so much: {most}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_is_paid_whole_or_not_at_all() {
        let mut purse = Purse::new();
        assert!(purse.pays_for(BURST - 2) && !purse.pays_for(3));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(purse.pays_for(PER_SECOND), "time pays for it, too");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_pay_for_frames() {
        let mut purse = Purse::new();
        for _ in 0..20_000 {
            purse.sent(4096);
            // Room on the stream, and room on the connection.
            assert_eq!(frames(&mut purse, 2), 2);
        }
        assert!(frames(&mut purse, 10_000) <= 2 * BURST);
    }
}
