//! What the operator wrote: [`Config`] mirrors the TOML file, key for key.
//!
//! These types are the one definition of the configuration language. Their doc comments, defaults and bounds
//! become the reference page, the commented reference file and the JSON Schema, and the schema in turn is what
//! a file is checked against. Nothing here knows how anything runs; that is `plan`.

pub mod units;
pub mod route;
pub mod limit;
pub mod concurrency;
pub mod methods;
pub mod cache;
pub mod invalidate;
pub mod broker;
pub mod compress;
pub mod cors;
pub mod security_headers;
pub mod redis;
pub mod acme;
pub mod auth;
pub mod tls;
pub mod upstream;
pub mod load;
mod document;
mod syntax;
mod schema;
mod check;
mod wording;
mod hints;
mod hint_words;
mod text;
mod addresses;
mod servers;
mod meant;
pub mod problem;
pub mod reference;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use acme::{Acme, AcmeChallenge, AcmeEab};
pub use auth::AuthProvider;
pub use cache::CacheStore;
pub use document::Document;
pub use load::{Loaded, Sources, load, read_text};
pub use problem::{Place, Problem, Rejected, Step, nearest};
pub use redis::Redis;
pub use route::Route;
pub use tls::{Certificate, Tls, TlsVersion};
pub use units::{ByteSize, Period, Quota, Rate, Share};
pub use upstream::Upstream;

/// The whole of a configuration file, includes and all.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients are accepted.
    ///
    /// `https://ADDRESS:PORT` ends TLS; `http://ADDRESS:PORT` redirects to HTTPS when an `https` entry exists
    /// and serves traffic otherwise. A port of 0 takes any free one. Addresses that leave the list are closed, and what
    /// was accepted there ends with its requests.
    #[schemars(length(min = 1))]
    pub listen: Vec<Listener>,

    /// Where metrics, health and the admin API are served: `ADDRESS:PORT`, or `unix:PATH`. An address that others than
    /// this machine can reach needs an `admin_token`.
    #[schemars(extend("x-takes-effect" = "restart", "format" = "admin-address"))]
    pub admin: String,

    /// Guards the admin listener: requests must carry `Authorization: Bearer TOKEN`, but for `/health` and `/ready`. At
    /// least 16 characters.
    #[schemars(extend("x-takes-effect" = "restart"))]
    pub admin_token: Option<Secret>,

    /// What nodes share: cached answers and purges. A URL, or a table where the URL alone does not say enough. Without
    /// it each node keeps its own.
    #[schemars(example = "redis://redis:6379", extend("x-takes-effect" = "restart"))]
    pub redis: Option<Redis>,

    /// Networks whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are believed, and their headers of the PROXY
    /// protocol. Everybody else's are dropped.
    #[schemars(with = "Vec<text::Network>", example = ["10.0.0.0/8"])]
    pub trusted_proxies: Vec<IpNet>,

    /// How long requests in flight may take to end once a stop was asked for.
    pub shutdown_grace: Period,

    /// Number of worker threads; one per core when absent.
    #[schemars(range(min = 1, max = 1024), example = 4, extend("x-takes-effect" = "restart"))]
    pub threads: Option<u16>,

    /// What is logged, and how.
    pub log: Log,

    /// More files of the same language, as paths with `*` relative to this one. All files are one document: a
    /// name defined in two of them is an error.
    #[schemars(with = "Vec<text::Include>", example = ["conf.d/*.toml"])]
    pub include: Vec<String>,

    /// Whether this file, those it includes and those with secrets are looked at once a second, and put in force when they
    /// have changed for the good. SIGHUP and `tidegate reload` do so in any case. Certificates are always watched.
    pub watch: bool,

    /// Certificates and TLS versions.
    pub tls: Tls,

    /// Bounds on clients: connections, times, sizes.
    pub downstream: Downstream,

    /// Where cached answers are kept, and who may purge them. What is cached is said on the routes.
    pub cache: CacheStore,

    /// Who vouches for callers, by name. Which routes ask for callers is said there (`auth`).
    #[schemars(extend("x-noun" = "auth provider", "x-example-name" = "idp", "propertyNames" = { "format": "name" }))]
    pub auth: BTreeMap<String, AuthProvider>,

    /// Groups of interchangeable servers, by name.
    #[schemars(extend("x-noun" = "upstream", "x-example-name" = "users", "propertyNames" = { "format": "name" }))]
    pub upstreams: BTreeMap<String, Upstream>,

    /// Settings that every route starts from.
    pub defaults: Route,

    /// Bundles of settings that a route may `use`, by name.
    #[schemars(extend("x-noun" = "policy", "x-example-name" = "public", "propertyNames" = { "format": "name" }))]
    pub policies: BTreeMap<String, Route>,

    /// Which requests go where, by name. The most specific host and path win; the order of the file never matters.
    #[schemars(extend("x-noun" = "route", "x-example-name" = "users", "propertyNames" = { "format": "name" }))]
    pub routes: BTreeMap<String, Route>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![
                Listener::Url("https://[::]:443".to_owned()),
                Listener::Url("http://[::]:80".to_owned()),
            ],
            admin: "127.0.0.1:9000".to_owned(),
            admin_token: None,
            redis: None,
            trusted_proxies: Vec::new(),
            shutdown_grace: Period(Duration::from_secs(30)),
            threads: None,
            log: Log::default(),
            include: Vec::new(),
            watch: true,
            tls: Tls::default(),
            downstream: Downstream::default(),
            cache: CacheStore::default(),
            auth: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            defaults: Route::default(),
            policies: BTreeMap::new(),
            routes: BTreeMap::new(),
        }
    }
}

/// A secret, kept outside of the file: in the environment or in a file of its own, one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The name of an environment variable.
    #[serde(default)]
    #[schemars(example = &"ADMIN_TOKEN")]
    pub env: Option<String>,
    /// A file that holds the secret alone.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = "/run/secrets/admin-token")]
    pub file: Option<PathBuf>,
}

/// One address clients may connect to: a URL, or a table where the URL alone does not say enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Listener {
    /// `https://ADDRESS:PORT` or `http://ADDRESS:PORT`.
    Url(#[schemars(extend("format" = "listen-url"))] String),
    /// The URL and what differs from the usual.
    Table(ListenerTable),
}

/// A listener with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTable {
    /// `https://ADDRESS:PORT` or `http://ADDRESS:PORT`.
    #[schemars(extend("format" = "listen-url"))]
    pub url: String,
    /// Whether plain HTTP is answered by a redirect to HTTPS; when absent, it is where an `https` listener exists.
    pub redirect: Option<bool>,
    /// Whether each connection begins with a header of the PROXY protocol (version 1 or 2), which says whose it is.
    ///
    /// For listeners that a balancer alone reaches: only networks in `trusted_proxies` are let in, within
    /// `downstream.handshake_timeout`, and nobody without the header.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// Bounds on what clients may ask of us.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Downstream {
    /// Connections open at once, all clients together. More are closed unanswered and counted.
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// Connections open at once from one address (IPv6: one /64); with `proxy_protocol`, the one that the header names.
    #[schemars(range(min = 1))]
    pub max_connections_per_ip: u32,
    /// Longest TLS handshake, and longest wait for a header of the PROXY protocol; both together where there are both.
    #[schemars(extend("x-least" = "1ms"))]
    pub handshake_timeout: Period,
    /// Longest time from the first byte of a request head to its last.
    #[schemars(extend("x-least" = "1ms"))]
    pub header_timeout: Period,
    /// Longest wait between two reads of a request body.
    #[schemars(extend("x-least" = "1ms"))]
    pub body_timeout: Period,
    /// Fewest bytes of a request body that are to come each second, on average over `body_timeout`; fewer are refused with
    /// 408. `"0B"`: as few as one in each `body_timeout`. Only waits for the client count. On HTTP/2 a body that waits for its
    /// turn is not refused: all bodies of a connection are to come at this rate, together.
    pub min_body_rate: ByteSize,
    /// Longest wait for the client to take bytes of an answer.
    #[schemars(extend("x-least" = "1ms"))]
    pub send_timeout: Period,
    /// Fewest bytes that a client is to take each second while we wait for it, on average over `send_timeout`; who takes fewer is
    /// let go. `"0B"`: as few as one in each `send_timeout`. On HTTP/2 an answer that waits for its turn is not given up: all answers
    /// that wait on a connection are to be taken at this rate, together.
    pub min_send_rate: ByteSize,
    /// How long an idle connection is kept for the next request.
    #[schemars(extend("x-least" = "1ms"))]
    pub idle_timeout: Period,
    /// Largest request head, in bytes; larger ones are refused with 431.
    #[schemars(extend("x-least" = "1KiB", "x-most" = "1MiB"))]
    pub max_header_size: ByteSize,
    /// Most fields in a request head; more are refused with 431.
    #[schemars(range(min = 1, max = 256))]
    pub max_headers: u16,
}

impl Default for Downstream {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_ip: 1_000,
            handshake_timeout: Period(Duration::from_secs(10)),
            header_timeout: Period(Duration::from_secs(10)),
            body_timeout: Period(Duration::from_secs(30)),
            min_body_rate: ByteSize(240),
            send_timeout: Period(Duration::from_secs(30)),
            min_send_rate: ByteSize(240),
            idle_timeout: Period(Duration::from_secs(75)),
            max_header_size: ByteSize(32 << 10),
            max_headers: 100,
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The form of the access log: one line per request on standard output, or none.
    #[schemars(extend("x-takes-effect" = "restart"))]
    pub access: AccessLog,
    /// The least severe level that is logged to standard error.
    #[schemars(extend("x-takes-effect" = "restart"))]
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self { access: AccessLog::Text, level: LogLevel::Info }
    }
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// One JSON object per request.
    Json,
    /// One line of words per request, for people.
    Text,
    /// No access log.
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What is broken.
    Error,
    /// And what has degraded.
    Warn,
    /// And what changed.
    Info,
    /// And why.
    Debug,
}
