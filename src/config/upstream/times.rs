//! `timeouts`: how long each step with a server may take.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::Period;

/// How long each step with a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Longest wait for a connection.
    #[schemars(extend("x-least" = "1ms"))]
    pub connect: Period,
    /// Longest wait for the first byte of the answer, once the request was sent.
    #[schemars(extend("x-least" = "1ms"))]
    pub first_byte: Period,
    /// Longest wait between two reads or writes.
    #[schemars(extend("x-least" = "1ms"))]
    pub idle: Period,
    /// Longest time for the whole exchange, retries included; `0s` for none. Event streams and
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
