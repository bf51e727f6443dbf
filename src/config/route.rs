//! `[routes.NAME]`, `[policies.NAME]` and `[defaults]`: which requests, and what is done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::RouteAuth;
use super::cache::Cache;
use super::compress::Compress;
use super::concurrency::Concurrency;
use super::cors::Cors;
use super::limit::RateLimit;
use super::security_headers::SecurityHeaders;
use super::units::{ByteSize, Period};
use super::upstream::Server;
use super::{Secret, text};

/// Which requests, and what is done with them.
///
/// The same keys stand in `[routes.NAME]`, `[policies.NAME]` and `[defaults]`. A route starts from the defaults,
/// takes each policy it uses in turn, then its own keys; the later one wins, key by key.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// The host: a name, `*.example.com` for every name below it, or a list of these. Absent: every host.
    #[schemars(with = "Option<OneOrMany<text::HostPattern>>", example = "api.example.com")]
    pub host: Option<OneOrMany<String>>,
    /// The path: `/users/*` for `/users` and everything below it, `/users` for that path alone. Absent: every path.
    #[schemars(with = "Option<OneOrMany<text::PathPattern>>", example = "/users/*")]
    pub path: Option<OneOrMany<String>>,
    /// The methods. Absent: every method.
    #[schemars(with = "Option<BTreeSet<text::Method>>", example = ["GET", "HEAD"])]
    pub methods: Option<BTreeSet<String>>,
    /// Policies whose settings this route takes, in order.
    #[serde(rename = "use")]
    #[schemars(with = "Vec<text::Name>", example = ["public"])]
    pub uses: Vec<String>,
    /// Which clients may ask, by their address; everybody else is refused with 403.
    #[schemars(example = serde_json::json!({ "allow": ["203.0.113.0/24"] }))]
    pub ip: Option<AddressRules>,
    /// Which clients may ask, by the certificate that they show: `true` for all with a good one, or a table. Everybody else
    /// is refused with 403. Which certificates are good says `tls.client_ca`, or that of the host.
    #[schemars(example = serde_json::json!({ "sans": ["URI:spiffe://example.com/partner"] }))]
    pub client_cert: Option<ClientCert>,
    /// Which callers may ask: the name of a provider (`[auth.NAME]`) that vouches for them, a table, or `false`. Asked before
    /// anything is answered, from the cache as well. What a caller was answered is kept from all others, unless the answer says that
    /// it is for everybody (`public`, `s-maxage`, `must-revalidate`; RFC 9111 §3.5), or `cache.key.caller` keeps callers apart.
    #[schemars(example = serde_json::json!({ "providers": "idp", "methods": "unsafe", "scopes": ["users:write"] }))]
    pub auth: Option<RouteAuth>,
    /// How often may be asked, by one client or by whoever shares a `key`: a rate, a table, or a list of these, which all hold.
    /// What is too much is refused with 429.
    #[schemars(example = "100/s")]
    pub rate_limit: Option<OneOrMany<RateLimit>>,
    /// How many requests may be under way at once: a number for the whole route, a table with a `key`, or a list of these, which all
    /// hold, on each gateway for itself. What is too much is refused: with 429 where it is a client's, or whoever shares a `key`;
    /// with 503 where it is everybody's (`route`, `const:WORD`).
    #[schemars(example = serde_json::json!([200, { "limit": 10, "key": "client_ip" }]))]
    pub concurrency: Option<OneOrMany<Concurrency>>,
    /// Largest request body; larger ones are refused with 413.
    #[schemars(example = "10MiB")]
    pub max_body: Option<ByteSize>,
    /// Whether and how answers are cached: a time, a table, or `false`.
    #[schemars(example = "30s")]
    pub cache: Option<Cache>,
    /// Answers with a redirect instead of asking an upstream.
    #[schemars(example = serde_json::json!({ "to": "https://www.example.com{path}{query}", "status": 308 }))]
    pub redirect: Option<Redirect>,
    /// Answers with fixed words instead of asking an upstream.
    #[schemars(example = serde_json::json!({ "status": 200, "body": "fine" }))]
    pub respond: Option<Respond>,
    /// Where requests go: the name of an upstream, an address, a list of servers, or names with weights.
    #[schemars(example = &"users")]
    pub upstream: Option<RouteUpstream>,
    /// Takes this prefix off the path before it goes upstream.
    #[schemars(extend("format" = "prefix"), example = "/api")]
    pub strip_prefix: Option<String>,
    /// Rewrites the path before it goes upstream, after `strip_prefix`.
    #[schemars(example = serde_json::json!({ "from": "^/v1/(.*)$", "to": "/$1" }))]
    pub rewrite: Option<Rewrite>,
    /// Which `Host` the upstream sees.
    #[schemars(example = &"client")]
    pub upstream_host: Option<UpstreamHost>,
    /// Fields set, added and removed on the way to the upstream.
    ///
    /// In values of `set`, `{tls_client_subject}`, `{tls_client_issuer}`, `{tls_client_san}`, `{tls_client_serial}`,
    /// `{tls_client_fingerprint}` (SHA-256) and `{tls_client_certificate}` (as in `Client-Cert`, RFC 9440) stand for those
    /// of the client's certificate. From who has shown none the field is removed.
    #[schemars(example = serde_json::json!({ "set": { "x-tenant": "main" } }))]
    pub request_headers: Option<HeaderRules>,
    /// Fields set, added and removed on the way to the client.
    #[schemars(example = serde_json::json!({ "remove": ["server"] }))]
    pub response_headers: Option<HeaderRules>,
    /// Whether answers are compressed for clients that take it (`Accept-Encoding`): a list of codings, a table, `true` or
    /// `false`. Absent: not. Never what is compressed already, may not be changed (`no-transform`), is a part, or is small.
    #[schemars(example = ["zstd", "br", "gzip"])]
    pub compress: Option<Compress>,
    /// Pages of which other origins may read answers (CORS): origins, a table, or `false`. The gateway then answers browsers
    /// that ask beforehand, without asking who their user is or counting that, and speaks for the upstream: its own
    /// `Access-Control-*` fields are taken out. Every answer has what it needs for this, also a refusal. It keeps browsers
    /// from showing answers to pages, not anybody from asking.
    #[schemars(example = serde_json::json!({ "origins": ["https://www.example.com"], "credentials": true }))]
    pub cors: Option<Cors>,
    /// Fields that tell browsers to be careful with answers: `true`, a table, or `false`. Absent: none. `true` adds
    /// `X-Content-Type-Options: nosniff`, `X-Frame-Options: DENY`, `Referrer-Policy: strict-origin-when-cross-origin`,
    /// `Cross-Origin-Opener-Policy: same-origin` and `X-Permitted-Cross-Domain-Policies: none`, each where the answer has no such
    /// field; a table has other values, other fields such as `content-security-policy`, or `false` for one of these.
    /// `response_headers` have the last word.
    #[schemars(example = true)]
    pub security_headers: Option<SecurityHeaders>,
    /// For how long browsers are to come by TLS alone (`Strict-Transport-Security`, RFC 6797): a time, a table, or `false`.
    /// Sent with every answer under TLS, whoever made it, in place of the origin's own. What finds no route has that of
    /// the defaults.
    #[schemars(example = "365d")]
    pub hsts: Option<Hsts>,
    /// Overrides timeouts of the upstream, one by one.
    #[schemars(example = serde_json::json!({ "first_byte": "5s" }))]
    pub timeouts: Option<TimeoutOverrides>,
    /// How long a connection that has become a WebSocket may be silent, both ways together; then it is closed. Absent:
    /// 5 minutes, longer than the pings of common servers and clients are apart. No time for the whole, and none between two
    /// reads, counts for it.
    #[schemars(extend("x-least" = "1s", "x-most" = "1d"), example = "5m")]
    pub websocket_idle: Option<Period>,
}

/// Timeouts of a route; those that are absent are the upstream's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutOverrides {
    /// Longest wait for a connection.
    #[schemars(extend("x-least" = "1ms"))]
    pub connect: Option<Period>,
    /// Longest wait for the first byte of the answer, once the request was sent.
    #[schemars(extend("x-least" = "1ms"))]
    pub first_byte: Option<Period>,
    /// Longest wait between two reads or writes.
    #[schemars(extend("x-least" = "1ms"))]
    pub idle: Option<Period>,
    /// Longest time for the whole exchange, retries included; `0s` for none.
    pub total: Option<Period>,
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

impl<'a, T> IntoIterator for &'a OneOrMany<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Where a route's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteUpstream {
    /// With a colon: the address of one server. Without: the name of an upstream.
    Named(#[schemars(extend("format" = "upstream"))] String),
    /// Servers of an upstream of the route's own.
    Servers(#[schemars(length(min = 1))] Vec<Server>),
    /// Names of upstreams with weights: `{ web = 95, web-next = 5 }`.
    Split(
        #[schemars(extend("minProperties" = 1, "propertyNames" = { "format": "name" }))]
        BTreeMap<String, u16>,
    ),
}

/// Which clients may ask, by their address.
///
/// An address is the client's as `trusted_proxies` tell it; an IPv4-mapped IPv6 address counts as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct AddressRules {
    /// Networks whose clients may ask; everybody when absent.
    #[schemars(with = "Option<Vec<text::Network>>", length(min = 1), example = ["203.0.113.0/24", "2001:db8::/32"])]
    pub allow: Option<Vec<IpNet>>,
    /// Networks whose clients may not ask, even where `allow` has them.
    #[schemars(with = "Option<Vec<text::Network>>", length(min = 1), example = ["203.0.113.66/32"])]
    pub deny: Option<Vec<IpNet>>,
    /// A file with more networks whose clients may ask: an address or a network on each line; `#` begins a comment.
    /// At least one, at most 64 MiB of them. The file is watched: a change takes effect as a reload does.
    #[schemars(extend("format" = "file"), example = "/etc/tidegate/partners.txt")]
    pub allow_file: Option<PathBuf>,
    /// A file with more networks whose clients may not ask, in the same form; it may be empty.
    #[schemars(extend("format" = "file"), example = "/etc/tidegate/blocked.txt")]
    pub deny_file: Option<PathBuf>,
}

/// Which clients may ask, by the certificate that they show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ClientCert {
    /// `true`: all that show a good one. `false`: all, though the defaults say otherwise.
    Switch(bool),
    /// These.
    Table(ClientCertTable),
}

/// Clients by their certificates; who is in one of the lists may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct ClientCertTable {
    /// Subjects as RFC 4514 writes them, the most specific part first; letter for letter.
    #[schemars(length(min = 1), example = ["CN=partner,O=Example"])]
    pub subjects: Option<Vec<String>>,
    /// Alternative names with their kind (`DNS:`, `URI:`, `email:`); letter for letter.
    #[schemars(length(min = 1), example = ["URI:spiffe://example.com/partner", "DNS:partner.example.com"])]
    pub sans: Option<Vec<String>>,
    /// The SHA-256 of whole certificates, in hexadecimal, with or without colons.
    #[schemars(length(min = 1), example = ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])]
    pub fingerprints: Option<Vec<String>>,
}

/// For how long browsers are to come by TLS alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Hsts {
    /// `false`: nothing is said of it, though the defaults do.
    Switch(#[schemars(extend("const" = false))] bool),
    /// For so long since the last answer; `0s` makes them forget it.
    MaxAge(#[schemars(extend("x-most" = "3650d"))] Period),
    /// In full.
    Table(HstsTable),
}

/// `Strict-Transport-Security` in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HstsTable {
    /// For how long since the last answer.
    #[schemars(extend("x-most" = "3650d"), example = "365d")]
    pub max_age: Period,
    /// Whether it is for every name below the host, too.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Whether browsers may put the host in the lists that they ship, which is hard to undo.
    #[serde(default)]
    pub preload: bool,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    #[schemars(extend("format" = "redirect"), example = "https://www.example.com{path}{query}")]
    /// The target; `{scheme}`, `{host}`, `{path}` and `{query}` (with its `?`) stand for those of the request.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status: u16,
}

fn permanent() -> u16 {
    308
}

/// An answer from the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
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
    #[schemars(extend("format" = "field-value"))]
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
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// What is looked for, such as `^/v1/(.*)$`.
    #[schemars(extend("format" = "regex"), example = "^/v1/(.*)$")]
    pub from: String,
    /// What stands there instead, such as `/$1`.
    #[schemars(example = "/$1")]
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

/// The value of a field: written here, or kept as a secret outside of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FieldText {
    /// As it is.
    Text(#[schemars(with = "text::FieldValue")] String),
    /// Where it is kept.
    Secret(Secret),
}

/// Changes to header fields; `remove` comes first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Replaces the field, or adds it. A field of a request may have a secret as its value: `{ env = "NAME" }` or
    /// `{ file = "PATH" }`.
    #[schemars(extend("propertyNames" = { "format": "field-name" }), example = serde_json::json!({ "x-frame-options": "DENY" }))]
    pub set: BTreeMap<String, FieldText>,
    /// Adds a field line beside those that are there.
    #[schemars(with = "BTreeMap<String, text::FieldValue>", extend("propertyNames" = { "format": "field-name" }), example = serde_json::json!({ "vary": "accept-language" }))]
    pub add: BTreeMap<String, String>,
    /// Removes the field.
    #[schemars(with = "Vec<text::FieldName>", example = ["server"])]
    pub remove: Vec<String>,
}
