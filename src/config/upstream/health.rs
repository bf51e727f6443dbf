//! `health` and `outlier_detection`: which servers a request may go to.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Period, Share};

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Health {
    /// `false`: no checks, every server counts as up.
    Switch(#[schemars(extend("const" = false))] bool),
    /// The path to ask for, everything else by default.
    Path(#[schemars(extend("format" = "path"))] String),
    /// In full.
    Table(HealthTable),
}

impl Default for Health {
    fn default() -> Self {
        Self::Switch(false)
    }
}

/// An active health check in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthTable {
    /// The path that is asked for with GET; 2xx and 3xx pass.
    #[schemars(extend("format" = "path"), example = "/healthz")]
    pub path: String,
    /// Time between two checks of a server; spread a little, so that checks do not come in step.
    #[schemars(extend("x-least" = "100ms"))]
    #[serde(default = "every_five_seconds")]
    pub interval: Period,
    /// Longest wait for an answer.
    #[schemars(extend("x-least" = "1ms"))]
    #[serde(default = "two_seconds")]
    pub timeout: Period,
    /// Passes in a row before a server that was down is up. The very first pass is enough at start.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: u16,
    /// Failures in a row before a server that was up is down.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: u16,
    /// The `Host` that is asked for; the server's address when absent.
    #[serde(default)]
    #[schemars(extend("format" = "authority"), example = "api.example.com")]
    pub host: Option<String>,
}

impl HealthTable {
    /// The check that `health = "/path"` stands for.
    pub fn of_path(path: String) -> Self {
        Self {
            path,
            interval: every_five_seconds(),
            timeout: two_seconds(),
            healthy_threshold: two(),
            unhealthy_threshold: three(),
            host: None,
        }
    }
}

fn every_five_seconds() -> Period {
    Period(Duration::from_secs(5))
}

fn two_seconds() -> Period {
    Period(Duration::from_secs(2))
}

fn two() -> u16 {
    2
}

fn three() -> u16 {
    3
}

/// Passive checks: what the answers to real requests say of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OutlierDetection {
    /// `false`: servers are never ejected for their answers.
    Switch(bool),
    /// The thresholds.
    Table(OutlierTable),
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self::Table(OutlierTable::default())
    }
}

/// When a server is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierTable {
    /// Failures in a row (no connection, a broken answer, a timeout, 502, 503, 504) before ejection.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_errors: u16,
    /// The share of failures among a server's tries of the last ten seconds that ejects it, in whatever order they came;
    /// `0%` for never.
    pub error_share: Share,
    /// Tries of the last ten seconds without which the share says nothing.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: u32,
    /// How long the first ejection lasts; each one that follows soon lasts longer.
    #[schemars(extend("x-least" = "1ms"))]
    pub ejection_time: Period,
    /// The most servers of the group that may be ejected at once. One of a group is never ejected alone.
    pub max_ejected: Share,
}

impl Default for OutlierTable {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            error_share: Share(50),
            min_requests: 100,
            ejection_time: Period(Duration::from_secs(30)),
            max_ejected: Share(50),
        }
    }
}
