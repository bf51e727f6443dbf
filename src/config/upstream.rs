//! `[upstreams.NAME]`: a group of interchangeable servers.

mod balance;
mod breaker;
mod dns;
mod health;
mod limits;
mod retries;
mod times;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use balance::Balance;
pub use breaker::{BreakerTable, CircuitBreaker};
pub use dns::Dns;
pub use health::{Health, HealthTable, OutlierDetection, OutlierTable};
pub use limits::Limits;
pub use retries::{Backoff, ErrorStatus, Retries, RetryCause, RetryOn};
pub use times::Timeouts;

/// A group of interchangeable servers and how they are treated.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["servers"]))]
pub struct Upstream {
    /// The servers: `ip:port`, `host:port` (or `dns://host:port`, the same), `srv://NAME`, or `{ address, weight }`. At
    /// least one. A name stands for all its addresses, a service for all hosts and ports of its SRV records of the first
    /// priority, by their weights. One that does not resolve is down until it does.
    #[schemars(length(min = 1), example = ["10.0.1.11:8080", "10.0.1.12:8080"])]
    pub servers: Vec<Server>,
    /// How names of servers are looked up.
    pub dns: Dns,
    /// How one of them is chosen for a request.
    pub balance: Balance,
    /// Asking the servers how they are: a path, a table, or `false`. A server is down until it first passes.
    #[schemars(example = "/healthz")]
    pub health: Health,
    /// Leaving a server alone for a while when its answers fail: a table, or `false`.
    pub outlier_detection: OutlierDetection,
    /// Leaving the whole group alone for a while when most of what is sent to it fails: `true`, or a table.
    pub circuit_breaker: CircuitBreaker,
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
    /// `ip:port`, `host:port`, `dns://host:port` or `srv://NAME`.
    Address(#[schemars(extend("format" = "server"))] String),
    /// An address and its weight.
    Table(ServerTable),
}

/// A server with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTable {
    /// `ip:port`, `host:port`, `dns://host:port` or `srv://NAME`.
    #[schemars(extend("format" = "server"), example = "10.0.1.11:8080")]
    pub address: String,
    /// Its share of requests, next to the others' weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u16,
}

impl Server {
    /// Where it is, as written.
    pub fn address(&self) -> &str {
        match self {
            Self::Address(address) => address,
            Self::Table(table) => &table.address,
        }
    }
}

fn one() -> u16 {
    1
}
