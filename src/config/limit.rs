//! `rate_limit`: how often may be asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::methods::Methods;
use super::text;
use super::units::{Quota, Rate};

/// A bound on how often may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RateLimit {
    /// A rate per client address; its count is the burst, too.
    Rate(Rate),
    /// In full.
    Table(RateLimitTable),
}

/// A bound in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitTable {
    /// How many requests, within which time. Either this or `quota`.
    #[serde(default)]
    #[schemars(example = &"100/s")]
    pub rate: Option<Rate>,
    /// How many requests in each window of the calendar, in UTC: `hour`, `day`, `week` (from Monday) or `month`. Kept in `redis`, where
    /// what was used survives restarts of every node; all nodes have it together. Either this or `rate`.
    #[serde(default)]
    #[schemars(example = &"1M/month")]
    pub quota: Option<Quota>,
    /// Of a rate, how many may come at once after a pause; its count when absent.
    #[schemars(range(min = 1), example = 200)]
    #[serde(default)]
    pub burst: Option<u32>,
    /// Which requests are counted together: those that have this in common, or all of a list of these. `client_ip` (the
    /// default; of IPv6, the /64), `header:NAME`, `cookie:NAME`, `jwt:CLAIM` (what is vouched for by `auth` of the route; dots lead
    /// into tables), `api_key`, `route` (all of the route's), or `const:WORD` (those of all routes that have the same rate, burst
    /// and key). Where a request has no such thing, its client's address stands in. What clients choose freely bounds nobody who
    /// chooses anew each time: put a rule by `client_ip` beside it.
    #[serde(default)]
    #[schemars(example = &"client_ip")]
    pub key: Option<LimitKey>,
    /// Which methods are counted: `"unsafe"` (all but GET, HEAD, OPTIONS and TRACE), or a list. Absent: all.
    #[serde(default)]
    #[schemars(example = &"unsafe")]
    pub methods: Option<Methods>,
    /// Whether nobody is refused: what would have been is counted (`limit_decisions_total`, `would_refuse`) and logged, at most
    /// once a minute.
    #[serde(default)]
    pub observe: bool,
    /// What is counted: requests, or only those that go to an upstream.
    #[serde(default)]
    pub charge: LimitCharge,
    /// Who counts together at a rate. Absent: all nodes where `redis` is set, else this one.
    #[serde(default)]
    #[schemars(example = &"node")]
    pub scope: Option<LimitScope>,
    /// What becomes of requests while `redis` does not answer. Absent: `local`.
    #[serde(default)]
    #[schemars(example = &"deny")]
    pub on_store_failure: Option<OnStoreFailure>,
}

/// Which requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LimitKey {
    /// Those that have this in common.
    One(#[schemars(extend("format" = "limit-key"))] String),
    /// Those that have all of this in common.
    All(#[schemars(with = "Vec<text::LimitKey>", length(min = 1, max = 8))] Vec<String>),
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitCharge {
    /// Every request.
    #[default]
    Request,
    /// Requests that the cache has no answer for, before a server is asked. Who shares the fetch of another is not counted,
    /// and neither is what is fetched in the background.
    Miss,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitScope {
    /// All nodes that share `redis`. While it is away, each enforces the rate over the number of nodes.
    Fleet,
    /// Each node for itself.
    Node,
}

/// What becomes of requests while Redis does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStoreFailure {
    /// Each node admits its part: what is allowed over the number of nodes.
    Local,
    /// All are admitted, and counted where Redis comes back soon enough.
    Allow,
    /// None is: 503, `limits-unavailable`.
    Deny,
}

/// What requests may be counted by.
pub(super) fn limit_key(text: &str) -> Result<(), String> {
    const SHAPE: &str = "known here: `client_ip`, `header:NAME`, `cookie:NAME`, `jwt:CLAIM`, `api_key`, `route` and `const:WORD`";
    match text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name))) {
        ("client_ip" | "api_key" | "route", None) => Ok(()),
        ("header", Some(name)) => text::field_name(name),
        ("cookie", Some(name)) => super::cache::cookie_name(name),
        ("const", Some(word)) => text::name(word),
        ("jwt", Some(name)) => claim(name),
        ("caller" | "user" | "subject" | "jwt" | "claim", None) => {
            Err("by which claim? `jwt:sub`".to_owned())
        }
        ("header" | "cookie", None) => Err(format!("which one? `{text}:NAME`")),
        ("const", None) => Err("which one? `const:WORD`".to_owned()),
        ("$binary_remote_addr" | "$remote_addr" | "remote_addr" | "remote_ip" | "ip" | "address", None) => {
            Err("write `client_ip`".to_owned())
        }
        _ => Err(SHAPE.to_owned()),
    }
}

/// The name of a claim.
pub(in crate::config) fn claim(name: &str) -> Result<(), String> {
    let fine = !name.is_empty() && !name.contains(char::is_control);
    if fine { Ok(()) } else { Err("which one? `jwt:sub`".to_owned()) }
}
