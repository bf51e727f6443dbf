//! Every "no" to a caller, and the challenge that goes with it (RFC 6750 §3).

use http::HeaderValue;

/// Why a caller may not come in, and what its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub why: Why,
    /// `WWW-Authenticate`.
    pub challenge: HeaderValue,
}

/// Why a caller may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not said who it is.
    Missing,
    /// It has said so more than once.
    Ambiguous,
    /// Its credential is not good.
    Flawed(Flaw),
    /// It is known, and its token is not for this.
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
        }
    }
}

impl Why {
    /// What happened this time, in words that may be shown to anybody.
    pub fn words(self) -> &'static str {
        match self {
            Self::Missing => "say who you are, with a token",
            Self::Ambiguous => "say it once: there are several Authorization fields",
            Self::Flawed(flaw) => flaw.words(),
            Self::Scope => "the token is not for this: a scope is missing",
            Self::Caller => "this is for other callers",
            Self::Unavailable => "tokens cannot be verified now",
        }
    }

    /// The error code of RFC 6750 §3.1. None for who has not tried.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Missing | Self::Unavailable => None,
            Self::Ambiguous => Some("invalid_request"),
            Self::Flawed(_) => Some("invalid_token"),
            Self::Scope | Self::Caller => Some("insufficient_scope"),
        }
    }

    /// The "no", with a challenge that names the `scopes` of what was asked for.
    pub(super) fn denied(self, scopes: &str) -> Denied {
        let error =
            self.error().map(|code| format!("error=\"{code}\", error_description=\"{}\"", self.words()));
        // Who is told that the token is bad needs another token, not another scope.
        let scope = matches!(self, Self::Missing | Self::Scope) && !scopes.is_empty();
        let scope = scope.then(|| format!("scope=\"{scopes}\""));
        let parameters: Vec<String> = error.into_iter().chain(scope).collect();
        let challenge = format!("Bearer {}", parameters.join(", "));
        let challenge = HeaderValue::from_str(challenge.trim_end());
        Denied { why: self, challenge: challenge.unwrap_or(HeaderValue::from_static("Bearer")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                r#"Bearer error="insufficient_scope", error_description="the token is not for this: a scope is missing", scope="a""#,
            ),
        ];
        for (why, scopes, challenge) in rows {
            assert_eq!(why.denied(scopes).challenge, challenge);
        }
    }
}
