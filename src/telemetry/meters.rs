//! Every metric: its name, labels, meaning, and what to do about it. `docs/metrics.md` is printed from this table.
//!
//! Labels come from bounded sets only: names in the configuration, addresses in it, codes in this source. Nothing
//! that a client sends ever becomes a label.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Declares [`Meters`] and its documentation from one table.
macro_rules! meters {
    ($($field:ident: $kind:ident[$($label:literal),*] $name:literal, $meaning:literal, $advice:literal;)*) => {
        /// All metrics of a process.
        ///
        /// Counters, gauges and histograms are handles: take one with `with([label values])` when a plan is
        /// compiled, keep it, and count on it without a lookup.
        pub struct Meters {
            registry: Registry,
            $(#[doc = $meaning] pub $field: meters!(@type $kind[$($label),*]),)*
        }

        impl Meters {
            /// All metrics, registered, at zero.
            #[expect(clippy::new_without_default, reason = "a registry is made once, on purpose")]
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("tidegate");
                $(
                    let $field = <meters!(@type $kind[$($label),*])>::new([$($label),*]);
                    registry.register($name, $meaning, $field.family.clone());
                )*
                Self { registry, $($field),* }
            }

            /// Makes one row of every metric, its labels' names as their values.
            #[cfg(test)]
            pub(crate) fn touch_all(&self) {
                $(self.$field.with([$($label),*]);)*
            }
        }

        /// One row per metric, in the order of a request's way through the gateway.
        pub const TABLE: &[Row] = &[$(
            Row {
                name: concat!("tidegate_", $name, meters!(@suffix $kind)),
                kind: stringify!($kind),
                labels: &[$($label),*],
                meaning: $meaning,
                advice: $advice,
            },
        )*];
    };
    (@count) => { 0 };
    (@count $head:literal $(, $tail:literal)*) => { 1 + meters!(@count $($tail),*) };
    (@type counter[$($label:literal),*]) => { Metric<Counter, { meters!(@count $($label),*) }> };
    (@type gauge[$($label:literal),*]) => { Metric<Gauge, { meters!(@count $($label),*) }> };
    (@type histogram[$($label:literal),*]) => { Metric<Histogram, { meters!(@count $($label),*) }> };
    (@suffix counter) => { "_total" };
    (@suffix gauge) => { "" };
    (@suffix histogram) => { "" };
}

meters! {
    connections: counter["listener"] "connections",
        "Connections accepted, by kind of listener (`https`, `http`)",
        "Compare with requests: many connections per request mean that clients do not keep them alive.";
    connections_open: gauge["listener"] "connections_open",
        "Connections open now",
        "Near `downstream.max_connections`, new clients are turned away: raise it, or add nodes.";
    connections_arriving: gauge[] "connections_arriving",
        "Connections that were accepted and are not served yet: their clients shake hands",
        "Many for long: clients that do not come to an end with it, which `handshake_timeout` bounds. A node that ends lets them finish within `shutdown_grace`.";
    connections_sending: gauge[] "connections_sending",
        "Connections whose clients are waited for to take what they are sent",
        "Slow clients: `min_send_rate` and `send_timeout` bound them. A node that ends waits for them within `shutdown_grace`.";
    connections_refused: counter["reason"] "connections_refused",
        "Connections closed unanswered, by bound (`total`, `per_ip`)",
        "`per_ip` from one address is that client's doing; `total` is yours.";
    proxy_protocol_failures: counter["reason"] "proxy_protocol_failures",
        "Connections closed for their header of the PROXY protocol, by reason (`untrusted`: the peer is not in `trusted_proxies`, `malformed`, `timeout`, `closed`)",
        "`untrusted`: a client found the way around the balancer, or a balancer is not listed; `malformed`: a balancer does not send the header; `closed` rises with its plain TCP checks.";
    handshakes: counter["version", "resumed"] "tls_handshakes",
        "TLS handshakes completed, by version and whether a session was resumed",
        "A small resumed share costs CPU: do clients reach the same node, do they keep tickets?";
    handshake_failures: counter["reason"] "tls_handshake_failures",
        "TLS handshakes that failed, by reason (`timeout`, `closed`, `protocol`, `no_certificate`: none of ours; of the client's `client_certificate_missing`, `_expired`, `_revoked`, `_unlisted`: no current revocation list tells of it, `_invalid`)",
        "`protocol` rises with scanners and with clients older than `tls.min_version`.";
    handshake_seconds: histogram[] "tls_handshake_seconds",
        "Time from accepting a connection to the end of its handshake, in seconds",
        "Rises with the distance to clients and with CPU load.";
    certificate_expiry: gauge["name"] "certificate_expiry_seconds",
        "When a certificate in force expires, as Unix time, by the first name in it (`-` where it has none; of two with one name, what ends first)",
        "Alert where it is less than 14 days after `time()`, or than a quarter of a life that is shorter than eight weeks: renewal has failed.";
    certificate_reloads: counter["result"] "certificate_reloads",
        "Changes of certificate files, by result (`loaded`, `refused`: the certificate before stays in force)",
        "`refused`: the log says which file, and what is wrong with it.";
    certificates_refused: gauge[] "certificates_refused",
        "Certificates whose files are refused as they are now, so that the one before is shown",
        "Alert above 0: the one that is shown will expire.";
    acme_orders: counter["outcome"] "acme_orders",
        "Tries to obtain a certificate, by outcome (`issued`, `refused`: by the authority, `failed`: the authority or the storage could not be reached, or did not do its part)",
        "`refused`: the log says why, most often a host whose DNS does not lead here; it is tried again ever more rarely, as authorities limit tries.";
    acme_missing: gauge[] "acme_certificates_missing",
        "Hosts of `tls.acme` without a certificate to show",
        "Alert where it stays above 0: handshakes for these hosts fail, or show the certificate of another.";
    acme_unstored: gauge[] "acme_certificates_unstored",
        "Hosts of `tls.acme` whose certificate is shown and not stored, because storage did not take it",
        "Above 0: the disk of `storage` is full or broken, or Redis takes no more; a restart would have to ask the authority again.";
    acme_next: gauge["name"] "acme_next_try_seconds",
        "When a certificate is ordered next for a host of `tls.acme`, as Unix time: its renewal, or another try after a failure",
        "With `certificate_expiry_seconds` it says how much time is left; a renewal is due at two thirds of a certificate's life.";
    acme_proofs: counter["challenge"] "acme_proofs",
        "Proofs shown to authorities that asked whether a host is ours, by challenge (`http-01`, `tls-alpn-01`), whichever node of the fleet ordered",
        "At 0 while orders are refused: the authority does not reach this gateway; look at DNS and at what stands before it.";
    head_timeouts: counter["reason"] "request_head_failures",
        "Connections ended for the head of a request that was late or refused (`timeout`, `malformed`)",
        "A steady rate of `timeout` is a slow-header attack being turned away.";
    send_timeouts: counter[] "send_timeouts",
        "Connections, and answers on HTTP/2, ended because their clients took no bytes within `downstream.send_timeout`, or fewer than `downstream.min_send_rate`",
        "A few are phones out of reach. Many at once are an attack by slow reading being turned away.";
    http2_ended: counter["reason"] "http2_connections_ended",
        "HTTP/2 connections ended for what their clients sent (`flood`: too much beside requests, `malformed`: too many requests that are none, `protocol`: frames that HTTP/2 does not allow)",
        "`flood` is an attack being turned away: the log says from whom the first came. `protocol` rises with scanners and with broken clients.";
    in_flight: gauge[] "requests_in_flight",
        "Requests being answered now",
        "Compare with CPU and with the upstreams' own figures.";
    requests: counter["route", "status"] "requests",
        "Requests answered, by route and status",
        "Alert on the 5xx share; `refusals` says which of them the gateway made itself.";
    request_seconds: histogram["route"] "request_seconds",
        "Time from the request head to the last byte of the answer, in seconds",
        "Compare with `upstream_seconds`: the difference is spent here or on the way to the client.";
    refusals: counter["route", "reason"] "refusals",
        "Answers that the gateway made itself, by reason code",
        "[reasons.md](reasons.md) says what each reason means and who can mend it.";
    compressed: counter["route", "coding"] "compressed_answers",
        "Answers that were compressed on their way to the client, by coding (`zstd`, `br`, `gzip`)",
        "Those that their servers have compressed already are not among them.";
    websockets: counter["route"] "websockets",
        "Connections that have changed their protocol, most often to WebSocket",
        "Compare with requests that ask for it: where servers refuse, clients fall back to polling.";
    websockets_open: gauge["route"] "websockets_open",
        "Connections that have changed their protocol and are open now",
        "Each counts as a request in flight, and keeps a gateway that drains for up to `shutdown_grace`.";
    websockets_closed: counter["route", "reason"] "websockets_closed",
        "Connections that had changed their protocol and have ended, by reason (`client`, `server`: closed it or are gone; `idle`: neither said anything for `websocket_idle`)",
        "Many `idle`: have one side send pings more often, or raise `websocket_idle` of the route.";
    auth_tokens: counter["provider", "outcome"] "auth_tokens",
        "Tokens that were shown, by outcome (`remembered`: verified before, `verified`, `unavailable`: no key of the issuer is known, or it does not answer; or what is wrong with them: `too_long`, `form`, `critical`, `algorithm`, `kind`, `issuer`, `audience`, `expired`, `early`, `claims`, `key`: the issuer has no such key, `signature`, `revoked`, `inactive`: the issuer says so)",
        "`expired` and `early` at many callers at once are a clock that is wrong; `key` and `signature` without end are somebody who guesses. `unavailable`: see `auth_key_fetches` and `auth_introspections`.";
    auth_introspections: counter["provider", "result"] "auth_introspections",
        "Questions to an issuer about a token, by result (`answered`, `failed`)",
        "`failed`: the log says why; tokens are refused with 503 meanwhile, unless they are remembered. Many `answered` beside few `remembered` tokens: a longer `cache` spares the issuer.";
    auth_api_keys: counter["provider", "outcome"] "auth_api_keys",
        "API keys that were shown, by outcome (`verified`, `unknown`, `expired`)",
        "`unknown` without end is somebody who guesses, or a client whose key was taken out of the file; `expired` is a client that is to get another.";
    auth_certificates: counter["provider", "outcome"] "auth_certificates",
        "Certificates of clients that were to say who asks, by outcome (`verified`; `unknown`: good, and no rule of the provider is for it)",
        "Many `unknown`: a rule is missing, or the authority signs for others, too.";
    auth_key_fetches: counter["provider", "result"] "auth_key_fetches",
        "Fetches of an issuer's keys, by result (`fetched`, `failed`)",
        "`failed`: the log says why. The keys that are known stay in use.";
    auth_keys_fetched: gauge["provider"] "auth_keys_fetched_seconds",
        "When the keys of an issuer were fetched last, as Unix time; 0 where they were not",
        "Alert where it is older than a few times `jwks.refresh`: the issuer is away, and a key that it withdraws is believed meanwhile.";
    limit_decisions: counter["route", "outcome"] "limit_decisions",
        "Requests counted against a limit (`admitted`, `refused`, of one that observes `would_refuse`, of one that refuses while Redis is away `uncounted`)",
        "A large refused share on a route is an attack, or a limit set too low.";
    limit_leases: counter["route", "outcome"] "limit_leases",
        "How often Redis was asked for more of a rate that nodes share (`granted`, `refused`, `away`)",
        "`away` means that each node enforces its part of the rate meanwhile: see whether Redis is well.";
    limit_nodes: gauge[] "limit_nodes",
        "Nodes that count limits together, as this one sees them",
        "Should be the number of gateways: while Redis is away each enforces a rate over this number.";
    limit_keys: gauge["route"] "limit_keys",
        "Keys, such as addresses, remembered by the limits of a route",
        "Bounded; at the bound, those with the least counted against them are forgotten first.";
    concurrency_decisions: counter["route", "outcome"] "concurrency_decisions",
        "Requests that asked for a seat under `concurrency` of a route (`admitted`, `refused`, of a rule that observes `would_refuse`)",
        "Many `refused`: the route is slower than what is asked of it, or the bound is too low.";
    concurrency_held: gauge["route"] "concurrency_seats",
        "Seats under `concurrency` of a route that are taken: one for each rule that a request under way is counted by",
        "Near the bound for long: see how long the route's answers take.";
    cache_outcomes: counter["route", "outcome"] "cache_requests",
        "Requests on caching routes, by outcome (`hit`, `hit-redis`, `stale`, `revalidated`, `collapsed`, `miss`, `uncacheable`, `bypass`)",
        "The share without `miss`, `uncacheable` and `bypass` is what the cache spares; many `uncacheable` mean that origins forbid what the route asks.";
    cache_hits: counter["route", "tier"] "cache_hits",
        "Fresh answers found, by tier (`memory`, `redis`)",
        "A large share of `redis` long after a start means that `cache.memory` is too small.";
    cache_misses: counter["route", "reason"] "cache_misses",
        "Requests that the origin was needed for, by reason: the word of `Cache-Status` for it (`uri-miss`, `vary-miss`, `stale`, `request`, `partial`, `method`), or of its `detail` where the cache was passed by (`no-store`, `precondition`, `upgrade`, `content` and the like)",
        "`stale`: a longer `ttl` or `stale_while_revalidate` helps; `vary-miss`: answers differ by too much; `uri-miss`: see `cache.key.query`.";
    cache_stale: counter["route", "reason"] "cache_stale",
        "Answers served past their time, by what permits it (`while-revalidate`, `error`, `unreachable`, `client`)",
        "`error` and `unreachable` mean that clients do not see that the origin is failing; look at it.";
    cache_joins: counter["route", "scope"] "cache_joins",
        "Requests that were answered by the fetch of another one (`node`: on this node, `fleet`: on another)",
        "Many at once are a popular answer running out of time: `refresh_ahead` spares the wait.";
    cache_background: counter["route", "reason"] "cache_background_fetches",
        "Fetches that no client waits for, by reason (`stale`, `ahead`, `warm`)",
        "Part of the upstream's load; compare with `cache_misses`.";
    cache_fills: counter["route", "result"] "cache_fills",
        "Answers of the origin that could have been kept, to fetches in the background as well, by result (`stored`, or why not: the word of `detail` in `Cache-Status`, such as `no-store`, `private`, `set-cookie`, `vary`, `too-large`, `no-lifetime`; `broken-off` where a body did not come to its end)",
        "What is not `stored` is asked for again by every request; the word says what to change at the origin or on the route.";
    cache_validations: counter["route", "result"] "cache_validations",
        "Stored answers that the origin was asked about, in the background as well, by result (`holds`: 304, `replaced`: a new answer, `failed`)",
        "Mostly `holds`: a longer lifetime would spare the asking.";
    cache_bytes: gauge[] "cache_memory_bytes",
        "Bytes held by the memory tier, overhead included",
        "At its bound it evicts; raise `cache.memory` while evictions cost hits.";
    cache_filling_bytes: gauge[] "cache_filling_bytes",
        "Bytes of answers that are on their way into the cache, or through it to clients that read slowly",
        "At `cache.memory` answers are passed on and not stored: clients are slow, or bodies large.";
    cache_entries: gauge[] "cache_memory_entries",
        "Answers held by the memory tier",
        "Bytes over entries is the mean size of an answer.";
    cache_evictions: counter[] "cache_memory_evictions",
        "Answers dropped from the memory tier to make room",
        "A rate near that of misses means the working set does not fit.";
    cache_purges: counter["kind", "origin"] "cache_purges",
        "Purges that took effect here, by what they cover (`url`, `tag`, `prefix`, `all`) and who asked (`admin`, `method`, `unsafe`: an unsafe request that succeeded, `event`: one that its service told, `fleet`: another node)",
        "The same on every node, `fleet` on one being another origin elsewhere; many `all` cost the origin dearly.";
    cache_own_writes: counter["event"] "cache_own_writes",
        "Markers of clients that wrote (`cache.read_your_writes`), by what happened (`given`, `shown`, `skipped`: what was stored may be from before the write, `expired`, `refused`: of another fleet, or made up)",
        "`skipped` at most once or twice per `given`: else nodes do not hear of each other's writes. `refused` at a steady rate: nodes without a common Redis, or somebody tries.";
    purge_log_connected: gauge[] "cache_purge_log_connected",
        "1 while purges of other nodes are heard of, 0 while their log cannot be read or there is none",
        "Alert at 0 where `redis` is set: after `cache.blind_max` memory is no longer trusted.";
    purge_log_behind: gauge[] "cache_purge_log_behind_seconds",
        "For how many seconds the log of purges has not been read to its end",
        "Above `cache.blind_max` this node asks the origin for everything.";
    purge_log_lag: histogram[] "cache_purge_lag_seconds",
        "Time from a purge on another node to its effect on this one, in seconds, by the clocks of both",
        "Usually some milliseconds; a constant part is the difference of clocks.";
    purge_log_lost: counter[] "cache_purge_log_lost",
        "Times that the log of purges had been cut before it was read, so that all that was stored earlier is not trusted",
        "Above 0: the node was away for long, or Redis was emptied.";
    cache_feed_up: gauge[] "cache_feed_up",
        "1 while events of `cache.invalidate` are heard, 0 while they are not or there are to be none",
        "Alert at 0 where `cache.invalidate` is set: after `unheard_max` what has tags is validated at each use.";
    cache_feed_events: counter[] "cache_feed_events",
        "Events heard that purged what they led to",
        "The rate of changes at the service; the same on every node.";
    cache_feed_unreadable: counter[] "cache_feed_unreadable",
        "Events heard that led to no tag: malformed, too large, or without the fields that `tags` names",
        "Each counts as missed. Above 0: what is sent there and `cache.invalidate.tags` do not go together.";
    cache_feed_missed: counter[] "cache_feed_missed",
        "Times that events may have been missed, so that all that has tags is validated before it is used again",
        "One at each start and each return of a broker; others say that events were lost on the way.";
    redis_calls: counter["outcome"] "redis_calls",
        "Calls to Redis, by outcome (`ok`, `error`, `timeout`, `open`: not made, as the breaker is open or too many wait)",
        "None of them fails a request. `timeout` at a steady rate: Redis is slow or far, or `redis.timeout` too short.";
    redis_seconds: histogram[] "redis_call_seconds",
        "Time of a call to Redis in seconds, calls that failed included",
        "What a lookup adds to a request that memory could not answer; bounded by `redis.timeout`.";
    redis_breaker: gauge[] "redis_breaker_open",
        "1 while Redis is left alone because it failed, 0 otherwise",
        "Alert when it stays at 1: every node is on its own, and the origin feels it.";
    redis_queue: gauge[] "redis_write_queue",
        "Answers and purges waiting to be written to Redis",
        "Bounded; near its bound, Redis takes less than the origin gives.";
    redis_dropped: counter[] "redis_write_drops",
        "Answers not written to Redis because the queue was full or Redis was away",
        "Each costs a miss on another node at most.";
    redis_unreadable: counter[] "redis_unreadable",
        "Entries found in Redis that could not be read, so that the origin was asked",
        "Above 0 while versions are mixed is expected; otherwise something else writes under `redis.prefix`.";
    upstream_requests: counter["upstream", "server", "outcome"] "upstream_requests",
        "Tries sent to a server, by outcome (`ok`, `error`: connection failures, timeouts, answers that break off, 502, 503, 504)",
        "Compare servers of one upstream: one that stands out is sick.";
    upstream_seconds: histogram["upstream"] "upstream_seconds",
        "Time from choosing a server to the head of its answer, in seconds",
        "The upstream's own latency as clients feel it.";
    upstream_in_flight: gauge["upstream", "server"] "upstream_in_flight",
        "Requests in flight to a server",
        "Uneven under `least_request` means that one server is slower than its peers.";
    upstream_up: gauge["upstream", "server"] "upstream_server_up",
        "1 where a server may be chosen, 0 where a check, an ejection or a drain forbids it",
        "Alert when a server stays at 0 that is not drained; `/upstreams` on the admin listener tells why.";
    upstream_draining: gauge["upstream", "server"] "upstream_server_draining",
        "1 where an operator has a server drained, so that it gets no new requests",
        "Alert when it stays at 1 for longer than maintenance takes: somebody forgot `tidegate drain --undo`.";
    upstream_panics: gauge["upstream"] "upstream_panic_mode",
        "1 while all servers are used whatever their state, as fewer are up than `panic_threshold`",
        "Alert at 1: most of the upstream is down, or its health checks are wrong.";
    upstream_ejections: counter["upstream", "server"] "upstream_ejections",
        "Times that a server was left alone for its failing answers",
        "Repeated ejections of one server: look at its log.";
    upstream_tls_errors: counter["upstream", "server"] "upstream_tls_errors",
        "Connections that failed for want of TLS: of requests and of health checks",
        "The log says why, once for each server; most often a certificate is over, or of another authority.";
    upstream_retries: counter["upstream", "reason"] "upstream_retries",
        "Tries after the first, by what failed before (`connect`, `reset`, `timeout`, `status`)",
        "Bounded by the budget; a steady rate hides a fault that clients do not see yet.";
    upstream_retries_denied: counter["upstream"] "upstream_retries_denied",
        "Retries that the budget forbade",
        "The upstream is failing as a whole: retries would only add load.";
    upstream_breaker: gauge["upstream"] "upstream_breaker_state",
        "How the circuit breaker of an upstream stands: 0 closed (or there is none), 1 half-open, 2 open",
        "Alert at 2: requests are refused with `circuit-open`.";
    upstream_breaker_opened: counter["upstream"] "upstream_breaker_opened",
        "Times that the circuit breaker of an upstream opened",
        "Rising steadily: the upstream recovers and fails again; look for what its servers share.";
    upstream_pending: gauge["upstream"] "upstream_pending",
        "Requests waiting because `limits.max_connections` are in flight",
        "Above 0 for long: the upstream is saturated.";
    config_reloads: counter["outcome"] "config_reloads",
        "Reloads of the configuration, by outcome (`loaded`, `refused`: the one before stays in force)",
        "`refused`: the log has every problem with its place, and so has `tidegate reload`.";
    config_refused: gauge[] "config_refused",
        "1 while what the configuration says now is refused, 0 otherwise",
        "Alert at 1: a restart would fail.";
    config_loaded: gauge[] "config_loaded_timestamp_seconds",
        "When the configuration in force was loaded, as Unix time",
        "Compare nodes: one that lags behind does not see the new files, or refuses them.";
    config_generation: gauge[] "config_generation",
        "How many configurations have been in force, this one included",
        "Rises with each reload; a steady rise without changes is something that rewrites the files.";
    panics: counter[] "panics",
        "Panics caught; each ended one request or background step alone",
        "Always a bug: please report it with the log line.";
    access_log_dropped: counter[] "access_log_dropped",
        "Access lines dropped because the log could not be written fast enough",
        "Above 0: the reader of standard output is too slow.";
}

/// One row of the table of metrics.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The full name, as scraped.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub meaning: &'static str,
    /// What to make of it.
    pub advice: &'static str,
}

/// A metric with `N` labels; with none, itself.
#[derive(Clone, Debug)]
pub struct Metric<M: Instrument, const N: usize> {
    names: [&'static str; N],
    family: Family<Labels<N>, M, fn() -> M>,
}

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

impl<M: Instrument, const N: usize> Metric<M, N> {
    fn new(names: [&'static str; N]) -> Self {
        let metric = Self { names, family: Family::new_with_constructor(M::make) };
        if N == 0 {
            // Shown at zero from the start: an alert on it needs a row that is there before the first bad thing.
            metric.with([""; N]);
        }
        metric
    }

    /// The handle for these label values: cheap to clone and to count on, a lookup to get.
    pub fn with(&self, values: [&str; N]) -> M {
        let labels = std::array::from_fn(|i| (self.names[i], Cow::Owned(values[i].to_owned())));
        self.family.get_or_create_owned(&labels)
    }

    /// Forgets the handle for these label values, so that it is no longer shown.
    pub fn forget(&self, values: [&str; N]) {
        let labels = std::array::from_fn(|i| (self.names[i], Cow::Owned(values[i].to_owned())));
        self.family.remove(&labels);
    }
}

/// What [`Metric`] may hold: counters, gauges, histograms.
pub trait Instrument: Clone + fmt::Debug {
    /// One at zero.
    fn make() -> Self;
}

impl Instrument for Counter {
    fn make() -> Self {
        Self::default()
    }
}

impl Instrument for Gauge {
    fn make() -> Self {
        Self::default()
    }
}

impl Instrument for Histogram {
    /// Buckets from half a millisecond to half a minute: finer where answers should be, coarser where they should not.
    fn make() -> Self {
        Self::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
    }
}

impl Meters {
    /// The metrics as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only if a metric refuses to describe itself, which none of ours does.
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap_or_default();
        text
    }
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_shows_up_with_its_labels() {
        let meters = Meters::new();
        meters.requests.with(["users", "200"]).inc_by(3);
        meters.in_flight.with([]).inc();
        let text = meters.render();
        assert!(text.contains("tidegate_requests_total{route=\"users\",status=\"200\"} 3"), "{text}");
        assert!(text.contains("tidegate_requests_in_flight{} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
