//! `[auth.NAME.api_key]`: callers by keys that they were given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Callers by keys that they were given, of which a file has the SHA-256.
///
/// The file is TOML, with a table for each key. Its name is `sub` of the caller, in logs and to upstreams:
///
/// `[acme-billing]`, `sha256 = "9f86d0…"` (64 hexadecimal digits), and, where they are to be: `tenant = "acme"`, `plan = "gold"`,
/// `scopes = ["users:write"]`, `roles = ["editor"]`, `expires = 2027-06-30T00:00:00Z`, `claims = { region = "eu" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthApiKey {
    /// The file of keys, at most 64 MiB. It is watched: a change takes effect as a reload does, and what is wrong with it is told as
    /// with this file.
    #[schemars(extend("format" = "file"), example = &"/etc/tidegate/partners.toml")]
    pub file: PathBuf,
    /// The field in which a key is sent, as it is. It does not go on to upstreams.
    #[serde(default = "x_api_key")]
    #[schemars(extend("format" = "field-name"))]
    pub header: String,
    /// Fields by which the upstream is told of the caller, each with its claim: `sub`, `tenant`, `plan`, `scope`, `roles` or one of
    /// its `claims`; lists become words with commas between them. As with tokens, no client can send such a field.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "field-name" }), example = serde_json::json!({ "x-user-id": "sub", "x-tenant": "tenant" }))]
    pub headers: BTreeMap<String, String>,
}

fn x_api_key() -> String {
    "x-api-key".to_owned()
}
