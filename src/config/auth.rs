//! `[auth.NAME]`, who vouches for callers, and `auth` of a route: which callers may ask.

mod api_key;
mod client_cert;
mod introspection;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::methods::Methods;
use super::route::OneOrMany;
use super::text::{self, is_host};
use super::units::Period;

pub use api_key::AuthApiKey;
pub use client_cert::{AuthClientCert, CertRule};
pub use introspection::{AuthIntrospection, ClientAuth};

/// Who vouches for callers: one of these tables, and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct AuthProvider {
    /// An issuer of tokens that are sent as `Authorization: Bearer TOKEN` (RFC 6750): signed JSON Web Tokens (RFC 7519).
    #[schemars(example = serde_json::json!({ "issuer": "https://id.example.com/", "audience": "users-api" }))]
    pub jwt: Option<Box<AuthJwt>>,
    /// An issuer that is asked about tokens which are sent in the same way (RFC 7662).
    #[schemars(example = serde_json::json!({ "url": "https://id.example.com/introspect", "client_id": "gateway", "client_secret": { "env": "INTROSPECTION_SECRET" } }))]
    pub introspection: Option<Box<AuthIntrospection>>,
    /// A file of keys that callers were given.
    #[schemars(example = serde_json::json!({ "file": "/etc/tidegate/partners.toml" }))]
    pub api_key: Option<Box<AuthApiKey>>,
    /// The authorities that `client_ca` names.
    #[schemars(example = serde_json::json!({ "rules": [{ "san": "URI:spiffe://example.com/*" }] }))]
    pub client_cert: Option<Box<AuthClientCert>>,
}

/// Tokens of an issuer, verified by its public keys.
///
/// A token must have `iss`, `aud` and `exp`, and name each claim once. Signatures by secret keys (`HS256` and the like) and
/// `none` are never accepted; keys that a token brings along or points to (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthJwt {
    /// The issuer: `iss` of its tokens, letter for letter. Its keys are found by its description at
    /// `ISSUER/.well-known/openid-configuration` (or `oauth-authorization-server`, RFC 8414), unless `jwks` says where.
    #[schemars(extend("format" = "issuer"), example = &"https://id.example.com/")]
    pub issuer: String,
    /// Whom tokens must be for: a name of which `aud` is or has one, or a list of such names.
    #[schemars(example = &"users-api")]
    pub audience: OneOrMany<String>,
    /// Where the issuer's keys are (a JWK set, RFC 7517): a URL, or a table. Absent: where the issuer's description says. `"dev"`: it is a
    /// development issuer of this machine's own, whose key is made on first use under `certs/`; `tidegate token` mints its
    /// tokens.
    #[serde(default)]
    #[schemars(example = &"https://id.example.com/jwks.json")]
    pub jwks: Option<Jwks>,
    /// PEM file of the authorities whose certificates are believed when the issuer is spoken to; the system's when absent.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = &"/etc/tls/internal-ca.pem")]
    pub ca: Option<PathBuf>,
    /// How tokens may be signed. A key is used for its own kind of signature alone, whatever a token says.
    #[serde(default = "all_algorithms")]
    #[schemars(length(min = 1))]
    pub algorithms: BTreeSet<JwtAlgorithm>,
    /// By how much the issuer's clock may differ from ours: for so long a token is good past its `exp` and before its `nbf`
    /// and `iat`.
    #[serde(default = "half_a_minute")]
    #[schemars(extend("x-most" = "5m"))]
    pub leeway: Period,
    /// What tokens must call themselves (`typ`), such as `at+jwt` (RFC 9068). Absent: `JWT`, `at+jwt` or nothing. Tokens of other
    /// kinds (`logout+jwt`, `dpop+jwt`) are never taken for these.
    #[serde(default)]
    #[schemars(example = &"at+jwt")]
    pub typ: Option<String>,
    /// A file with the names (`jti`) of tokens that were taken back before their end: one on each line; `#` begins a comment. At most
    /// 64 MiB; it may be empty. It is watched: a change takes effect as a reload does, for tokens that are remembered as well. With
    /// such a file, tokens without a name are refused.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = &"/etc/tidegate/revoked.txt")]
    pub revoked_file: Option<PathBuf>,
    /// Whether tokens that were taken back on any node (`tidegate revoke`) are refused on all, within a second, by way of `redis`. What
    /// is known stays while Redis is away. Tokens without a name (`jti`) are refused then.
    #[serde(default)]
    pub revoked_redis: bool,
    /// Fields by which the upstream is told of the caller, each with its claim; dots lead into tables (`realm_access.roles`), lists
    /// become words with commas between them. From all requests of all routes, fields of these names are removed first: no
    /// client can claim to be somebody.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "field-name" }), example = serde_json::json!({ "x-user-id": "sub", "x-tenant": "tenant" }))]
    pub headers: BTreeMap<String, String>,
    /// The claim that has a caller's roles.
    #[serde(default = "roles")]
    #[schemars(example = &"realm_access.roles")]
    pub roles_claim: String,
}

fn all_algorithms() -> BTreeSet<JwtAlgorithm> {
    use JwtAlgorithm::{ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA].into()
}

fn half_a_minute() -> Period {
    Period(Duration::from_secs(30))
}

fn roles() -> String {
    "roles".to_owned()
}

/// How a token is signed (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    RS256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    RS384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    RS512,
    /// RSA PSS with SHA-256.
    PS256,
    /// RSA PSS with SHA-384.
    PS384,
    /// RSA PSS with SHA-512.
    PS512,
    /// ECDSA over P-256 with SHA-256.
    ES256,
    /// ECDSA over P-384 with SHA-384.
    ES384,
    /// ECDSA over P-521 with SHA-512.
    ES512,
    /// Ed25519.
    EdDSA,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Jwks {
    /// The URL of a JWK set, or `"dev"`.
    Url(#[schemars(extend("format" = "jwks"))] String),
    /// In full.
    Table(JwksTable),
}

/// Where an issuer's keys are, and how often they are fetched. They are fetched at once when the gateway starts, which waits
/// for nobody, and stay in use while the issuer is away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JwksTable {
    /// The URL of a JWK set. When `file` is absent too, the issuer's description has it.
    #[schemars(extend("format" = "issuer"), example = "https://id.example.com/jwks.json")]
    pub url: Option<String>,
    /// A file with a JWK set. It is watched: a change takes effect as a reload does.
    #[schemars(extend("format" = "file"), example = "/etc/tidegate/jwks.json")]
    pub file: Option<PathBuf>,
    /// How long from one fetch to the next, give or take a fifth.
    #[schemars(extend("x-least" = "1s", "x-most" = "1d"))]
    pub refresh: Period,
    /// A token of a key that is not known has the keys fetched at once: those of other tokens wait for the same fetch. The least
    /// time between two of these.
    #[schemars(extend("x-least" = "1s", "x-most" = "1h"))]
    pub min_interval: Period,
}

impl Default for JwksTable {
    fn default() -> Self {
        Self {
            url: None,
            file: None,
            refresh: Period(Duration::from_secs(600)),
            min_interval: Period(Duration::from_secs(10)),
        }
    }
}

/// Which callers may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteAuth {
    /// `false`: all, though the defaults say otherwise.
    Switch(#[schemars(extend("const" = false))] bool),
    /// All for whom this provider vouches.
    Provider(#[schemars(extend("format" = "name"))] String),
    /// In full.
    Table(RouteAuthTable),
}

/// Which callers may ask, in full. Who does not say who it is, or shows a credential that is not good, is refused with 401; who
/// may not do this, with 403.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteAuthTable {
    /// Who vouches for callers: NAME of `[auth.NAME]`, or a list of such names, any of which will do.
    #[schemars(with = "OneOrMany<text::Name>", example = &"idp")]
    pub providers: OneOrMany<String>,
    /// For which methods a caller has to say who it is: `"unsafe"` (all but GET, HEAD, OPTIONS and TRACE), or a list. Absent: for all.
    /// With others nobody is refused; who shows a good credential is known all the same.
    #[serde(default)]
    #[schemars(example = &"unsafe")]
    pub methods: Option<Methods>,
    /// Scopes that the caller must have (`scope` or `scp` of a token), all of them.
    #[serde(default)]
    #[schemars(with = "Vec<text::Scope>", example = ["users:write"])]
    pub scopes: Vec<String>,
    /// Roles of which the caller must have one. Where they are said `roles_claim` of the provider.
    #[serde(default)]
    #[schemars(example = ["editor"])]
    pub roles: Vec<String>,
    /// Claims that the caller must have, each with its value or a list of which one will do. A claim that is a list has each of
    /// its values; dots lead into tables.
    #[serde(default)]
    #[schemars(example = serde_json::json!({ "groups": "ops" }))]
    pub claims: BTreeMap<String, OneOrMany<String>>,
}

/// What decides who is believed comes by TLS, or from this machine.
pub(super) fn issuer(text: &str) -> Result<(), String> {
    let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err("begin with `https://`".to_owned()),
    };
    let fine = !text.contains(|c: char| !c.is_ascii_graphic()) && !text.contains(['@', '#']);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.parse::<http::uri::Authority>() {
        Ok(authority) if fine => authority.host().to_owned(),
        _ => String::new(),
    };
    if !is_host(&host) && !host.starts_with('[') {
        return Err("write `https://HOST/PATH`".to_owned());
    }
    match &*host {
        "localhost" | "127.0.0.1" | "[::1]" => Ok(()),
        _ if secure => Ok(()),
        _ => Err(format!("write `https://{rest}`; only what is on this machine may be asked without TLS")),
    }
}

/// Where keys are: at a URL, or with the development issuer.
pub(super) fn jwks(text: &str) -> Result<(), String> {
    if text == "dev" { Ok(()) } else { issuer(text) }
}

/// A scope (RFC 6749 §3.3).
pub(super) fn scope(text: &str) -> Result<(), String> {
    if text.contains(' ') {
        let each: Vec<_> = text.split(' ').map(|scope| format!("\"{scope}\"")).collect();
        return Err(format!("list them: [{}]", each.join(", ")));
    }
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if fine { Ok(()) } else { Err("a scope is a word such as `users:write`".to_owned()) }
}
