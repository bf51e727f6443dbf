//! `[routes.NAME]`, `[policies.NAME]` and `[defaults]`: which requests, and what is done with them.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{ByteSize, Period, Rate};
use super::upstream::{Server, Timeouts};

/// Which requests, and what is done with them.
///
/// The same keys stand in `[routes.NAME]`, `[policies.NAME]` and `[defaults]`. A route starts from the defaults,
/// takes each policy it uses in turn, then its own keys; the later one wins, key by key.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Route {
    /// The host: a name, `*.example.com` for every name below it, or a list of these. Absent: every host.
    pub host: Option<OneOrMany<String>>,
    /// The path: `/users/*` for `/users` and everything below it, `/users` for that path alone. Absent: every path.
    pub path: Option<OneOrMany<String>>,
    /// The methods. Absent: every method.
    pub methods: Option<BTreeSet<String>>,
    /// Policies whose settings this route takes, in order.
    #[serde(rename = "use")]
    pub uses: Vec<String>,
    /// How often one client may ask: a rate, a table, or a list of these.
    pub rate_limit: Option<OneOrMany<RateLimit>>,
    /// Largest request body; larger ones are refused with 413.
    pub max_body: Option<ByteSize>,
    /// Whether and how answers are cached: a time, a table, or `false`.
    pub cache: Option<Cache>,
    /// Answers with a redirect instead of asking an upstream.
    pub redirect: Option<Redirect>,
    /// Answers with fixed words instead of asking an upstream.
    pub respond: Option<Respond>,
    /// Where requests go: the name of an upstream, an address, a list of servers, or names with weights.
    pub upstream: Option<RouteUpstream>,
    /// Takes this prefix off the path before it goes upstream.
    pub strip_prefix: Option<String>,
    /// Rewrites the path before it goes upstream, after `strip_prefix`.
    pub rewrite: Option<Rewrite>,
    /// Which `Host` the upstream sees.
    pub upstream_host: Option<UpstreamHost>,
    /// Fields set, added and removed on the way to the upstream.
    pub request_headers: Option<HeaderRules>,
    /// Fields set, added and removed on the way to the client.
    pub response_headers: Option<HeaderRules>,
    /// Overrides the timeouts of the upstream.
    pub timeouts: Option<Timeouts>,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All values, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        match self {
            Self::One(value) => std::slice::from_ref(value).iter(),
            Self::Many(values) => values.iter(),
        }
    }
}

/// Where a route's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteUpstream {
    /// With a colon: the address of one server. Without: the name of an upstream.
    Named(String),
    /// Servers of an upstream of the route's own.
    Servers(Vec<Server>),
    /// Names of upstreams with weights: `{ web = 95, web-next = 5 }`.
    Split(BTreeMap<String, u16>),
}

/// A bound on how often one client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RateLimit {
    /// A rate; its count is the burst, too.
    Rate(Rate),
    /// In full.
    Table(RateLimitTable),
}

/// A bound in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateLimitTable {
    /// How many requests, within which time.
    pub rate: Rate,
    /// How many may come at once after a pause; the count of the rate when absent.
    #[schemars(range(min = 1))]
    #[serde(default)]
    pub burst: Option<u32>,
    /// Whose requests are counted together.
    #[serde(default)]
    pub key: LimitKey,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitKey {
    /// One client address; of IPv6, one /64.
    #[default]
    ClientIp,
}

/// Whether and how answers are cached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Cache {
    /// `false`: not at all, though the defaults say so. `true`: by the origin's word alone.
    Switch(bool),
    /// For how long when the origin is silent.
    Ttl(Period),
    /// In full.
    Table(CacheTable),
}

/// Caching in full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheTable {
    /// How long an answer is fresh when the origin says nothing. Absent: such answers are not kept.
    pub ttl: Option<Period>,
    /// The longest that an answer is fresh, whatever the origin says.
    pub ttl_max: Option<Period>,
    /// Gives every answer that may be kept the `ttl`, whatever lifetime the origin names. What the origin forbids
    /// to share (`private`, `no-store`) stays forbidden.
    pub ignore_origin: bool,
    /// Request fields by which answers differ, besides those in the origin's `Vary`.
    pub vary: Vec<String>,
    /// What tells two requests apart.
    pub key: CacheKey,
    /// Largest answer that is kept; that of `[cache]` when absent.
    pub max_object: Option<ByteSize>,
}

/// What tells two cached requests apart, besides scheme, host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheKey {
    /// The query: `"all"` as it is, `"none"`, or a list of the parameters that count, whatever their order.
    pub query: KeyQuery,
}

/// How the query counts in the cache key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum KeyQuery {
    /// All of it, or none of it.
    Word(KeyQueryWord),
    /// These parameters alone.
    Only(Vec<String>),
}

impl Default for KeyQuery {
    fn default() -> Self {
        Self::Word(KeyQueryWord::All)
    }
}

/// All of the query, or none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyQueryWord {
    /// As it is, byte for byte.
    All,
    /// Queries are ignored.
    None,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Redirect {
    /// The target; `{scheme}`, `{host}`, `{path}` and `{query}` (with its `?`) stand for those of the request.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    pub status: u16,
}

fn permanent() -> u16 {
    308
}

/// An answer from the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Respond {
    /// 200 to 599.
    #[serde(default = "ok")]
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// Its media type.
    #[serde(default = "plain")]
    pub content_type: String,
}

fn ok() -> u16 {
    200
}

fn plain() -> String {
    "text/plain; charset=utf-8".to_owned()
}

/// A rewrite of the path by a regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rewrite {
    /// What is looked for, such as `^/v1/(.*)$`.
    #[schemars(extend("format" = "regex"))]
    pub from: String,
    /// What stands there instead, such as `/$1`.
    pub to: String,
}

/// Which `Host` the upstream sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamHost {
    /// The one the client asked for.
    #[default]
    Client,
    /// The server's own address.
    Upstream,
}

/// Changes to header fields; `remove` comes first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HeaderRules {
    /// Replaces the field, or adds it.
    pub set: BTreeMap<String, String>,
    /// Adds a field line beside those that are there.
    pub add: BTreeMap<String, String>,
    /// Removes the field.
    pub remove: Vec<String>,
}
