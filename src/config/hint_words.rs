//! Words of other gateways, and of this one's future, where only certain words may stand.

use super::hints::Origin::{self, Envoy, HaProxy, Nginx, Other, Traefik};

/// Sets of words, and those of them that a later version brings.
pub(super) const LATER_WORDS: &[(&str, &[&str])] = &[("LimitKey", &["jwt:sub", "jwt:tenant", "caller"])];

pub(super) type ForeignWord = (&'static str, Origin, &'static [&'static str], &'static str);

/// Sets of words, whose words they are, and what they are here.
pub(super) const FOREIGN_WORDS: &[ForeignWord] = &[
    ("Algorithm", Nginx, &["least_conn"], "`least_request`"),
    ("Algorithm", HaProxy, &["leastconn", "first"], "`least_request`"),
    ("Algorithm", Envoy, &["LEAST_REQUEST", "p2c", "least_loaded"], "`least_request`"),
    (
        "Algorithm",
        Traefik,
        &["wrr", "weighted", "weighted_round_robin"],
        "`round_robin`, which heeds weights",
    ),
    ("Algorithm", Envoy, &["ROUND_ROBIN"], "`round_robin`"),
    ("Algorithm", Nginx, &["ip_hash"], "`hash`, which goes by the client's address"),
    ("Algorithm", HaProxy, &["source"], "`hash`, which goes by the client's address"),
    ("Algorithm", HaProxy, &["uri"], "`{ algorithm = \"hash\", key = \"path\" }`"),
    ("Algorithm", Envoy, &["ring_hash", "RING_HASH", "maglev", "MAGLEV"], "`hash`"),
    ("Algorithm", Other, &["consistent_hash", "consistent", "chash"], "`hash`"),
    ("Algorithm", Other, &["sticky", "cookie"], "`sticky = \"COOKIE\"` beside `balance`"),
    ("Algorithm", Nginx, &["least_time"], "`ewma`"),
    ("Algorithm", Traefik, &["leasttime"], "`ewma`"),
    ("Algorithm", Other, &["peak_ewma", "latency", "least_latency"], "`ewma`"),
    ("Algorithm", Envoy, &["random", "RANDOM"], "`least_request`, which draws two at random"),
    (
        "CacheMethod",
        Other,
        &["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"],
        "only answers to `GET` and `HEAD` are kept",
    ),
    ("CacheSetCookie", Other, &["ignore", "remove", "hide", "delete"], "`strip`"),
    ("CacheSetCookie", Other, &["keep", "allow", "cache", "share"], "`store`"),
    ("CacheSetCookie", Other, &["skip", "pass", "off", "none", "never"], "`bypass`"),
    (
        "JwtAlgorithm",
        Other,
        &["HS256", "HS384", "HS512"],
        "tokens are verified by public keys alone: with a secret, whoever verifies could sign",
    ),
    ("JwtAlgorithm", Other, &["none"], "a token that nobody has signed says nothing"),
    ("JwtAlgorithm", Other, &["Ed25519"], "`EdDSA`"),
    ("LogLevel", Nginx, &["notice"], "`info`"),
    ("LogLevel", Nginx, &["crit", "alert", "emerg", "critical", "fatal"], "`error`"),
    ("LogLevel", Other, &["warning"], "`warn`"),
    ("LogLevel", Other, &["trace", "verbose", "all"], "`debug`"),
    ("LogLevel", Other, &["off", "none"], "`error`, the least there is"),
    ("AccessLog", Nginx, &["combined", "common", "main"], "`text` or `json`"),
    ("AccessLog", Other, &["on", "true", "plain", "logfmt"], "`text`"),
    ("AccessLog", Other, &["none", "false", "disabled"], "`off`"),
    ("TlsVersion", Nginx, &["TLSv1.2", "TLS1.2", "tls1.2", "tlsv1.2", "TLSv1_2", "VersionTLS12"], "`1.2`"),
    ("TlsVersion", Nginx, &["TLSv1.3", "TLS1.3", "tls1.3", "tlsv1.3", "TLSv1_3", "VersionTLS13"], "`1.3`"),
    ("LimitKey", Nginx, &["$binary_remote_addr", "$remote_addr"], "`client_ip`"),
    ("LimitKey", Other, &["ip", "address", "remote_addr", "remote_ip", "client", "source"], "`client_ip`"),
    ("RetryOn", Nginx, &["error"], "`connect` and `reset`"),
    ("RetryOn", Nginx, &["http_502"], "`502`"),
    ("RetryOn", Nginx, &["http_503"], "`503`"),
    ("RetryOn", Nginx, &["http_504"], "`504`"),
    ("RetryOn", Nginx, &["http_500"], "`500`"),
    ("RetryOn", Nginx, &["http_403"], "`403`"),
    ("RetryOn", Nginx, &["http_404"], "`404`"),
    ("RetryOn", Nginx, &["http_429"], "`429`"),
    ("RetryOn", Envoy, &["5xx", "gateway-error"], "`502`, `503` and `504`"),
    ("RetryOn", Envoy, &["connect-failure"], "`connect`"),
    ("RetryOn", Envoy, &["refused-stream"], "`reset`"),
    ("UpstreamHost", Other, &["server", "backend", "target"], "`upstream`"),
    ("UpstreamHost", Other, &["preserve", "original", "request"], "`client`"),
];
