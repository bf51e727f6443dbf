//! `[cache]`, where answers are kept, and `cache` of a route: which are kept, for how long, and for whom.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalidate::Invalidate;
use super::text;
use super::units::{ByteSize, Period};

/// Where cached answers are kept, and who may purge them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheStore {
    /// Memory for cached answers in this process, headers and overhead included.
    #[schemars(extend("x-takes-effect" = "restart"))]
    pub memory: ByteSize,
    /// Whether answers are kept in Redis as well, where every node finds them and a restarted one begins warm. When
    /// absent, they are where `redis` is set. With `false` they stay in memory alone; purges reach the other nodes all the
    /// same.
    #[schemars(example = true, extend("x-takes-effect" = "restart"))]
    pub redis: Option<bool>,
    /// Largest answer that is kept; larger ones pass through.
    pub max_object: ByteSize,
    /// For how long answers in memory are trusted while Redis cannot be asked what was purged meanwhile. `0s`: not at
    /// all, so that a node cut off asks the origin.
    #[schemars(extend("x-most" = "1d", "x-takes-effect" = "restart"))]
    pub blind_max: Period,
    /// Whether a request with the method `PURGE` purges its URL, for those that `purge_from` lists. Otherwise the method
    /// goes to the upstream like any other.
    pub purge_method: bool,
    /// Networks whose `PURGE` is obeyed; everybody else is refused with 403. An address is the client's as
    /// `trusted_proxies` tell it: where another proxy on this machine passes requests on and is not listed there,
    /// everybody seems to be on this machine.
    #[schemars(with = "Vec<text::Network>", example = ["10.0.0.0/8"])]
    pub purge_from: Vec<IpNet>,
    /// Whether `Cache-Status` shows the key under which an answer is looked up.
    pub status_key: bool,
    /// Whether a client that wrote is shown nothing from before its write: successful unsafe requests are answered with a
    /// marker, and reads that bring it are answered by what is known to include the write. `"header"`: in the field
    /// `Last-Seen`, in place of what the upstream says there; `"cookie"`: in a cookie, over HTTPS alone; `"both"`; `"off"`.
    /// With it, upstreams with replicas that answer writes with `Last-Seen` are asked with the newest of these words.
    pub read_your_writes: ReadYourWrites,
    /// For how long after a write. Longer than replicas of any upstream lag behind.
    #[schemars(extend("x-least" = "1s", "x-most" = "10m"))]
    pub read_your_writes_for: Period,
    /// Events by which the cache follows what is written past the gateway. Absent: it follows none.
    pub invalidate: Option<Box<Invalidate>>,
}

/// How a client carries what it has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadYourWrites {
    /// Not at all.
    #[default]
    Off,
    /// In the field `Last-Seen` of answers and requests: for programs.
    Header,
    /// In a cookie: for browsers.
    Cookie,
    /// In either.
    Both,
}

impl Default for CacheStore {
    fn default() -> Self {
        Self {
            memory: ByteSize(256 << 20),
            redis: None,
            max_object: ByteSize(4 << 20),
            blind_max: Period(Duration::from_secs(30)),
            purge_method: false,
            purge_from: loopback(),
            status_key: false,
            read_your_writes: ReadYourWrites::Off,
            read_your_writes_for: Period(Duration::from_secs(60)),
            invalidate: None,
        }
    }
}

fn loopback() -> Vec<IpNet> {
    let four = Ipv4Net::new([127, 0, 0, 0].into(), 8).map(IpNet::from);
    let six = Ipv6Net::new(std::net::Ipv6Addr::LOCALHOST, 128).map(IpNet::from);
    four.into_iter().chain(six).collect()
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
    Table(Box<CacheTable>),
}

/// Caching in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheTable {
    /// How long an answer is fresh when the origin says nothing. Absent: such answers are not kept, unless `heuristic`
    /// finds a time for them. Neither are those to requests with a `Cookie`, unless the origin says `public` or the
    /// route tells cookies apart (`key.cookies`, or `cookie` in `vary`).
    #[schemars(extend("x-most" = "365d"), example = "30s")]
    pub ttl: Option<Period>,
    /// The longest that an answer is fresh, whatever the origin says.
    #[schemars(extend("x-most" = "365d"), example = "1h")]
    pub ttl_max: Option<Period>,
    /// Gives every answer that may be kept the `ttl`, whatever lifetime the origin names. What the origin forbids
    /// to share (`private`, `no-store`) stays forbidden.
    pub ignore_origin: bool,
    /// How long an answer that says no (404, 405, 410, 414, 451, 500 to 504) is fresh when the origin says nothing. Absent:
    /// such answers are kept on the origin's word alone.
    #[schemars(extend("x-least" = "1ms", "x-most" = "365d"), example = "5s")]
    pub negative_ttl: Option<Period>,
    /// Whether an answer without a lifetime is fresh for a tenth of the time since its `Last-Modified`, a day at the most
    /// (RFC 9111 §4.2.2). When absent: where the route has no `ttl`. Where both are set, `ttl` is for answers without
    /// `Last-Modified`.
    #[schemars(example = false)]
    pub heuristic: Option<bool>,
    /// Fields that the origin speaks to caches like this one with, the first of them that an answer has: it then stands
    /// in for `Cache-Control` and `Expires` (RFC 9213). Empty: none is read.
    #[schemars(with = "Vec<text::FieldName>")]
    pub targeted: Vec<String>,
    /// For how long past its time an answer may be served while it is fetched anew in the background, where the origin
    /// does not say (RFC 5861 §3). Absent: not at all. Never where the origin forbids stale answers (`must-revalidate`,
    /// `s-maxage`, `no-cache`).
    #[schemars(extend("x-most" = "365d"), example = "60s")]
    pub stale_while_revalidate: Option<Period>,
    /// For how long past its time an answer may be served when the origin fails (no connection, a timeout, 500, 502, 503,
    /// 504), where the origin does not say (RFC 5861 §4). Absent: not at all. Never where the origin forbids it.
    #[schemars(extend("x-most" = "365d"), example = "10m")]
    pub stale_if_error: Option<Period>,
    /// For how long past its time an answer may be served when no connection to the origin can be had, or it ends
    /// without an answer; failures of other kinds aside (RFC 9111 §4.2.4). Never where the origin forbids it.
    #[schemars(extend("x-most" = "365d"))]
    pub stale_if_unreachable: Period,
    /// How long before its time runs out an answer that is asked for is fetched anew, so that nobody waits. Each answer's
    /// moment is drawn at random around it. Answers that are not fresh for longer than this are left alone. Absent: off.
    #[schemars(extend("x-least" = "100ms", "x-most" = "1d"), example = "5s")]
    pub refresh_ahead: Option<Period>,
    /// The methods that are answered from the cache. `HEAD` is answered from what `GET` has stored.
    #[schemars(length(min = 1), example = ["GET", "HEAD"])]
    pub methods: Option<BTreeSet<CacheMethod>>,
    /// Request fields by which answers differ, besides those in the origin's `Vary`. All variants of a URL are purged
    /// together.
    #[schemars(with = "Vec<text::FieldName>", example = ["accept-language"])]
    pub vary: Vec<String>,
    /// What tells two requests apart.
    pub key: CacheKey,
    /// What becomes of answers that set cookies.
    pub set_cookie: CacheSetCookie,
    /// Tags of every answer of the route, to purge it by, besides those in the origin's `Cache-Tag` and `Surrogate-Key`.
    #[schemars(with = "Vec<text::Tag>", example = ["users"])]
    pub tags: Vec<String>,
    /// Largest answer that is kept; that of `[cache]` when absent.
    #[schemars(example = "1MiB")]
    pub max_object: Option<ByteSize>,
    /// Decides, stores and counts as if, but answers every request from the origin: for trying rules on live traffic.
    pub observe: bool,
}

impl Default for CacheTable {
    fn default() -> Self {
        Self {
            ttl: None,
            ttl_max: None,
            ignore_origin: false,
            negative_ttl: None,
            heuristic: None,
            targeted: vec!["CDN-Cache-Control".to_owned()],
            stale_while_revalidate: None,
            stale_if_error: None,
            stale_if_unreachable: Period(Duration::ZERO),
            refresh_ahead: None,
            methods: None,
            vary: Vec::new(),
            key: CacheKey::default(),
            set_cookie: CacheSetCookie::default(),
            tags: Vec::new(),
            max_object: None,
            observe: false,
        }
    }
}

/// A method that can be answered from a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum CacheMethod {
    /// Answers are looked up and stored.
    Get,
    /// Answered from what `GET` has stored; where nothing is, it goes to the origin as it is.
    Head,
}

/// What becomes of answers that set cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheSetCookie {
    /// They are not kept: what one client was given is shown to nobody else.
    #[default]
    Bypass,
    /// They are kept without `Set-Cookie`; the one client whose request fetched gets it.
    Strip,
    /// They are kept as they are where the origin names a lifetime, and everybody gets the same cookie (RFC 9111 §7.3).
    Store,
}

/// What tells two cached requests apart, besides scheme, host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheKey {
    /// The query: `"all"` as it is, `"none"`, or a list of the parameters that count, whatever their order.
    pub query: KeyQuery,
    /// Request fields that count whatever the origin's `Vary` says, and that are told apart before anything is looked up.
    #[schemars(with = "Vec<text::FieldName>", example = ["x-tenant"])]
    pub headers: Vec<String>,
    /// Cookies that count, by name; all others are ignored.
    #[schemars(with = "Vec<text::CookieName>", example = ["currency"])]
    pub cookies: Vec<String>,
    /// Whether what one client is answered is kept from others, by the certificates that they show. When absent, it is where
    /// the route has `client_cert`, or tells the upstream of the certificate by `request_headers`.
    #[schemars(example = true)]
    pub client_cert: Option<bool>,
    /// Whether what one caller is answered is kept for that caller: its provider and all of its claims but `exp`, `iat`, `nbf` and
    /// `jti` count. Without it, what a caller was answered is kept only where the answer says that it is for everybody.
    pub caller: bool,
}

/// How the query counts in the cache key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum KeyQuery {
    /// All of it, or none of it.
    Word(KeyQueryWord),
    /// These parameters alone.
    Only(#[schemars(with = "Vec<text::Parameter>", length(min = 1))] Vec<String>),
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

/// The name of a query parameter, decoded. What other caches write to leave parameters out means the opposite here.
pub(super) fn parameter(text: &str) -> Result<(), String> {
    const ALLOWED: &str = "list the parameters that count; all others are left out";
    if text.starts_with(['!', '-', '^', '~']) {
        return Err(ALLOWED.to_owned());
    }
    if text.contains('*') {
        return Err(format!("names are written out, without `*`; {ALLOWED}"));
    }
    let bare = text.trim_start_matches(['?', '&']).split(['=', '&', '[']).next().unwrap_or_default().trim();
    match bare {
        "" => Err("a parameter has a name, such as `page`".to_owned()),
        bare if bare != text => Err(format!("the name alone: `{bare}`")),
        _ => Ok(()),
    }
}

/// A cookie's name is a token (RFC 6265 §4.1.1), as a method is.
pub(super) fn cookie_name(text: &str) -> Result<(), String> {
    let stem = text.split('=').next().unwrap_or_default().trim();
    match stem {
        "*" => Err("list the cookies that count; for all of them put `cookie` into `vary`".to_owned()),
        stem if http::Method::from_bytes(stem.as_bytes()).is_err() => {
            Err("a cookie's name has letters, digits, `-`, `_` or `.`".to_owned())
        }
        stem if stem != text => Err(format!("the name alone: `{stem}`")),
        _ => Ok(()),
    }
}

/// A tag stands in lists separated by `,` (`Cache-Tag`) and by blanks (`Surrogate-Key`), so it holds neither.
pub(super) fn tag(text: &str) -> Result<(), String> {
    if text.contains(['{', '}']) {
        return Err(
            "a route's tags are fixed words; tags of one answer come with it, in `Cache-Tag`".to_owned()
        );
    }
    if text.contains([',', ' ']) {
        let words: Vec<_> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
        return Err(format!("write a list: `[\"{}\"]`", words.join("\", \"")));
    }
    let fine = !text.is_empty() && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fine { Ok(()) } else { Err("a tag has 1 to 256 letters, digits and signs, without blanks".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_caches_are_answered_with_what_to_write_here() {
        let allowed = "list the parameters that count; all others are left out";
        let rows = [
            (parameter as fn(&str) -> _, "page", Ok(())),
            (parameter, "sort by", Ok(())),
            (parameter, "!utm_source", Err(allowed)),
            (parameter, "-utm_source", Err(allowed)),
            (parameter, "page=2", Err("the name alone: `page`")),
            (parameter, "?page", Err("the name alone: `page`")),
            (parameter, "filter[name]", Err("the name alone: `filter`")),
            (parameter, "", Err("a parameter has a name, such as `page`")),
            (cookie_name, "__Host-cur", Ok(())),
            (cookie_name, "currency=eur", Err("the name alone: `currency`")),
            (cookie_name, "a b", Err("a cookie's name has letters, digits, `-`, `_` or `.`")),
            (tag, "user:7/é", Err("a tag has 1 to 256 letters, digits and signs, without blanks")),
            (tag, "user:7", Ok(())),
            (tag, "users, pages", Err("write a list: `[\"users\", \"pages\"]`")),
            (tag, "", Err("a tag has 1 to 256 letters, digits and signs, without blanks")),
        ];
        for (check, text, wanted) in rows {
            assert_eq!(check(text), wanted.map_err(str::to_owned), "{text}");
        }
    }
}
