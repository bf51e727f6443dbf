//! What is said of a caller for whom no issuer speaks: the claims that a token would have.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::auth::Claims;
use crate::config::route::OneOrMany;

/// What a caller is given.
#[derive(Clone, Copy)]
pub(super) struct Grant<'a> {
    pub(super) tenant: Option<&'a str>,
    pub(super) plan: Option<&'a str>,
    pub(super) scopes: &'a [String],
    pub(super) roles: &'a [String],
    /// They have the last word.
    pub(super) claims: &'a BTreeMap<String, OneOrMany<String>>,
}

/// The claim with the roles of such callers.
pub(super) const ROLES: &str = "roles";

impl Grant<'_> {
    /// The same as claims.
    pub(super) fn claims(&self) -> Claims {
        let mut claims = Claims::new();
        let words = [("tenant", self.tenant), ("plan", self.plan)];
        let words = words.into_iter().filter_map(|(name, word)| Some((name, word?.to_owned())));
        let scopes = (!self.scopes.is_empty()).then(|| ("scope", self.scopes.join(" ")));
        for (name, word) in words.chain(scopes) {
            claims.insert(name.to_owned(), word.into());
        }
        if !self.roles.is_empty() {
            claims.insert(ROLES.to_owned(), self.roles.to_vec().into());
        }
        for (name, values) in self.claims {
            let value = match values {
                OneOrMany::One(value) => Value::from(value.clone()),
                OneOrMany::Many(values) => values.clone().into(),
            };
            claims.insert(name.clone(), value);
        }
        claims
    }
}
