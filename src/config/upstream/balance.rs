//! `balance`: which server a request goes to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
