//! What a route asks of its callers.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};

use super::denied::{Denied, Why};
use super::provider::Provider;
use super::remembered::Shown;
use super::{Caller, Flaw};

/// Who may come in at a route.
#[derive(Debug)]
pub struct Door {
    providers: Vec<Arc<Provider>>,
    needed: Needed,
    requirements: Requirements,
    /// The scopes, as challenges name them.
    scopes: String,
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
        let scopes = requirements.scopes.join(" ");
        Self { providers, needed, requirements, scopes }
    }

    /// Who asks, where nothing has to be verified for it: nobody says so, or it was verified before.
    pub fn recall(&self, fields: &HeaderMap) -> Option<Identified> {
        let Some(token) = bearer(fields).ok()? else { return Some(Ok(None)) };
        let caller = self.providers.iter().find_map(|provider| provider.recall(&token))?;
        Some(Ok(Some(caller)))
    }

    /// Counts a caller who was recalled.
    pub fn count(&self, recalled: &Caller) {
        if let Some(provider) = self.provider_of(recalled) {
            provider.count_recalled();
        }
    }

    /// Who asks. Waits for providers that must ask somebody, each for a bounded time.
    pub async fn identify(&self, fields: &HeaderMap) -> Identified {
        let Some(token) = bearer(fields)? else { return Ok(None) };
        let mut worst = None;
        for provider in &self.providers {
            match provider.identify(&token).await {
                Ok(caller) => return Ok(Some(caller)),
                Err(why) => worst = Some(more_telling(worst, why)),
            }
        }
        worst.map_or(Ok(None), Err)
    }

    /// Whether the request carries anything that could say who asks, good or bad.
    pub fn is_shown(&self, fields: &HeaderMap) -> bool {
        fields.contains_key(header::AUTHORIZATION)
    }

    /// Whether whoever was found to ask may come in with this method.
    ///
    /// # Errors
    /// Why not. Where nobody has to say who it is, nobody is turned away.
    pub fn admit(&self, method: &Method, identified: &Identified) -> Result<(), Denied> {
        if !self.needed.includes(method) {
            return Ok(());
        }
        let verdict = match identified {
            Ok(Some(caller)) => self.meets(caller),
            Ok(None) => Err(Why::Missing),
            Err(why) => Err(*why),
        };
        verdict.map_err(|why| why.denied(&self.scopes))
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

/// Of two, the one that helps the caller more: that another provider does not know the issuer is no news.
fn more_telling(one: Option<Why>, other: Why) -> Why {
    match one {
        Some(why) if why != Why::Flawed(Flaw::Issuer) && other != Why::Unavailable => why,
        _ => other,
    }
}

/// The token of a request (RFC 6750 §2.1). Elsewhere than in this field none is looked for: URLs are logged.
fn bearer(fields: &HeaderMap) -> Result<Option<Shown<'_>>, Why> {
    let mut credentials = fields.get_all(header::AUTHORIZATION).iter();
    let token = match (credentials.next(), credentials.next()) {
        (Some(one), None) => of_bearer(one),
        (None, _) => None,
        // Which of them is meant, others could read otherwise.
        (Some(_), Some(_)) => return Err(Why::Ambiguous),
    };
    Ok(token)
}

fn of_bearer(credential: &HeaderValue) -> Option<Shown<'_>> {
    let (scheme, token) = credential.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Shown::new(token.trim_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(credentials: &[&str]) -> HeaderMap {
        let line = |text: &&str| (header::AUTHORIZATION, text.parse().unwrap());
        credentials.iter().map(line).collect()
    }

    #[test]
    fn a_token_stands_in_one_field_alone() {
        let found =
            |lines: &[&str]| bearer(&fields(lines)).map(|shown| shown.map(|shown| shown.text.to_owned()));
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&["Bearer abc"]), Ok(Some("abc".to_owned())));
        assert_eq!(found(&["bEARER  abc "]), Ok(Some("abc".to_owned())));
        assert_eq!(found(&["Basic abc"]), Ok(None));
        assert_eq!(found(&["Bearer"]), Ok(None));
        let mut two = fields(&["Bearer abc"]);
        two.append(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert!(matches!(bearer(&two), Err(Why::Ambiguous)));
    }

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
        use super::super::Flaw::{Expired, Issuer, Key};
        let rows = [
            ([Issuer, Expired], Expired),
            ([Expired, Issuer], Expired),
            ([Issuer, Issuer], Issuer),
            ([Key, Expired], Key),
        ];
        for ([one, other], told) in rows {
            assert_eq!(more_telling(Some(Why::Flawed(one)), Why::Flawed(other)), Why::Flawed(told));
        }
        assert_eq!(more_telling(Some(Why::Flawed(Expired)), Why::Unavailable), Why::Unavailable);
    }
}
