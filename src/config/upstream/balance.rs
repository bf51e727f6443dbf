//! `balance`: which server a request goes to.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Period, Share};

/// How a server is chosen: a word, or a table where the word alone does not say enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Balance {
    /// The algorithm, everything else by default.
    Word(Algorithm),
    /// In full.
    Table(BalanceTable),
}

impl Default for Balance {
    fn default() -> Self {
        Self::Word(Algorithm::default())
    }
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Of two servers, one in turn and one drawn at random, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// One after the other, as often as their weights say, evenly spread.
    RoundRobin,
    /// Of two servers, one in turn and one drawn at random, the one that promises the earlier answer: by its times to the
    /// first byte, of which a peak counts at once, and by its requests in flight.
    Ewma,
    /// Requests with the same `key` go to the same server, the same on every gateway; of a server that goes, only its own
    /// requests go elsewhere.
    Hash,
}

/// How a server is chosen, in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceTable {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// For `hash`: what is alike in requests that belong together. `client_ip` (the default; of IPv6, the /64), `path`
    /// (without the query), `header:NAME`, `cookie:NAME` or `jwt:CLAIM` (what is vouched for by `auth` of the route; dots lead into
    /// tables). Requests without it go as by `least_request`.
    #[serde(default)]
    #[schemars(extend("format" = "hash-key"), example = &"header:x-tenant")]
    pub key: Option<String>,
    /// For `hash`: how much more than its share of the requests in flight a server may have before some of its requests go
    /// on to the next (default `25%`), or `false` for any number. Ten at once are never too many.
    #[serde(default)]
    #[schemars(example = &"25%")]
    pub max_overload: Option<MaxOverload>,
    /// For `ewma`: the time in which an answer seen loses about two thirds of its say (default `10s`).
    #[serde(default)]
    #[schemars(extend("x-least" = "100ms", "x-most" = "1h"), example = &"10s")]
    pub decay: Option<Period>,
}

impl BalanceTable {
    /// What the word alone stands for.
    pub const fn of(algorithm: Algorithm) -> Self {
        Self { algorithm, key: None, max_overload: None, decay: None }
    }

    /// The default of `decay`.
    pub const DECAY: Duration = Duration::from_secs(10);

    /// The default of `max_overload`.
    pub const MAX_OVERLOAD: Share = Share(25);
}

/// How much more than its share a server may have to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum MaxOverload {
    /// `false`: any number.
    Switch(#[schemars(extend("const" = false))] bool),
    /// So much more.
    Share(Share),
}

/// The word before the name in `header:NAME`, and the name; none for a word without a name.
pub fn key_parts(key: &str) -> (&str, Option<&str>) {
    key.split_once(':').map_or((key, None), |(kind, name)| (kind, Some(name)))
}

/// What requests may be told apart by.
pub(in crate::config) fn hash_key(text: &str) -> Result<(), String> {
    const SHAPE: &str = "known here: `client_ip`, `path`, `header:NAME`, `cookie:NAME` and `jwt:CLAIM`";
    match key_parts(text) {
        ("client_ip" | "path", None) => Ok(()),
        ("header", Some(name)) => crate::config::text::field_name(name),
        ("cookie", Some(name)) => crate::config::cache::cookie_name(name),
        ("jwt", Some(name)) => crate::config::limit::claim(name),
        ("ip" | "source" | "remote_addr" | "source_ip" | "$remote_addr" | "address", None) => {
            Err("write `client_ip`".to_owned())
        }
        ("uri" | "url" | "$request_uri", None) => Err("write `path`; the query does not count".to_owned()),
        ("jwt", None) => Err("which one? `jwt:sub`".to_owned()),
        ("header" | "cookie", None) => Err(format!("which one? `{text}:NAME`")),
        ("query" | "param" | "url_param", _) => {
            Err(format!("parameters of the query are not supported; {SHAPE}"))
        }
        _ => Err(SHAPE.to_owned()),
    }
}
