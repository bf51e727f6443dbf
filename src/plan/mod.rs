//! What runs: the configuration, compiled.
//!
//! A plan is immutable and swapped whole; a request keeps the plan it began with. Compiling is validating: every
//! name is resolved or becomes a problem with its place, and all problems come at once.

mod acme;
mod actions;
mod addresses;
mod admin;
mod auth;
mod caching;
pub mod change;
mod client_cert;
mod compile;
mod compress;
mod concurrency;
mod cors;
mod effective;
mod edits;
mod files;
mod invalidate;
mod hsts;
mod layers;
mod listeners;
mod redis;
pub mod reach;
mod restart;
mod rate_limits;
mod routes;
mod secrets;
mod security_headers;
pub mod template;
mod tls;
mod upstreams;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use crate::acme::Settings as Obtained;
use crate::auth::{Door, Provider, TakenBack};
use crate::cache;
use crate::config::Config;
use crate::forward::compress::Compress;
use crate::forward::cors::Cors;
use crate::forward::{Edit, PathRule};
use crate::limit::{Addresses, Concurrency, Limits, Nodes};
use crate::listen::{Bounds, ByHost, Keyring, Listener, Policy};
use crate::route::Table;
use crate::telemetry::RouteMeters;
use crate::upstream::{Overrides, Split, Upstream};

pub use admin::AdminAddress;
pub use caching::{CacheSettings, OwnWrites};
pub use change::Change;
pub use client_cert::ClientCertRule;
pub use compile::compile;
pub use files::files;
pub use redis::RedisSettings;
pub use restart::keep_until_restart;
pub use template::Template;

/// Everything a request needs to know.
#[derive(Debug)]
pub struct Plan {
    /// Which route takes a request.
    pub routes: Table<Arc<Route>>,
    /// Every upstream, those written inline on routes included, by name.
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    /// Who vouches for callers, by name.
    pub providers: BTreeMap<String, Arc<Provider>>,
    /// Fields by which upstreams are told of callers: from requests as they come, all of these are removed.
    pub identity_fields: Vec<HeaderName>,
    /// Networks whose forwarding fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds on clients.
    pub bounds: Bounds,
    /// Certificates by name; absent where no listener speaks TLS.
    pub tls: Option<Keyring>,
    /// What is obtained from an authority, if anything is.
    pub acme: Option<Obtained>,
    /// What connections to each host must be like.
    pub connections: ByHost<Policy>,
    /// `Strict-Transport-Security` of answers that no route gives.
    pub hsts: Option<HeaderValue>,
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// Where the admin listener is. Takes effect on restart.
    pub admin: AdminAddress,
    /// What requests to the admin listener must carry, if anything. Takes effect on restart.
    pub admin_token: Option<Arc<str>>,
    /// Where answers are kept, and who may purge them.
    pub cache: CacheSettings,
    /// What nodes share, if there is one. Takes effect on restart.
    pub redis: Option<RedisSettings>,
    /// What was written.
    pub config: Config,
}

impl Plan {
    /// The configuration as it works out, without secrets.
    pub fn effective(&self) -> Config {
        effective::effective(&self.config)
    }

    /// The route of this name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.entries().iter().find(|route| *route.name == *name)
    }

    /// Takes the certificates out, for the listeners to hold.
    pub fn split_tls(mut self) -> (Self, Option<Keyring>) {
        let tls = self.tls.take();
        (self, tls)
    }
}

/// One route, ready to run.
#[derive(Debug)]
pub struct Route {
    /// Its name: the label of its metrics and log lines.
    pub name: Arc<str>,
    /// Its metrics.
    pub meters: RouteMeters,
    /// Which addresses may ask, where not all may.
    pub addresses: Option<Addresses>,
    /// Which clients may ask by their certificates, where not all may.
    pub client_cert: Option<ClientCertRule>,
    /// Which callers may ask, where they have to say who they are.
    pub door: Option<Door>,
    /// How often may be asked, where there are bounds.
    pub limits: Option<Limits>,
    /// How many requests may be under way at once, where there are bounds.
    pub concurrency: Option<Concurrency>,
    /// The largest request body in bytes.
    pub max_body: u64,
    /// How answers are cached, if they are.
    pub cache: Option<Arc<cache::Rules>>,
    /// Changes to fields of the request.
    pub request_edit: Edit,
    /// Changes to fields of the answer.
    pub response_edit: Edit,
    /// Which answers are compressed, if any are.
    pub compress: Option<Compress>,
    /// Pages of which other origins may read answers, where the gateway says so.
    pub cors: Option<Cors>,
    /// `Strict-Transport-Security` of its answers under TLS.
    pub hsts: Option<HeaderValue>,
    /// Who answers.
    pub action: Action,
}

/// Who answers the requests of a route.
#[derive(Debug)]
pub enum Action {
    /// A server of an upstream.
    Forward(Forward),
    /// The gateway, with a redirect.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// Where to.
        to: Template,
    },
    /// The gateway, with fixed words.
    Respond {
        /// The status.
        status: StatusCode,
        /// The media type of the body.
        content_type: String,
        /// The body.
        body: bytes::Bytes,
    },
}

/// How requests go to an upstream.
#[derive(Debug)]
pub struct Forward {
    /// Which upstream.
    pub split: Split<Arc<Upstream>>,
    /// What becomes of the path.
    pub path: PathRule,
    /// Whether the upstream sees the server's address as `Host`, instead of the client's.
    pub host_of_server: bool,
    /// The route's own timeouts.
    pub timeouts: Overrides,
    /// How long a connection that has changed its protocol may be silent.
    pub websocket_idle: Duration,
}

/// What compiling needs to know besides the configuration.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the configuration file is: other files are relative to its directory.
    pub directory: PathBuf,
    /// Where development certificates are made.
    pub dev_certs: PathBuf,
    /// Who counts limits together. Outlives plans.
    pub nodes: Nodes,
    /// Tokens that were taken back on any node. Outlives plans.
    pub taken_back: TakenBack,
}

/// What is in force while the next plan is compiled; nothing at a start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Running<'a> {
    /// The plan.
    pub plan: Option<&'a Plan>,
    /// Its certificates, which the listeners hold.
    pub tls: Option<&'a Keyring>,
}

/// How long a connection that has changed its protocol may be silent, where a route does not say: longer than the pings of
/// common servers and clients are apart.
pub const WEBSOCKET_IDLE: Duration = Duration::from_secs(300);

/// The largest request body in bytes, where a route sets no bound of its own.
pub const MAX_BODY: u64 = 10 << 20;
