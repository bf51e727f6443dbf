//! Who vouches for callers.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::denied::Why;
use super::jwt::{Jwt, JwtSettings};
use super::remembered::Shown;
use super::{Caller, Claims, Proof};
use crate::telemetry::Meters;

/// A provider of identity: `[auth.NAME]`.
#[derive(Debug)]
pub struct Provider {
    name: Arc<str>,
    settings: Settings,
    jwt: Jwt,
}

/// How a provider vouches for callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which claims go upstream.
    pub headers: Headers,
    /// The claim with a caller's roles.
    pub roles_claim: String,
    /// By tokens of an issuer.
    pub jwt: JwtSettings,
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
        let jwt = Jwt::new(name, settings.jwt.clone(), meters);
        Arc::new(Self { name: name.into(), settings, jwt })
    }

    /// Begins to fetch what it needs, in the background, on the present tokio runtime; ends with the provider.
    pub fn start(&self) {
        self.jwt.start();
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

    pub(super) fn recall(&self, token: &Shown<'_>) -> Option<Arc<Caller>> {
        self.jwt.recall(token)
    }

    pub(super) fn count_recalled(&self) {
        self.jwt.count_recalled();
    }

    pub(super) async fn identify(&self, token: &Shown<'_>) -> Result<Arc<Caller>, Why> {
        self.jwt.identify(token, |claims| self.caller(claims)).await
    }

    fn caller(&self, claims: Claims) -> Caller {
        let caller = Caller::new(self.name.clone(), Proof::Token, claims);
        let fields = self.settings.headers.of(&caller);
        caller.told_by(fields)
    }
}

impl Headers {
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
