//! `[auth.NAME.introspection]`: tokens of which their issuer is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::config::route::OneOrMany;
use crate::config::units::Period;

/// Tokens of which their issuer is asked (RFC 7662), one by one: those that are no signed JSON Web Tokens, or that are to
/// end as soon as they are taken back.
///
/// All who show the same token wait for one answer. Where there is none in time, a token is refused with 503: nobody comes in on
/// the word of an issuer that is away, beyond answers that are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthIntrospection {
    /// Where the issuer is asked.
    #[schemars(extend("format" = "issuer"), example = &"https://id.example.com/introspect")]
    pub url: String,
    /// Who the gateway is there.
    #[schemars(example = &"gateway")]
    pub client_id: String,
    /// Its secret there.
    #[schemars(example = serde_json::json!({ "env": "INTROSPECTION_SECRET" }))]
    pub client_secret: Secret,
    /// How it says so.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// What `iss` of the answer must be, letter for letter. Absent: whatever the issuer says of itself.
    #[serde(default)]
    #[schemars(extend("format" = "issuer"), example = &"https://id.example.com/")]
    pub issuer: Option<String>,
    /// Whom tokens must be for: a name of which `aud` of the answer is or has one, or a list of such names. Absent: whomever the
    /// issuer says they are good for.
    #[serde(default)]
    #[schemars(example = &"users-api")]
    pub audience: Option<OneOrMany<String>>,
    /// For how long an answer counts, at most until the token ends: for so long a token that was taken back is believed. That one is
    /// not good counts for 5 seconds at the most.
    #[serde(default = "ten_seconds")]
    #[schemars(extend("x-most" = "5m"))]
    pub cache: Period,
    /// How long a request waits for the answer.
    #[serde(default = "two_seconds")]
    #[schemars(extend("x-least" = "10ms", "x-most" = "10s"))]
    pub timeout: Period,
    /// PEM file of the authorities whose certificates are believed when the issuer is spoken to; the system's when absent.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = &"/etc/tls/internal-ca.pem")]
    pub ca: Option<PathBuf>,
    /// Fields by which the upstream is told of the caller, each with its claim, as with `jwt`.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "field-name" }), example = serde_json::json!({ "x-user-id": "sub", "x-client": "client_id" }))]
    pub headers: BTreeMap<String, String>,
    /// The claim that has a caller's roles.
    #[serde(default = "super::roles")]
    #[schemars(example = &"realm_access.roles")]
    pub roles_claim: String,
}

fn ten_seconds() -> Period {
    Period(Duration::from_secs(10))
}

fn two_seconds() -> Period {
    Period(Duration::from_secs(2))
}

/// How a client says who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// In `Authorization`.
    #[default]
    Basic,
    /// In the form that it sends.
    Post,
}
