//! Remembering answers.

use std::time::Duration;

use http::HeaderName;

pub mod directives;
pub mod freshness;
pub mod key;
pub mod policy;
pub mod vary;

/// How a route caches.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How long an answer is fresh when the origin says nothing. `None`: such answers are not stored.
    pub ttl: Option<Duration>,
    /// The longest that an answer is fresh, whatever the origin says. `None`: no bound.
    pub ttl_max: Option<Duration>,
    /// Whether `ttl` takes the place of whatever lifetime the origin names. `private` and `no-store` still hold.
    pub ignore_origin: bool,
    /// Request fields by which answers differ, besides those in the origin's `Vary`.
    pub vary: Vec<HeaderName>,
    /// How the query counts in the key.
    pub query: QueryRule,
    /// The largest body that is stored, in bytes.
    pub max_object: u64,
}

impl Default for Rules {
    /// The origin's word alone, the whole query, bodies up to 4 MiB.
    fn default() -> Self {
        Self {
            ttl: None,
            ttl_max: None,
            ignore_origin: false,
            vary: Vec::new(),
            query: QueryRule::All,
            max_object: 4 << 20,
        }
    }
}

/// How the query counts in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryRule {
    /// As it is, byte for byte.
    All,
    /// Not at all.
    None,
    /// The parameters of these names, whatever their order.
    Only(Vec<String>),
}
