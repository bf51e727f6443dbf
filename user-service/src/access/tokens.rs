//! Tokens of callers who come directly: JSON Web Tokens (RFC 7519) of one issuer, for this service.

use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use super::Scopes;
use super::keys::{Keys, Source};
use crate::audit::Actor;

/// Which tokens are good.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who has issued them (`iss`), letter for letter.
    pub issuer: String,
    /// For whom (`aud`).
    pub audience: String,
    /// Where the keys of the issuer are.
    pub keys: Source,
}

/// Longest token that is looked at, in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// By how much the clock of the issuer may differ, in seconds.
const LEEWAY: u64 = 30;

/// Signatures that are understood. No HMAC: the keys of an issuer are known to everybody.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// No tokens are taken.
    #[error("tokens are not taken here")]
    None,
    /// Another scheme than `Bearer`.
    #[error("a Bearer token is asked for")]
    Scheme,
    /// Not of the form of a token, or of another kind, or longer than any.
    #[error("this is no token for access")]
    Form,
    /// Of another issuer, for somebody else, or for another time.
    #[error("the token is of another issuer, for somebody else, or has expired")]
    Claims,
    /// The issuer has no such key, or the signature is not of it.
    #[error("the token is not signed by the issuer")]
    Signature,
    /// The keys of the issuer have not been seen.
    #[error("tokens cannot be verified now")]
    Unavailable,
}

/// Whose token it is.
#[derive(Debug)]
pub struct Bearer {
    /// Who (`sub`).
    pub actor: Actor,
    /// What they may do (`scope`, or `scp`).
    pub scopes: Scopes,
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Tokens {
    settings: Settings,
    keys: Keys,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    scope: Option<Value>,
    scp: Option<Value>,
}

impl Tokens {
    /// Reads the keys of the issuer, or begins to fetch them.
    pub fn start(settings: Settings) -> Self {
        Self { keys: Keys::start(settings.keys.clone()), settings }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// It is not good, or nobody can tell.
    pub async fn verify(&self, token: &str) -> Result<Bearer, BadToken> {
        if token.len() > MAX_BYTES {
            return Err(BadToken::Form);
        }
        let head = decode_header(token).map_err(|_| BadToken::Form)?;
        if !is_for_access(head.typ.as_deref()) || head.crit.is_some() || !ALGORITHMS.contains(&head.alg) {
            return Err(BadToken::Form);
        }
        let candidates = self.keys.candidates(head.kid.as_deref(), head.alg).await?;
        let mut flaw = BadToken::Signature;
        for key in candidates {
            match self.read(token, &key, head.alg) {
                Ok(bearer) => return Ok(bearer),
                Err(BadToken::Signature) => {}
                Err(worse) => flaw = worse,
            }
        }
        Err(flaw)
    }

    fn read(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Bearer, BadToken> {
        let mut expected = Validation::new(algorithm);
        expected.leeway = LEEWAY;
        expected.validate_nbf = true;
        expected.set_required_spec_claims(&["exp", "iss", "aud"]);
        expected.set_issuer(&[&self.settings.issuer]);
        expected.set_audience(&[&self.settings.audience]);
        let TokenData { claims, .. } = decode::<Claims>(token, key, &expected).map_err(|error| {
            use jsonwebtoken::errors::ErrorKind as Kind;
            match error.kind() {
                Kind::MissingRequiredClaim(_)
                | Kind::InvalidClaimFormat(_)
                | Kind::ExpiredSignature
                | Kind::InvalidIssuer
                | Kind::InvalidAudience
                | Kind::InvalidSubject
                | Kind::ImmatureSignature
                | Kind::Json(_) => BadToken::Claims,
                _ => BadToken::Signature,
            }
        })?;
        let actor = match &claims.sub {
            Some(name) => Actor::caller(name).ok_or(BadToken::Claims)?,
            None => Actor::Unknown,
        };
        let scopes = [claims.scope, claims.scp].into_iter().flatten().map(|claim| scopes(&claim));
        Ok(Bearer { actor, scopes: scopes.fold(Scopes::default(), Scopes::and) })
    }
}

/// Whether a token that calls itself this (`typ`) is for access: others may have the same signer (RFC 8725 §3.11).
fn is_for_access(kind: Option<&str>) -> bool {
    let Some(kind) = kind else { return true };
    let kind = kind.to_ascii_lowercase();
    matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
}

/// Words with blanks between them (RFC 9068 §2.2.3), or a list of them, as some issuers have it.
fn scopes(claim: &Value) -> Scopes {
    match claim {
        Value::String(words) => Scopes::parse(words),
        Value::Array(words) => {
            words.iter().filter_map(Value::as_str).filter_map(super::Scope::parse).collect()
        }
        _ => Scopes::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_were_made_for_something_else_are_none_for_access() {
        for kind in [None, Some("JWT"), Some("at+jwt"), Some("application/AT+JWT")] {
            assert!(is_for_access(kind), "{kind:?}");
        }
        for kind in ["", "logout+jwt", "dpop+jwt"] {
            assert!(!is_for_access(Some(kind)), "{kind}");
        }
    }

    #[test]
    fn scopes_are_words_or_a_list() {
        let both = Scopes::parse("users:write users:read");
        assert_eq!(scopes(&serde_json::json!("openid users:read users:write")), both);
        assert_eq!(scopes(&serde_json::json!(["users:write", 7, "users:read"])), both);
        assert_eq!(scopes(&serde_json::json!("users:reader,users:write")), Scopes::default());
        assert_eq!(scopes(&serde_json::json!({ "users:admin": true })), Scopes::default());
    }
}
