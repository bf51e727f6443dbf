//! What a token must say: who has issued it, for whom, and when (RFC 7519 §4.1, RFC 9068 §4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Claims, Flaw};

/// What is expected of the tokens of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name (`iss`), letter for letter.
    pub issuer: String,
    /// Names of ours, one of which must be in `aud`.
    pub audiences: Vec<String>,
    /// What the token must call itself (`typ`). `None`: `JWT`, `at+jwt` or nothing at all, as tokens of other kinds may have
    /// the same signer (RFC 8725 §3.11).
    pub kind: Option<String>,
    /// By how much the issuer's clock may differ from ours.
    pub leeway: Duration,
}

/// What tokens for access call themselves, where they say so.
const ACCESS: &[&str] = &["jwt", "at+jwt"];

impl Expected {
    /// Checks what a token says at this time; until when it holds.
    ///
    /// # Errors
    /// It was issued by somebody else, for somebody else, or for another time; or it does not say.
    pub fn check(&self, kind: Option<&str>, claims: &Claims, now: SystemTime) -> Result<SystemTime, Flaw> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Flaw::Issuer);
        }
        self.check_kind(kind)?;
        is_for(&self.audiences, claims)?;
        let end = time(claims, "exp")?.ok_or(Flaw::Claims)? + self.leeway;
        if now >= end {
            return Err(Flaw::Expired);
        }
        for begin in ["nbf", "iat"] {
            if time(claims, begin)?.is_some_and(|begin| begin > now + self.leeway) {
                return Err(Flaw::Early);
            }
        }
        if claims.get("sub").is_some_and(|subject| !subject.is_string()) {
            return Err(Flaw::Claims);
        }
        Ok(end)
    }

    fn check_kind(&self, kind: Option<&str>) -> Result<(), Flaw> {
        // A media type, whose `application/` may be left out (RFC 7515 §4.1.9).
        let plain = kind.map(|kind| {
            let kind = kind.to_ascii_lowercase();
            kind.strip_prefix("application/").map_or(kind.clone(), str::to_owned)
        });
        let fine = match (&self.kind, &plain) {
            (Some(wanted), Some(kind)) => wanted.eq_ignore_ascii_case(kind),
            (Some(_), None) => false,
            (None, Some(kind)) => ACCESS.contains(&&**kind),
            (None, None) => true,
        };
        if fine { Ok(()) } else { Err(Flaw::Kind) }
    }
}

/// Whether `aud` is or has one of these.
pub(super) fn is_for(audiences: &[String], claims: &Claims) -> Result<(), Flaw> {
    let ours = |name: &Value| name.as_str().is_some_and(|name| audiences.iter().any(|our| our == name));
    let fine = match claims.get("aud") {
        Some(Value::Array(names)) => names.iter().any(ours),
        Some(name) => ours(name),
        None => false,
    };
    if fine { Ok(()) } else { Err(Flaw::Audience) }
}

/// A time in seconds since 1970, fractions allowed (RFC 7519 §2), if it is there.
pub(super) fn time(claims: &Claims, name: &str) -> Result<Option<SystemTime>, Flaw> {
    let Some(written) = claims.get(name) else { return Ok(None) };
    let seconds = written.as_f64().filter(|seconds| (0.0..LATEST).contains(seconds)).ok_or(Flaw::Claims)?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

/// The year 9999, in seconds since 1970: later ones are mistakes, most often milliseconds.
const LATEST: f64 = 253_402_300_800.0;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn expected() -> Expected {
        Expected {
            issuer: "https://id.example.com/".into(),
            audiences: vec!["users-api".into(), "orders-api".into()],
            kind: None,
            leeway: Duration::from_secs(30),
        }
    }

    /// Claims that are fine, but for these.
    fn claims(changes: serde_json::Value) -> Claims {
        let fine =
            serde_json::json!({ "iss": "https://id.example.com/", "aud": "users-api", "exp": NOW + 60 });
        let (Value::Object(mut fine), Value::Object(changes)) = (fine, changes) else {
            unreachable!("tables")
        };
        for (name, value) in changes {
            if value.is_null() {
                fine.shift_remove(&name)
            } else {
                fine.insert(name, value)
            };
        }
        fine
    }

    fn check(changes: serde_json::Value) -> Result<SystemTime, Flaw> {
        expected().check(None, &claims(changes), UNIX_EPOCH + Duration::from_secs(NOW))
    }

    #[test]
    fn a_token_holds_until_its_end_and_some_more() {
        assert_eq!(check(serde_json::json!({})), Ok(UNIX_EPOCH + Duration::from_secs(NOW + 90)));
        for fine in [
            serde_json::json!({ "exp": NOW - 29 }),
            serde_json::json!({ "nbf": NOW + 30, "iat": NOW + 30 }),
            serde_json::json!({ "exp": 1.9e9, "iat": 0 }),
            serde_json::json!({ "aud": ["x", "orders-api"] }),
            serde_json::json!({ "sub": "ada" }),
        ] {
            assert!(check(fine.clone()).is_ok(), "{fine}");
        }
    }

    #[test]
    fn what_is_for_others_or_another_time_is_refused() {
        let rows = [
            (serde_json::json!({ "iss": null }), Flaw::Issuer),
            (serde_json::json!({ "iss": "https://id.example.com" }), Flaw::Issuer),
            (serde_json::json!({ "iss": ["https://id.example.com/"] }), Flaw::Issuer),
            (serde_json::json!({ "aud": null }), Flaw::Audience),
            (serde_json::json!({ "aud": [] }), Flaw::Audience),
            (serde_json::json!({ "aud": "users" }), Flaw::Audience),
            (serde_json::json!({ "aud": ["users", ["users-api"]] }), Flaw::Audience),
            (serde_json::json!({ "aud": { "users-api": "users-api" } }), Flaw::Audience),
            (serde_json::json!({ "exp": NOW - 30 }), Flaw::Expired),
            (serde_json::json!({ "exp": 0 }), Flaw::Expired),
            (serde_json::json!({ "exp": null }), Flaw::Claims),
            (serde_json::json!({ "exp": (NOW + 60).to_string() }), Flaw::Claims),
            (serde_json::json!({ "exp": -1 }), Flaw::Claims),
            (serde_json::json!({ "exp": 1e300 }), Flaw::Claims),
            (serde_json::json!({ "nbf": NOW + 31 }), Flaw::Early),
            (serde_json::json!({ "iat": NOW + 31 }), Flaw::Early),
            (serde_json::json!({ "nbf": "soon" }), Flaw::Claims),
            (serde_json::json!({ "sub": 7 }), Flaw::Claims),
        ];
        for (changes, flaw) in rows {
            assert_eq!(check(changes.clone()), Err(flaw), "{changes}");
        }
    }

    #[test]
    fn tokens_of_other_kinds_are_refused() {
        let any = expected();
        let access = Expected { kind: Some("at+jwt".into()), ..expected() };
        let rows = [
            (None, true, false),
            (Some("JWT"), true, false),
            (Some("at+jwt"), true, true),
            (Some("AT+JWT"), true, true),
            (Some("application/at+jwt"), true, true),
            (Some("logout+jwt"), false, false),
            (Some("dpop+jwt"), false, false),
            (Some(""), false, false),
        ];
        for (kind, by_any, by_access) in rows {
            assert_eq!(
                (any.check_kind(kind).is_ok(), access.check_kind(kind).is_ok()),
                (by_any, by_access),
                "{kind:?}"
            );
        }
    }
}
