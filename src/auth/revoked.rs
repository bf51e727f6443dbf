//! Tokens that are good in every way, and were taken back.

use std::collections::HashSet;

use super::{Caller, Flaw, TakenBack};

/// Tokens that were taken back, by their names (`jti`, RFC 7519 §4.1.7).
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    /// Those of a list.
    listed: Option<HashSet<Box<str>>>,
    /// Those of any node.
    anywhere: Option<TakenBack>,
}

/// Those of any node are the same for all plans of a process.
impl PartialEq for Revoked {
    fn eq(&self, other: &Self) -> bool {
        self.listed == other.listed && self.anywhere.is_some() == other.anywhere.is_some()
    }
}

impl Revoked {
    /// These. Tokens without a name are refused: nobody could take them back.
    pub fn these(names: impl IntoIterator<Item = Box<str>>) -> Self {
        Self { listed: Some(names.into_iter().collect()), anywhere: None }
    }

    /// These, and those of any node. Tokens without a name are refused.
    #[must_use]
    pub fn and_anywhere(self, anywhere: &TakenBack) -> Self {
        anywhere.want();
        Self { anywhere: Some(anywhere.clone()), ..self }
    }

    /// None ever is.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether the token of a caller still counts.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Flaw> {
        if self.listed.is_none() && self.anywhere.is_none() {
            return Ok(());
        }
        let Some(name) = caller.value("jti").and_then(serde_json::Value::as_str) else {
            return Err(Flaw::Claims);
        };
        let is_listed = self.listed.as_ref().is_some_and(|names| names.contains(name));
        let is_taken_back = || self.anywhere.as_ref().is_some_and(|names| names.has(caller.provider(), name));
        if is_listed || is_taken_back() { Err(Flaw::Revoked) } else { Ok(()) }
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
