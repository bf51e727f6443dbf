//! What an upstream is made from.

use super::{Balance, CircuitBreaker, Dns, HealthCheck, Limits, Outlier, Retries, Timeouts};

/// What an upstream is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name; also the label of its metrics.
    pub name: String,
    /// Its servers.
    pub servers: Vec<ServerSettings>,
    /// How names among them are looked up.
    pub dns: Dns,
    /// How one of them is chosen.
    pub balance: Balance,
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
            balance: Balance::default(),
            health: None,
            outlier: Some(Outlier::default()),
            breaker: None,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            limits: Limits::default(),
        }
    }
}

/// What a server is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where it is: `ip:port`, `host:port`, `dns://host:port`, `srv://NAME` or `unix:PATH`.
    pub place: String,
    /// Its share of requests next to the others' weights, at least 1; each address of a name has the name's.
    pub weight: u16,
}

impl ServerSettings {
    /// A server at `place` with this weight.
    pub fn new(place: impl Into<String>, weight: u16) -> Self {
        Self { place: place.into(), weight }
    }
}
