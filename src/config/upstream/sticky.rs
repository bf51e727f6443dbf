//! `sticky`: a cookie that brings clients back to the server that answered them first.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::config::units::Period;

/// A cookie that brings clients back to their server: its name, or a table where that is not enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sticky {
    /// The cookie's name, everything else by default.
    Name(#[schemars(extend("format" = "cookie-name"))] String),
    /// In full.
    Table(StickyTable),
}

/// The cookie in full. Its value says nothing of the server, and is not changed by a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyTable {
    /// The cookie's name. Upstreams that share a host need names of their own.
    #[schemars(extend("format" = "cookie-name"), example = &"server")]
    pub name: String,
    /// How long browsers keep it; `0s` for as long as they run.
    #[serde(default = "session")]
    pub ttl: Period,
    /// Whether it is sent back over TLS alone.
    #[serde(default = "yes")]
    pub secure: bool,
    /// Whether it is kept from scripts.
    #[serde(default = "yes")]
    pub http_only: bool,
    /// Whether it is sent with requests that other sites cause.
    #[serde(default)]
    pub same_site: SameSite,
    /// What its values are made with, at least 16 characters. Without one they hold until a restart, and on one gateway
    /// alone, so gateways that share a Redis need one.
    #[serde(default)]
    pub secret: Option<Secret>,
}

/// Which requests from other sites carry a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// Those that lead here, such as links.
    #[default]
    Lax,
    /// None.
    Strict,
    /// All; needs `secure`.
    None,
}

impl StickyTable {
    /// What the name alone stands for.
    pub fn of(name: &str) -> Self {
        let name = name.to_owned();
        let same_site = SameSite::default();
        Self { name, ttl: session(), secure: true, http_only: true, same_site, secret: None }
    }
}

fn session() -> Period {
    Period(Duration::ZERO)
}

fn yes() -> bool {
    true
}
