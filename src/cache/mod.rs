//! Remembering answers: a shared cache after RFC 9111, in memory.
//!
//! [`policy`] decides, as pure functions of header fields. [`Tiers`] stores. [`Asking`] is one request's dealings with
//! both; the gateway keeps it in the exchange and hands it to Pingora's hooks, one line each:
//!
//! | hook | line |
//! |---|---|
//! | `request_cache_filter` | `exchange.asking = Some(Asking::enable(session, &rules, tiers, &target))` |
//! | `cache_key_callback` | `asking.key()` |
//! | `cache_hit_filter` | `Ok(asking.hit(session, meta, reader, is_fresh))` |
//! | `cache_miss` | `asking.miss(session)`: instead of Pingora's own, which stores whatever is asked for |
//! | `proxy_upstream_filter` | 504 if `asking.must_not_forward()` |
//! | `upstream_request_filter` | `asking.sending()` |
//! | `upstream_response_filter` | take off fields of the connection, then `asking.answered(answer)` |
//! | `response_cache_filter` | `Ok(asking.keep(session, answer))` |
//! | `cache_vary_filter` | `asking.variance(meta, request)` |
//! | `range_header_filter` | `cache::range(session, answer)` |
//! | `should_serve_stale` | `false`: nothing is served stale but what the client permits |
//! | `response_filter` | `asking.finish(&session.cache, answer)`, last |
//! | `fail_to_proxy`, refusals | `asking.member(&session.cache).value()` as `Cache-Status` |
//! | `logging` | `asking.outcome(&session.cache)` to the metric |
//!
//! Where a route does not cache there is no `Asking`, and none of these lines runs. `cache_key_callback` is called only
//! where `enable` has switched the cache on.
//!
//! After an unsafe request that succeeded ([`policy::invalidates`]), the gateway purges what [`invalidate::places`]
//! names, before the answer goes out (`upstream_response_filter`), with the rules of the route that a GET for each
//! place takes: `tiers.purge(&key::of(&rules.query, &place))`.
//!
//! # What Pingora does, and what is done about it
//!
//! - On a miss the client is sent the *stored* header, through the store: what [`Asking::keep`] strips is missing from
//!   the first answer as well. It strips fields of the connection only, and what a 304 sets for one client
//!   [`Asking::finish`] puts back.
//! - A request with the cache on goes upstream without `Range` and `If-*`, and HEAD goes as GET. For one client's part
//!   the origin would send the whole, again and again if that is too large to store. Hence HEAD and ranges are served
//!   from what is stored, and where nothing is, they go to the origin as they are ([`Asking::miss`]). Once something
//!   is stored and stale, they validate it like any other.
//! - `If-Match` and `If-Unmodified-Since` would be lost the same way: such requests pass the cache by.
//! - With a store that can be read while it is written, the lock is released when the head of an answer is stored. Those
//!   who waited look it up again and follow the fill. Where the answer is not stored, all go to the origin at once, and
//!   the URL is marked so that its next requests neither wait nor lose their conditions (`marks::Unstored`).
//! - The client whose request fetches is written to by the task that fetches. Over HTTP/1.1 Pingora can do both at once
//!   (`set_proxy_tasks_enabled`), which the gateway asks for where the length says that the answer will be stored. Over
//!   HTTP/2 it cannot: a client that takes nothing holds up its fetch, and those who follow, for up to `send_timeout` at
//!   a time. Nobody new follows a fetch that is held up (`fill`).
//! - Ranges are not looked at closely by Pingora: [`range()`] sorts out those that it would get wrong.
//! - `Date` is set anew on every answer, stored ones included. `Age` says how old they are.
//! - `set_max_file_size_bytes` breaks off answers without `Content-Length` that turn out too large. It is not used: the
//!   fill stops storing, and goes on sending (`fill`).
//! - A 304 renews five fields only. [`Asking::answered`] keeps it, so that [`Asking::keep`] renews all.
//! - Whoever waits for a validation looks at its result again, in `cache_hit_filter`: a request for `no-cache` takes it
//!   if it was asked for after the request had arrived. Answers that are never fresh are validated by each request
//!   alone, without the lock, as waiting would gain nothing.
//! - `Age` and freshness come from `CacheMeta`: its epoch is set back by the age that the answer came with.
//! - Phases: `Hit`; `Miss` and `Expired` while the answer is being stored; `Revalidated` after a 304;
//!   `RevalidatedNoCache` after one that is not stored any more; `Disabled` where the request passed, the answer is not
//!   stored, or something failed. Waiting shows in `lock_duration`.

use std::time::Duration;

use http::HeaderName;

mod asking;
pub mod directives;
mod fill;
pub mod freshness;
pub mod invalidate;
pub mod key;
mod marks;
mod memory;
mod merge;
pub mod policy;
mod range;
pub mod status;
mod tiers;
pub mod vary;

pub use asking::Asking;
pub use range::range;
pub use tiers::{PATIENCE, Tiers};

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
