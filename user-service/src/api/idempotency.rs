//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): asking twice creates once.
//!
//! The store keeps what a key created, in the transaction that creates it, for 24 hours. Only successes are
//! kept: a refusal changed nothing, so the same request may be tried again under the same key.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::failure::Failure;
use crate::store::CreationKey;

/// The request field.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Tells that the answer is that of an earlier request with the same key.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The key of a request, if it has one.
pub struct RequestKey(pub Option<CreationKey>);

impl<S: Sync> FromRequestParts<S> for RequestKey {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let mut lines = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(Self(None)),
            (Some(line), None) => parse(line).map(|key| Self(Some(key))).ok_or(Failure::Key),
            (Some(_), Some(_)) => Err(Failure::Key),
        }
    }
}

/// Reads a structured-field string (RFC 9651 §3.3.3) as the draft has it, or the bare text that many clients send.
fn parse(line: &HeaderValue) -> Option<CreationKey> {
    let text = line.to_str().ok()?.trim();
    let Some(quoted) = text.strip_prefix('"') else { return CreationKey::parse(text) };
    let escaped = quoted.strip_suffix('"')?;
    let mut key = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        key.push(match c {
            '\\' => chars.next().filter(|c| matches!(c, '"' | '\\'))?,
            '"' => return None,
            c => c,
        });
    }
    CreationKey::parse(&key)
}

/// The keys of requests that this process is answering now.
///
/// Another process that gets the same key at the same time is held by the store's write lock instead, and then
/// answers as a repetition.
#[derive(Clone, Default)]
pub struct KeysInUse(Arc<Mutex<HashSet<CreationKey>>>);

impl KeysInUse {
    /// Takes a key for as long as the guard lives, unless another request has it.
    pub fn take(&self, key: &CreationKey) -> Result<KeyGuard, Failure> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.insert(key.clone()) {
            Ok(KeyGuard { keys: self.clone(), key: key.clone() })
        } else {
            Err(Failure::KeyInUse)
        }
    }
}

/// A key in use; dropping it sets the key free.
pub struct KeyGuard {
    keys: KeysInUse,
    key: CreationKey,
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_bare_keys_are_the_same_key() {
        let key = |text| parse(&HeaderValue::from_static(text)).map(|key| key.as_str().to_owned());
        assert_eq!(key("\"8e03978e\"").as_deref(), Some("8e03978e"));
        assert_eq!(key("8e03978e").as_deref(), Some("8e03978e"));
        assert_eq!(key(r#""a\"b\\c""#).as_deref(), Some(r#"a"b\c"#));
        for bad in ["", "\"\"", "\"", "\"a", "\"a\"b\"", r#""a\b""#, "\"  \""] {
            assert_eq!(key(bad), None, "{bad}");
        }
        assert!(parse(&HeaderValue::from_str(&"k".repeat(255)).unwrap()).is_some());
        assert!(parse(&HeaderValue::from_str(&"k".repeat(256)).unwrap()).is_none());
    }

    #[test]
    fn a_key_is_free_again_once_its_request_has_ended() {
        let keys = KeysInUse::default();
        let key = CreationKey::parse("k").unwrap();
        let guard = keys.take(&key).unwrap();
        assert!(matches!(keys.take(&key), Err(Failure::KeyInUse)));
        drop(guard);
        assert!(keys.take(&key).is_ok());
    }
}
