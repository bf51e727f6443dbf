//! `concurrency`: how many requests may be under way at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limit::LimitKey;
use super::methods::Methods;

/// A bound on how many requests are under way at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Concurrency {
    /// So many of the whole route.
    Limit(#[schemars(range(min = 1))] u32),
    /// In full.
    Table(ConcurrencyTable),
}

/// A bound in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyTable {
    /// How many requests may be under way at once: from their head until the last byte of their answer, or until a connection
    /// that has become a WebSocket ends.
    #[schemars(range(min = 1), example = 10)]
    pub limit: u32,
    /// Which requests are counted together, as in `rate_limit`. `route` when absent: all of the route's.
    #[serde(default)]
    #[schemars(example = &"client_ip")]
    pub key: Option<LimitKey>,
    /// Which methods are counted: `"unsafe"` (all but GET, HEAD, OPTIONS and TRACE), or a list. Absent: all.
    #[serde(default)]
    #[schemars(example = &"unsafe")]
    pub methods: Option<Methods>,
    /// Whether nobody is refused: what would have been is counted (`concurrency_decisions_total`, `would_refuse`) and logged, at
    /// most once a minute.
    #[serde(default)]
    pub observe: bool,
}
