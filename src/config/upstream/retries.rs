//! `retries`: when a request is sent once more.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Period, Share, quantity};

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
    /// What is worth another try: a kind of failure, or an answer with this status, `400` to `599`. Of statuses, 502, 503 and
    /// 504 count against the server, listed or not; any other is its word on the request.
    pub on: BTreeSet<RetryCause>,
    /// The wait before a retry: drawn at random up to a bound that doubles with each.
    pub backoff: Backoff,
    /// Retries as a share of the group's requests; beyond it, failures are passed on.
    pub budget: Share,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: [RetryOn::Connect, RetryOn::Reset].map(RetryCause::Kind).into(),
            backoff: Backoff::default(),
            budget: Share(20),
        }
    }
}

/// What may be worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RetryCause {
    /// A kind of failure, which counts against the server.
    Kind(RetryOn),
    /// Any other answer with this status, `400` to `599`: the server's word, which does not count against it.
    Status(ErrorStatus),
}

/// The status of an answer that is an error, as text: `500`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ErrorStatus(pub u16);

impl FromStr for ErrorStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let status = text.parse().ok().filter(|status| text.len() == 3 && (400..=599).contains(status));
        status.map(Self).ok_or_else(|| "the status of an error is `400` to `599`, such as `500`".to_owned())
    }
}

impl fmt::Display for ErrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

quantity!(ErrorStatus, "ErrorStatus", "error-status", r"^[45][0-9]{2}$");

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
