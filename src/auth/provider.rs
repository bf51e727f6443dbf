//! Who vouches for callers.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::api_key::{ApiKey, ApiKeySettings, ApiKeys};
use super::certificate::{CertificateRule, Certificates};
use super::credential::{Credential, Kinds};
use super::denied::Why;
use super::jwt::{Jwt, JwtSettings};
use super::{Caller, Claims, Proof};
use crate::telemetry::Meters;

/// A provider of identity: `[auth.NAME]`.
#[derive(Debug)]
pub struct Provider {
    name: Arc<str>,
    settings: Settings,
    means: Means,
}

/// How a provider vouches for callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which claims go upstream.
    pub headers: Headers,
    /// The claim with a caller's roles.
    pub roles_claim: String,
    /// By what.
    pub by: By,
}

/// By what a provider knows callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// By tokens of an issuer.
    Jwt(Box<JwtSettings>),
    /// By API keys.
    ApiKey(ApiKeySettings),
    /// By the certificates of their connections; the first rule that fits.
    Certificate(Vec<CertificateRule>),
}

/// The same, with what it takes.
#[derive(Debug)]
enum Means {
    Jwt(Box<Jwt>),
    ApiKeys(ApiKeys),
    Certificates(Box<Certificates>),
}

/// Fields by which the upstream is told of callers, each with the claim that it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(HeaderName, String)>);

impl Provider {
    /// The provider of this name. One that is `running` with the same settings is taken over, with its keys and all
    /// that it remembers.
    pub fn follow(name: &str, settings: Settings, running: Option<&Arc<Self>>, meters: &Meters) -> Arc<Self> {
        if let Some(running) = running.filter(|running| running.settings == settings) {
            return running.clone();
        }
        let shared: Arc<str> = name.into();
        let means = match &settings.by {
            By::Jwt(jwt) => Means::Jwt(Box::new(Jwt::new(name, (**jwt).clone(), meters))),
            By::ApiKey(keys) => {
                let proof = |key: &ApiKey| Proof::ApiKey((&*key.id).into());
                let caller = |key: &ApiKey| {
                    settings.headers.tell(Caller::new(shared.clone(), proof(key), key.claims.clone()))
                };
                Means::ApiKeys(ApiKeys::new(name, keys, caller, meters))
            }
            By::Certificate(rules) => {
                Means::Certificates(Box::new(Certificates::new(name, rules.clone(), meters)))
            }
        };
        Arc::new(Self { name: shared, settings, means })
    }

    /// Begins to fetch what it needs, in the background, on the present tokio runtime; ends with the provider.
    pub fn start(&self) {
        if let Means::Jwt(jwt) = &self.means {
            jwt.start();
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it vouches.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn roles_claim(&self) -> &str {
        &self.settings.roles_claim
    }

    /// Adds the kind of credentials that it knows.
    pub(super) fn add_to(&self, kinds: &mut Kinds) {
        match &self.means {
            Means::Jwt(_) => kinds.tokens = true,
            Means::ApiKeys(keys) if kinds.key_fields.contains(keys.field()) => {}
            Means::ApiKeys(keys) => kinds.key_fields.push(keys.field().clone()),
            Means::Certificates(_) => kinds.certificates = true,
        }
    }

    /// Whose credential it is, where nothing has to be verified for it.
    pub(super) fn recall(&self, credential: &Credential<'_>) -> Option<Arc<Caller>> {
        match (&self.means, credential) {
            (Means::Jwt(jwt), Credential::Token(token)) => jwt.recall(token),
            (Means::ApiKeys(keys), Credential::ApiKey(name, key)) if *name == keys.field() => {
                keys.find(key, SystemTime::now()).ok()
            }
            (Means::Certificates(certificates), Credential::Certificate(certificate)) => {
                certificates.find(certificate, |claims| self.caller(Proof::Certificate, claims))
            }
            _ => None,
        }
    }

    /// Counts a caller who was recalled.
    pub(super) fn count_recalled(&self) {
        match &self.means {
            Means::Jwt(jwt) => jwt.count_recalled(),
            Means::ApiKeys(keys) => keys.count(),
            Means::Certificates(certificates) => certificates.count(true),
        }
    }

    /// Whose credential it is; nothing if it is of a kind that others know.
    pub(super) async fn identify(&self, credential: &Credential<'_>) -> Option<Result<Arc<Caller>, Why>> {
        match (&self.means, credential) {
            (Means::Jwt(jwt), Credential::Token(token)) => {
                Some(jwt.identify(token, |claims| self.caller(Proof::Token, claims)).await)
            }
            (Means::ApiKeys(keys), Credential::ApiKey(name, key)) if *name == keys.field() => {
                Some(keys.identify(key).map_err(Why::Flawed))
            }
            (Means::Certificates(certificates), Credential::Certificate(_)) => {
                let caller = self.recall(credential);
                certificates.count(caller.is_some());
                Some(caller.ok_or(Why::Caller))
            }
            _ => None,
        }
    }

    fn caller(&self, proof: Proof, claims: Claims) -> Caller {
        self.settings.headers.tell(Caller::new(self.name.clone(), proof, claims))
    }
}

impl Headers {
    /// The caller, with the fields by which the upstream is told of it.
    fn tell(&self, caller: Caller) -> Caller {
        let fields = self.of(&caller);
        caller.told_by(fields)
    }

    /// The fields of a caller. What no field may have is left out, and so is what it does not claim.
    fn of(&self, caller: &Caller) -> Vec<(HeaderName, HeaderValue)> {
        let field = |(name, claim): &(HeaderName, String)| Some((name.clone(), value(caller, claim)?));
        self.0.iter().filter_map(field).collect()
    }
}

/// A claim as a field has it; a list of words with commas between them.
fn value(caller: &Caller, claim: &str) -> Option<HeaderValue> {
    let text = match caller.value(claim)? {
        Value::Array(entries) => {
            let words: Option<Vec<&str>> = entries.iter().map(Value::as_str).collect();
            // With a comma within a word, one could pass for two.
            words.filter(|words| !words.iter().any(|word| word.contains(',')))?.join(",")
        }
        _ => caller.claim(claim)?.into_owned(),
    };
    HeaderValue::from_bytes(text.as_bytes()).ok().filter(|_| text.trim() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_fields_where_they_can() {
        let claims = serde_json::json!({
            "sub": "Zoë", "level": 7, "groups": ["ops", "dev"], "odd": ["a,b"], "line": "a\r\nb", "blank": " a", "o": {},
        });
        let Value::Object(claims) = claims else { unreachable!("it is a table") };
        let caller = Caller::new("idp".into(), Proof::Token, claims);
        let field = |claim: &str| value(&caller, claim).map(|value| value.as_bytes().to_vec());
        assert_eq!(field("sub").as_deref(), Some("Zoë".as_bytes()));
        assert_eq!(field("level").as_deref(), Some(b"7".as_slice()));
        assert_eq!(field("groups").as_deref(), Some(b"ops,dev".as_slice()));
        for none in ["odd", "line", "blank", "o", "absent"] {
            assert_eq!(field(none), None, "{none}");
        }
    }
}
