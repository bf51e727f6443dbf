//! `circuit_breaker`: when a whole group is left alone.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Period, Share};

/// Whether a group is left alone when most of what is sent to it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CircuitBreaker {
    /// `true`: a breaker with every setting by default. `false`: none.
    Switch(bool),
    /// The thresholds.
    Table(BreakerTable),
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self::Switch(false)
    }
}

/// When a circuit breaker opens, and how it closes.
///
/// While it is open, requests are refused with 503 (`circuit-open`) and nothing is sent. Then a few go through as
/// probes: they close it, or open it for longer. Takes effect on reload; a change of a setting closes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerTable {
    /// The share of failures (no connection, a broken answer, a timeout, 502, 503, 504) among the tries of the last ten
    /// seconds that opens it. `0%` and `1%` are the same: one failure of enough tries is always needed.
    pub error_share: Share,
    /// Tries of the last ten seconds without which the share says nothing.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: u32,
    /// How long it is open at first; each time in a row that its probes fail adds as much, up to ten times.
    #[schemars(extend("x-least" = "100ms", "x-most" = "1h"))]
    pub open_time: Period,
    /// Requests that must succeed before it closes. As many go through at once at most.
    #[schemars(range(min = 1, max = 1000))]
    pub probes: u16,
}

impl Default for BreakerTable {
    fn default() -> Self {
        Self {
            error_share: Share(50),
            min_requests: 20,
            open_time: Period(Duration::from_secs(5)),
            probes: 3,
        }
    }
}
