//! `tls` and `proxy_protocol`: what is done on a connection to a server before the first request.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS to servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum UpstreamTls {
    /// `true`: certificates of the system's authorities are believed, for the host of each server.
    Switch(#[schemars(extend("const" = true))] bool),
    /// In full.
    Table(Box<UpstreamTlsTable>),
}

/// TLS to servers in full. The files are looked at once a second, as the configuration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTlsTable {
    /// The name that servers are asked for (SNI), and that their certificates must have: a host or an IP address. When
    /// absent, the host of each server; of a service its domain. A socket of the file system has none.
    #[schemars(extend("format" = "server-name"), example = "web.internal")]
    pub server_name: Option<String>,
    /// PEM file of the authorities whose certificates are believed, and no others; the system's when absent.
    #[schemars(extend("format" = "file"), example = "/etc/tls/internal-ca.pem")]
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate that is shown to servers which ask for one, leaf first. Its key is in it or beside it
    /// (`x.pem` and `x.key`), or in `key`.
    #[schemars(extend("format" = "file"), example = "/etc/tls/gateway.pem")]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`.
    #[schemars(extend("format" = "file"), example = "/etc/tls/gateway.key")]
    pub key: Option<PathBuf>,
    /// Whether certificates of servers are verified. With `false`, whoever can come between is taken for the server: it
    /// is warned of at start.
    pub verify: bool,
}

impl Default for UpstreamTlsTable {
    fn default() -> Self {
        Self { server_name: None, ca: None, cert: None, key: None, verify: true }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
