//! API keys: found by their SHA-256, as nothing else is known of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderName, HeaderValue};
use prometheus_client::metrics::counter::Counter;

use super::{Caller, Claims, Flaw};
use crate::telemetry::Meters;

/// The longest API key that is looked at, in bytes.
const API_KEY_MAX: usize = 1 << 10;

/// Which API keys are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeySettings {
    /// The field in which a key is sent.
    pub field: HeaderName,
    /// The keys.
    pub keys: Vec<ApiKey>,
}

/// An API key, as its file has it: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name.
    pub id: String,
    /// The SHA-256 of the key.
    pub sha256: [u8; 32],
    /// What is said of who shows it.
    pub claims: Claims,
    /// Until when it is good. `None`: for good.
    pub until: Option<SystemTime>,
}

/// Finds callers by their API keys.
#[derive(Debug)]
pub(super) struct ApiKeys {
    field: HeaderName,
    known: HashMap<[u8; 32], Known>,
    verified: Counter,
    unknown: Counter,
    expired: Counter,
}

#[derive(Debug)]
struct Known {
    caller: Arc<Caller>,
    until: Option<SystemTime>,
}

impl ApiKeys {
    pub(super) fn new(
        provider: &str,
        settings: &ApiKeySettings,
        caller: impl Fn(&ApiKey) -> Caller,
        meters: &Meters,
    ) -> Self {
        let known = |key: &ApiKey| (key.sha256, Known { caller: Arc::new(caller(key)), until: key.until });
        let of = |outcome| meters.auth_api_keys.with([provider, outcome]);
        Self {
            field: settings.field.clone(),
            known: settings.keys.iter().map(known).collect(),
            verified: of("verified"),
            unknown: of("unknown"),
            expired: of("expired"),
        }
    }

    /// The field in which keys are sent.
    pub(super) fn field(&self) -> &HeaderName {
        &self.field
    }

    /// Whose key it is.
    ///
    /// What is looked up is a hash of what was sent: how long that takes tells of the hash, and nobody can choose a key by
    /// the beginning of its hash.
    ///
    /// # Errors
    /// Nobody's, or it has expired.
    pub(super) fn find(&self, key: &HeaderValue, now: SystemTime) -> Result<Arc<Caller>, Flaw> {
        let key = key.as_bytes();
        if key.is_empty() || key.len() > API_KEY_MAX {
            return Err(Flaw::UnknownKey);
        }
        let known = self.known.get(digest(&SHA256, key).as_ref()).ok_or(Flaw::UnknownKey)?;
        match known.until {
            Some(until) if now >= until => Err(Flaw::ExpiredKey),
            _ => Ok(known.caller.clone()),
        }
    }

    /// The same, and it is counted.
    pub(super) fn identify(&self, key: &HeaderValue) -> Result<Arc<Caller>, Flaw> {
        let found = self.find(key, SystemTime::now());
        match &found {
            Ok(_) => self.count(),
            Err(Flaw::ExpiredKey) => drop(self.expired.inc()),
            Err(_) => drop(self.unknown.inc()),
        }
        found
    }

    /// Counts a caller that was found.
    pub(super) fn count(&self) {
        self.verified.inc();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::auth::Proof;

    #[test]
    fn a_key_is_found_by_its_hash_until_it_expires() {
        let key = |id: &str, text: &[u8], until: Option<u64>| ApiKey {
            id: id.to_owned(),
            sha256: digest(&SHA256, text).as_ref().try_into().unwrap(),
            claims: Claims::new(),
            until: until.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
        };
        let settings = ApiKeySettings {
            field: HeaderName::from_static("x-api-key"),
            keys: vec![key("one", b"abc", None), key("two", b"def", Some(10)), key("empty", b"", None)],
        };
        let caller =
            |key: &ApiKey| Caller::new("partners".into(), Proof::ApiKey((&*key.id).into()), Claims::new());
        let keys = ApiKeys::new("partners", &settings, caller, &Meters::new());
        let find = |text: &str, now: u64| {
            let found = keys.find(&text.parse().unwrap(), UNIX_EPOCH + Duration::from_secs(now));
            found.map(|caller| caller.api_key_id().unwrap_or_default().to_owned())
        };
        assert_eq!(find("abc", 99), Ok("one".to_owned()));
        assert_eq!(find("def", 9), Ok("two".to_owned()));
        assert_eq!(find("def", 10), Err(Flaw::ExpiredKey));
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for stranger in ["", "ab", "abc ", "ABC", hash, &"a".repeat(API_KEY_MAX + 1)] {
            assert_eq!(find(stranger, 0), Err(Flaw::UnknownKey), "{stranger:?}");
        }
    }
}
