//! `[upstreams.NAME]`: a group of interchangeable servers.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Period, Share};

/// A group of interchangeable servers and how they are treated.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["servers"]))]
pub struct Upstream {
    /// The servers: `ip:port`, `host:port`, or `{ address, weight }`. At least one.
    #[schemars(length(min = 1), example = ["10.0.1.11:8080", "10.0.1.12:8080"])]
    pub servers: Vec<Server>,
    /// How one of them is chosen for a request.
    pub balance: Balance,
    /// Asking the servers how they are: a path, a table, or `false`. A server is down until it first passes.
    #[schemars(example = "/healthz")]
    pub health: Health,
    /// Leaving a server alone for a while when its answers fail: a table, or `false`.
    pub outlier_detection: OutlierDetection,
    /// How long each step with a server may take.
    pub timeouts: Timeouts,
    /// When a request is sent once more.
    pub retries: Retries,
    /// Bounds on what is sent to the group at once.
    pub limits: Limits,
}

/// One server of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Server {
    /// `ip:port` or `host:port`.
    Address(#[schemars(extend("format" = "server"))] String),
    /// An address and its weight.
    Table(ServerTable),
}

/// A server with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTable {
    /// `ip:port` or `host:port`.
    #[schemars(extend("format" = "server"), example = "10.0.1.11:8080")]
    pub address: String,
    /// Its share of requests, next to the others' weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u16,
}

fn one() -> u16 {
    1
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two servers drawn at random, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// One after the other, as often as their weights say, evenly spread.
    RoundRobin,
}

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
    /// How long the first ejection lasts; each one that follows soon lasts longer.
    #[schemars(extend("x-least" = "1ms"))]
    pub ejection_time: Period,
    /// The most servers of the group that may be ejected at once. One of a group is never ejected alone.
    pub max_ejected: Share,
}

impl Default for OutlierTable {
    fn default() -> Self {
        Self { consecutive_errors: 5, ejection_time: Period(Duration::from_secs(30)), max_ejected: Share(50) }
    }
}

/// How long each step with a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Longest wait for a connection.
    #[schemars(extend("x-least" = "1ms"))]
    pub connect: Period,
    /// Longest wait for the first byte of the answer; where `idle` is longer, that is the wait.
    #[schemars(extend("x-least" = "1ms"))]
    pub first_byte: Period,
    /// Longest wait between two reads or writes.
    #[schemars(extend("x-least" = "1ms"))]
    pub idle: Period,
    /// Longest time for the whole exchange, retries included, to within one read; `0s` for none. Event streams and
    /// connections that changed their protocol may last.
    pub total: Period,
    /// How long a connection without a request is kept for the next one.
    pub keep_alive: Period,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Period(Duration::from_secs(2)),
            first_byte: Period(Duration::from_secs(15)),
            idle: Period(Duration::from_secs(30)),
            total: Period(Duration::from_secs(60)),
            keep_alive: Period(Duration::from_secs(60)),
        }
    }
}

/// When a request is sent once more.
///
/// Only idempotent methods, or requests of which nothing was sent, are tried again, and never on the same server
/// while another is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// All tries, the first included; 1 for no retries.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u16,
    /// What is worth another try.
    pub on: BTreeSet<RetryOn>,
    /// The wait before a retry: drawn at random up to a bound that doubles with each.
    pub backoff: Backoff,
    /// Retries as a share of the group's requests; beyond it, failures are passed on.
    pub budget: Share,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: BTreeSet::from([RetryOn::Connect, RetryOn::Reset]),
            backoff: Backoff::default(),
            budget: Share(20),
        }
    }
}

/// A kind of failure that may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RetryOn {
    /// No connection could be made.
    #[serde(rename = "connect")]
    Connect,
    /// The connection broke before an answer came.
    #[serde(rename = "reset")]
    Reset,
    /// The answer did not begin in time.
    #[serde(rename = "timeout")]
    Timeout,
    /// The server answered 502.
    #[serde(rename = "502")]
    Status502,
    /// The server answered 503.
    #[serde(rename = "503")]
    Status503,
    /// The server answered 504.
    #[serde(rename = "504")]
    Status504,
}

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base: Period,
    /// The bound of every wait.
    pub max: Period,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Period(Duration::from_millis(25)), max: Period(Duration::from_secs(1)) }
    }
}

/// Bounds on what is sent to a group at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests in flight to the whole group; more wait.
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// Requests that may wait for their turn; more are refused with 503.
    pub max_pending: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending: 1024 }
    }
}
