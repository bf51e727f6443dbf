//! `limits`: how much is sent to a group at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
