//! `tls.acme`: certificates that are obtained from an authority, and renewed.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use super::text::{self, is_host};

/// An authority that speaks ACME (RFC 8555), and what is obtained there. To write this is to agree to its terms of
/// service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// Whom the authority writes to when something is wrong with a certificate.
    #[schemars(extend("format" = "email"), example = &"ops@example.com")]
    pub email: String,
    /// The directory of the authority. Let's Encrypt has one for tries as well:
    /// `https://acme-staging-v02.api.letsencrypt.org/directory`.
    #[serde(default = "lets_encrypt")]
    #[schemars(extend("format" = "https-url"))]
    pub directory: String,
    /// Where the account, its certificates and their private keys are kept: a directory, relative to this file, that
    /// nobody else needs to read; or `"redis"`, where all nodes of a fleet share them. With a `redis` that waits for a
    /// restart, all of `tls.acme` waits with it.
    #[serde(default = "beside")]
    #[schemars(extend("format" = "file"))]
    pub storage: PathBuf,
    /// The hosts to obtain a certificate for, one each, 256 at most. Absent: the hosts of all routes that no certificate
    /// of `certs` names. Wildcards cannot be had this way.
    #[serde(default)]
    #[schemars(with = "Option<Vec<text::HostPattern>>", length(min = 1), example = ["api.example.com"])]
    pub hosts: Option<Vec<String>>,
    /// How a host is proved to be ours. Absent: `tls-alpn-01` where there is an `https` listener, and after a failure the
    /// other in turn.
    #[serde(default)]
    #[schemars(example = "http-01")]
    pub challenge: Option<AcmeChallenge>,
    /// PEM file of the authorities whose certificates are believed when the directory is spoken to; the system's when
    /// absent.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = &"/etc/tls/acme-ca.pem")]
    pub ca: Option<PathBuf>,
    /// What binds the account to one that the authority has outside of ACME (RFC 8555 section 7.3.4), where it wants that.
    #[serde(default)]
    pub eab: Option<AcmeEab>,
}

fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".to_owned()
}

fn beside() -> PathBuf {
    "acme".into()
}

/// How a host is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// By a handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a request on port 80 (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
}

/// An account that the authority knows already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeEab {
    /// The name of the key, as the authority gave it.
    #[schemars(example = &"kid-1")]
    pub key_id: String,
    /// The key, as the authority gave it: base64 for URLs (RFC 4648 section 5).
    #[schemars(example = serde_json::json!({ "env": "ACME_EAB_KEY" }))]
    pub key: Secret,
}

pub(super) fn email(text: &str) -> Result<(), String> {
    if text.starts_with("mailto:") {
        return Err(format!("write `{}`", text.trim_start_matches("mailto:")));
    }
    let fine = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '?' | '<' | '>' | '@');
    match text.split_once('@') {
        Some((who, host)) if !who.is_empty() && who.chars().all(fine) && is_host(host) => Ok(()),
        _ => Err("write one address, such as `ops@example.com`".to_owned()),
    }
}

pub(super) fn https_url(text: &str) -> Result<(), String> {
    let Some(rest) = text.strip_prefix("https://") else {
        return Err("begin with `https://`".to_owned());
    };
    let bad = || Err("write `https://HOST/PATH`".to_owned());
    if text.contains(|c: char| !c.is_ascii_graphic()) || text.contains(['@', '#']) {
        return bad();
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    match authority.parse::<http::uri::Authority>() {
        Ok(authority) if !authority.host().is_empty() => Ok(()),
        _ => bad(),
    }
}
