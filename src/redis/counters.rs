//! What is counted of calls.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::away::Away;

/// Where calls are counted; handles that somebody registered, or that nobody reads.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Seconds from the call to its end, of calls that were asked.
    pub seconds: Histogram,
    /// Calls that were answered.
    pub ok: Counter,
    /// Calls that the server refused, or whose connection failed.
    pub error: Counter,
    /// Calls without an answer within the patience.
    pub timeout: Counter,
    /// Calls that were not asked: the breaker was open, or too many were waiting.
    pub open: Counter,
    /// 1 while the breaker is open.
    pub breaker: Gauge,
}

impl Counters {
    /// Counters that nobody reads.
    pub fn unread() -> Self {
        Self {
            seconds: Histogram::new([0.001, 0.01, 0.1]),
            ok: Counter::default(),
            error: Counter::default(),
            timeout: Counter::default(),
            open: Counter::default(),
            breaker: Gauge::default(),
        }
    }

    pub(super) fn count(&self, took: Duration, away: Option<Away>) {
        let counter = match away {
            None => &self.ok,
            Some(Away::Open | Away::Busy) => &self.open,
            Some(Away::Late) => &self.timeout,
            Some(Away::Lost | Away::Nonsense | Away::Refused(_)) => &self.error,
        };
        counter.inc();
        if !matches!(away, Some(Away::Open | Away::Busy)) {
            self.seconds.observe(took.as_secs_f64());
        }
    }
}
