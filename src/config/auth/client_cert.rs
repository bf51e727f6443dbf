//! `[auth.NAME.client_cert]`: callers by the certificate of their connection.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::route::OneOrMany;
use crate::config::text;

/// Callers by the certificate that they have shown (mTLS), where `client_ca` of `[tls]` or of the host asks for one.
///
/// It counts where a request has no token and no API key that the route looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthClientCert {
    /// Whose certificates; the first rule that fits says who the caller is. Who fits none is nobody.
    #[schemars(length(min = 1), example = serde_json::json!([{ "san": "URI:spiffe://example.com/*", "tenant": "internal" }]))]
    pub rules: Vec<CertRule>,
    /// Fields by which the upstream is told of the caller, each with its claim: `sub`, `tenant`, `plan`, `scope`, `roles` or one of
    /// its `claims`; lists become words with commas between them. As with tokens, no client can send such a field.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "field-name" }), example = serde_json::json!({ "x-user-id": "sub", "x-tenant": "tenant" }))]
    pub headers: BTreeMap<String, String>,
}

/// Whose certificates, by one of `san`, `cn`, `subject` and `fingerprint`, and what is said of who shows them. What they are found
/// by is `sub` of the caller, unless `claims` has another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct CertRule {
    /// An alternative name with its kind (`DNS:`, `URI:`, `email:`). `DNS:*.example.com` is for hosts with one label more,
    /// `URI:spiffe://example.com/*` for all URIs below.
    #[schemars(example = "URI:spiffe://example.com/billing")]
    pub san: Option<String>,
    /// The common name, letter for letter. Of certificates with several, none counts.
    #[schemars(example = &"billing")]
    pub cn: Option<String>,
    /// The whole subject as RFC 4514 writes it, the most specific part first; letter for letter.
    #[schemars(example = "CN=billing,O=Example")]
    pub subject: Option<String>,
    /// The SHA-256 of the certificate, in hexadecimal, with or without colons.
    #[schemars(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub fingerprint: Option<String>,
    /// The claim `tenant`.
    #[schemars(example = &"acme")]
    pub tenant: Option<String>,
    /// The claim `plan`.
    #[schemars(example = &"gold")]
    pub plan: Option<String>,
    /// What the caller may do, as scopes of a token say it.
    #[schemars(with = "Vec<text::Scope>", example = ["users:write"])]
    pub scopes: Vec<String>,
    /// The roles of the caller.
    #[schemars(example = ["editor"])]
    pub roles: Vec<String>,
    /// More claims, each with its value or a list of values.
    #[schemars(example = serde_json::json!({ "region": "eu" }))]
    pub claims: BTreeMap<String, OneOrMany<String>>,
}
