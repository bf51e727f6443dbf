//! `[tls]`: certificates, and what connections must be like, for all hosts or for some.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::acme::Acme;

/// Certificates and what clients must speak.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates, picked by the names in them; the first is shown to clients that name no host of ours.
    ///
    /// A PEM file holding chain and key, a chain file with its key beside it (`x.pem` and `x.key`),
    /// `{ cert, key }`, or `"dev"`: a certificate for `localhost`, `127.0.0.1` and `::1`, made on first use
    /// under `certs/` by a development CA of this machine's own. Files are looked at once a second, and a new pair is
    /// taken without a restart.
    #[schemars(example = ["dev"])]
    pub certs: Vec<Certificate>,
    /// The oldest TLS version that is spoken.
    pub min_version: TlsVersion,
    /// Obtains certificates from an authority, and renews them; they come after those of `certs`.
    pub acme: Option<Box<Acme>>,
    /// Which certificates clients are asked for; none when absent.
    #[schemars(example = serde_json::json!({ "file": "/etc/tls/partners-ca.pem", "mode": "optional" }))]
    pub client_ca: Option<ClientCa>,
    /// What differs for connections to some hosts, by name, or `*.example.com` for every name below it. A request that
    /// comes over a connection made for another host gets 421 where other certificates are asked for, or a newer TLS.
    #[schemars(extend("x-noun" = "host", "x-example-name" = "partners.example.com", "propertyNames" = { "format": "host" }))]
    pub hosts: BTreeMap<String, HostTls>,
    /// Whether nodes agree on the keys of session tickets by `redis`, where that is set, so that a client resumes its
    /// session at any of them. Who reads that Redis can then open tickets of twelve hours; with TLS 1.3 what was said
    /// stays secret all the same.
    #[schemars(extend("x-takes-effect" = "restart"))]
    pub share_tickets: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certs: Vec::new(),
            min_version: TlsVersion::V1_2,
            acme: None,
            client_ca: None,
            hosts: BTreeMap::new(),
            share_tickets: true,
        }
    }
}

/// What differs for connections to some hosts; what is absent is as for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostTls {
    /// The oldest TLS version that is spoken.
    #[schemars(example = &"1.3")]
    pub min_version: Option<TlsVersion>,
    /// Which certificates clients are asked for, or `false`: none, though all others are.
    #[schemars(example = serde_json::json!({ "file": "/etc/tls/partners-ca.pem", "crl": "/etc/tls/partners.crl" }))]
    pub client_ca: Option<HostClientCa>,
}

/// Which certificates clients of a host are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HostClientCa {
    /// `false`: none.
    Switch(#[schemars(extend("const" = false))] bool),
    /// Those of these authorities.
    Table(ClientCa),
}

/// Which certificates clients are asked for. The files are looked at once a second; what is not fit to be used is
/// refused, and what was there before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCa {
    /// PEM file of the authorities that sign clients' certificates.
    #[schemars(extend("format" = "file"), example = "/etc/tls/partners-ca.pem")]
    pub file: PathBuf,
    /// Whether a client must show one.
    #[serde(default)]
    pub mode: ClientCaMode,
    /// PEM file of the authorities' revocation lists, one for each that signs anything. Absent: nothing is taken for
    /// revoked. Where a list is over, nobody is let in whose certificate it would tell of.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = "/etc/tls/partners.crl")]
    pub crl: Option<PathBuf>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCaMode {
    /// Who shows none, or one that is not good, gets no connection.
    #[default]
    Required,
    /// Who shows none gets a connection, and routes say whether that is enough; who shows one that is not good, none.
    Optional,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Certificate {
    /// A PEM file, or `"dev"`.
    Path(#[schemars(extend("format" = "file"))] PathBuf),
    /// Chain and key in files of their own.
    Pair(CertificatePair),
}

/// A certificate chain and its key, file by file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// PEM file of the chain, leaf first.
    #[schemars(extend("format" = "file"))]
    pub cert: PathBuf,
    /// PEM file of the private key.
    #[schemars(extend("format" = "file"), example = "/etc/tls/api.key")]
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated ciphers only.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}
