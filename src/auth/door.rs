//! What a route asks of its callers.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::credential::{Credential, Credentials, Kinds};
use super::denied::{Denied, Wanted, Why};
use super::provider::Provider;
use super::{Caller, Flaw, Proof};

/// Who may come in at a route.
#[derive(Debug)]
pub struct Door {
    providers: Vec<Arc<Provider>>,
    needed: Needed,
    requirements: Requirements,
    wanted: Wanted,
}

/// For which methods a caller has to say who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed {
    /// For all.
    Always,
    /// For all that may change something (RFC 9110 §9.2.1).
    Unsafe,
    /// For these.
    Methods(Vec<Method>),
}

/// What a caller must be allowed to do, or be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// Scopes that its token must have, all of them.
    pub scopes: Vec<String>,
    /// Roles of which it must have one; none: it needs no role.
    pub roles: Vec<String>,
    /// Claims, each with the values of which it must have one.
    pub claims: Vec<(String, Vec<String>)>,
}

/// Who asks; nobody, if the request does not say. Or why that cannot be told.
pub type Identified = Result<Option<Arc<Caller>>, Why>;

impl Door {
    /// For callers that one of these providers vouches for.
    pub fn new(providers: Vec<Arc<Provider>>, needed: Needed, requirements: Requirements) -> Self {
        let mut kinds = Kinds::default();
        for provider in &providers {
            provider.add_to(&mut kinds);
        }
        let wanted = Wanted { kinds, scopes: requirements.scopes.join(" ") };
        Self { providers, needed, requirements, wanted }
    }

    /// Who asks, where nothing has to be verified for it: nobody says so, or it was verified before.
    pub fn recall(&self, shown: &Credentials<'_>) -> Option<Identified> {
        let Some(credential) = self.wanted.kinds.find(shown).ok()? else { return Some(Ok(None)) };
        let (_, caller) = self.known(&credential)?;
        Some(Ok(Some(caller)))
    }

    fn known(&self, credential: &Credential<'_>) -> Option<(&Provider, Arc<Caller>)> {
        self.providers.iter().find_map(|provider| Some((&**provider, provider.recall(credential)?)))
    }

    /// Counts a caller who was recalled.
    pub fn count(&self, recalled: &Caller) {
        if let Some(provider) = self.provider_of(recalled) {
            provider.count_recalled();
        }
    }

    /// Who asks. Waits for providers that must ask somebody, each for a bounded time.
    pub async fn identify(&self, shown: &Credentials<'_>) -> Identified {
        let Some(credential) = self.wanted.kinds.find(shown)? else { return Ok(None) };
        // What one knows already, no other need be asked about.
        if let Some((provider, caller)) = self.known(&credential) {
            provider.count_recalled();
            return Ok(Some(caller));
        }
        let mut worst = None;
        for provider in &self.providers {
            match provider.identify(&credential).await {
                Some(Ok(caller)) => return Ok(Some(caller)),
                Some(Err(why)) => worst = Some(more_telling(worst, why)),
                None => {}
            }
        }
        // A connection's certificate may be for something else, where requests can say who asks.
        if matches!(credential, Credential::Certificate(_)) && !self.wanted.kinds.certificates_alone() {
            return Ok(None);
        }
        worst.map_or(Ok(None), Err)
    }

    /// Whether the request carries anything that could say who asks, good or bad.
    pub fn is_shown(&self, shown: &Credentials<'_>) -> bool {
        self.wanted.kinds.are_shown(shown)
    }

    /// Fields in which API keys are sent: they are for the gateway, and not for those behind it.
    pub fn key_fields(&self) -> &[HeaderName] {
        &self.wanted.kinds.key_fields
    }

    /// Whether whoever was found to ask may come in with this method.
    ///
    /// # Errors
    /// Why not. Where nobody has to say who it is, nobody is turned away.
    pub fn admit(&self, method: &Method, identified: &Identified) -> Result<(), Denied> {
        if !self.needed.includes(method) {
            return Ok(());
        }
        match identified {
            Ok(Some(caller)) => self.meets(caller).map_err(|why| match caller.proof() {
                Proof::Token => self.wanted.denied(why),
                // There is no way to say what is missing.
                Proof::ApiKey(_) | Proof::Certificate => Denied { why, challenge: None },
            }),
            Ok(None) if self.wanted.kinds.certificates_alone() => Err(self.wanted.denied(Why::NoCertificate)),
            Ok(None) => Err(self.wanted.denied(Why::Missing)),
            Err(why) => Err(self.wanted.denied(*why)),
        }
    }

    fn meets(&self, caller: &Caller) -> Result<(), Why> {
        let Requirements { scopes, roles, claims } = &self.requirements;
        if !scopes.iter().all(|scope| caller.has_scope(scope)) {
            return Err(Why::Scope);
        }
        let provider = self.provider_of(caller);
        let role = |role: &String| provider.is_some_and(|it| caller.has(it.roles_claim(), role));
        let claim =
            |(name, values): &(String, Vec<String>)| values.iter().any(|value| caller.has(name, value));
        let fits = (roles.is_empty() || roles.iter().any(role)) && claims.iter().all(claim);
        if fits { Ok(()) } else { Err(Why::Caller) }
    }

    fn provider_of(&self, caller: &Caller) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| provider.name() == caller.provider())
    }
}

impl Needed {
    fn includes(&self, method: &Method) -> bool {
        match self {
            Self::Always => true,
            Self::Unsafe => !method.is_safe(),
            Self::Methods(methods) => methods.contains(method),
        }
    }
}

/// Of two, the one that helps the caller more: that another provider knows neither the issuer nor the form is no news.
fn more_telling(one: Option<Why>, other: Why) -> Why {
    match one {
        Some(why) if !matches!(why, Why::Flawed(Flaw::Issuer | Flaw::Form)) && other != Why::Unavailable => {
            why
        }
        _ => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_needed_for_the_methods_that_say_so() {
        let rows = [
            (Needed::Always, [true, true, true]),
            (Needed::Unsafe, [false, false, true]),
            (Needed::Methods(vec![Method::GET]), [true, false, false]),
        ];
        for (needed, expected) in rows {
            let found = [Method::GET, Method::OPTIONS, Method::POST].map(|method| needed.includes(&method));
            assert_eq!(found, expected, "{needed:?}");
        }
    }

    #[test]
    fn the_more_telling_no_is_told() {
        use super::super::Flaw::{Expired, Form, Inactive, Issuer, Key};
        let rows = [
            ([Issuer, Expired], Expired),
            ([Expired, Issuer], Expired),
            ([Issuer, Issuer], Issuer),
            ([Form, Inactive], Inactive),
            ([Key, Expired], Key),
        ];
        for ([one, other], told) in rows {
            assert_eq!(more_telling(Some(Why::Flawed(one)), Why::Flawed(other)), Why::Flawed(told));
        }
        assert_eq!(more_telling(Some(Why::Flawed(Expired)), Why::Unavailable), Why::Unavailable);
    }
}
