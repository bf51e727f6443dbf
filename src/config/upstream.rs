//! `[upstreams.NAME]`: a group of interchangeable servers.

pub(super) mod balance;
mod breaker;
mod dns;
mod health;
mod limits;
mod retries;
mod sticky;
mod times;
mod tls;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Period, Share};

pub use balance::{Algorithm, Balance, BalanceTable, MaxOverload, key_parts};
pub use breaker::{BreakerTable, CircuitBreaker};
pub use dns::Dns;
pub use health::{Health, HealthTable, OutlierDetection, OutlierTable};
pub use limits::Limits;
pub use retries::{Backoff, ErrorStatus, Retries, RetryCause, RetryOn};
pub use sticky::{SameSite, Sticky, StickyTable};
pub use times::Timeouts;
pub use tls::{ProxyProtocol, UpstreamTls, UpstreamTlsTable};

/// A group of interchangeable servers and how they are treated.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["servers"]))]
pub struct Upstream {
    /// The servers: `ip:port`, `host:port` (or `dns://host:port`, the same), `srv://NAME`, `https://host:port` (TLS),
    /// `unix:PATH`, or `{ address, weight, backup }`. At least one. A name stands for all its addresses, a service for all
    /// hosts and ports of its SRV records, by their weights; those that are not of the first priority are backups. One that
    /// does not resolve is down until it does.
    #[schemars(length(min = 1), example = ["10.0.1.11:8080", "10.0.1.12:8080"])]
    pub servers: Vec<Server>,
    /// TLS to the servers: `true`, or a table. Servers written with `https://` have it without.
    #[schemars(example = serde_json::json!({ "server_name": "web.internal", "ca": "/etc/tls/internal-ca.pem" }))]
    pub tls: Option<UpstreamTls>,
    /// Whose request comes, said by a header of the PROXY protocol before anything else on a connection. Such a connection
    /// carries one request, as the next may be of another client. Off by default.
    #[schemars(example = &"v2")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How names of servers are looked up.
    pub dns: Dns,
    /// What is spoken to them: `http1`; `http2`, in the clear without asking; `auto`, under TLS whatever of the two a server
    /// prefers, and `http1` in the clear. gRPC needs `http2`; what changes its protocol by
    /// `Upgrade` needs `http1` or `auto`. Health checks speak the same.
    pub protocol: Protocol,
    /// How one of them is chosen for a request: `least_request`, `round_robin`, `ewma`, `hash`, or a table.
    #[schemars(example = &"least_request")]
    pub balance: Balance,
    /// A cookie that brings clients back to the server that answered them first: its name, or a table. Off by default.
    #[schemars(example = &"server")]
    pub sticky: Option<Sticky>,
    /// How long a server that comes back, or joins a group that serves, takes from a tenth of its share to all of it; `0s`
    /// for no time.
    #[schemars(extend("x-most" = "1h"))]
    pub slow_start: Period,
    /// Where fewer than this share of the servers are up, all of them are used whatever their state, rather than the few
    /// with the load of all; `0%` for never. Of backups the same holds while they are used.
    pub panic_threshold: Share,
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

impl Default for Upstream {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            tls: None,
            proxy_protocol: None,
            dns: Dns::default(),
            protocol: Protocol::default(),
            balance: Balance::default(),
            sticky: None,
            slow_start: Period(Duration::ZERO),
            panic_threshold: Share(0),
            health: Health::default(),
            outlier_detection: OutlierDetection::default(),
            circuit_breaker: CircuitBreaker::default(),
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            limits: Limits::default(),
        }
    }
}

/// What is spoken to servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever a server prefers.
    Auto,
}

/// One server of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Server {
    /// `ip:port`, `host:port`, `dns://host:port`, `srv://NAME`, `https://host:port` or `unix:PATH`.
    Address(#[schemars(extend("format" = "server"))] String),
    /// An address, its weight, and whether it is a backup.
    Table(ServerTable),
}

/// A server with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTable {
    /// `ip:port`, `host:port`, `dns://host:port`, `srv://NAME`, `https://host:port` or `unix:PATH`.
    #[schemars(extend("format" = "server"), example = "10.0.1.11:8080")]
    pub address: String,
    /// Its share of requests, next to the others' weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u16,
    /// Whether it is used only while no other server of the group may be.
    #[serde(default)]
    pub backup: bool,
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
