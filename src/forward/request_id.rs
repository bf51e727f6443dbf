//! The name of one request in all logs on its way: `X-Request-Id`.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{Builder, Uuid};

/// The field.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest name that is kept, in bytes.
const LONGEST: usize = 128;

/// The name a trusted peer gave the request, or a new one.
///
/// A given name is kept when it stands there once, of 1 to 128 visible ASCII characters: it ends up in logs. A new one
/// is a UUID of version 7 (RFC 9562 §5.7), which sorts by time. It is unique, not secret.
pub fn of(fields: &HeaderMap, trusted: bool) -> String {
    let given = if trusted { given(fields) } else { None };
    given.map_or_else(new, str::to_owned)
}

fn given(fields: &HeaderMap) -> Option<&str> {
    let mut values = fields.get_all(X_REQUEST_ID).into_iter();
    let only = values.next().filter(|_| values.next().is_none())?;
    is_sane(only).then(|| only.to_str().ok()).flatten()
}

fn is_sane(value: &HeaderValue) -> bool {
    (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn new() -> String {
    // Not `Uuid::now_v7`, whose counter all threads share behind a lock.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let id = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(ids: &[&[u8]]) -> HeaderMap {
        ids.iter().map(|id| (X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap())).collect()
    }

    #[test]
    fn a_trusted_name_is_kept_when_it_is_sane() {
        assert_eq!(of(&fields(&[b"edge-1/42"]), true), "edge-1/42");
        let long = [b'a'; LONGEST + 1];
        assert_eq!(of(&fields(&[&long[1..]]), true).len(), LONGEST);
        let insane: [&[&[u8]]; 6] = [&[], &[b""], &[b"a b"], &[b"caf\xc3\xa9"], &[&long], &[b"a", b"b"]];
        for ids in insane {
            assert!(Uuid::parse_str(&of(&fields(ids), true)).is_ok(), "{ids:?}");
        }
    }

    #[test]
    fn an_untrusted_name_is_replaced() {
        assert_ne!(of(&fields(&[b"mine"]), false), "mine");
    }

    #[test]
    fn new_names_are_unique_uuids_of_version_7_in_order_of_time() {
        let ids: Vec<Uuid> = (0..1000).map(|_| Uuid::parse_str(&new()).unwrap()).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        let times: Vec<_> = ids.iter().map(|id| id.get_timestamp().unwrap().to_unix()).collect();
        assert!(times.is_sorted());
        assert_eq!(ids.into_iter().collect::<std::collections::HashSet<_>>().len(), 1000);
    }
}
