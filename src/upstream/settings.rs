//! What an upstream is made from.

use std::sync::Arc;
use std::time::Duration;

use crate::config::units::Share;

use super::{
    Balance, CircuitBreaker, Dns, HealthCheck, Limits, Outlier, ProxyProtocol, Retries, Sticky, Timeouts, Tls,
};

/// What an upstream is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name; also the label of its metrics.
    pub name: String,
    /// Its servers.
    pub servers: Vec<ServerSettings>,
    /// How names among them are looked up.
    pub dns: Dns,
    /// How TLS is spoken with them, if it is.
    pub tls: Option<Arc<Tls>>,
    /// How they are told whose request comes, if they are.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What is spoken to them.
    pub protocol: Protocol,
    /// How one of them is chosen.
    pub balance: Balance,
    /// The cookie that brings clients back to their servers, if there is one.
    pub sticky: Option<Sticky>,
    /// How long a server that comes back takes to its full share; zero for no time.
    pub slow_start: Duration,
    /// Where fewer than this share of the servers are up, all are used whatever their state; 0% for never.
    pub panic_below: Share,
    /// Active checks; without them every server counts as up.
    pub health: Option<HealthCheck>,
    /// Ejection of servers whose answers fail; `None` for never.
    pub outlier: Option<Outlier>,
    /// Leaving the whole upstream alone while it fails; `None` for never.
    pub breaker: Option<CircuitBreaker>,
    /// How long each step with a server may take.
    pub timeouts: Timeouts,
    /// When a request is sent once more.
    pub retries: Retries,
    /// Bounds on what is sent at once.
    pub limits: Limits,
}

impl Settings {
    /// These servers, all else by default: passive ejection, no active checks.
    pub fn new<'a>(name: &str, servers: impl IntoIterator<Item = (&'a str, u16)>) -> Self {
        Self {
            name: name.to_owned(),
            servers: servers.into_iter().map(|(place, weight)| ServerSettings::new(place, weight)).collect(),
            dns: Dns::default(),
            tls: None,
            proxy_protocol: None,
            protocol: Protocol::default(),
            balance: Balance::default(),
            sticky: None,
            slow_start: Duration::ZERO,
            panic_below: Share(0),
            health: None,
            outlier: Some(Outlier::default()),
            breaker: None,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            limits: Limits::default(),
        }
    }
}

/// What is spoken to servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, known beforehand in the clear and agreed on under TLS.
    Http2,
    /// HTTP/2 where a server agrees to it under TLS, else HTTP/1.1.
    Auto,
}

/// What a server is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where it is: `ip:port`, `host:port`, `dns://host:port`, `srv://NAME`, `https://host:port` or `unix:PATH`.
    pub place: String,
    /// Its share of requests next to the others' weights, at least 1; each address of a name has the name's.
    pub weight: u16,
    /// Whether it is used only while no other server is up.
    pub backup: bool,
}

impl ServerSettings {
    /// A server at `place` with this weight, no backup.
    pub fn new(place: impl Into<String>, weight: u16) -> Self {
        Self { place: place.into(), weight, backup: false }
    }
}
