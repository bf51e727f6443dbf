//! Words of other gateways, and of this one's future, and what to write here instead.

use super::hint_words::FOREIGN_WORDS;
use super::text;

/// What a word means that has no meaning here.
pub(super) struct Hint {
    /// Whose word it is; `None` where nobody in particular says so.
    pub message: Option<String>,
    /// What to write; empty where what is known here says enough.
    pub label: String,
}

/// What this key means in this table of the schema, where it is known from somewhere else.
pub(super) fn key(table: &str, key: &str) -> Option<Hint> {
    let fits = |tables: &[&str]| tables.is_empty() || tables.contains(&table);
    if let Some((_, _, label)) = LATER.iter().find(|(tables, words, _)| fits(tables) && words.contains(&key))
    {
        return Some(Hint { message: Some(not_supported(key)), label: (*label).to_owned() });
    }
    let (_, origin, _, here) =
        FOREIGN.iter().find(|(tables, _, words, _)| fits(tables) && words.contains(&key))?;
    Some(Hint { message: origin.says(key), label: here_it_is(here) })
}

/// What this word means where only certain words may stand.
pub(super) fn word(words_of: &str, word: &str) -> Option<Hint> {
    if words_of == "RetryOn" && word.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Hint { message: None, label: "the status of an error is `400` to `599`".to_owned() });
    }
    let (_, origin, _, here) =
        FOREIGN_WORDS.iter().find(|(set, _, words, _)| *set == words_of && words.contains(&word))?;
    Some(Hint { message: origin.says(word), label: here_it_is(here) })
}

fn not_supported(word: &str) -> String {
    format!("`{word}` is not supported in this version")
}

/// A word of ours is introduced; a sentence stands for itself.
fn here_it_is(here: &str) -> String {
    if here.starts_with('`') { format!("here it is {here}") } else { here.to_owned() }
}

/// What was meant by a bare number where this kind of text is asked for.
pub(super) fn reading(kind: &text::Kind, number: &str) -> Option<String> {
    let read = match kind.format {
        "server" | "upstream" => return number.parse::<u16>().ok().map(|port| format!("127.0.0.1:{port}")),
        "redis-url" => return number.parse::<u16>().ok().map(|port| format!("redis://127.0.0.1:{port}")),
        "listen-url" => {
            let scheme = if number.ends_with("443") { "https" } else { "http" };
            return number.parse::<u16>().ok().map(|port| format!("{scheme}://[::]:{port}"));
        }
        "time" => super::meant::time,
        "size" => super::meant::size,
        "rate" => super::meant::rate,
        "share" => super::meant::share,
        _ => return None,
    };
    read(number)
}

/// Whose word it is.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Nginx,
    Traefik,
    Envoy,
    HaProxy,
    Pingap,
    Caddy,
    /// Nobody's in particular.
    Other,
}

impl Origin {
    fn says(self, word: &str) -> Option<String> {
        let name = match self {
            Self::Nginx => "nginx",
            Self::Traefik => "Traefik",
            Self::Envoy => "Envoy",
            Self::HaProxy => "HAProxy",
            Self::Pingap => "Pingap",
            Self::Caddy => "Caddy",
            Self::Other => return None,
        };
        Some(format!("`{word}` is {name} wording"))
    }
}

use Origin::{Caddy, Envoy, HaProxy, Nginx, Other, Pingap, Traefik};

/// Tables in which the word is found (none: any), the words, and what to do without.
type Later = (&'static [&'static str], &'static [&'static str], &'static str);

const LATER: &[Later] = &[
    (
        &["AuthProvider"],
        &["oidc"],
        "leave it out; callers show a token (`jwt`, `introspection`), a key (`api_key`) or a certificate (`client_cert`)",
    ),
    (&["Config"], &["tracing"], "leave it out; `X-Request-Id` and `traceparent` are passed on"),
    (&["Config"], &["tests"], "leave it out"),
    (&["Route"], &["observe"], "leave it out"),
    (&["ConcurrencyTable"], &["priority"], "leave it out"),
    (&["Route"], &["match"], "leave it out; routes differ by `host`, `path` and `methods`"),
];

/// Tables in which the word is found (none: any), whose it is, the words, and what it is here.
type Foreign = (&'static [&'static str], Origin, &'static [&'static str], &'static str);

const UPSTREAM_SIDE: &[&str] = &["Upstream", "Timeouts", "Route", "Config"];

const FOREIGN: &[Foreign] = &[
    // nginx
    (
        &[],
        Nginx,
        &["proxy_read_timeout", "proxy_send_timeout"],
        "`timeouts.first_byte` and `timeouts.idle` on an upstream",
    ),
    (&[], Nginx, &["proxy_connect_timeout"], "`timeouts.connect` on an upstream"),
    (&[], Nginx, &["proxy_pass"], "`upstream` on a route"),
    (&[], Nginx, &["proxy_set_header"], "`request_headers = { set = { … } }` on a route"),
    (&[], Nginx, &["proxy_hide_header"], "`response_headers = { remove = [ … ] }` on a route"),
    (&[], Nginx, &["add_header", "more_set_headers"], "`response_headers = { set = { … } }` on a route"),
    (&[], Nginx, &["proxy_cache", "proxy_cache_valid"], "`cache = \"30s\"` on a route"),
    (&[], Nginx, &["proxy_cache_key"], "`cache.key` on a route"),
    (&[], Nginx, &["proxy_cache_path"], "`memory` in `[cache]`"),
    (
        &[],
        Nginx,
        &["proxy_cache_lock"],
        "leave it out: requests for the same answer always wait for one fetch",
    ),
    (&[], Nginx, &["proxy_next_upstream", "proxy_next_upstream_tries"], "`retries` on an upstream"),
    (
        &[],
        Nginx,
        &["proxy_redirect", "proxy_http_version", "proxy_buffering", "proxy_buffers"],
        "leave it out: not needed here",
    ),
    (&[], Nginx, &["server_name"], "`host` on a route"),
    (
        &["Route", "Upstream"],
        Nginx,
        &["listen"],
        "`listen` at the top of the file, before the first `[table]`",
    ),
    (&[], Nginx, &["limit_req", "limit_req_zone"], "`rate_limit = \"100/s\"` on a route"),
    (
        &["Route"],
        Nginx,
        &["limit_conn", "limit_conn_zone"],
        "`concurrency = { limit = 10, key = \"client_ip\" }` on a route",
    ),
    (&[], Nginx, &["limit_conn", "limit_conn_zone"], "`max_connections_per_ip` in `[downstream]`"),
    (&["Route"], Traefik, &["inFlightReq"], "`concurrency`"),
    (&["Route"], Other, &["max_in_flight", "max_concurrency", "max_concurrent_requests"], "`concurrency`"),
    (&["ConcurrencyTable"], Traefik, &["amount"], "`limit`"),
    (&["ConcurrencyTable"], Other, &["max", "most", "max_in_flight", "requests"], "`limit`"),
    (&[], Nginx, &["ssl_certificate", "ssl_certificate_key"], "`tls.certs = [\"/etc/tls/api.pem\"]`"),
    (&[], Nginx, &["proxy_ssl_name", "proxy_ssl_server_name"], "`tls = { server_name = … }` on an upstream"),
    (&[], Nginx, &["proxy_ssl_trusted_certificate"], "`tls = { ca = … }` on an upstream"),
    (
        &[],
        Nginx,
        &["proxy_ssl_certificate", "proxy_ssl_certificate_key"],
        "`tls = { cert = …, key = … }` on an upstream",
    ),
    (
        &[],
        Nginx,
        &["proxy_ssl_verify"],
        "certificates of servers are verified, unless `tls = { verify = false }` on an upstream",
    ),
    (&[], Nginx, &["ssl_protocols"], "`tls.min_version`"),
    (&[], Nginx, &["client_max_body_size"], "`max_body` on a route or in `[defaults]`"),
    (&[], Nginx, &["client_header_timeout"], "`header_timeout` in `[downstream]`"),
    (&[], Nginx, &["client_body_timeout"], "`body_timeout` in `[downstream]`"),
    (
        &[],
        Nginx,
        &["large_client_header_buffers", "client_header_buffer_size"],
        "`max_header_size` in `[downstream]`",
    ),
    (&[], Nginx, &["send_timeout"], "`send_timeout` in `[downstream]`"),
    (&[], Nginx, &["worker_processes"], "`threads` at the top of the file"),
    (&[], Nginx, &["worker_connections"], "`max_connections` in `[downstream]`"),
    (&[], Nginx, &["worker_shutdown_timeout"], "`shutdown_grace` at the top of the file"),
    (&[], Nginx, &["access_log"], "`log = { access = \"json\" }`"),
    (&[], Nginx, &["error_log"], "`log = { level = \"warn\" }`"),
    (&["Upstream", "Timeouts"], Nginx, &["keepalive_timeout", "keepalive"], "`timeouts.keep_alive`"),
    (
        &[],
        Nginx,
        &["keepalive_timeout"],
        "`idle_timeout` in `[downstream]`, and `timeouts.keep_alive` on an upstream",
    ),
    (
        &[],
        Nginx,
        &["real_ip_header", "set_real_ip_from", "real_ip_recursive"],
        "`trusted_proxies` at the top of the file",
    ),
    (&["Config"], Other, &["http"], "`[routes.NAME]` and `[upstreams.NAME]`"),
    (&["Config"], Nginx, &["location"], "`[routes.NAME]`"),
    (&["Config"], Nginx, &["server"], "`listen`, and `[routes.NAME]` with its `host`"),
    (&["Route"], Nginx, &["location"], "`path = \"/users/*\"`"),
    (&["Route"], Other, &["server", "servers"], "`upstream`"),
    (&["Upstream"], Nginx, &["least_conn"], "`balance = \"least_request\"`"),
    (
        &["Upstream", "ServerTable"],
        Nginx,
        &["max_fails"],
        "`outlier_detection.consecutive_errors` on an upstream",
    ),
    (
        &["Upstream", "ServerTable"],
        Nginx,
        &["fail_timeout"],
        "`outlier_detection.ejection_time` on an upstream",
    ),
    (&["Route"], Nginx, &["return"], "`redirect` or `respond`"),
    (
        &["Route"],
        Nginx,
        &["root", "alias", "try_files", "index"],
        "leave it out: files are served by an upstream",
    ),
    // Traefik
    (&[], Traefik, &["entryPoints", "entrypoints", "entry_points"], "`listen` at the top of the file"),
    (&[], Traefik, &["routers"], "`[routes.NAME]`"),
    (&["Config"], Traefik, &["services"], "`[upstreams.NAME]`"),
    (
        &[],
        Traefik,
        &["middlewares"],
        "here these are keys of a route, or a bundle of them in `[policies.NAME]`",
    ),
    (
        &[],
        Traefik,
        &["loadBalancer", "loadbalancer", "load_balancer"],
        "`servers` and `balance` in `[upstreams.NAME]`",
    ),
    (&[], Traefik, &["certResolver", "certificatesResolvers"], "`tls.acme`"),
    (&["Config"], Traefik, &["certificates"], "`tls.certs`"),
    (&[], Traefik, &["providers", "serversTransports"], "leave it out: this file is the whole configuration"),
    (&["Route"], Traefik, &["rule", "rules"], "`host`, `path` and `methods`"),
    (&["Route"], Traefik, &["service"], "`upstream`"),
    (&["Route"], Traefik, &["priority"], "leave it out: the most specific host and path win"),
    (&["Route"], Traefik, &["stripPrefix"], "`strip_prefix`"),
    (&["Route", "RateLimitTable"], Traefik, &["rateLimit", "average"], "`rate_limit = \"100/s\"`"),
    (&["Upstream"], Traefik, &["healthCheck", "health_check", "healthcheck"], "`health = \"/healthz\"`"),
    (&["Route"], Traefik, &["headers"], "`request_headers` and `response_headers`"),
    (&["Upstream"], Traefik, &["passHostHeader"], "`upstream_host` on a route"),
    (&["ServerTable"], Traefik, &["url", "host", "addr"], "`address`"),
    (&["Config"], Traefik, &["accessLog"], "`log = { access = \"json\" }`"),
    (&["Config"], Traefik, &["metrics", "ping", "api"], "`admin = \"127.0.0.1:9000\"`"),
    // Pingap
    (&["Config"], Pingap, &["basic"], "here these are keys at the top of the file and in `[downstream]`"),
    (&["Config"], Pingap, &["locations"], "`[routes.NAME]`"),
    (
        &["Config"],
        Pingap,
        &["plugins"],
        "here these are keys of a route, or a bundle of them in `[policies.NAME]`",
    ),
    (
        &["Route"],
        Pingap,
        &["plugins"],
        "here these are keys of the route itself, such as `rate_limit` and `cache`",
    ),
    (&["Config"], Pingap, &["storages"], "leave it out: this file is the whole configuration"),
    (&["Route"], Pingap, &["proxy_set_headers"], "`request_headers = { set = { … } }`"),
    (&["Route"], Pingap, &["proxy_add_headers"], "`request_headers = { add = { … } }`"),
    (&["Upstream"], Pingap, &["addrs", "addr"], "`servers`"),
    (&["Config"], Pingap, &["addr"], "`listen`"),
    (&["Upstream"], Pingap, &["algo"], "`balance`"),
    (&["Upstream"], Pingap, &["connection_timeout"], "`timeouts.connect`"),
    (&["Upstream"], Pingap, &["read_timeout", "write_timeout"], "`timeouts.idle`"),
    (&["Upstream"], Pingap, &["total_connection_timeout"], "`timeouts.connect`"),
    (
        &["Upstream"],
        Pingap,
        &["verify_cert", "sni", "alpn"],
        "leave it out: servers are spoken to in plain HTTP",
    ),
    // Envoy
    (
        &["Config"],
        Envoy,
        &["static_resources"],
        "here these are `listen`, `[routes.NAME]` and `[upstreams.NAME]`",
    ),
    (&["Config"], Envoy, &["listeners"], "`listen`"),
    (&["Config"], Envoy, &["clusters", "cluster"], "`[upstreams.NAME]`"),
    (&["Route"], Envoy, &["cluster"], "`upstream`"),
    (&["Route"], Envoy, &["weighted_clusters"], "`upstream = { web = 95, web-next = 5 }`"),
    (&[], Envoy, &["virtual_hosts", "route_config", "filter_chains"], "`[routes.NAME]`"),
    (&["Route"], Envoy, &["domains"], "`host`"),
    (&["Route"], Envoy, &["prefix"], "`path = \"/users/*\"`"),
    (&["Route"], Envoy, &["prefix_rewrite"], "`strip_prefix`, or `rewrite`"),
    (&["Route"], Envoy, &["regex_rewrite"], "`rewrite = { from = \"…\", to = \"…\" }`"),
    (&["Route"], Envoy, &["retry_policy"], "`retries` on an upstream"),
    (&["Upstream"], Envoy, &["lb_policy"], "`balance`"),
    (UPSTREAM_SIDE, Envoy, &["connect_timeout"], "`timeouts.connect` on an upstream"),
    (&["Upstream"], Envoy, &["load_assignment", "endpoints", "lb_endpoints"], "`servers`"),
    (&["Upstream"], Envoy, &["health_checks"], "`health`"),
    (&["Upstream"], Envoy, &["circuit_breakers"], "`limits`"),
    (&["Upstream", "Limits"], Envoy, &["max_requests"], "`limits.max_connections`: requests in flight"),
    (&["Upstream", "Limits"], Envoy, &["max_pending_requests"], "`limits.max_pending`"),
    (&["Limits", "Upstream"], Envoy, &["max_retries"], "`retries.budget`"),
    (&["Retries"], Envoy, &["num_retries"], "`attempts`, with the first try counted"),
    (&["Retries"], Envoy, &["retry_on"], "`on`"),
    (&["Retries"], Envoy, &["per_try_timeout"], "`timeouts.first_byte` on the upstream"),
    (&["Backoff"], Envoy, &["base_interval"], "`base`"),
    (&["Backoff"], Envoy, &["max_interval"], "`max`"),
    (&["OutlierTable"], Envoy, &["consecutive_5xx", "consecutive_gateway_failure"], "`consecutive_errors`"),
    (&["OutlierTable"], Envoy, &["base_ejection_time"], "`ejection_time`"),
    (&["OutlierTable"], Envoy, &["max_ejection_percent"], "`max_ejected`"),
    // HAProxy
    (&["Config"], HaProxy, &["frontend", "frontends"], "`listen` and `[routes.NAME]`"),
    (&["Config"], HaProxy, &["backend", "backends"], "`[upstreams.NAME]`"),
    (&["Config"], HaProxy, &["bind"], "`listen`"),
    (&["Config"], HaProxy, &["global"], "here these are keys at the top of the file"),
    (&["Route"], HaProxy, &["backend", "backends", "use_backend", "default_backend"], "`upstream`"),
    (&["Route"], HaProxy, &["acl"], "`host`, `path` and `methods`"),
    (&["Upstream"], HaProxy, &["backends"], "`servers`"),
    (&["HealthTable"], HaProxy, &["rise"], "`healthy_threshold`"),
    (&["HealthTable"], HaProxy, &["fall"], "`unhealthy_threshold`"),
    (&["HealthTable"], HaProxy, &["inter"], "`interval`"),
    (&["Upstream"], HaProxy, &["rise"], "`health.healthy_threshold`"),
    (&["Upstream"], HaProxy, &["fall"], "`health.unhealthy_threshold`"),
    (&["Upstream"], HaProxy, &["check", "option"], "`health = \"/healthz\"`"),
    (
        &["Upstream", "ServerTable", "Limits"],
        HaProxy,
        &["maxconn"],
        "`limits.max_connections` on an upstream",
    ),
    (&["Config", "Downstream"], HaProxy, &["maxconn"], "`max_connections` in `[downstream]`"),
    (&["Config"], HaProxy, &["nbthread"], "`threads`"),
    (&["Timeouts"], HaProxy, &["server"], "`timeouts.first_byte` and `timeouts.idle`"),
    // Caddy
    (&["Config", "Route"], Caddy, &["reverse_proxy"], "`upstream` on a route"),
    (&["Route"], Caddy, &["handle", "handle_path"], "`path`"),
    (&["Route"], Caddy, &["uri"], "`strip_prefix` or `rewrite`"),
    (&["Route"], Caddy, &["redir"], "`redirect`"),
    (&["Upstream"], Caddy, &["lb_try_duration"], "`retries`"),
    (&["Upstream"], Caddy, &["health_uri"], "`health = \"/healthz\"`"),
    // Near words
    (&["Config"], Other, &["services", "origins"], "`[upstreams.NAME]`"),
    (&["Config"], Other, &["servers"], "`servers` in `[upstreams.NAME]`, and `listen` for our own addresses"),
    (&["Config"], Other, &["port", "ports", "address", "bind_address"], "`listen = [\"https://[::]:443\"]`"),
    (&["Config"], Other, &["logging", "logs"], "`log`"),
    (&["Config"], Other, &["log_level"], "`log.level`"),
    (&["Config"], Other, &["workers"], "`threads`"),
    (&["Config"], Other, &["certs", "cert", "certificate", "ssl", "https"], "`tls.certs`"),
    (&["Config"], Other, &["includes", "import", "imports"], "`include`"),
    (&["Config"], Other, &["grace_period", "shutdown_timeout", "graceful_timeout"], "`shutdown_grace`"),
    (
        &["Tls"],
        Other,
        &["cert", "certificate", "cert_file", "key", "key_file", "private_key"],
        "`certs = [{ cert = \"…\", key = \"…\" }]`",
    ),
    (&["Tls"], Other, &["version", "versions", "protocols", "minVersion"], "`min_version`"),
    (&["AddressRules"], Other, &["file"], "`allow_file` and `deny_file`"),
    (&["Route"], Other, &["hosts", "hostname", "domain"], "`host`"),
    (&["Route"], Other, &["paths", "path_prefix", "url"], "`path`"),
    (&["Route"], Other, &["method"], "`methods = [\"GET\"]`"),
    (&["Route"], Other, &["upstreams", "target", "targets", "origin", "proxy", "to"], "`upstream`"),
    (&["Route"], Other, &["policies", "policy", "extends"], "`use`"),
    (&["Route"], Other, &["ratelimit", "throttle", "limit", "limits"], "`rate_limit`"),
    (&["Route"], Other, &["body_limit", "max_body_size"], "`max_body`"),
    (&["Route"], Other, &["timeout"], "`timeouts = { total = \"30s\" }`"),
    (&["Route"], Other, &["response", "static"], "`respond`"),
    (&["Upstream"], Other, &["targets", "hosts", "nodes", "addresses", "members"], "`servers`"),
    (&["Upstream"], Other, &["lb", "load_balancing", "strategy", "algorithm"], "`balance`"),
    (&["Upstream"], Other, &["timeout"], "`timeouts = { total = \"30s\" }`"),
    (&["Upstream"], Other, &["retry"], "`retries`"),
    (&["Upstream"], HaProxy, &["send-proxy"], "`proxy_protocol = \"v1\"`"),
    (&["Upstream"], HaProxy, &["send-proxy-v2"], "`proxy_protocol = \"v2\"`"),
    (&["Upstream"], Other, &["ssl", "https", "scheme"], "`tls = true`"),
    (&["UpstreamTlsTable"], Traefik, &["serverName"], "`server_name`"),
    (&["UpstreamTlsTable"], Traefik, &["rootCAs"], "`ca`"),
    (&["UpstreamTlsTable"], Traefik, &["insecureSkipVerify"], "`verify = false`"),
    (&["UpstreamTlsTable"], Envoy, &["sni"], "`server_name`"),
    (&["UpstreamTlsTable"], Envoy, &["trusted_ca"], "`ca`"),
    (&["UpstreamTlsTable"], Other, &["sni_name", "host", "hostname", "name"], "`server_name`"),
    (&["UpstreamTlsTable"], Other, &["ca_file", "ca_cert", "cafile", "roots"], "`ca`"),
    (&["UpstreamTlsTable"], Other, &["certificate", "client_cert", "cert_file"], "`cert`"),
    (&["UpstreamTlsTable"], Other, &["private_key", "client_key", "key_file"], "`key`"),
    (&["UpstreamTlsTable"], Other, &["insecure", "skip_verify", "insecure_skip_verify"], "`verify = false`"),
    (
        &["RedisTable"],
        Other,
        &["host", "hosts", "address", "addresses", "nodes", "port"],
        "`url = \"redis://HOST:PORT\"`",
    ),
    (
        &["RedisTable"],
        Other,
        &["sentinels", "sentinel", "master_name"],
        "`url = \"redis+sentinel://HOST,HOST/SERVICE\"`",
    ),
    (&["RedisTable"], Other, &["cluster"], "`url = \"redis+cluster://HOST,HOST\"`"),
    (&["RedisTable"], Other, &["db", "database"], "part of the URL here: `redis://HOST:PORT/1`"),
    (&["RedisTable"], Other, &["tls", "ssl"], "`url = \"rediss://HOST:PORT\"`"),
    (&["RedisTable"], Other, &["env", "file"], "`url = { env = \"REDIS_URL\" }`"),
    (&["RedisTable"], Other, &["user"], "`username`"),
    (&["RedisTable"], Other, &["key_prefix", "namespace"], "`prefix`"),
    (&["CacheTable"], Nginx, &["proxy_cache_use_stale"], "`stale_if_error` and `stale_while_revalidate`"),
    (&["CacheTable"], Other, &["grace", "swr", "background_update"], "`stale_while_revalidate`"),
    (&["CacheTable"], Other, &["keep", "sie", "use_stale"], "`stale_if_error`"),
    (&["CacheTable"], Other, &["negative", "error_ttl"], "`negative_ttl`"),
    (&["CacheTable"], Other, &["prefetch", "refresh", "early_refresh"], "`refresh_ahead`"),
    (
        &["CacheTable"],
        Other,
        &["cookies"],
        "`key = { cookies = [ … ] }`, and `set_cookie` for those of answers",
    ),
    (&["CacheTable"], Other, &["headers"], "`vary = [ … ]`, or `key = { headers = [ … ] }`"),
    (&["CacheTable"], Other, &["dry_run", "shadow"], "`observe = true`"),
    (&["CacheTable"], Other, &["max_age", "age", "expires", "duration", "default_ttl"], "`ttl`"),
    (&["CacheTable"], Other, &["max_ttl"], "`ttl_max`"),
    (&["CacheTable"], Other, &["max_size", "max_object_size"], "`max_object`"),
    (&["CacheTable"], Other, &["enabled", "enable"], "write `cache = false` to switch it off"),
    (&["CacheTable"], Other, &["query"], "`key = { query = [ … ] }`"),
    (&["CacheStore"], Other, &["size", "max_size", "max_memory", "memory_size"], "`memory`"),
    (&["CacheStore"], Other, &["ttl", "default_ttl"], "`cache = \"30s\"` on a route or in `[defaults]`"),
    (&["CacheKey"], Other, &["params", "query_params", "parameters"], "`query = [ … ]`"),
    (&["HealthTable"], Other, &["uri", "url", "endpoint"], "`path`"),
    (&["HealthTable"], Other, &["enabled", "enable"], "write `health = false` to switch it off"),
    (&["HealthTable"], Other, &["successes", "success_threshold", "healthy"], "`healthy_threshold`"),
    (&["HealthTable"], Other, &["failures", "failure_threshold", "unhealthy"], "`unhealthy_threshold`"),
    (&["OutlierTable"], Other, &["enabled", "enable"], "write `outlier_detection = false` to switch it off"),
    (&["RateLimitTable"], Other, &["limit", "requests", "requests_per_second", "rps"], "`rate = \"100/s\"`"),
    (
        &["RateLimitTable"],
        Other,
        &["period", "window", "per", "interval"],
        "part of the rate here: `rate = \"100/s\"`",
    ),
    (&["RateLimitTable"], Other, &["by", "per_client"], "`key = \"client_ip\"`"),
    (&["Redirect"], Other, &["url", "target", "location"], "`to`"),
    (&["Redirect"], Other, &["code", "status_code"], "`status`"),
    (&["Respond"], Other, &["code", "status_code"], "`status`"),
    (&["Respond"], Other, &["text", "content", "message"], "`body`"),
    (&["Rewrite"], Other, &["pattern", "regex", "match"], "`from`"),
    (&["Rewrite"], Other, &["replacement", "replace", "target"], "`to`"),
    (&["HeaderRules"], Other, &["delete", "del", "unset", "hide"], "`remove`"),
    (&["HeaderRules"], Other, &["append"], "`add`"),
    (&["HeaderRules"], Other, &["replace", "override"], "`set`"),
    (
        &["Retries"],
        Other,
        &["count", "max", "tries", "retries", "max_attempts"],
        "`attempts`, with the first try counted",
    ),
    (&["Timeouts"], Other, &["read", "write", "send"], "`idle`"),
    (&["Timeouts"], Other, &["request", "response", "overall"], "`total`, or `first_byte`"),
    (&["Timeouts"], Other, &["ttfb", "header", "headers", "response_header"], "`first_byte`"),
    (&["Timeouts"], Other, &["keepalive"], "`keep_alive`"),
    (&["Limits"], Other, &["max_queue", "queue", "queue_size"], "`max_pending`"),
    (&["Limits"], Other, &["max_in_flight", "max_concurrency", "concurrency"], "`max_connections`"),
    (&["Log"], Other, &["format"], "`access = \"json\"`"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::schema;
    use super::*;

    /// Every table of the schema with its keys.
    fn tables() -> Vec<(String, BTreeSet<String>)> {
        let mut open = vec![schema::root()];
        let mut tables = Vec::new();
        while let Some(shape) = open.pop() {
            tables.push((shape.name.to_owned(), shape.keys().map(|(key, _)| key.to_owned()).collect()));
            let inner =
                shape.keys().map(|(_, inner)| inner).chain(shape.named_entries()).chain(shape.items());
            open.extend(inner.flat_map(|inner| inner.branches()));
        }
        tables
    }

    #[test]
    fn no_hint_is_about_a_key_that_exists() {
        for (table, keys) in tables() {
            let here = |tables: &[&str]| tables.contains(&table.as_str());
            let foreign = FOREIGN.iter().filter(|hint| here(hint.0)).flat_map(|hint| hint.2);
            let later = LATER.iter().filter(|hint| here(hint.0)).flat_map(|hint| hint.1);
            for word in foreign.chain(later) {
                assert!(!keys.contains(*word), "{table}.{word}");
            }
        }
    }

    #[test]
    fn every_hint_names_a_table_of_the_schema() {
        let known: BTreeSet<String> = tables().into_iter().map(|(name, _)| name).collect();
        let named = FOREIGN.iter().map(|hint| hint.0).chain(LATER.iter().map(|hint| hint.0));
        for table in named.flatten() {
            assert!(known.contains(*table), "{table}");
        }
    }

    #[test]
    fn a_word_is_explained_by_its_origin() {
        let hint = key("Route", "proxy_pass").unwrap();
        assert_eq!(hint.message.as_deref(), Some("`proxy_pass` is nginx wording"));
        assert_eq!(hint.label, "here it is `upstream` on a route");
        let hint = key("Config", "tracing").unwrap();
        assert_eq!(hint.message.as_deref(), Some("`tracing` is not supported in this version"));
    }
}
