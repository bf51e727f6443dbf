//! Why connections are ended that their clients would have gone on with, counted by reason.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora::protocols::Digest;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::frame::Reason;
use super::streams::Streams;
use crate::telemetry::Meters;

/// After so long without a flood, the next one is news.
const PEACE: Duration = Duration::from_secs(60);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By its client, whom nothing is told.
    Gone,
    /// All that was asked for is answered, and no more is to be.
    Over,
    /// Nothing was asked for in a while.
    Idle,
    /// A request head took too long, or the preface did.
    Late,
    /// Too many requests were malformed.
    Malformed,
    /// Something came that HTTP/2 does not allow, for this reason.
    Broken(Reason),
    /// More was sent, beside requests, than a client may.
    Flood,
}

impl End {
    /// What a frame ends a connection with.
    pub(super) fn of(reason: Reason, streams: &Streams) -> Self {
        match reason {
            Reason::ENHANCE_YOUR_CALM if streams.has_too_many_malformed() => Self::Malformed,
            Reason::ENHANCE_YOUR_CALM => Self::Flood,
            reason => Self::Broken(reason),
        }
    }

    /// What a client has still to be told (RFC 9113 section 7).
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            Self::Gone | Self::Late => None,
            Self::Over | Self::Idle => Some(Reason::NO_ERROR),
            Self::Broken(reason) => Some(reason),
            Self::Malformed | Self::Flood => Some(Reason::ENHANCE_YOUR_CALM),
        }
    }
}

/// Counts how connections end.
#[derive(Debug)]
pub(in crate::listen) struct Ends {
    late: Counter,
    malformed: Counter,
    broken: Counter,
    flood: Counter,
    /// Of answers whose clients take them too slowly.
    pub(super) slow: Counter,
    /// When the last flood was.
    last: Mutex<Option<Instant>>,
}

impl Ends {
    pub(in crate::listen) fn new(meters: &Meters) -> Self {
        let ended = |reason| meters.http2_ended.with([reason]);
        Self {
            late: meters.head_timeouts.with(["timeout"]),
            malformed: ended("malformed"),
            broken: ended("protocol"),
            flood: ended("flood"),
            slow: meters.send_timeouts.with([]),
            last: Mutex::new(None),
        }
    }

    pub(super) fn count(&self, end: End, of: &Arc<Digest>) {
        match end {
            End::Gone | End::Over | End::Idle => return,
            End::Late => self.late.inc(),
            End::Malformed => self.malformed.inc(),
            End::Broken(_) => self.broken.inc(),
            End::Flood => self.flood.inc(),
        };
        let client =
            of.socket_digest.as_deref().and_then(|socket| socket.peer_addr()).map(tracing::field::display);
        if matches!(end, End::Flood) && self.is_news() {
            tracing::warn!(
                ?client,
                "an HTTP/2 client floods; it and those that follow are cut off and counted"
            );
        } else {
            tracing::debug!(client, ?end, "an HTTP/2 connection is ended");
        }
    }

    /// Whether there was no flood for a while.
    fn is_news(&self) -> bool {
        let now = Instant::now();
        let before = self.last.lock().replace(now);
        before.is_none_or(|before| now.duration_since(before) > PEACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_news_once_and_again_after_a_while_without_any() {
        let ends = Ends::new(&Meters::new());
        assert!(ends.is_news());
        for _ in 0..100 {
            tokio::time::advance(PEACE / 2).await;
            assert!(!ends.is_news());
        }
        tokio::time::advance(PEACE * 2).await;
        assert!(ends.is_news());
    }
}
