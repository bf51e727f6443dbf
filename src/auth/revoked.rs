//! Tokens that are good in every way, and were taken back.

use std::collections::HashSet;

use super::{Caller, Flaw};

/// Tokens that were taken back, by their names (`jti`, RFC 7519 §4.1.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(Option<HashSet<Box<str>>>);

impl Revoked {
    /// These. Tokens without a name are refused: nobody could take them back.
    pub fn these(names: impl IntoIterator<Item = Box<str>>) -> Self {
        Self(Some(names.into_iter().collect()))
    }

    /// None ever is.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether the token of a caller still counts.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Flaw> {
        let Some(names) = &self.0 else { return Ok(()) };
        match caller.value("jti").and_then(serde_json::Value::as_str) {
            None => Err(Flaw::Claims),
            Some(name) if names.contains(name) => Err(Flaw::Revoked),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Claims, Proof};

    #[test]
    fn a_token_counts_unless_its_name_is_listed() {
        let check = |revoked: &Revoked, name: serde_json::Value| {
            let mut claims = Claims::new();
            claims.insert("jti".into(), name);
            revoked.check(&Caller::new("idp".into(), Proof::Token, claims))
        };
        let some = Revoked::these(["a".into(), "7".into()]);
        assert_eq!(check(&some, "a".into()), Err(Flaw::Revoked));
        assert_eq!(check(&some, "A".into()), Ok(()));
        for nameless in [serde_json::Value::Null, 7.into(), serde_json::json!(["a"])] {
            assert_eq!(check(&some, nameless.clone()), Err(Flaw::Claims), "{nameless}");
            assert_eq!(check(&Revoked::none(), nameless), Ok(()));
        }
        assert_eq!(check(&Revoked::none(), "a".into()), Ok(()));
    }
}
