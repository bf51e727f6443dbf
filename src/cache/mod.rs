//! Remembering answers: a shared cache after RFC 9111, in memory and, for the fleet, in Redis.
//!
//! | file | what it knows |
//! |---|---|
//! | `policy`, `reuse`, with `directives`, `targeted`, `freshness`, `dates` | what may be stored, for how long, and when it may be used: pure functions of header fields |
//! | `vary`, `conditional`, `range`, `parts`, `merge`, `tags`, `invalidate` | variants, validation, parts, what a 304 renews, tags, what a write outdates: likewise |
//! | `key` | what makes two requests the same |
//! | `stored` | what is kept of an answer and of a URL |
//! | `memory`, with `eviction`, `weight`, `seeded` | the first tier, who goes from it, and what answers weigh |
//! | `redis`, with `entry`, `wire` | the second tier, and the form in which it keeps an answer |
//! | `purge`, `purges`, `ledger` | a purge, and the order of all of them |
//! | `bus`, `fleet`, `placed` | how nodes share that order, and a node's part in it |
//! | `writes`, `marker`, `said` | the order of writes, what a client carries of it, and what events say of what is newer |
//! | `hearing` | whether changes at the origin are heard of, and what is trusted while they are not |
//! | `marks` | which URLs have answers that are not stored |
//! | `flight`, `copy`, `held` | answers on their way, everybody who follows them, and what they hold |
//! | `tiers` | all of that as one store |
//! | `asking`, `heeded`, `status` | one request's dealings with it, and what `Cache-Status` says of them |
//!
//! Nothing here talks to an origin or a client: the gateway does, in `gateway/serve.rs`, `fetch.rs`, `settle.rs` and
//! `deliver.rs`.

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, Method};

pub mod asking;
pub mod bus;
pub mod conditional;
pub mod copy;
mod dates;
pub mod directives;
pub mod entry;
mod eviction;
pub mod fleet;
pub mod flight;
pub mod forms;
pub mod freshness;
mod hearing;
mod heeded;
pub mod held;
pub mod invalidate;
pub mod key;
mod ledger;
pub mod marker;
mod marks;
mod memory;
pub mod merge;
pub mod parts;
mod placed;
pub mod policy;
mod purge;
mod purges;
pub mod range;
pub mod redis;
pub mod reuse;
pub mod said;
mod seeded;
pub mod status;
pub mod stored;
pub mod tags;
mod targeted;
mod tiers;
mod untold;
pub mod vary;
mod weight;
mod wire;
pub mod writes;

pub use asking::{Asking, Pass, Went};
pub use hearing::Hearing;
pub use heeded::Heeded;
pub use memory::Memory;
pub use purge::{Purge, Target, Unreadable};
pub use purges::{Covered, Purges};
pub use tiers::Tiers;
pub use weight::compact;
pub use writes::Writes;

/// How a route caches.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Rules {
    /// How long an answer is fresh when the origin says nothing. `None`: such answers are not stored.
    pub ttl: Option<Duration>,
    /// The longest that an answer is fresh, whatever the origin says. `None`: no bound.
    pub ttl_max: Option<Duration>,
    /// Whether `ttl` takes the place of whatever lifetime the origin names. `private` and `no-store` still hold.
    pub ignore_origin: bool,
    /// How long an answer that says no (404, 405, 410, 414, 451, 500 to 504) is fresh when the origin says nothing. `None`: such
    /// answers are stored on the origin's word alone.
    pub negative_ttl: Option<Duration>,
    /// Whether `Last-Modified` gives a lifetime where the origin names none (RFC 9111 §4.2.2). `None`: where `ttl` is
    /// `None`.
    pub heuristic: Option<bool>,
    /// Targeted fields (RFC 9213), the first of them that an answer has counting. Empty: none is read.
    pub targeted: Vec<HeaderName>,
    /// For how long past its time an answer is served while it is refreshed, where the origin does not say (RFC 5861 §3).
    pub stale_while_revalidate: Option<Duration>,
    /// For how long past its time an answer is served when the origin fails, where the origin does not say (RFC 5861 §4).
    pub stale_if_error: Option<Duration>,
    /// For how long past its time an answer is served when no connection can be had (RFC 9111 §4.2.4).
    pub stale_if_unreachable: Duration,
    /// How long before its end of freshness an answer in use is refreshed. `None`: not at all.
    pub refresh_ahead: Option<Duration>,
    /// The methods that use the cache.
    pub methods: Methods,
    /// Request fields by which answers differ, besides those in the origin's `Vary`.
    pub vary: Vec<HeaderName>,
    /// How the query counts in the key.
    pub query: QueryRule,
    /// Request fields that count in the key; sorted, each once.
    pub key_headers: Vec<HeaderName>,
    /// Cookies that count in the key, by name; sorted, each once.
    pub key_cookies: Vec<String>,
    /// Whether the client's certificate counts in the key. `None`: not.
    pub key_client: Option<bool>,
    /// Whether the caller counts in the key.
    pub key_caller: bool,
    /// What becomes of answers that set cookies.
    pub set_cookie: SetCookie,
    /// Tags of every answer, besides those that the origin gives it; sorted, each once.
    pub tags: Vec<String>,
    /// The largest body that is stored, in bytes.
    pub max_object: u64,
    /// Whether everything is decided, stored and counted, but each request answered by the origin.
    pub observe: bool,
    /// Whether clients are shown what they wrote: what a server says of that (`Last-Seen`) is then not stored.
    pub own_writes: bool,
}

impl Default for Rules {
    /// The origin's word alone, `CDN-Cache-Control` included; the whole query; bodies up to 4 MiB.
    fn default() -> Self {
        Self {
            ttl: None,
            ttl_max: None,
            ignore_origin: false,
            negative_ttl: None,
            heuristic: None,
            targeted: vec![HeaderName::from_static("cdn-cache-control")],
            stale_while_revalidate: None,
            stale_if_error: None,
            stale_if_unreachable: Duration::ZERO,
            refresh_ahead: None,
            methods: Methods::default(),
            vary: Vec::new(),
            query: QueryRule::All,
            key_headers: Vec::new(),
            key_cookies: Vec::new(),
            key_client: None,
            key_caller: false,
            set_cookie: SetCookie::default(),
            tags: Vec::new(),
            max_object: 4 << 20,
            observe: false,
            own_writes: false,
        }
    }
}

impl Rules {
    /// Whether a lifetime is guessed where nobody names one.
    pub fn guesses(&self) -> bool {
        self.heuristic.unwrap_or(self.ttl.is_none())
    }

    /// Whether fields of the request are part of the key, so that one URL has many.
    pub fn keys_by_request(&self) -> bool {
        !self.key_headers.is_empty()
            || !self.key_cookies.is_empty()
            || self.key_client == Some(true)
            || self.key_caller
    }

    /// Whether callers are told apart, by the key or by the variants: what is stored may be for one of them.
    pub fn tells_callers_apart(&self) -> bool {
        self.key_caller
            || self.key_client == Some(true)
            || self.tells_cookies_apart()
            || self.vary.contains(&AUTHORIZATION)
            || self.key_headers.contains(&AUTHORIZATION)
    }

    /// Whether cookies are told apart, by the key or by the variants.
    pub fn tells_cookies_apart(&self) -> bool {
        !self.key_cookies.is_empty() || self.vary.contains(&COOKIE) || self.key_headers.contains(&COOKIE)
    }
}

/// The methods that use the cache; all others pass it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// Whether GET does.
    pub get: bool,
    /// Whether HEAD does.
    pub head: bool,
}

impl Default for Methods {
    /// Both.
    fn default() -> Self {
        Self { get: true, head: true }
    }
}

impl Methods {
    /// Whether this method is answered from the cache.
    pub fn has(self, method: &Method) -> bool {
        (self.get && *method == Method::GET) || (self.head && *method == Method::HEAD)
    }
}

/// What becomes of answers that set cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetCookie {
    /// They are not stored.
    #[default]
    Bypass,
    /// They are stored without `Set-Cookie`.
    Strip,
    /// They are stored as they are where the origin names a lifetime (RFC 9111 §7.3).
    Store,
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
