//! Who vouches for callers.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::api_key::{ApiKey, ApiKeySettings, ApiKeys};
use super::certificate::{CertificateRule, Certificates};
use super::credential::{Credential, Kinds};
use super::denied::Why;
use super::introspect::{Introspection, IntrospectionSettings};
use super::jwt::{Jwt, JwtSettings};
use super::revoked::Revoked;
use super::{Caller, Claims, Proof};
use crate::telemetry::Meters;

/// A provider of identity: `[auth.NAME]`.
#[derive(Debug)]
pub struct Provider {
    name: Arc<str>,
    settings: Settings,
    revoked: Revoked,
    means: Arc<Means>,
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
    /// By what an issuer says of tokens.
    Introspection(Box<IntrospectionSettings>),
    /// By API keys.
    ApiKey(ApiKeySettings),
    /// By the certificates of their connections; the first rule that fits.
    Certificate(Vec<CertificateRule>),
}

/// The same, with what it takes.
#[derive(Debug)]
enum Means {
    Jwt(Box<Jwt>),
    Introspection(Arc<Introspection>),
    ApiKeys(ApiKeys),
    Certificates(Box<Certificates>),
}

/// Fields by which the upstream is told of callers, each with the claim that it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(HeaderName, String)>);

/// In whose name a caller is vouched for, and what the upstream is told of it.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    provider: Arc<str>,
    headers: Headers,
}

impl Provider {
    /// The provider of this name. One that is `running` with the same settings is taken over, with its keys and all
    /// that it remembers; `revoked` may be others.
    pub fn follow(
        name: &str,
        settings: Settings,
        revoked: Revoked,
        running: Option<&Arc<Self>>,
        meters: &Meters,
    ) -> Arc<Self> {
        let running = running.filter(|running| running.settings == settings);
        match running {
            Some(running) if running.revoked == revoked => running.clone(),
            Some(running) => {
                let (name, means) = (running.name.clone(), running.means.clone());
                Arc::new(Self { name, settings, revoked, means })
            }
            None => {
                let name: Arc<str> = name.into();
                let means = Arc::new(Means::new(&name, &settings, meters));
                Arc::new(Self { name, settings, revoked, means })
            }
        }
    }

    /// Begins to fetch what it needs, in the background, on the present tokio runtime; ends with the provider.
    pub fn start(&self) {
        if let Means::Jwt(jwt) = &*self.means {
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
        match &*self.means {
            Means::Jwt(_) | Means::Introspection(_) => kinds.tokens = true,
            Means::ApiKeys(keys) if kinds.key_fields.contains(keys.field()) => {}
            Means::ApiKeys(keys) => kinds.key_fields.push(keys.field().clone()),
            Means::Certificates(_) => kinds.certificates = true,
        }
    }

    /// Whose credential it is, where nothing has to be verified for it.
    pub(super) fn recall(&self, credential: &Credential<'_>) -> Option<Arc<Caller>> {
        match (&*self.means, credential) {
            (Means::Jwt(jwt), Credential::Token(token)) => jwt.recall(token, &self.revoked),
            (Means::Introspection(introspection), Credential::Token(token)) => introspection.recall(token),
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
        match &*self.means {
            Means::Jwt(jwt) => jwt.count_recalled(),
            Means::Introspection(introspection) => introspection.count_recalled(),
            Means::ApiKeys(keys) => keys.count(),
            Means::Certificates(certificates) => certificates.count(true),
        }
    }

    /// Whose credential it is; nothing if it is of a kind that others know.
    pub(super) async fn identify(&self, credential: &Credential<'_>) -> Option<Result<Arc<Caller>, Why>> {
        match (&*self.means, credential) {
            (Means::Jwt(jwt), Credential::Token(token)) => {
                Some(jwt.identify(token, &self.revoked, |claims| self.caller(Proof::Token, claims)).await)
            }
            (Means::Introspection(introspection), Credential::Token(token)) => {
                Some(introspection.identify(token).await)
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

impl Means {
    fn new(name: &Arc<str>, settings: &Settings, meters: &Meters) -> Self {
        let voice = Voice { provider: name.clone(), headers: settings.headers.clone() };
        match &settings.by {
            By::Jwt(jwt) => Self::Jwt(Box::new(Jwt::new(name, (**jwt).clone(), meters))),
            By::Introspection(settings) => {
                Self::Introspection(Introspection::new(name, settings, voice, meters))
            }
            By::ApiKey(keys) => {
                let caller =
                    |key: &ApiKey| voice.caller(Proof::ApiKey((&*key.id).into()), key.claims.clone());
                Self::ApiKeys(ApiKeys::new(name, keys, caller, meters))
            }
            By::Certificate(rules) => {
                Self::Certificates(Box::new(Certificates::new(name, rules.clone(), meters)))
            }
        }
    }
}

impl Voice {
    /// A caller with these claims.
    pub(super) fn caller(&self, proof: Proof, claims: Claims) -> Caller {
        self.headers.tell(Caller::new(self.provider.clone(), proof, claims))
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
