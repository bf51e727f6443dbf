//! A caller that a provider vouches for.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

/// What a provider says of a caller, by name.
pub type Claims = serde_json::Map<String, Value>;

/// Who asks, as a provider of identity vouches for it.
#[derive(Debug)]
pub struct Caller {
    provider: Arc<str>,
    proof: Proof,
    claims: Claims,
    fields: Vec<(HeaderName, HeaderValue)>,
    print: Box<str>,
}

/// What the caller has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A token of an issuer.
    Token,
    /// An API key, with the name under which its file has it: never the key itself.
    ApiKey(Arc<str>),
    /// A certificate.
    Certificate,
}

/// Claims that differ from one token of a caller to the next.
const OF_ONE_TOKEN: &[&str] = &["exp", "iat", "nbf", "jti"];

impl Caller {
    /// A caller that `provider` vouches for.
    pub fn new(provider: Arc<str>, proof: Proof, claims: Claims) -> Self {
        let print = print(&provider, &proof, &claims);
        Self { provider, proof, claims, fields: Vec::new(), print }
    }

    /// The same, and by these fields the upstream is told of it.
    #[must_use]
    pub fn told_by(self, fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { fields, ..self }
    }

    /// The fields by which the upstream is told of it.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// The name of the provider: NAME of `[auth.NAME]`.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Who it is, in the provider's words (`sub`, RFC 7519 §4.1.2). Two providers may give one name to two callers.
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub")?.as_str()
    }

    /// The name of the API key that the caller has shown, if it was one.
    pub fn api_key_id(&self) -> Option<&str> {
        match &self.proof {
            Proof::ApiKey(id) => Some(id),
            Proof::Token | Proof::Certificate => None,
        }
    }

    /// A claim as text: a string, a number, `true` or `false`. Lists and tables have no one form as text, and are none.
    pub fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.value(name)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(Cow::Owned(number.to_string())),
            Value::Bool(yes) => Some(Cow::Borrowed(if *yes { "true" } else { "false" })),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A claim as it came. Where none has the whole name, its dots lead into tables: `realm_access.roles`.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.claims.get(name).or_else(|| {
            let (first, rest) = name.split_once('.')?;
            let table = self.claims.get(first)?;
            rest.split('.').try_fold(table, |table, part| table.as_object()?.get(part))
        })
    }

    /// Whether the claim `name` is this text, or a list that has it.
    pub fn has(&self, name: &str, wanted: &str) -> bool {
        match self.value(name) {
            Some(Value::Array(values)) => values.iter().any(|value| value.as_str() == Some(wanted)),
            _ => self.claim(name).is_some_and(|text| text == wanted),
        }
    }

    /// Whether it may act within this scope (RFC 6749 §3.3): `scope` has words with blanks between them (RFC 9068 §2.2.3),
    /// `scp` of some issuers such words or a list.
    pub fn has_scope(&self, wanted: &str) -> bool {
        let has = |claim: &Value| match claim {
            Value::String(words) => words.split(' ').any(|word| word == wanted),
            Value::Array(words) => words.iter().any(|word| word.as_str() == Some(wanted)),
            _ => false,
        };
        ["scope", "scp"].iter().filter_map(|name| self.claims.get(*name)).any(has)
    }

    /// What tells this caller from all others: the provider and all that it says, but for what tells one token of a caller
    /// from the next. Two tokens that differ in more, such as their scopes, are two callers.
    pub fn print(&self) -> &str {
        &self.print
    }

    /// What the caller has shown.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }
}

fn print(provider: &str, proof: &Proof, claims: &Claims) -> Box<str> {
    let mut lasting: Vec<_> =
        claims.iter().filter(|(name, _)| !OF_ONE_TOKEN.contains(&name.as_str())).collect();
    lasting.sort_unstable_by_key(|(name, _)| *name);
    let key = match proof {
        Proof::ApiKey(id) => Some(&**id),
        Proof::Token | Proof::Certificate => None,
    };
    let told = serde_json::json!([provider, key, lasting]);
    blake3::hash(told.to_string().as_bytes()).to_hex().as_str().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        let claims = serde_json::json!({
            "sub": "ada",
            "level": 7,
            "admin": true,
            "scope": "users:read users:write",
            "groups": ["ops", "dev"],
            "realm_access": { "roles": ["editor"] },
            "https://example.com/tenant": "acme",
        });
        let Value::Object(claims) = claims else { unreachable!("it is a table") };
        Caller::new("idp".into(), Proof::Token, claims)
    }

    #[test]
    fn claims_are_text_where_they_have_one_form() {
        let caller = caller();
        assert_eq!(caller.subject(), Some("ada"));
        assert_eq!(caller.claim("level").as_deref(), Some("7"));
        assert_eq!(caller.claim("admin").as_deref(), Some("true"));
        assert_eq!(caller.claim("https://example.com/tenant").as_deref(), Some("acme"));
        assert_eq!(caller.claim("groups"), None);
        assert_eq!(caller.claim("absent"), None);
    }

    #[test]
    fn lists_tables_and_scopes_are_looked_into() {
        let caller = caller();
        assert!(caller.has("groups", "ops") && !caller.has("groups", "op"));
        assert!(caller.has("realm_access.roles", "editor"));
        assert!(caller.has_scope("users:write") && !caller.has_scope("users") && !caller.has_scope(""));
        assert!(caller.has("sub", "ada") && !caller.has("sub", "ad"));
        assert!(!caller.has("realm_access.roles.editor", "editor"));
    }

    #[test]
    fn two_tokens_of_a_caller_are_of_one_caller_and_others_are_not() {
        let of = |provider: &str, claims: Value| {
            let Value::Object(claims) = claims else { unreachable!("it is a table") };
            Caller::new(provider.into(), Proof::Token, claims).print().to_owned()
        };
        let one = of("idp", serde_json::json!({ "sub": "ada", "scope": "a", "exp": 1, "jti": "x" }));
        assert_eq!(one, of("idp", serde_json::json!({ "jti": "y", "exp": 2, "scope": "a", "sub": "ada" })));
        for other in [
            of("partners", serde_json::json!({ "sub": "ada", "scope": "a" })),
            of("idp", serde_json::json!({ "sub": "bob", "scope": "a" })),
            of("idp", serde_json::json!({ "sub": "ada", "scope": "a b" })),
            of("idp", serde_json::json!({ "sub": "ada" })),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn only_callers_by_api_key_have_one() {
        assert_eq!(caller().api_key_id(), None);
        let by_key = Caller::new("partners".into(), Proof::ApiKey("acme-1".into()), Claims::new());
        assert_eq!(by_key.api_key_id(), Some("acme-1"));
        assert_eq!(by_key.subject(), None);
    }
}
