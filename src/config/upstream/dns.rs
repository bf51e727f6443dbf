//! `dns`: how names of servers are looked up.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::text;
use crate::config::units::Period;

/// How names of servers are looked up: in the background, again whenever the answer's time to live is over, and a little
/// late so that gateways do not ask in step.
///
/// While name servers do not answer, the last addresses are used. Takes effect on reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// The name servers, as `ip:port`, asked over UDP and, for long answers, TCP; then only whole names are looked up.
    /// Empty: those of `/etc/resolv.conf`, with its search list, after `/etc/hosts`; both are read anew each time.
    #[schemars(with = "Vec<text::NameServer>", example = ["127.0.0.1:8600"])]
    pub nameservers: Vec<SocketAddr>,
    /// Least time between two lookups of a name, whatever its time to live.
    #[schemars(extend("x-least" = "1s", "x-most" = "1d"))]
    pub min_ttl: Period,
    /// Longest time between two lookups of a name, whatever its time to live. Where it is less than `min_ttl`, that counts.
    #[schemars(extend("x-least" = "1s", "x-most" = "1d"))]
    pub max_ttl: Period,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            min_ttl: Period(Duration::from_secs(1)),
            max_ttl: Period(Duration::from_secs(300)),
        }
    }
}
