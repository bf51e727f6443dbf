//! Every "no" to a caller, and the challenge that goes with it (RFC 6750 §3).

use http::HeaderValue;

use super::credential::Kinds;

/// Why a caller may not come in, and what its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub why: Why,
    /// `WWW-Authenticate`, where another credential would help.
    pub challenge: Option<HeaderValue>,
}

/// Why a caller may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not said who it is.
    Missing,
    /// It has shown no certificate, which is the only way to say so.
    NoCertificate,
    /// It has said so more than once.
    Ambiguous,
    /// Its credential is not good.
    Flawed(Flaw),
    /// It is known, and its credential is not for this.
    Scope,
    /// It is known, and this is for others.
    Caller,
    /// Whether its credential is good cannot be told now.
    Unavailable,
}

/// What is wrong with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is longer than any that is looked at.
    TooLong,
    /// It has not the form of a token.
    Form,
    /// It asks for an extension that is not understood (RFC 7515 §4.1.11).
    Critical,
    /// It is signed in a way that is not believed.
    Algorithm,
    /// It is a token for something else (`typ`).
    Kind,
    /// It is of another issuer.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// It is over.
    Expired,
    /// It is of the future.
    Early,
    /// What it says is not of the form that it must have.
    Claims,
    /// The issuer has no such key.
    Key,
    /// Its signature is not that of the issuer.
    Signature,
    /// It was taken back.
    Revoked,
    /// Its issuer says that it is not good, and no more.
    Inactive,
    /// It is no API key that is known.
    UnknownKey,
    /// It is an API key whose time is over.
    ExpiredKey,
}

impl Flaw {
    /// In one word, for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Form => "form",
            Self::Critical => "critical",
            Self::Algorithm => "algorithm",
            Self::Kind => "kind",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Claims => "claims",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Revoked => "revoked",
            Self::Inactive => "inactive",
            Self::UnknownKey => "unknown",
            Self::ExpiredKey => "expired_key",
        }
    }

    /// In words that may be shown to anybody: without quotes, as they stand in some.
    pub fn words(self) -> &'static str {
        match self {
            Self::TooLong => "the token is too long",
            Self::Form => "the token is malformed",
            Self::Critical => "the token needs an extension that is not understood",
            Self::Algorithm => "the token is signed in a way that is not accepted",
            Self::Kind => "the token is of another kind",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token is for somebody else",
            Self::Expired => "the token has expired",
            Self::Early => "the token is not valid yet",
            Self::Claims => "a claim of the token is missing or malformed",
            Self::Key => "the issuer has no such key",
            Self::Signature => "the signature of the token is wrong",
            Self::Revoked => "the token was revoked",
            Self::Inactive => "the token is not active",
            Self::UnknownKey => "the API key is not known",
            Self::ExpiredKey => "the API key has expired",
        }
    }
}

impl Why {
    /// What happened this time, in words that may be shown to anybody.
    pub fn words(self) -> &'static str {
        match self {
            Self::Missing => "say who you are",
            Self::NoCertificate => "say who you are, with a certificate",
            Self::Ambiguous => "say it once: there are several credentials",
            Self::Flawed(flaw) => flaw.words(),
            Self::Scope => "this needs a scope that is missing",
            Self::Caller => "this is for other callers",
            Self::Unavailable => "tokens cannot be verified now",
        }
    }

    /// The error code of RFC 6750 §3.1, where it is a token's. None for who has not tried.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Missing
            | Self::NoCertificate
            | Self::Unavailable
            | Self::Flawed(Flaw::UnknownKey | Flaw::ExpiredKey) => None,
            Self::Ambiguous => Some("invalid_request"),
            Self::Flawed(_) => Some("invalid_token"),
            Self::Scope | Self::Caller => Some("insufficient_scope"),
        }
    }
}

/// What a route wants callers to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kinds: Kinds,
    /// The scopes, with blanks between them.
    pub(super) scopes: String,
}

impl Wanted {
    /// The "no", with challenges for all that would do instead.
    pub(super) fn denied(&self, why: Why) -> Denied {
        let token = self.kinds.tokens.then(|| self.bearer(why));
        let keys = self.kinds.key_fields.iter().map(|name| format!("ApiKey header=\"{name}\""));
        let challenges: Vec<String> = token.into_iter().chain(keys).collect();
        let challenge = (!challenges.is_empty()).then(|| challenges.join(", "));
        Denied { why, challenge: challenge.and_then(|text| HeaderValue::from_str(&text).ok()) }
    }

    fn bearer(&self, why: Why) -> String {
        let error =
            why.error().map(|code| format!("error=\"{code}\", error_description=\"{}\"", why.words()));
        // Who is told that the token is bad needs another token, not another scope.
        let scope = matches!(why, Why::Missing | Why::Scope) && !self.scopes.is_empty();
        let scope = scope.then(|| format!("scope=\"{}\"", self.scopes));
        let parameters: Vec<String> = error.into_iter().chain(scope).collect();
        format!("Bearer {}", parameters.join(", ")).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(kinds: Kinds, why: Why, scopes: &str) -> Option<String> {
        let challenge = Wanted { kinds, scopes: scopes.to_owned() }.denied(why).challenge?;
        Some(challenge.to_str().unwrap().to_owned())
    }

    #[test]
    fn challenges_are_those_of_rfc_6750() {
        let rows = [
            (Why::Missing, "", "Bearer"),
            (Why::Missing, "a b", r#"Bearer scope="a b""#),
            (
                Why::Flawed(Flaw::Expired),
                "a",
                r#"Bearer error="invalid_token", error_description="the token has expired""#,
            ),
            (
                Why::Scope,
                "a",
                r#"Bearer error="insufficient_scope", error_description="this needs a scope that is missing", scope="a""#,
            ),
        ];
        for (why, scopes, wanted) in rows {
            let kinds = Kinds { tokens: true, ..Kinds::default() };
            assert_eq!(challenge(kinds, why, scopes).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn all_that_would_do_is_named() {
        let key_fields = vec![http::HeaderName::from_static("x-api-key")];
        let keys = Kinds { key_fields, ..Kinds::default() };
        let both = Kinds { tokens: true, ..keys.clone() };
        let unknown = Why::Flawed(Flaw::UnknownKey);
        assert_eq!(challenge(keys, unknown, "a").as_deref(), Some(r#"ApiKey header="x-api-key""#));
        assert_eq!(
            challenge(both.clone(), unknown, "").as_deref(),
            Some(r#"Bearer, ApiKey header="x-api-key""#)
        );
        let told = r#"Bearer scope="a", ApiKey header="x-api-key""#;
        assert_eq!(challenge(both, Why::Missing, "a").as_deref(), Some(told));
        let certificates = Kinds { certificates: true, ..Kinds::default() };
        assert_eq!(challenge(certificates, Why::NoCertificate, ""), None);
    }
}
