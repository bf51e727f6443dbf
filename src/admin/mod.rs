//! The admin listener: how the gateway is, for operators and for what watches it.
//!
//! It is a listener of its own, on loopback. It answers GET and HEAD and changes nothing, but for five pages: what is
//! posted to `/purge` makes the cache forget, to `/reload`, has the configuration read again, to `/upstreams`, has a
//! server drained, to `/quotas`, settles an account, and to `/revoked`, takes a token back. It keeps answering while the gateway drains.

mod api;
mod drain;
mod guard;
mod order;
mod quota;
mod ready;
mod reload;
mod revoke;
mod serve;
mod socket;
mod steer;

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use crate::telemetry::Meters;

pub use drain::{DrainDone, DrainOrder};
pub use order::{Fleet, PurgeDone, PurgeOrder, Target, absolute_url};
pub use quota::{NoAccount, QuotaDone, QuotaOrder};
pub use ready::Ready;
pub use reload::{InForce, Refused, Reload};
pub use revoke::{NotTakenBack, RevokeOrder};
pub use serve::serve;
pub use socket::Socket;
pub use steer::{Inspect, header_field};

/// What the admin listener shows, and what it can set going.
#[derive(Clone)]
pub struct Admin {
    /// The metrics of the process.
    pub meters: Arc<Meters>,
    /// What requests must carry as `Authorization: Bearer …`, but for `/health` and `/ready`. None: anybody may ask.
    pub token: Option<Arc<str>>,
    /// Whether the gateway may be sent requests.
    pub ready: Arc<Ready>,
    /// The configuration in force, as the gateway understood it. Must leave secrets out.
    pub config: Show,
    /// The upstreams and their servers, as they are now.
    pub upstreams: Show,
    /// Has a server drained, or no longer; an error says that there is none, for whoever asked.
    pub drain: Drain,
    /// Which quotas there are.
    pub quotas: Show,
    /// Reads an account of a quota, and settles it.
    pub settle: Settle,
    /// Takes a token back on all nodes.
    pub revoke: Revoke,
    /// What the cache holds in all.
    pub cache: Show,
    /// What the cache holds of one URL, and what would become of a request for it. Must leave secrets out.
    pub inspect: Do<Inspect, Value>,
    /// Makes the cache forget.
    pub purge: Do<PurgeOrder, PurgeDone>,
    /// Which configuration is in force, and since when.
    pub in_force: Arc<dyn Fn() -> InForce + Send + Sync>,
    /// Reads the configuration again.
    pub reload: Reload,
}

/// Looks something up at the moment that it is asked for. Must not block.
pub type Show = Arc<dyn Fn() -> Value + Send + Sync>;

/// Has a server drained, or no longer, at once; an error says to whoever asked why it cannot be.
pub type Drain = Arc<dyn Fn(&DrainOrder) -> Result<DrainDone, String> + Send + Sync>;

/// Reads an account of a quota, and settles it.
pub type Settle = Arc<
    dyn Fn(QuotaOrder) -> Pin<Box<dyn Future<Output = Result<QuotaDone, NoAccount>> + Send>> + Send + Sync,
>;

/// Takes a token back on all nodes.
pub type Revoke =
    Arc<dyn Fn(RevokeOrder) -> Pin<Box<dyn Future<Output = Result<(), NotTakenBack>> + Send>> + Send + Sync>;

/// Does something that takes a while; an error says to whoever asked why it cannot be done as asked.
pub type Do<T, U> = Arc<dyn Fn(T) -> Pin<Box<dyn Future<Output = Result<U, String>> + Send>> + Send + Sync>;

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// True if only this machine can reach the address: 127.0.0.0/8, `::1`, or the former written as IPv6.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
